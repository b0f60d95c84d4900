//! Tests of the program as users see it: real processes, their output and their exit status.

mod bench;
mod bytes;
mod debug;
mod doctor;
mod exit_status;
mod fake_replicas;
mod import;
mod monitoring;
mod outputs;
mod predecessor;
mod replicated;
mod server;
mod shell;
#[path = "../cluster/signals.rs"]
mod signals;
mod terminal;
mod top;
mod txn;
mod watch;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output};

use fake_replicas::FakeReplicas;
use serde_json::Value;
use server::{PROGRAM, Server};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs a client command against a server.
fn run(server: &Server, command: &[&str]) -> Output {
    let mut program = Command::new(PROGRAM);
    program.env("SYNODKV_ADDR", &server.thrift).env("SYNODKV_ADMIN", &server.admin).args(command);
    program.output().expect("the program runs")
}

#[track_caller]
fn assert_exit(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// The output of a command, which must succeed.
#[track_caller]
fn printed(output: Output) -> String {
    assert_exit(&output, 0);
    text(&output.stdout)
}

#[track_caller]
fn printed_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

#[test]
fn a_value_that_was_set_is_printed_as_it_is() {
    let server = Server::start();
    assert_eq!(printed(run(&server, &["set", "hello", "world"])), "");
    assert_eq!(printed(run(&server, &["get", "hello"])), "world");
}

#[test]
fn a_missing_key_prints_nothing_and_exits_with_1() {
    let server = Server::start();
    let output = run(&server, &["get", "nothing"]);
    assert_exit(&output, 1);
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("no such key: nothing"));
}

#[test]
fn families_are_created_used_listed_and_dropped() {
    let server = Server::start();
    let output = run(&server, &["set", "--family", "orders", "1", "paid"]);
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("`synodkv family create orders` creates it"), "{error}");
    assert_eq!(printed(run(&server, &["family", "create", "orders"])), "column family orders exists\n");
    assert_eq!(printed(run(&server, &["set", "--family", "orders", "1", "paid"])), "");
    assert_eq!(printed(run(&server, &["get", "--family", "orders", "1"])), "paid");
    assert_eq!(printed(run(&server, &["family", "list"])), "default\norders\n");
    let listed = printed_json(&run(&server, &["family", "list", "--format", "json"]));
    assert_eq!(listed["column_families"][1]["name"], "orders");
    assert!(printed(run(&server, &["status"])).contains("families default, orders"));
    let dropped = printed(run(&server, &["family", "drop", "orders"]));
    assert_eq!(dropped, "column family orders is gone, with all its rows\n");
    let again = run(&server, &["family", "drop", "orders"]);
    assert_exit(&again, 1);
    assert!(text(&again.stderr).contains("Column family 'orders' not found"), "{}", text(&again.stderr));
    let nonsense = run(&server, &["family", "create", "a/b"]);
    assert_exit(&nonsense, 2);
    assert!(text(&nonsense.stderr).contains("1 to 64 letters"), "{}", text(&nonsense.stderr));
}

#[test]
fn a_deleted_key_is_gone() {
    let server = Server::start();
    printed(run(&server, &["set", "k", "v"]));
    printed(run(&server, &["delete", "k"]));
    assert_exit(&run(&server, &["get", "k"]), 1);
}

#[test]
fn a_range_prints_its_rows_in_order_and_says_when_there_are_more() {
    let server = Server::start();
    for key in ["user/b", "user/a", "other"] {
        printed(run(&server, &["set", key, "v"]));
    }
    assert_eq!(printed(run(&server, &["range", "--prefix", "user/"])), "user/a\tv\nuser/b\tv\n");
    let limited = run(&server, &["range", "--limit", "2"]);
    assert!(text(&limited.stderr).contains("more rows"));
    assert_eq!(printed(limited), "other\tv\nuser/a\tv\n");
    let last = run(&server, &["range", "--reverse", "--limit", "1", "--format", "json"]);
    let last = printed_json(&last);
    assert_eq!((&last["rows"][0]["key"], &last["has_more"]), (&"user/b".into(), &true.into()));
}

#[test]
fn a_long_range_is_read_page_by_page_without_losing_a_row() {
    let server = Server::start();
    let load = ["bench", "--workload", "get", "--keys", "2500", "--seconds", "1", "--concurrency", "1"];
    printed(run(&server, &load));
    for direction in [&[][..], &["--reverse"]] {
        let rows = printed(run(&server, &[&["range", "--limit", "0"], direction].concat()));
        assert_eq!(rows.lines().count(), 2500);
    }
}

