//! Tests of a power failure on all machines at once: acknowledged writes must survive, and no
//! commit may be half applied.
//!
//! A preloaded library (`power/keep_synced.c`) keeps the content of each file and directory as of
//! its last sync. After a `kill -9`, that content replaces the data directories, so everything that
//! was only written, created, renamed or removed is lost. This is the worst that a correct file
//! system may do, except for files torn within unsynced parts, which the simulation covers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use kv_api::{AtomicCommit, Mutation};
use kv_client::{Client, Options, RangeRead};
use tempfile::TempDir;

use crate::harness::{Cluster, Server, Setup, assert_exit, run, skip, text};
use crate::network::metric;
use crate::waiting::eventually;

/// Number of writers, each of which makes one commit after the other.
const WRITERS: u64 = 8;
/// Rows that one large commit replaces together.
const TOGETHER: usize = 2_000;

/// The compiled library, and the directory where it keeps synced content.
pub struct Power {
    library: PathBuf,
    root: PathBuf,
    folder: TempDir,
}

impl Power {
    /// Watches `root`. If that is not possible, prints the reason and returns `None`.
    pub fn watch(root: &Path) -> Option<Power> {
        let folder = tempfile::tempdir().expect("a folder");
        if fs::metadata(folder.path()).and_then(|metadata| metadata.created()).is_err() {
            skip("the file system does not tell when a file was born");
            return None;
        }
        let library = folder.path().join("keep_synced.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/power/keep_synced.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        match compiler.args(["-ldl", "-lpthread"]).output() {
            Err(error) => {
                skip(&format!("it needs a C compiler, and cc does not run: {error}"));
                return None;
            }
            Ok(output) => assert!(output.status.success(), "{}", text(&output.stderr)),
        }
        let power = Power { library, root: root.canonicalize().expect("a directory"), folder };
        fs::create_dir(power.store()).expect("a folder");
        Some(power)
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("synced")
    }

    pub fn setup(&self, setup: Setup) -> Setup {
        let path = |path: &Path| path.to_str().expect("a name in UTF-8").to_string();
        setup
            .env("LD_PRELOAD", &path(&self.library))
            .env("POWER_ROOT", &path(&self.root))
            .env("POWER_STORE", &path(&self.store()))
    }

    /// Discards everything under `directory` that was not synced. `directory` itself stays.
    pub fn fail(&self, directory: &Path) {
        let rebuilt = self.folder.path().join(format!("rebuilt-{}", key_of(directory)));
        fs::create_dir(&rebuilt).expect("created");
        self.rebuild(&key_of(directory), &rebuilt);
        fs::remove_dir_all(directory).expect("removed");
        // Copies next to it, because another place may be on another file system.
        copy(&rebuilt, directory);
        fs::remove_dir_all(&rebuilt).expect("removed");
        self.adopt(directory);
    }

    fn rebuild(&self, key: &str, to: &Path) {
        let Ok(entries) = fs::read_to_string(self.store().join(format!("d-{key}"))) else { return };
        for line in entries.lines() {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().expect("key, kind and name");
            let (key, kind, name) = (word(), word(), word());
            let path = to.join(name);
            if kind == "d" {
                fs::create_dir(&path).expect("created");
                self.rebuild(key, &path);
            } else {
                let content = fs::read(self.store().join(format!("f-{key}"))).unwrap_or_default();
                fs::write(&path, content).expect("written");
            }
        }
    }

    /// Treats everything present at the start of a process as synced.
    fn adopt(&self, directory: &Path) {
        let mut lines = String::new();
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("listed").path();
            let name = path.file_name().expect("a name").to_str().expect("in UTF-8").to_string();
            let (key, kind) = (key_of(&path), if path.is_dir() { "d" } else { "f" });
            lines += &format!("{key} {kind} {name}\n");
            match kind {
                "d" => self.adopt(&path),
                _ => drop(fs::copy(&path, self.store().join(format!("f-{key}"))).expect("copied")),
            }
        }
        fs::write(self.store().join(format!("d-{}", key_of(directory))), lines).expect("written");
    }
}

/// The name that the library gives an inode.
fn key_of(path: &Path) -> String {
    let metadata = fs::symlink_metadata(path).expect("it is there");
    let born = metadata.created().expect("told before").duration_since(UNIX_EPOCH).expect("after 1970");
    format!("{}-{}-{}", metadata.ino(), born.as_secs(), born.subsec_nanos())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("created");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("listed").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).expect("copied")),
        }
    }
}

/// The results that clients received, by key.
#[derive(Default)]
pub struct Told {
    rows: BTreeMap<String, String>,
    /// The last large commit that was acknowledged, and the last that was tried.
    together: u64,
    tried: u64,
}

impl Told {
    pub fn add(&mut self, later: Told) {
        self.rows.extend(later.rows);
        self.together = self.together.max(later.together);
        self.tried = self.tried.max(later.tried);
    }
}

