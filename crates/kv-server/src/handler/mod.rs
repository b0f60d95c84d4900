//! Connects Thrift to the core: takes decoded calls and returns in-band replies. Both modes use
//! this handler.
//!
//! It decides nothing about data. It orders a connection's writes and reads
//! ([`crate::connection_order`]), measures every call, and converts failures to their form on the
//! wire. `error` is absent on success, because existing clients take any text there for a failure.

mod changes;
#[cfg(test)]
mod own_writes;
mod reply;
mod request;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::KvError;
use kv_api::thrift::{MethodKind, generated as wire};
use reply::{Answer, answer, node_status, succeeded};

use crate::access::{kind_of, recorded_as, rule_of_method};
use crate::connection_order::ConnectionOrder;
use crate::fault_injection::FaultRequest;
use crate::metrics::{ServerMetrics, Stopwatch};
use crate::router::RequestContext;
use crate::service_core::{KvServiceCore, micros_since_1970};
use crate::thrift_server::{CallTerms, ConnectionContext, Method, Served, ThriftCall, ThriftReply, ThriftService};

/// Bytes of a range's reply besides its rows, in any encoding.
const RANGE_ENVELOPE_BYTES: usize = 256;

/// The code of [`KvError::ResultTooLarge`].
const RESULT_TOO_LARGE: &str = "RESULT_TOO_LARGE";

/// The fixed answers of the calls of the old stateful protocol.
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
    /// A handler that records its calls in `metrics`.
    pub fn new(core: Arc<KvServiceCore>, metrics: Arc<ServerMetrics>) -> Self {
        UnifiedThriftHandler { core, metrics, order: ConnectionOrder::new() }
    }
}

#[async_trait]
impl ThriftService for UnifiedThriftHandler {
    fn knows(&self, connection: &ConnectionContext) -> bool {
        self.core.gate().knows(&connection.session)
    }

    async fn call(&self, connection: &ConnectionContext, call: ThriftCall, terms: CallTerms) -> Served {
        let (method, stopwatch) = (call.method(), Stopwatch::start());
        let (rule, token) = (rule_of_method(method), request::token_of(&call));
        let caller = match self.core.gate().admit(&connection.session, token, method.name(), rule) {
            Ok(caller) => caller,
            Err(error) => {
                if let Some(audit) = self.core.gate().audit() {
                    audit.denied(kind_of(method), &connection.session, method.name(), &error).await;
                }
                let answer = reply::refused(method, error);
                self.metrics.request_ended(method, stopwatch.elapsed(), answer.code.as_deref());
                return answer.reply.into();
            }
        };
        let hurry = matches!(method, Method::PollChanges | Method::WatchKeys).then(|| connection.hurry.clone());
        let connection_id = connection.connection_id;
        let context = RequestContext { deadline: terms.deadline, connection_id, caller, hurry };
        // This comes before any wait, so that writes begin in the order of their arrival.
        let write = (method.kind() == MethodKind::Write).then(|| self.order.begin_write(context.connection_id));
        let gate = self.core.gate();
        let recording = gate.audit().zip(recorded_as(method)).map(|(audit, kind)| {
            let mut recording = audit.begin_call(kind, &connection.session, method.name());
            recording.of_caller(&context.caller);
            recording
        });
        let answer = self.answer(call, connection, &context, terms).await;
        drop(write);
        let is_first_try = terms.room_bytes < terms.max_reply_bytes;
        if is_first_try && answer.code.as_deref() == Some(RESULT_TOO_LARGE) {
            return Served::NeedsRoom;
        }
        if let Some(recording) = recording {
            recording.end(answer.code.as_deref().unwrap_or("ok"), None).await;
        }
        self.metrics.request_ended(method, stopwatch.elapsed(), answer.code.as_deref());
        answer.reply.into()
    }
}

