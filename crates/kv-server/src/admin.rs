//! The admin HTTP interface: health, status, metrics and failover for operators, row hashes for
//! `synodkv verify`.
//!
//! | path | answer |
//! |---|---|
//! | `/health/live` | 200 as long as the process can do its work, else 503 with the reasons; see [`crate::health`] |
//! | `/health/ready` | 200 when a linearizable read succeeds now, else 503; with `writes=1` when a write does as well |
//! | `/status` | JSON: the cluster as this server sees it |
//! | `/metrics` | Prometheus text |
//! | `/threads` | JSON: the threads of this process and their states |
//! | `/slow` | JSON: the newest slow requests |
//! | `/top` | JSON: the keys that are read, written or in conflict most |
//! | `/rows/hash` | JSON: count and hash of rows of one family at one version, from the local database |
//! | `/changes` | server-sent events: the changes of rows; see [`changes`] |
//! | `/column-families` | JSON: the families that requests may name |
//! | POST, DELETE `/column-families/NAME` | creates the family, drops it with all its rows; JSON when that is agreed |
//! | POST `/failover` | lets another replica lead, `to=N` or the one that is furthest along; JSON when it does. A secondary
//! answers with a redirection (307) to the primary |
//! | POST `/upgrade/finalize` | raises the feature level, to `to=N` or the highest that all replicas execute (`force=true` without silent ones); JSON when that
//! is applied. A secondary answers with a redirection (307) to the primary |
//! | `/members` | JSON: the members of the cluster, their addresses, and the epoch that a change names |
//! | POST `/members` | replaces the members by those in the body; with `dry_run=1` lists what that needs. A secondary answers
//! with a redirection (307) to the primary, and a change that is meant for another epoch gets 409 with the present members |
//! | `/auth` and the paths below it | users, roles and tokens; see [`users`] |
//! | `/`, `/console` and the paths below it | the web console, and the JSON that only it needs; see [`console`] |
//!
//! While authentication is enabled, all but `/health` needs `Authorization: Bearer TOKEN`, or a
//! client certificate. The table of [`crate::access`] says who may use which route. Every error is JSON whose field `error` says what is allowed. This interface never writes
//! rows, with one exception: the console may be allowed to edit a key.

mod changes;
mod console;
mod families;
mod guard;
mod members;
mod serving;
mod stranger;
mod threads;
mod upgrade;
mod users;
mod watched;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Json, Router};
use kv_api::access::{AccessCommand, Keys, Need, Verb};
use kv_api::{DEFAULT_COLUMN_FAMILY, KvError, Version};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub(crate) use console::Console;
pub use serving::bind;
pub(crate) use serving::{OPERATOR, serve};

use crate::access::{Caller, ConnectionFacts, HttpMethod, Route, Session};
use crate::budget::Budget;
use crate::cluster::{ClusterSnapshot, LocalDatabase, ReplicaStatus, Role};
use crate::failover::{Failover, FailoverControl};
use crate::health::{Liveness, WriteProbe};
use crate::limited_by::LimitWatch;
use crate::membership::MemberControl;
use crate::metrics::ServerMetrics;
use crate::order::OrderError;
use crate::problems::Problems;
use crate::router::RequestContext;
use crate::service_core::{KvServiceCore, micros_since_1970};
use crate::space::SpaceWatch;
use crate::thrift_server::Pools;
use crate::upgrade::UpgradeControl;

const PATHS: &str = "/health/live, /health/ready, /status, /metrics, /threads, /slow, /top, /rows/hash, /changes, /column-families, \
                     /column-families/NAME (POST, DELETE), /failover (POST), /upgrade/finalize (POST), /members (GET, POST), /auth and /console";
/// How long a readiness probe may take.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long `/rows/hash` waits for the replica to apply the version and for a read slot.
const HASH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a version stays readable after the last request for a page of hashes.
const HASH_HOLD: Duration = Duration::from_secs(60);
/// How long a failover may take; its target may have to catch up first.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// The version of `docs/status.schema.json`, which describes `/status`.
const STATUS_SCHEMA: u32 = 2;
const DEFAULT_HASH_ROWS: u64 = 10_000;
const MAX_HASH_ROWS: u64 = 1_000_000;

