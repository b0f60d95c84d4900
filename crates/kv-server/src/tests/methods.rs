//! Checks that every method answers, and what the small ones answer.

use kv_api::thrift::{Method, OrderedFloat, ThriftCall, ThriftReply};

use super::*;

#[tokio::test]
async fn ping_echoes_and_has_defaults() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let reply = client.call(wire::PingRequest { message: Some(b"hi".to_vec()), timestamp: Some(7) }).await;
    assert_eq!((reply.message, reply.timestamp), (b"hi".to_vec(), 7));
    assert!(reply.server_timestamp > 1_600_000_000_000_000, "microseconds: {}", reply.server_timestamp);
    let reply = client.call(wire::PingRequest { message: None, timestamp: None }).await;
    assert_eq!((reply.message, reply.timestamp), (b"pong".to_vec(), 0));
}

#[tokio::test]
async fn a_value_that_was_set_is_found_until_it_is_deleted() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let missing = client.call(get(b"k")).await;
    assert_eq!((missing.found, missing.value, missing.error, missing.error_code), (false, Vec::new(), None, None));
    let reply = client.call(set(b"k", b"v")).await;
    assert_eq!((reply.success, reply.error, reply.error_code), (true, None, None));
    let found = client.call(get(b"k")).await;
    assert_eq!((found.found, found.value, found.error), (true, b"v".to_vec(), None));
    for _ in 0..2 {
        let reply = client.call(delete(b"k")).await;
        assert_eq!((reply.success, reply.error), (true, None));
    }
    assert!(!client.call(get(b"k")).await.found);
}

#[tokio::test]
async fn an_empty_value_is_found_and_empty() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    assert!(client.call(set(b"k", b"")).await.success);
    let reply = client.call(get(b"k")).await;
    assert_eq!((reply.found, reply.value), (true, Vec::new()));
}

#[tokio::test]
async fn families_are_apart_and_an_unknown_one_is_named() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let users = Some("users".to_string());
    assert!(client.call(wire::SetRequest { column_family: users.clone(), ..set(b"k", b"v") }).await.success);
    assert!(!client.call(get(b"k")).await.found);
    assert!(client.call(wire::GetRequest { column_family: users, ..get(b"k") }).await.found);
    assert!(client.call(set(b"d", b"v")).await.success);
    let default = Some("default".to_string());
    assert!(client.call(wire::GetRequest { column_family: default, ..get(b"d") }).await.found);
    let reply = client.call(wire::GetRequest { column_family: Some("x".to_string()), ..get(b"k") }).await;
    let error = reply.error.expect("an error");
    assert!(error.starts_with("Column family 'x' not found; there are default, users"), "{error}");
    assert_eq!(reply.error_code.as_deref(), Some("UNKNOWN_COLUMN_FAMILY"));
}

#[tokio::test]
async fn keys_and_values_outside_the_limits_are_refused() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let reply = client.call(get(b"")).await;
    assert!(reply.error.expect("an error").contains("key cannot be empty"));
    assert_eq!(reply.error_code.as_deref(), Some("KEY_EMPTY"));
    let reply = client.call(snapshot_get(b"", 1)).await;
    assert!(reply.error.expect("an error").contains("key cannot be empty"));
    let reply = client.call(set(&[b'k'; 10_001], b"v")).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("KEY_TOO_LARGE")));
    let reply = client.call(set(b"k", &[0; 100_001])).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("VALUE_TOO_LARGE")));
    assert!(client.call(set(&[b'k'; 10_000], &[0; 100_000])).await.success);
}

#[tokio::test]
async fn a_snapshot_does_not_see_later_commits() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.call(set(b"k", b"old")).await;
    let version = client.call(wire::GetReadVersionRequest { auth_token: None }).await;
    assert!(version.success && version.read_version >= 2, "{version:?}");
    let version = version.read_version;
    client.call(set(b"k", b"new")).await;
    client.call(set(b"later", b"x")).await;
    assert_eq!(client.call(snapshot_get(b"k", version)).await.value, b"old");
    assert!(!client.call(snapshot_get(b"later", version)).await.found);
    let request =
        wire::SnapshotReadRequest { key: b"k".to_vec(), read_version: version, column_family: None, auth_token: None };
    assert_eq!(client.call(request).await.value, b"old");
    assert_eq!(client.call(get(b"k")).await.value, b"new");
}

#[tokio::test]
async fn a_snapshot_of_a_version_that_does_not_exist_is_an_error() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let reply = client.call(snapshot_get(b"k", 1000)).await;
    assert_eq!((reply.found, reply.error_code.as_deref()), (false, Some("FUTURE_VERSION")));
    let reply = client.call(snapshot_get(b"k", 0)).await;
    assert_eq!(reply.error_code.as_deref(), Some("INVALID_OPERATION"));
}

