//! Tests of the readable window, and of versions pinned beyond it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

/// A server with the shortest window allowed.
async fn forgetful() -> (TestServer, Client) {
    let server = TestServer::with(|config| config.storage.readable_window_ms = 1_000).await;
    let client = server.client().await;
    (server, client)
}

async fn pin(client: &mut Client, read_version: i64, ttl_ms: Option<i64>) -> wire::PinSnapshotResponse {
    client.call(wire::PinSnapshotRequest { read_version, ttl_ms, auth_token: None }).await
}

async fn unpin(client: &mut Client, read_version: i64) -> wire::UnpinSnapshotResponse {
    client.call(wire::UnpinSnapshotRequest { read_version, auth_token: None }).await
}

async fn read_version(client: &mut Client) -> i64 {
    client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version
}

/// Writes until the version has left the window, because only writes advance replicated time.
async fn let_it_pass(server: &TestServer, client: &mut Client, version: i64) {
    let started = std::time::Instant::now();
    while (server.manager.database().oldest_readable().0 as i64) <= version {
        assert!(started.elapsed() < PATIENCE, "version {version} stays readable");
        assert!(client.call(set(b"clock", b"tick")).await.success);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    while server.manager.database().collect_garbage(1_000_000).expect("garbage goes").more {}
}

#[tokio::test]
async fn versions_that_have_left_the_window_are_too_old_for_reads_and_commits() {
    let (server, mut client) = forgetful().await;
    client.call(set(b"k", b"old")).await;
    let version = read_version(&mut client).await;
    client.call(set(b"k", b"new")).await;
    let_it_pass(&server, &mut client, version).await;

    let too_old = Some("TRANSACTION_TOO_OLD");
    let reply = client.call(snapshot_get(b"k", version)).await;
    assert_eq!((reply.found, reply.error_code.as_deref()), (false, too_old));
    let reply = client.call(ranges::snapshot(everything(), version)).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, too_old));
    let operation = commits::operation("set", b"other", Some(b"v"));
    let request = wire::AtomicCommitRequest {
        read_conflict_keys: vec![b"untouched".to_vec()],
        ..commits::commit(version, vec![operation])
    };
    let reply = client.call(request.clone()).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, too_old));
    assert_eq!((reply.retryable, reply.maybe_committed), (Some(true), Some(false)));
    assert!(!client.call(get(b"other")).await.found);
    // Nothing was read, so the age of the version does not matter.
    let blind = wire::AtomicCommitRequest { read_conflict_keys: Vec::new(), ..request };
    assert!(client.call(blind).await.success);
    assert_eq!(client.call(get(b"k")).await.value, b"new");
}

#[tokio::test]
async fn a_pinned_version_stays_readable_until_it_is_unpinned() {
    let (server, mut client) = forgetful().await;
    client.call(set(b"k", b"old")).await;
    let version = read_version(&mut client).await;
    for _ in 0..2 {
        assert!(pin(&mut client, version, Some(600_000)).await.success);
    }
    client.call(set(b"k", b"new")).await;
    let_it_pass(&server, &mut client, version).await;

    assert_eq!(client.call(snapshot_get(b"k", version)).await.value, b"old");
    // A pin allows reads at the version, but no commits against it.
    let late = wire::AtomicCommitRequest {
        read_conflict_keys: vec![b"untouched".to_vec()],
        ..commits::commit(version, vec![commits::operation("set", b"other", Some(b"v"))])
    };
    assert_eq!(client.call(late).await.error_code.as_deref(), Some("TRANSACTION_TOO_OLD"));
    let beside = client.call(snapshot_get(b"k", version - 1)).await;
    assert_eq!(beside.error_code.as_deref(), Some("TRANSACTION_TOO_OLD"), "only that version is pinned");

    assert!(unpin(&mut client, version).await.success);
    assert_eq!(client.call(snapshot_get(b"k", version)).await.value, b"old", "one pin is left");
    assert!(pin(&mut client, version, None).await.success, "it is readable, so it can be pinned again");
    for _ in 0..2 {
        assert!(unpin(&mut client, version).await.success);
    }
    assert_eq!(client.call(snapshot_get(b"k", version)).await.error_code.as_deref(), Some("TRANSACTION_TOO_OLD"));
    let reply = pin(&mut client, version, None).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("TRANSACTION_TOO_OLD")));
    assert!(unpin(&mut client, version).await.success, "without a pin it does nothing");
    assert_eq!(server.manager.database().pins(), 0);
}

#[tokio::test]
async fn a_pin_says_when_it_ends_and_ends_then() {
    let (server, mut client) = forgetful().await;
    let version = read_version(&mut client).await;
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    let before = now_ms();
    let reply = pin(&mut client, version, None).await;
    let ends = reply.expires_at_ms.expect("an end");
    assert!((before + 60_000..=now_ms() + 60_000).contains(&ends), "{ends}");
    assert!(unpin(&mut client, version).await.success);
    assert!(pin(&mut client, version, Some(1)).await.success);
    let_it_pass(&server, &mut client, version).await;
    assert_eq!(client.call(snapshot_get(b"k", version)).await.error_code.as_deref(), Some("TRANSACTION_TOO_OLD"));
    assert_eq!(server.manager.database().pins(), 0);
}

#[tokio::test]
async fn invalid_pins_are_refused_with_what_is_allowed() {
    let (_server, mut client) = forgetful().await;
    for ttl_ms in [0, -1, 3_600_001, i64::MAX] {
        let reply = pin(&mut client, 1, Some(ttl_ms)).await;
        assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("INVALID_OPERATION")));
        let error = reply.error.expect("an error");
        assert!(error.contains("1 to 3600000 (server.max_pin_seconds)"), "{error}");
    }
    assert_eq!(pin(&mut client, 0, None).await.error_code.as_deref(), Some("INVALID_OPERATION"));
    assert_eq!(unpin(&mut client, -3).await.error_code.as_deref(), Some("INVALID_OPERATION"));
    let newest = read_version(&mut client).await;
    let reply = pin(&mut client, newest + 1, None).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("FUTURE_VERSION")));
    assert_eq!(reply.expires_at_ms, None);
}

#[tokio::test]
async fn pins_are_bounded() {
    let (server, mut client) = forgetful().await;
    let calls = |count| {
        (0..count)
            .map(|_| wire::PinSnapshotRequest { read_version: 1, ttl_ms: None, auth_token: None }.into())
            .collect()
    };
    client.call_all(calls(kv_store::MAX_PINS)).await;
    assert_eq!(server.manager.database().pins(), kv_store::MAX_PINS as u64);
    let reply = pin(&mut client, 1, None).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("OVERLOADED")));
}