/// The parts of the server that the interface shows.
pub struct AdminInterface {
    /// Executes requests.
    pub core: Arc<KvServiceCore>,
    /// For `/metrics`.
    pub metrics: Arc<ServerMetrics>,
    /// For `has_space` and `free_bytes` in `/status`.
    pub space: Arc<SpaceWatch>,
    /// For `/status`.
    pub problems: Arc<Problems>,
    /// For `/health/live`.
    pub liveness: Arc<Liveness>,
    /// For `/health/ready?writes=1`.
    pub writes: WriteProbe,
    /// For `/failover`.
    pub failover: Arc<dyn FailoverControl>,
    /// For `/status` and `/upgrade/finalize`.
    pub upgrade: Arc<dyn UpgradeControl>,
    /// For `/members`.
    pub members: Arc<dyn MemberControl>,
    /// For `/status`.
    pub budget: Budget,
    /// For `/status`: the settings that all servers should have in common.
    pub settings: Map<String, Value>,
    /// The memory budgets of requests and replies, with their present use.
    pub pools: Pools,
    /// For `limited_by` in `/status`.
    pub(crate) limits: Arc<LimitWatch>,
    /// For the web console.
    pub(crate) console: Console,
}

/// Every route comes from the table of [`Route`]s, behind its guard.
fn routes(interface: AdminInterface) -> Router {
    let interface = Arc::new(interface);
    let add = |router: Router<Arc<AdminInterface>>, route: &Route| {
        let guard = from_fn_with_state((interface.clone(), *route), guard::admit);
        router.route(route.place().1, handler_of(*route).route_layer(guard))
    };
    Route::ALL
        .iter()
        .fold(console::pages(), add)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(interface)
}

fn handler_of(route: Route) -> MethodRouter<Arc<AdminInterface>> {
    match route {
        Route::Live => get(live),
        Route::Ready => get(ready),
        Route::Status => get(status),
        Route::Metrics => get(metrics),
        Route::Slow => get(watched::slow),
        Route::Threads => get(threads::show),
        Route::Top => get(watched::top),
        Route::RowsHash => get(rows_hash),
        Route::Changes => get(changes::stream),
        Route::ListFamilies => get(families::list),
        Route::CreateFamily => post(families::create),
        Route::DropFamily => delete(families::remove),
        Route::Failover => post(failover),
        Route::FinalizeUpgrade => post(upgrade::finalize),
        Route::ShowMembers => get(members::show),
        Route::ChangeMembers => post(members::change).layer(DefaultBodyLimit::max(members::MAX_BODY_BYTES)),
        Route::ShowAccess => get(users::show),
        Route::CheckAccess => get(users::check),
        Route::BackUpAccess => get(users::back_up),
        Route::EnableAccess => access_change(route, users::enable),
        Route::DisableAccess => access_change(route, users::disable),
        Route::AddUser => access_change(route, users::add_user),
        Route::RemoveUser => access_change(route, users::remove_user),
        Route::SetUserRoles => access_change(route, users::set_user_roles),
        Route::DisableUser => access_change(route, users::disable_user),
        Route::AddToken => access_change(route, users::add_token),
        Route::RevokeToken => access_change(route, users::revoke_token),
        Route::SetRole => access_change(route, users::set_role),
        Route::RemoveRole => access_change(route, users::remove_role),
        Route::ConsoleSession => get(console::session),
        Route::ConsoleSeries => get(console::series),
        Route::ConsoleConfig => get(console::config),
        Route::ConsoleKeys => get(console::keys::list),
        Route::ConsoleKey => get(console::keys::show),
        Route::ConsoleHistory => get(console::keys::history::show),
        Route::ConsoleEdit => {
            post(console::keys::edit::edit).layer(DefaultBodyLimit::max(console::keys::edit::MAX_BODY_BYTES))
        }
    }
}

