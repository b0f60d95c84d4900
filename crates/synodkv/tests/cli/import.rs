//! Tests of `range --format backup` and `import`: an import restores exactly the exported rows, or
//! fails.

use crate::server::Server;
use crate::{assert_exit, printed, run, run_with, text};

fn backup(server: &Server, options: &[&str]) -> String {
    printed(run(server, &[&["range", "--format", "backup"], options].concat()))
}

/// Imports a file that a test has made from a backup.
fn import_file(server: &Server, rows: &[u8], options: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rows");
    std::fs::write(&file, rows).expect("written");
    run(server, &[&["import", file.to_str().expect("UTF-8")], options].concat())
}

/// Rows with every byte in them.
fn server_with_rows() -> Server {
    let server = Server::start();
    let load = ["bench", "--workload", "get", "--keys", "2500", "--seconds", "1", "--concurrency", "1"];
    printed(run(&server, &load));
    let all: Vec<u8> = (0..=255).collect();
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    printed(run(&server, &["set", "--hex", &hex, &hex]));
    assert_exit(&run_with(&server, &["set", "empty", "-"], b""), 0);
    printed(run(&server, &["set", "--hex", "ffff", "0d0a"]));
    server
}

#[test]
fn a_backup_can_be_imported_elsewhere_from_a_file_and_from_a_pipe() {
    let (from, to) = (server_with_rows(), Server::start());
    printed(run(&to, &["family", "create", "copy"]));
    for notation in [&[][..], &["--hex"]] {
        let rows = backup(&from, notation);
        assert!(rows.starts_with("synodkv-rows 1 notation="), "{}", &rows[..80]);
        assert!(rows.contains(" family=default version="), "{}", &rows[..80]);
        let piped = run_with(&to, &["import"], rows.as_bytes());
        assert!(printed(piped).starts_with("2503 rows imported"));
        let filed = import_file(&to, rows.as_bytes(), &["--family", "copy"]);
        assert!(printed(filed).starts_with("2503 rows imported"));
        let all = |server, family| printed(run(server, &["range", "--limit", "0", "--family", family]));
        assert_eq!(all(&to, "default"), all(&from, "default"));
        assert_eq!(all(&to, "copy"), all(&from, "default"));
        printed(run(&to, &["txn", "-e", "clear --prefix ''", "-e", "clear --prefix '' --family copy"]));
        assert_eq!(all(&to, "default"), "");
    }
}

#[test]
fn the_header_names_the_family_by_default() {
    let server = Server::start();
    printed(run(&server, &["family", "create", "users"]));
    printed(run(&server, &["set", "--family", "users", "ada", "1"]));
    let rows = backup(&server, &["--family", "users"]);
    printed(run(&server, &["delete", "--family", "users", "ada"]));
    printed(run_with(&server, &["import"], rows.as_bytes()));
    assert_eq!(printed(run(&server, &["get", "--family", "users", "ada"])), "1");
    assert_eq!(printed(run(&server, &["range"])), "", "nothing in another family");
}

#[test]
fn a_file_that_is_not_as_it_was_written_is_refused_as_a_whole() {
    let (from, to) = (server_with_rows(), Server::start());
    let rows = backup(&from, &[]);
    let lines: Vec<&str> = rows.lines().collect();
    let without_a_row = [&lines[..1000], &lines[1001..]].concat().join("\n");
    let changed = rows.replacen("\t", "\tx", 1);
    for (broken, expected) in [
        (rows[..rows.len() - 5].to_string(), "line 2505: the checksum does not fit"),
        (rows[..rows.len() / 2].to_string(), "the file ends in the middle of it"),
        (rows.replace('\n', "\r\n"), "line 1: it ends with a carriage return"),
        (without_a_row, "there were 2503 rows, and 2502 are here"),
        (changed, "the checksum does not fit"),
        (lines[1..].join("\n"), "line 1: this is no header"),
        (String::new(), "it is empty"),
        (format!("{rows}{rows}"), "something follows the end mark"),
    ] {
        let output = import_file(&to, broken.as_bytes(), &[]);
        assert_exit(&output, 2);
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.contains("nothing was written"), "{error}");
        assert_eq!(printed(run(&to, &["range", "--limit", "1"])), "", "{expected}");
    }
}

