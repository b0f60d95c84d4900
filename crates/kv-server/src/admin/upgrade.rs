//! The path that ends an upgrade.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdminInterface, Refusal, refuse_order};
use crate::access::Session;

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
    let force = match parameters.remove("force").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(bad(format!("force = `{other}`: expected true or false"))),
    };
    if let Some(name) = parameters.keys().next() {
        return Err(bad(format!("unknown parameter `{name}`; allowed: to, force")));
    }
    let before = interface.upgrade.level().level;
    let done = interface.upgrade.finalize(to, force, Instant::now() + FINALIZE_TIMEOUT).await;
    let level = done.map_err(|error| {
        let to = to.map(|level| format!("&to={level}")).unwrap_or_default();
        refuse_order(&error, "/upgrade/finalize", &format!("?force={force}{to}"), session.facts())
    })?;
    Ok(Json(json!({ "feature_level": level, "before": before })))
}
