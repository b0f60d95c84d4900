//! Tests of `bench`, one second per run. They check that it works, not how fast anything is.

use serde_json::{Value, json};

use crate::server::Server;
use crate::{assert_exit, printed, printed_json, run, text};

#[test]
fn bench_reports_throughput_latency_and_errors() {
    let server = Server::start();
    for workload in ["put", "get", "mixed", "commit"] {
        let options = ["--concurrency", "16", "--connections", "4", "--keys", "100", "--seconds", "1"];
        let command = [&["bench", "--format", "json", "--workload", workload], &options[..]].concat();
        let output = run(&server, &command);
        assert_exit(&output, 0);
        let report = printed_json(&output);
        assert!(report["throughput"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
        assert!(report["p50_us"].as_u64() <= report["p99_us"].as_u64(), "{report}");
        assert_eq!(report["errors"], 0, "{report}");
    }
}

#[test]
fn bench_keeps_to_a_rate() {
    let server = Server::start();
    let output = run(&server, &["bench", "--rate", "200", "--seconds", "1", "--format", "json"]);
    assert_exit(&output, 0);
    let operations = printed_json(&output)["operations"].as_u64().expect("a number");
    assert!((150..=200).contains(&operations), "{operations}");
}

#[test]
fn a_lost_acknowledged_key_is_found() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let record = folder.path().join("acknowledged");
    let record = record.to_str().expect("UTF-8");
    printed(run(&server, &["bench", "--unique", "--acknowledged", record, "--seconds", "1", "--rate", "500"]));
    let check = ["bench", "check", "--acknowledged", record, "--format", "json"];
    let output = run(&server, &check);
    assert_exit(&output, 0);
    let checked = printed_json(&output)["checked"].as_u64().expect("a number");
    assert!(checked > 100, "{checked}");

    let first = std::fs::read_to_string(record).expect("the record");
    let (key, _) = first.split_once('\t').expect("a key");
    printed(run(&server, &["delete", key]));
    let output = run(&server, &check);
    assert_exit(&output, 1);
    assert_eq!(printed_json(&output)["missing"], 1);
    assert!(text(&output.stderr).contains(key));
}

/// The report of a short run on `keys` records.
fn measured(server: &Server, keys: &str, options: &[&str]) -> Value {
    let short = ["bench", "--format", "json", "--concurrency", "4", "--seconds", "1", "--keys", keys];
    let output = run(server, &[&short, options].concat());
    assert_exit(&output, 0);
    let report = printed_json(&output);
    assert_eq!(report["errors"], 0, "{report}");
    report
}

#[test]
fn the_workloads_of_ycsb_do_the_operations_of_their_mix() {
    let server = Server::start();
    printed(run(&server, &["bench", "load", "--records", "200"]));
    for (workload, operations) in [
        ("ycsb-a", &["read", "update"][..]),
        ("ycsb-b", &["read", "update"]),
        ("ycsb-c", &[]),
        ("ycsb-d", &["insert", "read"]),
        ("ycsb-e", &["insert", "scan"]),
        ("ycsb-f", &["read", "read-modify-write"]),
    ] {
        let report = measured(&server, "200", &["--workload", workload, "--no-load"]);
        let parts = report["by_operation"].as_object().cloned().unwrap_or_default();
        assert_eq!(parts.keys().collect::<Vec<_>>(), operations, "{report}");
        assert!(parts.values().all(|part| part["operations"].as_u64() > Some(0)), "{report}");
        assert_eq!((&report["value_size"], &report["key_size"]), (&json!(1000), &json!(23)));
    }
}

#[test]
fn a_load_phase_writes_the_records_that_a_run_reads() {
    let server = Server::start();
    let load = ["bench", "load", "--records", "30", "--value-size", "7", "--format", "json"];
    assert_eq!(printed_json(&run(&server, &load))["records"], 30);
    let rows = printed(run(&server, &["range", "--prefix", "user"]));
    assert_eq!(rows.lines().count(), 30);
    let report = measured(&server, "30", &["--workload", "txn"]);
    assert_eq!(report["errors"], 0);
    assert_eq!(printed(run(&server, &["range", "--prefix", "000"])).lines().count(), 30);
}

#[test]
fn inserts_add_records() {
    let server = Server::start();
    let report = measured(&server, "200", &["--workload", "ycsb-d", "--value-size", "10"]);
    let inserted = report["by_operation"]["insert"]["operations"].as_u64().expect("a number");
    let rows = printed(run(&server, &["range", "--prefix", "user", "--limit", "0"]));
    assert_eq!(rows.lines().count() as u64, 200 + inserted);
}

#[test]
fn transactions_on_few_records_meet_conflicts_and_commit_all_the_same() {
    let server = Server::start();
    let report = measured(&server, "2", &["--workload", "txn"]);
    assert!(report["operations"].as_u64() > Some(0), "{report}");
    assert!(report["conflicts"].as_u64() > Some(0), "{report}");
    assert!(report["retries"].as_u64() >= report["conflicts"].as_u64(), "{report}");
}

#[test]
fn transactions_keep_to_a_rate() {
    let server = Server::start();
    let operations = measured(&server, "200", &["--workload", "txn", "--rate", "20"])["operations"].as_u64();
    assert!(operations.is_some_and(|count| (10..=20).contains(&count)), "{operations:?}");
}
