//! Keys and values for the screen "Keys". Keys are hexadecimal, values base64.
//!
//! Keys are shown as a tree: below a prefix, all keys with the same text up to the next delimiter
//! are one folder. A folder costs one read, however many rows it has: the next read begins after
//! it. All reads of one answer see the same version, and each of them passes the service core
//! under the identity of the caller, so that the permissions on ranges of keys hold.

pub(in crate::admin) mod edit;
pub(in crate::admin) mod history;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use kv_api::access::{Keys, Need, Verb};
use kv_api::{DEFAULT_COLUMN_FAMILY, KvError, Row, Rows};
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::super::{AdminInterface, Refusal, from_hex, to_hex};
use crate::access::Caller;
use crate::router::RequestContext;
use crate::service_core::{KvServiceCore, RangeRequest};

const TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;
/// Maximum number of reads for one answer. The rest comes with the next one.
const MAX_READS: usize = 64;
/// A read ends once it holds this many bytes.
const READ_BYTES: i32 = 256 << 10;
/// Rows that a read holds at most.
const READ_ROWS: i32 = 200;
/// Bytes of a value that a list shows.
const PREVIEW_BYTES: usize = 48;
/// Longest value that is shown. A longer one is cut off.
const MAX_SHOWN_VALUE: usize = 1 << 20;

type Parameters = HashMap<String, String>;

fn bad(reason: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, reason)
}

fn take_bytes(parameters: &mut Parameters, name: &str) -> Result<Option<Bytes>, Refusal> {
    let Some(hex) = parameters.remove(name) else { return Ok(None) };
    let wanted = || bad(format!("{name} = `{hex}`: expected bytes as pairs of hexadecimal digits"));
    from_hex(&hex).map(|bytes| Some(Bytes::from(bytes))).ok_or_else(wanted)
}

fn check_length(name: &str, bytes: &[u8], interface: &AdminInterface) -> Result<(), Refusal> {
    let most = interface.core.limits().max_key_bytes;
    match bytes.len() {
        length if length > most => Err(bad(format!("{name}: {length} bytes; a key has at most {most}"))),
        _ => Ok(()),
    }
}

/// Which state of the rows is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The newest state.
    Now,
    /// The state at a version.
    Version(i64),
    /// The state that this server has; needs no majority.
    Stale,
}

impl At {
    fn take(parameters: &mut Parameters) -> Result<At, Refusal> {
        match parameters.remove("version").as_deref() {
            None | Some("") => Ok(At::Now),
            Some("stale") => Ok(At::Stale),
            Some(text) => match text.parse::<i64>() {
                Ok(version) if version >= 1 => Ok(At::Version(version)),
                _ => Err(bad(format!("version = `{text}`: expected a version, 1 or more, or `stale`"))),
            },
        }
    }

    /// Settles on a version, so that all reads of one answer see the same; `None`: stale.
    async fn settle(self, core: &KvServiceCore, context: &RequestContext) -> Result<Option<i64>, KvError> {
        match self {
            At::Now => {
                let version = core.read_version(context).await?;
                Ok(Some(i64::try_from(version.0).unwrap_or(i64::MAX)))
            }
            At::Version(version) => Ok(Some(version)),
            At::Stale => Ok(None),
        }
    }
}

fn only(parameters: &Parameters, allowed: &str) -> Result<(), Refusal> {
    match parameters.keys().next() {
        Some(name) => Err(bad(format!("unknown parameter `{name}`; allowed: {allowed}"))),
        None => Ok(()),
    }
}

/// Waits for a turn; too many people browsing must not use up the memory of the server.
async fn turn(interface: &AdminInterface, deadline: Instant) -> Result<SemaphorePermit<'_>, Refusal> {
    let busy = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "others are browsing keys here; try again".into());
    let turn = tokio::time::timeout_at(deadline, interface.console.key_requests.acquire()).await;
    turn.ok().and_then(Result::ok).ok_or_else(busy)
}

/// A request for the keys below a prefix, checked.
#[derive(Debug, PartialEq)]
struct List {
    family: Option<String>,
    prefix: Bytes,
    after: Option<Bytes>,
    /// `None`: no folders.
    delimiter: Option<u8>,
    limit: usize,
    at: At,
}

