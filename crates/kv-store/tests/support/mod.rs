//! Shared by the tests of this crate: a naive model of the database, and databases on every engine
//! that can be restarted and crashed.
#![allow(dead_code)] // Each test binary uses a part of it.

#[cfg(feature = "rocksdb")]
pub mod left_behind;
pub mod model;
pub mod place;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use kv_api::{
    AtomicCommit, CommitVerdict, FamilyChange, KeyRange, KeyRef, KvError, LoggedWrite, Mutation, MutationKind,
    TimedWrite,
};
use kv_store::{StateBlob, TransactionalKvDatabase};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// The commits as writes at time 0 that create the families they use.
pub fn timeless(commits: &[AtomicCommit]) -> Vec<TimedWrite> {
    commits.iter().map(|commit| TimedWrite { time_us: 0, write: creating(commit.clone()) }).collect()
}

/// The commit as a write that creates all families it uses.
pub fn creating(commit: AtomicCommit) -> LoggedWrite {
    let of_mutations = commit.mutations.iter().map(|mutation| &mutation.column_family);
    let of_reads = commit.read_conflicts.iter().map(|key| &key.column_family);
    let of_ranges = commit.read_conflict_ranges.iter().map(|range| &range.column_family);
    let named = of_mutations.chain(of_reads).chain(of_ranges).filter(|name| !name.is_empty());
    LoggedWrite { creates: named.cloned().collect(), ..LoggedWrite::commit(commit) }
}

/// Applies `commits` as one batch with the next sequence; the blob is the sequence as text.
pub fn apply(database: &TransactionalKvDatabase, commits: &[AtomicCommit]) -> Vec<CommitVerdict> {
    apply_writes(database, &timeless(commits))
}

/// Like [`apply`], for any writes.
pub fn apply_writes(database: &TransactionalKvDatabase, writes: &[TimedWrite]) -> Vec<CommitVerdict> {
    let sequence = database.state_blob().unwrap().map_or(0, |(sequence, _)| sequence) + 1;
    let blob = StateBlob { sequence, blob: sequence.to_string().into() };
    database.prepare(writes).unwrap().commit(blob).unwrap()
}

pub fn create_family(database: &TransactionalKvDatabase, name: &str) {
    let write = LoggedWrite::family(FamilyChange { name: name.into(), drop: false });
    apply_writes(database, &[TimedWrite { time_us: 0, write }]).remove(0).unwrap();
}

pub fn apply_one(database: &TransactionalKvDatabase, commit: AtomicCommit) -> CommitVerdict {
    apply(database, &[commit]).remove(0)
}

pub fn set(key: &str, value: &str) -> Mutation {
    Mutation::set(key.to_owned(), value.to_owned())
}

pub fn delete(key: &str) -> Mutation {
    Mutation::delete(key.to_owned())
}

pub fn in_family(family: &str, mutation: Mutation) -> Mutation {
    Mutation { column_family: family.into(), ..mutation }
}

pub fn of_kind(kind: MutationKind, key: &[u8], value: &[u8]) -> Mutation {
    Mutation { kind: kind as i32, ..Mutation::set(key.to_vec(), value.to_vec()) }
}

pub fn commit(mutations: impl Into<Vec<Mutation>>) -> AtomicCommit {
    AtomicCommit::of(mutations.into())
}

/// A commit that has read `keys` of the default family at `read_version`.
pub fn commit_having_read(keys: &[&str], read_version: u64, mutations: impl Into<Vec<Mutation>>) -> AtomicCommit {
    let read_conflicts = keys.iter().map(|key| KeyRef::new(key.to_string())).collect();
    AtomicCommit { read_version, read_conflicts, ..commit(mutations) }
}

/// A commit that has read a range of the default family at `read_version`.
pub fn commit_having_read_range(
    (begin, end): (&str, &str),
    read_version: u64,
    mutations: impl Into<Vec<Mutation>>,
) -> AtomicCommit {
    let range = KeyRange { begin: begin.to_owned().into(), end: end.to_owned().into(), column_family: String::new() };
    AtomicCommit { read_version, read_conflict_ranges: vec![range], ..commit(mutations) }
}

pub fn conflict_of(keys: &[&str]) -> KvError {
    KvError::Conflict { keys: keys.iter().map(|key| KeyRef::new(key.to_string())).collect() }
}
