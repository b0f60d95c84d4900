//! The results that programs got, and a check of them against the database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_api::thrift::generated::AtomicCommitRequest;
use kv_client::ClientError;
use tokio::time::Instant;

use crate::store::{Contents, Store};

/// How long after its deadline a call may end: the client waits a moment longer for a server's
/// error.
const GRACE: Duration = Duration::from_millis(220);

#[derive(Clone, Default)]
pub struct History(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    /// When each running call should have ended.
    running: BTreeMap<usize, Instant>,
    calls: usize,
    /// The newest version that any program got to know.
    acknowledged: i64,
}

/// One transaction or single write. Its values consist of its number and the number of the attempt.
struct Write {
    outcome: Outcome,
    /// The version at which each attempt read, and the keys that it read.
    reads: BTreeMap<u32, (i64, Vec<Vec<u8>>)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// No answer yet.
    Running,
    /// Committed by this attempt, and at this version if it was reported.
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

/// The value that an attempt writes to all its keys.
pub fn token(number: usize, attempt: u32) -> String {
    format!("{number}/{attempt}")
}

/// The write and the attempt that a value names.
fn parsed(value: &[u8]) -> (usize, u32) {
    let text = std::str::from_utf8(value).expect("a token");
    let (number, attempt) = text.split_once('/').expect("a token");
    (number.parse().expect("a number"), attempt.parse().expect("a number"))
}

/// A running call. It ends when this is dropped.
pub struct Running<'h>(&'h History, usize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running.remove(&self.1);
    }
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call that has to end within `timeout`.
    pub fn begin(&self, timeout: Duration) -> Running<'_> {
        let mut state = self.state();
        state.calls += 1;
        let number = state.calls;
        state.running.insert(number, Instant::now() + timeout + GRACE);
        drop(state);
        Running(self, number)
    }

    pub fn check_deadlines(&self) {
        let overdue = self.state().running.values().filter(|deadline| **deadline < Instant::now()).count();
        assert_eq!(overdue, 0, "calls that still run after their deadline");
    }

    pub fn new_write(&self) -> usize {
        let mut state = self.state();
        state.writes.push(Write { outcome: Outcome::Running, reads: BTreeMap::new() });
        state.writes.len() - 1
    }

    pub fn record_read(&self, number: usize, attempt: u32, version: i64, keys: &[Vec<u8>]) {
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

    /// Records that a program got to know this version.
    pub fn acknowledge(&self, version: i64) {
        let mut state = self.state();
        state.acknowledged = state.acknowledged.max(version);
    }

    /// A read that begins now has to see at least this version.
    pub fn acknowledged(&self) -> i64 {
        self.state().acknowledged
    }

    /// Checks all writes, after nothing more can happen.
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
            assert!(
                is_right,
                "write {number} was reported as {:?}, but its executions are {executions:?}",
                write.outcome
            );
        }
    }
}

/// Checks that no other commit has written the keys that this one read, between its read version
/// and its commit.
fn check_reads(contents: &Contents, read_at: i64, committed_at: i64, keys: &[Vec<u8>]) {
    let writes_one =
        |commit: &AtomicCommitRequest| commit.operations.iter().any(|operation| keys.contains(&operation.key));
    let between = |version: &i64| read_at < *version && *version < committed_at;
    let missed = contents.executed.iter().find(|(version, commit)| between(version) && writes_one(commit));
    assert!(missed.is_none(), "read at {read_at}, committed at {committed_at}: {missed:?}");
}
