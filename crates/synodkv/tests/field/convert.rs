//! Tests of `synodkv convert` under `kill -9` and losses of power: the data directory always has a
//! form that a server opens, with every write that was acknowledged.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kv_server::convert::{Conversion, plan};
use kv_server::{Config, Environment, Overrides};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PROGRAM, Server, Setup, assert_exit, http_get, run, text};
use crate::ports::free_address;
use crate::power::{Power, Told, check, write_until};
use crate::waiting::eventually;

const BOTH: [&str; 2] = ["replicated", "standalone"];

/// The two servers of one data directory, of which one at a time can run.
struct Pair {
    standalone: Server,
    member: Server,
}

impl Pair {
    fn new(power: impl FnOnce(&Path) -> Option<Power>) -> (Pair, Option<Power>) {
        let mut standalone = Server::not_started(Setup::default());
        let power = power(standalone.data_dir.parent().expect("a folder"));
        if let Some(power) = &power {
            standalone.surround(|setup| power.setup(setup));
        }
        let member = standalone.as_member();
        (Pair { standalone, member }, power)
    }

    /// The mode that the directory has now, by its own account.
    fn mode(&self) -> String {
        let identity = std::fs::read(self.standalone.data_dir.join("identity.json")).expect("there is always one");
        let identity: Value = serde_json::from_slice(&identity).expect("it is whole");
        identity["mode"].as_str().expect("a mode").to_string()
    }

    /// The server that opens the directory now, and the one that does not.
    fn servers(&mut self) -> (&mut Server, &mut Server) {
        match self.mode().as_str() {
            "standalone" => (&mut self.standalone, &mut self.member),
            _ => (&mut self.member, &mut self.standalone),
        }
    }

    /// Starts the server that opens the directory, which serves all of `told`.
    async fn serve(&mut self, told: &Told) -> &mut Server {
        let (server, other) = self.servers();
        other.start();
        assert_eq!(other.ended().await.code(), Some(1), "the other kind of server opens it, too");
        server.start();
        server.live().await;
        server.ready().await;
        check(&server.thrift, told).await;
        server
    }

    /// Serves, takes some writes, and is killed.
    async fn write(&mut self, told: &mut Told, round: u64) {
        let server = self.serve(told).await;
        let addresses = vec![server.thrift.clone()];
        told.add(write_until(addresses, round, 40, async || server.kill().await).await);
    }