#[tokio::test]
async fn a_read_that_follows_a_write_on_the_same_connection_sees_it() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for round in 0..50u8 {
        let value = vec![round];
        let replies = client.call_all(vec![set(b"k", &value).into(), get(b"k").into()]).await;
        match &replies[1] {
            ThriftReply::Get(reply) => assert_eq!(reply.value, value),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn writes_of_one_connection_happen_in_the_order_in_which_they_were_sent() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let calls = (0..500u16).map(|n| set(b"k", &n.to_be_bytes()).into()).collect();
    client.call_all(calls).await;
    assert_eq!(client.call(get(b"k")).await.value, 499u16.to_be_bytes());
}

#[tokio::test]
async fn an_unknown_consistency_is_named_and_a_stale_read_answers() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    client.call(set(b"k", b"v")).await;
    let stale = wire::GetRequest { consistency: Some("stale".to_string()), ..get(b"k") };
    assert_eq!(client.call(stale).await.value, b"v");
    let odd = wire::GetRequest { consistency: Some("eventual".to_string()), ..get(b"k") };
    let error = client.call(odd).await.error.expect("an error");
    assert!(error.contains("eventual") && error.contains("linearizable"), "{error}");
}

#[tokio::test]
async fn the_old_stateful_calls_are_refused_in_their_words() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let conflicts = Some("Conflict detection handled client-side in FoundationDB model");
    let reply = client.call(wire::AddReadConflictRequest { key: b"k".to_vec(), column_family: None }).await;
    assert_eq!((reply.success, reply.error.as_deref()), (false, conflicts));
    let range =
        wire::AddReadConflictRangeRequest { start_key: b"a".to_vec(), end_key: b"b".to_vec(), column_family: None };
    let reply = client.call(range).await;
    assert_eq!((reply.success, reply.error.as_deref()), (false, conflicts));
    let reply = client.call(wire::SetReadVersionRequest { version: 5 }).await;
    let expected = Some("Read version managed client-side in FoundationDB model");
    assert_eq!((reply.success, reply.error.as_deref()), (false, expected));
    let reply = client.call(wire::GetCommittedVersionRequest {}).await;
    let expected = Some("Committed version managed client-side in FoundationDB model");
    assert_eq!((reply.success, reply.version, reply.error.as_deref()), (false, 0, expected));
}

#[tokio::test]
async fn the_versionstamped_calls_stamp_a_zero_tail_and_keep_any_other() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let zero_tail = [b"log/".as_slice(), &[0; 10]].concat();
    let request = wire::SetVersionstampedKeyRequest {
        key_prefix: zero_tail.clone(),
        value: b"v".to_vec(),
        column_family: None,
        auth_token: None,
    };
    let reply = client.call(request).await;
    assert!(reply.success, "{reply:?}");
    assert!(reply.generated_key.starts_with(b"log/") && reply.generated_key != zero_tail);
    assert_eq!(client.call(get(&reply.generated_key)).await.value, b"v");

    let request = wire::SetVersionstampedValueRequest {
        key: b"k".to_vec(),
        value_prefix: b"0123456789x".to_vec(),
        column_family: None,
        auth_token: None,
    };
    let reply = client.call(request).await;
    assert_eq!((reply.success, reply.generated_value), (true, b"0123456789x".to_vec()));

    let request = wire::SetVersionstampedValueRequest {
        key: b"k".to_vec(),
        value_prefix: b"short".to_vec(),
        column_family: None,
        auth_token: None,
    };
    let reply = client.call(request).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("INVALID_OPERATION")));
}

#[tokio::test]
async fn fault_injection_is_refused_unless_allowed() {
    let fault = || wire::FaultInjectionRequest {
        fault_type: "TIMEOUT".to_string(),
        probability: Some(OrderedFloat(1.0)),
        duration_ms: None,
        target_operation: Some("commit".to_string()),
        auth_token: None,
    };
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let reply = client.call(fault()).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("FORBIDDEN")));
    assert!(client.call(set(b"k", b"v")).await.success);

    let server = TestServer::with(|config| config.server.allow_fault_injection = true).await;
    let mut client = server.client().await;
    assert!(client.call(fault()).await.success);
    let reply = client.call(set(b"k", b"v")).await;
    assert_eq!((reply.success, reply.error_code.as_deref()), (false, Some("TIMEOUT")));
    assert!(client.call(get(b"k")).await.error.is_none());
    let cleared = wire::FaultInjectionRequest { probability: Some(OrderedFloat(0.0)), ..fault() };
    assert!(client.call(cleared).await.success);
    assert!(client.call(set(b"k", b"v")).await.success);
}

#[tokio::test]
async fn the_cluster_of_one_is_healthy_and_knows_its_node() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let reply = client.call(wire::GetClusterHealthRequest { auth_token: None }).await;
    let health = reply.cluster_health.expect("a cluster");
    assert_eq!((reply.success, health.cluster_status.as_str()), (true, "healthy"));
    assert_eq!((health.healthy_nodes_count, health.total_nodes_count), (1, 1));
    let leader = health.leader.expect("a leader");
    assert_eq!(leader.endpoint, server.manager.thrift_addr().to_string());

    let own = client.call(wire::GetNodeInfoRequest { auth_token: None, node_id: None }).await;
    let node = own.node_info.expect("a node");
    assert_eq!((node.node_id, node.is_leader, node.status.as_str()), (0, true, "healthy"));
    for id in [5, -1] {
        let reply = client.call(wire::GetNodeInfoRequest { auth_token: None, node_id: Some(id) }).await;
        assert!(!reply.success);
        assert!(reply.error.expect("an error").contains(&format!("Node {id} not found")));
    }
}

