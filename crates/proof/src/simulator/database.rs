//! A node's database: the shipped executor over the shipped transactional store, on engines in memory that lose at a crash
//! what was not flushed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use kv_api::{AtomicCommit, KeyRef, KvError, LoggedWrite, RangeQuery, Rows, Version};
use kv_server::replication::{DatabasePlace, KvStoreExecutor};
use kv_server::router::{LocalReader, ReadSlots};
use kv_store::engine::EngineInstall;
use kv_store::{
    DatabaseInstall, Durability, Engine, MemoryEngine, MemoryInstall, StoreOptions, TransactionalKvDatabase,
};
use rsml::{CommittedValue, ExecutionError, ExecutionNotifier, SealedState, Sequence, Snapshots};

use super::engine::FlushingEngine;
use super::random::Random;
use super::workload::BANK;

/// What outlives the process: an engine for each generation.
pub struct DatabaseFiles {
    engines: Mutex<BTreeMap<u64, Arc<FlushingEngine>>>,
    options: Mutex<StoreOptions>,
    /// Engines flush by themselves once in so many writes; and a seed.
    flushing: Mutex<(u64, u64)>,
}

/// The live database as readers see it.
pub struct Database {
    reader: LocalReader,
}

impl DatabaseFiles {
    pub fn new() -> Arc<DatabaseFiles> {
        let options = Mutex::new(StoreOptions::replicated());
        Arc::new(DatabaseFiles { engines: Mutex::default(), options, flushing: Mutex::default() })
    }

    fn engines(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<FlushingEngine>>> {
        self.engines.lock().expect("one thread runs a simulation")
    }

    fn options(&self) -> StoreOptions {
        *self.options.lock().expect("one thread runs a simulation")
    }

    /// To be called when the process is dead.
    pub fn crash(&self) {
        self.engines().values().for_each(|engine| engine.crash());
    }

    /// Another disk takes the place of this one.
    pub fn wipe(&self) {
        self.engines().clear();
    }

    pub fn open(self: &Arc<Self>, generation: u64, random: &mut Random) -> (Database, Executor) {
        // Small caches, so that verdicts come from the table as well as from memory.
        *self.options.lock().expect("one thread runs a simulation") = StoreOptions {
            conflict_index_entries: random.pick(&[0, 3, 50, 1_000]),
            known_keys: random.pick(&[1, 16, 1_000]),
            collect_every: None,
            ..StoreOptions::replicated()
        };
        let flushing = (random.pick(&[0, 2, 30]), random.draw());
        *self.flushing.lock().expect("one thread runs a simulation") = flushing;
        let executor =
            KvStoreExecutor::open(self.clone(), ReadSlots::new(1), generation).expect("the database is sound");
        (Database { reader: executor.reader().clone() }, Executor { inner: executor, slips: false, slipped: false })
    }
}

impl DatabasePlace for DatabaseFiles {
    fn open(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError> {
        let mut engines = self.engines();
        engines.retain(|other, _| *other == generation);
        let engine = engines
            .entry(generation)
            .or_insert_with(|| Arc::new(FlushingEngine::new(MemoryEngine::new(Durability::UntilFlush))));
        let (writes, seed) = *self.flushing.lock().expect("one thread runs a simulation");
        engine.flush_once_in(writes, Random::new(seed ^ generation));
        TransactionalKvDatabase::open(engine.clone(), self.options())
    }

    fn begin_install(self: Arc<Self>, generation: u64) -> Result<DatabaseInstall, KvError> {
        self.engines().remove(&generation);
        let options = self.options();
        let install = Install { inner: MemoryInstall::new(Durability::UntilFlush), place: self, generation };
        Ok(DatabaseInstall::new(Box::new(install), options))
    }

    /// Whatever was before is gone at once; readers keep what they read.
    fn watch(self: Arc<Self>, generation: u64, _database: &TransactionalKvDatabase) {
        self.engines().retain(|other, _| *other >= generation);
    }

    fn survive_exit(&self) -> bool {
        true
    }

    fn start_flush(&self, database: Arc<TransactionalKvDatabase>) {
        database.flush().expect("memory never fails");
    }

    fn close(&self, _database: Arc<TransactionalKvDatabase>) {}
}

/// Keeps the engine that is made, so that it can be crashed.
struct Install {
    inner: MemoryInstall,
    place: Arc<DatabaseFiles>,
    generation: u64,
}

impl EngineInstall for Install {
    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn Engine>, KvError> {
        let engine = Arc::new(FlushingEngine::new(self.inner.into_engine()?));
        self.place.engines().insert(self.generation, engine.clone());
        Ok(engine)
    }
}

impl Database {
    pub fn applied_version(&self) -> u64 {
        self.reader.database().applied_version().0
    }

