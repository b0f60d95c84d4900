//! Tests of the audit log: the scopes, the notation of keys, a full queue, rotation.

use std::path::Path;

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitResult, KeyRef, Mutation, ReadAt};
use serde_json::{Value, json};

use super::*;
use crate::access::tests::{gate, session, token};
use crate::access::{Gate, Rule};

fn settings(file: &Path) -> AuditSettings {
    AuditSettings { file: Some(file.to_owned()), keys: AuditKeys::Full, ..AuditSettings::default() }
}

fn caller(gate: &Gate) -> Caller {
    gate.admit(&session(), Some(&token(2)), "setKey", Rule::Operation).expect("eve")
}

fn write(key: &str) -> KvOperation {
    let mutation =
        Mutation { column_family: "f".into(), ..Mutation::set(Bytes::copy_from_slice(key.as_bytes()), "secret value") };
    KvOperation::AtomicCommit(AtomicCommit::of(vec![mutation]))
}

fn committed() -> Result<KvOutcome, KvError> {
    Ok(KvOutcome::Committed(CommitResult { version: 7, ..CommitResult::default() }))
}

/// Waits until the file has this many lines.
async fn lines(file: &Path, count: usize) -> Vec<Value> {
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= count && text.ends_with('\n') {
            return text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_write_has_a_line_without_its_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.log");
    let (_, gate) = gate();
    let log = AuditLog::start(&settings(&file)).expect("it opens").expect("it is configured");
    let recording = log.begin(&write("a\n"), &caller(&gate), false).expect("writes are recorded");
    recording.end_with(&committed()).await;
    let line = lines(&file, 1).await.remove(0);
    for (field, value) in [
        ("id", json!(1)),
        ("user", json!("eve")),
        ("by", json!("token")),
        ("address", json!("127.0.0.1:1")),
        ("encrypted", json!(false)),
        ("method", json!("setKey")),
        ("verbs", json!(["write"])),
        ("families", json!(["f"])),
        ("keys", json!(["a\\n"])),
        ("version", json!(7)),
        ("outcome", json!("ok")),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(!text.contains("secret value") && !text.contains(&token(2)[25..]), "{text}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_scope_decides_what_is_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, gate) = gate();
    let caller = caller(&gate);
    let read = KvOperation::Get { key: KeyRef::new("a"), at: ReadAt::Stale };
    use AuditScope::{All, Denied, None};
    for (scope, allowed, denied) in [(None, false, false), (Denied, false, true), (All, true, true)] {
        let file = folder.path().join("audit.log");
        let log = AuditLog::start(&AuditSettings { reads: scope, writes: scope, ..settings(&file) });
        let log = log.expect("it opens").expect("it is configured");
        for operation in [&read, &write("a")] {
            assert_eq!(log.begin(operation, &caller, false).is_some(), allowed, "{scope:?}");
            assert_eq!(log.begin(operation, &caller, true).is_some(), denied, "{scope:?}");
        }
        assert!(log.begin(&read, &Caller::server(), true).is_none(), "the server's own work");
    }
    assert!(AuditLog::start(&AuditSettings::default()).expect("nothing to open").is_none());
}

#[tokio::test]
async fn a_client_that_leaves_has_a_line_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("audit.log");
    let (_, gate) = gate();
    let log = AuditLog::start(&settings(&file)).expect("it opens").expect("it is configured");
    drop(log.begin(&write("a"), &caller(&gate), false));
    assert_eq!(lines(&file, 1).await[0]["outcome"], "the client left");
}

#[tokio::test]
async fn the_file_is_opened_again_when_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, moved) = (folder.path().join("audit.log"), folder.path().join("audit.log.1"));
    let (_, gate) = gate();
    let log = AuditLog::start(&settings(&file)).expect("it opens").expect("it is configured");
    let record = async || log.begin(&write("a"), &caller(&gate), false).expect("recorded").end("ok", None).await;
    record().await;
    lines(&file, 1).await;
    std::fs::rename(&file, &moved).expect("a rotation");
    record().await;
    lines(&moved, 2).await;
    reopen_audit_logs();
    record().await;
    assert_eq!(lines(&file, 1).await[0]["id"], 3);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_or_lets_the_request_wait() {
    let (_, gate) = gate();
    for on_overflow in [OnOverflow::Drop, OnOverflow::Block] {
        // Nobody takes the lines.
        let (queue, mut taken) = mpsc::channel(1);
        let settings = AuditSettings { on_overflow, ..AuditSettings::default() };
        let dropped = IntCounter::new("dropped", "dropped").expect("a metric");
        let log = AuditLog { settings, queue, requests: AtomicU64::new(0), dropped };
        let record = async || log.begin(&write("a"), &caller(&gate), false).expect("recorded").end("ok", None).await;
        record().await;
        let mut second = std::pin::pin!(record());
        let ended = futures_util::future::poll_immediate(second.as_mut()).await.is_some();
        assert_eq!((ended, log.dropped.get()), (on_overflow == OnOverflow::Drop, u64::from(ended)), "{on_overflow:?}");
        if !ended {
            assert!(taken.recv().await.is_some());
            second.await;
        }
    }
}

#[test]
fn keys_are_hashed_cut_or_written_in_full() {
    let text = |notation: AuditKeys| {
        let (_, gate) = gate();
        let caller = caller(&gate);
        let mut line = Line::new(1, SystemTime::now(), session().facts(), "setKey");
        line.of_caller(&caller);
        line.of_operation(&write("a key"), notation);
        serde_json::from_str::<Value>(&line.to_text()).expect("JSON")["keys"][0].as_str().expect("a key").to_owned()
    };
    assert_eq!(text(AuditKeys::Full), "a key");
    assert_eq!(text(AuditKeys::Prefix(2)), "a …");
    assert_eq!(text(AuditKeys::Prefix(5)), "a key");
    let hashed = text(AuditKeys::Hash);
    assert!(hashed.starts_with("sha256:") && hashed.len() == 7 + 16, "{hashed}");
}

#[test]
fn the_notation_of_keys_has_three_forms() {
    for text in ["hash", "full", "prefix:16"] {
        assert_eq!(text.parse::<AuditKeys>().map(String::from), Ok(text.to_owned()));
    }
    for text in ["", "prefix", "prefix:", "prefix:0", "prefix:x", "Hash"] {
        assert!(text.parse::<AuditKeys>().is_err_and(|error| error.contains("prefix:N")), "{text}");
    }
}
