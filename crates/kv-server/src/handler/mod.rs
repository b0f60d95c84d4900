//! Between Thrift and the core: decoded calls in, in-band replies out. The one handler for both modes.
//!
//! No decision about data is made here. What is: the order between a connection's writes and reads
//! ([`crate::connection_order`]), the measurement of every call, and the wire's way of telling failures. `error` is absent
//! on success, because existing clients take any text there for a failure.

#[cfg(test)]
mod own_writes;
mod reply;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::thrift::generated as wire;
use kv_api::{KeyRange, KeyRef, KeySelector, KvError};
use reply::{Answer, answer, node_status};

use crate::connection_order::ConnectionOrder;
use crate::fault_injection::FaultRequest;
use crate::metrics::{MethodKind, ServerMetrics, Stopwatch, kind_of};
use crate::router::RequestContext;
use crate::service_core::{CommitRequest, KvServiceCore, OperationRequest, RangeRequest, micros_since_1970};
use crate::thrift_server::{CallTerms, ConnectionContext, Method, Served, ThriftCall, ThriftReply, ThriftService};

/// Room in a reply for what surrounds the rows of a range, in any encoding.
const RANGE_ENVELOPE_BYTES: usize = 256;

/// The code of [`KvError::ResultTooLarge`].
const RESULT_TOO_LARGE: &str = "RESULT_TOO_LARGE";

/// What the old stateful calls have always answered.
const CONFLICTS_AT_CLIENT: &str = "Conflict detection handled client-side in FoundationDB model";
const READ_VERSION_AT_CLIENT: &str = "Read version managed client-side in FoundationDB model";
const COMMITTED_VERSION_AT_CLIENT: &str = "Committed version managed client-side in FoundationDB model";

/// Serves Thrift calls from a [`KvServiceCore`].
pub struct UnifiedThriftHandler {
    core: Arc<KvServiceCore>,
    metrics: Arc<ServerMetrics>,
    order: Arc<ConnectionOrder>,
}

impl UnifiedThriftHandler {
    pub fn new(core: Arc<KvServiceCore>, metrics: Arc<ServerMetrics>) -> Self {
        UnifiedThriftHandler { core, metrics, order: ConnectionOrder::new() }
    }
}

#[async_trait]
impl ThriftService for UnifiedThriftHandler {
    async fn call(&self, connection: &ConnectionContext, call: ThriftCall, terms: CallTerms) -> Served {
        let (method, stopwatch) = (call.method(), Stopwatch::start());
        let context = RequestContext { deadline: terms.deadline, connection_id: connection.connection_id };
        // Before anything waits, so that writes begin in the order in which they came.
        let write = (kind_of(method) == MethodKind::Write).then(|| self.order.begin_write(context.connection_id));
        let max_rows_bytes = terms.room_bytes.saturating_sub(RANGE_ENVELOPE_BYTES) as u64;
        let answer = self.answer(call, &context, max_rows_bytes).await;
        drop(write);
        let is_first_try = terms.room_bytes < terms.max_reply_bytes;
        if is_first_try && answer.code.as_deref() == Some(RESULT_TOO_LARGE) {
            return Served::NeedsRoom;
        }
        self.metrics.request_ended(method, stopwatch.elapsed(), answer.code.as_deref());
        answer.reply.into()
    }
}