    pub fn flush(&self) {
        self.reader.database().flush().expect("memory never fails");
    }

    pub fn get(&self, key: &KeyRef, version: u64) -> Result<Option<Bytes>, KvError> {
        nothing_yet(self.reader.database().read_at(key, Version(version)))
    }

    pub fn range(&self, query: &RangeQuery, version: u64) -> Result<Rows, KvError> {
        nothing_yet(self.reader.database().range_at(query, Version(version)))
    }

    /// A hash over all rows of all families as they are now.
    pub fn hash(&self, families: &[&str]) -> u64 {
        let store = self.reader.database();
        let version = store.applied_version();
        families.iter().fold(0, |sum: u64, family| {
            let rows = store.hash_rows(family, b"", version, u64::MAX).expect("memory never fails");
            assert_eq!(rows.next, None, "all rows were asked for");
            sum.rotate_left(7) ^ rows.hash ^ rows.count
        })
    }
}

/// A family that the first write creates is empty before that.
fn nothing_yet<T: Default>(read: Result<T, KvError>) -> Result<T, KvError> {
    match read {
        Err(KvError::UnknownColumnFamily { name, .. }) if name == BANK => Ok(T::default()),
        read => read,
    }
}

/// A commit as it stands in the log.
pub fn encode(commit: AtomicCommit) -> Bytes {
    // As a server does whose configuration lists the family.
    LoggedWrite { creates: vec![BANK.into()], ..LoggedWrite::commit(commit) }.to_bytes()
}

/// The shipped executor, which can be made to go wrong without noticing.
pub struct Executor {
    inner: KvStoreExecutor,
    /// The next request is to go wrong.
    slips: bool,
    /// One went wrong.
    slipped: bool,
}

impl Executor {
    /// The outcome of the next request goes wrong, as far as the running digest is concerned.
    pub fn slip(&mut self) {
        self.slips = true;
    }

    /// Whether the database is not what the log says, because of this process.
    pub fn has_slipped(&self) -> bool {
        self.slipped
    }
}

impl ExecutionNotifier for Executor {
    fn notify_commit_batch(
        &mut self,
        values: &[CommittedValue],
        seal: &mut dyn FnMut(&[Bytes]) -> SealedState,
    ) -> Result<Vec<Bytes>, ExecutionError> {
        let (slips, slipped) = (&mut self.slips, &mut self.slipped);
        self.inner.notify_commit_batch(values, &mut |outcomes| {
            if outcomes.is_empty() || !std::mem::take(slips) {
                return seal(outcomes);
            }
            *slipped = true;
            let mut outcomes = outcomes.to_vec();
            outcomes[0] = Bytes::from_static(b"another outcome");
            seal(&outcomes)
        })
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        self.inner.sealed_state()
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.inner.next_expected_sequence()
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        self.inner.persisted_sequence()
    }

    fn start_flush(&mut self) {
        self.inner.start_flush();
    }

    fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        self.inner.snapshots()
    }

    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        self.slipped = false;
        self.inner.switch_to(generation)
    }
}
