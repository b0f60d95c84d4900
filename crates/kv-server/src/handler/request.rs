//! Converts requests from their form on the wire to those of the core.

use bytes::Bytes;
use kv_api::thrift::{PresentedToken, generated as wire};
use kv_api::{KeyRange, KeyRef, KeySelector};

use crate::service_core::{CommitRequest, OperationRequest, RangeRequest};
use crate::thrift_server::ThriftCall;

/// The two requests for a range have the same fields, under other ids.
macro_rules! range_requests {
    ($($request:ident),*) => {$(
        impl From<wire::$request> for RangeRequest {
            fn from(request: wire::$request) -> Self {
                RangeRequest {
                    begin: request.begin_key.map(Bytes::from),
                    end: request.end_key.map(Bytes::from),
                    begin_offset: request.begin_offset,
                    begin_or_equal: request.begin_or_equal,
                    end_offset: request.end_offset,
                    end_or_equal: request.end_or_equal,
                    limit: request.limit,
                    column_family: request.column_family,
                    reverse: request.reverse.unwrap_or(false),
                    target_bytes: request.target_bytes,
                    begin_selector: request.begin_selector.map(selector),
                    end_selector: request.end_selector.map(selector),
                }
            }
        }
    )*};
}

range_requests!(GetRangeRequest, SnapshotGetRangeRequest);

fn selector(selector: wire::KeySelector) -> KeySelector {
    KeySelector { key: selector.key.into(), or_equal: selector.or_equal, offset: selector.offset }
}

/// The token that a request carries for itself. One of zero length is that of a generated client
/// that always sends the field.
pub(super) fn token_of(call: &ThriftCall) -> Option<&str> {
    let token = match call {
        ThriftCall::Get(request) => &request.auth_token,
        ThriftCall::SetKey(request) => &request.auth_token,
        ThriftCall::GetReadVersion(request) => &request.auth_token,
        ThriftCall::AtomicCommit(request) => &request.auth_token,
        ThriftCall::SnapshotRead(request) => &request.auth_token,
        ThriftCall::SnapshotGet(request) => &request.auth_token,
        ThriftCall::SnapshotGetRange(request) => &request.auth_token,
        ThriftCall::GetRange(request) => &request.auth_token,
        ThriftCall::DeleteKey(request) => &request.auth_token,
        ThriftCall::SetVersionstampedKey(request) => &request.auth_token,
        ThriftCall::SetVersionstampedValue(request) => &request.auth_token,
        ThriftCall::SetFaultInjection(request) => &request.auth_token,
        ThriftCall::GetClusterHealth(request) => &request.auth_token,
        ThriftCall::GetDatabaseStats(request) => &request.auth_token,
        ThriftCall::GetNodeInfo(request) => &request.auth_token,
        ThriftCall::PinSnapshot(request) => &request.auth_token,
        ThriftCall::UnpinSnapshot(request) => &request.auth_token,
        ThriftCall::PollChanges(request) => &request.auth_token,
        ThriftCall::WatchKeys(request) => &request.auth_token,
        ThriftCall::Ping(_)
        | ThriftCall::Authenticate(_)
        | ThriftCall::AddReadConflict(_)
        | ThriftCall::AddReadConflictRange(_)
        | ThriftCall::SetReadVersion(_)
        | ThriftCall::GetCommittedVersion(_) => &None,
    };
    token.as_ref().map(PresentedToken::reveal).filter(|token| !token.is_empty())
}

/// Whether the client can read the binary fields that were added to the reply of a commit. Stock
/// Thrift libraries of Python and Rust read an unknown string field as text, and fail when its
/// bytes are not UTF-8.
pub(super) fn wants_details(request: &wire::AtomicCommitRequest) -> bool {
    let knows_additions = request.read_conflict_ranges.is_some()
        || request.idempotency_id.is_some()
        || request.read_conflicts.is_some()
        || request.finished_idempotency_ids.is_some()
        || request.operations.iter().any(|operation| operation.stamp_offset.is_some());
    request.include_details.unwrap_or(knows_additions)
}

impl From<wire::AtomicCommitRequest> for CommitRequest {
    fn from(request: wire::AtomicCommitRequest) -> Self {
        CommitRequest {
            read_version: request.read_version,
            operations: request.operations.into_iter().map(operation).collect(),
            read_conflict_keys: request.read_conflict_keys.into_iter().map(Bytes::from).collect(),
            read_conflicts: request.read_conflicts.into_iter().flatten().map(key_ref).collect(),
            read_conflict_ranges: request.read_conflict_ranges.into_iter().flatten().map(key_range).collect(),
            timeout_seconds: request.timeout_seconds,
            idempotency_id: request.idempotency_id.map(Bytes::from),
            finished_ids: request.finished_idempotency_ids.into_iter().flatten().map(Bytes::from).collect(),
        }
    }
}

fn operation(operation: wire::Operation) -> OperationRequest {
    OperationRequest {
        kind: operation.type_,
        key: operation.key.into(),
        value: operation.value.map(Bytes::from),
        column_family: operation.column_family,
        stamp_offset: operation.stamp_offset,
    }
}

fn key_ref(key: wire::KeyRef) -> KeyRef {
    KeyRef { key: key.key.into(), column_family: key.column_family.unwrap_or_default() }
}

fn key_range(range: wire::KeyRange) -> KeyRange {
    KeyRange {
        begin: range.begin_key.into(),
        end: range.end_key.into(),
        column_family: range.column_family.unwrap_or_default(),
    }
}
