//! One call and one reply of each method, with every field set.

use crate::thrift::generated::*;
use crate::thrift::{OrderedFloat, ThriftCall, ThriftReply};

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn rows() -> Vec<KeyValue> {
    (0..20).map(|i| KeyValue::new(vec![i; 3], vec![0xff - i; usize::from(i)])).collect()
}

fn node() -> NodeStatus {
    NodeStatus::new(3, "127.0.0.1:9090".to_owned(), "healthy".to_owned(), true, 1_700_000_000_000_000, 7, 12)
}

fn selector(offset: i32) -> KeySelector {
    KeySelector::new(bytes("selected"), true, offset)
}

fn key_ref() -> KeyRef {
    KeyRef::new(bytes("read"), text("family"))
}

fn commit() -> AtomicCommitRequest {
    let operations = vec![
        Operation::new("set".to_owned(), bytes("k"), bytes("v"), text("family"), None),
        Operation::new("SET_VERSIONSTAMPED_KEY".to_owned(), vec![0; 14], bytes("v"), None, 4),
        Operation::new("delete".to_owned(), bytes("gone"), None, None, None),
    ];
    let range = KeyRange::new(bytes("a"), bytes("b"), text("family"));
    AtomicCommitRequest {
        read_version: i64::MAX,
        operations,
        read_conflict_keys: vec![bytes("x"), vec![], vec![0xff; 300]],
        timeout_seconds: Some(5),
        read_conflict_ranges: Some(vec![range]),
        idempotency_id: Some(vec![9; 16]),
        read_conflicts: Some(vec![key_ref()]),
        finished_idempotency_ids: Some(vec![vec![8; 16], vec![7]]),
        include_details: Some(true),
        auth_token: text("token").map(Into::into),
    }
}

fn range() -> GetRangeRequest {
    GetRangeRequest {
        begin_key: Some(bytes("a")),
        end_key: Some(vec![]),
        begin_offset: Some(-1),
        begin_or_equal: Some(false),
        end_offset: Some(i32::MIN),
        end_or_equal: Some(true),
        limit: Some(0),
        column_family: text("family"),
        reverse: Some(true),
        target_bytes: Some(1_000_000),
        begin_selector: Some(selector(1)),
        end_selector: Some(selector(-1)),
        consistency: text("stale"),
        auth_token: text("token").map(Into::into),
    }
}

fn snapshot_range() -> SnapshotGetRangeRequest {
    SnapshotGetRangeRequest {
        begin_key: None,
        end_key: Some(bytes("z")),
        begin_offset: None,
        begin_or_equal: Some(true),
        end_offset: None,
        end_or_equal: Some(false),
        read_version: 1 << 40,
        limit: Some(1000),
        column_family: None,
        reverse: Some(false),
        target_bytes: None,
        begin_selector: None,
        end_selector: Some(selector(0)),
        auth_token: text("token").map(Into::into),
    }
}

pub fn calls() -> Vec<ThriftCall> {
    let family = || text("family");
    vec![
        GetReadVersionRequest::new(text("token")).into(),
        SnapshotReadRequest::new(bytes("k"), -1, family(), text("token")).into(),
        commit().into(),
        GetRequest::new(bytes("k"), family(), text("linearizable"), text("token")).into(),
        SetRequest::new(vec![], vec![0; 1000], family(), text("token")).into(),
        DeleteRequest::new(bytes("k"), family(), text("token")).into(),
        range().into(),
        SnapshotGetRequest::new(bytes("k"), 2, family(), text("token")).into(),
        snapshot_range().into(),
        AddReadConflictRequest::new(bytes("k"), family()).into(),
        AddReadConflictRangeRequest::new(bytes("a"), bytes("b"), family()).into(),
        SetReadVersionRequest::new(4).into(),
        GetCommittedVersionRequest::new().into(),
        SetVersionstampedKeyRequest::new(vec![0; 10], bytes("v"), family(), text("token")).into(),
        SetVersionstampedValueRequest::new(bytes("k"), vec![0; 10], family(), text("token")).into(),
        FaultInjectionRequest::new("TIMEOUT".to_owned(), OrderedFloat(0.25), 10, text("commit"), text("token")).into(),
        PingRequest::new(bytes("hello"), 123).into(),
        AuthenticateRequest::new("token".into()).into(),
        GetClusterHealthRequest::new(text("token")).into(),
        GetDatabaseStatsRequest::new(text("token"), true).into(),
        GetNodeInfoRequest::new(text("token"), 2).into(),
        PinSnapshotRequest::new(5, 60_000, text("token")).into(),
        UnpinSnapshotRequest::new(5, text("token")).into(),
        PollChangesRequest::new(
            5,
            vec![ChangeRange::new(text("f"), b"a".to_vec(), b"b".to_vec()), ChangeRange::new(None, None, None)],
            30_000,
            1_000_000,
            7,
            false,
            text("cluster"),
            text("token"),
        )
        .into(),
        WatchKeysRequest::new(vec![KeyRef::new(b"k".to_vec(), text("f"))], 5, 30_000, text("cluster"), text("token"))
            .into(),
    ]
}

