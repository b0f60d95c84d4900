//! Tests of contradictory settings, foreign variables, and data directories that are something
//! else.

use std::net::TcpListener;
use std::process::{Output, Stdio};

use crate::harness::{Server, Setup, assert_exit, run, text};

/// Starts a server that is expected to refuse.
fn refused(server: &Server) -> Output {
    server.command().stderr(Stdio::piped()).output().expect("the program runs")
}

#[test]
fn a_pod_next_to_services_called_synodkv_and_thrift_starts() {
    run(async {
        let setup = Setup::default()
            .env("SYNODKV_PORT", "tcp://10.96.3.7:9090")
            .env("SYNODKV_SERVICE_HOST", "10.96.3.7")
            .env("SYNODKV_PORT_9090_TCP_ADDR", "10.96.3.7")
            .env("THRIFT_PORT", "tcp://10.96.3.8:9090")
            .env("THRIFT_SERVICE_HOST", "10.96.3.8")
            .env("SYNODKV_SEVER_MAX_CONNECTIONS", "5");
        let server = Server::standalone(setup).await;
        server.ready().await;
        assert_exit(&server.cli(&["set", "k", "v"]), 0);
        let log = server.log_text();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
        let [warning] = warnings.as_slice() else { panic!("{warnings:#?}") };
        assert!(warning.contains("SYNODKV_SEVER_MAX_CONNECTIONS"), "{warning}");
        assert!(warning.contains("SYNODKV_SERVER_MAX_CONNECTIONS meant"), "{warning}");
    });
}

#[test]
fn a_start_that_finds_its_port_taken_leaves_the_directory_to_the_next_mode() {
    run(async {
        let mut server = Server::not_started(Setup::default());
        for taken in [server.thrift.clone(), server.admin.clone()] {
            let _holder = TcpListener::bind(&taken).expect("a free port");
            let output = refused(&server);
            assert_exit(&output, 1);
            assert!(text(&output.stderr).contains(&format!("cannot listen on {taken}")), "{}", text(&output.stderr));
        }
        // Three replicas in one process are another mode for the same directory.
        let toml = std::fs::read_to_string(&server.config).expect("the configuration");
        let peers = crate::ports::free_ports(3);
        let toml = format!(
            "{}\n[replication]\nfirst_peer_addr = \"127.0.0.1:{peers}\"\n",
            toml.replace("mode = \"standalone\"", "mode = \"replicated\"")
        );
        std::fs::write(&server.config, toml).expect("the configuration");
        let holder = TcpListener::bind(("127.0.0.1", peers + 1)).expect("a free port");
        assert_exit(&refused(&server), 1);
        drop(holder);
        server.start();
        server.live().await;
        server.ready().await;
        assert_exit(&server.cli(&["set", "k", "v"]), 0);
    });
}

#[test]
fn a_data_directory_that_is_a_dangling_link_or_a_file_is_called_that() {
    let server = Server::not_started(Setup::default());
    std::os::unix::fs::symlink("/nowhere/at/all", &server.data_dir).expect("a link");
    let output = refused(&server);
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("is a symbolic link to /nowhere/at/all, and there is nothing there"), "{error}");
    std::fs::remove_file(&server.data_dir).expect("the link");
    std::fs::write(&server.data_dir, "x").expect("a file");
    let output = refused(&server);
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("is a file, and a directory is needed there"), "{}", text(&output.stderr));
}

#[test]
fn settings_that_contradict_each_other_are_refused_before_anything_is_opened() {
    for (toml, parts) in [
        (
            "[limits]\nmax_value_bytes = 20000000\n",
            ["limits.max_value_bytes = 20000000", "limits.max_transaction_bytes = 10000000"],
        ),
        (
            "[limits]\nmax_value_bytes = 9000000\n[server]\nmax_message_bytes = 5000000\n",
            ["limits.max_value_bytes = 9000000", "limits.max_transaction_bytes"],
        ),
    ] {
        let server = Server::not_started(Setup::toml(toml));
        let output = refused(&server);
        assert_exit(&output, 2);
        for part in parts {
            assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        }
        assert!(!server.data_dir.exists());
    }
}