impl UnifiedThriftHandler {
    async fn answer(
        &self,
        call: ThriftCall,
        connection: &ConnectionContext,
        context: &RequestContext,
        terms: CallTerms,
    ) -> Answer {
        // Of the reply of a range.
        let max_rows_bytes = terms.room_bytes.saturating_sub(RANGE_ENVELOPE_BYTES) as u64;
        match call {
            ThriftCall::Ping(request) => self.ping(request),
            ThriftCall::Authenticate(request) => self.authenticate(request, connection),
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
            ThriftCall::PollChanges(request) => self.poll_changes(request, context, terms).await,
            ThriftCall::WatchKeys(request) => self.watch_keys(request, context, terms).await,
        }
    }

    fn ping(&self, request: wire::PingRequest) -> Answer {
        let (message, timestamp, now) = self.core.ping(request.message.map(Bytes::from), request.timestamp);
        Answer::success(wire::PingResponse { message: message.into(), timestamp, server_timestamp: now })
    }

    /// Takes effect before it is answered, so that the requests behind it already have the identity.
    fn authenticate(&self, request: wire::AuthenticateRequest, connection: &ConnectionContext) -> Answer {
        let user = self.core.gate().authenticate(&connection.session, request.token.reveal());
        answer(Method::Authenticate, user.map(|user| wire::AuthenticateResponse { user, ..succeeded() }))
    }

