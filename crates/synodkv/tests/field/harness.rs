//! Real processes for the tests: one server or three, with their logs, and commands with a
//! deadline.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::ports::free_address;
pub use crate::signals::send_signal as signal;
use crate::waiting::eventually;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_synodkv");
/// Builds without RocksDB have nothing else.
pub const ENGINE: &str = if cfg!(feature = "rocksdb") { "rocksdb" } else { "memory" };

/// Says why a test cannot run here. `return skip("it needs root")`.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a body on a runtime of its own.
pub fn run(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(body);
}

/// How a server is started: its configuration file and its environment.
#[derive(Clone, Default)]
pub struct Setup {
    /// Lines of TOML after the generated ones, including `[section]` headings.
    pub more_toml: String,
    pub environment: Vec<(String, String)>,
    pub arguments: Vec<String>,
    /// Shell commands before the program starts, such as `ulimit -n 256`.
    pub before: String,
}

impl Setup {
    pub fn toml(lines: &str) -> Setup {
        Setup { more_toml: lines.to_string(), ..Setup::default() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    pub fn arg(mut self, argument: &str) -> Setup {
        self.arguments.push(argument.to_string());
        self
    }

    pub fn before(mut self, commands: &str) -> Setup {
        self.before = commands.to_string();
        self
    }
}

/// A server, running or not, which keeps its ports and its data over restarts.
pub struct Server {
    pub thrift: String,
    pub admin: String,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    /// Its standard error over all starts.
    pub log: PathBuf,
    setup: Setup,
    child: Option<Child>,
    /// Removed with the server.
    _folder: Option<TempDir>,
}

impl Server {
    /// A standalone server, ready.
    pub async fn standalone(setup: Setup) -> Server {
        let mut server = Server::not_started(setup);
        server.start();
        server.live().await;
        server
    }

    /// A standalone server with a configuration file, not started.
    pub fn not_started(setup: Setup) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let (thrift, admin) = (free_address(), free_address());
        let listen = format!(
            "mode = \"standalone\"\n[server]\nthrift_addr = \"{thrift}\"\nadmin_addr = \"{admin}\"\n{}",
            storage(&folder.path().join("data"))
        );
        let mut server = Server::at(folder.path(), "server", &thrift, &admin, &listen, setup);
        server._folder = Some(folder);
        server
    }

    /// A server that was never started, with a configuration file that is there already.
    pub fn with_config(config: &Path, thrift: &str, admin: &str, data_dir: &Path) -> Server {
        let setup = Setup::default().env("SYNODKV_STORAGE_ENGINE", ENGINE);
        Server {
            thrift: thrift.to_string(),
            admin: admin.to_string(),
            data_dir: data_dir.to_path_buf(),
            config: config.to_path_buf(),
            log: config.with_extension("log"),
            setup,
            child: None,
            _folder: None,
        }
    }

    fn at(folder: &Path, name: &str, thrift: &str, admin: &str, toml: &str, setup: Setup) -> Server {
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, merge_sections(&format!("{toml}{}", setup.more_toml))).expect("a configuration");
        let data_dir = match name {
            "server" => folder.join("data"),
            name => folder.join(format!("data-{name}")),
        };
        let log = folder.join(format!("{name}.log"));
        let (thrift, admin) = (thrift.to_string(), admin.to_string());
        Server { thrift, admin, data_dir, config, log, setup, child: None, _folder: None }
    }

    /// A replica on the data directory of this server, which must not run at the same time: the only
    /// member of its cluster. Not started.
    pub fn as_member(&self) -> Server {
        let (thrift, admin, peer) = (free_address(), free_address(), free_address());
        let toml = format!(
            "mode = \"replicated\"\n[replication]\nnode_id = 0\nwal_segment_mb = 1\n{}[[replication.replicas]]\nid = 0\n\
             peer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n",
            storage(&self.data_dir)
        );
        let folder = self.config.parent().expect("it lies in a folder");
        let mut member = Server::at(folder, "member", &thrift, &admin, &toml, self.setup.clone());
        member.data_dir.clone_from(&self.data_dir);
        member
    }

