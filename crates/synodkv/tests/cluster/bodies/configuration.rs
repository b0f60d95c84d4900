//! Tests of refusals before or when a server opens its data, and of the mode with all replicas in
//! one process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use kv_client::KeyRef;

use crate::cluster::{Settings, TestCluster, connect};
use crate::clusters::{Member, ProcessTestCluster, configuration, program, signal};
use crate::on_clusters;
use crate::ports::{free_address, free_ports};
use crate::waiting::eventually;

on_clusters! {
    data_is_not_opened_under_another_identity(Settings::default()): processes;
    data_of_another_cluster_is_not_mixed_in(Settings::impatient()): processes;
}

/// The text of a refusal, after a check of its exit status.
#[track_caller]
fn refused(output: &Output, status: i32) -> String {
    let (said, reason) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{said}{reason}");
    assert_eq!(said, "", "a server that does not start must not call itself ready");
    reason.into_owned()
}

/// A server that is expected to refuse to start.
async fn attempt(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().expect("it ends"));
    tokio::time::timeout(crate::waiting::PATIENCE, waiting).await.expect("it refuses").expect("no panic")
}

fn files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        names.push(entry.expect("an entry").file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names
}

async fn data_is_not_opened_under_another_identity(cluster: &mut ProcessTestCluster) {
    let free = [free_address(), free_address()];
    let elsewhere = ["--thrift-addr", &free[0], "--admin-addr", &free[1]];
    let serve = |file: Option<&Path>, data_dir: &Path, words: &[&str]| {
        let mut command = program();
        command.arg("serve").args(elsewhere).arg("--data-dir").arg(data_dir).args(words);
        if let Some(file) = file {
            command.arg("--config").arg(file);
        }
        command
    };
    // While it is open.
    let in_use = attempt(&mut serve(Some(cluster.config_file(0)), &cluster.data_dir(0), &["--node-id", "0"])).await;
    assert!(refused(&in_use, 1).contains("in use by another process"));

    cluster.stop(0).await;
    let before = files(&cluster.data_dir(0));
    let other_id = attempt(&mut serve(Some(cluster.config_file(1)), &cluster.data_dir(0), &["--node-id", "1"])).await;
    let reason = refused(&other_id, 1);
    assert!(reason.contains("belongs to replica 0") && reason.contains("this is replica 1"), "{reason}");
    let other_mode = attempt(&mut serve(None, &cluster.data_dir(0), &["--mode", "standalone"])).await;
    let reason = refused(&other_mode, 1);
    assert!(reason.contains("belongs to replica 0") && reason.contains("standalone"), "{reason}");
    let first_peer = format!("127.0.0.1:{}", free_ports(3));
    let mut all = serve(None, &cluster.data_dir(0), &["--mode", "replicated"]);
    let all_in_one = attempt(all.env("SYNODKV_REPLICATION_FIRST_PEER_ADDR", first_peer)).await;
    assert!(refused(&all_in_one, 1).contains("belongs to replica 0"));
    assert_eq!(files(&cluster.data_dir(0)), before, "a refusal leaves everything as it is");

    cluster.restart(0).await;
    cluster.assert_replicas_agree().await;
}

/// A replica starts with the data of another cluster, under the right id. The two must not be
/// mixed.
async fn data_of_another_cluster_is_not_mixed_in(cluster: &mut ProcessTestCluster) {
    let mut other = <ProcessTestCluster as TestCluster>::start(Settings::default()).await;
    other.client(0).await.set(KeyRef::new("of the other"), "value").await.expect("set");
    other.assert_replicas_agree().await;
    other.stop_all().await;
    cluster.client(0).await.set(KeyRef::new("ours"), "value").await.expect("set");
    let stranger = (cluster.primary().await + 1) % cluster.servers();
    cluster.stop(stranger).await;
    let mut child = program()
        .args(["serve", "--node-id", &stranger.to_string(), "--config"])
        .arg(cluster.config_file(stranger))
        .arg("--data-dir")
        .arg(other.data_dir(stranger))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    // It may end by itself or stay and be ignored; it must serve nothing and change nothing.
    let client = cluster.client_of_all(cluster.primary_among(&cluster.running()).await).await;
    for number in 0..20 {
        client.set(KeyRef::new(format!("{number}")), "value").await.expect("set");
    }
    if child.try_wait().expect("its own child").is_none() {
        let ready = cluster.is_ready(stranger).await;
        assert!(ready.is_err(), "a replica of another cluster calls itself ready");
    }
    let _ = child.kill();
    child.wait().expect("its own child");
    cluster.restart(stranger).await;
    assert_eq!(cluster.assert_replicas_agree().await, 21);
    assert_eq!(client.get(KeyRef::new("of the other")).await.expect("get"), None);
    other.restart_all().await;
    assert_eq!(other.assert_replicas_agree().await, 1);
}