#[tokio::test]
async fn the_database_figures_are_counted() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for key in [b"a", b"b", b"c"] {
        client.call(set(key, b"v")).await;
    }
    client.call(delete(b"a")).await;
    client.call(get(b"b")).await;
    let request = || wire::GetDatabaseStatsRequest { auth_token: None, include_detailed_stats: None };
    let stats = client.call(request()).await.database_stats.expect("figures");
    assert_eq!(stats.total_keys, 2);
    assert_eq!((stats.write_operations_count, stats.read_operations_count), (4, 1));
    assert_eq!((stats.committed_transactions, stats.aborted_transactions, stats.active_transactions), (4, 0, 0));
    assert!(stats.average_response_time_ms.0 > 0.0);

    let once = || wire::AtomicCommitRequest {
        idempotency_id: Some(b"once".to_vec()),
        ..commits::commit(0, vec![commits::operation("set", b"k", Some(b"v"))])
    };
    assert_eq!(client.call(once()).await, client.call(once()).await);
    let conflicting = wire::AtomicCommitRequest {
        read_version: 1,
        read_conflict_keys: vec![b"k".to_vec()],
        idempotency_id: None,
        ..once()
    };
    assert!(!client.call(conflicting).await.success);
    let stats = client.call(request()).await.database_stats.expect("figures");
    assert_eq!((stats.committed_transactions, stats.aborted_transactions), (5, 1), "a repeat is no transaction");
    assert_eq!((stats.write_operations_count, stats.total_keys), (7, 3));
}

#[tokio::test]
async fn details_of_the_database_always_have_a_cache_hit_rate() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for (detailed, expected) in [(Some(true), 0..=100), (Some(false), -1..=-1), (None, -1..=-1)] {
        let request = wire::GetDatabaseStatsRequest { auth_token: None, include_detailed_stats: detailed };
        let stats = client.call(request).await.database_stats.expect("figures");
        let rate = stats.cache_hit_rate_percent.unwrap_or(-1);
        assert!(expected.contains(&rate), "{rate} where include_detailed_stats is {detailed:?}");
    }
}

/// A token in form only: a server that checks nothing accepts it.
fn kv_token() -> String {
    crate::access::token_text(7, &[7; 32])
}

/// One call of each method.
pub(super) fn every_call() -> Vec<ThriftCall> {
    let range = everything();
    let key = || b"k".to_vec();
    vec![
        get(b"k").into(),
        set(b"k", b"v").into(),
        wire::GetReadVersionRequest { auth_token: None }.into(),
        commits::commit(1, Vec::new()).into(),
        wire::SnapshotReadRequest { key: key(), read_version: 1, column_family: None, auth_token: None }.into(),
        snapshot_get(b"k", 1).into(),
        ranges::snapshot(range.clone(), 1).into(),
        range.into(),
        delete(b"k").into(),
        wire::PingRequest { message: None, timestamp: None }.into(),
        wire::AuthenticateRequest { token: kv_token().into() }.into(),
        wire::SetVersionstampedKeyRequest {
            key_prefix: vec![0; 10],
            value: key(),
            column_family: None,
            auth_token: None,
        }
        .into(),
        wire::SetVersionstampedValueRequest {
            key: key(),
            value_prefix: vec![0; 10],
            column_family: None,
            auth_token: None,
        }
        .into(),
        wire::AddReadConflictRequest { key: key(), column_family: None }.into(),
        wire::AddReadConflictRangeRequest { start_key: key(), end_key: key(), column_family: None }.into(),
        wire::SetReadVersionRequest { version: 1 }.into(),
        wire::GetCommittedVersionRequest {}.into(),
        wire::FaultInjectionRequest {
            fault_type: "X".to_string(),
            probability: None,
            duration_ms: None,
            target_operation: None,
            auth_token: None,
        }
        .into(),
        wire::GetClusterHealthRequest { auth_token: None }.into(),
        wire::GetDatabaseStatsRequest { auth_token: None, include_detailed_stats: None }.into(),
        wire::GetNodeInfoRequest { auth_token: None, node_id: None }.into(),
        wire::PinSnapshotRequest { read_version: 1, ttl_ms: None, auth_token: None }.into(),
        wire::UnpinSnapshotRequest { read_version: 1, auth_token: None }.into(),
        super::changes::poll(1, 0).into(),
        super::changes::watch(b"k", 1, 0).into(),
    ]
}

#[tokio::test]
async fn every_method_answers_with_its_own_reply() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let calls = every_call();
    let asked: Vec<Method> = calls.iter().map(ThriftCall::method).collect();
    assert!(Method::ALL.iter().all(|method| asked.contains(method)), "a method is missing here");
    let replies = client.call_all(calls).await;
    let answered: Vec<Option<Method>> = replies.iter().map(ThriftReply::method).collect();
    assert_eq!(answered, asked.into_iter().map(Some).collect::<Vec<_>>());
}