/// Writes until the servers are killed: commits of two rows, and sometimes of many rows.
pub async fn write_until(addresses: Vec<String>, round: u64, enough: u64, kill: impl AsyncFnOnce()) -> Told {
    let (stopped, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (addresses, stopped, count) = (addresses.clone(), stopped.clone(), count.clone());
        writers.push(tokio::spawn(async move {
            let options = Options { request_timeout: Duration::from_secs(2), ..Options::default() };
            let client = Client::connect(addresses.iter().map(String::as_str), options).await.expect("servers listen");
            let mut told = Told::default();
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if writer == 0 {
                    told.tried = round * 1_000 + number;
                    if client.commit(large(told.tried)).await.is_ok() {
                        told.together = told.tried;
                    }
                    let next = count.load(Ordering::Relaxed) + 20;
                    while count.load(Ordering::Relaxed) < next && !stopped.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    continue;
                }
                let (key, value) = (format!("{round}/{writer}/{number:06}"), format!("{round} {number}"));
                let both = ["a", "b"].map(|half| Mutation::set(format!("{half}/{key}"), value.clone()));
                if client.commit(AtomicCommit::of(both.to_vec())).await.is_ok() {
                    told.rows.insert(key, value);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            told
        }));
    }
    eventually("enough is acknowledged", async || match count.load(Ordering::Relaxed) {
        so_far if so_far >= enough => Ok(()),
        so_far => Err(format!("{so_far} commits so far")),
    })
    .await;
    kill().await;
    stopped.store(true, Ordering::Relaxed);
    let mut all = Told::default();
    for writer in writers {
        all.add(writer.await.expect("no writer panics"));
    }
    all
}

/// A commit that changes many rows at once.
fn large(number: u64) -> AtomicCommit {
    let value = format!("{number:0200}");
    AtomicCommit::of((0..TOGETHER).map(|row| Mutation::set(format!("together/{row:05}"), value.clone())).collect())
}

/// Checks that no acknowledged write is missing, and that no commit is half applied.
pub async fn check(address: &str, told: &Told) {
    let client = Client::connect([address], Options::default()).await.expect("the server listens");
    let rows = all_rows(&client).await;
    for (key, value) in &told.rows {
        let found = rows.get(&format!("a/{key}"));
        assert_eq!(found, Some(value), "{key} was acknowledged");
    }
    for (key, value) in rows.iter().filter_map(|(key, value)| Some((key.strip_prefix("a/")?, value))) {
        assert_eq!(rows.get(&format!("b/{key}")), Some(value), "half of a commit: {key}");
    }
    assert_eq!(
        rows.keys().filter(|key| key.starts_with("b/")).count(),
        rows.keys().filter(|key| key.starts_with("a/")).count()
    );
    let mut together: Vec<&String> =
        rows.iter().filter(|(key, _)| key.starts_with("together/")).map(|(_, value)| value).collect();
    assert!(together.is_empty() || together.len() == TOGETHER, "part of a commit: {} rows", together.len());
    together.dedup();
    assert!(together.len() <= 1, "part of a commit: {together:?}");
    let last = together.first().map_or(0, |value| value.parse::<u64>().expect("a number"));
    assert!(
        (told.together..=told.tried.max(told.together)).contains(&last),
        "{last} is none of {} to {}",
        told.together,
        told.tried
    );
}

async fn all_rows(client: &Client) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    let mut begin: Vec<u8> = Vec::new();
    loop {
        let range =
            RangeRead { begin: begin.into(), end: vec![0xff].into(), limit: Some(5_000), ..RangeRead::default() };
        let page = client.get_range(range).await.expect("the server serves");
        let Some(last) = page.rows.last() else { return rows };
        begin = [&last.key[..], &[0]].concat();
        let word = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("as it was written");
        rows.extend(page.rows.iter().map(|row| (word(&row.key), word(&row.value))));
    }
}

#[test]
fn a_standalone_server_keeps_what_it_acknowledged() {
    run(async {
        let mut server = Server::not_started(Setup::default());
        let data = server.data_dir.clone();
        let Some(power) = Power::watch(data.parent().expect("a folder")) else { return };
        server.surround(|setup| power.setup(setup));
        let mut told = Told::default();
        for round in 1..=3 {
            server.start();
            server.live().await;
            server.ready().await;
            check(&server.thrift, &told).await;
            let addresses = vec![server.thrift.clone()];
            told.add(write_until(addresses, round, 60, async || server.kill().await).await);
            power.fail(&data);
        }
        server.start();
        server.live().await;
        check(&server.thrift, &told).await;
    });
}

/// Three replicas, not started, that keep little of their logs, with their data directories.
fn watched_cluster() -> Option<(Cluster, Vec<PathBuf>, Power)> {
    let mut cluster = Cluster::not_started(Setup::toml("[replication]\nlog_keep_mb = 1\nlog_flush_mb = 1\n"));
    let data: Vec<PathBuf> = cluster.servers.iter().map(|server| server.data_dir.clone()).collect();
    let power = Power::watch(data[0].parent().expect("a folder"))?;
    cluster.servers.iter_mut().for_each(|server| server.surround(|setup| power.setup(setup)));
    Some((cluster, data, power))
}