/// The handler of a change of users and roles, which `command` makes of its path and its parameters.
fn access_change(
    route: Route,
    command: fn(users::Asked) -> Result<AccessCommand, Refusal>,
) -> MethodRouter<Arc<AdminInterface>> {
    let handler = move |interface, caller, name, query| users::change(interface, caller, name, query, command);
    match route.place().0 {
        HttpMethod::Get => get(handler),
        HttpMethod::Post => post(handler),
        HttpMethod::Delete => delete(handler),
    }
}

/// A refused request: HTTP status and reason.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.0 == StatusCode::UNAUTHORIZED {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"synodkv\"")];
            return (self.0, challenge, Json(json!({ "error": self.1 }))).into_response();
        }
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Self {
        let status = match &error {
            KvError::UnknownColumnFamily { .. } => StatusCode::NOT_FOUND,
            KvError::InvalidOperation(_) => StatusCode::BAD_REQUEST,
            KvError::TransactionTooOld { .. } => StatusCode::GONE,
            KvError::Storage(_) | KvError::Corruption(_) => StatusCode::INTERNAL_SERVER_ERROR,
            KvError::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            KvError::Forbidden(_) => StatusCode::FORBIDDEN,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal(status, error.to_string())
    }
}

async fn unknown_path(uri: Uri) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("no such path `{}`: there are {PATHS}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let allowed: Vec<&str> = Route::ALL
        .iter()
        .map(|route| route.place())
        .filter(|(_, pattern)| fits(pattern, uri.path()))
        .map(|(method, _)| method.name())
        .collect();
    // The files of the console are in no table.
    let allowed = if allowed.is_empty() { "GET".to_string() } else { allowed.join(" and ") };
    Refusal(StatusCode::METHOD_NOT_ALLOWED, format!("`{}` answers {allowed} only, not {method}", uri.path()))
}

/// Whether a path is one of those that the pattern describes.
fn fits(pattern: &str, path: &str) -> bool {
    let fits = |(pattern, part): (&str, &str)| pattern == part || pattern.starts_with('{');
    pattern.split('/').count() == path.split('/').count() && pattern.split('/').zip(path.split('/')).all(fits)
}

async fn live(State(interface): State<Arc<AdminInterface>>) -> Response {
    let failures = interface.liveness.failures();
    let status = if failures.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "live": failures.is_empty(), "failures": failures }))).into_response()
}

async fn ready(
    State(interface): State<Arc<AdminInterface>>,
    Query(mut parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let writes = match parameters.remove("writes").as_deref() {
        None | Some("0" | "false") => false,
        Some("1" | "true" | "") => true,
        Some(other) => {
            return Err(Refusal(StatusCode::BAD_REQUEST, format!("writes = `{other}`: expected 1 or 0")));
        }
    };
    if let Some(name) = parameters.keys().next() {
        return Err(Refusal(StatusCode::BAD_REQUEST, format!("unknown parameter `{name}`; allowed: writes")));
    }
    let unready = |what: &str, error: KvError| {
        Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("cannot serve {what} now: {error}"))
    };
    let context = RequestContext::internal(Instant::now() + READY_TIMEOUT);
    let version = interface.core.read_version(&context).await.map_err(|error| unready("reads", error))?;
    if writes {
        interface.writes.check().await.map_err(|error| unready("writes", error))?;
    }
    Ok(Json(json!({ "ready": true, "version": version.0, "writes": writes })))
}

