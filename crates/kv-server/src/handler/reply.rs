//! Converts outcomes and failures to the structs of the Thrift interface.

use std::time::UNIX_EPOCH;

use kv_api::thrift::OrderedFloat;
use kv_api::thrift::generated as wire;
use kv_api::{KvError, Limits, Rows};

use super::signed;
use crate::cluster::{ClusterSnapshot, ReplicaStatus, Role};
use crate::service_core::{Committed, DatabaseFigures, micros_since_1970};
use crate::thrift_server::{ApplicationErrorKind, Method, ThriftException, ThriftReply};

/// A reply, and its error code for the metrics.
pub(super) struct Answer {
    /// The reply.
    pub reply: ThriftReply,
    /// The label of a failure; `None` for a success.
    pub code: Option<String>,
}

impl Answer {
    /// The answer of a successful call.
    pub fn success(response: impl Into<ThriftReply>) -> Self {
        Answer { reply: response.into(), code: None }
    }

    /// A call that the interface refuses by design does not count as an error of this server.
    pub fn refusal(response: impl Into<ThriftReply>) -> Self {
        Answer::success(response)
    }
}

/// The fields that say how a call ended. Most responses have all of them.
pub(super) struct Status {
    pub success: bool,
    pub error: Option<String>,
    pub error_code: Option<String>,
    pub leader_endpoint: Option<String>,
}

impl Status {
    fn of_success() -> Self {
        Status { success: true, error: None, error_code: None, leader_endpoint: None }
    }

    pub fn of_failure(error: &KvError, code: String) -> Self {
        let leader_endpoint = match error {
            KvError::NotPrimary { endpoint, .. } => Some(endpoint.clone()),
            _ => None,
        };
        Status { success: false, error: Some(error.to_string()), error_code: Some(code), leader_endpoint }
    }
}

/// A response struct with a [`Status`].
pub(super) trait Response: Into<ThriftReply> {
    /// The response with this status and nothing else: numbers are 0, lists are empty, optional
    /// fields are absent.
    fn with_status(status: Status) -> Self;

    /// The response to a failed call. `code` becomes `error_code`.
    fn failed(error: KvError, code: String) -> Self {
        Self::with_status(Status::of_failure(&error, code))
    }
}

/// A successful response without a result; the caller sets the fields of the result.
pub(super) fn succeeded<R: Response>() -> R {
    R::with_status(Status::of_success())
}

pub(super) fn answer<R: Response>(method: Method, result: Result<R, KvError>) -> Answer {
    match result {
        Ok(response) => Answer::success(response),
        Err(error) => {
            let code = wire_code(method, &error).to_string();
            // Injected codes are free text from clients. As labels, their number would be
            // unbounded.
            let label = if matches!(error, KvError::Injected { .. }) { "INJECTED".to_string() } else { code.clone() };
            Answer { reply: R::failed(error, code).into(), code: Some(label) }
        }
    }
}

/// The `error_code` of an error. For storage faults, existing clients expect a code per kind of
/// write.
fn wire_code(method: Method, error: &KvError) -> &str {
    match (method, error) {
        (Method::SetKey, KvError::Storage(_) | KvError::Corruption(_)) => "PUT_FAILED",
        (Method::DeleteKey, KvError::Storage(_) | KvError::Corruption(_)) => "DELETE_FAILED",
        (Method::AtomicCommit, KvError::Storage(_) | KvError::Corruption(_)) => "COMMIT_FAILED",
        _ => error.code(),
    }
}

/// One row per response: the fields of [`Status`] that it has in addition to `error` and
/// `error_code`, and the values of its other fields when there is no result.
macro_rules! responses {
    ($($response:ident [$($of_status:ident),*] { $($field:ident: $value:expr),* };)*) => {$(
        impl Response for wire::$response {
            fn with_status(status: Status) -> Self {
                wire::$response {
                    $($field: $value,)*
                    $($of_status: status.$of_status,)*
                    error: status.error,
                    error_code: status.error_code,
                }
            }
        }
    )*};
}

