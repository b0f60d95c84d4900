//! A node's database: the shipped executor over the shipped transactional store, on engines in
//! memory that lose at a crash what was not flushed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kv_api::access::Policy;
use kv_api::{KeyRef, KvError, RangeQuery, Rows, Version};
use kv_server::replication::{DatabasePlace, KvStoreExecutor};
use kv_server::router::{LocalReader, ReadSlots};
use kv_store::engine::EngineInstall;
use kv_store::{
    Clock, DatabaseInstall, Durability, Engine, JournalOptions, JournalPlace, MemoryEngine, MemoryInstall,
    StoreOptions, TransactionalKvDatabase,
};
use rsml::{CommittedValue, ExecutedBatch, ExecutionError, ExecutionNotifier, SealedState, Sequence, Snapshots};

use super::clock::standard_time;
use super::engine::FlushingEngine;
use super::journal::{SimulatedJournal, any_retention};
use super::oracle::{Moment, Oracle};
use super::random::Random;
use super::rows::{BANK, JOURNAL, query};

/// The longest lifetimes of pins that a process may have, in milliseconds: from one tick to longer
/// than any simulation takes, so that its pins end only when they are taken away.
const PIN_LIFETIMES_MS: [u64; 6] = [10, 200, 1_000, 5_000, 1_000_000_000, 1_000_000_000];

/// The state that outlives the process: an engine for each generation.
pub struct DatabaseFiles {
    engines: Mutex<BTreeMap<u64, Arc<FlushingEngine>>>,
    journals: Mutex<BTreeMap<u64, Arc<SimulatedJournal>>>,
    /// The one that was opened last.
    journal: Mutex<Arc<SimulatedJournal>>,
    options: Mutex<StoreOptions>,
    /// Engines flush by themselves once in this many writes; and a seed.
    flushing: Mutex<(u64, u64)>,
    oracle: Oracle,
    is_witness: bool,
}

/// The live database as readers see it. Every read is compared with the answer of the [`Oracle`].
pub struct Database {
    reader: LocalReader,
    oracle: Oracle,
    pins: Arc<Pins>,
    /// The longest that this process pins anything.
    longest_pin: Duration,
    /// Of its journal; `None`: there is none.
    retention: Option<JournalOptions>,
}

/// When each pin of each version of the live database ends.
#[derive(Default)]
struct Pins(Mutex<BTreeMap<u64, Vec<Instant>>>);

impl Pins {
    /// Those that have not ended.
    fn ends(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Instant>>> {
        let (mut pins, now) = (self.0.lock().expect("one thread runs a simulation"), standard_time());
        pins.retain(|_, ends| {
            ends.retain(|end| *end > now);
            !ends.is_empty()
        });
        pins
    }
}

impl DatabaseFiles {
    /// Those of a witness hold no rows.
    pub fn new(oracle: Oracle, is_witness: bool) -> Arc<DatabaseFiles> {
        let options = Mutex::new(StoreOptions::replicated());
        Arc::new(DatabaseFiles {
            engines: Mutex::default(),
            journals: Mutex::default(),
            journal: Mutex::default(),
            options,
            flushing: Mutex::default(),
            oracle,
            is_witness,
        })
    }

    /// Those of an empty disk.
    pub fn another(&self) -> Arc<DatabaseFiles> {
        DatabaseFiles::new(self.oracle.clone(), self.is_witness)
    }

