//! Tests of `serve` in replicated mode if the user has forgotten something or has started only some
//! replicas.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::server::{PROGRAM, Server, unused_address};
use crate::{assert_exit, run, text};

/// A `cluster.toml` for three processes, whose rows are kept in memory.
struct ClusterFile {
    folder: tempfile::TempDir,
    peers: Vec<String>,
}

impl ClusterFile {
    fn new() -> ClusterFile {
        let peers: Vec<String> = (0..3).map(|_| unused_address()).collect();
        let mut text = "mode = \"replicated\"\n[server]\nno_primary_wait_ms = 300\n[storage]\nengine = \"memory\"\n\
                        [replication]\nwal_segment_mb = 1\n"
            .to_string();
        for (id, peer) in peers.iter().enumerate() {
            let (thrift, admin) = (unused_address(), unused_address());
            text += &format!(
                "[[replication.replicas]]\nid = {id}\npeer = \"{peer}\"\nthrift = \"{thrift}\"\nadmin = \"{admin}\"\n"
            );
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cluster.toml"), text).expect("written");
        ClusterFile { folder, peers }
    }

    fn serve(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--config"]).arg(self.folder.path().join("cluster.toml")).args(words);
        command.stderr(Stdio::null());
        command
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The output of a server that is expected not to start.
    fn refused(&self, words: &[&str]) -> Output {
        let mut command = self.serve(words);
        command.arg("--data-dir").arg(self.data_dir()).stderr(Stdio::piped()).output().expect("the program runs")
    }
}

#[test]
fn a_forgotten_node_id_is_refused_and_the_ids_are_named() {
    let file = ClusterFile::new();
    let output = file.refused(&[]);
    assert_exit(&output, 2);
    let error = text(&output.stderr);
    assert!(["--node-id", "replication.node_id", "0, 1, 2"].iter().all(|words| error.contains(words)), "{error}");
    assert!(!file.data_dir().exists());
}

#[test]
fn a_peer_address_in_use_is_named_with_its_key() {
    let file = ClusterFile::new();
    let _taken = std::net::TcpListener::bind(&file.peers[1]).expect("nobody listens there");
    let output = file.refused(&["--node-id", "1"]);
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    let expected = format!("cannot listen on {} (replication.replicas[].peer of id 1)", file.peers[1]);
    assert!(error.contains(&expected), "{error}");

    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(PROGRAM)
        .args(["serve", "--mode", "replicated", "--thrift-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .env("SYNODKV_REPLICATION_FIRST_PEER_ADDR", &file.peers[1])
        .env("SYNODKV_STORAGE_ENGINE", "memory")
        .output()
        .expect("the program runs");
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("(replication.first_peer_addr and"), "{}", text(&output.stderr));
}

#[test]
fn an_incomplete_first_start_says_what_it_waits_for() {
    let file = ClusterFile::new();
    let server = Server::start_by(&mut file.serve(&["--node-id", "0"]), file.data_dir());
    assert!(server.ready.contains("Waiting for the other replicas"), "{}", server.ready);
    let set = run(&server, &["set", "k", "v"]);
    assert_exit(&set, 3);
    let error = text(&set.stderr);
    assert!(error.starts_with("error: no primary: waited 3"), "{error}");
    assert!(error.contains("a first start needs all 3 configured replicas"), "{error}");
    assert!(error.contains("see `synodkv status`; nothing was written"), "{error}");
    let get = run(&server, &["get", "k"]);
    assert_exit(&get, 3);
    let error = text(&get.stderr);
    assert!(error.contains("a first start needs all 3 configured replicas"), "{error}");
    assert!(!error.contains("nothing was written") && error.matches("no primary").count() == 1, "{error}");
}

#[test]
fn without_a_majority_the_error_says_how_many_are_needed() {
    let file = ClusterFile::new();
    let folder = |id: usize| file.data_dir().join(id.to_string());
    let start = |id: usize| Server::start_by(&mut file.serve(&["--node-id", &id.to_string()]), folder(id));
    let servers: Vec<Server> = (0..3).map(start).collect();
    // Succeeds once the cluster has been bootstrapped, for which the last server may need a moment.
    while run(&servers[0], &["set", "k", "v"]).status.code() != Some(0) {}
    drop(servers);
    let alone = start(0);
    assert!(!alone.ready.contains("Waiting"), "{}", alone.ready);
    let get = run(&alone, &["get", "k"]);
    assert_exit(&get, 3);
    let error = text(&get.stderr);
    assert!(error.contains("2 of the 3 replicas must be running and reach each other"), "{error}");
    assert!(error.contains("see `synodkv status`"), "{error}");
}

#[test]
fn a_server_whose_log_nobody_reads_any_more_serves_and_stops_cleanly() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(PROGRAM);
    command
        .args(["serve", "--mode", "replicated", "--thrift-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
        .args(["--log-level", "trace"])
        .env("SYNODKV_REPLICATION_FIRST_PEER_ADDR", three_free_ports())
        .env("SYNODKV_REPLICATION_WAL_SEGMENT_MB", "1")
        .env("SYNODKV_STORAGE_ENGINE", "memory")
        .stderr(Stdio::piped());
    let mut server = Server::start_by(&mut command, folder.path().join("data"));
    server.stop_reading_the_log();
    for _ in 0..3 {
        assert_exit(&run(&server, &["set", "k", "v"]), 0);
    }
    assert_exit(&run(&server, &["get", "k"]), 0);
    assert_eq!(server.stop("INT"), Some(0));
}

/// An unused address whose next two ports are unused, too.
fn three_free_ports() -> String {
    loop {
        let first = unused_address();
        let port: u16 = first.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("HOST:PORT");
        let is_free = |port: Option<u16>| port.is_some_and(|p| std::net::TcpListener::bind(("127.0.0.1", p)).is_ok());
        if is_free(port.checked_add(1)) && is_free(port.checked_add(2)) {
            return first;
        }
    }
}
