//! Tests of the hints for people who use the command line of SynodKV's predecessor.

use std::process::Command;

use crate::server::PROGRAM;
use crate::{assert_exit, text};

#[test]
fn flags_of_the_predecessor_are_answered_with_those_of_today() {
    for words in
        [&["--port", "9090", "--db-path", "./d"][..], &["serve", "--port", "9090"], &["serve", "--db-path", "./d"]]
    {
        let output = Command::new(PROGRAM).args(words).output().expect("the program runs");
        assert_exit(&output, 2);
        let error = text(&output.stderr);
        let expected = ["synodkv serve", "--thrift-addr", "--data-dir", "docs/MIGRATE.md"];
        assert!(expected.iter().all(|words| error.contains(words)), "{error}");
    }
}

#[test]
fn a_file_of_the_predecessor_is_answered_with_the_table_of_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    for settings in ["[rocksdb]\nwrite_buffer_size = 1\n", "data_path = \"./d\"\n", "port = 9090\n"] {
        std::fs::write(&file, settings).expect("written");
        let output = Command::new(PROGRAM).args(["serve", "--config"]).arg(&file).output().expect("the program runs");
        assert_exit(&output, 2);
        let error = text(&output.stderr);
        assert!(error.contains("unknown key") && error.contains("docs/MIGRATE.md"), "{error}");
    }
}