impl List {
    fn parse(mut parameters: Parameters) -> Result<List, Refusal> {
        let prefix = take_bytes(&mut parameters, "prefix")?.unwrap_or_default();
        let after = take_bytes(&mut parameters, "after")?;
        if after.as_ref().is_some_and(|after| !after.starts_with(&prefix)) {
            return Err(bad("after: expected an entry of an earlier answer for the same prefix".into()));
        }
        let delimiter = match parameters.remove("delimiter").as_deref() {
            None => Some(b'/'),
            Some("") => None,
            Some(text) if text.len() == 1 => text.bytes().next(),
            Some(text) => return Err(bad(format!("delimiter = `{text}`: expected one ASCII character, or none"))),
        };
        let limit = match parameters.remove("limit") {
            None => DEFAULT_LIMIT,
            Some(text) => match text.parse::<usize>() {
                Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => limit,
                _ => return Err(bad(format!("limit = `{text}`: expected 1 to {MAX_LIMIT}"))),
            },
        };
        let (family, at) = (parameters.remove("family"), At::take(&mut parameters)?);
        only(&parameters, "family, prefix, after, limit, delimiter and version")?;
        Ok(List { family, prefix, after, delimiter, limit, at })
    }

    /// The folder that holds this key; `None` for a key of the list itself.
    fn folder_of(&self, key: &Bytes) -> Option<Bytes> {
        let delimiter = self.delimiter?;
        let rest = &key[self.prefix.len()..];
        let end = rest.iter().position(|byte| *byte == delimiter)?;
        Some(key.slice(..self.prefix.len() + end + 1))
    }

    /// A denial in terms of the prefix, and not of the range that was read for it.
    fn denial(&self, error: KvError, context: &RequestContext) -> KvError {
        let family = self.family.as_deref().filter(|family| *family != DEFAULT_COLUMN_FAMILY).unwrap_or_default();
        let need = Need::of(Verb::Read, family, Keys::Prefix(&self.prefix));
        match error {
            KvError::Forbidden(_) => context.caller.check(&need).err().unwrap_or(error),
            error => error,
        }
    }

    /// Where the first read begins.
    fn begin(&self) -> Option<Bytes> {
        match &self.after {
            None => Some(self.prefix.clone()),
            Some(after) => self.behind(after),
        }
    }

    /// The first key behind an entry; `None` if none can follow.
    fn behind(&self, entry: &Bytes) -> Option<Bytes> {
        match self.folder_of(entry) {
            Some(folder) => successor(&folder),
            None => Some([entry, &[0][..]].concat().into()),
        }
    }
}

/// The first key that is behind every key with this prefix; `None` if there is none.
fn successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next.into())
}

/// An entry of a list.
#[derive(Debug, PartialEq)]
enum Entry {
    Folder(Bytes),
    Key { key: Bytes, length: usize, preview: Bytes },
}

impl Entry {
    /// Copies what is shown, so that the reply with the whole values can go.
    fn of_row(list: &List, row: &Row) -> Entry {
        match list.folder_of(&row.key) {
            Some(folder) => Entry::Folder(Bytes::copy_from_slice(&folder)),
            None => Entry::Key {
                key: Bytes::copy_from_slice(&row.key),
                length: row.value.len(),
                preview: Bytes::copy_from_slice(&row.value[..row.value.len().min(PREVIEW_BYTES)]),
            },
        }
    }

    fn name(&self) -> &Bytes {
        match self {
            Entry::Folder(name) => name,
            Entry::Key { key, .. } => key,
        }
    }

    fn json(&self) -> Value {
        match self {
            Entry::Folder(name) => json!({ "kind": "folder", "key": to_hex(name) }),
            Entry::Key { key, length, preview } => json!({
                "kind": "key",
                "key": to_hex(key),
                "length": length,
                "preview": BASE64.encode(preview),
            }),
        }
    }
}

/// Collects the entries of a list from rows that arrive in order.
struct Collected {
    entries: Vec<Entry>,
    /// Where the next read begins; `None` at the end.
    next: Option<Bytes>,
}