async fn metrics(State(interface): State<Arc<AdminInterface>>) -> Response {
    let page = interface.metrics.page();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn status(State(interface): State<Arc<AdminInterface>>) -> Json<Value> {
    let cluster = interface.core.cluster_health().await;
    Json(status_json(&cluster, &interface))
}

fn status_json(cluster: &ClusterSnapshot, interface: &AdminInterface) -> Value {
    let level = interface.upgrade.level();
    json!({
        "schema_version": STATUS_SCHEMA,
        "mode": cluster.mode,
        "version": env!("CARGO_PKG_VERSION"),
        "time_ms": micros_since_1970(SystemTime::now()) / 1000,
        "settings": interface.settings,
        "cluster_id": cluster.cluster_id,
        "cluster_status": cluster.cluster_status(),
        "node_id": cluster.node_id,
        "primary": cluster.primary,
        "view": cluster.view,
        "epoch": cluster.epoch,
        "feature_level": level.level,
        "next_feature_level": level.next.as_ref().ok(),
        "feature_level_obstacle": level.next.as_ref().err(),
        "column_families": interface.core.column_families(),
        "access": users::summary(&interface.core.gate().source().policy()),
        "has_space": interface.space.has_space(),
        "free_bytes": interface.space.free_bytes(),
        "problems": interface.problems.list(),
        "limited_by": interface.limits.show(),
        "budget": budget_json(interface),
        "replicas": cluster.replicas.iter().map(|r| replica_json(r, cluster.primary)).collect::<Vec<_>>(),
    })
}

fn budget_json(interface: &AdminInterface) -> Value {
    let mut budget = interface.budget.to_json();
    let Pools { input, large_input, replies, large_replies } = &interface.pools;
    budget["in_use_bytes"] = json!({
        "requests": input.used_bytes() + large_input.used_bytes(),
        "replies": replies.used_bytes() + large_replies.used_bytes(),
    });
    budget
}

fn replica_json(replica: &ReplicaStatus, primary: Option<u32>) -> Value {
    json!({
        "id": replica.id,
        "role": replica.role,
        "observer": replica.role == Role::Observer,
        "status": replica.health(primary).name(),
        "reachable": replica.reachable,
        "view": replica.view,
        "last_sequence": replica.last_sequence,
        "committed": replica.committed,
        "applied": replica.applied,
        // As text, because many JSON readers cannot hold a 64-bit number.
        "digest": replica.digest.map(|digest| format!("{:016x}", digest.value)),
        "digest_sequence": replica.digest.map(|digest| digest.sequence),
        "oldest_readable": replica.oldest_readable,
        "pending_clears": replica.pending_clears,
        "problem": replica.problem.as_ref().map(|problem| &problem.text),
        "problem_kind": replica.problem.as_ref().map(|problem| problem.kind),
        "remedy": replica.problem.as_ref().map(|problem| &problem.remedy),
        "copy": replica.copy,
        "sends_copies": replica.sends_copies,
        "feature_level": replica.levels.map(|levels| levels.feature_level),
        "lowest_level": replica.levels.map(|levels| levels.lowest_level),
        "highest_level": replica.levels.map(|levels| levels.highest_level),
        "uptime_seconds": replica.uptime.map(|uptime| uptime.as_secs()),
        "peer": replica.peer,
        "thrift": replica.thrift,
        "admin": replica.admin,
    })
}

/// The parameters of `/rows/hash`, checked.
struct HashRequest {
    version: Option<u64>,
    family: Option<String>,
    begin: Vec<u8>,
    limit: u64,
    replica: Option<u32>,
}

impl HashRequest {
    fn parse(mut parameters: HashMap<String, String>) -> Result<Self, Refusal> {
        let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
        let mut number = |name: &str, wanted: &str| match parameters.remove(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(bad(format!("{name} = `{text}`: expected {wanted}"))),
            },
        };
        let version = number("version", "a version, 1 or more")?;
        let limit = number("limit", &format!("0 to {MAX_HASH_ROWS}"))?.unwrap_or(DEFAULT_HASH_ROWS);
        let replica = number("replica", "the id of a replica in this process")?;
        let replica = replica.map(|id| u32::try_from(id).unwrap_or(u32::MAX));
        // A limit of 0 is valid: `next` is then the first key at or after `begin`.
        if limit > MAX_HASH_ROWS {
            return Err(bad(format!("limit = `{limit}`: expected 0 to {MAX_HASH_ROWS}")));
        }
        let begin = match parameters.remove("begin") {
            None => Vec::new(),
            Some(hex) => from_hex(&hex)
                .ok_or_else(|| bad(format!("begin = `{hex}`: expected a key as pairs of hexadecimal digits")))?,
        };
        let family = parameters.remove("family");
        if let Some(name) = parameters.keys().next() {
            return Err(bad(format!("unknown parameter `{name}`; allowed: version, family, begin, limit and replica")));
        }
        Ok(HashRequest { version, family, begin, limit, replica })
    }

    fn pick(&self, replicas: Vec<LocalDatabase>) -> Result<LocalDatabase, Refusal> {
        let ids: Vec<String> = replicas.iter().map(|replica| replica.id.to_string()).collect();
        let wanted = |replica: &LocalDatabase| self.replica.is_none_or(|id| id == replica.id);
        replicas.into_iter().find(wanted).ok_or_else(|| {
            let id = self.replica.map_or("any".to_string(), |id| id.to_string());
            let message = format!("replica {id} has no database in this process: there are {}", ids.join(", "));
            Refusal(StatusCode::NOT_FOUND, message)
        })
    }
}

