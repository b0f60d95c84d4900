//! Sets or deletes one key: POST `/console/api/key`, off unless `admin.console_edits = true`.
//!
//! An edit names the value that its user has seen, by its hash. The invariant: a row is written only if
//! it still has that value at the version of the commit. The value is compared at a read
//! version, and the commit conflicts with every write of the key since then.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes as Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use kv_api::{KeyRef, KvError};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::super::{AdminInterface, Refusal, to_hex};
use super::{MAX_SHOWN_VALUE, Parameters, bad, check_length, only, take_bytes, turn};
use crate::access::Caller;
use crate::router::RequestContext;
use crate::service_core::{CommitRequest, KvServiceCore, OperationRequest};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request: the longest value that is shown, in base64, and some words.
pub(in crate::admin) const MAX_BODY_BYTES: usize = MAX_SHOWN_VALUE / 3 * 4 + 4096;

/// Equal values have equal hashes, and others have others.
pub(super) fn hash_of(value: &[u8]) -> String {
    to_hex(digest(&SHA256, value).as_ref())
}

/// An edit, checked.
#[derive(Debug, PartialEq)]
struct Edit {
    /// `None`: the key is deleted.
    value: Option<Bytes>,
    /// The hash of the value that was seen; `None`: there was no such key.
    expected: Option<String>,
}

impl Edit {
    fn parse(body: &[u8]) -> Result<Edit, Refusal> {
        let wanted = "expected JSON with value (base64, or null to delete the key) and expected (the hash of the value \
                      that was shown, or null if there was no such key)";
        let mut fields: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| bad(format!("the body is no edit: {error}; {wanted}")))?;
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(format!("{name} is neither text nor null; {wanted}"))),
            None => Err(bad(format!("{name} is missing; {wanted}"))),
        };
        let (value, expected) = (text("value")?, text("expected")?);
        if let Some(name) = fields.keys().next() {
            return Err(bad(format!("unknown field `{name}`; {wanted}")));
        }
        let decoded = value.map(|text| BASE64.decode(text)).transpose();
        let value = decoded.map_err(|error| bad(format!("value is no base64: {error}")))?.map(Bytes::from);
        if value.as_ref().is_some_and(|value| value.len() > MAX_SHOWN_VALUE) {
            return Err(bad(format!("value: more than {MAX_SHOWN_VALUE} bytes; use the `synodkv` command")));
        }
        Ok(Edit { value, expected })
    }

    /// Writes if the key still has the value that was seen.
    async fn make(
        self,
        key: Bytes,
        family: Option<String>,
        core: &KvServiceCore,
        context: &RequestContext,
    ) -> Result<i64, Refusal> {
        let version = i64::try_from(core.read_version(context).await?.0).unwrap_or(i64::MAX);
        let present = core.snapshot_get(key.clone(), version, family.clone(), context).await?;
        if present.as_deref().map(hash_of) != self.expected {
            return Err(has_changed());
        }
        let conflict = KeyRef { key: key.clone(), column_family: core.family(family.clone())? };
        let kind = if self.value.is_some() { "set" } else { "delete" };
        let operation =
            OperationRequest { kind: kind.into(), key, value: self.value, column_family: family, stamp_offset: None };
        let request = CommitRequest {
            read_version: version,
            operations: vec![operation],
            read_conflicts: vec![conflict],
            ..CommitRequest::default()
        };
        match core.atomic_commit(request, context).await {
            Ok(committed) => Ok(committed.version),
            Err(KvError::Conflict { .. }) => Err(has_changed()),
            Err(error) => Err(error.into()),
        }
    }
}

fn has_changed() -> Refusal {
    Refusal(StatusCode::CONFLICT, "the value has changed since it was shown; nothing was written".into())
}

/// POST `/console/api/key`. The guard has checked that edits are allowed, and which page asks.
pub(in crate::admin) async fn edit(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(mut parameters): Query<Parameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    // No page can send this type to another site without asking that site first.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let reason = format!("content-type = `{kind}`: expected application/json");
        return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let key = take_bytes(&mut parameters, "key")?.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| bad("`key` is missing: at least one byte".into()))?;
    check_length("key", &key, &interface)?;
    let family = parameters.remove("family");
    only(&parameters, "family and key")?;
    let edit = Edit::parse(&body)?;
    let (length, most) = (edit.value.as_ref().map_or(0, Bytes::len), interface.core.limits().max_value_bytes);
    if length > most {
        return Err(bad(format!("value: {length} bytes; limits.max_value_bytes = {most}")));
    }
    let context = RequestContext::of(caller, Instant::now() + TIMEOUT);
    let _turn = turn(&interface, context.deadline).await?;
    let hash = edit.value.as_deref().map(hash_of);
    let version = edit.make(key, family, &interface.core, &context).await?;
    Ok(Json(json!({ "version": version, "hash": hash })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_says_what_was_seen_and_what_is_wanted() {
        let seen = hash_of(b"old");
        let body = json!({ "value": BASE64.encode("new"), "expected": seen }).to_string();
        let edit = Edit::parse(body.as_bytes()).unwrap_or_else(|refusal| panic!("{}", refusal.1));
        assert_eq!(edit, Edit { value: Some(Bytes::from_static(b"new")), expected: Some(seen) });
        let delete =
            Edit::parse(br#"{"value":null,"expected":null}"#).unwrap_or_else(|refusal| panic!("{}", refusal.1));
        assert_eq!(delete, Edit { value: None, expected: None });
        for (body, word) in [
            ("", "no edit"),
            (r#"{"value":"YQ=="}"#, "expected is missing"),
            (r#"{"expected":null}"#, "value is missing"),
            (r#"{"value":7,"expected":null}"#, "neither text nor null"),
            (r#"{"value":"%","expected":null}"#, "base64"),
            (r#"{"value":null,"expected":null,"force":true}"#, "force"),
        ] {
            let Err(Refusal(status, reason)) = Edit::parse(body.as_bytes()) else { panic!("{body} is taken") };
            assert!(status == StatusCode::BAD_REQUEST && reason.contains(word), "{body}: {reason}");
        }
    }
}