impl Collected {
    /// Adds rows until the list is full.
    fn add(&mut self, list: &List, rows: &Rows) {
        for row in &rows.rows {
            let is_behind = self.next.as_ref().is_some_and(|next| row.key >= *next);
            // The rest of the rows of a folder.
            if !is_behind {
                continue;
            }
            if self.entries.len() == list.limit {
                return;
            }
            self.next = list.behind(&row.key);
            self.entries.push(Entry::of_row(list, row));
        }
        if !rows.has_more {
            self.next = None;
        }
    }
}

/// GET `/console/api/keys`.
pub(in crate::admin) async fn list(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, Refusal> {
    let list = List::parse(parameters)?;
    check_length("prefix", &list.prefix, &interface)?;
    check_length("after", list.after.as_deref().unwrap_or_default(), &interface)?;
    let context = RequestContext::of(caller, Instant::now() + TIMEOUT);
    let _turn = turn(&interface, context.deadline).await?;
    let version = list.at.settle(&interface.core, &context).await?;
    let mut collected = Collected { entries: Vec::new(), next: list.begin() };
    let end = successor(&list.prefix);
    for _ in 0..MAX_READS {
        let Some(begin) = collected.next.clone() else { break };
        if collected.entries.len() == list.limit {
            break;
        }
        let rows = read_range(&interface.core, &list, begin, end.clone(), version, &context).await;
        collected.add(&list, &rows.map_err(|error| list.denial(error, &context))?);
    }
    let last = collected.entries.last().filter(|_| collected.next.is_some());
    let next = last.map(|entry| to_hex(entry.name()));
    Ok(Json(json!({
        "version": version,
        "entries": collected.entries.iter().map(Entry::json).collect::<Vec<_>>(),
        "next": next,
    })))
}

async fn read_range(
    core: &KvServiceCore,
    list: &List,
    begin: Bytes,
    end: Option<Bytes>,
    version: Option<i64>,
    context: &RequestContext,
) -> Result<Rows, KvError> {
    // No key is as long as this one.
    let end = end.unwrap_or_else(|| vec![0xFF; core.limits().max_key_bytes + 1].into());
    let request = RangeRequest {
        begin: Some(begin),
        end: Some(end),
        limit: Some(READ_ROWS),
        column_family: list.family.clone(),
        target_bytes: Some(READ_BYTES),
        ..RangeRequest::default()
    };
    match version {
        Some(version) => core.snapshot_get_range(request, version, u64::MAX, context).await,
        None => core.get_range(request, Some("stale"), u64::MAX, context).await,
    }
}

/// GET `/console/api/key`.
pub(in crate::admin) async fn show(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(mut parameters): Query<Parameters>,
) -> Result<Json<Value>, Refusal> {
    let key = take_bytes(&mut parameters, "key")?.ok_or_else(|| bad("`key` is missing".into()))?;
    if key.is_empty() {
        return Err(bad("key: a key has at least one byte".into()));
    }
    check_length("key", &key, &interface)?;
    let (family, at) = (parameters.remove("family"), At::take(&mut parameters)?);
    only(&parameters, "family, key and version")?;
    let context = RequestContext::of(caller, Instant::now() + TIMEOUT);
    let _turn = turn(&interface, context.deadline).await?;
    let core = &interface.core;
    let version = at.settle(core, &context).await?;
    let value = match version {
        Some(version) => core.snapshot_get(key.clone(), version, family, &context).await?,
        None => core.get(key.clone(), family, Some("stale"), &context).await?,
    };
    let shown = value.as_ref().map(|value| &value[..value.len().min(MAX_SHOWN_VALUE)]);
    Ok(Json(json!({
        "key": to_hex(&key),
        "version": version,
        "found": value.is_some(),
        "length": value.as_ref().map(Bytes::len),
        "hash": value.as_deref().map(edit::hash_of),
        "value": shown.map(|shown| BASE64.encode(shown)),
        "is_cut": value.as_ref().is_some_and(|value| value.len() > MAX_SHOWN_VALUE),
    })))
}

#[cfg(test)]
mod tests;
