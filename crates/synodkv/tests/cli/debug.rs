//! Tests of `debug bundle`.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::server::{PROGRAM, Server};
use crate::{assert_exit, text};

const VALUE: &str = "planted-value-4711";
const KEY: &str = "planted-key-4711";

/// The files of an archive, by their names.
fn files(archive: &Path) -> Vec<(String, String)> {
    let file = std::fs::File::open(archive).expect("the archive");
    let mut archive = tar::Archive::new(zstd::Decoder::new(file).expect("zstd"));
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry: tar::Entry<'_, zstd::Decoder<'_, _>> = entry.expect("an entry");
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("text");
        (entry.path().expect("a name").display().to_string(), content)
    };
    archive.entries().expect("a tar file").map(read).collect()
}

fn json(files: &[(String, String)], name: &str) -> Value {
    let (_, content) = files.iter().find(|(path, _)| path.ends_with(name)).unwrap_or_else(|| panic!("no {name}"));
    serde_json::from_str(content).expect("JSON")
}

/// A server with users, a log file, a value, and a conflict about a key; its configuration, and the
/// file with the token of an administrator.
struct Planted {
    server: Server,
    folder: tempfile::TempDir,
    token: String,
}

impl Planted {
    fn new() -> Planted {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let settings = format!(
            "mode = \"standalone\"\n[server]\nthrift_addr = \"127.0.0.1:0\"\nadmin_addr = \"127.0.0.1:0\"\n\
             [storage]\nengine = \"memory\"\n[log]\nfile = \"{}\"\nslow_ms = 1\n",
            at("server.log")
        );
        std::fs::write(at("synodkv.toml"), settings).expect("written");
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--config", &at("synodkv.toml")]).stderr(Stdio::null());
        let server = Server::start_by(&mut command, folder.path().join("data"));
        let mut planted = Planted { server, folder, token: String::new() };
        let file = planted.at("root.token");
        planted.succeed(&["auth", "enable", "--root-token-file", &file]);
        planted.token = std::fs::read_to_string(&file).expect("a token").trim().to_string();
        planted.succeed(&["set", KEY, VALUE]);
        let rows = planted.succeed(&["range", "--format", "json"]);
        let version = serde_json::from_str::<Value>(&rows).expect("JSON")["version"].to_string();
        planted.succeed(&["set", KEY, VALUE]);
        let late = planted.run(&["txn", "--at", &version, "-e", &format!("get {KEY}"), "-e", "set other 1"]);
        assert_exit(&late, 1);
        planted
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&self, command: &[&str]) -> Output {
        let mut program = Command::new(PROGRAM);
        program.env("SYNODKV_ADDR", &self.server.thrift).env("SYNODKV_ADMIN", &self.server.admin);
        if !self.token.is_empty() {
            program.env("SYNODKV_TOKEN_FILE", self.at("root.token"));
        }
        program.args(command).output().expect("the program runs")
    }

    #[track_caller]
    fn succeed(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert_exit(&output, 0);
        text(&output.stdout)
    }

    /// The files of a new bundle.
    fn bundle(&self, flags: &[&str]) -> Vec<(String, String)> {
        let out = self.at(&format!("bundle-{}.tar.zst", flags.len()));
        let config = self.at("synodkv.toml");
        self.succeed(&[&["debug", "bundle", "--out", &out, "--config", &config], flags].concat());
        files(Path::new(&out))
    }
}

#[test]
fn a_bundle_shows_the_servers_and_no_value_secret_or_key() {
    let planted = Planted::new();
    let files = planted.bundle(&[]);
    for name in ["status", "settings", "threads", "slow", "top-reads", "top-writes", "top-conflicts"] {
        json(&files, &format!("{name}.json"));
    }
    assert!(
        files.iter().any(|(name, page)| name.ends_with("metrics.txt") && page.contains("synodkv_stage_seconds_sum"))
    );
    assert!(json(&files, "doctor.json")["checked"].as_array().is_some_and(|checked| !checked.is_empty()));
    let threads = json(&files, "threads.json");
    assert!(threads["threads"].as_array().expect("a list").iter().any(|t| t["name"] == "group-commit"), "{threads}");
    let manifest = json(&files, "manifest.json");
    assert_eq!(manifest["servers"].as_array().map(Vec::len), Some(1), "{manifest}");
    // A standalone server has no members.
    assert!(
        manifest["missing"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|m| m["what"].as_str().is_some_and(|w| w.ends_with("/members"))),
        "{manifest}"
    );
    let (_, log) = files.iter().find(|(name, _)| name.ends_with("server.log")).expect("the log");
    assert!(log.contains("standalone server started"), "{log}");

    let top = json(&files, "top-conflicts.json");
    assert_eq!(top["keys"][0]["key"], "(removed)", "a key was in conflict: {top}");
    for (name, content) in &files {
        for planted in [VALUE, KEY, &planted.token] {
            assert!(!planted.is_empty() && !content.contains(planted), "{name} holds {planted}: {content}");
        }
    }
}

#[test]
fn with_keys_a_bundle_shows_keys_and_still_no_value_or_secret() {
    let planted = Planted::new();
    let files = planted.bundle(&["--with-keys"]);
    assert_eq!(json(&files, "top-conflicts.json")["keys"][0]["key"], KEY);
    for (name, content) in &files {
        assert!(!content.contains(VALUE) && !content.contains(&planted.token), "{name}: {content}");
    }
}

#[test]
fn a_bundle_of_servers_that_do_not_answer_says_so_and_overwrites_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("b.tar.zst").display().to_string();
    let nobody = crate::server::unused_address();
    let bundle = || {
        let mut program = Command::new(PROGRAM);
        program.args(["debug", "bundle", "--admin", &nobody, "--out", &out]).output().expect("the program runs")
    };
    let output = bundle();
    assert_exit(&output, 0);
    assert!(text(&output.stderr).contains("left out: servers: cannot reach"), "{}", text(&output.stderr));
    let files = files(Path::new(&out));
    assert_eq!(json(&files, "manifest.json")["missing"][0]["what"], "servers");
    let again = bundle();
    assert_exit(&again, 1);
    assert!(text(&again.stderr).contains("File exists"), "{}", text(&again.stderr));
}
