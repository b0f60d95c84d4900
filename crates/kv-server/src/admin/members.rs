//! The paths that show and change the members of the cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdminInterface, Refusal, refuse_order};
use crate::access::Session;
use crate::membership::{Checks, WantedMembers};
use crate::order::OrderError;

/// How long a change of the members may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest description of a change; 15 members need less than 8 KiB.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;

pub(super) async fn show(State(interface): State<Arc<AdminInterface>>) -> Result<Response, Response> {
    let members = interface.members.members();
    let members = members.map_err(|error| Refusal(StatusCode::CONFLICT, error.to_string()).into_response())?;
    Ok(Json(members).into_response())
}

/// With `dry_run=1` lists what the change needs, and changes nothing.
pub(super) async fn change(
    State(interface): State<Arc<AdminInterface>>,
    Extension(session): Extension<Arc<Session>>,
    Query(mut parameters): Query<HashMap<String, String>>,
    body: Bytes,
) -> Result<Response, Response> {
    let bad = |reason: String| Refusal(StatusCode::BAD_REQUEST, reason).into_response();
    let is_dry_run = match parameters.remove("dry_run").as_deref() {
        None | Some("0" | "false") => false,
        Some("1" | "true" | "") => true,
        Some(other) => return Err(bad(format!("dry_run = `{other}`: expected 1 or 0"))),
    };
    if let Some(name) = parameters.keys().next() {
        return Err(bad(format!("unknown parameter `{name}`; allowed: dry_run")));
    }
    let wanted: WantedMembers = serde_json::from_slice(&body).map_err(|error| {
        bad(format!(
            "the body is not a change of the members: {error}; expected JSON with expected_epoch and members, each with \
             id, role (voter or observer) and, if they change, peer, thrift, admin and disk"
        ))
    })?;
    let path = if is_dry_run { "/members?dry_run=1" } else { "/members" };
    let refuse = |error: OrderError| refuse_order(&error, path, "", session.facts());
    if is_dry_run {
        let checks = interface.members.check(wanted).await.map_err(refuse)?;
        return Ok(Json(Checks::from(checks)).into_response());
    }
    match interface.members.change(wanted, Instant::now() + CHANGE_TIMEOUT).await {
        Ok(members) => Ok(Json(members).into_response()),
        // A caller that was too late sees the members as they are by now.
        Err(error @ OrderError::NotNow(_)) => {
            let present = interface.members.members().ok().map_or(Value::Null, |members| json!(members));
            Err((StatusCode::CONFLICT, Json(json!({ "error": error.to_string(), "present": present }))).into_response())
        }
        Err(error) => Err(refuse(error)),
    }
}
