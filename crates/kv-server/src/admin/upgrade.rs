//! The path that ends an upgrade.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdminInterface, Refusal};
use crate::access::{ConnectionFacts, Session};
use crate::upgrade::FinalizeError;

/// How long a raise of the feature level may take.
const FINALIZE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn finalize(
    State(interface): State<Arc<AdminInterface>>,
    Extension(session): Extension<Arc<Session>>,
    Query(mut parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Response> {
    let bad = |reason: String| Refusal(StatusCode::BAD_REQUEST, reason).into_response();
    let to = match parameters.remove("to") {
        None => None,
        Some(text) => {
            let level = text.parse().ok().filter(|level| *level > 0);
            Some(level.ok_or_else(|| bad(format!("to = `{text}`: expected a feature level, 1 or more")))?)
        }
    };
    if let Some(name) = parameters.keys().next() {
        return Err(bad(format!("unknown parameter `{name}`; allowed: to")));
    }
    let before = interface.upgrade.level().level;
    let done = interface.upgrade.finalize(to, Instant::now() + FINALIZE_TIMEOUT).await;
    let level = done.map_err(|error| refuse(&error, to, session.facts()))?;
    Ok(Json(json!({ "feature_level": level, "before": before })))
}

fn refuse(error: &FinalizeError, to: Option<u32>, facts: &ConnectionFacts) -> Response {
    let status = match error {
        FinalizeError::AskPrimary { primary, admin } => {
            let query = to.map(|level| format!("?to={level}")).unwrap_or_default();
            let scheme = if facts.encrypted { "https" } else { "http" };
            let location = format!("{scheme}://{admin}/upgrade/finalize{query}");
            let body = Json(json!({ "error": error.to_string(), "primary": primary }));
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)], body).into_response();
        }
        FinalizeError::Impossible(_) => StatusCode::BAD_REQUEST,
        FinalizeError::NotNow(_) => StatusCode::CONFLICT,
        FinalizeError::NoPrimary => StatusCode::SERVICE_UNAVAILABLE,
        FinalizeError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
    };
    Refusal(status, error.to_string()).into_response()
}
