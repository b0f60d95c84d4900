//! Tests of `shell` with input from a pipe and on a terminal.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::server::{PROGRAM, Server};
use crate::terminal::Terminal;
use crate::txn::run_with_input;
use crate::{assert_exit, printed, run, text};

#[test]
fn lines_from_a_pipe_are_executed_without_a_prompt() {
    let server = Server::start();
    let input = "set a 1\nget a\nbegin\nset a 2\nget a\nrollback\nget a\nget b\nquit\nset a 3\n";
    let output = run_with_input(&server, &["shell"], input);
    assert_eq!(text(&output.stderr), "no such key: b\n");
    assert_eq!(printed(output), "1\n2\n1\n");
    assert_eq!(printed(run(&server, &["get", "a"])), "1");
}

#[test]
fn a_transaction_is_seen_by_others_only_after_its_commit() {
    let server = Server::start();
    let output = run_with_input(&server, &["shell"], "begin\nset a 1\nset b 2\nrange\ncommit\n");
    let printed_lines = printed(output);
    assert!(printed_lines.starts_with("a\t1\nb\t2\ncommitted at version "), "{printed_lines}");
    let output = run_with_input(&server, &["shell"], "begin\nset a 9\n");
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("the input ended inside a transaction"), "{}", text(&output.stderr));
    assert_eq!(printed(run(&server, &["get", "a"])), "1");
}

#[test]
fn the_first_line_that_fails_ends_a_shell_without_a_terminal() {
    let server = Server::start();
    for (input, expected) in [
        ("set a 1\nnonsense\nset a 2\n", "line 2: no such command: `nonsense`"),
        ("commit\n", "line 1: no transaction is open"),
        ("begin\nassert a 7\nset a 7\ncommit\n", "line 2: assert failed: `a` is `1`, not `7`"),
        ("begin\nbegin\n", "line 2: a transaction is open already"),
        ("begin\nget a --at 1\n", "line 2: a transaction reads at one version"),
    ] {
        let output = run_with_input(&server, &["shell"], input);
        assert_exit(&output, 1);
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{error}");
        assert_eq!(printed(run(&server, &["get", "a"])), "1");
    }
}

#[test]
fn a_commit_fails_if_another_client_wrote_a_key_that_it_read() {
    let server = Server::start();
    printed(run(&server, &["set", "a", "1"]));
    let mut shell = Command::new(PROGRAM)
        .env("SYNODKV_ADDR", &server.thrift)
        .arg("shell")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut keyboard = shell.stdin.take().expect("piped");
    let mut screen = BufReader::new(shell.stdout.take().expect("piped"));
    keyboard.write_all(b"begin\nget a\n").expect("it reads");
    let mut line = String::new();
    screen.read_line(&mut line).expect("a line");
    assert_eq!(line, "1\n");
    printed(run(&server, &["set", "a", "2"]));
    keyboard.write_all(b"set b 1\ncommit\n").expect("it reads");
    drop(keyboard);
    let output = shell.wait_with_output().expect("it was started here");
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("line 4: conflict") && error.contains("nothing was written: begin again"), "{error}");
    assert_exit(&run(&server, &["get", "b"]), 1);
}

#[test]
fn json_is_one_line_for_each_command() {
    let server = Server::start();
    let input = "set a 1\nbegin\nget a\ncommit\nget b\n";
    let output = run_with_input(&server, &["shell", "--format", "json"], input);
    let lines: Vec<Value> = printed(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["command"], &lines[0]["committed"]), (&json!("set"), &json!(true)));
    assert_eq!(lines[1], json!({ "command": "begin" }));
    assert_eq!(lines[2], json!({ "command": "get", "key": "a", "found": true, "value": "1" }));
    assert_eq!((&lines[3]["command"], &lines[3]["committed"]), (&json!("commit"), &json!(false)));
    assert_eq!(lines[4], json!({ "command": "get", "key": "b", "found": false, "value": null }));
}

#[test]
fn an_old_version_is_read_by_a_command_or_by_a_whole_transaction() {
    let server = Server::start();
    let script = ["txn", "--format", "json", "-e", "set a 1"];
    let version = crate::printed_json(&run(&server, &script))["version"].to_string();
    printed(run(&server, &["set", "a", "2"]));
    let input = format!("get a --at {version}\nbegin --at {version}\nget a\nrollback\nget a\n");
    assert_eq!(printed(run_with_input(&server, &["shell"], &input)), "1\n1\n2\n");
}