    /// Changes the set-up of its next starts.
    pub fn surround(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(std::mem::take(&mut self.setup));
    }

    /// The command that starts it, with the environment of the set-up alone.
    pub fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.env_clear().envs(planted()).envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        let before = if self.setup.before.is_empty() { ":" } else { &self.setup.before };
        command.args(["-c", &format!("{before}; exec \"$0\" \"$@\""), PROGRAM, "serve", "--config"]).arg(&self.config);
        command.args(&self.setup.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts the process; its log goes to the file.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        self.start_with(|command| command.stderr(log));
    }

    /// Starts the process after a last change to the command.
    pub fn start_with(&mut self, change: impl FnOnce(&mut Command) -> &mut Command) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = self.command();
        self.child = Some(change(&mut command).spawn().expect("the program runs"));
    }

    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("a running process")
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("a running process").id()
    }

    /// Waits until the admin interface answers.
    pub async fn live(&mut self) {
        let (admin, log) = (self.admin.clone(), self.log.clone());
        let child = self.child();
        eventually("the server listens", async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the server ended instead of starting: {status}\n{}", read(&log));
            }
            http_get(&admin, "/health/live").await
        })
        .await;
    }

    /// Waits until linearizable reads are served.
    pub async fn ready(&self) {
        eventually("the server is ready", async || match self.get("/health/ready").await? {
            (200, _) => Ok(()),
            (code, body) => Err(format!("{code}: {body}")),
        })
        .await;
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = self.child();
        let status = eventually("the process ends", async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let status = status.await;
        self.child = None;
        status
    }

    pub async fn stop(&mut self) -> ExitStatus {
        signal(self.id(), "TERM");
        self.ended().await
    }

    pub async fn kill(&mut self) {
        self.child().kill().expect("a process that has not ended by itself");
        self.ended().await;
    }

    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        http_get(&self.admin, path).await
    }

    pub async fn status(&self) -> Result<Value, String> {
        let (code, body) = self.get("/status").await?;
        match code {
            200 => serde_json::from_str(&body).map_err(|error| format!("{error}: {body}")),
            code => Err(format!("{code}: {body}")),
        }
    }

    pub fn log_text(&self) -> String {
        read(&self.log)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a process of ours");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    }

    /// Runs a client command against this server, for 60 seconds at most.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        cli(&self.thrift, &self.admin, arguments, b"")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The process may be stopped, or have ended by itself.
            signal_if_there(child, "CONT");
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = read(&self.log);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {} ends so ---\n{}", self.log.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

fn signal_if_there(child: &Child, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &child.id().to_string()]).stderr(Stdio::null()).status();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string())
}

fn storage(data_dir: &Path) -> String {
    format!(
        "[storage]\ndata_dir = \"{}\"\nengine = \"{ENGINE}\"\nwrite_buffer_mb = 16\nblock_cache_mb = 8\n",
        data_dir.display()
    )
}

/// TOML allows each heading once, so lines under a repeated one move to the first. Of two equal
/// keys, the later one stays.
fn merge_sections(text: &str) -> String {
    let mut sections: Vec<(String, Vec<String>)> = vec![(String::new(), Vec::new())];
    let mut at = 0;
    for line in text.lines() {
        if line.starts_with("[[") {
            sections.push((line.to_string(), Vec::new()));
            at = sections.len() - 1;
        } else if line.starts_with('[') {
            at = sections.iter().position(|(heading, _)| heading == line).unwrap_or_else(|| {
                sections.push((line.to_string(), Vec::new()));
                sections.len() - 1
            });
        } else {
            let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_string();
            sections[at].1.retain(|other| key(other) != key(line));
            sections[at].1.push(line.to_string());
        }
    }
    let section = |(heading, lines): &(String, Vec<String>)| format!("{heading}\n{}\n", lines.join("\n"));
    sections.iter().map(section).collect()
}

/// Three replicas in three processes.
pub struct Cluster {
    pub servers: Vec<Server>,
    /// Their peer addresses.
    pub peers: Vec<String>,
    /// Removed with the cluster.
    pub folder: TempDir,
}

