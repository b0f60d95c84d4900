//! The database: one writer that applies batches of commits, and readers that never wait for it.
//!
//! Invariants:
//! - all effects of a batch (rows, counters, replication blob) are in one engine batch;
//! - the applied version is published after that batch is in the engine, so a reader at a published version finds
//!   everything of it, and everything newer is invisible to it;
//! - after a failed apply no further one is tried: what the engine holds is then unknown. For lack of space none fails
//!   on a replica: it waits.

#[cfg(test)]
mod races;
mod retention;

use std::{
    sync::{Arc, OnceLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitResult, CommitVerdict, DatabaseStatistics, KeyRef, KvDatabase, KvError, LoggedWrite,
    RangeQuery, ReadAt, Rows, TimedWrite, Version,
};

use crate::{
    clock::Clock,
    collector::{Collected, Collector},
    damage::Damage,
    data_compaction::DataCompaction,
    database_copy::DatabaseCopy,
    engine::{Engine, EngineStatistics, WriteBatch},
    group_commit::{GroupCommit, GroupCommitOptions, PendingWrite, writing_stopped},
    meta::{self, StateBlob},
    range_clears::RangeClears,
    readers::Readers,
    reads::{self, RowsHash},
    space_wait::SpaceWait,
    state_machine::StateMachine,
    sweep::{self, SweepProgress},
    sync::{AtomicU64, Mutex, MutexGuard, RwLock, RwLockReadGuard},
};

pub use retention::RetentionStatistics;

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Recent writes that the conflict index remembers. A check of older ones, and a write to a key whose last write is
    /// older, asks the engine. One entry takes about 150 bytes and the key. Never changes a verdict.
    pub conflict_index_entries: usize,
    /// Existing keys that are remembered, at 16 bytes each, so that overwriting one needs no lookup to keep the row count.
    pub known_keys: usize,
    /// `Some`: [`KvDatabase::atomic_commit`] commits here. `None`: this is a replica, which only applies what was agreed.
    pub group_commit: Option<GroupCommitOptions>,
    /// From so many adjacent entries on, what range clears have made needless is removed from the engine as a range, and may
    /// be held back for that until the end of the run is known. At least 1.
    pub range_delete_entries: u64,
    /// How often a thread looks for what can be removed. `None`: whoever owns the database calls
    /// [`TransactionalKvDatabase::collect_garbage`].
    pub collect_every: Option<Duration>,
    /// By which pins and holds end.
    pub clock: Clock,
}

impl StoreOptions {
    /// For a database that takes commits itself.
    pub fn standalone() -> Self {
        StoreOptions { group_commit: Some(GroupCommitOptions::default()), ..StoreOptions::replicated() }
    }

    /// For a replica's database.
    pub fn replicated() -> Self {
        StoreOptions {
            conflict_index_entries: 200_000,
            known_keys: 2_000_000,
            group_commit: None,
            range_delete_entries: sweep::RANGE_DELETE_ENTRIES,
            collect_every: Some(Duration::from_millis(500)),
            clock: Clock::SYSTEM,
        }
    }
}

/// Makes the replication layer's record of a batch from the batch's verdicts.
pub type Seal<'s> = &'s mut dyn FnMut(&[CommitVerdict]) -> StateBlob;

/// A multi-version transactional database on an [`Engine`].
///
/// Families are plain names here, the default one the empty string. Which families exist is part of the database; the limits
/// of [`kv_api::Limits`] are checked above.
pub struct TransactionalKvDatabase {
    /// First, so that they end before the rest goes.
    group_commit: Option<GroupCommit>,
    _collector: Option<Collector>,
    core: Arc<Core>,
}

impl TransactionalKvDatabase {
    /// Opens the database on `engine`, creating it where the engine is empty. One database per engine at a time.
    pub fn open(engine: Arc<dyn Engine>, options: StoreOptions) -> Result<Arc<Self>, KvError> {
        let core = Arc::new(Core::open(engine, options)?);
        let group_commit = options.group_commit.map(|options| GroupCommit::start(core.clone(), options)).transpose()?;
        let collector = options.collect_every.map(|every| Collector::start(core.clone(), every)).transpose()?;
        Ok(Arc::new(TransactionalKvDatabase { group_commit, _collector: collector, core }))
    }

