//! Tests of users, roles and tokens in backups: who could log in before can do so after a restore that keeps
//! them, nobody can after one that drops them, and only those get them who may.

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::harness::{Cluster, Server, Setup, assert_exit, cli, run, text};
use crate::waiting::eventually;

/// A cluster with authentication, users, and the tokens of these in files.
struct Guarded {
    folder: TempDir,
    cluster: Cluster,
}

impl Guarded {
    async fn start() -> Guarded {
        let guarded =
            Guarded { folder: tempfile::tempdir().expect("a folder"), cluster: Cluster::start(Setup::default()).await };
        let admin = guarded.cluster.admin();
        let root = guarded.file("root");
        assert_exit(&guarded.cluster.cli(&["set", "hello", "world"]), 0);
        assert_exit(&guarded.cluster.cli(&["auth", "enable", "--root-token-file", &root]), 0);
        for (name, grants) in
            [("saver", &["read *", "admin:status *", "admin:backup *"][..]), ("viewer", &["read *", "admin:status *"])]
        {
            let grants: Vec<&str> = grants.iter().flat_map(|grant| ["--grant", grant]).collect();
            for words in [&[&["role", "set", name], &grants[..]].concat()[..], &["user", "add", name, "--role", name]] {
                assert_exit(
                    &cli("127.0.0.1:1", &admin, &[&["auth"], words, &["--token-file", &root]].concat(), b""),
                    0,
                );
            }
            let made = cli("127.0.0.1:1", &admin, &["auth", "token", "create", name, "--token-file", &root], b"");
            assert_exit(&made, 0);
            fs::write(guarded.file(name), &made.stdout).expect("a file");
            let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
            fs::set_permissions(guarded.file(name), mode).expect("a file of ours");
        }
        guarded
    }

    /// The file with the token of this user.
    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn back_up(&self, user: &str, place: &str, more: &[&str]) -> Output {
        let file = self.file(user);
        self.cluster.cli(&[&["backup", "create", "--to", place, "--token-file", &file], more].concat())
    }
}

fn restore(from: &str, server: &Server, more: &[&str]) -> Output {
    let config = server.config.display().to_string();
    let words = ["restore", "--from", from, "--config", &config, "--format", "json"];
    cli(&server.thrift, &server.admin, &[&words[..], more].concat(), b"")
}

fn get(server: &Server, token_file: Option<&str>) -> Output {
    let token = token_file.map(|file| ["--token-file", file]);
    server.cli(&[&["get", "hello"][..], token.as_ref().map_or(&[], |token| &token[..])].concat())
}

/// Nothing of a backup may have the text of a token.
fn assert_no_secret(place: &Path, token_file: &str) {
    let token = fs::read_to_string(token_file).expect("a token");
    let secret = token.trim().rsplit('_').next().expect("a token").to_string();
    assert!(secret.len() > 20, "no token: {token}");
    let mut folders = vec![place.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = fs::read(&path).expect("a file");
                let has = content.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!has, "{} has a token", path.display());
            }
        }
    }
}

