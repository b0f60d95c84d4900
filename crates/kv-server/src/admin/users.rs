//! Users, roles and tokens over HTTP. Parameters stand in the query; no request has a body.
//!
//! | path | parameters |
//! |---|---|
//! | GET `/auth` | |
//! | GET `/auth/backup` | |
//! | GET `/auth/check` | `user`, `verb`, `family`, `key` (absent: all keys) |
//! | POST `/auth/enable` | `id` and `sha256` of the first token of `root`, or neither |
//! | POST `/auth/disable` | |
//! | POST, DELETE `/auth/users/NAME` | POST: `role`, any number |
//! | POST `/auth/users/NAME/roles` | `role`, any number: all that the user then has |
//! | POST `/auth/users/NAME/disabled` | `value`: 1 or 0 |
//! | POST, DELETE `/auth/tokens/ID` | POST: `user`, `sha256`, `expires_us` (absent: never) |
//! | POST, DELETE `/auth/roles/NAME` | POST: `grant`, any number: all that the role then allows |
//!
//! A token itself is never sent here: whoever makes one sends its SHA-256.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use bytes::Bytes;
use kv_api::access::{
    AccessCommand, AddUser, BUILT_IN_ROLES, DisableUser, Keys, Need, Policy, SetRole, SetUserRoles, TokenRecord, Verb,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdminInterface, Refusal, from_hex};
use crate::access::Caller;
use crate::router::RequestContext;

/// How long a change, or a look at the policy, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

type Parameters = Query<Vec<(String, String)>>;
type Answer = Result<Json<Value>, Refusal>;

fn context(caller: Caller) -> RequestContext {
    RequestContext::of(caller, Instant::now() + TIMEOUT)
}

fn bad(reason: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, reason)
}

/// Takes the parameters of these names, each with all its values.
fn take<const N: usize>(parameters: Vec<(String, String)>, names: [&str; N]) -> Result<[Vec<String>; N], Refusal> {
    let mut values = [const { Vec::new() }; N];
    for (name, value) in parameters {
        match names.iter().position(|known| *known == name) {
            Some(at) => values[at].push(value),
            None if N == 0 => return Err(bad(format!("unknown parameter `{name}`; none is allowed"))),
            None => return Err(bad(format!("unknown parameter `{name}`; allowed: {}", names.join(", ")))),
        }
    }
    Ok(values)
}

/// The value of a parameter that may be given once.
fn once(name: &str, mut values: Vec<String>) -> Result<Option<String>, Refusal> {
    match values.len() {
        0 | 1 => Ok(values.pop()),
        many => Err(bad(format!("`{name}` is given {many} times; once is allowed"))),
    }
}

fn needed(name: &str, values: Vec<String>) -> Result<String, Refusal> {
    once(name, values)?.ok_or_else(|| bad(format!("`{name}` is missing")))
}

fn token_id(text: &str) -> Result<u64, Refusal> {
    let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0 && text.len() <= 16);
    id.ok_or_else(|| bad(format!("`{text}` is no id of a token: 16 hexadecimal digits are expected")))
}

fn sha256(text: &str) -> Result<Bytes, Refusal> {
    let bytes = from_hex(text).filter(|bytes| bytes.len() == 32);
    bytes.map(Bytes::from).ok_or_else(|| bad("`sha256` needs 64 hexadecimal digits".into()))
}

pub(super) async fn show(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(parameters): Parameters,
) -> Answer {
    let [] = take(parameters, [])?;
    let policy = interface.core.policy(&context(caller)).await?;
    Ok(Json(policy_json(&policy)))
}

/// What everybody with `admin:status` may know of the policy: no names.
pub(super) fn summary(policy: &Policy) -> Value {
    json!({
        "enabled": policy.enabled,
        "revision": policy.revision,
        "users": policy.users.len(),
        "roles": policy.roles.len() + BUILT_IN_ROLES.len(),
        "tokens": policy.tokens.len(),
        "details": "/auth",
    })
}

fn policy_json(policy: &Policy) -> Value {
    let users =
        policy.users.iter().map(|(name, user)| json!({ "name": name, "roles": user.roles, "disabled": user.disabled }));
    let own = policy.roles.keys().map(String::as_str);
    let roles = BUILT_IN_ROLES.into_iter().chain(own).map(|name| {
        let grants: Vec<String> = policy.grants_of(name).unwrap_or_default().iter().map(ToString::to_string).collect();
        json!({ "name": name, "grants": grants, "built_in": BUILT_IN_ROLES.contains(&name) })
    });
    let tokens = policy.tokens.values().map(|token| {
        json!({
            "id": format!("{:016x}", token.id),
            "user": token.user,
            "created_us": token.created_us,
            "expires_us": Some(token.expires_us).filter(|time| *time != 0),
        })
    });
    json!({
        "enabled": policy.enabled,
        "revision": policy.revision,
        "users": users.collect::<Vec<_>>(),
        "roles": roles.collect::<Vec<_>>(),
        "tokens": tokens.collect::<Vec<_>>(),
    })
}

