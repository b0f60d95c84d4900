//! Tests that health, readiness and problems are correct, for writes, too.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kv_api::KeyRef;
use kv_client::{Client, ClientError, ErrorCode, Options};
use serde_json::{Value, json};

use crate::harness::{Cluster, Server, Setup, assert_exit, is_root, run, skip, text};
use crate::waiting::eventually;

/// The kinds of problems that a server lists.
async fn problems(server: &Server) -> Vec<String> {
    let status = server.status().await.expect("a status");
    let problems = status["problems"].as_array().expect("a list").clone();
    for problem in &problems {
        let says = |field: &str| problem[field].as_str().is_some_and(|text| !text.is_empty());
        assert!(says("text") && says("remedy"), "{problem}");
    }
    problems.iter().map(|problem| problem["kind"].as_str().expect("a kind").to_string()).collect()
}

async fn code(server: &Server, path: &str) -> u16 {
    server.get(path).await.expect("an answer").0
}

fn set(server: &Server, key: &str, value: &str) -> Output {
    server.cli(&["set", key, value])
}

#[test]
fn a_server_without_problems_lists_none_and_is_ready_for_everything() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        server.ready().await;
        assert_eq!(problems(&server).await, Vec::<String>::new());
        let (code, body) = server.get("/health/ready?writes=1").await.expect("an answer");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, &body["ready"], &body["writes"]), (200, &json!(true), &json!(true)));
        let (code, body) = server.get("/health/live").await.expect("an answer");
        assert_eq!((code, body.as_str()), (200, r#"{"failures":[],"live":true}"#));
        let (code, body) = server.get("/health/ready?writes=perhaps").await.expect("an answer");
        assert!(code == 400 && body.contains("expected 1 or 0"), "{code} {body}");
    });
}

