//! Converts between kv-api's types and the structs of the wire.

use std::time::Duration;

use bytes::Bytes;
use kv_api::thrift::generated::{
    AtomicCommitRequest, AtomicCommitResponse, DeleteRequest, GetRangeRequest, GetRequest, KeyRange as WireKeyRange,
    KeyRef as WireKeyRef, KeyValue, Operation, SetRequest, SnapshotGetRangeRequest, SnapshotGetRequest,
};
use kv_api::{AtomicCommit, KeyRange, KeyRef, Mutation, MutationKind, Row, Rows, Version};

use crate::ClientError;
use crate::request::RangeRead;
use crate::results::Committed;

fn family(name: String) -> Option<String> {
    (!name.is_empty()).then_some(name)
}

pub(crate) fn version_field(version: u64) -> i64 {
    // Versions count commits, so no database ever reaches 2⁶³.
    i64::try_from(version).unwrap_or(i64::MAX)
}

pub(crate) fn version(field: i64) -> Version {
    Version(u64::try_from(field).unwrap_or(0))
}

pub(crate) fn get(key: KeyRef) -> GetRequest {
    GetRequest { key: key.key.into(), column_family: family(key.column_family), consistency: None, auth_token: None }
}

pub(crate) fn set(key: KeyRef, value: Bytes) -> SetRequest {
    SetRequest { key: key.key.into(), value: value.into(), column_family: family(key.column_family), auth_token: None }
}

pub(crate) fn delete(key: KeyRef) -> DeleteRequest {
    DeleteRequest { key: key.key.into(), column_family: family(key.column_family), auth_token: None }
}

pub(crate) fn snapshot_get(key: KeyRef, version: Version) -> SnapshotGetRequest {
    SnapshotGetRequest {
        key: key.key.into(),
        read_version: version_field(version.0),
        column_family: family(key.column_family),
        auth_token: None,
    }
}

/// On the wire 0 means "no limit", and an absent field means 1000.
fn limit_field(limit: Option<u32>) -> Option<i32> {
    Some(limit.map_or(0, |rows| i32::try_from(rows).unwrap_or(i32::MAX)))
}

fn target_field(bytes: Option<u32>) -> Option<i32> {
    bytes.map(|bytes| i32::try_from(bytes).unwrap_or(i32::MAX))
}

pub(crate) fn get_range(range: RangeRead) -> GetRangeRequest {
    GetRangeRequest {
        begin_key: Some(range.begin.into()),
        end_key: Some(range.end.into()),
        begin_offset: None,
        begin_or_equal: None,
        end_offset: None,
        end_or_equal: None,
        limit: limit_field(range.limit),
        column_family: family(range.column_family),
        reverse: range.reverse.then_some(true),
        target_bytes: target_field(range.target_bytes),
        begin_selector: None,
        end_selector: None,
        consistency: None,
        auth_token: None,
    }
}

pub(crate) fn snapshot_get_range(range: RangeRead, version: Version) -> SnapshotGetRangeRequest {
    SnapshotGetRangeRequest {
        begin_key: Some(range.begin.into()),
        end_key: Some(range.end.into()),
        begin_offset: None,
        begin_or_equal: None,
        end_offset: None,
        end_or_equal: None,
        read_version: version_field(version.0),
        limit: limit_field(range.limit),
        column_family: family(range.column_family),
        reverse: range.reverse.then_some(true),
        target_bytes: target_field(range.target_bytes),
        begin_selector: None,
        end_selector: None,
        auth_token: None,
    }
}

fn operation_type(kind: MutationKind) -> &'static str {
    match kind {
        MutationKind::Set => "set",
        MutationKind::Delete => "delete",
        MutationKind::SetVersionstampedKey => "SET_VERSIONSTAMPED_KEY",
        MutationKind::SetVersionstampedValue => "SET_VERSIONSTAMPED_VALUE",
        MutationKind::ClearRange => "clear_range",
        MutationKind::Add => "add",
        MutationKind::Min => "min",
        MutationKind::Max => "max",
        MutationKind::ByteMin => "byte_min",
        MutationKind::ByteMax => "byte_max",
        MutationKind::BitAnd => "bit_and",
        MutationKind::BitOr => "bit_or",
        MutationKind::BitXor => "bit_xor",
        MutationKind::AppendIfFits => "append_if_fits",
        MutationKind::CompareAndClear => "compare_and_clear",
    }
}

fn operation(mutation: Mutation) -> Result<Operation, ClientError> {
    let kind = MutationKind::try_from(mutation.kind)
        .map_err(|_| ClientError::InvalidArgument(format!("unknown kind of mutation: {}", mutation.kind)))?;
    Ok(Operation {
        type_: operation_type(kind).to_string(),
        key: mutation.key.into(),
        value: (kind != MutationKind::Delete).then(|| mutation.value.into()),
        column_family: family(mutation.column_family),
        stamp_offset: mutation.stamp_offset.map(|offset| i32::try_from(offset).unwrap_or(i32::MAX)),
    })
}

fn some_list<T, W>(items: Vec<T>, convert: impl Fn(T) -> W) -> Option<Vec<W>> {
    (!items.is_empty()).then(|| items.into_iter().map(convert).collect())
}

