//! Tests of the limits of requests, and of the replies of `atomicCommit` to each refusal.

use super::commits::{commit, operation};
use super::*;

async fn refused(client: &mut Client, request: wire::AtomicCommitRequest) -> wire::AtomicCommitResponse {
    let request = wire::AtomicCommitRequest { include_details: Some(true), ..request };
    let reply = client.call(request).await;
    assert!(!reply.success && reply.error.as_ref().is_some_and(|text| !text.is_empty()), "{reply:?}");
    assert_eq!(reply.committed_version, None);
    assert_eq!((&reply.versionstamp, &reply.generated_keys, &reply.generated_values), (&None, &None, &None));
    reply
}

fn put(key: &[u8], value: &[u8]) -> wire::AtomicCommitRequest {
    commit(0, vec![operation("set", key, Some(value))])
}

#[tokio::test]
async fn every_refusal_of_a_commit_says_whether_to_retry_and_that_nothing_was_done() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(put(b"read", b"v")).await.success);
    let reading = |read_version| wire::AtomicCommitRequest {
        read_conflict_keys: vec![b"read".to_vec()],
        read_version,
        ..put(b"k", b"v")
    };
    let in_family =
        |name: &str| wire::Operation { column_family: Some(name.to_string()), ..operation("set", b"k", Some(b"v")) };
    let table: Vec<(&str, bool, wire::AtomicCommitRequest)> = vec![
        ("CONFLICT", true, reading(1)),
        ("FUTURE_VERSION", true, reading(99)),
        ("INVALID_OPERATION", false, reading(-1)),
        ("INVALID_OPERATION", false, commit(0, vec![operation("upsert", b"k", Some(b"v"))])),
        ("INVALID_OPERATION", false, commit(0, vec![operation("add", b"k", None)])),
        ("KEY_EMPTY", false, put(b"", b"v")),
        ("KEY_TOO_LARGE", false, put(&[1; 10_001], b"v")),
        ("VALUE_TOO_LARGE", false, put(b"k", &[1; 100_001])),
        ("UNKNOWN_COLUMN_FAMILY", false, commit(0, vec![in_family("nobody")])),
    ];
    for (code, retryable, request) in table {
        let reply = refused(&mut client, request).await;
        assert_eq!(reply.error_code.as_deref(), Some(code), "{reply:?}");
        assert_eq!((reply.retryable, reply.maybe_committed), (Some(retryable), Some(false)), "{code}");
        let conflicting = reply.conflicting_keys.map(|keys| keys.into_iter().map(|key| key.key).collect::<Vec<_>>());
        assert_eq!(conflicting, (code == "CONFLICT").then(|| vec![b"read".to_vec()]), "{code}");
    }
    assert!(!client.call(get(b"k")).await.found);
}

#[tokio::test]
async fn keys_and_values_may_be_as_long_as_the_limits_say() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(put(&[1; 10_000], &[2; 100_000])).await.success);
    assert!(client.call(set(&[1; 10_000], &[2; 100_000])).await.success);
    assert_eq!(client.call(set(&[1; 10_001], b"")).await.error_code.as_deref(), Some("KEY_TOO_LARGE"));
    assert_eq!(client.call(set(b"k", &[2; 100_001])).await.error_code.as_deref(), Some("VALUE_TOO_LARGE"));
    assert_eq!(client.call(get(&[1; 10_001])).await.error_code.as_deref(), Some("KEY_TOO_LARGE"));
    assert_eq!(client.call(delete(&[1; 10_001])).await.error_code.as_deref(), Some("KEY_TOO_LARGE"));
}

#[tokio::test]
async fn the_transaction_limit_counts_keys_values_clears_and_conflicts() {
    let server = TestServer::with(|config| config.limits.max_transaction_bytes = 100).await;
    let mut client = server.client().await;
    let clear = |begin: &[u8], end: &[u8]| commit(0, vec![operation("clear_range", begin, Some(end))]);
    let with_range = |bytes: usize| wire::AtomicCommitRequest {
        read_version: 1,
        read_conflict_ranges: Some(vec![wire::KeyRange {
            begin_key: vec![1; bytes / 2],
            end_key: vec![2; bytes / 2],
            column_family: None,
        }]),
        ..put(b"k", b"v")
    };
    let with_key = |bytes: usize| wire::AtomicCommitRequest {
        read_version: 1,
        read_conflict_keys: vec![vec![1; bytes]],
        ..put(b"k", b"v")
    };
    let with_ref = |bytes: usize| wire::AtomicCommitRequest {
        read_version: 1,
        read_conflicts: Some(vec![wire::KeyRef { key: vec![1; bytes], column_family: None }]),
        ..put(b"k", b"v")
    };
    for (fits, exceeds) in [
        (with_range(98), with_range(100)),
        (with_key(98), with_key(99)),
        (with_ref(98), with_ref(99)),
        (put(&[1; 50], &[1; 50]), put(&[1; 50], &[1; 51])),
        (clear(&[1; 50], &[2; 50]), clear(&[1; 50], &[2; 51])),
    ] {
        let reply = client.call(fits).await;
        assert!(reply.success, "{reply:?}");
        let reply = refused(&mut client, exceeds).await;
        assert_eq!(reply.error_code.as_deref(), Some("TRANSACTION_TOO_LARGE"), "{reply:?}");
        assert_eq!(reply.retryable, Some(false));
    }
}

