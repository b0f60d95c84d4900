//! Two replicas of three are lost for good, and a new cluster is founded on the third: with real
//! processes, killed while they write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_client::{AtomicCommit, Client, Mutation, Options, RangeRead};
use serde_json::Value;

use crate::harness::{Cluster, PROGRAM, Server, Setup, assert_exit, cli, run, signal, text};
use crate::waiting::eventually;

const BUMP: u64 = 1_000_000_000;

/// A writer through one replica, and how many of its writes were acknowledged.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

/// Writes rows `<replica>/0`, `<replica>/1`, … through one replica, one after the other.
fn write_through(server: &Server, replica: usize, stopped: Arc<AtomicBool>) -> Writer {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (address, count) = (server.thrift.clone(), acknowledged.clone());
    let task = tokio::spawn(async move {
        let options = Options { request_timeout: Duration::from_secs(2), ..Options::default() };
        let client = Client::connect([address.as_str()], options).await.expect("it listens");
        while !stopped.load(Ordering::Relaxed) {
            let number = count.load(Ordering::Relaxed);
            let row = Mutation::set(format!("{replica}/{number:06}"), vec![b'v'; 300]);
            match client.commit(AtomicCommit::of(vec![row])).await {
                Ok(_) => count.store(number + 1, Ordering::Relaxed),
                // Later ones would leave a gap that nothing was promised about.
                Err(_) => return,
            }
        }
    });
    Writer { acknowledged, task }
}

/// The numbers of the rows that were written through `replica`.
async fn rows_of(address: &str, replica: usize) -> BTreeSet<u64> {
    let client = Client::connect([address], Options::default()).await.expect("it listens");
    let mut numbers = BTreeSet::new();
    let mut begin = format!("{replica}/");
    loop {
        let (from, end) = (begin.clone().into(), format!("{replica}0").into());
        let range = RangeRead { begin: from, end, limit: Some(5_000), ..RangeRead::default() };
        let page = client.get_range(range).await.expect("it serves");
        let keys = page.rows.iter().map(|row| String::from_utf8(row.key.to_vec()).expect("as it was written"));
        let keys: Vec<String> = keys.collect();
        let Some(last) = keys.last() else { return numbers };
        begin = format!("{last}\0");
        numbers.extend(keys.iter().map(|key| key[2..].parse::<u64>().expect("a number")));
    }
}

