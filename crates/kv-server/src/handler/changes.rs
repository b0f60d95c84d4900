//! Polls for changes and watches of keys.
//!
//! A call that waits has hardly any memory for its reply. As soon as there is a longer one, it is
//! made again with more, and does not wait then.

use bytes::Bytes;
use kv_api::thrift::generated as wire;
use kv_api::{Change, ClearCause, Effect, FamilyEffect, KeyRef, KvError};

use super::reply::{Answer, Response, Status, answer, succeeded};
use super::{UnifiedThriftHandler, signed};
use crate::changes::DEFAULT_BYTES;
use crate::router::RequestContext;
use crate::service_core::{PollRequest, Polled, WatchRequest, Watched};
use crate::thrift_server::{CallTerms, Method, POLL_BYTES};

/// Bytes of a reply besides its lists, in any encoding.
const ENVELOPE_BYTES: usize = 256;
/// Bytes of a version or an operation besides its keys and values.
const VERSION_BYTES: usize = 48;
const OPERATION_BYTES: usize = 80;

impl UnifiedThriftHandler {
    pub(super) async fn poll_changes(
        &self,
        request: wire::PollChangesRequest,
        context: &RequestContext,
        terms: CallTerms,
    ) -> Answer {
        let asked = request.max_bytes.unwrap_or(DEFAULT_BYTES);
        let room = i32::try_from(terms.room_bytes).unwrap_or(i32::MAX);
        let may_wait = is_first_try(terms);
        let mut poll = poll_request(request);
        // With little room it is enough to learn whether there is more.
        let is_cut = may_wait && asked > room;
        poll.max_bytes = Some(if is_cut { room } else { asked });
        let poll = async {
            self.after_own_writes(context).await?;
            self.core.poll_changes(poll, may_wait, context).await
        };
        let polled = poll.await.and_then(|polled| {
            let bytes: usize = polled.changes.changes.iter().map(bytes_of).sum();
            let has_room = bytes + ENVELOPE_BYTES <= terms.room_bytes;
            let is_less = is_cut && polled.changes.has_more && !polled.changes.changes.is_empty();
            match has_room && !is_less {
                true => Ok(response_of(polled)),
                false => Err(KvError::ResultTooLarge { limit: terms.room_bytes as u64 }),
            }
        });
        answer(Method::PollChanges, polled)
    }

    pub(super) async fn watch_keys(
        &self,
        request: wire::WatchKeysRequest,
        context: &RequestContext,
        terms: CallTerms,
    ) -> Answer {
        let wire::WatchKeysRequest { keys, at_version, max_wait_ms, cluster_id, auth_token: _ } = request;
        let request = WatchRequest {
            keys: keys.into_iter().map(|key| (key.column_family, key.key.into())).collect(),
            at_version,
            max_wait_ms: if is_first_try(terms) { max_wait_ms } else { Some(0) },
            cluster_id,
        };
        let watch = async {
            self.after_own_writes(context).await?;
            self.core.watch_keys(request, context).await
        };
        let watched = watch.await.and_then(|watched| {
            let Watched { changed, through, oldest, cluster_id } = watched;
            let size = |key: &KeyRef| key.key.len() + key.column_family.len() + VERSION_BYTES;
            if changed.iter().map(size).sum::<usize>() + ENVELOPE_BYTES > terms.room_bytes {
                return Err(KvError::ResultTooLarge { limit: terms.room_bytes as u64 });
            }
            Ok(wire::WatchKeysResponse {
                changed: changed.into_iter().map(key_ref).collect(),
                through_version: signed(through.0),
                oldest_version: Some(signed(oldest.0)),
                cluster_id,
                ..succeeded()
            })
        });
        answer(Method::WatchKeys, watched)
    }
}

/// Whether the call has the little memory of one that may wait.
fn is_first_try(terms: CallTerms) -> bool {
    terms.room_bytes <= POLL_BYTES
}

