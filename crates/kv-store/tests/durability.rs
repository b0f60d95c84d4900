//! Restarts, crashes and failed writes.

mod support;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use kv_api::{KeyRef, KvDatabase, KvError, ReadAt, Version};
use kv_store::engine::{Cursor, EngineCopy, EngineStatistics, Table, WriteBatch};
use kv_store::{
    Durability, Engine, GroupCommitOptions, MemoryEngine, StateBlob, StoreOptions, TransactionalKvDatabase,
};
use support::{apply, apply_one, block_on, commit, commit_having_read, conflict_of, delete, place, set, timeless};

#[test]
fn versions_continue_after_a_restart() {
    for place in place::all(Durability::UntilFlush) {
        apply_one(&place.open(), commit([set("a", "1")])).unwrap();
        let database = place.open();
        assert_eq!(database.applied_version(), Version(2));
        assert_eq!(apply_one(&database, commit([set("a", "2")])).unwrap().version, 3);
        assert_eq!(database.read_at(&KeyRef::new("a"), Version(2)).unwrap(), Some("1".into()));
    }
}

#[test]
fn the_blob_is_that_of_the_last_batch_even_of_an_empty_one() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open();
        assert_eq!(database.state_blob().unwrap(), None);
        apply_one(&database, commit([set("a", "1")])).unwrap();
        apply(&database, &[]);
        drop(database);
        assert_eq!(place.open().state_blob().unwrap(), Some((2, "2".into())));
    }
}

#[test]
fn a_prepared_batch_has_its_verdicts_before_anything_of_it_is_written() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open();
        let commits = [commit([set("a", "1")]), commit_having_read(&["a"], 1, [set("a", "2")])];
        let before = database.applied_version();
        let prepared = database.prepare(&timeless(&commits)).unwrap();
        let seen = prepared.verdicts().to_vec();
        assert_eq!(seen[1], Err(conflict_of(&["a"])));
        assert_eq!((database.applied_version(), database.state_blob().unwrap()), (before, None));
        assert_eq!(prepared.commit(StateBlob { sequence: 7, blob: Bytes::new() }).unwrap(), seen);
        assert!(database.applied_version() > before);
        assert_eq!(database.state_blob().unwrap(), Some((7, Bytes::new())));
    }
}

#[test]
fn dropping_a_prepared_batch_changes_nothing_and_ends_writing_until_the_database_is_reopened() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open();
        apply_one(&database, commit([set("a", "1")])).unwrap();
        let newest = database.applied_version();
        drop(database.prepare(&timeless(&[commit([set("a", "2")])])).unwrap());
        assert!(database.write_failure().unwrap().contains("never written"));
        assert!(database.prepare(&timeless(&[commit([set("a", "3")])])).is_err());
        assert_eq!(database.read_at(&KeyRef::new("a"), newest).unwrap().as_deref(), Some(&b"1"[..]));
        drop(database);
        let database = place.open();
        assert_eq!(database.applied_version(), newest);
        apply_one(&database, commit([set("a", "4")])).unwrap();
    }
}

#[test]
fn a_crash_loses_what_was_not_flushed_but_data_and_blob_stay_together() {
    for mut place in place::all(Durability::UntilFlush) {
        let database = place.open();
        apply_one(&database, commit([set("kept", "1"), set("changed", "1"), set("deleted", "1")])).unwrap();
        database.flush().unwrap();
        apply_one(&database, commit([set("lost", "2"), set("changed", "2"), delete("deleted")])).unwrap();
        apply_one(&database, commit([set("changed", "3")])).unwrap();
        assert_eq!(database.state_blob().unwrap(), Some((3, "3".into())));
        assert_eq!(database.persisted_sequence().unwrap(), 1);
        place.crash(database);

        let database = place.open();
        assert_eq!(database.state_blob().unwrap(), Some((1, "1".into())));
        assert_eq!(database.applied_version(), Version(2));
        assert_eq!(database.statistics_now().total_keys, 3);
        let read = |key: &str| database.read_at(&KeyRef::new(key.to_owned()), Version(2)).unwrap();
        let one = || Some(Bytes::from("1"));
        assert_eq!([read("kept"), read("changed"), read("deleted"), read("lost")], [one(), one(), one(), None]);
        assert_eq!(apply_one(&database, commit([set("again", "1")])).unwrap().version, 3);
    }
}

#[test]
fn replaying_the_log_after_a_crash_gives_the_same_verdicts() {
    for mut place in place::all(Durability::UntilFlush) {
        let database = place.open();
        apply_one(&database, commit([set("a", "1")])).unwrap();
        database.flush().unwrap();
        let log = [
            commit([delete("a")]),
            commit_having_read(&["a"], 2, [set("b", "1")]),
            commit_having_read(&["b"], 2, [set("b", "2")]),
        ];
        let verdicts = apply(&database, &log);
        place.crash(database);
        assert_eq!(apply(&place.open_with_index(1), &log), verdicts);
    }
}

