//! Tests of `status --watch`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::server::{PROGRAM, Server, send_signal, unused_address};
use crate::terminal::Terminal;

fn watch(admin: &str, options: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["status", "--watch", "0.1", "--admin", admin]).args(options);
    command
}

fn piped(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut process = command.stdout(Stdio::piped()).spawn().expect("the program runs");
    let output = BufReader::new(process.stdout.take().expect("piped"));
    (process, output)
}

fn interrupted(mut process: Child) -> Option<i32> {
    send_signal(process.id(), "INT");
    process.wait().expect("it was started here").code()
}

#[test]
fn a_pipe_gets_one_status_after_the_other() {
    let server = Server::start();
    let (process, output) = piped(watch(&server.admin, &[]));
    let primaries = output.lines().map(|line| line.expect("UTF-8")).filter(|line| line.starts_with("primary"));
    assert_eq!(primaries.take(3).collect::<Vec<_>>(), ["primary  replica 0"; 3]);
    assert_eq!(interrupted(process), Some(0));
}

#[test]
fn json_is_one_status_a_line() {
    let server = Server::start();
    let (process, output) = piped(watch(&server.admin, &["--format", "json"]));
    for line in output.lines().take(2) {
        let status: Value = serde_json::from_str(&line.expect("UTF-8")).expect("JSON");
        assert_eq!(status["mode"], "standalone");
    }
    assert_eq!(interrupted(process), Some(0));
}

#[test]
fn a_server_that_does_not_answer_is_waited_for() {
    let nobody = unused_address();
    let mut process = watch(&nobody, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let errors = BufReader::new(process.stderr.take().expect("piped")).lines();
    for line in errors.take(2) {
        let line = line.expect("UTF-8");
        assert!(line.contains(&format!("{nobody}: connection refused")), "{line}");
    }
    assert_eq!(interrupted(process), Some(0));
}

#[test]
fn a_terminal_is_drawn_in_place_and_given_back() {
    let server = Server::start();
    let mut terminal = Terminal::start(watch(&server.admin, &[]));
    terminal.wait_for("\x1b[?1049h");
    for _ in 0..2 {
        terminal.wait_for("\x1b[Hevery 0.1 s; Ctrl-C ends");
        terminal.wait_for("primary  replica 0");
    }
    send_signal(terminal.id(), "INT");
    let (status, shown) = terminal.wait();
    assert_eq!(status, Some(0));
    let (_, after) = shown.split_once("\x1b[?1049l").expect("the first screen is back");
    assert!(after.contains("primary  replica 0"), "what was seen last stays: {after}");
}

#[test]
fn an_invalid_interval_is_refused() {
    for seconds in ["0", "-1", "soon", "1e9"] {
        let output = Command::new(PROGRAM).args(["status", &format!("--watch={seconds}")]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2));
    }
}
