//! Between the structs of the wire and those of this crate.

use std::time::Duration;

use kv_api::thrift::generated::{
    ChangeOperation, ChangeRange as WireRange, ChangedVersion, KeyRef as WireKeyRef, PollChangesRequest,
    PollChangesResponse, WatchKeysRequest, WatchKeysResponse,
};
use kv_api::{Change, ChangeRange, ClearCause, Effect, FamilyEffect, KeyRef, Version};

use super::{ChangedKeys, ChangesBatch, ChangesRequest};
use crate::convert::{version, version_field};

/// The longest wait that a server allows.
const MAX_WAIT: Duration = Duration::from_secs(30);

fn wait_field(wait: Duration) -> Option<i32> {
    i32::try_from(wait.min(MAX_WAIT).as_millis()).ok()
}

fn family_field(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

pub(super) fn poll(request: &ChangesRequest) -> PollChangesRequest {
    let range = |range: &ChangeRange| WireRange {
        column_family: family_field(&range.column_family),
        begin_key: (!range.begin.is_empty()).then(|| range.begin.to_vec()),
        end_key: range.end.as_ref().map(|end| end.to_vec()),
    };
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    PollChangesRequest {
        after_version: version_field(request.after.0),
        ranges: Some(request.ranges.iter().map(range).collect()),
        max_wait_ms: wait_field(request.max_wait),
        max_bytes: Some(number(request.max_bytes)),
        max_versions: request.max_versions.map(number),
        with_values: Some(request.with_values),
        cluster_id: request.cluster_id.clone(),
        auth_token: None,
    }
}

pub(super) fn watch(keys: Vec<KeyRef>, at: Version, max_wait: Duration) -> WatchKeysRequest {
    let key = |key: KeyRef| WireKeyRef { column_family: family_field(&key.column_family), key: key.key.into() };
    WatchKeysRequest {
        keys: keys.into_iter().map(key).collect(),
        at_version: version_field(at.0),
        max_wait_ms: wait_field(max_wait),
        cluster_id: None,
        auth_token: None,
    }
}

pub(super) fn batch(response: PollChangesResponse) -> Result<ChangesBatch, String> {
    Ok(ChangesBatch {
        changes: response.changes.into_iter().map(change).collect::<Result<_, _>>()?,
        through: version(response.through_version),
        has_more: response.has_more,
        oldest: version(response.oldest_version.unwrap_or(0)),
        cluster_id: response.cluster_id,
    })
}

fn change(changed: ChangedVersion) -> Result<Change, String> {
    Ok(Change {
        version: version(changed.version),
        time_us: u64::try_from(changed.log_time_ms).unwrap_or(0) * 1000,
        effects: changed.operations.into_iter().map(effect).collect::<Result<_, _>>()?,
    })
}

fn effect(operation: ChangeOperation) -> Result<FamilyEffect, String> {
    let ChangeOperation { type_, key, value, end_key, column_family, cause } = operation;
    let key = key.into();
    let effect = match type_.as_str() {
        "set" => Effect::Set { key, value: value.unwrap_or_default().into() },
        "delete" => Effect::Delete { key },
        "clear_range" => {
            let cause = match cause.as_deref() {
                Some("family_dropped") => ClearCause::FamilyDropped,
                _ => ClearCause::Transaction,
            };
            Effect::Clear { begin: key, end: end_key.map(Into::into), cause }
        }
        // To pass over it would lose a change.
        other => return Err(format!("a change of the unknown type '{other}'; a newer client knows it")),
    };
    Ok(FamilyEffect { column_family: column_family.unwrap_or_default(), effect })
}

pub(super) fn changed_keys(response: WatchKeysResponse) -> ChangedKeys {
    let key = |key: WireKeyRef| KeyRef { key: key.key.into(), column_family: key.column_family.unwrap_or_default() };
    ChangedKeys { changed: response.changed.into_iter().map(key).collect(), through: version(response.through_version) }
}