    fn engines(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<FlushingEngine>>> {
        self.engines.lock().expect("one thread runs a simulation")
    }

    fn options(&self) -> StoreOptions {
        *self.options.lock().expect("one thread runs a simulation")
    }

    fn journals(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<SimulatedJournal>>> {
        self.journals.lock().expect("one thread runs a simulation")
    }

    /// Of the live database.
    pub fn journal(&self) -> Arc<SimulatedJournal> {
        self.journal.lock().expect("one thread runs a simulation").clone()
    }

    /// `database` is the live one from now on. `names`: of the files of its journal that it found.
    fn note_journal(&self, journal: Arc<SimulatedJournal>, names: &[u64], database: &TransactionalKvDatabase) {
        if let Some(statistics) = database.journal_statistics() {
            let oldest = statistics.oldest.expect("memory never fails");
            journal.opened(names, database.applied_version().0, oldest);
        }
        *self.journal.lock().expect("one thread runs a simulation") = journal;
    }

    fn flushing(&self) -> (u64, u64) {
        *self.flushing.lock().expect("one thread runs a simulation")
    }

    /// To be called when the process is dead.
    pub fn crash(&self, power_loss: bool) {
        self.engines().values().for_each(|engine| engine.crash());
        if power_loss {
            let mut random = Random::new(!self.flushing().1);
            self.journals().values().for_each(|journal| journal.lose_power(&mut random));
        }
    }

    /// All databases are gone.
    pub fn wipe(&self) {
        self.engines().clear();
        self.journals().clear();
    }

    /// `highest_level`: the highest feature level that the program executes.
    pub fn open(self: &Arc<Self>, generation: u64, highest_level: u32, random: &mut Random) -> (Database, Executor) {
        // Small caches, so that verdicts come from the table as well as from memory.
        let options = StoreOptions {
            conflict_index_entries: random.pick(&[0, 3, 50, 1_000]),
            known_keys: random.pick(&[1, 16, 1_000]),
            row_cache_bytes: random.pick(&[0, 1_000, 100_000]),
            range_delete_entries: random.pick(&[1, 2, 4, 1_000]),
            highest_level,
            collect_every: None,
            clock: Clock::new(standard_time),
            ..StoreOptions::replicated()
        };
        let flushing = (random.pick(&[0, 2, 30]), random.draw());
        *self.flushing.lock().expect("one thread runs a simulation") = flushing;
        let journal = any_retention(&mut Random::new(flushing.1.rotate_left(32))).filter(|_| !self.is_witness);
        *self.options.lock().expect("one thread runs a simulation") = StoreOptions { journal, ..options };
        let executor =
            KvStoreExecutor::open(self.clone(), ReadSlots::new(1), generation).expect("the database is sound");
        let (oracle, pins) = (self.oracle.clone(), Arc::<Pins>::default());
        let longest_pin = Duration::from_millis(random.pick(&PIN_LIFETIMES_MS));
        let reader = executor.reader().clone();
        let database = Database { reader, oracle: oracle.clone(), pins: pins.clone(), longest_pin, retention: journal };
        let oracle = (!self.is_witness).then_some(oracle);
        (database, Executor { inner: executor, oracle, pins, slips: false, slipped: false })
    }
}

impl DatabasePlace for DatabaseFiles {
    fn open(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError> {
        let mut engines = self.engines();
        engines.retain(|other, _| *other == generation);
        let engine = engines
            .entry(generation)
            .or_insert_with(|| Arc::new(FlushingEngine::new(MemoryEngine::new(Durability::UntilFlush))));
        let (writes, seed) = self.flushing();
        engine.flush_once_in(writes, Random::new(seed ^ generation));
        let mut journals = self.journals();
        journals.retain(|other, _| *other == generation);
        let journal = journals.entry(generation).or_default();
        let options = self.options();
        if options.journal.is_none() {
            journal.remove_all();
        }
        let names = journal.list().expect("memory never fails");
        let database = TransactionalKvDatabase::open_with_journal(engine.clone(), options, journal.clone())?;
        self.note_journal(journal.clone(), &names, &database);
        Ok(database)
    }

    fn is_witness(&self) -> bool {
        self.is_witness
    }

    fn create(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError> {
        let engine = Arc::new(FlushingEngine::new(MemoryEngine::new(Durability::UntilFlush)));
        self.engines().insert(generation, engine.clone());
        self.journals().insert(generation, Arc::default());
        TransactionalKvDatabase::open(engine, self.options())
    }

    fn begin_install(self: Arc<Self>, generation: u64) -> Result<DatabaseInstall, KvError> {
        self.engines().remove(&generation);
        let journal = Arc::<SimulatedJournal>::default();
        self.journals().insert(generation, journal.clone());
        let options = self.options();
        let install = Install { inner: MemoryInstall::new(Durability::UntilFlush), place: self, generation };
        Ok(DatabaseInstall::new(Box::new(install), options).with_journal(journal))
    }

    /// The former database is gone at once; running readers keep theirs.
    fn watch(self: Arc<Self>, generation: u64, database: &TransactionalKvDatabase) {
        self.engines().retain(|other, _| *other >= generation);
        self.journals().retain(|other, _| *other >= generation);
        let journal = self.journals()[&generation].clone();
        // It begins with the copy.
        self.note_journal(journal, &[], database);
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

    pub fn store(&self) -> Arc<TransactionalKvDatabase> {
        self.reader.database()
    }

    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    pub fn retention(&self) -> Option<JournalOptions> {
        self.retention
    }

    pub fn flush(&self) {
        self.reader.database().flush().expect("memory never fails");
    }

    /// Where the database stands.
    pub fn moment(&self) -> Moment {
        let state = self.reader.database().state_blob().expect("memory never fails");
        self.oracle.moment(Sequence(state.map_or(0, |(sequence, _)| sequence)))
    }

    /// The database's own state agrees with the log.
    pub fn check(&self) {
        let (store, moment) = (self.reader.database(), self.moment());
        let said = (store.applied_version().0, store.oldest_readable().0, store.column_families());
        let expected = (moment.version, moment.oldest_readable.max(1), moment.families);
        assert_eq!(said, expected, "newest and oldest readable version, and families, are not those of the log");
        assert_eq!(store.policy(), moment.policy, "users and roles are not those of the log");
    }

    /// The policy, if it is enabled.
    pub fn enabled_policy(&self) -> Option<Arc<Policy>> {
        let store = self.reader.database();
        (store.enabled_revision() > 0).then(|| store.policy())
    }

    pub fn get(&self, key: &KeyRef, version: u64) -> Result<Option<Bytes>, KvError> {
        let found = self.reader.database().read_at(key, Version(version));
        let moment = self.moment();
        let expected = moment
            .check_applied(version)
            .and_then(|()| moment.check_family(&key.column_family))
            .and_then(|()| moment.check_readable(version, self.is_pinned(version)))
            .map(|()| self.oracle.get(key, version));
        assert_eq!(found, expected, "wrong read of {key:?} at {version}: first what was read, then what the log says");
        nothing_yet(found)
    }

    pub fn range(&self, query: &RangeQuery, version: u64) -> Result<Rows, KvError> {
        let found = self.reader.database().range_at(query, Version(version));
        let moment = self.moment();
        let expected = moment
            .check_applied(version)
            .and_then(|()| moment.check_readable(version, self.is_pinned(version)))
            .and_then(|()| moment.check_family(&query.column_family))
            .and_then(|()| self.oracle.range(query, version));
        assert_eq!(
            found, expected,
            "wrong read of {query:?} at {version}: first what was read, then what the log says"
        );
        nothing_yet(found)
    }

    fn is_pinned(&self, version: u64) -> bool {
        self.pins.ends().contains_key(&version)
    }

    /// One that can be read at this moment, or some day, can be pinned, and no other. The lifetime
    /// is up to the longest of this process, often exactly that.
    pub fn pin(&self, version: u64, random: &mut Random) {
        let longest_us = self.longest_pin.as_micros() as u64;
        let lifetime = Duration::from_micros(if random.one_in(2) { longest_us } else { random.below(longest_us) });
        let expected = self.moment().check_readable(version, self.is_pinned(version));
        let pinned = self.reader.database().pin(Version(version), lifetime);
        assert_eq!(pinned, expected, "a pin of {version}: first what came of it, then what the log says");
        if pinned.is_ok() {
            self.pins.ends().entry(version).or_default().push(standard_time() + lifetime);
        }
    }

    /// Takes away the pin of a pinned version that would have ended first.
    pub fn unpin(&self, version: u64) {
        self.reader.database().unpin(Version(version));
        let mut pins = self.pins.ends();
        let ends = pins.get_mut(&version).expect("it is pinned");
        ends.sort_unstable();
        ends.remove(0);
    }

    /// Those that are applied.
    pub fn pinned(&self) -> Vec<u64> {
        let applied = self.applied_version();
        self.pins.ends().range(..=applied).map(|(version, _)| *version).collect()
    }

    /// Whether there is more to do at this moment.
    pub fn collect_garbage(&self, budget_entries: u64) -> bool {
        self.reader.database().collect_garbage(budget_entries).expect("memory never fails").more
    }

    pub fn pending_clears(&self) -> u64 {
        self.reader.database().pending_clears()
    }

    /// All rows of all families but the journal's are what the log says.
    pub fn compare(&self, version: u64) {
        for family in self.oracle.families().iter().filter(|family| self.moment().check_family(family).is_ok()) {
            self.range(&query("", vec![JOURNAL], family), version).expect("it can be read");
        }
    }

    /// All rows of all families that there ever were are what the log says.
    pub fn compare_all(&self, version: u64) {
        for family in self.oracle.families() {
            let rows = self.reader.database().hash_rows(&family, b"", Version(version), u64::MAX);
            let rows = rows.expect("it can be read");
            assert_eq!(rows.next, None, "all rows were asked for");
            if (rows.count, rows.hash) != self.oracle.rows_hash(&family, version) {
                self.compare(version);
                panic!("wrong rows of family {family:?} at {version}: {} of them", rows.count);
            }
        }
    }

    /// The number of rows that it claims to have, of which those count, too, that a range clear
    /// hides.
    pub fn check_row_count(&self) {
        let (version, claimed) = (self.applied_version(), self.reader.database().statistics_now().total_keys);
        let counts = self.oracle.families().into_iter().map(|family| self.oracle.rows_hash(&family, version).0);
        let visible: u64 = counts.sum();
        assert!(claimed >= visible, "{claimed} rows are claimed, and {visible} are visible");
        let is_exact = self.pending_clears() == 0;
        assert!(!is_exact || claimed == visible, "{claimed} rows are claimed, and {visible} there are");
    }
}

/// A family that the first write creates is empty before that.
fn nothing_yet<T: Default>(read: Result<T, KvError>) -> Result<T, KvError> {
    match read {
        Err(KvError::UnknownColumnFamily { name, .. }) if name == BANK => Ok(T::default()),
        read => read,
    }
}

/// The shipped executor, which can be made to go wrong without noticing.
pub struct Executor {
    inner: KvStoreExecutor,
    /// None for a witness, which has no outcomes.
    oracle: Option<Oracle>,
    pins: Arc<Pins>,
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

/// A batch of the shipped executor; its outcomes are compared with the oracle's.
struct CheckedBatch<'e> {
    executed: Box<dyn ExecutedBatch + 'e>,
    values: &'e [CommittedValue],
    oracle: Option<&'e Oracle>,
    /// Wrong outcomes that go into the running digest, if the executor made a mistake.
    wrong_outcomes: Option<Vec<Bytes>>,
}

impl ExecutedBatch for CheckedBatch<'_> {
    fn outcomes(&self) -> &[Bytes] {
        self.wrong_outcomes.as_deref().unwrap_or_else(|| self.executed.outcomes())
    }

    fn commit(self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError> {
        let outcomes = self.executed.commit(sealed)?;
        if let Some(oracle) = self.oracle {
            oracle.executed(self.values, &outcomes);
        }
        Ok(outcomes)
    }
}

impl ExecutionNotifier for Executor {
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        let executed = self.inner.notify_commit_batch(values)?;
        let mut wrong_outcomes = None;
        if !executed.outcomes().is_empty() && std::mem::take(&mut self.slips) {
            self.slipped = true;
            let mut outcomes = executed.outcomes().to_vec();
            outcomes[0] = Bytes::from_static(b"another outcome");
            wrong_outcomes = Some(outcomes);
        }
        Ok(Box::new(CheckedBatch { executed, values, oracle: self.oracle.as_ref(), wrong_outcomes }))
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
        self.pins.ends().clear();
        self.inner.switch_to(generation)
    }
}