impl Cluster {
    /// Starts three replicas and waits until they serve.
    pub async fn start(setup: Setup) -> Cluster {
        let mut cluster = Cluster::not_started(setup);
        for server in &mut cluster.servers {
            server.start();
        }
        cluster.ready().await;
        cluster
    }

    pub fn not_started(setup: Setup) -> Cluster {
        let peers: Vec<String> = (0..3).map(|_| free_address()).collect();
        Cluster::with_peers(peers.clone(), &peers, setup)
    }

    /// A cluster whose configuration lists `peers`, which may be names.
    pub fn with_peers(peers: Vec<String>, written: &[String], setup: Setup) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder");
        let listen: Vec<(String, String)> = written.iter().map(|_| (free_address(), free_address())).collect();
        let mut members = String::new();
        for (id, (peer, (thrift, admin))) in written.iter().zip(&listen).enumerate() {
            members += &format!(
                "[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n"
            );
        }
        let servers = listen.iter().enumerate().map(|(id, (thrift, admin))| {
            let name = id.to_string();
            let storage = storage(&folder.path().join(format!("data-{id}")));
            let toml =
                format!("mode = \"replicated\"\n[replication]\nnode_id = {id}\nwal_segment_mb = 1\n{storage}{members}");
            Server::at(folder.path(), &name, thrift, admin, &toml, setup.clone())
        });
        Cluster { servers: servers.collect(), peers, folder }
    }

    /// Waits until every running replica serves linearizable reads.
    pub async fn ready(&mut self) {
        for server in self.servers.iter_mut().filter(|server| server.child.is_some()) {
            server.live().await;
            server.ready().await;
        }
    }

    /// The primary, once all running replicas agree on it.
    pub async fn primary(&self) -> usize {
        eventually("the replicas agree who leads", async || {
            let mut told = Vec::new();
            for server in self.servers.iter().filter(|server| server.child.is_some()) {
                told.push(server.status().await?["primary"].as_u64());
            }
            match told[0] {
                Some(primary) if told.iter().all(|other| *other == Some(primary)) => Ok(primary as usize),
                _ => Err(format!("they name {told:?}")),
            }
        })
        .await
    }

    fn joined(&self, address: impl Fn(&Server) -> &str) -> String {
        self.servers.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// All Thrift addresses, as `--addr` takes them.
    pub fn thrift(&self) -> String {
        self.joined(|server| &server.thrift)
    }

    /// All admin addresses, as `--admin` takes them.
    pub fn admin(&self) -> String {
        self.joined(|server| &server.admin)
    }

    /// Runs a client command against all replicas.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        cli(&self.thrift(), &self.admin(), arguments, b"")
    }
}

/// Runs a client command, for 60 seconds at most.
pub fn cli(thrift: &str, admin: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", PROGRAM]).args(arguments).env("SYNODKV_ADDR", thrift).env("SYNODKV_ADMIN", admin);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
    // Writes and reads concurrently, so that a full pipe does not block the other one. A command
    // may end before it has read everything.
    let writing = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the program ends");
    writing.join().expect("writing does not panic");
    assert_ne!(output.status.code(), Some(124), "{arguments:?} hangs: {}", text(&output.stderr));
    output
}

#[track_caller]
pub fn assert_exit(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}{}", text(&output.stdout), text(&output.stderr));
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An HTTP client. Its library takes the cryptography of the process, also without TLS.
pub fn http_client() -> reqwest::ClientBuilder {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}

pub async fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    let client = http_client().timeout(Duration::from_secs(10)).build().expect("a client");
    let response = client.get(format!("http://{address}{path}")).send().await.map_err(|error| format!("{error:?}"))?;
    let code = response.status().as_u16();
    Ok((code, response.text().await.map_err(|error| format!("{error:?}"))?))
}

/// Of this program's environment, what chooses a planted bug: see the runner of mutations.
fn planted() -> Option<(&'static str, OsString)> {
    std::env::var_os("PLANTED").map(|number| ("PLANTED", number))
}