    /// Decides `writes` in order, each seeing the ones before it, and writes what they change together with the record
    /// that `seal` makes of the verdicts, in one engine batch. For replicas: how durable that is, is the engine's
    /// durability.
    ///
    /// An error is the storage's and final: every later call fails too.
    pub fn apply<'c>(
        &self,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        seal: Seal<'_>,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        self.core.apply(writes, Some(seal))
    }

    /// Decides a write of a standalone database, and returns once it is durable. Writes are in the order of the calls.
    pub async fn write(&self, write: LoggedWrite) -> CommitVerdict {
        self.submit(write)?.await
    }

    /// The same for callers that may give up: it takes its place in the order at once.
    ///
    /// # Errors
    /// [`KvError::NoPrimary`] after a failed write, [`KvError::Overloaded`] when too much waits.
    pub fn submit(&self, write: LoggedWrite) -> Result<PendingWrite, KvError> {
        if let Some(reason) = self.core.write_failure() {
            return Err(KvError::NoPrimary(writing_stopped(&reason)));
        }
        match &self.group_commit {
            Some(group_commit) => group_commit.submit(write),
            None => Err(KvError::NotSupported("a commit to a replica's database, past the consensus log,".into())),
        }
    }

    /// Removes what nobody can ask for any more, looking at `budget_entries` entries or a few dozen more. Writes wait
    /// meanwhile, so the budget should be small; reads do not.
    pub fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError> {
        self.core.collect_garbage(budget_entries)
    }

    /// The record of the last sealed batch.
    pub fn state_blob(&self) -> Result<Option<(u64, Bytes)>, KvError> {
        let state = self.core.damage.watch(meta::load_blob(&*self.core.engine))?;
        Ok(state.map(|state| (state.sequence, state.blob)))
    }

    /// Sequence of the last sealed batch that would survive a crash now; 0 when none would.
    pub fn persisted_sequence(&self) -> Result<u64, KvError> {
        let state = self.core.damage.watch(meta::load_persisted_blob(&*self.core.engine))?;
        Ok(state.map_or(0, |state| state.sequence))
    }

    /// Makes everything applied so far survive a crash.
    pub fn flush(&self) -> Result<(), KvError> {
        self.core.damage.watch(self.core.engine.flush())
    }

    /// A copy of what some recent batch left; writes go on meanwhile. May take long.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] when no batch was ever sealed.
    pub fn copy(&self) -> Result<DatabaseCopy, KvError> {
        self.core.damage.watch(self.core.copy())
    }

    /// Has `tell` called, once, when the database is found to be damaged; at once, if it was found already. Not every
    /// damage is found: only what is read.
    pub fn on_damage(&self, tell: impl FnOnce(&str) + Send + 'static) {
        self.core.damage.tell(Box::new(tell));
    }

    /// Why nothing is written any more: an earlier write failed, and what it left behind is known only after the database
    /// was opened again. Reads go on.
    pub fn write_failure(&self) -> Option<String> {
        self.core.write_failure()
    }

    /// How long the thread that commits has been at its present batch; `None` while it waits for work, and on a replica.
    pub fn committing_for(&self) -> Option<Duration> {
        self.group_commit.as_ref().and_then(GroupCommit::busy_for)
    }

    /// False once the thread that commits has ended, which it does only in a panic.
    pub fn can_commit(&self) -> bool {
        self.group_commit.as_ref().is_none_or(GroupCommit::is_running)
    }

    /// What was found to be damaged.
    pub fn damage(&self) -> Option<String> {
        self.core.damage.found()
    }

    /// Another database has taken its place: its files are removed once the last owner drops it.
    pub fn remove_when_closed(&self) {
        self.core.engine.remove_when_closed();
    }

    /// The process stops: a batch that waits for space on the disk fails instead, now and later.
    pub fn stop_waiting_for_space(&self) {
        self.core.space.give_up();
    }

    /// Bytes applied that the engine has not written to files yet, roughly: what a flush would write.
    pub fn unflushed_bytes(&self) -> u64 {
        self.core.engine.statistics().unflushed_bytes
    }

    pub fn engine_statistics(&self) -> EngineStatistics {
        self.core.engine.statistics()
    }

    /// Whether requests may name the family; the default one is the empty string.
    pub fn has_family(&self, name: &str) -> bool {
        name.is_empty() || self.column_families().iter().any(|family| family == name)
    }

    /// Column families besides the default one, in order.
    pub fn column_families(&self) -> Arc<Vec<String>> {
        read(&self.core.families).clone()
    }

    /// Version of the newest commit that readers see; at least 1.
    pub fn applied_version(&self) -> Version {
        self.core.applied_version()
    }

    /// The value of `key` at `version`.
    ///
    /// # Errors
    /// [`KvError::FutureVersion`] above the applied version, [`KvError::TransactionTooOld`] before the readable window,
    /// [`KvError::UnknownColumnFamily`].
    pub fn read_at(&self, key: &KeyRef, version: Version) -> Result<Option<Bytes>, KvError> {
        self.core.check_applied(version)?;
        self.check_family(&key.column_family)?;
        let clears = self.core.clears();
        let value = self.core.damage.watch(reads::read_key(&*self.core.engine, &clears, key, version.0))?;
        // Asked afterwards: what was readable at this moment was there a moment before.
        self.core.check_readable(version)?;
        Ok(value)
    }

    /// The rows of `query` at `version`. Rows of the reply, never the whole range, are held in memory.
    ///
    /// `max_bytes` counts each row with 16 bytes more than its key and value; a caller that set `target_bytes` gets a
    /// shorter reply there instead of [`KvError::ResultTooLarge`], unless the first row alone is too large.
    ///
    /// # Errors
    /// Those of [`Self::read_at`], too.
    pub fn range_at(&self, query: &RangeQuery, version: Version) -> Result<Rows, KvError> {
        self.range_at_while(query, version, &|| true)
    }

    /// The same, for callers that may lose patience: after every thousand keys or so `goes_on` is asked, and the read is
    /// given up when it says no.
    ///
    /// # Errors
    /// [`KvError::Timeout`] then.
    pub fn range_at_while(
        &self,
        query: &RangeQuery,
        version: Version,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Rows, KvError> {
        let _reading = self.core.readers.begin(version.0);
        self.core.check_applied(version)?;
        self.core.check_readable(version)?;
        self.check_family(&query.column_family)?;
        let clears = self.core.clears();
        self.core.damage.watch(reads::read_range(&*self.core.engine, clears, query, version.0, goes_on))
    }

    /// Hashes the rows of one family at `version`, from the key `begin` on, at most `limit` of them. A family that does not
    /// exist has no rows.
    pub fn hash_rows(&self, family: &str, begin: &[u8], version: Version, limit: u64) -> Result<RowsHash, KvError> {
        self.hash_rows_while(family, begin, version, limit, &|| true)
    }

    /// The same, as [`Self::range_at_while`].
    pub fn hash_rows_while(
        &self,
        family: &str,
        begin: &[u8],
        version: Version,
        limit: u64,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<RowsHash, KvError> {
        let _reading = self.core.readers.begin(version.0);
        self.core.check_applied(version)?;
        self.core.check_readable(version)?;
        let clears = self.core.clears();
        self.core.damage.watch(reads::hash_rows(&*self.core.engine, clears, family, begin, version.0, limit, goes_on))
    }

    fn check_family(&self, name: &str) -> Result<(), KvError> {
        match self.has_family(name) {
            true => Ok(()),
            false => {
                let existing = self.column_families().to_vec();
                Err(KvError::UnknownColumnFamily { name: name.into(), existing })
            }
        }
    }

    pub fn statistics_now(&self) -> DatabaseStatistics {
        let engine = self.core.engine.statistics();
        DatabaseStatistics {
            total_keys: self.core.rows.load(Ordering::Relaxed),
            total_size_bytes: engine.size_bytes,
            committed_transactions: self.core.committed.load(Ordering::Relaxed),
            aborted_transactions: self.core.aborted.load(Ordering::Relaxed),
            compaction_pending_bytes: engine.compaction_pending_bytes,
            cache_hit_rate_percent: engine.cache_hit_rate_percent,
        }
    }

    /// [`ReadAt::Linearizable`] is the newest applied version: all that this database knows. On a replica the caller has
    /// waited for a read point before.
    fn version_of(&self, at: ReadAt) -> Version {
        match at {
            ReadAt::Linearizable | ReadAt::Stale => self.applied_version(),
            ReadAt::Version(version) => version,
        }
    }
}

#[async_trait]
impl KvDatabase for TransactionalKvDatabase {
    async fn read_version(&self) -> Result<Version, KvError> {
        Ok(self.applied_version())
    }

    async fn get(&self, key: KeyRef, at: ReadAt) -> Result<Option<Bytes>, KvError> {
        self.read_at(&key, self.version_of(at))
    }

    /// Runs on the calling thread: for large ranges call it from one that may block.
    async fn get_range(&self, query: RangeQuery, at: ReadAt) -> Result<Rows, KvError> {
        self.range_at(&query, self.version_of(at))
    }

    async fn atomic_commit(&self, commit: AtomicCommit) -> Result<CommitResult, KvError> {
        self.write(LoggedWrite::commit(commit)).await
    }

    async fn statistics(&self) -> Result<DatabaseStatistics, KvError> {
        Ok(self.statistics_now())
    }
}

/// What the group commit thread shares with the database.
pub(crate) struct Core {
    engine: Arc<dyn Engine>,
    writer: Mutex<Writer>,
    /// Why applying has ended for good.
    failure: OnceLock<KvError>,
    damage: Damage,
    space: SpaceWait,
    readers: Arc<Readers>,
    /// Everything at or below the applied version, and perhaps more. Published before that version is.
    clears: RwLock<RangeClears>,
    families: RwLock<Arc<Vec<String>>>,
    horizon: AtomicU64,
    applied: AtomicU64,
    rows: AtomicU64,
    committed: AtomicU64,
    aborted: AtomicU64,
    swept_versions: AtomicU64,
    remembered_ids: AtomicU64,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    state: StateMachine,
    /// Kept for its memory.
    batch: WriteBatch,
    sweep: SweepProgress,
    /// State of the families that was published.
    families: u64,
}

/// A batch buffer above this is given back instead of kept.
const MAX_KEPT_BATCH_BYTES: usize = 16 << 20;

impl Core {
    fn open(engine: Arc<dyn Engine>, options: StoreOptions) -> Result<Self, KvError> {
        meta::claim_format(&*engine)?;
        let state = StateMachine::load(&*engine, options.conflict_index_entries, options.known_keys)?;
        let counters = state.counters();
        Ok(Core {
            engine,
            failure: OnceLock::new(),
            damage: Damage::default(),
            space: SpaceWait::default(),
            readers: Arc::new(Readers::new(options.clock)),
            clears: RwLock::new(state.clears.clone()),
            families: RwLock::new(Arc::new(state.families.names())),
            horizon: AtomicU64::new(state.window.horizon()),
            applied: AtomicU64::new(counters.version),
            rows: AtomicU64::new(counters.rows),
            committed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            swept_versions: AtomicU64::new(0),
            remembered_ids: AtomicU64::new(state.remembered_ids()),
            writer: Mutex::new(Writer {
                families: state.families.changes(),
                state,
                batch: WriteBatch::new(),
                sweep: SweepProgress::new(options.range_delete_entries),
            }),
        })
    }

    /// Replicated time as of the last write.
    pub fn time_us(&self) -> u64 {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).state.window.time_us()
    }

    fn horizon(&self) -> u64 {
        self.horizon.load(Ordering::Acquire)
    }

    fn clears(&self) -> RangeClears {
        read(&self.clears).clone()
    }

    fn applied_version(&self) -> Version {
        Version(self.applied.load(Ordering::Acquire))
    }

    fn copy(&self) -> Result<DatabaseCopy, KvError> {
        let copy = self.engine.copy()?;
        // From the copy itself: whatever was applied meanwhile is not in it.
        let state = meta::load_copied_blob(&*copy)?;
        let empty = || KvError::InvalidOperation("a database without a sealed state is not copied".into());
        Ok(DatabaseCopy::new(state.ok_or_else(empty)?, copy))
    }

    fn check_applied(&self, version: Version) -> Result<(), KvError> {
        let current = self.applied_version();
        match version > current {
            true => Err(KvError::FutureVersion { read_version: version.0, current: current.0 }),
            false => Ok(()),
        }
    }

    fn check_readable(&self, version: Version) -> Result<(), KvError> {
        self.check_within_window(version).or_else(|error| match self.readers.keeps(version.0) {
            true => Ok(()),
            false => Err(error),
        })
    }

    fn check_within_window(&self, version: Version) -> Result<(), KvError> {
        let oldest = self.horizon();
        match version.0 < oldest {
            true => Err(KvError::TransactionTooOld { read_version: version.0, oldest }),
            false => Ok(()),
        }
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, KvError> {
        let writer = self.writer.lock().map_err(|_| KvError::Storage("an earlier apply panicked".into()))?;
        match self.failure.get() {
            // Who asks learns what kind of trouble it was.
            Some(KvError::Overloaded(reason)) => Err(KvError::Overloaded(writing_stopped(reason))),
            Some(error) => Err(KvError::Storage(writing_stopped(&error.to_string()))),
            None => Ok(writer),
        }
    }

    pub fn write_failure(&self) -> Option<String> {
        let panicked = || self.writer.is_poisoned().then(|| "a thread panicked while it was writing".to_string());
        self.failure.get().map(KvError::to_string).or_else(panicked)
    }

    /// Whether writing has ended for good.
    pub fn has_stopped(&self) -> bool {
        self.write_failure().is_some() || self.damage.found().is_some()
    }

    /// Notes an error after which nothing is written any more. The caller holds the writer.
    fn stop_after(&self, error: &KvError) {
        tracing::error!(%error, "a write to the database failed; it accepts no more writes until it is opened again");
        // Only the holder of the writer's lock sets it, once.
        let _ = self.failure.set(error.clone());
    }

    pub fn apply<'c>(
        &self,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        seal: Option<Seal<'_>>,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let mut writer = self.writer()?;
        self.damage.watch(self.apply_with(&mut writer, writes, seal)).inspect_err(|error| self.stop_after(error))
    }

    fn apply_with<'c>(
        &self,
        writer: &mut Writer,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        seal: Option<Seal<'_>>,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let Writer { state, batch, sweep, .. } = writer;
        batch.clear();
        let version_before = state.counters().version;
        let verdicts = state.decide(&*self.engine, writes, batch)?;
        // Neither a repeat nor the passing of time takes a version.
        let committed = state.counters().version - version_before;
        if let Some(seal) = seal {
            meta::put_blob(batch, &seal(&verdicts));
        }
        if !batch.is_empty() {
            self.space.write(&*self.engine, batch)?;
            sweep.written(batch);
        }
        state.written();
        if batch.size_bytes() > MAX_KEPT_BATCH_BYTES {
            *batch = WriteBatch::new();
        }
        self.publish(writer);
        let aborted = verdicts.iter().filter(|verdict| verdict.is_err()).count() as u64;
        self.committed.fetch_add(committed, Ordering::Relaxed);
        self.aborted.fetch_add(aborted, Ordering::Relaxed);
        Ok(verdicts)
    }

    pub fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError> {
        // A floor from before is as good: it only rises.
        let floor = self.readers.floor(|| self.horizon());
        self.engine.set_filter_floor(self.damage.watch(sweep::filter_floor(&*self.engine))?);
        let mut writer = self.writer()?;
        let collected = self.damage.watch(self.sweep_with(&mut writer, floor, budget_entries));
        collected.inspect_err(|error| self.stop_after(error))
    }

    /// One step of rewriting the data table, if that is due; returns whether there is more to do. Nobody waits for it.
    pub fn compact(&self, compaction: &mut DataCompaction) -> Result<bool, KvError> {
        self.damage.watch(compaction.step(&*self.engine, self.rows.load(Ordering::Relaxed)))
    }

    /// Nobody else writes while what the sweeper reads becomes what it removes.
    fn sweep_with(&self, writer: &mut Writer, floor: u64, budget_entries: u64) -> Result<Collected, KvError> {
        let Writer { state, batch, sweep, .. } = writer;
        batch.clear();
        let swept = sweep::sweep(&*self.engine, floor, budget_entries, sweep, batch)?;
        state.sweep(batch, &swept);
        if !batch.is_empty() {
            self.space.write(&*self.engine, batch)?;
            sweep.written(batch);
        }
        self.publish(writer);
        self.swept_versions.fetch_add(swept.removed_versions, Ordering::Relaxed);
        Ok(Collected { removed_versions: swept.removed_versions, more: swept.more })
    }

    /// Shows readers what the writer has written. The version comes last: who sees it sees all that belongs to it.
    fn publish(&self, writer: &mut Writer) {
        let state = &writer.state;
        if !read(&self.clears).is_same_as(&state.clears) {
            *self.clears.write().unwrap_or_else(PoisonError::into_inner) = state.clears.clone();
        }
        if state.families.changes() != writer.families {
            writer.families = state.families.changes();
            *self.families.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state.families.names());
        }
        let counters = state.counters();
        let applied = self.applied.load(Ordering::Relaxed);
        assert!(counters.version >= applied, "the version went back: {applied} -> {}", counters.version);
        self.rows.store(counters.rows, Ordering::Relaxed);
        self.remembered_ids.store(state.remembered_ids(), Ordering::Relaxed);
        self.horizon.store(state.window.horizon(), Ordering::Release);
        self.applied.store(counters.version, Ordering::Release);
    }
}