impl UnifiedThriftHandler {
    /// `max_rows_bytes`: of the rows of a range in its reply.
    async fn answer(&self, call: ThriftCall, context: &RequestContext, max_rows_bytes: u64) -> Answer {
        match call {
            ThriftCall::Ping(request) => self.ping(request),
            ThriftCall::GetReadVersion(_) => self.get_read_version(context).await,
            ThriftCall::Get(request) => self.get(request, context).await,
            ThriftCall::GetRange(request) => self.get_range(request, max_rows_bytes, context).await,
            ThriftCall::SnapshotRead(request) => self.snapshot_read(request, context).await,
            ThriftCall::SnapshotGet(request) => self.snapshot_get(request, context).await,
            ThriftCall::SnapshotGetRange(request) => self.snapshot_get_range(request, max_rows_bytes, context).await,
            ThriftCall::SetKey(request) => self.set_key(request, context).await,
            ThriftCall::DeleteKey(request) => self.delete_key(request, context).await,
            ThriftCall::AtomicCommit(request) => self.atomic_commit(request, context).await,
            ThriftCall::SetVersionstampedKey(request) => self.set_versionstamped_key(request, context).await,
            ThriftCall::SetVersionstampedValue(request) => self.set_versionstamped_value(request, context).await,
            ThriftCall::AddReadConflict(_) => {
                Answer::refusal(wire::AddReadConflictResponse::new(false, text(CONFLICTS_AT_CLIENT), None))
            }
            ThriftCall::AddReadConflictRange(_) => {
                Answer::refusal(wire::AddReadConflictRangeResponse::new(false, text(CONFLICTS_AT_CLIENT), None))
            }
            ThriftCall::SetReadVersion(_) => {
                Answer::refusal(wire::SetReadVersionResponse::new(false, text(READ_VERSION_AT_CLIENT), None))
            }
            ThriftCall::GetCommittedVersion(_) => Answer::refusal(wire::GetCommittedVersionResponse::new(
                0,
                false,
                text(COMMITTED_VERSION_AT_CLIENT),
                None,
            )),
            ThriftCall::SetFaultInjection(request) => self.set_fault_injection(request),
            ThriftCall::GetClusterHealth(_) => self.get_cluster_health().await,
            ThriftCall::GetNodeInfo(request) => self.get_node_info(request).await,
            ThriftCall::GetDatabaseStats(request) => self.get_database_stats(request).await,
            ThriftCall::PinSnapshot(request) => self.pin_snapshot(request, context).await,
            ThriftCall::UnpinSnapshot(request) => self.unpin_snapshot(request),
        }
    }

    fn ping(&self, request: wire::PingRequest) -> Answer {
        let (message, timestamp, now) = self.core.ping(request.message.map(Bytes::from), request.timestamp);
        Answer::success(wire::PingResponse { message: message.into(), timestamp, server_timestamp: now })
    }

    /// Reads of the newest state first wait for what this connection has written.
    async fn after_own_writes(&self, context: &RequestContext) -> Result<(), KvError> {
        self.order.earlier_writes(context.connection_id, context.deadline).await
    }

    async fn get_read_version(&self, context: &RequestContext) -> Answer {
        let read = async {
            self.after_own_writes(context).await?;
            self.core.read_version(context).await
        };
        answer(
            Method::GetReadVersion,
            read.await.map(|version| wire::GetReadVersionResponse {
                read_version: signed(version.0),
                success: true,
                error: None,
                error_code: None,
            }),
        )
    }

    async fn get(&self, request: wire::GetRequest, context: &RequestContext) -> Answer {
        let wire::GetRequest { key, column_family, consistency } = request;
        let read = async {
            self.after_own_writes(context).await?;
            self.core.get(key.into(), column_family, consistency.as_deref(), context).await
        };
        answer(
            Method::Get,
            read.await.map(|value| {
                let (value, found) = value_and_found(value);
                wire::GetResponse { value, found, error: None, error_code: None }
            }),
        )
    }

    async fn get_range(&self, request: wire::GetRangeRequest, max_rows_bytes: u64, context: &RequestContext) -> Answer {
        let consistency = request.consistency;
        let range = RangeRequest {
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
        };
        let read = async {
            self.after_own_writes(context).await?;
            self.core.get_range(range, consistency.as_deref(), max_rows_bytes, context).await
        };
        answer(
            Method::GetRange,
            read.await.map(|rows| wire::GetRangeResponse {
                has_more: rows.has_more,
                key_values: reply::key_values(rows),
                success: true,
                error: None,
                error_code: None,
            }),
        )
    }

    async fn snapshot_read(&self, request: wire::SnapshotReadRequest, context: &RequestContext) -> Answer {
        let wire::SnapshotReadRequest { key, read_version, column_family } = request;
        let read = self.core.snapshot_get(key.into(), read_version, column_family, context).await;
        answer(
            Method::SnapshotRead,
            read.map(|value| {
                let (value, found) = value_and_found(value);
                wire::SnapshotReadResponse { value, found, error: None, error_code: None }
            }),
        )
    }