#[test]
fn replicas_are_ready_for_reads_and_not_for_writes_while_their_disks_are_full() {
    run(async {
        // The setting demands a petabyte of free space.
        let cluster = Cluster::start(Setup::toml("[storage]\nmin_free_mb = 1000000000\n")).await;
        for server in &cluster.servers {
            eventually("writes are refused", async || match server.get("/health/ready?writes=1").await? {
                (503, body) if body.contains("cannot serve writes now") => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
            assert_eq!(code(server, "/health/ready").await, 200);
            assert_eq!(code(server, "/health/live").await, 200);
        }
    });
}

#[test]
fn a_replica_alone_is_live_and_not_ready() {
    run(async {
        let mut cluster = Cluster::start(Setup::toml("[server]\nno_primary_wait_ms = 300\n")).await;
        cluster.servers[1].kill().await;
        cluster.servers[2].kill().await;
        let left = &cluster.servers[0];
        for path in ["/health/ready", "/health/ready?writes=1"] {
            eventually("the replica notices", async || match left.get(path).await? {
                (503, _) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
        assert_eq!(code(left, "/health/live").await, 200);
    });
}

#[test]
fn a_server_whose_data_directory_is_removed_ends_and_says_why() {
    run(async {
        let mut server = Server::standalone(Setup::default()).await;
        server.ready().await;
        assert_exit(&set(&server, "k", "v"), 0);
        std::fs::rename(&server.data_dir, server.data_dir.with_extension("gone")).expect("renamed");
        assert_eq!(server.ended().await.code(), Some(1));
        assert!(server.log_text().contains("is gone: the data directory was removed"), "{}", server.log_text());
    });
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_restart_in_place_refuses_another_directory() {
    run(async {
        let mut server = Server::standalone(Setup::default()).await;
        server.ready().await;
        let client = client(&server).await;
        let aside = server.data_dir.with_extension("gone");
        // The write fails, and its directory is replaced by an empty one before the database is
        // opened again.
        limit_files(&server, "3");
        write_until_failure(&client).await;
        std::fs::rename(&server.data_dir, &aside).expect("renamed");
        std::fs::create_dir(&server.data_dir).expect("a folder");
        limit_files(&server, "1024");
        assert_eq!(server.ended().await.code(), Some(1));
        assert!(server.log_text().contains("is gone: the data directory was removed"), "{}", server.log_text());
        assert_eq!(std::fs::read_dir(&server.data_dir).expect("a folder").count(), 0);
    });
}

#[test]
fn a_replica_whose_data_directory_is_removed_ends_and_the_others_serve_on() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        let victim = cluster.primary().await;
        std::fs::remove_dir_all(&cluster.servers[victim].data_dir).expect("removed");
        assert_eq!(cluster.servers[victim].ended().await.code(), Some(1));
        cluster.ready().await;
        let output = cluster.cli(&["get", "k"]);
        assert_exit(&output, 0);
        assert_eq!(text(&output.stdout).trim_end(), "v");
    });
}

/// A client with short timeouts.
async fn client(server: &Server) -> Client {
    let options = Options { request_timeout: Duration::from_secs(3), ..Options::default() };
    Client::connect([server.thrift.as_str()], options).await.expect("the server listens")
}

/// Writes until a write fails. It writes more than the write buffers hold, so that RocksDB must
/// open files.
async fn write_until_failure(client: &Client) -> ClientError {
    let mut random = 1u64;
    for row in 0..10_000 {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        })
        .take(50_000)
        .collect();
        if let Err(error) = client.set(KeyRef::new(format!("row {row}")), value).await {
            return error;
        }
    }
    panic!("500 MB were written, and no write failed");
}

/// Waits until a write succeeds.
async fn writes_go_on(server: &Server) {
    eventually("writes go on", async || match set(server, "after", "2") {
        output if output.status.success() => Ok(()),
        output => Err(text(&output.stderr)),
    })
    .await;
}

/// Sets the soft limit of open files of a running process.
fn limit_files(server: &Server, soft: &str) {
    let limited =
        Command::new("prlimit").args(["--pid", &server.id().to_string(), &format!("--nofile={soft}:")]).status();
    assert!(limited.expect("prlimit runs").success());
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_standalone_server_recovers_from_a_failed_write_by_itself() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        server.ready().await;
        assert_exit(&set(&server, "before", "1"), 0);
        let client = client(&server).await;
        let process = server.id();
        // Open files stay open; only opening new ones fails.
        limit_files(&server, "3");
        let failure = write_until_failure(&client).await;
        assert!(failure.maybe_committed(), "{failure:?}");
        limit_files(&server, "1024");
        // It is the same process, and acknowledged rows are there.
        writes_go_on(&server).await;
        assert_eq!(server.id(), process);
        assert_eq!(text(&server.cli(&["get", "before"]).stdout).trim_end(), "1");
        let log = server.log_text();
        assert!(log.contains("the server stops and starts again in this process"), "{log}");
        assert!(log.contains("the server has started again, and serves"), "{log}");
        eventually("the problem has passed", async || match server.status().await?["problems"].as_array() {
            Some(problems) if problems.is_empty() => Ok(()),
            problems => Err(format!("{problems:?}")),
        })
        .await;
    });
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_replica_that_lacks_descriptors_recovers_by_itself_while_the_others_serve() {
    run(async {
        // Frequent flushes, so that the database needs new files long before the log does.
        let cluster = Cluster::start(Setup::toml("[replication]\nlog_flush_mb = 1\nwal_segment_mb = 64\n")).await;
        let primary = cluster.primary().await;
        let (victim, other) = ((primary + 1) % 3, (primary + 2) % 3);
        let process = cluster.servers[victim].id();
        let client = client(&cluster.servers[other]).await;
        limit_files(&cluster.servers[victim], "3");
        let value: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut row = 0;
        while !cluster.servers[victim].log_text().contains("stops and starts again in this process") {
            assert!(row < 20_000, "a gigabyte was written, and no file had to be opened");
            row += 1;
            client.set(KeyRef::new(format!("row {row}")), value.clone()).await.expect("two of three replicas are well");
        }
        limit_files(&cluster.servers[victim], "1024");
        cluster.servers[victim].ready().await;
        assert_eq!(cluster.servers[victim].id(), process);
        eventually("all replicas hold the same rows", async || match cluster.cli(&["verify"]) {
            output if output.status.success() => Ok(()),
            output => Err(text(&output.stdout) + &text(&output.stderr)),
        })
        .await;
    });
}

