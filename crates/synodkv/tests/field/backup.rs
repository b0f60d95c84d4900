//! Tests of `synodkv backup` and `synodkv restore` with real servers: under load, with servers that
//! are killed in the middle, and into clusters of other sizes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kv_client::{Client, KeyRef, Options, Range};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Cluster, PROGRAM, Server, Setup, assert_exit, cli, run, text};
use crate::waiting::eventually;

/// Writes rows until it ends.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    async fn start(addresses: String) -> Load {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let addresses: Vec<String> = addresses.split(',').map(str::to_string).collect();
        let client = Client::connect(addresses, Options::default()).await.expect("a client");
        let database = client.database();
        let (stopped, count) = (stop.clone(), written.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                // Both rows have the same number at every version.
                let body = |tx: kv_client::Transaction| async move {
                    tx.set("left", number.to_string());
                    tx.family("users").set("right", number.to_string());
                    tx.set(format!("load/{:04}", number % 500), number.to_string());
                    Ok::<(), kv_client::ClientError>(())
                };
                if database.run(body).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Load { stop, written, task }
    }

    async fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        eventually("the load goes on", async || match self.written.load(Ordering::Relaxed) {
            now if now > before + 5 => Ok(()),
            now => Err(format!("{now} writes")),
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load does not panic");
    }
}

/// Rows of both families, enough for several pages of a backup.
async fn fill(addresses: String, rows: u32) {
    let addresses: Vec<String> = addresses.split(',').map(str::to_string).collect();
    let database = Client::connect(addresses, Options::default()).await.expect("a client").database();
    for first in (0..rows).step_by(500) {
        let body = |tx: kv_client::Transaction| async move {
            for number in first..first + 500 {
                tx.set(format!("row/{number:06}"), vec![number as u8; 500]);
                tx.family("users").set(format!("user/{number:06}"), [number.to_be_bytes(); 5].concat());
            }
            Ok::<(), kv_client::ClientError>(())
        };
        database.run(body).await.expect("rows are written");
    }
}

fn json(output: &std::process::Output) -> Value {
    assert_exit(output, 0);
    serde_json::from_slice(&output.stdout).expect("one document")
}

/// The hashes of the rows of both families, at a version or the newest one.
async fn hashes(server: &Server, version: Option<u64>) -> Result<Vec<(String, u64)>, String> {
    let mut hashes = Vec::new();
    for family in ["default", "users"] {
        let at = version.map(|version| format!("&version={version}")).unwrap_or_default();
        let (code, body) = server.get(&format!("/rows/hash?family={family}&limit=1000000{at}")).await?;
        if code != 200 {
            return Err(body);
        }
        let document: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        assert!(document["next"].is_null(), "{document}");
        hashes
            .push((document["hash"].as_str().expect("a hash").to_string(), document["count"].as_u64().expect("rows")));
    }
    Ok(hashes)
}

fn restore(from: &Path, server: &Server, more: &[&str]) -> std::process::Output {
    let (from, config) = (from.display().to_string(), server.config.display().to_string());
    let arguments = ["restore", "--from", &from, "--config", &config, "--format", "json"];
    cli(&server.thrift, &server.admin, &[&arguments[..], more].concat(), b"")
}

/// Restores a whole new cluster, and starts it.
async fn restored_cluster(from: &Path) -> Cluster {
    let mut cluster = Cluster::not_started(Setup::default());
    let first = json(&restore(from, &cluster.servers[0], &[]));
    let token = first["founding"].as_str().expect("a token").to_string();
    for server in &cluster.servers[1..] {
        let next = json(&restore(from, server, &["--founding", &token]));
        assert_eq!(next["cluster_id"], first["cluster_id"]);
    }
    for server in &mut cluster.servers {
        server.start();
    }
    cluster.ready().await;
    cluster
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("backups");
    (folder, path)
}

