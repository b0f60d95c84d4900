//! Commits of a standalone database whose callers stop waiting.

mod support;

use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use bytes::Bytes;
use kv_api::{KeyRef, KvError, LoggedWrite, Mutation};
use kv_store::engine::{Cursor, EngineCopy, EngineStatistics, Table, WriteBatch};
use kv_store::{Durability, Engine, MemoryEngine, PendingWrite, StoreOptions, TransactionalKvDatabase};
use support::{block_on, commit};

/// An engine whose writes wait while the lock is held, and report that they have come.
struct GatedEngine {
    gate: Mutex<()>,
    arrivals: Mutex<mpsc::Sender<()>>,
    inner: MemoryEngine,
}

impl Engine for GatedEngine {
    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.arrivals.lock().unwrap().send(()).ok();
        let _open = self.gate.lock().unwrap();
        self.inner.write(batch)
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(table, key)
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError> {
        self.inner.cursor(table, lower, upper)
    }

    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError> {
        self.inner.key_cursor()
    }

    fn flush(&self) -> Result<(), KvError> {
        self.inner.flush()
    }

    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.persisted_get(table, key)
    }

    fn batches_written(&self) -> u64 {
        self.inner.batches_written()
    }

    fn statistics(&self) -> EngineStatistics {
        self.inner.statistics()
    }

    fn set_filter_watermark(&self, version: u64) {
        self.inner.set_filter_watermark(version);
    }

    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError> {
        self.inner.compact_data(begin, end)
    }

    fn data_splits(&self, slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError> {
        self.inner.data_splits(slice_bytes)
    }

    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError> {
        self.inner.copy()
    }

    fn remove_when_closed(&self) {
        self.inner.remove_when_closed();
    }
}

struct Scene {
    engine: Arc<GatedEngine>,
    arrivals: mpsc::Receiver<()>,
    database: Arc<TransactionalKvDatabase>,
}

fn open() -> Scene {
    let (sender, arrivals) = mpsc::channel();
    let inner = MemoryEngine::new(Durability::EveryWrite);
    let engine = Arc::new(GatedEngine { gate: Mutex::new(()), arrivals: Mutex::new(sender), inner });
    let options = StoreOptions { collect_every: None, ..StoreOptions::standalone() };
    let database = TransactionalKvDatabase::open(engine.clone(), options).unwrap();
    while arrivals.try_recv().is_ok() {}
    Scene { engine, arrivals, database }
}

impl Scene {
    /// Closes the gate, with a first commit waiting at it.
    fn close_gate(&self) -> (MutexGuard<'_, ()>, PendingWrite) {
        let closed = self.engine.gate.lock().unwrap();
        let first = submit(&self.database, "first");
        self.arrivals.recv().unwrap();
        (closed, first)
    }
}

fn submit(database: &TransactionalKvDatabase, key: &'static str) -> PendingWrite {
    database.submit(LoggedWrite::commit(commit([Mutation::set(key, "v")]))).unwrap()
}

fn exists(database: &TransactionalKvDatabase, key: &'static str) -> bool {
    database.read_at(&KeyRef::new(key), database.applied_version()).unwrap().is_some()
}

#[test]
fn a_commit_given_up_in_the_queue_never_happens() {
    let scene = open();
    let (closed, first) = scene.close_gate();
    let (second, third) = (submit(&scene.database, "second"), submit(&scene.database, "third"));
    assert!(matches!(second.give_up(), Err(KvError::Timeout(_))));
    drop(closed);
    block_on(first).unwrap();
    block_on(third).unwrap();
    assert!(exists(&scene.database, "first") && exists(&scene.database, "third"));
    assert!(!exists(&scene.database, "second"));
}

#[test]
fn a_commit_whose_future_is_dropped_still_happens() {
    let scene = open();
    let (closed, first) = scene.close_gate();
    drop(submit(&scene.database, "second"));
    drop(closed);
    block_on(first).unwrap();
    block_on(submit(&scene.database, "third")).unwrap();
    assert!(exists(&scene.database, "second"));
}

#[test]
fn giving_up_a_commit_while_it_is_written_leaves_its_result_unknown() {
    let scene = open();
    let (closed, first) = scene.close_gate();
    let error = first.give_up().unwrap_err();
    assert!(matches!(error, KvError::CommitUnknown(_)) && error.maybe_committed(), "{error}");
    drop(closed);
    block_on(submit(&scene.database, "second")).unwrap();
    assert!(exists(&scene.database, "first"));
}

#[test]
fn giving_up_a_commit_after_it_is_done_gives_its_result() {
    let scene = open();
    let first = submit(&scene.database, "first");
    let second = block_on(submit(&scene.database, "second")).unwrap();
    assert_eq!(first.give_up().unwrap().version + 1, second.version);
}
