//! Polls for changes, and watches of keys.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kv_api::{
    ChangeRange, Changes, ChangesQuery, Effect, FamilyEffect, KeyRef, KvError, KvOperation, KvOutcome, Version,
};
use tokio::time::Instant;

use super::{KvServiceCore, mismatch};
use crate::changes::{DEFAULT_BYTES, MAX_BYTES};
use crate::router::RequestContext;

const MAX_RANGES: usize = 1_000;
const MAX_KEYS: usize = 10_000;
const MAX_WAIT_MS: i32 = 30_000;
/// How long a read of the journal may take, after the wait.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// Keys of one request, in bytes.
const MAX_KEY_BYTES: usize = 1 << 20;

/// A request for changes, as it came.
#[derive(Clone, Debug, Default)]
pub struct PollRequest {
    /// The changes after this version.
    pub after_version: i64,
    /// Families by their names in requests; keys as they came.
    pub ranges: Vec<(Option<String>, Option<Bytes>, Option<Bytes>)>,
    /// Milliseconds.
    pub max_wait_ms: Option<i32>,
    /// See [`ChangesQuery`].
    pub max_bytes: Option<i32>,
    /// See [`ChangesQuery`].
    pub max_versions: Option<i32>,
    /// See [`ChangesQuery`].
    pub with_values: Option<bool>,
    /// The cluster whose versions these are.
    pub cluster_id: Option<String>,
}

/// Changes, and the cluster whose versions they have.
#[derive(Clone, Debug)]
pub struct Polled {
    /// The changes.
    pub changes: Changes,
    /// `None`: the server is standalone.
    pub cluster_id: Option<String>,
}

/// A request to wait for a change of keys, as it came.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// Families by their names in requests.
    pub keys: Vec<(Option<String>, Bytes)>,
    /// The version at which they were read.
    pub at_version: i64,
    /// Milliseconds.
    pub max_wait_ms: Option<i32>,
    /// The cluster whose version that is.
    pub cluster_id: Option<String>,
}

/// The keys that changed.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Each once.
    pub changed: Vec<KeyRef>,
    /// No other one changed up to this version.
    pub through: Version,
    /// See [`Changes`].
    pub oldest: Version,
    /// As in [`Polled`].
    pub cluster_id: Option<String>,
}

impl KvServiceCore {
    /// Answers with the changes after a version, and waits for some. `may_wait`: false for a call
    /// that holds memory for its reply.
    pub async fn poll_changes(
        &self,
        request: PollRequest,
        may_wait: bool,
        context: &RequestContext,
    ) -> Result<Polled, KvError> {
        let cluster_id = self.check_cluster(request.cluster_id.as_deref())?;
        let mut query = self.changes_query(request)?;
        if !may_wait {
            query.max_wait = Duration::ZERO;
        }
        let changes = self.read_changes(query, context).await?;
        Ok(Polled { changes, cluster_id })
    }

    /// Answers with the keys that changed after a version, as soon as one has.
    pub async fn watch_keys(&self, request: WatchRequest, context: &RequestContext) -> Result<Watched, KvError> {
        let cluster_id = self.check_cluster(request.cluster_id.as_deref())?;
        let (keys, most) = (request.keys.len(), MAX_KEYS);
        if keys == 0 || keys > most {
            return Err(KvError::InvalidOperation(format!("{keys} keys to watch; allowed: 1 to {most}")));
        }
        let mut ranges = Vec::with_capacity(keys);
        for (family, key) in request.keys {
            ranges.push(ChangeRange::key(self.family(family)?, &self.key(key)?));
        }
        check_key_bytes(&ranges)?;
        let mut query = ChangesQuery {
            after: after_version("at_version", request.at_version)?,
            ranges,
            max_wait: max_wait(request.max_wait_ms)?,
            max_bytes: DEFAULT_BYTES as u64,
            max_versions: usize::MAX,
            with_values: false,
        };
        let mut changed = BTreeSet::new();
        loop {
            let Changes { changes, through, has_more, oldest } = self.read_changes(query.clone(), context).await?;
            let effects = changes.into_iter().flat_map(|change| change.effects);
            effects.for_each(|effect| note_keys(effect, &query.ranges, &mut changed));
            if !has_more {
                return Ok(Watched { changed: changed.into_iter().collect(), through, oldest, cluster_id });
            }
            (query.after, query.max_wait) = (through, Duration::ZERO);
        }
    }

    /// The changes, waiting as long as the query says, beyond the usual time of a request.
    pub async fn read_changes(&self, query: ChangesQuery, context: &RequestContext) -> Result<Changes, KvError> {
        let deadline = Instant::now() + query.max_wait + READ_PATIENCE;
        let context = RequestContext { deadline, ..context.clone() };
        match self.route(KvOperation::ReadChanges(query), &context).await? {
            KvOutcome::Changes(changes) => Ok(changes),
            other => Err(mismatch("changes", &other)),
        }
    }

