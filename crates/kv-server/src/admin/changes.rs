//! Changes as server-sent events: GET `/changes`.
//!
//! A stream is a loop of polls, so it continues at any server with `Last-Event-ID`, and a slow
//! reader costs nothing but its place among the connections. The rights of the caller are looked at
//! again for each poll.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::stream;
use kv_api::{Change, ChangeRange, Changes, ChangesQuery, ClearCause, DEFAULT_COLUMN_FAMILY, Effect, KvError, Version};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdminInterface, Refusal, from_hex, to_hex};
use crate::access::Caller;
use crate::router::RequestContext;

/// How long one poll waits, and so how often a stream says how far it is while nothing changes.
const STEP: Duration = Duration::from_secs(1);
/// A stream that has nothing to say says so this often, so that a reader that is gone is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long the first read may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one read.
const READ_BYTES: u64 = 256 << 10;

const ALLOWED: &str = "family, prefix, prefix_hex, after, values and cluster";

/// A running stream.
struct Stream {
    interface: Arc<AdminInterface>,
    caller: Caller,
    query: ChangesQuery,
    /// The result of the first read.
    first: Option<Changes>,
    said_at: Instant,
    has_ended: bool,
}

pub(super) async fn stream(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    match begin(interface, caller, &headers, parameters).await {
        Ok(stream) => {
            let events = stream::unfold(stream, |mut stream| async move {
                let text = stream.next().await?;
                Some((Ok::<Bytes, Infallible>(text.into()), stream))
            });
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-store"),
                // Proxies must pass on each event at once.
                (header::HeaderName::from_static("x-accel-buffering"), "no"),
            ];
            (headers, Body::from_stream(events)).into_response()
        }
        Err(error) => refusal(error),
    }
}

/// A version that is too old is answered with the one to continue from.
fn refusal(error: StreamError) -> Response {
    match error {
        StreamError::Refused(refusal) => refusal.into_response(),
        StreamError::Failed(KvError::TransactionTooOld { oldest, .. }) => {
            let text = format!("changes are kept only after version {oldest}: read the rows, and go on from there");
            (StatusCode::GONE, Json(json!({ "error": text, "oldest_version": oldest }))).into_response()
        }
        StreamError::Failed(error @ KvError::ClusterChanged { .. }) => {
            Refusal(StatusCode::CONFLICT, error.to_string()).into_response()
        }
        StreamError::Failed(error) => Refusal::from(error).into_response(),
    }
}

enum StreamError {
    Refused(Refusal),
    Failed(KvError),
}

impl From<KvError> for StreamError {
    fn from(error: KvError) -> Self {
        StreamError::Failed(error)
    }
}

fn bad(message: String) -> StreamError {
    StreamError::Refused(Refusal(StatusCode::BAD_REQUEST, message))
}

async fn begin(
    interface: Arc<AdminInterface>,
    caller: Caller,
    headers: &HeaderMap,
    mut parameters: HashMap<String, String>,
) -> Result<Stream, StreamError> {
    let after = match headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default().to_owned()) {
        Some(id) => {
            parameters.remove("after");
            Some(("Last-Event-ID", id))
        }
        None => parameters.remove("after").map(|text| ("after", text)),
    };
    let after = after.map(|(name, text)| match text.parse::<u64>() {
        Ok(version) if version >= Version::EMPTY.0 => Ok(Version(version)),
        _ => Err(bad(format!("{name} = `{text}`: expected a version, 1 or more"))),
    });
    let with_values = match parameters.remove("values").as_deref() {
        None | Some("1" | "true" | "") => true,
        Some("0" | "false") => false,
        Some(other) => return Err(bad(format!("values = `{other}`: expected 1 or 0"))),
    };
    interface.core.check_cluster(parameters.remove("cluster").as_deref())?;
    let ranges = ranges(&interface, &mut parameters)?;
    if let Some(name) = parameters.keys().next() {
        return Err(bad(format!("unknown parameter `{name}`; allowed: {ALLOWED}")));
    }
    let context = RequestContext::of(caller.clone(), Instant::now() + TIMEOUT);
    let after = match after.transpose()? {
        Some(after) => after,
        None => interface.core.read_version(&context).await?,
    };
    let max_wait = Duration::ZERO;
    let query = ChangesQuery { after, ranges, max_wait, max_bytes: READ_BYTES, max_versions: usize::MAX, with_values };
    let first = interface.core.read_changes(query.clone(), &context).await?;
    let query = ChangesQuery { max_wait: STEP, ..query };
    Ok(Stream { interface, caller, query, first: Some(first), said_at: Instant::now(), has_ended: false })
}

