//! Tests of `atomicCommit` through a client.

use super::*;

pub fn commit(read_version: i64, operations: Vec<wire::Operation>) -> wire::AtomicCommitRequest {
    wire::AtomicCommitRequest {
        read_version,
        operations,
        read_conflict_keys: Vec::new(),
        timeout_seconds: Some(60),
        read_conflict_ranges: None,
        idempotency_id: None,
        finished_idempotency_ids: None,
        read_conflicts: None,
        include_details: None,
        auth_token: None,
    }
}

pub(super) fn operation(kind: &str, key: &[u8], value: Option<&[u8]>) -> wire::Operation {
    wire::Operation {
        type_: kind.to_string(),
        key: key.to_vec(),
        value: value.map(<[u8]>::to_vec),
        column_family: None,
        stamp_offset: None,
    }
}

fn put(key: &[u8], value: &[u8]) -> wire::Operation {
    operation("set", key, Some(value))
}

async fn refused(client: &mut Client, request: wire::AtomicCommitRequest) -> (String, String) {
    let reply = client.call(request).await;
    assert!(!reply.success, "{reply:?}");
    assert_eq!(reply.committed_version, None);
    (reply.error_code.expect("a code"), reply.error.expect("an error"))
}

#[tokio::test]
async fn all_operations_of_a_commit_happen_at_one_version() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.call(set(b"gone", b"x")).await;
    let operations = vec![put(b"a", b"1"), operation("SET", b"b", Some(b"2")), operation("Delete", b"gone", None)];
    let reply = client.call(commit(0, operations)).await;
    assert_eq!((reply.success, reply.error.clone(), reply.error_code.clone()), (true, None, None), "{reply:?}");
    let version = reply.committed_version.expect("a version");
    assert_eq!(client.call(snapshot_get(b"a", version)).await.value, b"1");
    assert_eq!(client.call(snapshot_get(b"b", version)).await.value, b"2");
    assert!(!client.call(snapshot_get(b"gone", version)).await.found);
    assert!(!client.call(snapshot_get(b"a", version - 1)).await.found);
    assert!(client.call(snapshot_get(b"gone", version - 1)).await.found);
}

#[tokio::test]
async fn an_empty_commit_succeeds_at_its_read_version_and_writes_nothing() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let before = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    let request = wire::AtomicCommitRequest { read_conflict_keys: vec![b"k".to_vec()], ..commit(before, Vec::new()) };
    let reply = client.call(request).await;
    assert_eq!((reply.success, reply.committed_version), (true, Some(before)));
    assert_eq!(client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version, before);
}

#[tokio::test]
async fn of_two_commits_that_read_what_the_other_writes_one_wins() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    let request = |value: &[u8]| wire::AtomicCommitRequest {
        read_conflict_keys: vec![b"k".to_vec()],
        ..commit(version, vec![put(b"k", value)])
    };
    assert!(client.call(request(b"first")).await.success);
    let reply = client.call(request(b"second")).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("CONFLICT")));
    assert_eq!((reply.retryable, reply.maybe_committed), (Some(true), Some(false)));
    assert_eq!(client.call(get(b"k")).await.value, b"first");
}

#[tokio::test]
async fn a_conflict_in_a_range_or_a_family_is_found() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    client.call(set(b"m", b"x")).await;
    let range = |begin: &[u8], end: &[u8]| {
        let range = wire::KeyRange { begin_key: begin.to_vec(), end_key: end.to_vec(), column_family: None };
        wire::AtomicCommitRequest {
            read_conflict_ranges: Some(vec![range]),
            ..commit(version, vec![put(b"other", b"y")])
        }
    };
    assert_eq!(refused(&mut client, range(b"l", b"n")).await.0, "CONFLICT");
    assert!(client.call(range(b"a", b"m")).await.success);
    assert!(client.call(range(b"n", b"l")).await.success);
    let in_family = |family: &str| {
        let key = wire::KeyRef { key: b"m".to_vec(), column_family: Some(family.to_string()) };
        wire::AtomicCommitRequest { read_conflicts: Some(vec![key]), ..commit(version, vec![put(b"other", b"y")]) }
    };
    assert!(client.call(in_family("users")).await.success);
    assert_eq!(refused(&mut client, in_family("default")).await.0, "CONFLICT");
    assert_eq!(refused(&mut client, in_family("nobody")).await.0, "UNKNOWN_COLUMN_FAMILY");
}

#[tokio::test]
async fn a_read_version_matters_only_with_conflicts() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(commit(-7, vec![put(b"k", b"v")])).await.success);
    assert!(client.call(commit(1_000_000, vec![put(b"k", b"v")])).await.success);
    let with_conflict = |read_version| wire::AtomicCommitRequest {
        read_conflict_keys: vec![b"z".to_vec()],
        ..commit(read_version, vec![put(b"k", b"v")])
    };
    assert_eq!(refused(&mut client, with_conflict(1_000_000)).await.0, "FUTURE_VERSION");
    assert_eq!(refused(&mut client, with_conflict(-7)).await.0, "INVALID_OPERATION");
}