    /// Reads of the newest state first wait for the earlier writes of this connection.
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
            read.await.map(|version| wire::GetReadVersionResponse { read_version: signed(version.0), ..succeeded() }),
        )
    }

    async fn get(&self, request: wire::GetRequest, context: &RequestContext) -> Answer {
        let wire::GetRequest { key, column_family, consistency, auth_token: _ } = request;
        let read = async {
            self.after_own_writes(context).await?;
            self.core.get(key.into(), column_family, consistency.as_deref(), context).await
        };
        answer(
            Method::Get,
            read.await.map(|value| {
                let (value, found) = value_and_found(value);
                wire::GetResponse { value, found, ..succeeded() }
            }),
        )
    }

    async fn get_range(
        &self,
        mut request: wire::GetRangeRequest,
        max_rows_bytes: u64,
        context: &RequestContext,
    ) -> Answer {
        let (consistency, range) = (request.consistency.take(), request.into());
        let read = async {
            self.after_own_writes(context).await?;
            self.core.get_range(range, consistency.as_deref(), max_rows_bytes, context).await
        };
        answer(
            Method::GetRange,
            read.await.map(|rows| wire::GetRangeResponse {
                has_more: rows.has_more,
                key_values: reply::key_values(rows),
                ..succeeded()
            }),
        )
    }

    async fn snapshot_read(&self, request: wire::SnapshotReadRequest, context: &RequestContext) -> Answer {
        let wire::SnapshotReadRequest { key, read_version, column_family, auth_token: _ } = request;
        let read = self.core.snapshot_get(key.into(), read_version, column_family, context).await;
        answer(
            Method::SnapshotRead,
            read.map(|value| {
                let (value, found) = value_and_found(value);
                wire::SnapshotReadResponse { value, found, ..succeeded() }
            }),
        )
    }

    async fn snapshot_get(&self, request: wire::SnapshotGetRequest, context: &RequestContext) -> Answer {
        let wire::SnapshotGetRequest { key, read_version, column_family, auth_token: _ } = request;
        let read = self.core.snapshot_get(key.into(), read_version, column_family, context).await;
        answer(
            Method::SnapshotGet,
            read.map(|value| {
                let (value, found) = value_and_found(value);
                wire::SnapshotGetResponse { value, found, ..succeeded() }
            }),
        )
    }

    async fn snapshot_get_range(
        &self,
        request: wire::SnapshotGetRangeRequest,
        max_rows_bytes: u64,
        context: &RequestContext,
    ) -> Answer {
        let read_version = request.read_version;
        let read = self.core.snapshot_get_range(request.into(), read_version, max_rows_bytes, context).await;
        answer(
            Method::SnapshotGetRange,
            read.map(|rows| wire::SnapshotGetRangeResponse {
                has_more: rows.has_more,
                key_values: reply::key_values(rows),
                ..succeeded()
            }),
        )
    }

    async fn set_key(&self, request: wire::SetRequest, context: &RequestContext) -> Answer {
        let wire::SetRequest { key, value, column_family, auth_token: _ } = request;
        let set = self.core.set(key.into(), value.into(), column_family, context).await;
        answer(Method::SetKey, set.map(|_| succeeded::<wire::SetResponse>()))
    }

    async fn delete_key(&self, request: wire::DeleteRequest, context: &RequestContext) -> Answer {
        let wire::DeleteRequest { key, column_family, auth_token: _ } = request;
        let deleted = self.core.delete(key.into(), column_family, context).await;
        answer(Method::DeleteKey, deleted.map(|_| succeeded::<wire::DeleteResponse>()))
    }

    async fn atomic_commit(&self, request: wire::AtomicCommitRequest, context: &RequestContext) -> Answer {
        let details = request::wants_details(&request);
        let committed = self.core.atomic_commit(request.into(), context).await;
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
        let wire::SetVersionstampedKeyRequest { key_prefix, value, column_family, auth_token: _ } = request;
        let set = self.core.set_versionstamped_key(key_prefix.into(), value.into(), column_family, context).await;
        answer(
            Method::SetVersionstampedKey,
            set.map(|key| wire::SetVersionstampedKeyResponse { generated_key: key.into(), ..succeeded() }),
        )
    }

    async fn set_versionstamped_value(
        &self,
        request: wire::SetVersionstampedValueRequest,
        context: &RequestContext,
    ) -> Answer {
        let wire::SetVersionstampedValueRequest { key, value_prefix, column_family, auth_token: _ } = request;
        let set = self.core.set_versionstamped_value(key.into(), value_prefix.into(), column_family, context).await;
        answer(
            Method::SetVersionstampedValue,
            set.map(|value| wire::SetVersionstampedValueResponse { generated_value: value.into(), ..succeeded() }),
        )
    }

    async fn pin_snapshot(&self, request: wire::PinSnapshotRequest, context: &RequestContext) -> Answer {
        let pinned = self.core.pin_snapshot(request.read_version, request.ttl_ms, context).await;
        let response = pinned.map(|ends| wire::PinSnapshotResponse {
            expires_at_ms: Some(micros_since_1970(ends) / 1000),
            ..succeeded()
        });
        answer(Method::PinSnapshot, response)
    }

    fn unpin_snapshot(&self, request: wire::UnpinSnapshotRequest) -> Answer {
        let unpinned = self.core.unpin_snapshot(request.read_version);
        let response = unpinned.map(|()| succeeded::<wire::UnpinSnapshotResponse>());
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
        let response = set.map(|()| succeeded::<wire::FaultInjectionResponse>());
        answer(Method::SetFaultInjection, response)
    }

    async fn get_cluster_health(&self) -> Answer {
        let health = self.core.cluster_health().await;
        Answer::success(wire::GetClusterHealthResponse {
            cluster_health: Some(reply::cluster_health(&health)),
            limits: Some(reply::server_limits(self.core.limits())),
            ..succeeded()
        })
    }

    async fn get_node_info(&self, request: wire::GetNodeInfoRequest) -> Answer {
        let info = self.core.node_info(request.node_id).await;
        answer(
            Method::GetNodeInfo,
            info.map(|(replica, cluster)| wire::GetNodeInfoResponse {
                node_info: Some(node_status(&replica, cluster.primary)),
                ..succeeded()
            }),
        )
    }

    async fn get_database_stats(&self, request: wire::GetDatabaseStatsRequest) -> Answer {
        let detailed = request.include_detailed_stats.unwrap_or(false);
        let figures = self.core.database_figures().await;
        answer(
            Method::GetDatabaseStats,
            figures.map(|figures| wire::GetDatabaseStatsResponse {
                database_stats: Some(reply::database_stats(&figures, detailed)),
                ..succeeded()
            }),
        )
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_string())
}

/// Versions and counts as signed numbers, as on the wire.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn value_and_found(value: Option<Bytes>) -> (Vec<u8>, bool) {
    match value {
        Some(value) => (value.into(), true),
        None => (Vec::new(), false),
    }
}