    async fn snapshot_get(&self, request: wire::SnapshotGetRequest, context: &RequestContext) -> Answer {
        let wire::SnapshotGetRequest { key, read_version, column_family } = request;
        let read = self.core.snapshot_get(key.into(), read_version, column_family, context).await;
        answer(
            Method::SnapshotGet,
            read.map(|value| {
                let (value, found) = value_and_found(value);
                wire::SnapshotGetResponse { value, found, error: None, error_code: None }
            }),
        )
    }

    async fn snapshot_get_range(
        &self,
        request: wire::SnapshotGetRangeRequest,
        max_rows_bytes: u64,
        context: &RequestContext,
    ) -> Answer {
        let range = RangeRequest {
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
        };
        let read = self.core.snapshot_get_range(range, request.read_version, max_rows_bytes, context).await;
        answer(
            Method::SnapshotGetRange,
            read.map(|rows| wire::SnapshotGetRangeResponse {
                has_more: rows.has_more,
                key_values: reply::key_values(rows),
                success: true,
                error: None,
                error_code: None,
            }),
        )
    }

    async fn set_key(&self, request: wire::SetRequest, context: &RequestContext) -> Answer {
        let wire::SetRequest { key, value, column_family } = request;
        let set = self.core.set(key.into(), value.into(), column_family, context).await;
        answer(Method::SetKey, set.map(|_| wire::SetResponse { success: true, error: None, error_code: None }))
    }

    async fn delete_key(&self, request: wire::DeleteRequest, context: &RequestContext) -> Answer {
        let wire::DeleteRequest { key, column_family } = request;
        let deleted = self.core.delete(key.into(), column_family, context).await;
        answer(
            Method::DeleteKey,
            deleted.map(|_| wire::DeleteResponse { success: true, error: None, error_code: None }),
        )
    }

    async fn atomic_commit(&self, request: wire::AtomicCommitRequest, context: &RequestContext) -> Answer {
        let details = wants_details(&request);
        let committed = self.core.atomic_commit(commit_request(request), context).await;
        let mut answer = answer(Method::AtomicCommit, committed.map(reply::committed));
        if let (false, ThriftReply::AtomicCommit(response)) = (details, &mut answer.reply) {
            reply::leave_out_details(response);
        }
        answer
    }

    async fn set_versionstamped_key(
        &self,
        request: wire::SetVersionstampedKeyRequest,
        context: &RequestContext,
    ) -> Answer {
        let wire::SetVersionstampedKeyRequest { key_prefix, value, column_family } = request;
        let set = self.core.set_versionstamped_key(key_prefix.into(), value.into(), column_family, context).await;
        answer(
            Method::SetVersionstampedKey,
            set.map(|key| wire::SetVersionstampedKeyResponse {
                generated_key: key.into(),
                success: true,
                error: None,
                error_code: None,
            }),
        )
    }

    async fn set_versionstamped_value(
        &self,
        request: wire::SetVersionstampedValueRequest,
        context: &RequestContext,
    ) -> Answer {
        let wire::SetVersionstampedValueRequest { key, value_prefix, column_family } = request;
        let set = self.core.set_versionstamped_value(key.into(), value_prefix.into(), column_family, context).await;
        answer(
            Method::SetVersionstampedValue,
            set.map(|value| wire::SetVersionstampedValueResponse {
                generated_value: value.into(),
                success: true,
                error: None,
                error_code: None,
            }),
        )
    }

    async fn pin_snapshot(&self, request: wire::PinSnapshotRequest, context: &RequestContext) -> Answer {
        let pinned = self.core.pin_snapshot(request.read_version, request.ttl_ms, context).await;
        let response = pinned.map(|ends| wire::PinSnapshotResponse {
            success: true,
            error: None,
            expires_at_ms: Some(micros_since_1970(ends) / 1000),
            error_code: None,
        });
        answer(Method::PinSnapshot, response)
    }

    fn unpin_snapshot(&self, request: wire::UnpinSnapshotRequest) -> Answer {
        let unpinned = self.core.unpin_snapshot(request.read_version);
        let response = unpinned.map(|()| wire::UnpinSnapshotResponse { success: true, error: None, error_code: None });
        answer(Method::UnpinSnapshot, response)
    }

