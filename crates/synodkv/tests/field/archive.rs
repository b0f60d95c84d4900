//! Tests of `synodkv backup watch` and of restores to points in time, with real servers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use kv_client::{Client, Options};
use serde_json::Value;

use crate::harness::{Cluster, PROGRAM, Server, Setup, assert_exit, cli, run, text};
use crate::waiting::eventually;

fn json(output: &Output) -> Value {
    assert_exit(output, 0);
    serde_json::from_slice(&output.stdout).expect("one document")
}

/// The hashes and numbers of the rows of each family that has any.
async fn hashes(server: &Server, version: Option<u64>) -> Result<BTreeMap<String, (String, u64)>, String> {
    let mut hashes = BTreeMap::new();
    for family in ["default", "users", "x"] {
        let at = version.map(|version| format!("&version={version}")).unwrap_or_default();
        let (code, body) = server.get(&format!("/rows/hash?family={family}&limit=1000000{at}")).await?;
        let document: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        match (code, document["count"].as_u64()) {
            (200, Some(count)) if count > 0 => {
                hashes.insert(family.to_string(), (document["hash"].as_str().expect("a hash").to_string(), count));
            }
            (200, _) => {}
            _ if body.contains("not found; there ") => {}
            _ => return Err(body),
        }
    }
    Ok(hashes)
}

fn watch(cluster: &Cluster, url: &str, more: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["backup", "watch", "--to", url, "--every", "1s"]).args(more);
    command.env("SYNODKV_ADDR", cluster.thrift()).env("SYNODKV_ADMIN", cluster.admin());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs")
}

/// Asks it to end, and waits for that.
async fn end(child: Child) -> Output {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().expect("it ends")
}

async fn archived(server: &Server, url: &str, version: u64) {
    eventually("the archive has the version", async || {
        let listed = json(&server.cli(&["backup", "list", url, "--format", "json"]));
        let windows = listed["restorable"].as_array().expect("an array");
        let newest = windows.last().and_then(|window| window["to_version"].as_u64());
        if newest >= Some(version) { Ok(()) } else { Err(listed.to_string()) }
    })
    .await;
}

async fn restored(from: &str, more: &[&str]) -> (Server, Value) {
    let mut single = Server::not_started(Setup::default());
    let (config, data_dir) = (single.config.display().to_string(), single.data_dir.display().to_string());
    let arguments = ["restore", "--from", from, "--config", &config, "--data-dir", &data_dir, "--format", "json"];
    let document = json(&cli(&single.thrift, &single.admin, &[&arguments[..], more].concat(), b""));
    single.start();
    single.live().await;
    (single, document)
}

/// Commands to the cluster; each makes one version, or none.
const STEPS: [&[&str]; 14] = [
    &["txn", "-e", "set a 1", "-e", "set b 2", "-e", "add counter 5"],
    &["family", "create", "users"],
    &["txn", "-e", "add counter 7", "-e", "set c 3"],
    &["set", "--family", "users", "ada", "1"],
    &["set", "--family", "users", "grace", "2"],
    &["txn", "-e", "clear a b", "-e", "set a2 9"],
    &["set", "d", "4"],
    &["delete", "c"],
    &["family", "drop", "users"],
    &["txn", "-e", "add counter 1"],
    &["family", "create", "users"],
    &["set", "--family", "users", "alan", "3"],
    &["set", "b", "5"],
    &["txn", "-e", "clear b c"],
];

