//! Watches the requests on their way to the router: which are slow, and which keys are used most.
//!
//! One owner of both, at the one place that every operation passes. It changes no outcome, and a
//! request never waits for it.

mod sketch;
mod slow;
mod top;

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use kv_api::{KvError, KvOperation, KvOutcome};
use serde_json::Value;
pub(crate) use slow::MAX_KEPT;
use slow::SlowRequest;
pub use top::By;
use top::{Top, is_sampled};

use crate::router::RequestContext;

/// At most so many keys of one commit are counted.
const MAX_KEYS_OF_COMMIT: usize = 256;

/// The slow requests and the most used keys of one server.
pub struct RequestWatch {
    /// `None`: none is slow.
    slow_after: Option<Duration>,
    slow: slow::SlowRequests,
    top: Top,
}

/// A request under way, with what is needed if it turns out to be slow.
pub(crate) struct Begun {
    started: Instant,
    family: String,
    key: Bytes,
    bytes: usize,
    /// It waits for as long as its caller wants, so its time says nothing.
    waits: bool,
}

impl RequestWatch {
    /// A request is slow after this time; with 0, none is.
    pub fn new(slow_ms: u64) -> Self {
        let now = Instant::now();
        let slow_after = Some(Duration::from_millis(slow_ms)).filter(|limit| !limit.is_zero());
        RequestWatch { slow_after, slow: slow::SlowRequests::new(now), top: Top::new(now) }
    }

    pub(crate) fn begin(&self, operation: &KvOperation) -> Begun {
        let started = Instant::now();
        if is_sampled() {
            self.count(operation, started);
        }
        let begun = |family: &str, key: &Bytes, bytes| Begun {
            started,
            family: family.into(),
            key: key.clone(),
            bytes,
            waits: false,
        };
        match operation {
            KvOperation::Get { key, .. } => begun(&key.column_family, &key.key, key.key.len()),
            KvOperation::GetRange { query, .. } => begun(&query.column_family, &query.begin, query.begin.len()),
            KvOperation::AtomicCommit(commit) => match commit.mutations.first() {
                Some(first) => {
                    let bytes = commit.mutations.iter().map(|mutation| mutation.key.len() + mutation.value.len());
                    begun(&first.column_family, &first.key, bytes.sum())
                }
                None => begun("", &Bytes::new(), 0),
            },
            KvOperation::ReadChanges(_) => Begun { waits: true, ..begun("", &Bytes::new(), 0) },
            KvOperation::ReadVersion
            | KvOperation::ChangeFamily(_)
            | KvOperation::ChangeAccess(_)
            | KvOperation::ClockTick => begun("", &Bytes::new(), 0),
        }
    }

    fn count(&self, operation: &KvOperation, now: Instant) {
        match operation {
            KvOperation::Get { key, .. } => {
                self.top.add(By::Reads, std::iter::once((&*key.column_family, &*key.key)), now);
            }
            KvOperation::GetRange { query, .. } => {
                self.top.add(By::Reads, std::iter::once((&*query.column_family, &*query.begin)), now);
            }
            KvOperation::AtomicCommit(commit) => {
                let keys = commit.mutations.iter().take(MAX_KEYS_OF_COMMIT);
                self.top.add(By::Writes, keys.map(|mutation| (&*mutation.column_family, &*mutation.key)), now);
            }
            KvOperation::ReadVersion
            | KvOperation::ReadChanges(_)
            | KvOperation::ChangeFamily(_)
            | KvOperation::ChangeAccess(_)
            | KvOperation::ClockTick => {}
        }
    }

    pub(crate) fn end(&self, begun: Begun, outcome: &Result<KvOutcome, KvError>, context: &RequestContext) {
        let now = Instant::now();
        if let Err(KvError::Conflict { keys }) = outcome {
            let keys = keys.iter().take(MAX_KEYS_OF_COMMIT);
            self.top.add(By::Conflicts, keys.map(|key| (&*key.column_family, &*key.key)), now);
        }
        let took = now.saturating_duration_since(begun.started);
        if !begun.waits && self.slow_after.is_some_and(|limit| took >= limit) {
            let caller = &context.caller;
            let request = SlowRequest {
                ended: SystemTime::now(),
                method: caller.method(),
                family: begun.family,
                key: begun.key,
                bytes: begun.bytes,
                took,
                address: caller.session().map(|session| session.facts().address),
                principal: caller.granted().map(|granted| granted.rights.user().to_string()),
                error: outcome.as_ref().err().map(|error| error.code().to_string()),
            };
            self.slow.add(request, now);
        }
    }

    /// The newest slow requests, newest first.
    pub fn slow(&self, limit: usize) -> Value {
        let mut shown = self.slow.show(limit);
        shown["slow_ms"] = self.slow_after.map_or(0, |limit| limit.as_millis() as u64).into();
        shown
    }

    /// How many slow requests there were since the start.
    pub fn slow_requests(&self) -> u64 {
        self.slow.all()
    }

    /// The most used keys of the last minute, of one family (empty: the default one) or of all.
    pub fn top(&self, by: By, family: Option<&str>, limit: usize) -> Value {
        self.top.show(by, family, limit, Instant::now())
    }
}

/// A key for people: what cannot be printed is escaped.
fn shown(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

fn shown_family(name: &str) -> &str {
    if name.is_empty() { kv_api::DEFAULT_COLUMN_FAMILY } else { name }
}