pub fn replies() -> Vec<ThriftReply> {
    let (error, code, leader) = (|| text("went wrong: ü"), || text("CODE"), || text("127.0.0.1:9090"));
    let health = ClusterHealth::new(vec![node(), node()], 2, 3, node(), "degraded".to_owned(), 7);
    let stats = DatabaseStats::new(1, 2, 3, 4, OrderedFloat(0.125), 6, 7, 8, 9, 10);
    let committed = AtomicCommitResponse {
        success: true,
        error: None,
        error_code: None,
        committed_version: Some(77),
        versionstamp: Some(vec![1; 10]),
        generated_keys: Some(vec![bytes("a"), bytes("b")]),
        generated_values: Some(vec![]),
        conflicting_keys: Some(vec![key_ref()]),
        retryable: Some(false),
        maybe_committed: Some(true),
        leader_endpoint: leader(),
    };
    vec![
        GetReadVersionResponse::new(9, true, None, None, None).into(),
        SnapshotReadResponse::new(bytes("v"), true, None, None, None).into(),
        committed.into(),
        GetResponse::new(vec![], false, error(), code(), leader()).into(),
        SetResponse::new(false, error(), code(), leader()).into(),
        DeleteResponse::new(true, None, None, None).into(),
        GetRangeResponse::new(rows(), true, None, true, None, None).into(),
        SnapshotGetResponse::new(bytes("v"), true, error(), code(), leader()).into(),
        SnapshotGetRangeResponse::new(vec![], false, error(), false, code(), leader()).into(),
        AddReadConflictResponse::new(false, error(), code()).into(),
        AddReadConflictRangeResponse::new(false, error(), code()).into(),
        SetReadVersionResponse::new(false, error(), code()).into(),
        GetCommittedVersionResponse::new(0, false, error(), code()).into(),
        SetVersionstampedKeyResponse::new(vec![1; 10], true, error(), code(), leader()).into(),
        SetVersionstampedValueResponse::new(vec![1; 10], true, error(), code(), leader()).into(),
        FaultInjectionResponse::new(true, error(), code()).into(),
        AuthenticateResponse::new(false, text("user"), error(), code()).into(),
        PingResponse::new(bytes("pong"), 0, 1_700_000_000_000_000).into(),
        GetClusterHealthResponse::new(true, health, error(), code(), ServerLimits::new(1, 2, 3, 4, 5)).into(),
        GetDatabaseStatsResponse::new(true, stats, error(), code()).into(),
        GetNodeInfoResponse::new(true, node(), error(), code()).into(),
        PinSnapshotResponse::new(true, error(), 99, code(), None).into(),
        UnpinSnapshotResponse::new(true, error(), code()).into(),
        PollChangesResponse {
            success: true,
            error: error(),
            changes: vec![ChangedVersion::new(
                7,
                1_000,
                vec![
                    ChangeOperation::new(
                        "set".to_owned(),
                        b"k".to_vec(),
                        b"\0\xff".to_vec(),
                        b"l".to_vec(),
                        text("f"),
                        text("family_dropped"),
                    ),
                    ChangeOperation::new("delete".to_owned(), b"k".to_vec(), None, None, None, None),
                ],
            )],
            through_version: 9,
            has_more: true,
            oldest_version: Some(3),
            cluster_id: text("cluster"),
            error_code: code(),
            leader_endpoint: leader(),
        }
        .into(),
        WatchKeysResponse {
            success: true,
            error: error(),
            changed: vec![KeyRef::new(b"k".to_vec(), None)],
            through_version: 9,
            oldest_version: Some(3),
            cluster_id: text("cluster"),
            error_code: code(),
            leader_endpoint: leader(),
        }
        .into(),
    ]
}