#[test]
fn a_long_range_keeps_its_version_readable_while_others_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(PROGRAM);
    command
        .args(["serve", "--mode", "standalone", "--thrift-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
        .env("SYNODKV_STORAGE_ENGINE", "memory")
        .env("SYNODKV_STORAGE_READABLE_WINDOW_MS", "1000");
    let server = Server::start_by(&mut command, folder.path().join("data"));
    let load = ["bench", "--workload", "get", "--keys", "5000", "--seconds", "1", "--concurrency", "1"];
    printed(run(&server, &load));
    let mut range = Command::new(PROGRAM)
        .args(["range", "--limit", "0", "--addr", &server.thrift])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    // The output exceeds the pipe's buffer, so the command blocks in the middle of its rows.
    let mut rows = BufReader::new(range.stdout.take().expect("piped"));
    let mut first = String::new();
    rows.read_line(&mut first).expect("a row");
    let oldest_readable = || {
        let status = printed_json(&run(&server, &["status", "--format", "json"]));
        status["replicas"][0]["oldest_readable"].as_u64().expect("a version")
    };
    let newest = printed_json(&run(&server, &["range", "--limit", "1", "--format", "json"]))["version"].as_u64();
    while oldest_readable() <= newest.expect("a version") {
        printed(run(&server, &["set", "another", "row"]));
    }
    assert_eq!(rows.lines().count(), 4999);
    assert!(range.wait().expect("it ends").success());
}

/// Runs a client command with something on its standard input.
fn run_with(server: &Server, command: &[impl AsRef<std::ffi::OsStr>], input: &[u8]) -> Output {
    let mut process = Command::new(PROGRAM)
        .args(command)
        .args(["--addr", &server.thrift])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = process.stdin.take().expect("piped");
    // The command may end before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    process.wait_with_output().expect("it ends")
}

#[test]
fn an_old_version_can_still_be_read() {
    let server = Server::start();
    printed(run(&server, &["set", "k", "old"]));
    let version = printed_json(&run(&server, &["range", "--format", "json"]))["version"].to_string();
    printed(run(&server, &["set", "k", "new"]));
    assert_eq!(printed(run(&server, &["get", "k", "--at", &version])), "old");
}

#[test]
fn status_names_the_primary() {
    let server = Server::start();
    assert!(printed(run(&server, &["status"])).contains("primary  replica 0"));
    assert_eq!(printed_json(&run(&server, &["status", "--format", "json"]))["mode"], "standalone");
}

#[test]
fn status_shows_problems_with_their_remedies() {
    let fakes = FakeReplicas::start(vec![rows(1); 3]);
    fakes.list_problem(serde_json::json!({
        "kind": "disk_full", "replica": 1, "text": "3 MB are free", "remedy": "make space in /data"
    }));
    let status = |options: &[&str]| {
        let mut command = Command::new(PROGRAM);
        printed(command.args(["status", "--admin", &fakes.address]).args(options).output().expect("the program runs"))
    };
    let shown = status(&[]);
    assert_eq!(
        shown.matches("PROBLEM: replica 1: 3 MB are free\n  What to do: make space in /data").count(),
        1,
        "{shown}"
    );
    let json: Value = serde_json::from_str(&status(&["--format", "json"])).expect("JSON");
    assert_eq!(json["problems"][0]["servers"][0], fakes.address[..], "{json}");
    assert_eq!(json["problems"][0]["remedy"], "make space in /data");
}

#[test]
fn an_unreachable_server_is_an_error_that_says_what_to_do() {
    let nobody = server::unused_address();
    for command in [&["get", "k", "--addr", &nobody][..], &["status", "--admin", &nobody]] {
        let output = Command::new(PROGRAM).args(command).output().expect("the program runs");
        assert_exit(&output, 3);
        let error = text(&output.stderr);
        let expected = format!("{nobody}: connection refused; is the server running? start one with `synodkv serve`");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let server = Server::start();
    for command in
        [&["get", "--escape", "a\\q"][..], &["get", "--hex", "abc"], &["get"], &["get", "k", "--addr", "nowhere"]]
    {
        assert_exit(&run(&server, command), 2);
    }
}

#[test]
fn the_wrong_port_is_recognised() {
    let server = Server::start();
    let output = run(&server, &["get", "k", "--addr", &server.admin]);
    assert_exit(&output, 3);
    assert!(text(&output.stderr).contains("is this the Thrift address?"), "{}", text(&output.stderr));
}

#[test]
fn the_thrift_port_in_place_of_the_admin_port_is_recognised() {
    let server = Server::start();
    let output = run(&server, &["status", "--admin", &server.thrift]);
    assert_exit(&output, 3);
    let error = text(&output.stderr);
    assert!(error.contains(&format!("{} is a Thrift address; --admin takes", server.thrift)), "{error}");
}

#[test]
fn a_configuration_error_exits_with_2_before_anything_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().join("data");
    let output = Command::new(PROGRAM)
        .args(["serve", "--mode", "quantum", "--data-dir"])
        .arg(&data_dir)
        .output()
        .expect("the program runs");
    assert_exit(&output, 2);
    let error = text(&output.stderr);
    assert!(["mode", "quantum", "standalone", "replicated"].iter().all(|word| error.contains(word)), "{error}");
    assert!(!data_dir.exists());
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let server = Server::start();
    let output = Command::new(PROGRAM)
        .args(["serve", "--thrift-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data-dir"])
        .arg(server.data_dir())
        .env("SYNODKV_STORAGE_ENGINE", "memory")
        .output()
        .expect("the program runs");
    assert_exit(&output, 1);
    assert_eq!(text(&output.stdout), "", "it must not call itself ready");
}

#[test]
fn an_interrupt_stops_the_server_cleanly() {
    let mut server = Server::start();
    assert_eq!(server.stop("INT"), Some(0));
}

#[cfg(feature = "rocksdb")]
#[test]
fn writes_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), "rocksdb");
    printed(run(&server, &["set", "hello", "world"]));
    assert_eq!(server.stop("TERM"), Some(0));
    let server = Server::start_in(folder.path(), "rocksdb");
    assert_eq!(printed(run(&server, &["get", "hello"])), "world");
}