/// Kills all at once, so that none notices the end of another.
async fn kill_all(cluster: &mut Cluster) {
    for server in &mut cluster.servers {
        server.child().kill().expect("it runs");
    }
    for server in &mut cluster.servers {
        server.ended().await;
    }
}

#[test]
fn three_replicas_that_lose_power_together_keep_what_they_acknowledged() {
    run(async {
        let Some((mut cluster, data, power)) = watched_cluster() else { return };
        let mut told = Told::default();
        for round in 1..=3 {
            cluster.servers.iter_mut().for_each(Server::start);
            cluster.ready().await;
            check(&cluster.servers[0].thrift, &told).await;
            let addresses = cluster.servers.iter().map(|server| server.thrift.clone()).collect();
            told.add(write_until(addresses, round, 60, async || kill_all(&mut cluster).await).await);
            data.iter().for_each(|data| power.fail(data));
        }
        cluster.servers.iter_mut().for_each(Server::start);
        cluster.ready().await;
        check(&cluster.servers[0].thrift, &told).await;
        assert_exit(&cluster.cli(&["verify"]), 0);
    });
}

async fn log_is_cut(server: &Server, id: usize) {
    let name = format!("synodkv_log_disk_bytes{{replica=\"{id}\"}}");
    eventually("the log is cut down to what is kept", async || match metric(server, &name).await? {
        bytes if bytes < 9e6 => Ok(()),
        bytes => Err(format!("the log takes {bytes} bytes")),
    })
    .await;
}

#[test]
fn databases_survive_their_first_loss_of_power_when_most_of_them_is_in_no_log() {
    run(async {
        let Some((mut cluster, data, power)) = watched_cluster() else { return };
        cluster.servers.iter_mut().for_each(Server::start);
        cluster.ready().await;
        let addresses = cluster.thrift();
        let client = Client::connect(addresses.split(','), Options::default()).await.expect("they serve");
        for number in 1..=60 {
            client.commit(large(number)).await.expect("committed");
        }
        for (id, server) in cluster.servers.iter().enumerate() {
            log_is_cut(server, id).await;
        }
        kill_all(&mut cluster).await;
        data.iter().for_each(|data| power.fail(data));
        cluster.servers.iter_mut().for_each(Server::start);
        cluster.ready().await;
        check(&cluster.servers[0].thrift, &Told { together: 60, tried: 60, ..Told::default() }).await;
        assert_exit(&cluster.cli(&["verify"]), 0);
    });
}

#[test]
fn a_copied_database_survives_a_loss_of_power_as_soon_as_it_is_used() {
    run(async {
        let Some((mut cluster, data, power)) = watched_cluster() else { return };
        cluster.servers.iter_mut().for_each(Server::start);
        cluster.ready().await;
        let late = (cluster.primary().await + 1) % 3;
        cluster.servers[late].kill().await;
        let addresses = cluster.thrift();
        let client = Client::connect(addresses.split(','), Options::default()).await.expect("two of three serve");
        // Writes more than the others keep in their logs.
        for number in 1..=60 {
            client.commit(large(number)).await.expect("committed");
        }
        // Restarts them, so that no memory holds the entries.
        for id in (0..3).filter(|id| *id != late) {
            cluster.servers[id].stop().await;
            cluster.servers[id].start();
        }
        cluster.ready().await;
        for id in (0..3).filter(|id| *id != late) {
            log_is_cut(&cluster.servers[id], id).await;
        }
        cluster.servers[late].start();
        cluster.servers[late].live().await;
        cluster.servers[late].ready().await;
        let copies =
            |server: &Server| server.log_text().matches("fetching a copy of another replica's database").count();
        let before = copies(&cluster.servers[late]);
        assert!(before > 0, "it needed a copy: {}", cluster.servers[late].log_text());
        cluster.servers[late].kill().await;
        power.fail(&data[late]);
        cluster.servers[late].start();
        cluster.servers[late].live().await;
        cluster.servers[late].ready().await;
        assert_eq!(copies(&cluster.servers[late]), before, "the copy that it had got was lost");
        // The others have to hear from it first.
        eventually("all replicas hold the same", async || match cluster.cli(&["verify"]) {
            verified if verified.status.success() => Ok(()),
            verified => Err(text(&verified.stdout)),
        })
        .await;
        // Most of the data is in no log any more.
        kill_all(&mut cluster).await;
        data.iter().for_each(|data| power.fail(data));
        cluster.servers.iter_mut().for_each(Server::start);
        cluster.ready().await;
        check(&cluster.servers[0].thrift, &Told { together: 60, tried: 60, ..Told::default() }).await;
        assert_exit(&cluster.cli(&["verify"]), 0);
    });
}