#[tokio::test]
async fn the_ends_of_a_cleared_range_may_be_one_byte_longer_than_a_key() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let clear = |bytes| commit(0, vec![operation("clear_range", b"", Some(&vec![1; bytes]))]);
    assert!(client.call(clear(10_001)).await.success);
    let reply = refused(&mut client, clear(10_002)).await;
    assert_eq!(reply.error_code.as_deref(), Some("KEY_TOO_LARGE"));
}

#[tokio::test]
async fn conflict_keys_and_ranges_are_counted_together() {
    let server = TestServer::with(|config| config.limits.max_conflicts = 4).await;
    let mut client = server.client().await;
    let reading = |ranges: usize| wire::AtomicCommitRequest {
        read_version: 1,
        read_conflict_keys: vec![b"a".to_vec()],
        read_conflicts: Some(vec![wire::KeyRef { key: b"b".to_vec(), column_family: None }]),
        read_conflict_ranges: Some(
            (0..ranges)
                .map(|_| wire::KeyRange { begin_key: b"c".to_vec(), end_key: b"d".to_vec(), column_family: None })
                .collect(),
        ),
        ..put(b"k", b"v")
    };
    // The key without a family counts for the default one and for `users`.
    assert!(client.call(reading(1)).await.success);
    let reply = refused(&mut client, reading(2)).await;
    assert_eq!(reply.error_code.as_deref(), Some("TRANSACTION_TOO_LARGE"));
    let error = reply.error.expect("an error");
    assert!(error.contains("5 conflict keys and ranges") && error.contains("limit of 4"), "{error}");
}

#[tokio::test]
async fn idempotency_ids_have_limits_of_their_own() {
    let server = TestServer::with(|config| config.limits.max_transaction_bytes = 100).await;
    let mut client = server.client().await;
    let named = |bytes| wire::AtomicCommitRequest { idempotency_id: Some(vec![7; bytes]), ..put(b"k", b"v") };
    assert!(client.call(named(255)).await.success, "it does not count as a part of the transaction");
    let reply = refused(&mut client, named(256)).await;
    assert_eq!(reply.error_code.as_deref(), Some("INVALID_OPERATION"));
    assert!(reply.error.expect("an error").contains("at most 255"));
    let finishing = |count: usize, bytes| wire::AtomicCommitRequest {
        finished_idempotency_ids: Some(vec![vec![7; bytes]; count]),
        ..put(b"k", b"v")
    };
    assert!(client.call(finishing(1_000, 10)).await.success);
    let reply = refused(&mut client, finishing(1_001, 10)).await;
    assert!(reply.error.expect("an error").contains("at most 1000"));
    assert_eq!(refused(&mut client, finishing(1, 256)).await.error_code.as_deref(), Some("INVALID_OPERATION"));
}

#[tokio::test]
async fn a_success_reports_what_was_generated_and_nothing_about_retries() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let request = wire::AtomicCommitRequest {
        include_details: Some(true),
        ..commit(0, vec![operation("set", b"k", Some(b"v"))])
    };
    let reply = client.call(request.clone()).await;
    assert_eq!((reply.error, reply.error_code), (None, None));
    let version = reply.committed_version.expect("a version");
    assert_eq!(reply.versionstamp, Some([version.to_be_bytes().as_slice(), &[0, 0]].concat()));
    assert_eq!((reply.generated_keys, reply.generated_values, reply.conflicting_keys), (None, None, None));
    assert_eq!((reply.retryable, reply.maybe_committed), (None, None));
    let nothing = wire::AtomicCommitRequest { operations: Vec::new(), read_version: version, ..request };
    let reply = client.call(nothing).await;
    assert_eq!((reply.committed_version, reply.versionstamp), (Some(version), None));
}
