//! Tests of `top` and `slow`.

use serde_json::Value;

use crate::server::Server;
use crate::{assert_exit, printed, printed_json, run, text};

fn json(server: &Server, command: &[&str]) -> Value {
    let output = run(server, command);
    assert_exit(&output, 0);
    printed_json(&output)
}

#[test]
fn the_key_that_is_written_most_is_at_the_top() {
    let server = Server::start();
    let load = ["bench", "--workload", "put", "--keys", "1", "--seconds", "1", "--concurrency", "4"];
    assert_exit(&run(&server, &load), 0);
    let top = json(&server, &["top", "--by", "writes", "--format", "json"]);
    let keys = top["keys"].as_array().expect("a list");
    assert_eq!((keys.len(), &keys[0]["family"]), (1, &"default".into()), "one key was written: {top}");
    assert!(keys[0]["count"].as_u64() >= Some(16) && keys[0]["at_least"].as_u64() <= keys[0]["count"].as_u64());
    assert!(keys[0]["per_second"].as_f64() > Some(0.0), "{top}");
    let shown = printed(run(&server, &["top", "--by", "writes"]));
    assert!(shown.contains(keys[0]["key"].as_str().expect("text")), "{shown}");
    assert_eq!(printed(run(&server, &["top", "--by", "conflicts"])), "no conflicts in the last minute\n");
}

#[test]
fn a_key_in_conflict_is_named() {
    let server = Server::start();
    printed(run(&server, &["set", "disputed", "1"]));
    let version = json(&server, &["range", "--format", "json"])["version"].to_string();
    printed(run(&server, &["set", "disputed", "2"]));
    let late = ["txn", "--at", &version, "-e", "get disputed", "-e", "set other 1"];
    assert_exit(&run(&server, &late), 1);
    let top = json(&server, &["top", "--by", "conflicts", "--family", "default", "--format", "json"]);
    assert_eq!((&top["keys"][0]["key"], &top["keys"][0]["count"]), (&"disputed".into(), &1.into()), "{top}");
}

#[test]
fn slow_requests_are_listed_and_a_wrong_limit_is_refused() {
    let server = Server::start_with(&[("SYNODKV_LOG_SLOW_MS", "0")]);
    printed(run(&server, &["set", "k", "v"]));
    assert_eq!(printed(run(&server, &["slow"])), "no slow requests\n");
    let output = run(&server, &["slow", "--limit", "1001"]);
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("1..=1000"), "{}", text(&output.stderr));
}