responses! {
    GetReadVersionResponse [success, leader_endpoint] { read_version: 0 };
    GetResponse [leader_endpoint] { value: Vec::new(), found: false };
    GetRangeResponse [success, leader_endpoint] { key_values: Vec::new(), has_more: false };
    SnapshotReadResponse [leader_endpoint] { value: Vec::new(), found: false };
    SnapshotGetResponse [leader_endpoint] { value: Vec::new(), found: false };
    SnapshotGetRangeResponse [success, leader_endpoint] { key_values: Vec::new(), has_more: false };
    SetResponse [success, leader_endpoint] {};
    DeleteResponse [success, leader_endpoint] {};
    SetVersionstampedKeyResponse [success, leader_endpoint] { generated_key: Vec::new() };
    SetVersionstampedValueResponse [success, leader_endpoint] { generated_value: Vec::new() };
    FaultInjectionResponse [success] {};
    GetClusterHealthResponse [success] { cluster_health: None, limits: None };
    GetNodeInfoResponse [success] { node_info: None };
    GetDatabaseStatsResponse [success] { database_stats: None };
    PinSnapshotResponse [success, leader_endpoint] { expires_at_ms: None };
    UnpinSnapshotResponse [success] {};
    AuthenticateResponse [success] { user: None };
    AddReadConflictResponse [success] {};
    AddReadConflictRangeResponse [success] {};
    SetReadVersionResponse [success] {};
    GetCommittedVersionResponse [success] { version: 0 };
}

/// The answer to a call that was refused before anybody looked at it.
pub(super) fn refused(method: Method, error: KvError) -> Answer {
    match method {
        // It has no place for an error, and everybody may call it.
        Method::Ping => {
            let exception = ThriftException::new(ApplicationErrorKind::InternalError, error.to_string());
            Answer { reply: ThriftReply::Exception(exception), code: Some(error.code().to_owned()) }
        }
        Method::Get => answer::<wire::GetResponse>(method, Err(error)),
        Method::SetKey => answer::<wire::SetResponse>(method, Err(error)),
        Method::GetReadVersion => answer::<wire::GetReadVersionResponse>(method, Err(error)),
        Method::AtomicCommit => answer::<wire::AtomicCommitResponse>(method, Err(error)),
        Method::SnapshotRead => answer::<wire::SnapshotReadResponse>(method, Err(error)),
        Method::SnapshotGet => answer::<wire::SnapshotGetResponse>(method, Err(error)),
        Method::SnapshotGetRange => answer::<wire::SnapshotGetRangeResponse>(method, Err(error)),
        Method::GetRange => answer::<wire::GetRangeResponse>(method, Err(error)),
        Method::DeleteKey => answer::<wire::DeleteResponse>(method, Err(error)),
        Method::Authenticate => answer::<wire::AuthenticateResponse>(method, Err(error)),
        Method::SetVersionstampedKey => answer::<wire::SetVersionstampedKeyResponse>(method, Err(error)),
        Method::SetVersionstampedValue => answer::<wire::SetVersionstampedValueResponse>(method, Err(error)),
        Method::AddReadConflict => answer::<wire::AddReadConflictResponse>(method, Err(error)),
        Method::AddReadConflictRange => answer::<wire::AddReadConflictRangeResponse>(method, Err(error)),
        Method::SetReadVersion => answer::<wire::SetReadVersionResponse>(method, Err(error)),
        Method::GetCommittedVersion => answer::<wire::GetCommittedVersionResponse>(method, Err(error)),
        Method::SetFaultInjection => answer::<wire::FaultInjectionResponse>(method, Err(error)),
        Method::GetClusterHealth => answer::<wire::GetClusterHealthResponse>(method, Err(error)),
        Method::GetDatabaseStats => answer::<wire::GetDatabaseStatsResponse>(method, Err(error)),
        Method::GetNodeInfo => answer::<wire::GetNodeInfoResponse>(method, Err(error)),
        Method::PinSnapshot => answer::<wire::PinSnapshotResponse>(method, Err(error)),
        Method::UnpinSnapshot => answer::<wire::UnpinSnapshotResponse>(method, Err(error)),
        Method::PollChanges => answer::<wire::PollChangesResponse>(method, Err(error)),
        Method::WatchKeys => answer::<wire::WatchKeysResponse>(method, Err(error)),
    }
}

