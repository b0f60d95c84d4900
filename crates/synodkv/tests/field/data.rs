//! Tests that stored data comes back: backups, bounds, and long reads.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{PROGRAM, Server, Setup, assert_exit, cli, run, text};
use crate::waiting::eventually;

fn with_input(server: &Server, arguments: &[&str], input: &[u8]) -> Output {
    cli(&server.thrift, &server.admin, arguments, input)
}

fn backup(server: &Server) -> Vec<u8> {
    let output = server.cli(&["range", "--format", "backup"]);
    assert_exit(&output, 0);
    output.stdout
}

/// Rows of the default family, as the server itself counts them.
async fn counted(server: &Server) -> u64 {
    let (code, body) = server.get("/rows/hash?limit=1000000").await.expect("an answer");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str::<Value>(&body).expect("JSON")["count"].as_u64().expect("a number")
}

#[test]
fn a_value_that_only_these_servers_take_is_backed_up_and_restored() {
    run(async {
        let limits = || Setup::toml("[limits]\nmax_value_bytes = 1000000\n");
        let (from, to) = (Server::standalone(limits()).await, Server::standalone(limits()).await);
        let zeros = vec![0; 300_000];
        assert_exit(&with_input(&from, &["set", "zeros", "-"], &zeros), 0);
        assert_exit(&with_input(&to, &["import"], &backup(&from)), 0);
        assert_eq!(to.cli(&["get", "zeros"]).stdout, zeros);
    });
}

#[test]
fn an_import_fits_its_transactions_to_the_servers() {
    run(async {
        let from = Server::standalone(Setup::default()).await;
        let small = Setup::toml("[limits]\nmax_transaction_bytes = 200000\n");
        let to = Server::standalone(small).await;
        for key in ["a", "b", "c", "d", "e"] {
            assert_exit(&with_input(&from, &["set", key, "-"], &vec![b'v'; 99_000]), 0);
        }
        let rows = backup(&from);
        assert_exit(&with_input(&to, &["import"], &rows), 0);
        let restored = to.cli(&["range", "--format", "json"]);
        let restored: Value = serde_json::from_slice(&restored.stdout).expect("JSON");
        assert_eq!(restored["rows"].as_array().map(Vec::len), Some(5));
        // The client refuses what is too large for one transaction before it sends anything.
        let value = "v".repeat(99_000);
        let script = format!("set a {value}\nset b {value}\nset c {value}\n");
        let output = with_input(&to, &["txn"], script.as_bytes());
        assert_exit(&output, 1);
        let error = text(&output.stderr);
        assert!(error.contains("larger than the limit of 200000 bytes"), "{error}");
    });
}

#[test]
fn a_transaction_may_be_as_large_as_the_servers_allow() {
    run(async {
        let large = "[limits]\nmax_transaction_bytes = 15000000\nmax_value_bytes = 11000000\n";
        let server = Server::standalone(Setup::toml(large)).await;
        let script = format!("set large {}\n", "v".repeat(10_500_000));
        assert_exit(&with_input(&server, &["txn"], script.as_bytes()), 0);
        assert_eq!(server.cli(&["get", "large"]).stdout.len(), 10_500_000);
    });
}

#[test]
fn the_last_possible_key_is_in_every_range_that_has_no_end() {
    run(async {
        for max_key_bytes in [100, 10_000, 20_000] {
            let limits = Setup::toml(&format!("[limits]\nmax_key_bytes = {max_key_bytes}\n"));
            let server = Server::standalone(limits).await;
            let last = "ff".repeat(max_key_bytes);
            for key in ["61", "ff", &last] {
                assert_exit(&server.cli(&["set", "--hex", key, "76"]), 0);
            }
            for words in [&["range"][..], &["range", "--prefix", ""], &["range", "--reverse"]] {
                let output = server.cli(&[words, &["--hex"]].concat());
                assert_eq!(text(&output.stdout).lines().count(), 3, "{words:?} with {max_key_bytes}");
            }
            let prefixed = server.cli(&["range", "--hex", "--prefix", "ff"]);
            assert_eq!(text(&prefixed.stdout).lines().count(), 2);
            let script = ["txn", "--hex", "-e", "range", "-e", "range --prefix ff", "-e", "set 62 77"];
            assert_eq!(text(&server.cli(&script).stdout).matches(&last).count(), 2);
            // A backup has as many rows as the server counts.
            let rows = backup(&server);
            let marks = 2;
            assert_eq!(text(&rows).lines().count() as u64 - marks, counted(&server).await);
            assert_exit(&server.cli(&["txn", "-e", "clear --prefix ''"]), 0);
            assert_eq!(counted(&server).await, 0);
            assert_exit(&with_input(&server, &["import"], &rows), 0);
            assert_eq!(counted(&server).await, 4);
        }
    });
}

#[test]
fn a_range_holds_its_version_while_its_reader_pauses() {
    run(async {
        let window = Setup::toml("[storage]\nreadable_window_ms = 1000\n");
        let server = Server::standalone(window).await;
        assert_exit(&server.cli(&["bench", "load", "--workload", "get", "--records", "20000"]), 0);
        let pins = async || {
            let (_, page) = server.get("/metrics").await?;
            let counts = page.lines().filter(|line| line.starts_with("synodkv_requests_total{method=\"pinSnapshot\"}"));
            let count = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
            Ok::<f64, String>(count)
        };
        let mut range = Command::new(PROGRAM)
            .args(["range", "--limit", "0", "--addr", &server.thrift])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        // The output exceeds the pipe's buffer, so the command blocks in the middle of its rows.
        let mut rows = BufReader::new(range.stdout.take().expect("piped"));
        let mut first = String::new();
        rows.read_line(&mut first).expect("a row");
        // The pin is still renewed.
        eventually("the pin is renewed while nobody reads", async || match pins().await? {
            2.0.. => Ok(()),
            count => Err(format!("{count} pins")),
        })
        .await;
        let newest = server.status().await.expect("a status")["replicas"][0]["applied"].as_u64();
        eventually("the window has passed the version", async || {
            server.cli(&["set", "another", "row"]);
            let status = server.status().await?;
            match status["replicas"][0]["oldest_readable"].as_u64() {
                oldest if oldest > newest => Ok(()),
                oldest => Err(format!("{oldest:?} is readable, {newest:?} was the newest")),
            }
        })
        .await;
        assert_eq!(rows.lines().count(), 19_999);
        assert!(range.wait().expect("it ends").success());
    });
}