fn poll_request(request: wire::PollChangesRequest) -> PollRequest {
    let range = |range: wire::ChangeRange| {
        (range.column_family, range.begin_key.map(Bytes::from), range.end_key.map(Bytes::from))
    };
    PollRequest {
        after_version: request.after_version,
        ranges: request.ranges.unwrap_or_default().into_iter().map(range).collect(),
        max_wait_ms: request.max_wait_ms,
        max_bytes: request.max_bytes,
        max_versions: request.max_versions,
        with_values: request.with_values,
        cluster_id: request.cluster_id,
    }
}

fn bytes_of(change: &Change) -> usize {
    let of_effect = |effect: &FamilyEffect| {
        let parts = match &effect.effect {
            Effect::Set { key, value } => key.len() + value.len(),
            Effect::Delete { key } => key.len(),
            Effect::Clear { begin, end, .. } => begin.len() + end.as_ref().map_or(0, Bytes::len),
        };
        OPERATION_BYTES + effect.column_family.len() + parts
    };
    VERSION_BYTES + change.effects.iter().map(of_effect).sum::<usize>()
}

fn response_of(polled: Polled) -> wire::PollChangesResponse {
    let Polled { changes, cluster_id } = polled;
    wire::PollChangesResponse {
        changes: changes.changes.into_iter().map(version).collect(),
        through_version: signed(changes.through.0),
        has_more: changes.has_more,
        oldest_version: Some(signed(changes.oldest.0)),
        cluster_id,
        ..succeeded()
    }
}

fn version(change: Change) -> wire::ChangedVersion {
    wire::ChangedVersion {
        version: signed(change.version.0),
        log_time_ms: signed(change.time_us / 1000),
        operations: change.effects.into_iter().map(operation).collect(),
    }
}

fn operation(effect: FamilyEffect) -> wire::ChangeOperation {
    let column_family = Some(effect.column_family).filter(|family| !family.is_empty());
    let plain = |type_: &str, key: Bytes| wire::ChangeOperation {
        type_: type_.to_owned(),
        key: key.into(),
        value: None,
        end_key: None,
        column_family,
        cause: None,
    };
    match effect.effect {
        Effect::Set { key, value } => wire::ChangeOperation { value: Some(value.into()), ..plain("set", key) },
        Effect::Delete { key } => plain("delete", key),
        Effect::Clear { begin, end, cause } => wire::ChangeOperation {
            end_key: end.map(Vec::from),
            cause: (cause == ClearCause::FamilyDropped).then(|| "family_dropped".to_owned()),
            ..plain("clear_range", begin)
        },
    }
}

fn key_ref(key: KeyRef) -> wire::KeyRef {
    let column_family = Some(key.column_family).filter(|family| !family.is_empty());
    wire::KeyRef { key: key.key.into(), column_family }
}

/// The lowest version to continue from, of an error that says so.
fn oldest_of(error: &KvError) -> Option<i64> {
    match error {
        KvError::TransactionTooOld { oldest, .. } => Some(signed(*oldest)),
        _ => None,
    }
}

fn found_cluster(error: &KvError) -> Option<String> {
    match error {
        KvError::ClusterChanged { found, .. } => found.clone(),
        _ => None,
    }
}

/// Both replies name where to continue, also where a call failed.
macro_rules! reply_about_changes {
    ($reply:ident { $($field:ident: $nothing:expr),+ }) => {
        impl Response for wire::$reply {
            fn with_status(status: Status) -> Self {
                wire::$reply {
                    success: status.success,
                    error: status.error,
                    $($field: $nothing,)+
                    through_version: 0,
                    oldest_version: None,
                    cluster_id: None,
                    error_code: status.error_code,
                    leader_endpoint: status.leader_endpoint,
                }
            }

            fn failed(error: KvError, code: String) -> Self {
                let status = Status::of_failure(&error, code);
                let (oldest_version, cluster_id) = (oldest_of(&error), found_cluster(&error));
                wire::$reply { oldest_version, cluster_id, ..Self::with_status(status) }
            }
        }
    };
}

reply_about_changes!(PollChangesResponse { changes: Vec::new(), has_more: false });
reply_about_changes!(WatchKeysResponse { changed: Vec::new() });
