//! Tests of `backup create` that loses a server, or is stopped itself, at each of its pages.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_client::{Client, ClientError, Options, Transaction};
use serde_json::Value;

use crate::harness::{Cluster, PROGRAM, Server, Setup, assert_exit, run, signal, text};
use crate::waiting::eventually;

/// Rows of 100 kB, of which a page has 41.
const ROWS: u32 = 200;
/// All pages, the last of them small.
const PAGES: u64 = 6;
/// So many of the pages must be met; on a busy machine, a backup may have ended before a signal reaches it.
const MOST: u32 = 4;

async fn fill(cluster: &Cluster) {
    let addresses: Vec<String> = cluster.servers.iter().map(|server| server.thrift.clone()).collect();
    let database = Client::connect(addresses, Options::default()).await.expect("a client").database();
    assert_exit(&cluster.cli(&["family", "create", "users"]), 0);
    for first in (0..ROWS).step_by(20) {
        let body = |tx: Transaction| async move {
            for number in first..first + 20 {
                tx.set(format!("row/{number:06}"), vec![number as u8; 100_000]);
                tx.family("users").set(format!("user/{number:06}"), number.to_string());
            }
            Ok::<(), ClientError>(())
        };
        database.run(body).await.expect("rows are written");
    }
}

/// Writes small rows, in both families at once, until it has to stop.
async fn load(cluster: &Cluster, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let addresses: Vec<String> = cluster.servers.iter().map(|server| server.thrift.clone()).collect();
    let database = Client::connect(addresses, Options::default()).await.expect("a client").database();
    tokio::spawn(async move {
        let mut number = 0u64;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let body = |tx: Transaction| async move {
                tx.set(format!("load/{:03}", number % 100), number.to_string());
                tx.family("users").set(format!("load/{:03}", number % 100), number.to_string());
                Ok::<(), ClientError>(())
            };
            // While the primary is away, an outcome may be unknown.
            let _ = database.run(body).await;
        }
    })
}

/// A figure of a server, without its labels; 0 while it has none.
async fn figure(server: &Server, name: &str) -> Result<u64, String> {
    let (_, metrics) = server.get("/metrics").await?;
    let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>() as u64)
}

const PINS: &str = "synodkv_database_pins";
const PAGES_READ: &str = "synodkv_requests_total{method=\"snapshotGetRange\"}";

/// A backup under way.
struct Backup {
    child: Child,
    /// Pages that each server had answered before, and its pins.
    before: Vec<(u64, u64)>,
}

impl Backup {
    async fn start(cluster: &Cluster, place: &Path, mb_per_second: &str) -> Backup {
        let mut before = Vec::new();
        for server in &cluster.servers {
            let pages = figure(server, PAGES_READ).await.expect("it answers");
            before.push((pages, figure(server, PINS).await.expect("it answers")));
        }
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "backup",
                "create",
                "--format",
                "json",
                "--mb-per-second",
                mb_per_second,
                "--timeout-seconds",
                "5",
                "--to",
            ])
            .arg(place);
        command.env("SYNODKV_ADDR", cluster.thrift()).env("SYNODKV_ADMIN", cluster.admin());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        Backup { child, before }
    }

    /// Waits until so many pages were read, and returns the server that they are read from.
    async fn page(&self, cluster: &Cluster, page: u64) -> usize {
        eventually("the page is read", async || {
            for (place, server) in cluster.servers.iter().enumerate() {
                let (pages, pins) = (figure(server, PAGES_READ).await?, figure(server, PINS).await?);
                let (pages_before, pins_before) = self.before[place];
                if pages >= pages_before + page.max(1) || page == 0 && pins > pins_before {
                    return Ok(place);
                }
            }
            Err("not yet".to_string())
        })
        .await
    }

    async fn end(self) -> Output {
        let ended = tokio::task::spawn_blocking(move || self.child.wait_with_output()).await;
        ended.expect("no panic").expect("it ends")
    }
}

fn manifest(place: &Path, made: &Value) -> Value {
    let folder = made["folder"].as_str().expect("a folder");
    let text = std::fs::read(place.join(folder).join("manifest.json")).expect("a manifest");
    serde_json::from_slice(&text).expect("a document")
}