#[tokio::test]
async fn invalid_operations_are_refused_and_nothing_is_written() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let with = |bad: wire::Operation| commit(0, vec![put(b"good", b"v"), bad]);
    let (code, error) = refused(&mut client, with(operation("upsert", b"k", Some(b"v")))).await;
    assert_eq!(code, "INVALID_OPERATION");
    assert!(error.contains("upsert") && error.contains("delete"), "{error}");
    assert_eq!(refused(&mut client, with(operation("set", b"k", None))).await.0, "INVALID_OPERATION");
    assert_eq!(refused(&mut client, with(operation("delete", b"", None))).await.0, "KEY_EMPTY");
    let short = operation("SET_VERSIONSTAMPED_KEY", b"short", Some(b"v"));
    assert_eq!(refused(&mut client, with(short)).await.0, "INVALID_OPERATION");
    let beyond =
        wire::Operation { stamp_offset: Some(1), ..operation("SET_VERSIONSTAMPED_VALUE", b"k", Some(&[0; 10])) };
    assert_eq!(refused(&mut client, with(beyond)).await.0, "INVALID_OPERATION");
    assert_eq!(refused(&mut client, with(operation("clear_range", b"b", Some(b"a")))).await.0, "INVALID_OPERATION");
    assert_eq!(refused(&mut client, with(operation("clear_range", b"b", None))).await.0, "INVALID_OPERATION");
    assert!(!client.call(get(b"good")).await.found);
}

#[tokio::test]
async fn a_repeat_under_an_idempotency_id_gets_the_first_result() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let with_id = |value: &[u8]| wire::AtomicCommitRequest {
        idempotency_id: Some(b"once".to_vec()),
        ..commit(0, vec![put(b"k", value)])
    };
    let first = client.call(with_id(b"v")).await;
    assert!(first.success, "{first:?}");
    client.call(set(b"k", b"other")).await;
    assert_eq!(client.call(with_id(b"v")).await, first);
    assert_eq!(client.call(get(b"k")).await.value, b"other");
    assert_eq!(refused(&mut client, with_id(b"w")).await.0, "INVALID_OPERATION");
    let finishing = wire::AtomicCommitRequest {
        finished_idempotency_ids: Some(vec![b"once".to_vec()]),
        ..commit(0, vec![put(b"x", b"v")])
    };
    assert!(client.call(finishing).await.success);
    assert!(client.call(with_id(b"w")).await.success, "its result was forgotten");
}

#[tokio::test]
async fn stamps_count_up_within_a_commit_and_carry_its_version() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let stamped_key = operation("SET_VERSIONSTAMPED_KEY", &[b"k".as_slice(), &[1; 10]].concat(), Some(b"v"));
    let stamped_value = operation("set_versionstamped_value", b"plain", Some(&[9; 12]));
    let request = commit(0, vec![stamped_key, stamped_value]);
    let reply = client.call(wire::AtomicCommitRequest { include_details: Some(true), ..request }).await;
    assert!(reply.success, "{reply:?}");
    let version = reply.committed_version.expect("a version").to_be_bytes();
    assert_eq!(reply.versionstamp, Some([version.as_slice(), &[0, 0]].concat()));
    assert_eq!(reply.generated_keys, Some(vec![[b"k".as_slice(), &version, &[0, 0]].concat()]));
    assert_eq!(reply.generated_values, Some(vec![[[9, 9].as_slice(), &version, &[0, 1]].concat()]));
    assert_eq!(client.call(get(b"plain")).await.value, reply.generated_values.expect("values")[0]);
}

/// Stock libraries fail on unknown binary fields.
#[tokio::test]
async fn a_client_that_does_not_know_the_added_binary_fields_does_not_get_them() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    let stamped = operation("SET_VERSIONSTAMPED_KEY", &[0; 10], Some(b"v"));
    let old = commit(version, vec![stamped, operation("SET_VERSIONSTAMPED_VALUE", b"k", Some(&[0; 10]))]);
    let reply = client.call(old.clone()).await;
    assert!(reply.success, "{reply:?}");
    assert_eq!((reply.versionstamp, reply.generated_keys, reply.generated_values), (None, None, None));
    let conflicting = wire::AtomicCommitRequest { read_conflict_keys: vec![b"k".to_vec()], ..old };
    let reply = client.call(conflicting.clone()).await;
    assert_eq!((reply.error_code.as_deref(), reply.conflicting_keys), (Some("CONFLICT"), None));
    let knows_more = wire::AtomicCommitRequest { read_conflicts: Some(Vec::new()), ..conflicting };
    assert_eq!(client.call(knows_more.clone()).await.conflicting_keys.map(|keys| keys.len()), Some(1));
    let declines = wire::AtomicCommitRequest { include_details: Some(false), ..knows_more };
    assert_eq!(client.call(declines).await.conflicting_keys, None);
}

#[tokio::test]
async fn a_transaction_above_the_limit_is_refused() {
    let server = TestServer::with(|config| config.limits.max_transaction_bytes = 100).await;
    let mut client = server.client().await;
    let (code, _) = refused(&mut client, commit(0, vec![put(b"a", &[0; 50]), put(b"b", &[0; 50])])).await;
    assert_eq!(code, "TRANSACTION_TOO_LARGE");
    assert!(client.call(commit(0, vec![put(b"a", &[0; 50])])).await.success);
}
