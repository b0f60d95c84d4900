//! Tests of fault injection through a client.

use std::time::{Duration, Instant};

use kv_api::thrift::OrderedFloat;

use super::commits::{commit, operation};
use super::*;

async fn server() -> (TestServer, Client) {
    let server = TestServer::with(|config| config.server.allow_fault_injection = true).await;
    let client = server.client().await;
    (server, client)
}

fn fault(code: &str, target: Option<&str>) -> wire::FaultInjectionRequest {
    wire::FaultInjectionRequest {
        fault_type: code.to_string(),
        probability: Some(OrderedFloat(1.0)),
        duration_ms: None,
        target_operation: target.map(str::to_string),
        auth_token: None,
    }
}

fn cleared(code: &str) -> wire::FaultInjectionRequest {
    wire::FaultInjectionRequest { probability: Some(OrderedFloat(0.0)), ..fault(code, None) }
}

/// The error codes of a read version, a value, a range and a write.
async fn codes(client: &mut Client) -> [Option<String>; 4] {
    [
        client.call(wire::GetReadVersionRequest { auth_token: None }).await.error_code,
        client.call(get(b"k")).await.error_code,
        client.call(everything()).await.error_code,
        client.call(set(b"k", b"v")).await.error_code,
    ]
}

#[tokio::test]
async fn a_fault_strikes_its_target_and_nothing_else() {
    let (_server, mut client) = server().await;
    let struck = Some("MY_FAULT".to_string());
    let targets = [Some("read_version"), Some("get"), Some("range"), Some("commit")];
    for (place, target) in targets.into_iter().enumerate() {
        assert!(client.call(fault("MY_FAULT", target)).await.success);
        let expected: [_; 4] = std::array::from_fn(|other| struck.clone().filter(|_| other == place));
        assert_eq!(codes(&mut client).await, expected, "{target:?}");
        assert!(client.call(cleared("MY_FAULT")).await.success);
    }
    assert!(client.call(fault("MY_FAULT", None)).await.success);
    assert_eq!(codes(&mut client).await, std::array::from_fn(|_| struck.clone()));
    assert!(client.call(cleared("none")).await.success);
    assert_eq!(codes(&mut client).await, [None, None, None, None]);
}

#[tokio::test]
async fn reads_of_the_past_and_every_kind_of_write_are_struck() {
    let (_server, mut client) = server().await;
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await.read_version;
    assert!(client.call(fault("MY_FAULT", None)).await.success);
    let struck = Some("MY_FAULT");
    assert_eq!(client.call(snapshot_get(b"k", version)).await.error_code.as_deref(), struck);
    let range = client.call(ranges::snapshot(everything(), version)).await;
    assert_eq!((range.success, range.error_code.as_deref()), (false, struck));
    assert_eq!(client.call(delete(b"k")).await.error_code.as_deref(), struck);
    let stamped = wire::SetVersionstampedKeyRequest {
        key_prefix: vec![0; 10],
        value: vec![],
        column_family: None,
        auth_token: None,
    };
    assert_eq!(client.call(stamped).await.error_code.as_deref(), struck);
    let committed = client.call(commit(0, vec![operation("set", b"k", Some(b"v"))])).await;
    assert_eq!((committed.success, committed.error_code.as_deref()), (false, struck));
    assert_eq!((committed.retryable, committed.maybe_committed), (Some(false), Some(false)));
}

#[tokio::test]
async fn an_injected_code_means_to_clients_what_the_real_one_does() {
    let (_server, mut client) = server().await;
    for (code, retryable, maybe_committed) in [
        ("CONFLICT", true, false),
        ("COMMIT_UNKNOWN_RESULT", true, true),
        ("TIMEOUT", true, false),
        ("COMMIT_FAILED", false, false),
    ] {
        assert!(client.call(fault(code, Some("commit"))).await.success);
        let reply = client.call(commit(0, vec![operation("set", b"k", Some(b"v"))])).await;
        assert_eq!(reply.error_code.as_deref(), Some(code));
        assert_eq!((reply.retryable, reply.maybe_committed), (Some(retryable), Some(maybe_committed)), "{code}");
        assert!(client.call(cleared(code)).await.success);
    }
    assert!(!client.call(get(b"k")).await.found, "no data was touched");
}

#[tokio::test]
async fn a_fault_strikes_after_its_time_and_not_after_the_deadline() {
    let (_server, mut client) = server().await;
    let slow = wire::FaultInjectionRequest { duration_ms: Some(50), ..fault("SLOW", Some("commit")) };
    assert!(client.call(slow).await.success);
    let started = Instant::now();
    assert_eq!(client.call(set(b"k", b"v")).await.error_code.as_deref(), Some("SLOW"));
    assert!(started.elapsed() >= Duration::from_millis(50));

    let slower = wire::FaultInjectionRequest { duration_ms: Some(600_000), ..fault("SLOW", Some("commit")) };
    assert!(client.call(slower).await.success);
    let hasty =
        wire::AtomicCommitRequest { timeout_seconds: Some(1), ..commit(0, vec![operation("set", b"k", Some(b"v"))]) };
    assert_eq!(client.call(hasty).await.error_code.as_deref(), Some("SLOW"));
    assert!(started.elapsed() < PATIENCE, "timeout_seconds was honoured");
}

#[tokio::test]
async fn faults_are_cleared_whatever_the_case_of_their_names() {
    let (_server, mut client) = server().await;
    for name in ["NONE", "All", "", "my_fault", "MY_FAULT"] {
        assert!(client.call(fault("MY_FAULT", None)).await.success);
        assert!(client.call(cleared(name)).await.success, "{name}");
        assert_eq!(codes(&mut client).await, [None, None, None, None], "{name}");
    }
    // No fault is set, and none is left behind.
    assert!(client.call(cleared("OTHER")).await.success);
}

#[tokio::test]
async fn clearing_a_fault_that_is_not_set_names_those_that_are() {
    let (_server, mut client) = server().await;
    assert!(client.call(fault("MY_FAULT", Some("get"))).await.success);
    let reply = client.call(cleared("OTHER")).await;
    let error = reply.error.expect("a reason");
    assert!(!reply.success && error.contains("MY_FAULT of get") && error.contains("\"none\""), "{error}");
    assert_eq!(client.call(get(b"k")).await.error_code.as_deref(), Some("MY_FAULT"));
}