#[test]
fn rows_from_a_pipe_are_written_up_to_the_first_invalid_one_which_is_reported() {
    let (from, to) = (server_with_rows(), Server::start());
    let rows = backup(&from, &[]);
    let cut = rows.rfind("synodkv-rows end").expect("an end mark");
    let output = run_with(&to, &["import"], &rows.as_bytes()[..cut]);
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("2503 rows before it are written") && error.contains("the end mark is missing"), "{error}");
    assert_eq!(printed(run(&to, &["range", "--limit", "0"])), printed(run(&from, &["range", "--limit", "0"])));
    let empty = Server::start();
    let output = run_with(&empty, &["import"], b"synodkv-rows 1 notation=hex family=default version=1\n61 31\n");
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("line 2: expected a key, a tab"), "{}", text(&output.stderr));
}

#[test]
fn rows_without_a_header_are_taken_when_asked_for() {
    let server = Server::start();
    let rows = b"a\\x00\t1\nb\t2\n";
    let output = run_with(&server, &["import"], rows);
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("there is --no-header"), "{}", text(&output.stderr));
    assert!(printed(run_with(&server, &["import", "--no-header"], rows)).starts_with("2 rows imported"));
    assert_eq!(printed(run(&server, &["range"])), "a\\x00\t1\nb\t2\n");
    assert_exit(&run_with(&server, &["import", "--no-header", "--hex"], b"63\t3333\n"), 0);
    assert_eq!(printed(run(&server, &["get", "c"])), "33");
    // From a pipe, the rows before the invalid line are written, and the message says so.
    let output = run_with(&server, &["import", "--no-header"], b"d\t1\ne\t2\nf 3\ng\t4\n");
    assert_exit(&output, 1);
    let error = text(&output.stderr);
    assert!(error.contains("2 rows before it are written; standard input, line 3: expected a key, a tab"), "{error}");
    assert_exit(&run(&server, &["get", "g"]), 1);
    // From a file, nothing is written.
    let output = import_file(&server, b"h\t1\r\n", &["--no-header"]);
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("line 1: it ends with a carriage return"), "{}", text(&output.stderr));
    assert_exit(&run(&server, &["get", "h"]), 1);
    assert!(printed(run_with(&server, &["import", "--no-header"], b"")).contains("no row"));
}

#[test]
fn an_invalid_import_is_refused_with_the_reason() {
    let server = Server::start();
    let missing = run(&server, &["import", "/no/such/file"]);
    assert_exit(&missing, 2);
    let unknown = run_with(&server, &["import", "--no-header", "--family", "nope"], b"a\t1");
    assert_exit(&unknown, 1);
    assert!(text(&unknown.stderr).contains("0 rows are written; Column family 'nope' not found"));
    let large = Server::start_with(&[("SYNODKV_LIMITS_MAX_VALUE_BYTES", "1000000")]);
    let value = vec![0; 300_000];
    assert_exit(&run_with(&large, &["set", "zeros", "-"], &value), 0);
    let rows = backup(&large, &[]);
    let refused = import_file(&server, rows.as_bytes(), &[]);
    assert_exit(&refused, 2);
    let error = text(&refused.stderr);
    assert!(error.contains("line 2: ") && error.contains("limits.max_value_bytes"), "{error}");
    printed(run(&large, &["delete", "zeros"]));
    assert!(printed(import_file(&large, rows.as_bytes(), &[])).starts_with("1 rows imported"));
    assert_eq!(run(&large, &["get", "zeros"]).stdout, value);
}