#[test]
fn users_who_could_log_in_before_a_restore_that_keeps_them_can_do_so_after_it() {
    run(async {
        let guarded = Guarded::start().await;
        let place = guarded.folder.path().join("backups");
        let url = place.display().to_string();
        let refused = guarded.back_up("viewer", &url, &["--auth", "keep"]);
        assert_exit(&refused, 1);
        let said = text(&refused.stderr);
        assert!(
            said.contains("--auth keep") && said.contains("admin:backup") && said.contains("no new backup"),
            "{said}"
        );
        assert!(!place.join("full").exists(), "something was written");
        assert_exit(&guarded.back_up("viewer", &guarded.file("without"), &[]), 0);
        assert_exit(&guarded.back_up("saver", &url, &["--auth", "keep"]), 0);
        assert_no_secret(&place, &guarded.file("saver"));
        assert_exit(&guarded.cluster.cli(&["backup", "verify", &url]), 0);
        let described = text(&guarded.cluster.cli(&["backup", "describe", &url]).stdout);
        assert!(described.contains("3 users, 2 roles and 3 tokens; authentication is enabled"), "{described}");

        // The command needs to know whether to keep them.
        let mut single = Server::not_started(Setup::default());
        let refused = restore(&url, &single, &[]);
        assert_exit(&refused, 2);
        assert!(text(&refused.stderr).contains("give --auth keep"), "{}", text(&refused.stderr));
        assert!(!single.data_dir.exists(), "something was written");
        assert_exit(&restore(&url, &single, &["--auth", "keep"]), 0);
        single.start();
        single.live().await;
        for user in ["root", "saver", "viewer"] {
            let found = get(&single, Some(&guarded.file(user)));
            assert_exit(&found, 0);
            assert_eq!(text(&found.stdout).trim(), "world");
        }
        let refused = get(&single, None);
        assert!(text(&refused.stderr).contains("UNAUTHENTICATED"), "{}", text(&refused.stderr));
        let refused = single.cli(&["set", "hello", "you", "--token-file", &guarded.file("viewer")]);
        assert!(text(&refused.stderr).contains("FORBIDDEN"), "{}", text(&refused.stderr));
        let shown = single.cli(&["auth", "show", "--token-file", &guarded.file("root")]);
        assert_exit(&shown, 0);
        assert!(text(&shown.stdout).contains("saver"), "{}", text(&shown.stdout));

        // Dropped, nobody is known and nothing is checked.
        let mut open = Server::not_started(Setup::default());
        assert_exit(&restore(&url, &open, &["--auth", "drop"]), 0);
        open.start();
        open.live().await;
        assert_eq!(text(&get(&open, None).stdout).trim(), "world");
        assert_exit(&open.cli(&["auth", "enable", "--root-token-file", &guarded.file("new-root")]), 0);
        for user in ["root", "saver", "viewer"] {
            let refused = get(&open, Some(&guarded.file(user)));
            assert!(text(&refused.stderr).contains("UNAUTHENTICATED"), "{user}: {}", text(&refused.stderr));
        }
        // A backup without users has none to keep.
        let another = Server::not_started(Setup::default());
        let refused = restore(&guarded.file("without"), &another, &["--auth", "keep"]);
        assert_exit(&refused, 2);
        assert!(text(&refused.stderr).contains("no users"), "{}", text(&refused.stderr));
        assert_exit(&restore(&guarded.file("without"), &another, &[]), 0);
    });
}

#[test]
fn all_replicas_are_restored_with_the_same_users_and_change_them_together() {
    run(async {
        let guarded = Guarded::start().await;
        let (folder, key) = (guarded.folder.path(), guarded.file("key"));
        let url = folder.join("backups").display().to_string();
        assert_exit(&guarded.cluster.cli(&["backup", "key", "--out", &key]), 0);
        assert_exit(&guarded.back_up("saver", &url, &["--auth", "keep", "--encrypt-with", &key]), 0);
        let locked = text(&guarded.cluster.cli(&["backup", "describe", &url]).stdout);
        assert!(locked.contains("users       encrypted"), "{locked}");
        let mut new = Cluster::not_started(Setup::default());
        let keep = ["--auth", "keep", "--key-file", &key];
        let first = restore(&url, &new.servers[0], &keep);
        assert_exit(&first, 0);
        let document: serde_json::Value = serde_json::from_slice(&first.stdout).expect("a document");
        let token = document["founding"].as_str().expect("a token").to_string();
        let refused = restore(&url, &new.servers[1], &["--auth", "drop", "--key-file", &key, "--founding", &token]);
        assert_exit(&refused, 1);
        assert!(text(&refused.stderr).contains("give --auth keep; nothing was written"), "{}", text(&refused.stderr));
        for server in &new.servers[1..] {
            assert_exit(&restore(&url, server, &[&keep[..], &["--founding", &token]].concat()), 0);
        }
        for server in &mut new.servers {
            server.start();
        }
        new.ready().await;
        let root = guarded.file("root");
        for server in &new.servers {
            assert_eq!(text(&get(server, Some(&guarded.file("saver"))).stdout).trim(), "world");
        }
        // Users can be changed, and all replicas agree on it.
        assert_exit(&new.cli(&["auth", "user", "disable", "viewer", "--token-file", &root]), 0);
        for server in &new.servers {
            eventually("the user is shut out", async || {
                let output = get(server, Some(&guarded.file("viewer")));
                let said = text(&output.stderr);
                if said.contains("disabled") { Ok(()) } else { Err(said) }
            })
            .await;
        }
        assert_exit(&new.cli(&["set", "hello", "you", "--token-file", &root]), 0);
        assert_exit(&new.cli(&["verify", "--token-file", &root]), 0);
    });
}