/// Everything, for a backup: encoded as replicas store it, in hexadecimal. Of tokens, it has their SHA-256.
pub(super) async fn back_up(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(parameters): Parameters,
) -> Answer {
    let [] = take(parameters, [])?;
    let policy = interface.core.policy(&context(caller)).await?;
    let hex: String = policy.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Json(json!({ "revision": policy.revision, "policy": hex })))
}

pub(super) async fn check(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(parameters): Parameters,
) -> Answer {
    let [user, verb, family, key] = take(parameters, ["user", "verb", "family", "key"])?;
    let (user, verb) = (needed("user", user)?, needed("verb", verb)?);
    let verb: Verb = verb.parse().map_err(bad)?;
    let family = once("family", family)?.map(|family| interface.core.family(Some(family))).transpose()?;
    let hex =
        |key: String| from_hex(&key).ok_or_else(|| bad(format!("key = `{key}`: expected pairs of hexadecimal digits")));
    let key = once("key", key)?.map(hex).transpose()?;
    let policy = interface.core.policy(&context(caller)).await?;
    let keys = key.as_ref().map_or(Keys::All, |key| Keys::One(key));
    let explanation = policy.explain(&user, &Need { verb, family: family.as_deref(), keys });
    Ok(Json(json!({ "allowed": explanation.allowed, "reasons": explanation.reasons })))
}

/// A change as it is asked for: the name or id in its path, and its parameters.
pub(super) struct Asked {
    name: String,
    parameters: Vec<(String, String)>,
}

/// Makes the change of a route, and answers with the version at which it holds.
pub(super) async fn change(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    name: Option<Path<String>>,
    Query(parameters): Parameters,
    command: fn(Asked) -> Result<AccessCommand, Refusal>,
) -> Answer {
    let name = name.map_or_else(String::new, |Path(name)| name);
    let command = command(Asked { name, parameters })?;
    let result = interface.core.change_access(command, &context(caller)).await?;
    Ok(Json(json!({ "version": result.version })))
}

pub(super) fn enable(asked: Asked) -> Result<AccessCommand, Refusal> {
    let [id, digest] = take(asked.parameters, ["id", "sha256"])?;
    let token = match (once("id", id)?, once("sha256", digest)?) {
        (None, None) => TokenRecord::default(),
        (Some(id), Some(digest)) => {
            TokenRecord { id: token_id(&id)?, sha256: sha256(&digest)?, ..TokenRecord::default() }
        }
        (_, _) => return Err(bad("`id` and `sha256` belong together".into())),
    };
    Ok(AccessCommand::Enable(token))
}

pub(super) fn disable(asked: Asked) -> Result<AccessCommand, Refusal> {
    let [] = take(asked.parameters, [])?;
    Ok(AccessCommand::Disable(true))
}

pub(super) fn add_user(Asked { name, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [roles] = take(parameters, ["role"])?;
    Ok(AccessCommand::AddUser(AddUser { name, roles }))
}

pub(super) fn remove_user(Asked { name, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [] = take(parameters, [])?;
    Ok(AccessCommand::RemoveUser(name))
}

pub(super) fn set_user_roles(Asked { name, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [roles] = take(parameters, ["role"])?;
    Ok(AccessCommand::SetUserRoles(SetUserRoles { name, roles }))
}

pub(super) fn disable_user(Asked { name, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [value] = take(parameters, ["value"])?;
    let disabled = match needed("value", value)?.as_str() {
        "1" | "true" => true,
        "0" | "false" => false,
        other => return Err(bad(format!("value = `{other}`: expected 1 or 0"))),
    };
    Ok(AccessCommand::DisableUser(DisableUser { name, disabled }))
}

pub(super) fn add_token(Asked { name: id, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [user, digest, expires] = take(parameters, ["user", "sha256", "expires_us"])?;
    let expires_us = match once("expires_us", expires)? {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| bad(format!("expires_us = `{text}`: expected microseconds since 1970")))?
        }
    };
    let (id, sha256) = (token_id(&id)?, sha256(&needed("sha256", digest)?)?);
    Ok(AccessCommand::AddToken(TokenRecord { id, sha256, user: needed("user", user)?, expires_us, created_us: 0 }))
}

pub(super) fn revoke_token(Asked { name: id, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [] = take(parameters, [])?;
    Ok(AccessCommand::RevokeToken(token_id(&id)?))
}

pub(super) fn set_role(Asked { name, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [grants] = take(parameters, ["grant"])?;
    let grants = grants.iter().map(|grant| grant.parse()).collect::<Result<_, _>>().map_err(bad)?;
    Ok(AccessCommand::SetRole(SetRole { name, grants }))
}

pub(super) fn remove_role(Asked { name, parameters }: Asked) -> Result<AccessCommand, Refusal> {
    let [] = take(parameters, [])?;
    Ok(AccessCommand::RemoveRole(name))
}
