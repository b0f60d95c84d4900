//! Tests of the exit status of every command: 0 for success, 1 for the answer no, 2 for wrong
//! usage, 3 for an unknown answer.

use std::process::{Command, Output, Stdio};

use crate::fake_replicas::FakeReplicas;
use crate::server::{PROGRAM, Server, silent_address, unused_address};
use crate::text;

/// Runs a command against these addresses.
fn run_at(thrift: &str, admin: &str, words: &[&str]) -> Output {
    let mut program = Command::new(PROGRAM);
    program.env("SYNODKV_ADDR", thrift).env("SYNODKV_ADMIN", admin).args(words).stdin(Stdio::null());
    program.output().expect("the program runs")
}

#[track_caller]
fn check(output: Output, words: &[&str], status: i32) {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
    assert!(!said.contains("panicked"), "{words:?}: {said}");
}

/// A successful example of every command that uses a Thrift server.
const DATA: &[&[&str]] = &[
    &["set", "k", "v"],
    &["get", "k"],
    &["delete", "l"],
    &["range"],
    &["import", "--no-header"],
    &["txn", "-e", "set k v"],
    &["shell", "-e", "get k"],
    &["verify"],
    &["bench", "load", "--records", "10"],
    &["bench", "--seconds", "1", "--concurrency", "1", "--workload", "put"],
];

/// A successful example of every command that uses the admin interface.
const ADMIN: &[&[&str]] = &[&["family", "create", "f"], &["family", "list"], &["family", "drop", "f"], &["status"]];

#[test]
fn zero_means_done() {
    let server = Server::start();
    for words in DATA.iter().chain(ADMIN) {
        check(run_at(&server.thrift, &server.admin, words), words, 0);
    }
    for words in [&["--help"][..], &["help", "get"], &["--version"], &["range", "--help"]] {
        check(run_at("", "", words), words, 0);
    }
}

#[test]
fn one_means_that_the_answer_is_no() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let acknowledged = folder.path().join("keys");
    std::fs::write(&acknowledged, "0000\t3\n").expect("written");
    let large = "v".repeat(100_001);
    for words in [
        &["get", "nothing"][..],
        &["get", "nothing", "--format", "json"],
        &["get", "--family", "none", "k"],
        &["get", "k", "--at", "99999"],
        &["set", "--family", "none", "k", "v"],
        &["set", "k", &large],
        &["delete", "--family", "none", "k"],
        &["range", "--family", "none"],
        &["txn", "-e", "assert nothing --exists"],
        &["txn", "--family", "none", "-e", "set k v"],
        &["shell", "-e", "commit"],
        &["shell", "-e", "begin"],
        &["failover"],
        &["family", "drop", "none"],
        &["bench", "check", "--acknowledged", acknowledged.to_str().expect("UTF-8")],
    ] {
        check(run_at(&server.thrift, &server.admin, words), words, 1);
    }
    let row = |value: &str| vec![("k".to_string(), value.to_string())];
    let fakes = FakeReplicas::start(vec![row("1"), row("2")]);
    check(run_at(&server.thrift, &fakes.address, &["verify"]), &["verify"], 1);
    fakes.lose_the_primary();
    check(run_at(&server.thrift, &fakes.address, &["status"]), &["status"], 1);
}

#[test]
fn two_means_wrong_usage() {
    let server = Server::start();
    for words in [
        &["get"][..],
        &["get", "k", "--colour"],
        &["get", "--hex", "abc"],
        &["get", "k", "--addr", "nowhere"],
        &["set", "k"],
        &["set", "--escape", "k", "\\q"],
        &["delete", "--escape", "\\q"],
        &["range", "--limit", "-1"],
        &["range", "--hex", "0"],
        &["import", "/no/such/file"],
        &["import"],
        &["txn", "-e", "sett k v"],
        &["txn", "/no/such/file"],
        &["shell", "-e", "sett k v"],
        &["verify", "--page", "0"],
        &["verify", "--admin", "nowhere"],
        &["status", "--watch=soon"],
        &["status", "--admin", "nowhere"],
        &["failover", "--to", "one"],
        &["failover", "--admin", "nowhere"],
        &["family", "create", "a/b"],
        &["family", "list", "--admin", "nowhere"],
        &["bench", "--rate", "0"],
        &["bench", "--value-size", "100001"],
        &["bench", "load", "--value-size", "100001"],
        &["bench", "check", "--acknowledged", "/no/such/file"],
        &["bench-disk"],
        &["nonsense"],
        &[],
    ] {
        check(run_at(&server.thrift, &server.admin, words), words, 2);
    }
}

#[test]
fn three_means_that_the_answer_is_unknown() {
    let nobody = unused_address();
    for words in DATA.iter().chain(ADMIN).chain([&["failover"][..]].iter()) {
        check(run_at(&nobody, &nobody, words), words, 3);
    }
}

#[test]
fn three_also_means_that_no_server_answers_in_time() {
    let silent = silent_address();
    for words in DATA {
        let words = [words, &["--timeout-seconds", "1"][..]].concat();
        check(run_at(&silent, &silent, &words), &words, 3);
    }
    for words in ADMIN.iter().chain([&["failover"][..]].iter()) {
        check(run_at(&silent, &silent, words), words, 3);
    }
}

#[test]
fn a_write_that_may_have_happened_is_neither_done_nor_refused() {
    let server = Server::start();
    let mut program = Command::new(PROGRAM);
    program.args(["shell", "--addr", &server.thrift, "--timeout-seconds", "1"]);
    let mut shell = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut keyboard = shell.stdin.take().expect("piped");
    let mut screen = std::io::BufReader::new(shell.stdout.take().expect("piped"));
    // Once it has answered, it is connected.
    std::io::Write::write_all(&mut keyboard, b"set k 1\nget k\n").expect("it reads");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut screen, &mut line).expect("a line");
    assert_eq!(line, "1\n");
    server.pause();
    std::io::Write::write_all(&mut keyboard, b"set k 2\n").expect("it reads");
    drop(keyboard);
    let output = shell.wait_with_output().expect("it was started here");
    server.resume();
    check(output, &["shell"], 3);
}

#[test]
fn every_command_documents_its_exit_statuses() {
    for words in [
        &["--help"][..],
        &["get", "--help"],
        &["family", "create", "--help"],
        &["bench", "load", "--help"],
        &["bench", "check", "--help"],
        &["bench-disk", "--help"],
        &["serve", "--help"],
    ] {
        let help = text(&run_at("", "", words).stdout);
        assert!(help.contains("Exit status"), "{words:?}: {help}");
    }
}