async fn rows_hash(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refusal> {
    let request = HashRequest::parse(parameters)?;
    let replica = request.pick(interface.core.replicas().replicas())?;
    let HashRequest { version, family, begin, limit, .. } = request;
    let family = interface.core.family(family)?;
    // The answer also tells where the next row begins.
    caller.check(&Need::of(Verb::Read, &family, Keys::From(&begin)))?;
    let reader = replica.reader;
    let deadline = Instant::now() + HASH_TIMEOUT;
    let version = version.map_or_else(|| reader.database().applied_version(), Version);
    reader.wait_applied(version, deadline).await?;
    let (database, name) = (reader.database(), family.clone());
    interface.core.check_family(&name, &database)?;
    // The next request will ask for the same version, which may have left the readable window by
    // then.
    database.hold(version, HASH_HOLD)?;
    let hash = move |waits: &dyn Fn() -> bool| database.hash_rows_while(&name, &begin, version, limit, waits);
    let hashed = reader.slots().run(deadline, hash).await?;
    Ok(Json(json!({
        "replica": replica.id,
        "family": if family.is_empty() { DEFAULT_COLUMN_FAMILY } else { &family },
        "version": version.0,
        "count": hashed.count,
        "hash": format!("{:016x}", hashed.hash),
        "next": hashed.next.map(|key| to_hex(&key)),
    })))
}

async fn failover(
    State(interface): State<Arc<AdminInterface>>,
    Extension(session): Extension<Arc<Session>>,
    Query(mut parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Response> {
    let bad = |reason: String| Refusal(StatusCode::BAD_REQUEST, reason).into_response();
    let to = match parameters.remove("to") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| bad(format!("to = `{text}`: expected the id of a replica")))?),
    };
    if let Some(name) = parameters.keys().next() {
        return Err(bad(format!("unknown parameter `{name}`; allowed: to")));
    }
    let done = interface.failover.fail_over(to, Instant::now() + FAILOVER_TIMEOUT).await;
    let Failover { old_primary, new_primary, view, took } = done.map_err(|error| {
        let query = to.map(|id| format!("?to={id}")).unwrap_or_default();
        refuse_order(&error, "/failover", &query, session.facts())
    })?;
    Ok(Json(json!({
        "old_primary": old_primary,
        "new_primary": new_primary,
        "view": view,
        "pause_at_most_ms": took.as_secs_f64() * 1e3,
    })))
}

/// The answer to an order that was not carried out. `to` is its parameter.
fn refuse_order(error: &OrderError, path: &str, query: &str, facts: &ConnectionFacts) -> Response {
    let status = match error {
        OrderError::AskPrimary { primary, admin } => {
            let scheme = if facts.encrypted { "https" } else { "http" };
            let location = format!("{scheme}://{admin}{path}{query}");
            let body = Json(json!({ "error": error.to_string(), "primary": primary }));
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)], body).into_response();
        }
        OrderError::Impossible(_) => StatusCode::BAD_REQUEST,
        OrderError::NotNow(_) => StatusCode::CONFLICT,
        OrderError::NoPrimary { .. } => StatusCode::SERVICE_UNAVAILABLE,
        OrderError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
    };
    Refusal(status, error.to_string()).into_response()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