fn recover(arguments: &[&str]) -> Output {
    cli("", "", &[&["recover"], arguments].concat(), b"")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Inspects the survivor and makes a plan; returns the file.
fn planned(data_dir: &Path, folder: &Path) -> PathBuf {
    let found = recover(&["inspect", "--data-dir", path(data_dir)]);
    assert_exit(&found, 0);
    let (inspection, plan) = (folder.join("inspection.json"), folder.join("plan.json"));
    std::fs::write(&inspection, &found.stdout).expect("written");
    let made = recover(&["plan", path(&inspection), "--out", path(&plan)]);
    assert_exit(&made, 0);
    assert!(text(&made.stdout).contains("may be lost: entries from"), "{}", text(&made.stdout));
    plan
}

fn apply(data_dir: &Path, plan: &Path) -> Output {
    recover(&["apply", "--data-dir", path(data_dir), "--plan", path(plan), "--i-accept-data-loss"])
}

/// Three replicas with a writer through each, and the survivor, which does not lead.
struct Loaded {
    cluster: Cluster,
    writers: Vec<Writer>,
    stopped: Arc<AtomicBool>,
    survivor: usize,
    primary: usize,
}

impl Loaded {
    /// Waits until each writer got `each` acknowledgements.
    async fn start(each: u64) -> Loaded {
        let cluster = Cluster::start(Setup::default()).await;
        let stopped = Arc::new(AtomicBool::new(false));
        let primary = cluster.primary().await;
        let servers = cluster.servers.iter().enumerate();
        let writers: Vec<Writer> = servers.map(|(id, server)| write_through(server, id, stopped.clone())).collect();
        eventually("each writer is acknowledged", async || {
            let counts: Vec<u64> = writers.iter().map(|writer| writer.acknowledged.load(Ordering::Relaxed)).collect();
            if counts.iter().all(|count| *count >= each) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        Loaded { cluster, writers, stopped, survivor: (primary + 1) % 3, primary }
    }

    fn lost(&self) -> [usize; 2] {
        [self.primary, (self.primary + 2) % 3]
    }

    /// Kills the two others while all write, and then the survivor.
    async fn lose_the_others(&mut self) {
        for id in self.lost() {
            self.cluster.servers[id].kill().await;
        }
        let refused = recover(&["inspect", "--data-dir", path(&self.survivor().data_dir)]);
        assert_exit(&refused, 1);
        assert!(text(&refused.stderr).contains("in use by another process"), "{}", text(&refused.stderr));
        self.stopped.store(true, Ordering::Relaxed);
        let survivor = self.survivor;
        self.cluster.servers[survivor].kill().await;
        for writer in &mut self.writers {
            (&mut writer.task).await.expect("no writer panics");
        }
    }

    fn survivor(&self) -> &Server {
        &self.cluster.servers[self.survivor]
    }

    /// A recovery promises all that the survivor acknowledged, and of the others' writes a
    /// beginning without gaps.
    async fn check_rows(&self, address: &str) {
        for (id, writer) in self.writers.iter().enumerate() {
            let (rows, told) = (rows_of(address, id).await, writer.acknowledged.load(Ordering::Relaxed));
            let count = rows.len() as u64;
            assert_eq!(rows.last().map_or(0, |last| last + 1), count, "rows through replica {id} have gaps");
            assert!(id != self.survivor || count >= told, "{count} of {told} rows are there");
            assert!(count <= told + 1, "{count} rows were written, of {told} through replica {id}");
            println!("through replica {id}: {told} acknowledged, {count} kept");
        }
    }
}

async fn problem(server: &Server, kind: &str) -> Result<Value, String> {
    let status = server.status().await?;
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let found = problems.iter().find(|problem| problem["kind"] == kind).cloned();
    found.ok_or_else(|| format!("{problems:?}"))
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["-a", path(from), path(to)]).status().expect("cp runs");
    assert!(done.success());
}

#[test]
fn what_the_survivor_acknowledged_is_there_after_the_loss_of_both_others() {
    run(async {
        let mut loaded = Loaded::start(300).await;
        let survivor = loaded.survivor;
        let read = loaded.survivor().cli(&["range", "--limit", "1", "--format", "json"]);
        let before: Value = serde_json::from_slice(&read.stdout).expect("JSON");
        let old_version = before["version"].as_u64().expect("a version");
        loaded.lose_the_others().await;
        let folder = tempfile::tempdir().expect("a folder");
        let kept = folder.path().join("kept");
        let lost = loaded.lost();
        copy(&loaded.cluster.servers[lost[0]].data_dir, &kept);
        for id in lost {
            std::fs::remove_dir_all(&loaded.cluster.servers[id].data_dir).expect("removed");
        }

        let data_dir = loaded.survivor().data_dir.clone();
        let plan = planned(&data_dir, folder.path());
        let unconfirmed = recover(&["apply", "--data-dir", path(&data_dir), "--plan", path(&plan)]);
        assert_exit(&unconfirmed, 2);
        assert!(text(&unconfirmed.stderr).contains("--i-accept-data-loss"), "{}", text(&unconfirmed.stderr));
        assert_exit(&apply(&data_dir, &plan), 0);
        let again = apply(&data_dir, &plan);
        assert_exit(&again, 0);
        assert!(text(&again.stdout).contains("nothing was left to do"), "{}", text(&again.stdout));

        loaded.cluster.servers[survivor].start();
        loaded.cluster.ready().await;
        loaded.check_rows(&loaded.survivor().thrift.clone()).await;
        let server = loaded.survivor();
        assert_exit(&server.cli(&["set", "after", "1"]), 0);
        let old = server.cli(&["get", "after", "--at", &old_version.to_string()]);
        assert_exit(&old, 1);
        assert!(text(&old.stderr).contains("TRANSACTION_TOO_OLD"), "{}", text(&old.stderr));
        let read = server.cli(&["range", "--limit", "1", "--format", "json"]);
        let version = serde_json::from_slice::<Value>(&read.stdout).expect("JSON")["version"].as_u64();
        assert!(version.expect("a version") > old_version + BUMP, "{version:?} after {old_version}");

        // A former member comes back with its data: it can do nothing, and says why.
        let new_cluster = server.status().await.expect("status")["cluster_id"].clone();
        copy(&kept, &loaded.cluster.servers[lost[0]].data_dir);
        loaded.cluster.servers[lost[0]].start();
        loaded.cluster.servers[lost[0]].live().await;
        let former = &loaded.cluster.servers[lost[0]];
        let told =
            eventually("it says that its data are of another cluster", async || problem(former, "other_cluster").await);
        let told = told.await;
        assert_eq!(told["replica"].as_u64(), Some(survivor as u64), "{told}");
        assert!(told["remedy"].as_str().is_some_and(|remedy| remedy.contains("start with an empty one")), "{told}");
        assert!(former.log_text().contains("the peer belongs to another cluster"), "{}", former.log_text());
        assert_ne!(former.status().await.expect("status")["cluster_id"], new_cluster);
        assert_exit(&loaded.survivor().cli(&["set", "after", "2"]), 0);

        // With an empty directory it follows.
        loaded.cluster.servers[lost[0]].kill().await;
        std::fs::remove_dir_all(&loaded.cluster.servers[lost[0]].data_dir).expect("removed");
        loaded.cluster.servers[lost[0]].start();
        loaded.cluster.servers[lost[0]].live().await;
        loaded.cluster.servers[lost[0]].ready().await;
        let follower = &loaded.cluster.servers[lost[0]];
        assert_eq!(follower.status().await.expect("status")["cluster_id"], new_cluster);
        assert_eq!(text(&follower.cli(&["get", "after"]).stdout).trim(), "2");
        loaded.check_rows(&follower.thrift.clone()).await;
    });
}

/// The survivor stands still while the two others write, so that it lacks what they acknowledged.
#[test]
fn nothing_that_only_the_lost_replicas_knew_is_mistaken_for_something_new() {
    run(async {
        let mut loaded = Loaded::start(50).await;
        let (survivor, primary) = (loaded.survivor, loaded.primary);
        signal(loaded.survivor().id(), "STOP");
        let count = loaded.writers[primary].acknowledged.clone();
        let so_far = count.load(Ordering::Relaxed);
        eventually("the two others acknowledge more", async || match count.load(Ordering::Relaxed) - so_far {
            more if more >= 50 => Ok(()),
            more => Err(format!("{more} so far")),
        })
        .await;
        let read = loaded.cluster.servers[primary].cli(&["range", "--limit", "1", "--format", "json"]);
        let lost_version = serde_json::from_slice::<Value>(&read.stdout).expect("JSON")["version"].as_u64();
        let lost_version = lost_version.expect("a version");
        for id in loaded.lost() {
            loaded.cluster.servers[id].kill().await;
        }
        loaded.stopped.store(true, Ordering::Relaxed);
        // It is still stopped, so it never reads what has arrived.
        loaded.cluster.servers[survivor].kill().await;
        for writer in &mut loaded.writers {
            (&mut writer.task).await.expect("no writer panics");
        }

        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = loaded.survivor().data_dir.clone();
        let plan = planned(&data_dir, folder.path());
        assert_exit(&apply(&data_dir, &plan), 0);
        loaded.cluster.servers[survivor].start();
        loaded.cluster.ready().await;
        loaded.check_rows(&loaded.survivor().thrift.clone()).await;
        let kept = rows_of(&loaded.survivor().thrift, primary).await.len() as u64;
        let told = count.load(Ordering::Relaxed);
        assert!(kept < told, "{kept} of {told}: the survivor lacks nothing, and nothing was tested");
        // The version is one that the survivor never had; it would come again within a second.
        for number in 0..60 {
            let server = loaded.survivor();
            let old = server.cli(&["get", "counter", "--at", &lost_version.to_string()]);
            assert!(text(&old.stderr).contains("TRANSACTION_TOO_OLD"), "{}", text(&old.stderr));
            let set =
                server.cli(&["txn", "--at", &lost_version.to_string(), "-e", "get counter", "-e", "set counter 0"]);
            assert_exit(&set, 1);
            assert!(text(&set.stderr).contains("TRANSACTION_TOO_OLD"), "{}", text(&set.stderr));
            assert_exit(&server.cli(&["set", "counter", &number.to_string()]), 0);
        }
    });
}

/// Kills `recover apply` after longer and longer times, until one of them suffices.
#[test]
fn a_recovery_that_is_killed_again_and_again_ends_all_the_same() {
    run(async {
        let mut loaded = Loaded::start(500).await;
        let survivor = loaded.survivor;
        loaded.lose_the_others().await;
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = loaded.survivor().data_dir.clone();
        let plan = planned(&data_dir, folder.path());
        let (mut kills, mut refused) = (0, 0);
        let longer = |lifetime_ms: &u64| Some(lifetime_ms + lifetime_ms / 6 + 2);
        for lifetime_ms in std::iter::successors(Some(0), longer) {
            let mut command = Command::new(PROGRAM);
            command.args(["recover", "apply", "--data-dir", path(&data_dir), "--plan", path(&plan)]);
            let command = command.arg("--i-accept-data-loss").stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("the program runs");
            // Not a wait for something: the time at which it is killed.
            tokio::time::sleep(Duration::from_millis(lifetime_ms)).await;
            if let Some(status) = child.try_wait().expect("a child") {
                assert!(status.success(), "{status}");
                break;
            }
            child.kill().expect("it runs");
            child.wait().expect("a child");
            kills += 1;
            let identity = std::fs::read_to_string(data_dir.join("identity.json")).expect("always complete");
            if identity.contains("\"recovery\"") && refused < 3 {
                refused += 1;
                loaded.cluster.servers[survivor].start();
                assert_eq!(loaded.cluster.servers[survivor].ended().await.code(), Some(1));
            }
        }
        println!("killed {kills} times; a server was refused {refused} times meanwhile");
        assert!(kills > 2 && refused > 0, "it ended too fast: {kills} kills, {refused} refusals");
        let log = loaded.survivor().log_text();
        assert!(log.contains("a recovery of data directory") && log.contains("recover apply"), "{log}");
        loaded.cluster.servers[survivor].start();
        loaded.cluster.ready().await;
        loaded.check_rows(&loaded.survivor().thrift.clone()).await;
        assert_exit(&loaded.survivor().cli(&["set", "after", "1"]), 0);
    });
}

#[test]
fn two_survivors_of_three_are_told_to_start() {
    run(async {
        let mut loaded = Loaded::start(20).await;
        loaded.lose_the_others().await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = Vec::new();
        for id in 0..2 {
            let found = recover(&["inspect", "--data-dir", path(&loaded.cluster.servers[id].data_dir)]);
            assert_exit(&found, 0);
            files.push(folder.path().join(format!("{id}.json")));
            std::fs::write(&files[id], &found.stdout).expect("written");
        }
        let refused = recover(&["plan", path(&files[0]), path(&files[1])]);
        assert_exit(&refused, 1);
        assert!(text(&refused.stderr).contains("nothing has to be recovered"), "{}", text(&refused.stderr));
        for server in &mut loaded.cluster.servers[..2] {
            server.start();
        }
        loaded.cluster.ready().await;
        for id in 0..2 {
            let told = loaded.writers[id].acknowledged.load(Ordering::Relaxed);
            let rows = rows_of(&loaded.cluster.servers[0].thrift, id).await;
            assert!(rows.len() as u64 >= told, "{} of {told} rows are there", rows.len());
        }
    });
}
