//! Tests of `txn`.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::server::{PROGRAM, Server};
use crate::{assert_exit, printed, printed_json, run, text};

/// Runs a script from standard input.
pub fn run_with_input(server: &Server, command: &[&str], input: &str) -> Output {
    let mut process = Command::new(PROGRAM)
        .env("SYNODKV_ADDR", &server.thrift)
        .args(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // A program that has failed reads no more.
    let _ = process.stdin.take().expect("piped").write_all(input.as_bytes());
    process.wait_with_output().expect("it was started here")
}

#[test]
fn a_script_reads_and_writes_at_once_and_prints_rows_and_the_version() {
    let server = Server::start();
    let script = "# opening\nset balance 100\nadd visits 5\nget visits --number\nget nothing\nrange --prefix bal\n";
    let output = run_with_input(&server, &["txn"], script);
    assert_eq!(text(&output.stderr), "no such key: nothing\n");
    let printed = printed(output);
    let (rows, version) = printed.split_once("committed at version ").expect("it has committed");
    assert_eq!(rows, "visits\t5\nbalance\t100\n");
    assert!(version.trim_end().parse::<u64>().is_ok(), "{version}");
}

#[test]
fn a_script_is_a_file_or_lines_of_the_command_line() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("script");
    std::fs::write(&file, "set a\\x00b 'two words'\n").expect("written");
    printed(run(&server, &["txn", file.to_str().expect("UTF-8")]));
    assert_eq!(printed(run(&server, &["get", "--escape", "a\\x00b"])), "two words\n");
    printed(run(&server, &["txn", "--hex", "-e", "set 6b 00ff", "-e", "delete 610062"]));
    assert_eq!(printed(run(&server, &["get", "--escape", "k"])), "\\x00\\xff\n");
    assert_exit(&run(&server, &["get", "--escape", "a\\x00b"]), 1);
}

#[test]
fn an_assert_that_does_not_hold_writes_nothing_and_names_its_line() {
    let server = Server::start();
    printed(run(&server, &["set", "balance", "100"]));
    let output = run_with_input(&server, &["txn", "--format", "json"], "set balance 0\n\nassert balance 90\n");
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(
        error.contains("standard input, line 3: assert failed: `balance` is `0`, not `90`; nothing was"),
        "{error}"
    );
    let report = printed_json(&output);
    assert_eq!((&report["committed"], &report["line"]), (&json!(false), &json!(3)));
    assert_eq!(printed(run(&server, &["get", "balance"])), "100");
}

#[test]
fn only_one_of_many_that_assert_the_same_commits() {
    let server = Server::start();
    let start = |number: usize| {
        let set = format!("set lock {number}");
        let mut command = Command::new(PROGRAM);
        command.env("SYNODKV_ADDR", &server.thrift).args(["txn", "-e", "assert lock --missing", "-e", &set]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs")
    };
    let processes: Vec<_> = (0..8).map(start).collect();
    let statuses = processes.into_iter().map(|mut process| process.wait().expect("started here").code());
    let statuses: Vec<_> = statuses.collect();
    assert_eq!(statuses.iter().filter(|status| **status == Some(0)).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, Some(0 | 1))), "{statuses:?}");
}

#[test]
fn reads_at_an_old_version_conflict_with_later_writes() {
    let server = Server::start();
    let script = ["txn", "--format", "json", "-e", "set a 1", "-e", "set b 1"];
    let version = printed_json(&run(&server, &script))["version"].to_string();
    printed(run(&server, &["set", "a", "2"]));
    let at = |read: &str| run(&server, &["txn", "--format", "json", "--at", &version, "-e", read, "-e", "set 0 1"]);
    let conflict = at("get a");
    assert_exit(&conflict, 1);
    let report = printed_json(&conflict);
    assert_eq!((&report["committed"], &report["error_code"]), (&json!(false), &json!("CONFLICT")));
    assert_exit(&at("conflict a"), 1);
    assert_exit(&at("range a b"), 1);
    for harmless in ["get b", "get a --snapshot", "range b", "conflict b c"] {
        let output = at(harmless);
        assert_exit(&output, 0);
    }
}

#[test]
fn json_has_results_line_by_line_and_what_was_stamped() {
    let server = Server::start();
    let script = "set a 1\nget a\nget b\nrange --limit 1\nset-versionstamped-key q/ job\nset-versionstamped-value v\n";
    let output = run_with_input(&server, &["txn", "--format", "json"], script);
    assert_exit(&output, 0);
    let report = printed_json(&output);
    assert_eq!((&report["committed"], &report["attempts"]), (&json!(true), &json!(1)));
    let expected = json!([
        { "line": 2, "command": "get", "key": "a", "found": true, "value": "1" },
        { "line": 3, "command": "get", "key": "b", "found": false, "value": null },
        { "line": 4, "command": "range", "rows": [{ "key": "a", "value": "1" }], "has_more": false }
    ]);
    assert_eq!(report["results"], expected);
    let stamped = report["generated_keys"][0].as_str().expect("a key");
    assert!(stamped.starts_with("q/\\x00"), "{stamped}");
    assert_eq!(printed(run(&server, &["get", "--escape", stamped])), "job\n");
    assert_eq!(report["versionstamp"].as_str().map(str::len), Some(20));
}

#[test]
fn every_mutation_does_what_its_name_says() {
    let server = Server::start();
    let script = "
        set n --number 10
        add n -3
        min n 6
        max n 8
        set word pear
        byte-min word apple
        byte-max word fig
        append-if-fits word s
        set flags '\\x0c'
        bit-and flags '\\x06'
        bit-or flags '\\x41'
        bit-xor flags '\\x01'
        set lock me
        compare-and-clear lock me
        set tmp/1 x
        set tmp/2 x
        clear --prefix tmp/
    ";
    printed(run_with_input(&server, &["txn"], script));
    assert_eq!(
        printed(run(&server, &["range"])),
        "flags\tD\nn\t\\x08\\x00\\x00\\x00\\x00\\x00\\x00\\x00\nword\tfigs\n"
    );
}

#[test]
fn a_script_that_is_wrong_is_refused_before_anything_is_sent() {
    let nobody = crate::server::unused_address();
    for (script, expected) in [
        ("get a\nsett b", "line 2: no such command: `sett`; there are get, range"),
        ("set a", "line 1: VALUE is missing; usage: set KEY VALUE"),
        ("set 'a b", "line 1: the quote before `a b` is not closed"),
        ("get 'a\\q'", "line 1: KEY `a\\q`: a backslash is followed by"),
        ("begin", "line 1: `begin` is for `synodkv shell`"),
        ("# nothing", "there is no statement"),
    ] {
        let mut command = Command::new(PROGRAM);
        let output = command.args(["txn", "--addr", &nobody, "-e", script]).output().expect("the program runs");
        assert_exit(&output, 2);
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{error}");
    }
    let missing = Command::new(PROGRAM).args(["txn", "/no/such/file"]).output().expect("the program runs");
    assert_exit(&missing, 2);
}

#[test]
fn a_script_that_only_reads_says_that_there_was_nothing_to_commit() {
    let server = Server::start();
    printed(run(&server, &["set", "a", "1"]));
    assert!(printed(run(&server, &["txn", "-e", "get a"])).starts_with("a\t1\nnothing to commit; read at version "));
    let report: Value = printed_json(&run(&server, &["txn", "-e", "get a", "--format", "json"]));
    assert_eq!(report["committed"], false);
}