/// Every chunk of the backup has the rows that this server has at the version of the backup.
async fn compare(server: &Server, manifest: &Value) {
    let version = &manifest["summary"]["version"];
    let (mut rows, chunks) = (0, manifest["content"]["chunks"].as_array().expect("chunks"));
    for chunk in chunks {
        let name = match chunk["family"].as_str().expect("a name") {
            "" => "default",
            name => name,
        };
        let (first, limit) = (chunk["first_key"].as_str().expect("a key"), &chunk["rows"]);
        let path = format!("/rows/hash?family={name}&begin={first}&limit={limit}&version={version}");
        let (code, body) = server.get(&path).await.expect("it answers");
        assert_eq!(code, 200, "{body}");
        let found: Value = serde_json::from_str(&body).expect("a document");
        assert_eq!((&found["count"], &found["hash"]), (&chunk["rows"], &chunk["hash"]), "rows from {first} on");
        rows += found["count"].as_u64().expect("a number");
    }
    assert_eq!(Some(rows), manifest["summary"]["rows"].as_u64());
    assert!(rows >= 2 * u64::from(ROWS), "{rows} rows");
}

#[test]
fn a_backup_is_one_version_whichever_server_is_killed_at_whichever_page() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        fill(&cluster).await;
        let stop = Arc::<AtomicBool>::default();
        let loading = load(&cluster, stop.clone()).await;
        let folder = tempfile::tempdir().expect("a folder");
        for page in 0..=PAGES {
            for kills_primary in [false, true] {
                let place = folder.path().join(format!("{page}-{kills_primary}"));
                let backup = Backup::start(&cluster, &place, "40").await;
                let read = backup.page(&cluster, page).await;
                let victim = if kills_primary { cluster.primary().await } else { read };
                cluster.servers[victim].kill().await;
                let output = backup.end().await;
                assert_exit(&output, 0);
                let made: Value = serde_json::from_slice(&output.stdout).expect("a document");
                let other = &cluster.servers[(victim + 1) % 3];
                compare(other, &manifest(&place, &made)).await;
                cluster.servers[victim].start();
                cluster.ready().await;
            }
        }
        stop.store(true, Ordering::Relaxed);
        loading.await.expect("no panic");
    });
}

#[test]
fn a_backup_that_is_stopped_at_any_page_is_none_and_leaves_no_pin() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        fill(&cluster).await;
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("backups");
        let url = place.display().to_string();
        let (mut killed, mut interrupted) = (0, 0);
        for page in 0..=PAGES {
            // Killed: it is none.
            let mut backup = Backup::start(&cluster, &place, "10").await;
            backup.page(&cluster, page).await;
            backup.child.kill().expect("a child of ours");
            let is_made = backup.end().await.status.success();
            killed += u32::from(!is_made);
            let listed: Value =
                serde_json::from_slice(&cluster.cli(&["backup", "list", &url, "--format", "json"]).stdout)
                    .expect("a list");
            let complete = listed["backups"].as_array().expect("a list").iter();
            assert!(is_made || complete.clone().all(|entry| entry["state"] == "unfinished"), "{listed}");
            std::fs::remove_dir_all(&place).expect("it began");

            // Interrupted: it leaves nothing, here or there.
            let backup = Backup::start(&cluster, &place, "10").await;
            let read = backup.page(&cluster, page).await;
            let pins = figure(&cluster.servers[read], PINS).await.expect("it answers");
            signal(backup.child.id(), "TERM");
            let output = backup.end().await;
            if output.status.success() {
                std::fs::remove_dir_all(&place).expect("it is there");
                continue;
            }
            interrupted += 1;
            assert_exit(&output, 1);
            assert!(text(&output.stderr).contains("terminated; there is no new backup"), "{}", text(&output.stderr));
            let left: Vec<_> = std::fs::read_dir(place.join("full")).into_iter().flatten().flatten().collect();
            let objects = left.iter().flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder"));
            assert_eq!(objects.count(), 0, "objects are left behind");
            let after = figure(&cluster.servers[read], PINS).await.expect("it answers");
            assert!(after < pins, "the pin is still there: {after} of {pins}");
        }
        assert!(killed >= MOST && interrupted >= MOST, "{killed} were killed and {interrupted} interrupted");
        assert_exit(&cluster.cli(&["backup", "create", "--to", &url]), 0);
        assert_exit(&cluster.cli(&["backup", "verify", &url]), 0);
    });
}
