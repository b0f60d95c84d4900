//! The required answer of every replica: the [`Reference`] decides each write when the first
//! replica executes it, and from then on every verdict, every read at any version, the oldest
//! readable version and the families of every replica are compared with it.
//!
//! Replicas execute at different times and in different batches: the state of one follows from the
//! sequence that its database has applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use kv_api::access::Policy;
use kv_api::{Change, ChangeRange, KeyRef, KvError, LoggedWrite, RangeQuery, Rows, decode_verdict, encode_verdict};
use rsml::{CommittedValue, Sequence};
use xxhash_rust::xxh3::Xxh3;

use super::reference::Reference;

/// The state after one entry of the log.
#[derive(Clone, Default)]
pub struct Moment {
    pub version: u64,
    pub oldest_readable: u64,
    pub families: Arc<Vec<String>>,
    pub policy: Arc<Policy>,
}

struct Step {
    /// Of its requests, encoded.
    verdicts: Vec<Bytes>,
    after: Moment,
}

#[derive(Default)]
struct State {
    reference: Reference,
    steps: BTreeMap<Sequence, Step>,
}

/// Shared by all replicas of a cluster.
#[derive(Clone, Default)]
pub struct Oracle {
    state: Arc<Mutex<State>>,
}

impl Oracle {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a simulation that has failed is over")
    }

    /// A replica has executed these values with these outcomes, in order.
    pub fn executed(&self, values: &[CommittedValue], outcomes: &[Bytes]) {
        let state = &mut *self.state();
        let mut outcomes = outcomes.iter();
        for value in values {
            let State { reference, steps } = state;
            let step = steps.entry(value.sequence).or_insert_with(|| decide(reference, value));
            for (expected, request) in step.verdicts.iter().zip(&value.requests) {
                let outcome = outcomes.next().expect("every request has an outcome");
                if outcome != expected {
                    let write = LoggedWrite::from_bytes(request.payload.clone());
                    panic!(
                        "wrong verdict: {} gives {:?}, but the log says {:?} of {write:?}",
                        value.sequence,
                        decode_verdict(outcome),
                        decode_verdict(expected)
                    );
                }
            }
        }
    }

    /// The state of a database that has applied everything through `sequence`.
    pub fn moment(&self, sequence: Sequence) -> Moment {
        let state = self.state();
        let last = state.steps.range(..=sequence).next_back();
        last.map_or(Moment { version: 1, ..Moment::default() }, |(_, step)| step.after.clone())
    }

    pub fn get(&self, key: &KeyRef, version: u64) -> Option<Bytes> {
        self.state().reference.history.get(&key.column_family, &key.key, version).cloned()
    }

    pub fn range(&self, query: &RangeQuery, version: u64) -> Result<Rows, KvError> {
        self.state().reference.history.range(query, version)
    }

    /// What a feed must tell: see [`super::reference`].
    pub fn changes(&self, after: u64, through: u64, ranges: &[ChangeRange], with_values: bool) -> Vec<Change> {
        self.state().reference.changes.between(after, through, ranges, with_values)
    }

    /// When a version was made.
    pub fn time_us(&self, version: u64) -> u64 {
        self.state().reference.changes.time_us(version)
    }

    /// Every family that there ever was.
    pub fn families(&self) -> Vec<String> {
        self.state().reference.history.families().cloned().collect()
    }

    /// Number and hash of the rows of a family, as [`kv_store::RowsHash`] has them.
    pub fn rows_hash(&self, family: &str, version: u64) -> (u64, u64) {
        let mut hasher = Xxh3::new();
        let mut count = 0;
        for (key, value) in self.state().reference.history.rows(family, version) {
            for part in [key, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            count += 1;
        }
        (count, hasher.digest())
    }
}

fn decide(reference: &mut Reference, value: &CommittedValue) -> Step {
    let mut decide = |payload: &Bytes| {
        let write = LoggedWrite::from_bytes(payload.clone()).expect("clients write what can be read");
        encode_verdict(&reference.decide(value.time_us, &write))
    };
    let verdicts = value.requests.iter().map(|request| decide(&request.payload)).collect();
    let Reference { version, oldest_readable, families, policy, .. } = reference;
    Step {
        verdicts,
        after: Moment {
            version: *version,
            oldest_readable: *oldest_readable,
            families: families.clone(),
            policy: policy.clone(),
        },
    }
}

impl Moment {
    fn has_family(&self, name: &str) -> bool {
        name.is_empty() || self.families.iter().any(|family| family == name)
    }

    pub fn check_applied(&self, read_version: u64) -> Result<(), KvError> {
        let current = self.version;
        if read_version > current { Err(KvError::FutureVersion { read_version, current }) } else { Ok(()) }
    }

    pub fn check_readable(&self, read_version: u64, is_pinned: bool) -> Result<(), KvError> {
        let oldest = self.oldest_readable;
        let is_readable = read_version >= oldest || is_pinned;
        if is_readable { Ok(()) } else { Err(KvError::TransactionTooOld { read_version, oldest }) }
    }

    pub fn check_family(&self, name: &str) -> Result<(), KvError> {
        if self.has_family(name) {
            return Ok(());
        }
        Err(KvError::UnknownColumnFamily { name: name.into(), existing: self.families.to_vec() })
    }
}
