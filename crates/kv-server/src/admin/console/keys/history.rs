//! The past of one key, out of the change journal: GET `/console/api/history`.
//!
//! The journal is read from its oldest version on, and only the newest entries are kept, so the
//! answer has a bound however often the key changed. If there is too much to read in the time of one
//! answer, it says so, and the next one continues `after` its `through`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use kv_api::{Change, ChangeRange, Changes, ChangesQuery, Effect, KvError, Version};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::super::{AdminInterface, Refusal, to_hex};
use super::{Parameters, bad, check_length, only, take_bytes, turn};
use crate::access::Caller;
use crate::router::RequestContext;
use crate::service_core::KvServiceCore;

/// How long one answer reads the journal before it says that there is more.
const READING: Duration = Duration::from_secs(3);
/// How long a request may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one read of the journal.
const READ_BYTES: u64 = 1 << 20;
const DEFAULT_ENTRIES: usize = 50;
const MAX_ENTRIES: usize = 100;
/// Bytes of a value that the answer shows. A longer one is cut off.
const MAX_VALUE: usize = 16 << 10;
/// The journal may lose its oldest versions while they are asked for.
const ATTEMPTS: usize = 3;

/// A version that changed the key.
struct Entry {
    version: Version,
    time_us: u64,
    /// `None`: it removed the key.
    value: Option<Shown>,
    /// It cleared a range with the key in it.
    is_clear: bool,
}

/// The begin of a value.
struct Shown {
    length: usize,
    begin: Bytes,
}

impl Entry {
    /// The last effect of a version decides: cleared ranges stand before keys.
    fn of(change: &Change) -> Option<Entry> {
        let (value, is_clear) = match &change.effects.last()?.effect {
            Effect::Set { value, .. } => {
                // A copy, so that the rest of what was read can go.
                let begin = Bytes::copy_from_slice(&value[..value.len().min(MAX_VALUE)]);
                (Some(Shown { length: value.len(), begin }), false)
            }
            Effect::Delete { .. } => (None, false),
            Effect::Clear { .. } => (None, true),
        };
        Some(Entry { version: change.version, time_us: change.time_us, value, is_clear })
    }

    fn json(&self) -> Value {
        let kind = match (&self.value, self.is_clear) {
            (Some(_), _) => "set",
            (None, true) => "clear",
            (None, false) => "delete",
        };
        json!({
            "version": self.version.0,
            "log_time_ms": self.time_us / 1000,
            "type": kind,
            "length": self.value.as_ref().map(|value| value.length),
            "value": self.value.as_ref().map(|value| BASE64.encode(&value.begin)),
            "is_cut": self.value.as_ref().is_some_and(|value| value.length > value.begin.len()),
        })
    }
}

/// The newest entries, and how far they were read.
struct History {
    entries: VecDeque<Entry>,
    most: usize,
    /// Entries that were left out because newer ones came.
    left_out: u64,
    /// Changes up to this version are not known.
    since: Version,
    through: Version,
    is_complete: bool,
}

impl History {
    fn add(&mut self, changes: &Changes) {
        for entry in changes.changes.iter().filter_map(Entry::of) {
            if self.entries.len() == self.most {
                self.entries.pop_front();
                self.left_out += 1;
            }
            self.entries.push_back(entry);
        }
        (self.through, self.is_complete) = (changes.through, !changes.has_more);
    }

    /// Reads on to the end, or for as long as one answer may take.
    async fn read(
        &mut self,
        core: &KvServiceCore,
        query: &mut ChangesQuery,
        context: &RequestContext,
    ) -> Result<(), KvError> {
        let stop = Instant::now() + READING;
        loop {
            let changes = core.read_changes(query.clone(), context).await?;
            query.after = changes.through;
            self.add(&changes);
            if self.is_complete || Instant::now() >= stop {
                return Ok(());
            }
        }
    }
}

/// Reads the history from a version on; without one, from the oldest that the journal has.
async fn history(
    core: &KvServiceCore,
    range: ChangeRange,
    after: Option<Version>,
    most: usize,
    context: &RequestContext,
) -> Result<History, KvError> {
    let mut since = after.unwrap_or(Version::EMPTY);
    let mut attempts = ATTEMPTS;
    loop {
        let entries = VecDeque::new();
        let mut history = History { entries, most, left_out: 0, since, through: since, is_complete: false };
        let mut query = ChangesQuery {
            after: since,
            ranges: vec![range.clone()],
            max_wait: Duration::ZERO,
            max_bytes: READ_BYTES,
            max_versions: usize::MAX,
            with_values: true,
        };
        match history.read(core, &mut query, context).await {
            Ok(()) => return Ok(history),
            Err(KvError::TransactionTooOld { oldest, .. }) if after.is_none() && attempts > 1 => {
                since = Version(oldest);
                attempts -= 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// GET `/console/api/history`.
pub(in crate::admin) async fn show(
    State(interface): State<Arc<AdminInterface>>,
    Extension(caller): Extension<Caller>,
    Query(mut parameters): Query<Parameters>,
) -> Result<Json<Value>, Refusal> {
    let key = take_bytes(&mut parameters, "key")?.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| bad("`key` is missing: at least one byte".into()))?;
    check_length("key", &key, &interface)?;
    let most = match parameters.remove("limit") {
        None => DEFAULT_ENTRIES,
        Some(text) => match text.parse::<usize>() {
            Ok(limit) if (1..=MAX_ENTRIES).contains(&limit) => limit,
            _ => return Err(bad(format!("limit = `{text}`: expected 1 to {MAX_ENTRIES}"))),
        },
    };
    let after = match parameters.remove("after") {
        None => None,
        Some(text) => match text.parse::<u64>() {
            Ok(version) if version >= Version::EMPTY.0 => Some(Version(version)),
            _ => return Err(bad(format!("after = `{text}`: expected a version, 1 or more"))),
        },
    };
    let family = interface.core.family(parameters.remove("family"))?;
    only(&parameters, "family, key, after and limit")?;
    let context = RequestContext::of(caller, Instant::now() + TIMEOUT);
    let _turn = turn(&interface, context.deadline).await?;
    let history = history(&interface.core, ChangeRange::key(family, &key), after, most, &context).await?;
    Ok(Json(json!({
        "key": to_hex(&key),
        "since": history.since.0,
        "through": history.through.0,
        "is_complete": history.is_complete,
        "left_out": history.left_out,
        "entries": history.entries.iter().rev().map(Entry::json).collect::<Vec<_>>(),
    })))
}