impl Response for wire::AtomicCommitResponse {
    fn with_status(status: Status) -> Self {
        wire::AtomicCommitResponse {
            success: status.success,
            error: status.error,
            error_code: status.error_code,
            committed_version: None,
            versionstamp: None,
            generated_keys: None,
            generated_values: None,
            conflicting_keys: None,
            retryable: None,
            maybe_committed: None,
            leader_endpoint: status.leader_endpoint,
        }
    }

    fn failed(error: KvError, code: String) -> Self {
        let status = Status::of_failure(&error, code);
        let (retryable, maybe_committed) = (Some(error.is_retryable()), Some(error.maybe_committed()));
        let key_ref = |key: kv_api::KeyRef| wire::KeyRef {
            key: key.key.into(),
            column_family: Some(key.column_family).filter(|family| !family.is_empty()),
        };
        let conflicting_keys = match error {
            KvError::Conflict { keys } => Some(keys.into_iter().map(key_ref).collect()),
            _ => None,
        };
        wire::AtomicCommitResponse { conflicting_keys, retryable, maybe_committed, ..Self::with_status(status) }
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
        committed_version: Some(committed.version),
        versionstamp,
        generated_keys: list(keys),
        generated_values: list(values),
        ..succeeded()
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
    // A replica that was removed is nobody to ask, and neither is a witness.
    let serves = |replica: &&ReplicaStatus| !matches!(replica.role, Role::Removed | Role::Witness);
    let members = || cluster.replicas.iter().filter(serves);
    wire::ClusterHealth {
        nodes: members().map(status).collect(),
        healthy_nodes_count: i32::try_from(cluster.healthy_count()).unwrap_or(i32::MAX),
        total_nodes_count: i32::try_from(members().count()).unwrap_or(i32::MAX),
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

/// Statistics of the storage engine are included on request only.
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
        // Existing clients expect a number if they ask for details, so a cache without lookups
        // reports 0.
        cache_hit_rate_percent: detail(Some(figures.cache_hit_rate_percent.unwrap_or(0).min(100))),
        compaction_pending_bytes: detail(figures.compaction_pending_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_primary_in_a_field_when_one_is_known() {
        let elsewhere = || KvError::NotPrimary { endpoint: "10.0.0.1:9090".to_owned(), node: 1 };
        let ThriftReply::Get(read) = answer::<wire::GetResponse>(Method::Get, Err(elsewhere())).reply else {
            panic!("another method's reply")
        };
        assert_eq!(read.error.as_deref(), Some("Not leader, try leader at: 10.0.0.1:9090 (node 1)"));
        assert_eq!(read.error_code.as_deref(), Some("NO_PRIMARY"));
        assert_eq!(read.leader_endpoint.as_deref(), Some("10.0.0.1:9090"));

        let commit = wire::AtomicCommitResponse::failed(elsewhere(), "NO_PRIMARY".to_owned());
        assert_eq!(commit.leader_endpoint.as_deref(), Some("10.0.0.1:9090"));
        assert_eq!((commit.retryable, commit.maybe_committed), (Some(true), Some(false)));

        let nobody = wire::SetResponse::failed(KvError::NoPrimary("no majority".to_owned()), "NO_PRIMARY".to_owned());
        assert_eq!(nobody.leader_endpoint, None);
        assert_eq!(succeeded::<wire::SetResponse>().leader_endpoint, None);
    }
}