/// A small file system, mounted while the test runs.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Option<SmallDisk> {
        if !is_root() {
            skip("only root mounts file systems");
            return None;
        }
        std::fs::create_dir_all(at).expect("a folder");
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        if !mounted.expect("mount runs").success() {
            skip("no file system can be mounted here");
            return None;
        }
        Some(SmallDisk(at.to_path_buf()))
    }

    /// Fills the file system until `left_mb` megabytes are free.
    fn fill(&self, left_mb: u64) -> PathBuf {
        let free = rustix::fs::statvfs(&self.0).expect("a mounted file system");
        let bytes = (free.f_bavail * free.f_frsize).saturating_sub(left_mb << 20);
        let path = self.0.join("ballast");
        std::fs::write(&path, vec![7; usize::try_from(bytes).expect("small")]).expect("space");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounts lazily, so that a server that runs for a moment longer does not keep it mounted.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_standalone_server_whose_disk_filled_up_continues_once_there_is_space() {
    run(async {
        let mut server = Server::not_started(Setup::toml("[storage]\nmin_free_mb = 0\n"));
        let Some(disk) = SmallDisk::mount(&server.data_dir, 200) else { return };
        server.start();
        server.live().await;
        server.ready().await;
        assert_exit(&set(&server, "before", "1"), 0);
        let client = client(&server).await;
        let ballast = disk.fill(3);
        let failure = write_until_failure(&client).await;
        assert!(failure.maybe_committed(), "{failure:?}");
        std::fs::remove_file(ballast).expect("removed");
        writes_go_on(&server).await;
        assert_eq!(text(&server.cli(&["get", "before"]).stdout).trim_end(), "1");
        server.stop().await;
    });
}

#[cfg(feature = "rocksdb")]
#[test]
fn writes_are_refused_before_they_fail_also_where_they_come_fast() {
    run(async {
        let mut server = Server::not_started(Setup::toml("[storage]\nmin_free_mb = 100\n"));
        let Some(disk) = SmallDisk::mount(&server.data_dir, 400) else { return };
        server.start();
        server.live().await;
        server.ready().await;
        let client = client(&server).await;
        let ballast = disk.fill(140);
        eventually("the server has seen that", async || match server.status().await?["free_bytes"].as_u64() {
            Some(free) if free <= 140 << 20 => Ok(()),
            free => Err(format!("{free:?} bytes are free")),
        })
        .await;
        let failure = write_until_failure(&client).await;
        assert_eq!(failure.code(), Some(&ErrorCode::StorageFull), "{failure:?}");
        assert_eq!(problems(&server).await, ["disk_full"]);
        assert_eq!(code(&server, "/health/ready").await, 200);
        assert_eq!(code(&server, "/health/ready?writes=1").await, 503);
        std::fs::remove_file(ballast).expect("removed");
        writes_go_on(&server).await;
        assert!(!server.log_text().contains("writing failed"), "{}", server.log_text());
        server.stop().await;
    });
}

/// A file system that can be frozen, which blocks all writers until it is thawed.
struct FreezableDisk {
    place: PathBuf,
    /// Holds the file that contains the file system.
    _folder: tempfile::TempDir,
}

impl FreezableDisk {
    fn mount(at: &Path) -> Option<FreezableDisk> {
        if !is_root() {
            skip("only root mounts file systems");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk");
        File::create(&image).and_then(|file| file.set_len(512 << 20)).expect("a file");
        std::fs::create_dir_all(at).expect("a folder");
        let runs = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = runs(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))
            && runs(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        if !made {
            skip("no file system in a file can be made and mounted here");
            return None;
        }
        // A new file system contains this directory, but the data directory must be empty.
        let _ = std::fs::remove_dir(at.join("lost+found"));
        Some(FreezableDisk { place: at.to_path_buf(), _folder: folder })
    }

    fn freeze(&self) {
        assert!(Command::new("fsfreeze").arg("-f").arg(&self.place).status().expect("fsfreeze runs").success());
    }

    fn thaw(&self) -> bool {
        Command::new("fsfreeze").arg("-u").arg(&self.place).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }
}

impl Drop for FreezableDisk {
    fn drop(&mut self) {
        // It may have been thawed already.
        let _ = self.thaw();
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

/// These tests take long because they test a stall of half a minute.
async fn is_live_again_after_a_freeze(
    server: &Server,
    disk: &FreezableDisk,
    thread: &str,
    while_frozen: impl AsyncFn(&Server),
) {
    let client = client(server).await;
    disk.freeze();
    let stuck = tokio::spawn(async move { client.set(KeyRef::new("stuck"), "1").await });
    eventually("the process is not live", async || match server.get("/health/live").await? {
        (503, body) if body.contains(thread) && body.contains("stood still") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    while_frozen(server).await;
    assert!(disk.thaw());
    eventually("the process is live again", async || match server.get("/health/live").await? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // The write timed out, so it may have happened or not.
    let _ = stuck.await.expect("no panic");
    writes_go_on(server).await;
}

async fn names_the_disk(server: &Server) {
    eventually("the status names the disk as the limit", async || {
        let (_, body) = server.get("/status").await?;
        let status: serde_json::Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        match status["limited_by"]["name"].as_str() {
            Some("disk_sync") => Ok(()),
            _ => Err(status["limited_by"].to_string()),
        }
    })
    .await;
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_standalone_server_is_not_live_while_its_disk_hangs() {
    run(async {
        let mut server = Server::not_started(Setup::default());
        let Some(disk) = FreezableDisk::mount(&server.data_dir) else { return };
        server.start();
        server.live().await;
        server.ready().await;
        is_live_again_after_a_freeze(&server, &disk, "group-commit", async |_| {}).await;
        server.stop().await;
    });
}

#[test]
fn a_replica_whose_disk_hangs_is_not_live_and_the_others_serve_on() {
    run(async {
        let mut cluster = Cluster::not_started(Setup::default());
        let Some(disk) = FreezableDisk::mount(&cluster.servers[1].data_dir) else { return };
        for server in &mut cluster.servers {
            server.start();
        }
        cluster.ready().await;
        is_live_again_after_a_freeze(&cluster.servers[1], &disk, "rsml-log-1", names_the_disk).await;
        cluster.ready().await;
        for server in &mut cluster.servers {
            server.stop().await;
        }
    });
}
