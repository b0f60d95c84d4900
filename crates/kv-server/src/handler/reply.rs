//! How outcomes and failures look on the wire.

use std::time::UNIX_EPOCH;

use kv_api::thrift::OrderedFloat;
use kv_api::thrift::generated as wire;
use kv_api::{KvError, Limits, Rows};

use super::signed;
use crate::cluster::{ClusterSnapshot, ReplicaStatus};
use crate::service_core::{Committed, DatabaseFigures, micros_since_1970};
use crate::thrift_server::{Method, ThriftReply};

/// A reply, and what the metrics say about it.
pub(super) struct Answer {
    pub reply: ThriftReply,
    /// Of a failure.
    pub code: Option<String>,
}

impl Answer {
    pub fn success(response: impl Into<ThriftReply>) -> Self {
        Answer { reply: response.into(), code: None }
    }

    /// What the interface refuses by design is no error of this server.
    pub fn refusal(response: impl Into<ThriftReply>) -> Self {
        Answer::success(response)
    }
}

/// A response struct that can say what went wrong.
pub(super) trait InBand: Into<ThriftReply> {
    fn failed(error: KvError, code: String) -> Self;
}

pub(super) fn answer<R: InBand>(method: Method, result: Result<R, KvError>) -> Answer {
    match result {
        Ok(response) => Answer::success(response),
        Err(error) => {
            let code = wire_code(method, &error).to_string();
            // Injected codes are a client's free text; as labels they would grow without bound.
            let label = if matches!(error, KvError::Injected { .. }) { "INJECTED".to_string() } else { code.clone() };
            Answer { reply: R::failed(error, code).into(), code: Some(label) }
        }
    }
}

/// Storage faults have a code for each kind of write, which existing clients know.
fn wire_code(method: Method, error: &KvError) -> &str {
    match (method, error) {
        (Method::SetKey, KvError::Storage(_) | KvError::Corruption(_)) => "PUT_FAILED",
        (Method::DeleteKey, KvError::Storage(_) | KvError::Corruption(_)) => "DELETE_FAILED",
        (Method::AtomicCommit, KvError::Storage(_) | KvError::Corruption(_)) => "COMMIT_FAILED",
        _ => error.code(),
    }
}

/// All responses with `error` and `error_code`, and what stands in the other fields of a failure.
macro_rules! in_band {
    ($($response:ident { $($field:ident: $value:expr),* };)*) => {$(
        impl InBand for wire::$response {
            fn failed(error: KvError, code: String) -> Self {
                wire::$response { $($field: $value,)* error: Some(error.to_string()), error_code: Some(code) }
            }
        }
    )*};
}

in_band! {
    GetReadVersionResponse { read_version: 0, success: false };
    GetResponse { value: Vec::new(), found: false };
    GetRangeResponse { key_values: Vec::new(), success: false, has_more: false };
    SnapshotReadResponse { value: Vec::new(), found: false };
    SnapshotGetResponse { value: Vec::new(), found: false };
    SnapshotGetRangeResponse { key_values: Vec::new(), success: false, has_more: false };
    SetResponse { success: false };
    DeleteResponse { success: false };
    SetVersionstampedKeyResponse { generated_key: Vec::new(), success: false };
    SetVersionstampedValueResponse { generated_value: Vec::new(), success: false };
    FaultInjectionResponse { success: false };
    GetNodeInfoResponse { success: false, node_info: None };
    GetDatabaseStatsResponse { success: false, database_stats: None };
    PinSnapshotResponse { success: false, expires_at_ms: None };
    UnpinSnapshotResponse { success: false };
}

impl InBand for wire::AtomicCommitResponse {
    fn failed(error: KvError, code: String) -> Self {
        let (text, retryable, maybe_committed) = (error.to_string(), error.is_retryable(), error.maybe_committed());
        let key_ref = |key: kv_api::KeyRef| wire::KeyRef {
            key: key.key.into(),
            column_family: Some(key.column_family).filter(|family| !family.is_empty()),
        };
        let conflicting_keys = match error {
            KvError::Conflict { keys } => Some(keys.into_iter().map(key_ref).collect()),
            _ => None,
        };
        wire::AtomicCommitResponse {
            success: false,
            error: Some(text),
            error_code: Some(code),
            committed_version: None,
            versionstamp: None,
            generated_keys: None,
            generated_values: None,
            conflicting_keys,
            retryable: Some(retryable),
            maybe_committed: Some(maybe_committed),
        }
    }
}

