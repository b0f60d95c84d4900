//! Tests that keys and values keep exactly the given bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Command, Stdio};

use crate::server::{PROGRAM, Server};
use crate::terminal::Terminal;
use crate::{assert_exit, printed, printed_json, run, run_with, text};

fn run_bytes(server: &Server, command: &[&OsStr]) -> std::process::Output {
    let mut program = Command::new(PROGRAM);
    program.env("SYNODKV_ADDR", &server.thrift).args(command).output().expect("the program runs")
}

#[test]
fn arguments_are_taken_as_they_are() {
    let server = Server::start();
    for value in ["{\"msg\":\"a\\nb\"}", "C:\\temp\\new", "\\", "\\x00", "a\nb", " ", "käse"] {
        printed(run(&server, &["set", "k", value]));
        assert_eq!(run(&server, &["get", "k"]).stdout, value.as_bytes());
    }
    let key = OsString::from_vec(b"\\key\xff\xfe".to_vec());
    let value = OsString::from_vec((1..=255).collect());
    assert_exit(&run_bytes(&server, &["set".as_ref(), &key, &value]), 0);
    assert_eq!(run_bytes(&server, &["get".as_ref(), &key]).stdout, value.as_bytes());
    assert_exit(&run_bytes(&server, &["delete".as_ref(), &key]), 0);
    assert_exit(&run_bytes(&server, &["get".as_ref(), &key]), 1);
}

#[test]
fn escapes_and_hexadecimal_digits_are_understood_when_asked_for() {
    let server = Server::start();
    printed(run(&server, &["set", "--escape", "k\\x00\\xff", "a\\nb\\\\"]));
    assert_eq!(printed(run(&server, &["get", "--escape", "k\\x00\\xff"])), "a\\nb\\\\\n");
    assert_eq!(printed(run(&server, &["get", "--hex", "6b00ff"])), "610a625c\n");
    assert_eq!(run(&server, &["get", "--hex", "6b00ff", "--raw"]).stdout, b"a\nb\\");
    let json = printed_json(&run(&server, &["get", "--escape", "k\\x00\\xff", "--format", "json"]));
    assert_eq!((&json["key"], &json["value"]), (&"k\\x00\\xff".into(), &"a\\nb\\\\".into()));
    printed(run(&server, &["delete", "--escape", "k\\x00\\xff"]));
    assert_exit(&run(&server, &["get", "--hex", "6b00ff"]), 1);
    assert_exit(&run(&server, &["get", "--hex", "--escape", "6b"]), 2);
    printed(run(&server, &["set", "--hex", "6b", "2d"]));
    assert_eq!(printed(run(&server, &["get", "k"])), "-", "a value that otherwise means standard input");
}

#[test]
fn a_pipe_from_get_to_set_copies_every_value() {
    let server = Server::start();
    let all: Vec<u8> = (0..=255).collect();
    for value in [&b""[..], b"\n", b"a\n", b"a\n\n", b"a\0", b"-", b"\\n", &all] {
        assert_exit(&run_with(&server, &["set", "from", "-"], value), 0);
        let pipe = format!("'{PROGRAM}' get from | '{PROGRAM}' set to -");
        let copied = Command::new("sh").args(["-c", &pipe]).env("SYNODKV_ADDR", &server.thrift).status();
        assert!(copied.expect("a shell").success());
        assert_eq!(run(&server, &["get", "to"]).stdout, value);
    }
}

#[test]
fn a_shell_can_capture_a_value_in_a_variable() {
    let server = Server::start();
    printed(run(&server, &["set", "k", "two words"]));
    let script = format!("x=$('{PROGRAM}' get k); echo \"<$x>\"");
    let said = Command::new("sh").args(["-c", &script]).env("SYNODKV_ADDR", &server.thrift).output();
    assert_eq!(printed(said.expect("a shell")), "<two words>\n");
}

#[test]
fn a_terminal_gets_escapes_and_a_newline() {
    let server = Server::start();
    printed(run(&server, &["set", "--escape", "k", "\\x1b[2J\\n"]));
    let mut command = Command::new(PROGRAM);
    command.args(["get", "k", "--addr", &server.thrift]);
    let (status, shown) = Terminal::start(command).wait();
    assert_eq!((status, &shown[..]), (Some(0), "\\x1b[2J\\n\r\n"));
}

#[test]
fn rows_are_lines_with_one_tab_whatever_their_bytes_are() {
    let server = Server::start();
    let all: Vec<u8> = (0..=255).collect();
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    printed(run(&server, &["set", "--hex", &hex, &hex]));
    printed(run(&server, &["set", "b", "2"]));
    let rows = printed(run(&server, &["range"]));
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(rows.lines().all(|line| line.split('\t').count() == 2), "{rows}");
    let key = rows.split('\t').next().expect("a key");
    assert_eq!(run(&server, &["get", "--escape", key]).stdout.last(), Some(&b'\n'));
    assert_eq!(run(&server, &["get", "--escape", key, "--raw"]).stdout, all);
    // Ends of ranges are bytes, too.
    assert_eq!(printed(run(&server, &["range", "\\x00"])), "b\t2\n");
    assert_eq!(printed(run(&server, &["range", "--escape", "\\x00", "b"])).lines().count(), 1);
    assert_eq!(printed(run(&server, &["range", "--hex", "--prefix", "62"])), "62\t32\n");
}

#[test]
fn a_value_that_is_too_large_is_refused_with_the_setting_of_the_server() {
    let server = Server::start_with(&[("SYNODKV_LIMITS_MAX_VALUE_BYTES", "1000")]);
    // The second length exceeds the longest message, which the server would not even read.
    for length in [1001, 20_000_000] {
        let output = run_with(&server, &["set", "k", "-"], &vec![b'v'; length]);
        assert_exit(&output, 1);
        let error = text(&output.stderr);
        assert!(error.contains("1000 bytes that the server accepts (VALUE_TOO_LARGE)"), "{error}");
        assert!(error.contains("limits.max_value_bytes"), "{error}");
    }
    assert_exit(&run_with(&server, &["set", "k", "-"], &[b'v'; 1000]), 0);
    let output = run(&server, &["set", "k", &"v".repeat(1001)]);
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("the value has 1001 bytes"), "{}", text(&output.stderr));
    let output = run(&server, &["set", &"k".repeat(10_001), "v"]);
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("KEY_TOO_LARGE"), "{}", text(&output.stderr));
}

#[test]
fn endless_input_is_not_read_for_ever() {
    let server = Server::start();
    let zeros = || Stdio::from(std::fs::File::open("/dev/zero").expect("a device"));
    for (command, status) in [(&["set", "k", "-"][..], 1), (&["import"], 2), (&["txn"], 2), (&["shell"], 2)] {
        let mut program = Command::new(PROGRAM);
        let output = program.args(command).args(["--addr", &server.thrift]).stdin(zeros()).output();
        assert_exit(&output.expect("the program runs"), status);
    }
}
