//! What the tests of this crate share: a naive model of the database, and databases on every engine that can be restarted
//! and crashed.
#![allow(dead_code)] // Each test binary uses a part of it.

pub mod model;
pub mod place;

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

use kv_api::{AtomicCommit, CommitVerdict, KeyRange, KeyRef, KvError, Mutation, MutationKind};
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

/// Applies `commits` as one batch with the sequence after the last one; the blob is the sequence as text.
pub fn apply(database: &TransactionalKvDatabase, commits: &[AtomicCommit]) -> Vec<CommitVerdict> {
    let sequence = database.state_blob().unwrap().map_or(0, |(sequence, _)| sequence) + 1;
    let mut seal = |_: &[CommitVerdict]| StateBlob { sequence, blob: sequence.to_string().into() };
    database.apply(commits, &mut seal).unwrap()
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
