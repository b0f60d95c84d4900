//! The paths that show slow requests and the most used keys.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::{AdminInterface, Refusal};
use crate::request_watch::{By, MAX_KEPT};

const MAX_KEYS: usize = 128;

fn bad(reason: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, reason)
}

fn limit(parameters: &mut HashMap<String, String>, default: usize, most: usize) -> Result<usize, Refusal> {
    let Some(text) = parameters.remove("limit") else { return Ok(default) };
    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| bad(format!("limit = `{text}`: expected 1 to {most}")))
}

fn no_others(parameters: &HashMap<String, String>, allowed: &str) -> Result<(), Refusal> {
    match parameters.keys().next() {
        Some(name) => Err(bad(format!("unknown parameter `{name}`; allowed: {allowed}"))),
        None => Ok(()),
    }
}

pub(super) async fn slow(
    State(interface): State<Arc<AdminInterface>>,
    Query(mut parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let limit = limit(&mut parameters, 100, MAX_KEPT)?;
    no_others(&parameters, "limit")?;
    Ok(Json(interface.core.watch().slow(limit)))
}

pub(super) async fn top(
    State(interface): State<Arc<AdminInterface>>,
    Query(mut parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let limit = limit(&mut parameters, 20, MAX_KEYS)?;
    let by = parameters.remove("by").unwrap_or_else(|| By::Reads.name().to_string());
    let by = By::ALL
        .into_iter()
        .find(|known| known.name() == by)
        .ok_or_else(|| bad(format!("by = `{by}`: expected {}", By::ALL.map(By::name).join(", "))))?;
    let family = parameters.remove("family").map(|name| interface.core.family(Some(name))).transpose()?;
    no_others(&parameters, "by, family and limit")?;
    Ok(Json(interface.core.watch().top(by, family.as_deref(), limit)))
}
