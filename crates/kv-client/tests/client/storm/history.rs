//! What programs were told, and what the database has to say about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_api::thrift::generated::AtomicCommitRequest;
use kv_client::ClientError;
use tokio::time::Instant;

use crate::store::{Contents, Store};

/// The client gives the last word of a server a moment more than the deadline.
const GRACE: Duration = Duration::from_millis(220);

#[derive(Clone, Default)]
pub struct History(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    /// When each call that is under way should have ended.
    under_way: BTreeMap<usize, Instant>,
    calls: usize,
    /// The newest version that anybody was told of.
    acknowledged: i64,
}

/// Something that was to be written. Its values begin with its number, and name the attempt.
struct Write {
    outcome: Outcome,
    /// The keys that each attempt has read, and at which version.
    reads: BTreeMap<u32, (i64, Vec<Vec<u8>>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// No answer yet.
    UnderWay,
    /// By this attempt; at this version, where it was told.
    Committed(u32, Option<i64>),
    NotCommitted,
    InDoubt,
}

impl Outcome {
    pub fn of(result: Result<(u32, Option<i64>), ClientError>) -> Outcome {
        match result {
            Ok((attempt, version)) => Outcome::Committed(attempt, version),
            Err(error) if error.maybe_committed() => Outcome::InDoubt,
            Err(_) => Outcome::NotCommitted,
        }
    }
}

/// What an attempt writes everywhere.
pub fn token(number: usize, attempt: u32) -> String {
    format!("{number}/{attempt}")
}

/// The write and the attempt of which a value tells.
fn parsed(value: &[u8]) -> (usize, u32) {
    let text = std::str::from_utf8(value).expect("a token");
    let (number, attempt) = text.split_once('/').expect("a token");
    (number.parse().expect("a number"), attempt.parse().expect("a number"))
}

/// Ends when it is dropped.
pub struct UnderWay<'h>(&'h History, usize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().under_way.remove(&self.1);
    }
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that has to end within this time.
    pub fn begin(&self, timeout: Duration) -> UnderWay<'_> {
        let mut state = self.state();
        state.calls += 1;
        let number = state.calls;
        state.under_way.insert(number, Instant::now() + timeout + GRACE);
        drop(state);
        UnderWay(self, number)
    }

    pub fn check_deadlines(&self) {
        let overdue = self.state().under_way.values().filter(|deadline| **deadline < Instant::now()).count();
        assert_eq!(overdue, 0, "calls that go on beyond their deadline");
    }

    pub fn new_write(&self) -> usize {
        let mut state = self.state();
        state.writes.push(Write { outcome: Outcome::UnderWay, reads: BTreeMap::new() });
        state.writes.len() - 1
    }

    pub fn note_read(&self, number: usize, attempt: u32, version: i64, keys: &[Vec<u8>]) {
        let mut state = self.state();
        let reads = state.writes[number].reads.entry(attempt).or_insert((version, Vec::new()));
        assert_eq!(reads.0, version, "a transaction reads at one version");
        reads.1.extend_from_slice(keys);
    }

    pub fn end_write(&self, number: usize, outcome: Outcome) {
        if let Outcome::Committed(_, Some(version)) = outcome {
            self.acknowledge(version);
        }
        self.state().writes[number].outcome = outcome;
    }

    /// Somebody was told of this version.
    pub fn acknowledge(&self, version: i64) {
        let mut state = self.state();
        state.acknowledged = state.acknowledged.max(version);
    }

    /// Whoever begins to read now has to see at least this version.
    pub fn acknowledged(&self) -> i64 {
        self.state().acknowledged
    }

    /// When nothing more can happen.
    pub fn check(&self, store: &Store) {
        let (state, contents) = (self.state(), store.contents());
        let mut executions: Vec<Vec<(i64, u32)>> = vec![Vec::new(); state.writes.len()];
        for (version, commit) in &contents.executed {
            let (number, attempt) = parsed(commit.operations[0].value.as_deref().expect("a set"));
            executions[number].push((*version, attempt));
            if let Some((read_at, keys)) = state.writes[number].reads.get(&attempt) {
                check_reads(&contents, *read_at, *version, keys);
            }
        }
        for (number, (write, executions)) in state.writes.iter().zip(&executions).enumerate() {
            let is_right = match (&write.outcome, &executions[..]) {
                (Outcome::Committed(attempt, version), [execution]) => {
                    *attempt == execution.1 && version.is_none_or(|version| version == execution.0)
                }
                (Outcome::NotCommitted, []) | (Outcome::InDoubt, [] | [_]) => true,
                _ => false,
            };
            assert!(is_right, "write {number} was said to be {:?}, and took effect so: {executions:?}", write.outcome);
        }
    }
}

/// Nobody has written since what a commit has read.
fn check_reads(contents: &Contents, read_at: i64, committed_at: i64, keys: &[Vec<u8>]) {
    let writes_one =
        |commit: &AtomicCommitRequest| commit.operations.iter().any(|operation| keys.contains(&operation.key));
    let between = |version: &i64| read_at < *version && *version < committed_at;
    let overlooked = contents.executed.iter().find(|(version, commit)| between(version) && writes_one(commit));
    assert!(overlooked.is_none(), "read at {read_at}, committed at {committed_at}: {overlooked:?}");
}