    /// The checked form of a request.
    pub fn changes_query(&self, request: PollRequest) -> Result<ChangesQuery, KvError> {
        let (count, most) = (request.ranges.len(), MAX_RANGES);
        if count > most {
            return Err(KvError::InvalidOperation(format!("{count} ranges; at most {most} are allowed")));
        }
        let mut ranges = Vec::with_capacity(count);
        for (family, begin, end) in request.ranges {
            let range = ChangeRange { column_family: self.family(family)?, begin: begin.unwrap_or_default(), end };
            // The end of a range need not be a valid key: the first one after the longest key is
            // one byte longer.
            let limit = self.limits().max_key_bytes + 1;
            let lengths = [range.begin.len(), range.end.as_ref().map_or(0, Bytes::len)];
            if let Some(length) = lengths.into_iter().find(|length| *length > limit) {
                return Err(KvError::KeyTooLarge { length, limit });
            }
            if range.end.as_ref().is_some_and(|end| *end < range.begin) {
                return Err(KvError::InvalidOperation("a range of changes ends before it begins".into()));
            }
            ranges.push(range);
        }
        check_key_bytes(&ranges)?;
        let bytes = request.max_bytes.unwrap_or(DEFAULT_BYTES);
        if !(1..=MAX_BYTES).contains(&bytes) {
            return Err(KvError::InvalidOperation(format!("max_bytes = {bytes}; allowed: 1 to {MAX_BYTES}")));
        }
        let versions = request.max_versions.unwrap_or(i32::MAX);
        if versions < 1 {
            return Err(KvError::InvalidOperation(format!("max_versions = {versions}; allowed: 1 and more")));
        }
        Ok(ChangesQuery {
            after: after_version("after_version", request.after_version)?,
            ranges,
            max_wait: max_wait(request.max_wait_ms)?,
            max_bytes: u64::from(bytes.unsigned_abs()),
            max_versions: versions.unsigned_abs() as usize,
            with_values: request.with_values.unwrap_or(true),
        })
    }

    /// Refuses versions of another cluster, and returns the id of this one.
    pub fn check_cluster(&self, expected: Option<&str>) -> Result<Option<String>, KvError> {
        let found = self.parts.cluster.cluster_id();
        match expected {
            Some(expected) if !expected.is_empty() && found.as_deref() != Some(expected) => {
                Err(KvError::ClusterChanged { expected: expected.to_owned(), found })
            }
            _ => Ok(found),
        }
    }
}

/// Adds the keys of an effect: a range clear names those among the watched ones.
fn note_keys(effect: FamilyEffect, watched: &[ChangeRange], changed: &mut BTreeSet<KeyRef>) {
    let FamilyEffect { column_family, effect } = effect;
    match effect {
        Effect::Set { key, .. } | Effect::Delete { key } => drop(changed.insert(KeyRef { key, column_family })),
        Effect::Clear { begin, end, .. } => {
            let is_cleared = |range: &&ChangeRange| {
                range.column_family == column_family
                    && range.begin >= begin
                    && end.as_ref().is_none_or(|end| range.begin < *end)
            };
            let key = |range: &ChangeRange| KeyRef { key: range.begin.clone(), column_family: column_family.clone() };
            changed.extend(watched.iter().filter(is_cleared).map(key));
        }
    }
}

fn check_key_bytes(ranges: &[ChangeRange]) -> Result<(), KvError> {
    let bytes: usize = ranges.iter().map(|range| range.begin.len() + range.end.as_ref().map_or(0, Bytes::len)).sum();
    match bytes > MAX_KEY_BYTES {
        true => Err(KvError::InvalidOperation(format!("keys of {bytes} bytes; at most {MAX_KEY_BYTES} are allowed"))),
        false => Ok(()),
    }
}

fn after_version(field: &str, version: i64) -> Result<Version, KvError> {
    match u64::try_from(version) {
        Ok(version) if version >= Version::EMPTY.0 => Ok(Version(version)),
        _ => Err(KvError::InvalidOperation(format!("{field} = {version}: versions start at {}", Version::EMPTY))),
    }
}

fn max_wait(ms: Option<i32>) -> Result<Duration, KvError> {
    let ms = ms.unwrap_or(0);
    match (0..=MAX_WAIT_MS).contains(&ms) {
        true => Ok(Duration::from_millis(u64::from(ms.unsigned_abs()))),
        false => Err(KvError::InvalidOperation(format!("max_wait_ms = {ms}; allowed: 0 to {MAX_WAIT_MS}"))),
    }
}