    fn convert(&self, to: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["convert", "--to", to, "--node-id", "0", "--config"]).arg(&self.member.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn finish(&self, to: &str) {
        let output = self.convert(to).stdout(Stdio::piped()).output().expect("the program runs");
        assert_exit(&output, 0);
        let start = if to == "replicated" { "--node-id 0" } else { "--mode standalone" };
        let (said, nothing) = (text(&output.stdout), text(&output.stdout).starts_with("nothing to do"));
        assert!(nothing || said.contains(start), "it says how to start the server: {said}");
        assert_eq!(self.mode(), to);
        assert!(!self.standalone.data_dir.join("convert.json").exists(), "something is left");
    }
}

fn kill(mut child: Child) {
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().expect("a child of ours");
}

#[test]
fn a_server_under_load_becomes_a_cluster_and_goes_on() {
    run(async {
        let (mut pair, _) = Pair::new(|_| None);
        pair.standalone.start();
        pair.standalone.live().await;
        let mut told = write_until(vec![pair.standalone.thrift.clone()], 1, 300, async || ()).await;
        let output = pair.convert("replicated").stderr(Stdio::piped()).output().expect("the program runs");
        assert_exit(&output, 1);
        assert!(text(&output.stderr).contains("is in use by another process"), "{}", text(&output.stderr));
        pair.standalone.stop().await;
        pair.finish("replicated");
        pair.write(&mut told, 2).await;
        pair.write(&mut told, 3).await;
        let server = pair.serve(&told).await;
        let status = server.status().await.expect("a status");
        assert_eq!(status["primary"], 0, "{status}");
        server.stop().await;
        let output = pair.convert("replicated").stdout(Stdio::piped()).output().expect("the program runs");
        assert!(output.status.success() && text(&output.stdout).starts_with("nothing to do"), "{output:?}");
        pair.finish("standalone");
        pair.write(&mut told, 4).await;
        pair.serve(&told).await;
    });
}

/// The program is killed again and again, each time a little later, until it comes to its end.
#[test]
fn a_conversion_that_is_killed_at_any_moment_is_finished_by_the_next_one() {
    run(async {
        let (mut pair, _) = Pair::new(|_| None);
        pair.standalone.start();
        pair.standalone.live().await;
        let mut told = write_until(vec![pair.standalone.thrift.clone()], 1, 40, async || ()).await;
        pair.standalone.kill().await;
        let mut kills = 0;
        for (round, to) in (2..).zip(BOTH.into_iter().cycle().take(4)) {
            // How long an undisturbed one takes is not known beforehand, and another one each time.
            let mut delay = Duration::ZERO;
            loop {
                let started = Instant::now();
                let mut child = pair.convert(to).spawn().expect("the program runs");
                while started.elapsed() < delay && child.try_wait().expect("a child of ours").is_none() {
                    std::thread::yield_now();
                }
                let has_ended = child.try_wait().expect("a child of ours").is_some();
                kill(child);
                if has_ended {
                    break;
                }
                kills += 1;
                delay += Duration::from_millis(2) + delay / 10;
                if kills % 8 == 0 {
                    pair.serve(&told).await.kill().await;
                }
            }
            pair.finish(to);
            pair.write(&mut told, round).await;
        }
        eprintln!("{kills} kills");
        assert!(kills > 20, "only {kills} kills");
    });
}

/// Three replicas in one process, and later in one process each, on ports that stay the same.
struct Trio {
    folder: TempDir,
    config: PathBuf,
    addresses: Vec<[String; 3]>,
}

impl Trio {
    fn new() -> Trio {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("cluster.toml");
        let addresses: Vec<_> = (0..3).map(|_| [free_address(), free_address(), free_address()]).collect();
        let entry = |(id, [peer, thrift, admin]): (usize, &[String; 3])| {
            format!(
                "[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n"
            )
        };
        let list: String = addresses.iter().enumerate().map(entry).collect();
        let text = format!("mode = \"replicated\"\n[replication]\nwal_segment_mb = 1\n{list}");
        std::fs::write(&config, text).expect("written");
        Trio { folder, config, addresses }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// All replicas in one process, at the addresses of the first one.
    fn serve_together(&self) -> Child {
        let config = self.path("one.toml");
        let list = |(id, [peer, ..]): (usize, &[String; 3])| {
            format!("[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\n")
        };
        let list: String = self.addresses.iter().enumerate().map(list).collect();
        let text = format!("mode = \"replicated\"\n[replication]\nwal_segment_mb = 1\n{list}");
        std::fs::write(&config, text).expect("written");
        let [_, thrift, admin] = &self.addresses[0];
        let mut serve = self.program();
        serve.args(["serve", "--thrift-addr", thrift, "--admin-addr", admin]);
        serve.arg("--config").arg(config).arg("--data-dir").arg(self.path("data")).spawn().expect("the program runs")
    }

    fn serve_apart(&self) -> Vec<Child> {
        let serve = |id: usize| {
            let mut serve = self.program();
            serve.args(["serve", "--node-id", &id.to_string(), "--config"]).arg(&self.config);
            serve.arg("--data-dir").arg(self.path("apart").join(format!("replica-{id}"))).spawn()
        };
        (0..3).map(|id| serve(id).expect("the program runs")).collect()
    }

    fn split(&self) -> Command {
        let mut command = self.program();
        command.args(["convert", "--split", "0,1,2", "--data-dir"]).arg(self.path("data"));
        command.arg("--out").arg(self.path("apart"));
        command
    }

    async fn ready(&self, id: usize) {
        eventually("the replica is ready", async || match http_get(&self.addresses[id][2], "/health/ready").await? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("{code}: {body}")),
        })
        .await;
    }
}

#[test]
fn a_split_that_is_killed_at_any_moment_is_finished_by_the_next_one() {
    run(async {
        let trio = Trio::new();
        let mut together = trio.serve_together();
        trio.ready(0).await;
        let mut told = write_until(vec![trio.addresses[0][1].clone()], 1, 40, async || ()).await;
        let refused = trio.split().output().expect("the program runs");
        assert_exit(&refused, 1);
        together.kill().expect("it runs");
        together.wait().expect("it ends");
        let mut delay = Duration::ZERO;
        let mut kills = 0;
        loop {
            let started = Instant::now();
            let mut child = trio.split().spawn().expect("the program runs");
            while started.elapsed() < delay && child.try_wait().expect("a child of ours").is_none() {
                std::thread::yield_now();
            }
            let ended = child.try_wait().expect("a child of ours");
            kill(child);
            if let Some(status) = ended {
                assert!(status.success(), "{status}");
                break;
            }
            kills += 1;
            delay += Duration::from_micros(500);
        }
        eprintln!("{kills} kills");
        // Nothing opens the old directory any more.
        let mut old = trio.serve_together();
        assert_eq!(old.wait().expect("it ends").code(), Some(1));
        let servers = trio.serve_apart();
        for id in 0..3 {
            trio.ready(id).await;
        }
        check(&trio.addresses[2][1], &told).await;
        let all: Vec<String> = trio.addresses.iter().map(|[_, thrift, _]| thrift.clone()).collect();
        let lost = std::cell::RefCell::new(servers);
        told.add(write_until(all, 2, 40, async || lost.borrow_mut().drain(..).for_each(kill)).await);
        let servers = trio.serve_apart();
        trio.ready(1).await;
        check(&trio.addresses[1][1], &told).await;
        servers.into_iter().for_each(kill);
    });
}

