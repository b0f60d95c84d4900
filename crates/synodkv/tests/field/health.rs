//! Health, readiness and problems tell the truth, about writes too.

use crate::harness::{Cluster, Server, Setup, assert_exit, run};

#[test]
fn a_standalone_server_without_problems_lists_none() {
    run(async {
        let server = Server::standalone(Setup::default()).await;
        server.ready().await;
        assert_eq!(server.status().await.expect("a status")["problems"], serde_json::json!([]));
    });
}

#[test]
fn three_processes_serve_commands() {
    run(async {
        let cluster = Cluster::start(Setup::default()).await;
        assert_exit(&cluster.cli(&["set", "k", "v"]), 0);
        assert_exit(&cluster.cli(&["verify"]), 0);
    });
}