#[test]
fn every_version_of_a_cluster_that_loses_its_primary_is_restored_from_the_archive() {
    run(async {
        let mut cluster = Cluster::start(Setup::default()).await;
        let folder = tempfile::tempdir().expect("a folder");
        let url = folder.path().join("backups").display().to_string();
        assert_exit(&cluster.cli(&["set", "first", "0"]), 0);
        let refused = cluster.cli(&["backup", "watch", "--to", &url]);
        assert_exit(&refused, 2);
        assert_exit(&cluster.cli(&["backup", "create", "--to", &url]), 0);
        let archiver = watch(&cluster, &url, &[]);

        let addresses: Vec<String> = cluster.thrift().split(',').map(str::to_string).collect();
        let client = Client::connect(addresses, Options::default()).await.expect("a client");
        let mut expected = BTreeMap::new();
        for (number, step) in STEPS.iter().enumerate() {
            if number == STEPS.len() / 2 {
                let primary = cluster.primary().await;
                cluster.servers[primary].kill().await;
                eventually("a write succeeds again", async || {
                    let output = cluster.cli(&["set", "after", "kill"]);
                    output.status.success().then_some(()).ok_or_else(|| text(&output.stderr))
                })
                .await;
                cluster.servers[primary].start();
                cluster.ready().await;
            }
            assert_exit(&cluster.cli(step), 0);
            let version = client.read_version().await.expect("a version").0;
            let primary = cluster.primary().await;
            let found =
                eventually("the rows of the version", async || hashes(&cluster.servers[primary], Some(version)).await);
            expected.insert(version, found.await);
        }
        let newest = *expected.keys().last().expect("there are versions");
        archived(&cluster.servers[0], &url, newest).await;
        let ended = end(archiver).await;
        assert_exit(&ended, 0);
        assert!(text(&ended.stdout).contains("lag 0 versions"), "{}", text(&ended.stdout));
        assert_exit(&cluster.cli(&["backup", "verify", &url]), 0);

        for (version, rows) in &expected {
            let (server, document) = restored(&url, &["--at", &version.to_string()]).await;
            assert_eq!(document["restored_version"].as_u64(), Some(*version));
            assert_eq!(hashes(&server, None).await.unwrap(), *rows, "version {version} differs");
        }
        // Without --at, it is the newest; a version that is not archived is refused with all that is.
        let (server, document) = restored(&url, &[]).await;
        assert_eq!(document["restored_version"].as_u64(), Some(newest));
        assert_eq!(hashes(&server, None).await.unwrap(), expected[&newest]);
        let new = folder.path().join("new").display().to_string();
        for wrong in [["--at", "99999999"], ["--time", "2001-01-01T00:00:00Z"]] {
            let refused = cluster.cli(&[&["restore", "--from", &url, "--data-dir", &new][..], &wrong].concat());
            assert_exit(&refused, 2);
            let said = text(&refused.stderr);
            assert!(
                said.contains("cannot be restored; what can be: versions") && said.contains(&newest.to_string()),
                "{said}"
            );
            assert!(!Path::new(&new).exists(), "something was written");
        }
    });
}

#[test]
fn a_second_archiver_takes_over_and_an_archiver_that_was_away_for_too_long_asks_for_a_full_backup() {
    run(async {
        let setup = Setup::toml("[changes]\nmax_mb = 1\n");
        let cluster = Cluster::start(setup).await;
        let folder = tempfile::tempdir().expect("a folder");
        let url = folder.path().join("backups").display().to_string();
        assert_exit(&cluster.cli(&["set", "first", "0"]), 0);
        assert_exit(&cluster.cli(&["backup", "create", "--to", &url]), 0);
        let first = watch(&cluster, &url, &[]);
        assert_exit(&cluster.cli(&["set", "second", "0"]), 0);
        let listed = || json(&cluster.cli(&["backup", "list", &url, "--format", "json"]));
        let begin = listed()["restorable"][0]["from_version"].as_u64().expect("a version");
        archived(&cluster.servers[0], &url, begin + 1).await;
        let second = watch(&cluster, &url, &[]);
        let written = eventually("the first archiver ends", async || {
            assert_exit(&cluster.cli(&["set", "third", "0"]), 0);
            let claims = std::fs::read_dir(Path::new(&url).join("log/claims")).map(Iterator::count);
            claims.map_err(|error| error.to_string())
        });
        assert_eq!(written.await, 1);
        let mut first = first;
        eventually("the first archiver ends", async || {
            assert_exit(&cluster.cli(&["set", "fourth", "0"]), 0);
            match first.try_wait().expect("its status") {
                Some(status) => Ok(status.code()),
                None => Err("it runs".to_string()),
            }
        })
        .await;
        let ended = first.wait_with_output().expect("it has ended");
        assert_exit(&ended, 1);
        assert!(text(&ended.stderr).contains("another archiver (process "), "{}", text(&ended.stderr));
        assert_exit(&end(second).await, 0);

        // More than the journal keeps.
        let rows: String = (0..40).map(|row| format!("key{row}\t{}\n", "x".repeat(100_000))).collect();
        for _ in 0..2 {
            assert_exit(&cli(&cluster.thrift(), &cluster.admin(), &["import", "--no-header"], rows.as_bytes()), 0);
        }
        let refused = cluster.cli(&["backup", "watch", "--to", &url, "--once"]);
        assert_exit(&refused, 1);
        let said = text(&refused.stderr);
        assert!(said.contains(&format!("synodkv backup create --to {url}")), "{said}");
        assert_exit(&cluster.cli(&["backup", "create", "--to", &url]), 0);
        let goes_on = cluster.cli(&["backup", "watch", "--to", &url, "--once"]);
        assert_exit(&goes_on, 0);
        assert!(text(&goes_on.stderr).contains("no server has them any more"), "{}", text(&goes_on.stderr));
        assert_exit(&cluster.cli(&["set", "last", "0"]), 0);
        assert_exit(&cluster.cli(&["backup", "watch", "--to", &url, "--once"]), 0);
        assert_eq!(listed()["restorable"].as_array().map(Vec::len), Some(2), "{}", listed());
        assert_exit(&cluster.cli(&["backup", "verify", &url]), 0);
    });
}