#[test]
fn help_needs_no_server() {
    let nobody = crate::server::unused_address();
    let mut command = Command::new(PROGRAM);
    let output = command.args(["shell", "--addr", &nobody, "-e", "help", "-e", "help range"]).output();
    let help = printed(output.expect("the program runs"));
    assert!(["range [BEGIN [END]]", "rollback", "--limit ROWS"].iter().all(|words| help.contains(words)), "{help}");
}

/// A shell on a terminal, at its first prompt.
fn shell_on_terminal(server: &Server, state: &std::path::Path, options: &[&str]) -> Terminal {
    let mut command = Command::new(PROGRAM);
    command.arg("shell").args(options).env("SYNODKV_ADDR", &server.thrift).env("XDG_STATE_HOME", state);
    let mut terminal = Terminal::start(command);
    terminal.wait_for("synodkv> ");
    terminal
}

#[test]
fn on_a_terminal_the_prompt_shows_a_transaction_and_errors_do_not_end_the_shell() {
    let server = Server::start();
    let state = tempfile::tempdir().expect("a folder");
    let mut terminal = shell_on_terminal(&server, state.path(), &[]);
    terminal.type_text("set a 1\r");
    terminal.wait_for("committed at version ");
    terminal.wait_for("synodkv> ");
    terminal.type_text("beg\t\r");
    terminal.wait_for("synodkv*> ");
    terminal.type_text("assert a 2\r");
    terminal.wait_for("assert failed: `a` is `1`, not `2`");
    terminal.wait_for("synodkv!> ");
    terminal.type_text("set a 2\r");
    terminal.wait_for("the transaction has failed");
    terminal.wait_for("synodkv!> ");
    terminal.type_text("rollback\r");
    terminal.wait_for("nothing of it was written");
    terminal.wait_for("synodkv> ");
    terminal.type_text("\x04");
    assert_eq!(terminal.wait().0, Some(0));
    assert_eq!(printed(run(&server, &["get", "a"])), "1");
}

#[test]
fn the_history_outlives_the_shell_unless_it_is_not_wanted() {
    let server = Server::start();
    let state = tempfile::tempdir().expect("a folder");
    let mut terminal = shell_on_terminal(&server, state.path(), &[]);
    terminal.type_text("set a 1\r");
    terminal.wait_for("committed at version ");
    terminal.wait_for("synodkv> ");
    terminal.type_text("quit\r");
    assert_eq!(terminal.wait().0, Some(0));
    let history = state.path().join("synodkv/history");
    let kept = std::fs::read_to_string(&history).expect("a history");
    assert!(kept.ends_with("set a 1\nquit\n"), "{kept}");

    let mut terminal = shell_on_terminal(&server, state.path(), &[]);
    // Cursor up twice recalls the line before the last one.
    terminal.type_text("\x1b[A\x1b[A\r");
    terminal.wait_for("set a 1");
    terminal.wait_for("committed at version ");
    drop(terminal);

    std::fs::remove_file(&history).expect("it was there");
    let mut terminal = shell_on_terminal(&server, state.path(), &["--no-history"]);
    terminal.type_text("quit\r");
    assert_eq!(terminal.wait().0, Some(0));
    assert!(!history.exists());
}

#[test]
fn ctrl_c_ends_the_running_command_and_not_the_shell() {
    let server = Server::start();
    let state = tempfile::tempdir().expect("a folder");
    let mut terminal = shell_on_terminal(&server, state.path(), &["--timeout-seconds", "600"]);
    terminal.type_text("set a 1\r");
    terminal.wait_for("committed at version ");
    terminal.wait_for("synodkv> ");
    server.pause();
    terminal.type_text("get a\r");
    // The line is accepted once its end is echoed; from then on Ctrl-C makes a signal.
    terminal.wait_for("\n");
    terminal.interrupt();
    terminal.wait_for("error: interrupted");
    server.resume();
    terminal.wait_for("synodkv> ");
    terminal.type_text("get a\r");
    terminal.wait_for("\r\n1\r\n");
}