#[test]
fn nothing_is_persisted_before_the_first_flush() {
    for mut place in place::all(Durability::UntilFlush) {
        let database = place.open();
        apply_one(&database, commit([set("a", "1")])).unwrap();
        assert_eq!(database.persisted_sequence().unwrap(), 0);
        place.crash(database);
        let database = place.open();
        assert_eq!((database.applied_version(), database.state_blob().unwrap()), (Version::EMPTY, None));
    }
}

#[test]
fn a_standalone_commit_survives_a_crash_once_it_is_answered() {
    for mut place in place::all(Durability::EveryWrite) {
        let database = place.open_with(StoreOptions::standalone());
        let result = block_on(database.atomic_commit(commit([set("a", "1")]))).unwrap();
        assert_eq!(result.version(), Version(2));
        place.crash(database);
        let database = place.open_with(StoreOptions::standalone());
        let value = block_on(database.get(KeyRef::new("a"), ReadAt::Linearizable)).unwrap();
        assert_eq!(value, Some("1".into()));
        assert_eq!(block_on(database.read_version()).unwrap(), Version(2));
    }
}

#[test]
fn an_unknown_format_is_refused() {
    for place in place::all(Durability::EveryWrite) {
        let engine = place.engine();
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, b"format", &99_u32.to_be_bytes());
        engine.write(&batch).unwrap();
        let error = TransactionalKvDatabase::open(engine, StoreOptions::standalone()).err().unwrap();
        assert!(error.to_string().contains("format 99"), "{error}");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_folder_is_opened_by_one_engine_at_a_time() {
    let place = place::all(Durability::UntilFlush).remove(1);
    let place::Place::Rocks(rocks) = &place else { panic!("the second engine is RocksDB") };
    let _open = rocks.engine();
    let error = rocks.try_engine().err().unwrap();
    assert!(error.to_string().contains("cannot open the database in"), "{error}");
}
/// An engine in memory that counts its writes, can block them, and can fail.
struct TestedEngine {
    inner: MemoryEngine,
    writes: AtomicUsize,
    fails: AtomicBool,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    /// Writes that have reached the gate.
    arrived: usize,
}

impl TestedEngine {
    fn new() -> Arc<Self> {
        Arc::new(TestedEngine {
            inner: MemoryEngine::new(Durability::EveryWrite),
            writes: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            gate: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    fn close_gate(&self) {
        *self.gate.lock().unwrap() = Gate { closed: true, arrived: 0 };
    }

    fn open_gate(&self) {
        self.gate.lock().unwrap().closed = false;
        self.moved.notify_all();
    }

    fn wait_for_a_write_at_the_gate(&self) {
        drop(self.moved.wait_while(self.gate.lock().unwrap(), |gate| gate.arrived == 0).unwrap());
    }
}

impl Engine for TestedEngine {
    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(table, key)
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut gate = self.gate.lock().unwrap();
        gate.arrived += 1;
        self.moved.notify_all();
        drop(self.moved.wait_while(gate, |gate| gate.closed).unwrap());
        self.writes.fetch_add(1, Ordering::SeqCst);
        match self.fails.load(Ordering::SeqCst) {
            true => Err(KvError::Storage("the disk is on fire".into())),
            false => self.inner.write(batch),
        }
    }

    fn batches_written(&self) -> u64 {
        self.inner.batches_written()
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

    fn statistics(&self) -> EngineStatistics {
        self.inner.statistics()
    }

    fn set_filter_watermark(&self, version: u64) {
        self.inner.set_filter_watermark(version);
    }

    fn data_splits(&self, slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError> {
        self.inner.data_splits(slice_bytes)
    }

    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError> {
        self.inner.compact_data(begin, end)
    }

    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError> {
        self.inner.copy()
    }

    fn remove_when_closed(&self) {
        self.inner.remove_when_closed();
    }
}

/// Starts a commit; the future resolves to its result.
fn start_commit(
    database: &Arc<TransactionalKvDatabase>,
    key: &str,
) -> std::thread::JoinHandle<Result<kv_api::CommitResult, KvError>> {
    let (database, commit) = (database.clone(), commit([set(key, "1")]));
    std::thread::spawn(move || block_on(database.atomic_commit(commit)))
}

#[test]
fn all_commits_that_wait_share_one_engine_write() {
    let engine = TestedEngine::new();
    let database = TransactionalKvDatabase::open(engine.clone(), StoreOptions::standalone()).unwrap();
    engine.close_gate();
    let first = start_commit(&database, "first");
    engine.wait_for_a_write_at_the_gate();
    let before = engine.writes.load(Ordering::SeqCst);
    // A commit is queued when it is polled first: all ten are in the queue before the gate opens.
    let mut waiting: Vec<_> =
        (0..10).map(|i| Box::pin(database.atomic_commit(commit([set(&i.to_string(), "1")])))).collect();
    for future in &mut waiting {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    engine.open_gate();
    let mut versions: Vec<u64> = waiting.into_iter().map(|future| block_on(future).unwrap().version).collect();
    versions.push(first.join().unwrap().unwrap().version);
    versions.sort();
    assert_eq!(versions, (2..=12).collect::<Vec<_>>());
    assert_eq!(engine.writes.load(Ordering::SeqCst) - before, 2);
}

#[test]
fn commits_beyond_the_queue_are_refused_at_once() {
    for (bounds, waiting) in [
        (GroupCommitOptions { max_queued_commits: 2, ..GroupCommitOptions::default() }, 2),
        (GroupCommitOptions { max_queued_bytes: 300, ..GroupCommitOptions::default() }, 2),
    ] {
        let engine = TestedEngine::new();
        let options = StoreOptions { group_commit: Some(bounds), ..StoreOptions::standalone() };
        let database = TransactionalKvDatabase::open(engine.clone(), options).unwrap();
        engine.close_gate();
        let first = start_commit(&database, "first");
        engine.wait_for_a_write_at_the_gate();
        let mut queued: Vec<_> =
            (0..waiting).map(|_| Box::pin(database.atomic_commit(commit([set("q", "1")])))).collect();
        for future in &mut queued {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
        let refused = block_on(database.atomic_commit(commit([set("one too many", "1")])));
        assert!(matches!(refused, Err(KvError::Overloaded(_))), "{refused:?}");
        engine.open_gate();
        assert!(first.join().unwrap().is_ok());
        assert!(queued.into_iter().all(|future| block_on(future).is_ok()));
        assert!(block_on(database.atomic_commit(commit([set("after", "1")]))).is_ok());
    }
}

#[test]
fn after_a_failed_write_no_more_are_accepted_and_reads_still_work() {
    let engine = TestedEngine::new();
    let database = TransactionalKvDatabase::open(engine.clone(), StoreOptions::standalone()).unwrap();
    block_on(database.atomic_commit(commit([set("a", "1")]))).unwrap();
    engine.fails.store(true, Ordering::SeqCst);
    assert_eq!(database.write_failure(), None);
    // Only the next start shows what became of the failed write.
    let failed = block_on(database.atomic_commit(commit([set("a", "2")])));
    assert!(matches!(failed, Err(KvError::CommitUnknown(_))), "{failed:?}");
    engine.fails.store(false, Ordering::SeqCst);
    let writes = engine.writes.load(Ordering::SeqCst);
    let refused = block_on(database.atomic_commit(commit([set("a", "3")]))).unwrap_err();
    assert!(matches!(&refused, KvError::NoPrimary(text) if text.contains("on fire")), "{refused}");
    assert!(database.write_failure().is_some_and(|reason| reason.contains("on fire")));
    assert_eq!(engine.writes.load(Ordering::SeqCst), writes);
    assert_eq!(block_on(database.get(KeyRef::new("a"), ReadAt::Stale)).unwrap(), Some("1".into()));
}

#[test]
fn commits_that_wait_behind_a_failed_write_did_not_happen() {
    let engine = TestedEngine::new();
    let database = TransactionalKvDatabase::open(engine.clone(), StoreOptions::standalone()).unwrap();
    engine.close_gate();
    let first = start_commit(&database, "first");
    engine.wait_for_a_write_at_the_gate();
    let mut behind = Box::pin(database.atomic_commit(commit([set("behind", "1")])));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(behind.as_mut().poll(&mut context).is_pending());
    engine.fails.store(true, Ordering::SeqCst);
    engine.open_gate();
    assert!(matches!(first.join().unwrap(), Err(KvError::CommitUnknown(_))));
    let refused = block_on(behind).unwrap_err();
    assert!(matches!(refused, KvError::NoPrimary(_)), "{refused:?}");
}

#[test]
fn a_running_commit_shows_how_long_it_takes() {
    let engine = TestedEngine::new();
    let database = TransactionalKvDatabase::open(engine.clone(), StoreOptions::standalone()).unwrap();
    assert_eq!(database.committing_for(), None);
    engine.close_gate();
    let first = start_commit(&database, "first");
    engine.wait_for_a_write_at_the_gate();
    let before = database.committing_for().expect("a commit is under way");
    while database.committing_for().expect("it still is") <= before {
        std::thread::yield_now();
    }
    engine.open_gate();
    first.join().unwrap().unwrap();
    while database.committing_for().is_some() {
        std::thread::yield_now();
    }
    assert!(database.can_commit());
}

#[test]
fn a_replica_takes_no_commits_past_the_log() {
    let engine = Arc::new(MemoryEngine::new(Durability::UntilFlush));
    let database = TransactionalKvDatabase::open(engine, StoreOptions::replicated()).unwrap();
    let refused = block_on(database.atomic_commit(commit([set("a", "1")])));
    assert!(matches!(refused, Err(KvError::NotSupported(_))), "{refused:?}");
}

#[test]
fn readers_see_whole_batches_while_one_writes() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let version = database.applied_version();
                    let read = |key: &'static str| database.read_at(&KeyRef::new(key), version).unwrap();
                    assert_eq!(read("left"), read("right"), "at {version}");
                }
            });
            for i in 0..2_000 {
                let value = i.to_string();
                apply_one(&database, commit([set("left", &value), set("right", &value)])).unwrap();
                if i % 500 == 0 {
                    database.flush().unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }
}