#[test]
fn a_backup_under_load_is_one_version_and_is_restored_onto_one_replica_and_three() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["family", "create", "users"]), 0);
        fill(cluster.thrift(), 4_000).await;
        let load = Load::start(cluster.thrift()).await;
        load.goes_on().await;
        let (_folder, place) = place();
        let url = place.display().to_string();
        let made = json(&cluster.cli(&["backup", "create", "--to", &url, "--format", "json"]));
        let version = made["version"].as_u64().expect("a version");
        let original = hashes(&cluster.servers[0], Some(version)).await.expect("the version is readable still");
        load.goes_on().await;
        load.end().await;
        assert_eq!(made["rows"].as_u64(), Some(original.iter().map(|(_, rows)| rows).sum()));
        assert_exit(&cluster.cli(&["backup", "verify", &url]), 0);
        assert_exit(&cluster.cli(&["backup", "verify", &url, "--restore-test"]), 0);

        let mut single = Server::not_started(Setup::default());
        let restored = json(&restore(&place, &single, &[]));
        single.start();
        single.live().await;
        let first_version = restored["version"].as_u64().expect("a version");
        assert!(first_version > version + (1 << 31), "{restored}");
        assert_eq!(hashes(&single, None).await.unwrap(), original);
        let refused = hashes(&single, Some(version)).await.unwrap_err();
        assert!(refused.contains("readable") || refused.contains("old"), "{refused}");

        let mut three = restored_cluster(&place).await;
        for server in &three.servers {
            assert_eq!(hashes(server, None).await.unwrap(), original);
        }
        let client = Client::connect([three.servers[0].thrift.clone()], Options::default()).await.expect("a client");
        let get = async |family: &str, key: &str| {
            let key = KeyRef { key: key.as_bytes().to_vec().into(), column_family: family.to_string() };
            client.get(key).await.expect("a value").expect("a row")
        };
        assert_eq!(get("", "left").await, get("users", "right").await, "a transaction was torn");
        // It works as a cluster does: with writes, the loss of a replica, and its return.
        let load = Load::start(three.thrift()).await;
        load.goes_on().await;
        let primary = three.primary().await;
        three.servers[primary].kill().await;
        load.goes_on().await;
        three.servers[primary].start();
        three.ready().await;
        load.goes_on().await;
        load.end().await;
        let verified = json(&three.cli(&["verify", "--format", "json"]));
        assert!(verified["agree"] == true && verified["version"].as_u64() > Some(first_version), "{verified}");
    });
}

#[test]
fn a_backup_goes_on_at_its_version_when_the_server_that_it_reads_is_killed() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["family", "create", "users"]), 0);
        fill(cluster.thrift(), 20_000).await;
        let original = hashes(&cluster.servers[0], None).await.unwrap();
        let (_folder, place) = place();
        let mut command = Command::new(PROGRAM);
        command.args(["backup", "create", "--format", "json", "--mb-per-second", "2", "--to"]).arg(&place);
        command.env("SYNODKV_ADDR", cluster.thrift()).env("SYNODKV_ADMIN", cluster.admin());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        let read = eventually("a server has the pin", async || {
            for (place, server) in cluster.servers.iter().enumerate() {
                let (_, metrics) = server.get("/metrics").await?;
                let mut pins = metrics.lines().filter(|line| line.starts_with("synodkv_database_pins"));
                if pins.any(|line| line.ends_with(" 1")) {
                    return Ok(place);
                }
            }
            Err("none".to_string())
        })
        .await;
        let primary = cluster.primary().await;
        assert_ne!(read, primary, "it reads from the primary");
        let address = cluster.servers[read].thrift.clone();
        cluster.servers[read].kill().await;
        // Versions after the pinned one are not in the backup.
        assert_exit(
            &cli(&cluster.servers[primary].thrift, &cluster.servers[primary].admin, &["set", "later", "1"], b""),
            0,
        );
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().expect("it ends");
        let made = json(&output);
        assert_ne!(made["server"], address.as_str(), "it was finished by another server");
        let mut single = Server::not_started(Setup::default());
        json(&restore(&place, &single, &[]));
        single.start();
        single.live().await;
        assert_eq!(hashes(&single, None).await.unwrap(), original);
    });
}