#[test]
fn wrong_flags_of_a_conversion_are_named() {
    let convert = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).arg("convert").args(arguments).output().expect("the program runs");
        assert_exit(&output, 2);
        text(&output.stderr)
    };
    assert!(convert(&["--data-dir", "d"]).contains("--to"));
    assert!(convert(&["--data-dir", "d", "--to", "sideways"]).contains("replicated, standalone"));
    assert!(convert(&["--data-dir", "d", "--split", "0,1"]).contains("--out"));
    assert!(convert(&["--split", "0,1", "--out", "x"]).contains("--data-dir"));
    assert!(convert(&["--to", "replicated", "--split", "0,1", "--out", "x"]).contains("cannot be used with"));
    assert!(convert(&["--to", "replicated", "--config", "/no/such/file"]).contains("/no/such/file"));
}

/// Set for the process that [`conversion_that_is_killed`] is to kill.
const STEPS: &str = "CONVERT_TEST_STEPS";
const CONFIG: &str = "CONVERT_TEST_CONFIG";
const TO: &str = "CONVERT_TEST_TO";

/// No test of its own: takes some steps of a conversion, and kills its own process.
#[test]
#[ignore = "it kills its process; other tests run it in one of its own"]
fn conversion_that_is_killed() {
    let variable = |name| std::env::var(name).ok();
    let (Some(steps), Some(config), Some(to)) = (variable(STEPS), variable(CONFIG), variable(TO)) else { return };
    let config = Config::load(Some(Path::new(&config)), &Environment::empty(), &Overrides::default());
    let config = Box::new(config.expect("a good configuration"));
    let steps: usize = steps.parse().expect("a number");
    let conversion = match to.as_str() {
        "replicated" => Conversion::ToReplicated(config),
        _ => Conversion::ToStandalone(config),
    };
    let plan = plan(conversion).expect("planned");
    let obstacles: Vec<&str> = plan.obstacles().collect();
    assert!(obstacles.is_empty(), "{obstacles:?}");
    let done = plan.run(|number, _| {
        if number > steps {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).expect("a signal to itself");
        }
    });
    done.expect("converted");
}

/// Takes `steps` steps in a process that is killed then. Returns whether there were so many, so
/// that it was not killed.
fn take_steps(pair: &Pair, power: &Power, to: &str, steps: usize) -> bool {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["convert::conversion_that_is_killed", "--exact", "--ignored", "--nocapture"]);
    command.env_clear().envs(power.setup(Setup::default()).environment);
    command.env(STEPS, steps.to_string()).env(CONFIG, &pair.member.config).env(TO, to);
    let output = command.output().expect("this program runs");
    use std::os::unix::process::ExitStatusExt;
    assert!(output.status.success() || output.status.signal() == Some(9), "{output:?}");
    output.status.success()
}

/// What is not synced is lost after each step: everything that the change of the identity relies on
/// was durable before it.
#[test]
fn a_conversion_survives_a_loss_of_power_after_any_step() {
    run(async {
        for to in BOTH {
            let (mut pair, power) = Pair::new(Power::watch);
            let Some(power) = power else { return };
            let data = pair.standalone.data_dir.clone();
            pair.standalone.start();
            pair.standalone.live().await;
            let mut told = write_until(vec![pair.standalone.thrift.clone()], 1, 40, async || ()).await;
            pair.standalone.kill().await;
            power.fail(&data);
            let from = if to == "replicated" { "standalone" } else { "replicated" };
            let mut turned_after = None;
            for steps in 0.. {
                if pair.mode() != from {
                    assert!(take_steps(&pair, &power, from, 100), "it comes to its end");
                    power.fail(&data);
                    pair.write(&mut told, 2 + steps as u64).await;
                    power.fail(&data);
                }
                let has_ended = take_steps(&pair, &power, to, steps);
                power.fail(&data);
                if pair.mode() == to {
                    turned_after = turned_after.or(Some(steps));
                }
                pair.serve(&told).await.kill().await;
                power.fail(&data);
                if has_ended {
                    break;
                }
            }
            let turned_after = turned_after.expect("it was converted in the end");
            assert!(turned_after >= 4, "the identity changed after {turned_after} steps");
        }
    });
}
