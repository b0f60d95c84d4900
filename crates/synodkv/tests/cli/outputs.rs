//! Tests that no command panics if its outputs are full or closed.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

use crate::server::{PROGRAM, Server, unused_address};
use crate::text;

/// An output that is full.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("a device").into()
}

/// A pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn command(server: &Server, words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("SYNODKV_ADDR", &server.thrift).env("SYNODKV_ADMIN", &server.admin).args(words).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program runs")
}

/// Commands that print something, with their exit status if printing works.
const PRINTING: &[(&[&str], i32)] = &[
    (&["get", "k"], 0),
    (&["get", "nothing", "--format", "json"], 1),
    (&["set", "k", "v", "--format", "json"], 0),
    (&["delete", "nothing", "--format", "json"], 0),
    (&["range"], 0),
    (&["range", "--format", "json"], 0),
    (&["range", "--format", "backup"], 0),
    (&["import", "--no-header"], 0),
    (&["txn", "-e", "get k"], 0),
    (&["shell", "-e", "get k"], 0),
    (&["shell", "-e", "help"], 0),
    (&["verify"], 0),
    (&["status"], 0),
    (&["family", "list"], 0),
    (&["bench", "load", "--records", "10"], 0),
    (&["--help"], 0),
    (&["get", "--help"], 0),
    (&["--version"], 0),
];

/// Commands that print something on standard error.
const REMARKING: &[(&[&str], i32)] = &[
    (&["get", "nothing"], 1),
    (&["get", "--escape", "\\q"], 2),
    (&["get"], 2),
    (&["serve", "--port", "9090"], 2),
    (&["set", "--family", "none", "k", "v"], 1),
    (&["delete", "--family", "none", "k"], 1),
    (&["range", "--limit", "1"], 0),
    (&["import", "/no/such/file"], 2),
    (&["txn", "-e", "get nothing"], 0),
    (&["txn", "-e", "assert nothing --exists"], 1),
    (&["shell", "-e", "get nothing", "-e", "commit"], 1),
    (&["failover"], 1),
    (&["family", "drop", "none"], 1),
    (&["bench", "check", "--acknowledged", "/no/such/file"], 2),
    (&["serve", "--mode", "quantum"], 2),
];

fn server_with_rows() -> Server {
    let server = Server::start();
    for key in ["k", "l"] {
        assert!(output(&mut command(&server, &["set", key, "v"])).status.success());
    }
    server
}

#[test]
fn a_full_standard_output_is_an_error() {
    let server = server_with_rows();
    for (words, _) in PRINTING {
        let output = output(command(&server, words).stdout(full()));
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {error}");
        assert!(error.contains("cannot write to standard output"), "{words:?}: {error}");
        assert!(!error.contains("panicked"), "{words:?}: {error}");
    }
}

#[test]
fn a_reader_that_went_away_only_shortens_the_output() {
    let server = server_with_rows();
    for (words, status) in PRINTING {
        let output = output(command(&server, words).stdout(closed()));
        assert_eq!(output.status.code(), Some(*status), "{words:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{words:?}");
    }
}

#[test]
fn an_unwritable_standard_error_only_loses_remarks() {
    let server = server_with_rows();
    for (words, status) in REMARKING.iter().chain(PRINTING) {
        for stderr in [full(), closed()] {
            let output = output(command(&server, words).stderr(stderr));
            assert_eq!(output.status.code(), Some(*status), "{words:?}");
        }
    }
    for stderr in [full(), closed()] {
        let mut get = Command::new(PROGRAM);
        let output = output(get.args(["get", "k", "--addr", &unused_address()]).stderr(stderr));
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn both_outputs_may_be_closed() {
    let server = server_with_rows();
    for (words, status) in REMARKING.iter().chain(PRINTING) {
        let output = output(command(&server, words).stdout(closed()).stderr(closed()));
        assert_eq!(output.status.code(), Some(*status), "{words:?}");
    }
}

#[test]
fn a_watch_ends_when_its_reader_has_gone() {
    let server = Server::start();
    for format in ["text", "json"] {
        let words = ["status", "--watch", "0.1", "--format", format];
        let output = output(command(&server, &words).stdout(closed()));
        assert_eq!((output.status.code(), &text(&output.stderr)[..]), (Some(0), ""));
    }
}

#[test]
fn a_long_range_ends_early_when_its_reader_has_gone() {
    let server = Server::start();
    let load = ["bench", "load", "--workload", "get", "--records", "5000"];
    assert!(output(&mut command(&server, &load)).status.success());
    let output = output(command(&server, &["range", "--limit", "0"]).stdout(closed()));
    assert_eq!((output.status.code(), &text(&output.stderr)[..]), (Some(0), ""));
}

#[test]
fn a_change_whose_result_cannot_be_printed_reports_that_it_was_made() {
    let server = server_with_rows();
    let told = |words: &[&str]| {
        let failed = output(command(&server, words).stdout(full()));
        assert_eq!(failed.status.code(), Some(3), "{words:?}");
        text(&failed.stderr)
    };
    let committed = told(&["txn", "-e", "set k w"]);
    assert!(committed.contains("it is committed at version ") && committed.contains("standard output"), "{committed}");
    let read = told(&["txn", "-e", "get k"]);
    assert!(!read.contains("committed"), "{read}");
    let created = told(&["family", "create", "new"]);
    assert!(created.contains("it was done, but its result was not printed: column family new exists"), "{created}");
    let set = told(&["set", "k", "x", "--format", "json"]);
    assert!(set.contains("it was done, but its result was not printed: k; "), "{set}");
}