fn ranges(
    interface: &AdminInterface,
    parameters: &mut HashMap<String, String>,
) -> Result<Vec<ChangeRange>, StreamError> {
    let family = parameters.remove("family");
    let prefix = match (parameters.remove("prefix"), parameters.remove("prefix_hex")) {
        (Some(_), Some(_)) => return Err(bad("prefix and prefix_hex: give one of them".into())),
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(hex)) => Some(
            from_hex(&hex).ok_or_else(|| bad(format!("prefix_hex = `{hex}`: expected pairs of hexadecimal digits")))?,
        ),
        (None, None) => None,
    };
    if family.is_none() && prefix.is_none() {
        return Ok(Vec::new());
    }
    let column_family = interface.core.family(family)?;
    let begin = prefix.unwrap_or_default();
    let limit = interface.core.limits().max_key_bytes;
    if begin.len() > limit {
        return Err(KvError::KeyTooLarge { length: begin.len(), limit }.into());
    }
    let end = after_prefix(&begin).map(Into::into);
    Ok(vec![ChangeRange { column_family, begin: begin.into(), end }])
}

/// The first key after all that begin with the prefix; `None` if every later key does.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

impl Stream {
    /// The next events; `None` after the end.
    async fn next(&mut self) -> Option<String> {
        if self.has_ended {
            return None;
        }
        let changes = match self.first.take() {
            Some(first) => Ok(first),
            None => self.poll().await,
        };
        let text = match changes {
            Ok(changes) => self.events(&changes),
            Err(error) => {
                self.has_ended = true;
                let data = json!({ "error": error.to_string(), "error_code": error.code() });
                format!("event: end\ndata: {data}\n\n")
            }
        };
        Some(text)
    }

    async fn poll(&mut self) -> Result<Changes, KvError> {
        if self.caller.have_rights_expired() {
            return Err(KvError::Unauthenticated("the token has expired".into()));
        }
        let context = RequestContext::of(self.caller.clone(), Instant::now() + TIMEOUT);
        self.interface.core.read_changes(self.query.clone(), &context).await
    }

    fn events(&mut self, changes: &Changes) -> String {
        let mut text = String::new();
        for change in &changes.changes {
            let data = change_json(change, self.query.with_values);
            text.push_str(&format!("id: {}\nevent: change\ndata: {data}\n\n", change.version));
        }
        let last = changes.changes.last().map_or(self.query.after, |change| change.version);
        if changes.through > last {
            let data = json!({ "through": changes.through.0 });
            text.push_str(&format!("id: {}\nevent: progress\ndata: {data}\n\n", changes.through));
        }
        self.query.after = changes.through;
        if text.is_empty() && self.said_at.elapsed() >= SIGN_OF_LIFE {
            text.push_str(": nothing new\n\n");
        }
        if !text.is_empty() {
            self.said_at = Instant::now();
        }
        text
    }
}

fn change_json(change: &Change, with_values: bool) -> Value {
    let effects = change.effects.iter().map(|effect| {
        let family = match effect.column_family.as_str() {
            "" => DEFAULT_COLUMN_FAMILY,
            name => name,
        };
        match &effect.effect {
            Effect::Set { key, value } if with_values => {
                json!({ "type": "set", "family": family, "key": bytes_json(key), "value": bytes_json(value) })
            }
            Effect::Set { key, .. } => json!({ "type": "set", "family": family, "key": bytes_json(key) }),
            Effect::Delete { key } => json!({ "type": "delete", "family": family, "key": bytes_json(key) }),
            Effect::Clear { begin, end, cause } => json!({
                "type": "clear",
                "family": family,
                "begin": bytes_json(begin),
                "end": end.as_ref().map(|end| bytes_json(end)),
                "cause": match cause {
                    ClearCause::Transaction => "transaction",
                    ClearCause::FamilyDropped => "family_dropped",
                },
            }),
        }
    });
    json!({
        "version": change.version.0,
        "log_time_ms": change.time_us / 1000,
        "changes": effects.collect::<Vec<_>>(),
    })
}

/// Text as it is; other bytes as `{"hex": "…"}`, which no text looks like.
fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": to_hex(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }

    #[test]
    fn bytes_that_are_no_text_cannot_be_taken_for_text() {
        assert_eq!(bytes_json(b"k\n\"").to_string(), r#""k\n\"""#);
        assert_eq!(bytes_json(b"\xff\x00").to_string(), r#"{"hex":"ff00"}"#);
    }
}