pub(super) fn committed(committed: Committed) -> wire::AtomicCommitResponse {
    let versionstamp = committed.versionstamp().map(|stamp| stamp.to_vec());
    let (keys, values) = match committed.result {
        Some(result) => (result.generated_keys, result.generated_values),
        None => (Vec::new(), Vec::new()),
    };
    let list = |list: Vec<bytes::Bytes>| -> Option<Vec<Vec<u8>>> {
        (!list.is_empty()).then(|| list.into_iter().map(Vec::from).collect())
    };
    wire::AtomicCommitResponse {
        success: true,
        error: None,
        error_code: None,
        committed_version: Some(committed.version),
        versionstamp,
        generated_keys: list(keys),
        generated_values: list(values),
        conflicting_keys: None,
        retryable: None,
        maybe_committed: None,
    }
}

/// See `AtomicCommitRequest.include_details`.
pub(super) fn leave_out_details(response: &mut wire::AtomicCommitResponse) {
    response.versionstamp = None;
    response.generated_keys = None;
    response.generated_values = None;
    response.conflicting_keys = None;
}

pub(super) fn key_values(rows: Rows) -> Vec<wire::KeyValue> {
    rows.rows.into_iter().map(|row| wire::KeyValue { key: row.key.into(), value: row.value.into() }).collect()
}

pub(super) fn node_status(replica: &ReplicaStatus, primary: Option<u32>) -> wire::NodeStatus {
    wire::NodeStatus {
        node_id: i32::try_from(replica.id).unwrap_or(i32::MAX),
        endpoint: replica.thrift.clone(),
        status: replica.health(primary).name().to_string(),
        is_leader: primary == Some(replica.id),
        last_seen_timestamp: micros_since_1970(replica.last_seen.unwrap_or(UNIX_EPOCH)),
        term: signed(replica.view),
        uptime_seconds: replica.uptime.map(|uptime| signed(uptime.as_secs())),
    }
}

pub(super) fn cluster_health(cluster: &ClusterSnapshot) -> wire::ClusterHealth {
    let status = |replica: &ReplicaStatus| node_status(replica, cluster.primary);
    wire::ClusterHealth {
        nodes: cluster.replicas.iter().map(status).collect(),
        healthy_nodes_count: i32::try_from(cluster.healthy_count()).unwrap_or(i32::MAX),
        total_nodes_count: i32::try_from(cluster.replicas.len()).unwrap_or(i32::MAX),
        leader: cluster.primary.and_then(|id| cluster.replica(id)).map(status),
        cluster_status: cluster.cluster_status().to_string(),
        current_term: signed(cluster.view),
    }
}

pub(super) fn server_limits(limits: &Limits) -> wire::ServerLimits {
    let field = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    wire::ServerLimits {
        max_key_bytes: field(limits.max_key_bytes),
        max_value_bytes: field(limits.max_value_bytes),
        max_transaction_bytes: field(limits.max_transaction_bytes),
        max_conflicts: field(limits.max_conflicts),
        max_reply_bytes: field(limits.max_reply_bytes),
    }
}

/// The figures of the storage engine are given on request only.
pub(super) fn database_stats(figures: &DatabaseFigures, detailed: bool) -> wire::DatabaseStats {
    let detail = |figure: Option<u64>| figure.filter(|_| detailed).map(signed);
    wire::DatabaseStats {
        total_keys: signed(figures.total_keys),
        total_size_bytes: signed(figures.total_size_bytes),
        write_operations_count: signed(figures.write_operations),
        read_operations_count: signed(figures.read_operations),
        average_response_time_ms: OrderedFloat(figures.average_response_time_ms),
        active_transactions: signed(figures.active_transactions),
        committed_transactions: signed(figures.committed_transactions),
        aborted_transactions: signed(figures.aborted_transactions),
        // Existing clients want a number where they ask for details: of a cache that nobody asked yet, nothing was found.
        cache_hit_rate_percent: detail(Some(figures.cache_hit_rate_percent.unwrap_or(0).min(100))),
        compaction_pending_bytes: detail(figures.compaction_pending_bytes),
    }
}