#[test]
fn a_failover_that_is_not_possible_reports_the_reason() {
    let server = Server::start();
    let output = run(&server, &["failover"]);
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("standalone: there is no other replica"), "{}", text(&output.stderr));
    let output = run(&server, &["failover", "--admin", &server.thrift]);
    assert_exit(&output, 3);
    assert!(text(&output.stderr).contains("is a Thrift address"), "{}", text(&output.stderr));
    let output = run(&server, &["failover", "--admin", &server::unused_address()]);
    assert_exit(&output, 3);
    assert!(text(&output.stderr).contains("cannot reach the admin interface"), "{}", text(&output.stderr));
}

#[test]
fn verify_agrees_with_itself() {
    let server = Server::start();
    printed(run(&server, &["set", "k", "v"]));
    assert!(printed(run(&server, &["verify"])).contains("all replicas hold the same rows"));
}

fn rows(count: usize) -> Vec<(String, String)> {
    (0..count).map(|i| (format!("key {i:04}"), format!("value {i}"))).collect()
}

/// Verifies fake replicas with pages of ten rows.
fn verify_fakes(replicas: Vec<Vec<(String, String)>>) -> Output {
    let server = Server::start();
    let fakes = FakeReplicas::start(replicas);
    run(&server, &["verify", "--format", "json", "--page", "10", "--admin", &fakes.address])
}

#[test]
fn replicas_with_the_same_rows_agree() {
    let output = verify_fakes(vec![rows(95); 3]);
    assert_exit(&output, 0);
    let report = printed_json(&output);
    assert_eq!(report["agree"], true);
    let replicas = report["replicas"].as_array().expect("a list");
    assert!(replicas.iter().all(|replica| replica["rows"] == 95 && replica["hash"] == replicas[0]["hash"]), "{report}");
}

#[test]
fn the_first_row_that_differs_is_found_wherever_it_is() {
    for odd in [0, 1, 9, 10, 37, 94] {
        let mut changed = rows(95);
        changed[odd].1 = "another".to_string();
        let output = verify_fakes(vec![rows(95), changed, rows(95)]);
        assert_exit(&output, 1);
        let difference = printed_json(&output)["difference"].clone();
        assert_eq!(difference["key"], format!("key {odd:04}"), "{difference}");
        let hashes: Vec<&Value> = (0..3).map(|i| &difference["replicas"][i]["row_hash"]).collect();
        assert!(hashes[0] == hashes[2] && hashes[0] != hashes[1], "{difference}");
    }
}

#[test]
fn a_row_that_one_replica_lacks_is_found_even_right_after_a_page() {
    for missing in [0, 1, 20, 94] {
        let mut short = rows(95);
        short.remove(missing);
        let output = verify_fakes(vec![rows(95), short]);
        assert_exit(&output, 1);
        let difference = printed_json(&output)["difference"].clone();
        assert_eq!(difference["key"], format!("key {missing:04}"), "{difference}");
        let has_key: Vec<&Value> = (0..2).map(|i| &difference["replicas"][i]["has_key"]).collect();
        assert_eq!(has_key, [&Value::Bool(true), &Value::Bool(false)], "{difference}");
    }
}

#[test]
fn a_replica_that_the_cluster_knows_to_have_diverged_is_named_though_the_rows_agree() {
    let server = Server::start();
    let fakes = FakeReplicas::start(vec![rows(5); 3]);
    fakes.set_problem(1, "its database has diverged");
    let output = run(&server, &["verify", "--admin", &fakes.address]);
    assert_exit(&output, 1);
    let report = text(&output.stdout);
    assert!(report.contains("PROBLEM: replica 1: its database has diverged"), "{report}");
    assert!(report.contains("the same rows") && report.contains("one has a problem"), "{report}");
}

#[test]
fn a_replica_that_cannot_be_asked_is_reported() {
    let server = Server::start();
    let fakes = FakeReplicas::start(vec![rows(5), rows(5)]);
    fakes.announce_unreachable(2, &server::unused_address());
    let output = run(&server, &["verify", "--admin", &fakes.address]);
    assert_exit(&output, 3);
    let report = text(&output.stdout);
    assert!(report.contains("not compared: cannot read") && report.contains("connection refused"), "{report}");
    assert!(report.contains("INCOMPLETE"), "{report}");
}