    fn set_fault_injection(&self, request: wire::FaultInjectionRequest) -> Answer {
        let delay_ms = request.duration_ms.unwrap_or(0);
        let set = self.core.set_fault_injection(FaultRequest {
            code: request.fault_type,
            probability: request.probability.map_or(0.0, |probability| probability.0),
            delay: Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0)),
            target: request.target_operation,
        });
        let response = set.map(|()| wire::FaultInjectionResponse { success: true, error: None, error_code: None });
        answer(Method::SetFaultInjection, response)
    }

    async fn get_cluster_health(&self) -> Answer {
        let health = self.core.cluster_health().await;
        Answer::success(wire::GetClusterHealthResponse {
            success: true,
            cluster_health: Some(reply::cluster_health(&health)),
            error: None,
            error_code: None,
            limits: Some(reply::server_limits(self.core.limits())),
        })
    }

    async fn get_node_info(&self, request: wire::GetNodeInfoRequest) -> Answer {
        let info = self.core.node_info(request.node_id).await;
        answer(
            Method::GetNodeInfo,
            info.map(|(replica, cluster)| wire::GetNodeInfoResponse {
                success: true,
                node_info: Some(node_status(&replica, cluster.primary)),
                error: None,
                error_code: None,
            }),
        )
    }

    async fn get_database_stats(&self, request: wire::GetDatabaseStatsRequest) -> Answer {
        let detailed = request.include_detailed_stats.unwrap_or(false);
        let figures = self.core.database_figures().await;
        answer(
            Method::GetDatabaseStats,
            figures.map(|figures| wire::GetDatabaseStatsResponse {
                success: true,
                database_stats: Some(reply::database_stats(&figures, detailed)),
                error: None,
                error_code: None,
            }),
        )
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_string())
}

/// Versions and counts as the wire has them.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn selector(selector: wire::KeySelector) -> KeySelector {
    KeySelector { key: selector.key.into(), or_equal: selector.or_equal, offset: selector.offset }
}

fn value_and_found(value: Option<Bytes>) -> (Vec<u8>, bool) {
    match value {
        Some(value) => (value.into(), true),
        None => (Vec::new(), false),
    }
}

/// Whether the client can read the binary fields that were added to the reply: stock Thrift libraries of Python and Rust
/// take a field that they do not know for text, and fail when it is none.
fn wants_details(request: &wire::AtomicCommitRequest) -> bool {
    let knows_additions = request.read_conflict_ranges.is_some()
        || request.idempotency_id.is_some()
        || request.read_conflicts.is_some()
        || request.finished_idempotency_ids.is_some()
        || request.operations.iter().any(|operation| operation.stamp_offset.is_some());
    request.include_details.unwrap_or(knows_additions)
}

fn commit_request(request: wire::AtomicCommitRequest) -> CommitRequest {
    let operation = |operation: wire::Operation| OperationRequest {
        kind: operation.type_,
        key: operation.key.into(),
        value: operation.value.map(Bytes::from),
        column_family: operation.column_family,
        stamp_offset: operation.stamp_offset,
    };
    let key_ref =
        |key: wire::KeyRef| KeyRef { key: key.key.into(), column_family: key.column_family.unwrap_or_default() };
    let key_range = |range: wire::KeyRange| KeyRange {
        begin: range.begin_key.into(),
        end: range.end_key.into(),
        column_family: range.column_family.unwrap_or_default(),
    };
    CommitRequest {
        read_version: request.read_version,
        operations: request.operations.into_iter().map(operation).collect(),
        read_conflict_keys: request.read_conflict_keys.into_iter().map(Bytes::from).collect(),
        read_conflicts: request.read_conflicts.unwrap_or_default().into_iter().map(key_ref).collect(),
        read_conflict_ranges: request.read_conflict_ranges.unwrap_or_default().into_iter().map(key_range).collect(),
        timeout_seconds: request.timeout_seconds,
        idempotency_id: request.idempotency_id.map(Bytes::from),
        finished_ids: request.finished_idempotency_ids.into_iter().flatten().map(Bytes::from).collect(),
    }
}