pub(crate) fn commit(commit: AtomicCommit, timeout: Duration) -> Result<AtomicCommitRequest, ClientError> {
    let key_ref = |key: KeyRef| WireKeyRef { key: key.key.into(), column_family: family(key.column_family) };
    let key_range = |range: KeyRange| WireKeyRange {
        begin_key: range.begin.into(),
        end_key: range.end.into(),
        column_family: family(range.column_family),
    };
    Ok(AtomicCommitRequest {
        read_version: version_field(commit.read_version),
        operations: commit.mutations.into_iter().map(operation).collect::<Result<_, _>>()?,
        read_conflict_keys: commit.read_conflict_keys.into_iter().map(Vec::from).collect(),
        timeout_seconds: Some(timeout.as_secs().clamp(1, i64::MAX as u64) as i64),
        read_conflict_ranges: some_list(commit.read_conflict_ranges, key_range),
        idempotency_id: (!commit.idempotency_id.is_empty()).then(|| commit.idempotency_id.into()),
        read_conflicts: some_list(commit.read_conflicts, key_ref),
        finished_idempotency_ids: some_list(commit.finished_ids, Vec::from),
        include_details: Some(true),
        auth_token: None,
    })
}

/// The text, if there is one. Some servers of this interface send an empty text for "none".
fn present(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Checks a response that reports success or failure.
pub(crate) fn success(
    success: bool,
    error: Option<String>,
    code: Option<String>,
    leader_endpoint: Option<String>,
) -> Result<(), ClientError> {
    if success {
        return Ok(());
    }
    let message = present(error).unwrap_or_else(|| "the server gave no reason".to_string());
    Err(ClientError::refused(code.as_deref(), message, present(leader_endpoint)))
}

/// The value in a response, or the error that it reports.
pub(crate) fn value(
    found: bool,
    value: Vec<u8>,
    error: Option<String>,
    code: Option<String>,
    leader_endpoint: Option<String>,
) -> Result<Option<Bytes>, ClientError> {
    match present(error) {
        Some(message) => Err(ClientError::refused(code.as_deref(), message, present(leader_endpoint))),
        None => Ok(found.then(|| value.into())),
    }
}

pub(crate) fn rows(key_values: Vec<KeyValue>, has_more: bool) -> Rows {
    let row = |pair: KeyValue| Row { key: pair.key.into(), value: pair.value.into() };
    Rows { rows: key_values.into_iter().map(row).collect(), has_more }
}

pub(crate) fn committed(response: AtomicCommitResponse) -> Result<Committed, ClientError> {
    let all = |list: Option<Vec<Vec<u8>>>| list.unwrap_or_default().into_iter().map(Bytes::from).collect();
    if let Err(mut error) = success(response.success, response.error, response.error_code, response.leader_endpoint) {
        if let ClientError::Refused { retryable, maybe_committed, conflicting_keys, .. } = &mut error {
            // The server's own judgement takes precedence over the table of codes.
            *retryable = response.retryable.unwrap_or(*retryable);
            *maybe_committed = response.maybe_committed.unwrap_or(*maybe_committed);
            let key_ref =
                |key: WireKeyRef| KeyRef { key: key.key.into(), column_family: key.column_family.unwrap_or_default() };
            *conflicting_keys = response.conflicting_keys.unwrap_or_default().into_iter().map(key_ref).collect();
        }
        return Err(error);
    }
    Ok(Committed {
        version: version(response.committed_version.unwrap_or(0)),
        versionstamp: response.versionstamp.map(Bytes::from),
        generated_keys: all(response.generated_keys),
        generated_values: all(response.generated_values),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_without_limit_sends_zero_because_an_absent_limit_means_a_thousand() {
        assert_eq!(get_range(RangeRead::default()).limit, Some(0));
        assert_eq!(get_range(RangeRead { limit: Some(7), ..RangeRead::default() }).limit, Some(7));
    }

    #[test]
    fn a_delete_carries_no_value_while_setting_an_empty_value_does() {
        assert_eq!(operation(Mutation::delete("k")).map(|o| o.value), Ok(None));
        assert_eq!(operation(Mutation::set("k", "")).map(|o| o.value), Ok(Some(Vec::new())));
    }

    #[test]
    fn an_empty_error_text_next_to_a_value_is_no_error() {
        assert_eq!(value(true, b"v".to_vec(), Some(String::new()), None, None), Ok(Some("v".into())));
    }

    #[test]
    fn the_servers_judgement_of_a_failed_commit_overrides_the_table_of_codes() {
        let response = AtomicCommitResponse {
            success: false,
            error: Some("disk".to_string()),
            error_code: Some("COMMIT_FAILED".to_string()),
            committed_version: None,
            versionstamp: None,
            generated_keys: None,
            generated_values: None,
            conflicting_keys: None,
            retryable: Some(true),
            maybe_committed: Some(true),
            leader_endpoint: None,
        };
        let error = committed(response).expect_err("success is false");
        assert!(error.is_retryable() && error.maybe_committed());
    }
}