/// Every refusal names the key, the value and what is allowed; nothing is opened.
#[test]
fn a_wrong_configuration_exits_with_2_and_opens_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, data_dir) = (folder.path().join("synodkv.toml"), folder.path().join("data"));
    let members: Vec<Member> = (0..3).map(|_| Member::new()).collect();
    let good = configuration(&Settings::default(), &members[0], &members, &data_dir);
    let peer = &members[1].peer;
    let wrong_files: &[(String, &[&str])] = &[
        (good.replace("mode = \"replicated\"", "mode = \"raft\""), &["mode", "raft", "standalone", "replicated"]),
        (good.replace("wal_segment_mb = 1", "wal_segment_mb = 0"), &["replication.wal_segment_mb", "0", "1 to"]),
        (good.replace("wal_segment_mb = 1", "wal_segmnt_mb = 1"), &["wal_segmnt_mb"]),
        (good.replace("wal_segment_mb = 1", "wal_segment_mb = \"big\""), &["replication.wal_segment_mb", "big"]),
        (good.replace("wal_segment_mb = 1", "heartbeat_ms = 900"), &["election_timeout_min_ms", "heartbeat_ms", "900"]),
        (good.replace("id = 2", "id = 1"), &["replication.replicas[2].id", "1", "unique"]),
        (good.replace("id = 2", "id = 300"), &["replication.replicas[2].id", "300", "0 to 254"]),
        (good.replace(&members[2].peer, peer), &["replication.replicas[2].peer", peer, "same peer"]),
        (good.replace(peer, "nowhere"), &["replication.replicas[1].peer", "nowhere", "HOST:PORT"]),
        (good.replace("[storage]", "[storage"), &["synodkv.toml"]),
    ];
    for (text, words) in wrong_files {
        assert_ne!(*text, good);
        fs::write(&file, text).expect("written");
        let output = program().args(["serve", "--node-id", "0", "--config"]).arg(&file).output().expect("it runs");
        let reason = refused(&output, 2);
        assert!(words.iter().all(|word| reason.contains(word)), "{words:?} are not all in: {reason}");
        assert!(!data_dir.exists(), "{reason}");
    }
    fs::write(&file, &good).expect("written");
    let wrong_settings: &[(&[&str], &str, &str, &[&str])] = &[
        (&["--node-id", "3"], "", "", &["replication.node_id", "3", "0, 1, 2"]),
        (&["--mode", "standalone", "--node-id", "0"], "", "", &["replication.node_id", "standalone"]),
        (&["--thrift-addr", "9090"], "", "", &["server.thrift_addr", "9090", "HOST:PORT"]),
        (&[], "SYNODKV_SERVER_REQUEST_TIMEOUT_MS", "soon", &["SYNODKV_SERVER_REQUEST_TIMEOUT_MS", "soon"]),
        (&[], "REPLICATED_MODE", "perhaps", &["REPLICATED_MODE", "perhaps", "true", "false"]),
        (&[], "THRIFT_PORT", "70000", &["THRIFT_PORT", "70000"]),
    ];
    for (flags, name, value, words) in wrong_settings {
        let mut command = program();
        command.args(["serve", "--config"]).arg(&file).args(*flags);
        if !name.is_empty() {
            command.env(name, value);
        }
        let reason = refused(&command.output().expect("it runs"), 2);
        assert!(words.iter().all(|word| reason.contains(word)), "{words:?} are not all in: {reason}");
        assert!(!data_dir.exists(), "{reason}");
    }
}

#[test]
fn an_address_in_use_is_named_with_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("bound").to_string();
    let other = free_address();
    for (flag, free, key) in [
        ("--thrift-addr", "--admin-addr", "server.thrift_addr"),
        ("--admin-addr", "--thrift-addr", "server.admin_addr"),
    ] {
        let mut command = program();
        command.args(["serve", flag, &taken, free, &other, "--data-dir"]).arg(folder.path().join("data"));
        let reason = refused(&command.output().expect("it runs"), 1);
        assert!(reason.contains(key) && reason.contains(&taken), "{reason}");
    }
}

/// The server as a new user starts it, except for the ports.
struct OneProcess {
    child: Child,
    address: String,
}

impl OneProcess {
    fn start(data_dir: &Path, first_peer: u16, thrift_port: u16) -> OneProcess {
        let mut child = program()
            .args(["serve", "--admin-addr", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("REPLICATED_MODE", "true")
            .env("THRIFT_PORT", thrift_port.to_string())
            .env("SYNODKV_REPLICATION_FIRST_PEER_ADDR", format!("127.0.0.1:{first_peer}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("a line");
        assert!(ready.starts_with("ready: replicated"), "{ready:?}");
        assert!(ready.contains(&format!("127.0.0.1:{thrift_port}")), "{ready:?}");
        OneProcess { child, address: format!("127.0.0.1:{thrift_port}") }
    }

    async fn interrupt(mut self) {
        signal(&self.child, "INT");
        let child = &mut self.child;
        let status = eventually("the process ends", async || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert!(status.await.success());
    }
}

impl Drop for OneProcess {
    fn drop(&mut self) {
        // Gone already, if the test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn three_replicas_in_one_process_are_one_variable_away_and_keep_their_data() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let data_dir = folder.path().join("data");
        let (first_peer, thrift_port) = (free_ports(3), free_ports(1));
        let server = OneProcess::start(&data_dir, first_peer, thrift_port);
        let client = connect(vec![server.address.clone()]).await;
        client.set(KeyRef::new("hello"), "world").await.expect("set");
        server.interrupt().await;
        assert_eq!(files(&data_dir).iter().filter(|name| name.starts_with("replica-")).count(), 3);
        let server = OneProcess::start(&data_dir, first_peer, thrift_port);
        let client = connect(vec![server.address.clone()]).await;
        assert_eq!(client.get(KeyRef::new("hello")).await.expect("get").as_deref(), Some(&b"world"[..]));
        server.interrupt().await;
    });
}
