//! What stands before every route: who asks, and may they?

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use kv_api::KvError;

use super::console::origin;
use super::{AdminInterface, Refusal};
use crate::access::{Kind, Route, Session};

/// Admits a request to its route with the caller among its extensions, or refuses it.
pub(super) async fn admit(
    State((interface, route)): State<(Arc<AdminInterface>, Route)>,
    mut request: Request,
    next: Next,
) -> Response {
    let session = request.extensions().get::<Arc<Session>>().expect("the listener gives each request its session");
    let session = session.clone();
    let gate = interface.core.gate();
    if let Err(refusal) = refuse_web_pages(route, &request, &interface) {
        return refusal.into_response();
    }
    let admitted = bearer(request.headers()).and_then(|token| gate.admit(&session, token, route.name(), route.rule()));
    let caller = match admitted {
        Ok(caller) => caller,
        Err(error) => {
            if let Some(audit) = gate.audit() {
                let kind = if route.changes() { Kind::Write } else { Kind::Read };
                audit.denied(kind, &session, route.name(), &error).await;
            }
            return Refusal::from(error).into_response();
        }
    };
    if route == Route::ConsoleEdit
        && let Err(refusal) = refuse_edit(request.headers(), interface.console.edits())
    {
        return refusal.into_response();
    }
    let recording = gate.audit().zip(route.recorded_as()).map(|(audit, kind)| {
        let mut recording = audit.begin_call(kind, &session, route.name());
        recording.of_caller(&caller);
        recording
    });
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some(recording) = recording {
        let status = response.status();
        recording.end(if status.is_success() { "ok" } else { status.as_str() }, None).await;
    }
    response
}

/// Refuses changes that a web page asks for, unless it is the console of this server and may. Only a browser
/// sends an Origin, and opening a page must not let that page change the cluster, or read its rows.
fn refuse_web_pages(route: Route, request: &Request, interface: &AdminInterface) -> Result<(), Refusal> {
    let headers = request.headers();
    let forbidden = |reason: &str| Err(Refusal(StatusCode::FORBIDDEN, reason.into()));
    if !route.changes() {
        return match route.is_of_console() && !origin::is_addressed_safely(headers) {
            true => forbidden(
                "without a token, the console answers at an address such as 127.0.0.1 or at localhost only, not at \
                 another name: a page of somebody else could stand behind that",
            ),
            false => Ok(()),
        };
    }
    if route == Route::ConsoleEdit {
        // Decided once the caller is known: nobody else learns whether edits are allowed.
        return Ok(());
    }
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    if !origin::is_own_page(headers) {
        return forbidden("a web page may not ask for this; use the `synodkv` command or curl");
    }
    match interface.console.writes() || (route == Route::ChangeMembers && is_dry_run(request)) {
        true => Ok(()),
        false => forbidden(
            "a web page may not ask for this, not even the console, unless admin.console_writes = true; use the \
             `synodkv` command or curl",
        ),
    }
}

/// Rows are edited by the console of this server alone, whoever asks, and only if that is allowed.
fn refuse_edit(headers: &HeaderMap, is_allowed: bool) -> Result<(), Refusal> {
    let reason = match (is_allowed, origin::is_own_page(headers)) {
        (true, true) => return Ok(()),
        (false, _) => "keys cannot be edited here unless admin.console_edits = true; use the `synodkv` command",
        (true, false) => "only the console of this server may ask for this; use the `synodkv` command",
    };
    Err(Refusal(StatusCode::FORBIDDEN, reason.into()))
}

/// Whether the request only asks what a change needs. A repeated parameter is no clear wish.
fn is_dry_run(request: &Request) -> bool {
    request.uri().query() == Some("dry_run=1")
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, KvError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let wanted = || KvError::Unauthenticated("the header must read `Authorization: Bearer TOKEN`".into());
    token.filter(|token| !token.is_empty()).map(Some).ok_or_else(wanted)
}