#[test]
fn a_restore_refuses_what_it_cannot_do_before_anything_is_written() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        assert_exit(&server.cli(&["set", "hello", "world"]), 0);
        let (folder, place) = place();
        let (key, other) = (folder.path().join("key"), folder.path().join("other"));
        let url = place.display().to_string();
        for file in [&key, &other] {
            assert_exit(&server.cli(&["backup", "key", "--out", &file.display().to_string()]), 0);
        }
        let (key, other) = (key.display().to_string(), other.display().to_string());
        assert_exit(&server.cli(&["backup", "create", "--to", &url, "--encrypt-with", &key]), 0);
        let new = Server::not_started(Setup::default());
        for keys in [&[][..], &["--key-file", &other]] {
            let refused = restore(&place, &new, keys);
            assert_exit(&refused, 2);
            assert!(text(&refused.stderr).contains("needs the key file with fingerprint"), "{}", text(&refused.stderr));
            assert!(!new.data_dir.exists(), "something was written");
        }
        let chunk = std::fs::read_dir(place.join("full")).unwrap().next().unwrap().unwrap().path().join("000001.chunk");
        let sound = std::fs::read(&chunk).unwrap();
        std::fs::remove_file(&chunk).unwrap();
        let refused = restore(&place, &new, &["--key-file", &key]);
        assert_exit(&refused, 1);
        assert!(text(&refused.stderr).contains("000001.chunk: it is missing"), "{}", text(&refused.stderr));
        assert!(!new.data_dir.exists(), "something was written");
        std::fs::write(&chunk, &sound).unwrap();
        json(&restore(&place, &new, &["--key-file", &key]));
        let refused = restore(&place, &new, &["--key-file", &key]);
        assert_exit(&refused, 1);
        assert!(text(&refused.stderr).contains("an empty or new --data-dir; nothing was written"));
    });
}

#[test]
fn a_range_is_restored_into_a_live_cluster_and_goes_on_after_a_kill() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        assert_exit(&server.cli(&["family", "create", "users"]), 0);
        fill(server.thrift.clone(), 10_000).await;
        let (folder, place) = place();
        let url = place.display().to_string();
        assert_exit(&server.cli(&["backup", "create", "--to", &url]), 0);
        let database = Client::connect([server.thrift.clone()], Options::default()).await.expect("a client").database();
        let rows = async |prefix: &str| {
            let tx = database.transaction();
            let rows = tx.get_range(Range::prefix(prefix.as_bytes().to_vec())).all().await.expect("rows");
            rows.into_iter().map(|row| (row.key.slice(prefix.len()..), row.value)).collect::<Vec<_>>()
        };
        let original = rows("row/").await;
        let into = ["restore", "--from", &url, "--into", &server.thrift, "--range", "row/", "row0"];
        let restore = |more: &[&str]| server.cli(&[&into[..], more].concat());
        assert_exit(&restore(&[]), 2);
        let refused = restore(&["--if-empty"]);
        assert_exit(&refused, 1);
        assert!(text(&refused.stderr).contains("nothing was written"), "{}", text(&refused.stderr));

        // Rows that were changed, added and removed since are as they were again.
        let damage =
            ["-e", "set row/000001 x", "-e", "delete row/000002", "-e", "set row/000001a y", "-e", "set row/~ z"];
        assert_exit(&server.cli(&[&["txn"][..], &damage].concat()), 0);
        assert_exit(&server.cli(&["set", "row0", "outside"]), 0);
        assert_exit(&restore(&["--overwrite", "--dry-run"]), 0);
        assert_ne!(rows("row/").await, original);
        assert_exit(&restore(&["--overwrite"]), 0);
        assert_eq!(rows("row/").await, original);
        assert_eq!(text(&server.cli(&["get", "row0"]).stdout), "outside");

        // Under another prefix, killed again and again.
        let checkpoint = folder.path().join("checkpoint.json").display().to_string();
        let moved = ["--if-empty", "--remove-prefix", "row/", "--add-prefix", "copy/", "--checkpoint", &checkpoint];
        let mut kills = 0;
        loop {
            let mut child = Command::new(PROGRAM);
            child.args(into).args(moved).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = child.spawn().expect("the program runs");
            let before = std::fs::read(&checkpoint).unwrap_or_default();
            let ended = eventually("it comes on or ends", async || match child.try_wait() {
                Ok(Some(status)) => Ok(Some(status)),
                _ if std::fs::read(&checkpoint).is_ok_and(|now| now != before) => Ok(None),
                _ => Err("neither".to_string()),
            })
            .await;
            if let Some(status) = ended {
                let mut said = String::new();
                std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
                assert!(status.success(), "{said}");
                break;
            }
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().expect("a child of ours");
            kills += 1;
        }
        assert!(kills > 2, "only {kills} kills");
        assert_eq!(rows("copy/").await, original);
        assert_eq!(rows("row/").await, original);
        let other = [&into[..], &["--overwrite", "--checkpoint", &checkpoint]].concat();
        let refused = server.cli(&other);
        assert_exit(&refused, 2);
        assert!(text(&refused.stderr).contains("of another restore"), "{}", text(&refused.stderr));
    });
}
