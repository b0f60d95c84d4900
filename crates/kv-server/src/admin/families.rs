//! Column families over HTTP: GET `/column-families`, POST and DELETE `/column-families/NAME`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use kv_api::KvError;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdminInterface, Refusal};
use crate::access::Caller;
use crate::router::RequestContext;

/// How long a change of families, or a list of them, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

fn context(caller: Caller) -> RequestContext {
    RequestContext::of(caller, Instant::now() + TIMEOUT)
}

pub(super) async fn list(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, Refusal> {
    let families = interface.core.families(&context(caller)).await?;
    let families = families
        .iter()
        .map(|family| json!({ "name": family.name, "exists": family.exists, "configured": family.is_configured }));
    Ok(Json(json!({ "column_families": families.collect::<Vec<_>>() })))
}

pub(super) async fn create(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let result = interface.core.create_family(&name, &context(caller)).await.map_err(unsure)?;
    tracing::info!(name, version = result.version, "column family created, as requested");
    Ok(Json(json!({ "column_family": name, "exists": true, "version": result.version })))
}

pub(super) async fn remove(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let result = interface.core.drop_family(&name, &context(caller)).await.map_err(unsure)?;
    tracing::info!(name, version = result.version, "column family dropped, as requested");
    Ok(Json(json!({ "column_family": name, "exists": false, "version": result.version })))
}

/// The outcome is unknown. Both requests may be repeated, whatever the first one did.
fn unsure(error: KvError) -> Refusal {
    let (may_have_happened, mut refusal) = (error.maybe_committed(), Refusal::from(error));
    if may_have_happened {
        refusal.1 += "; it may have happened: list the column families to check";
    }
    refusal
}
