//! Tests of `doctor`: misconfigurations are planted, and each must be found.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fake_replicas::FakeReplicas;
use crate::server::{PROGRAM, Server, unused_address};
use crate::{assert_exit, printed_json, run, text};

/// The names of the findings that are more than a note.
fn found(output: &Output) -> Vec<String> {
    let report = printed_json(output);
    let findings = report["findings"].as_array().expect("a list").iter();
    let serious = findings.filter(|finding| finding["severity"] != "note");
    serious.map(|finding| finding["name"].as_str().expect("text").to_string()).collect()
}

#[track_caller]
fn assert_found(output: &Output, planted: &[&str]) {
    assert_exit(output, 1);
    let found = found(output);
    let missed: Vec<_> = planted.iter().filter(|name| !found.iter().any(|found| found == *name)).collect();
    assert!(missed.is_empty(), "missed {missed:?}: {}", text(&output.stdout));
    for finding in printed_json(output)["findings"].as_array().expect("a list") {
        assert!(!finding["text"].as_str().expect("text").is_empty(), "{finding}");
        assert!(!finding["remedy"].as_str().expect("text").is_empty(), "{finding}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own file");
}

/// A certificate that expired long ago, and its key, which every user can read.
fn plant_certificate(folder: &Path) {
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_string()]).expect("a valid name");
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join("server.pem"), certificate.pem()).expect("written");
    std::fs::write(folder.join("server.key"), key.serialize_pem()).expect("written");
    set_mode(&folder.join("server.key"), 0o644);
}

#[test]
fn ten_misconfigurations_of_a_machine_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    // The usual file system in memory.
    let memory = tempfile::tempdir_in("/dev/shm").expect("/dev/shm");
    set_mode(memory.path(), 0o777);
    plant_certificate(folder.path());
    let mut settings = format!(
        "mode = \"replicated\"\n\
         [server]\nallow_fault_injection = true\n\
         [server.tls]\ncertificate = \"{folder}/server.pem\"\nkey = \"{folder}/server.key\"\n\
         [admin.tls]\nmode = \"off\"\n\
         [storage]\ndata_dir = \"{data}\"\nmin_free_mb = 1000000\n\
         [replication]\nnode_id = 0\n",
        folder = folder.path().display(),
        data = memory.path().display()
    );
    for id in 0..4 {
        settings += &format!(
            "[[replication.replicas]]\nid = {id}\npeer = \"10.255.0.{id}:6001\"\nthrift = \"10.255.0.{id}:9090\"\n\
             admin = \"10.255.0.{id}:9190\"\n"
        );
    }
    let file = folder.path().join("synodkv.toml");
    std::fs::write(&file, settings).expect("written");
    set_mode(&file, 0o666);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1024; exec \"$0\" \"$@\"", PROGRAM, "doctor", "--no-cluster", "--format", "json"]);
    let output = command.arg("--config").arg(&file).output().expect("sh runs");
    let planted = [
        "configuration_writable_by_all",
        "certificate_expired",
        "secret_open_to_others",
        "listener_without_tls",
        "peers_without_tls",
        "fault_injection_allowed",
        "even_number_of_voters",
        "few_descriptors",
        "data_directory_open_to_all",
        "data_in_memory",
        "disk_full",
    ];
    assert_found(&output, &planted);
    assert_eq!(std::fs::read_dir(memory.path()).expect("readable").count(), 0, "doctor leaves nothing behind");
}

#[test]
fn what_the_servers_of_a_cluster_disagree_about_is_found() {
    let [one, other] = [(), ()].map(|()| FakeReplicas::start(vec![Vec::new()]));
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    one.announce_unreachable(1, &other.address);
    one.announce_unreachable(2, &unused_address());
    one.lose_the_primary();
    other.lose_the_primary();
    one.list_problem(json!({ "kind": "little_memory", "replica": 0, "text": "512 MiB", "remedy": "more" }));
    one.set("members", json!([{ "role": "voter" }, { "role": "voter" }, { "role": "observer" }]));
    let access = |enabled: bool| json!({ "enabled": enabled, "revision": 1, "users": 0, "roles": 0, "tokens": 0 });
    for (server, version, window, time) in [(&one, "1.0.0", 1000, now), (&other, "1.1.0", 2000, now - 60_000)] {
        server.set("version", json!(version));
        server.set("settings", json!({ "storage.readable_window_ms": window, "limits.max_key_bytes": 10 }));
        server.set("time_ms", json!(time));
        server.set("access", access(false));
        server.set_of_replica(0, "thrift", json!("10.0.0.1:9090"));
        server.set_of_replica(0, "highest_level", json!(3));
    }
    one.set_of_replica(1, "highest_level", json!(4));
    one.set_of_replica(2, "reachable", json!(false));
    let mut command = Command::new(PROGRAM);
    command.args(["doctor", "--admin", &one.address, "--format", "json"]);
    let output = command.output().expect("the program runs");
    let planted = [
        "server_unreachable",
        "replica_unreachable",
        "no_primary",
        "little_memory",
        "version_skew",
        "feature_level_skew",
        "settings_differ",
        "clocks_differ",
        "no_authentication",
        "even_number_of_voters",
    ];
    assert_found(&output, &planted);
    let report = printed_json(&output);
    let differing = report["findings"].as_array().expect("a list").iter().find(|f| f["name"] == "settings_differ");
    let differing = differing.expect("found")["text"].as_str().expect("text").to_string();
    assert!(differing.contains("storage.readable_window_ms") && differing.contains(&other.address), "{differing}");
    assert!(!text(&output.stdout).contains("max_key_bytes"), "equal settings are no finding");
}

#[test]
fn a_sound_server_is_fine() {
    let server = Server::start();
    let output = run(&server, &["doctor", "--format", "json"]);
    // The machine that runs the test may lack memory or descriptors, and its server says so.
    let known = ["few_descriptors", "little_memory"];
    let found: Vec<String> = found(&output).into_iter().filter(|name| !known.contains(&&**name)).collect();
    assert!(found.is_empty(), "{}", text(&output.stdout));
    let checked = &printed_json(&output)["checked"];
    for check in ["reachability", "versions", "settings", "clocks"] {
        assert!(checked.as_array().expect("a list").contains(&Value::from(check)), "{check} of {checked}");
    }
}

#[test]
fn without_a_server_or_with_a_wrong_file_it_says_so() {
    let mut command = Command::new(PROGRAM);
    let nobody = command.args(["doctor", "--admin", &unused_address(), "--format", "json"]).output().expect("it runs");
    assert_found(&nobody, &["no_server_answers"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[storage]\nno_such_key = 1\n").expect("written");
    let output = Command::new(PROGRAM).args(["doctor", "--config"]).arg(&file).output().expect("it runs");
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("no_such_key"), "{}", text(&output.stderr));
}
