//! A database: one writer applies batches of commits, and readers never wait for it.
//!
//! Invariants:
//! - all effects of a batch (rows, counters, replication blob) are in one engine batch;
//! - the applied version is published after that batch is in the engine, so a reader at a published
//!   version finds everything of it, and everything newer is invisible to it;
//! - after a failed write no further one is tried, because the content of the engine is unknown
//!   then. A full disk is no failure on a replica: the write waits for space.

mod bulk_load;
mod changes;
mod copy;
mod core;
mod damage;
mod garbage;
mod group_commit;
mod handover;
mod install;
mod new_history;
mod oneshot;
mod options;
mod prepared;
#[cfg(test)]
mod races;
mod reads;
mod retention;
mod space_wait;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::access::Policy;
use kv_api::{
    AtomicCommit, CommitResult, CommitVerdict, DatabaseStatistics, KeyRef, KvDatabase, KvError, LoggedWrite,
    RangeQuery, ReadAt, Rows, TimedWrite, Version,
};

use stage_times::StageTimes;

use crate::engine::{Engine, EngineStatistics};
use crate::gc::collector::{Collectable, Collected, Collector};
use crate::journal::{Journal, JournalPlace};
use crate::meta;
pub use core::RevisionBoard;
use core::{Core, read, writing_stopped};
use group_commit::GroupCommit;

pub use bulk_load::BulkLoad;
pub use copy::DatabaseCopy;
pub use group_commit::PendingWrite;
pub use install::DatabaseInstall;
pub use options::{GroupCommitOptions, StoreOptions};
pub use prepared::PreparedBatch;
pub use retention::RetentionStatistics;

/// A multi-version transactional database on an [`Engine`].
///
/// Families are plain names here, the default one the empty string. The database records which
/// families exist; the layers above check the limits of [`kv_api::Limits`].
pub struct TransactionalKvDatabase {
    /// First, so that the threads end before the engine is dropped.
    group_commit: Option<GroupCommit>,
    _collector: Option<Collector>,
    core: Arc<Core>,
    /// The highest feature level that this program executes.
    highest_level: u32,
}

impl TransactionalKvDatabase {
    /// Opens the database on `engine`, and creates it in an empty engine. An engine serves one
    /// database at a time.
    ///
    /// # Errors
    /// [`KvError::Storage`] for a database of an unknown format, [`KvError::Corruption`] for a
    /// damaged one, and other errors of the storage.
    pub fn open(engine: Arc<dyn Engine>, options: StoreOptions) -> Result<Arc<Self>, KvError> {
        let place = changes::place_of_journal(&*engine, options.journal.is_some());
        Self::open_with_journal(engine, options, place)
    }

    /// Like [`Self::open`], with the files of the journal in this place. It belongs to this database
    /// alone.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with_journal(
        engine: Arc<dyn Engine>,
        options: StoreOptions,
        place: Arc<dyn JournalPlace>,
    ) -> Result<Arc<Self>, KvError> {
        let journal = |version| Some(Journal::open(place, options.journal?, version));
        let core = Arc::new(Core::open(engine, options, journal)?);
        let group_commit = options.group_commit.map(|options| GroupCommit::start(core.clone(), options)).transpose()?;
        let collector = options.collect_every.map(|every| Collector::start(core.clone(), every)).transpose()?;
        let highest_level = options.highest_level;
        Ok(Arc::new(TransactionalKvDatabase { group_commit, _collector: collector, core, highest_level }))
    }

    /// Decides `writes` in order, each seeing the effects of the ones before it, and writes nothing
    /// yet. The caller reads the verdicts and then calls [`PreparedBatch::commit`]. Until then all
    /// other writers wait, including the garbage collector; readers do not. For replicas.
    ///
    /// # Errors
    /// Those of the storage. They are final: every later call fails, too.
    pub fn prepare<'c>(&self, writes: impl IntoIterator<Item = &'c TimedWrite>) -> Result<PreparedBatch<'_>, KvError> {
        self.core.prepare(writes, None)
    }

    /// Like [`Self::prepare`], for a batch after which the database has the feature level `level`:
    /// the present one or a higher one.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub fn prepare_at<'c>(
        &self,
        writes: impl IntoIterator<Item = &'c TimedWrite>,
        level: u32,
    ) -> Result<PreparedBatch<'_>, KvError> {
        self.core.prepare(writes, Some(level))
    }

    /// The feature level: the kinds of writes that the database may have applied.
    pub fn level(&self) -> u32 {
        self.core.level()
    }

    /// Raises the feature level of a standalone database to `level`, and returns the present one,
    /// once that survives a crash. Blocks.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] for a lower level than the present one, or one that this
    /// program does not execute; [`KvError::NotSupported`] on a replica's database; and those of
    /// the storage, which are final.
    pub fn raise_level(&self, level: u32) -> Result<u32, KvError> {
        let (present, highest) = (self.level(), self.highest_level);
        if self.group_commit.is_none() {
            return Err(KvError::NotSupported("a raise of a replica's level, past the consensus log,".into()));
        }
        if level < present || level > highest {
            return Err(KvError::InvalidOperation(format!(
                "the feature level is {present} and never goes down; this program executes levels up to {highest}"
            )));
        }
        self.core.prepare([], Some(level))?.write(None)?;
        Ok(self.level())
    }

    /// Whether nothing was ever written.
    pub fn is_unwritten(&self) -> bool {
        self.applied_version() == Version::EMPTY && self.column_families().is_empty()
    }

    /// Executes a write on a standalone database, and returns once it is durable. Writes are
    /// decided in the order of the calls.
    pub async fn write(&self, write: LoggedWrite) -> CommitVerdict {
        self.submit(write)?.await
    }

    /// Like [`Self::write`], for callers that may give up: the write is queued when the call
    /// returns.
    ///
    /// # Errors
    /// [`KvError::NoPrimary`] after a failed write, [`KvError::Overloaded`] when the queue is full,
    /// [`KvError::NotSupported`] on a replica's database.
    pub fn submit(&self, write: LoggedWrite) -> Result<PendingWrite, KvError> {
        if let Some(reason) = self.core.write_failure() {
            return Err(KvError::NoPrimary(writing_stopped(&reason)));
        }
        match &self.group_commit {
            Some(group_commit) => group_commit.submit(write),
            None => Err(KvError::NotSupported("a commit to a replica's database, past the consensus log,".into())),
        }
    }

    /// Removes garbage, looking at about `budget_entries` entries. Writes wait during the call, so
    /// the budget should be small; reads do not.
    ///
    /// # Errors
    /// Those of the storage. After a failed write they are final.
    pub fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError> {
        self.core.collect_garbage(budget_entries)
    }

    /// Sequence and blob of the last committed batch; `None` before the first.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn state_blob(&self) -> Result<Option<(u64, Bytes)>, KvError> {
        let state = self.core.damage.watch(meta::load_blob(&*self.core.engine))?;
        Ok(state.map(|state| (state.sequence, state.blob)))
    }

    /// Sequence of the last batch that would survive a crash now; 0 when none would.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn persisted_sequence(&self) -> Result<u64, KvError> {
        let state = self.core.damage.watch(meta::load_persisted_blob(&*self.core.engine))?;
        Ok(state.map_or(0, |state| state.sequence))
    }

    /// Makes everything applied so far survive a crash.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn flush(&self) -> Result<(), KvError> {
        // First, so that the journal is not behind what survives.
        if let Some(journal) = &self.core.journal {
            journal.sync();
        }
        self.core.damage.watch(self.core.engine.flush())
    }

    /// A copy of the database as some recent batch left it. Writes continue meanwhile. May take
    /// long.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] before the first batch with a state blob.
    pub fn copy(&self) -> Result<DatabaseCopy, KvError> {
        self.core.damage.watch(self.core.copy())
    }

    /// Calls `report` once, when damage to the database is found; at once if it was found before.
    /// Damage is found only in data that is read.
    pub fn on_damage(&self, report: impl FnOnce(&str) + Send + 'static) {
        self.core.damage.report_to(Box::new(report));
    }

    /// Why the database accepts no writes: an earlier one failed, and only opening the database
    /// again shows what became of it. Reads still work. `None` while it accepts writes.
    pub fn write_failure(&self) -> Option<String> {
        self.core.write_failure()
    }

    /// How long the group commit thread has worked on its current batch; `None` while it is idle,
    /// and on a replica.
    pub fn committing_for(&self) -> Option<Duration> {
        self.group_commit.as_ref().and_then(GroupCommit::busy_for)
    }

    /// How long writes spend in each stage of the group commit. `None` on a replica.
    pub fn stages(&self) -> Option<&StageTimes> {
        self.group_commit.as_ref().map(GroupCommit::stages)
    }

    /// Whether the group commit thread is alive; it ends only in a panic. True on a replica.
    pub fn can_commit(&self) -> bool {
        self.group_commit.as_ref().is_none_or(GroupCommit::is_running)
    }

    /// The first damage found.
    pub fn damage(&self) -> Option<String> {
        self.core.damage.found()
    }

    /// Another database replaces this one: its files are removed once the last owner drops it.
    pub fn remove_when_closed(&self) {
        self.core.engine.remove_when_closed();
    }

    /// The process is stopping: a batch that waits for disk space fails instead, now and later.
    pub fn stop_waiting_for_space(&self) {
        self.core.space.give_up();
    }

    /// Approximate bytes that are applied and not in files yet: what a flush would write.
    pub fn unflushed_bytes(&self) -> u64 {
        self.core.engine.statistics().unflushed_bytes
    }

    /// Size, cache and compaction figures of the engine.
    pub fn engine_statistics(&self) -> EngineStatistics {
        self.core.engine.statistics()
    }

    /// Whether requests may name the family. The default one is the empty string.
    pub fn has_family(&self, name: &str) -> bool {
        name.is_empty() || self.column_families().iter().any(|family| family == name)
    }

    /// Users, roles and tokens, as of the applied version or a later one.
    pub fn policy(&self) -> Arc<Policy> {
        read(&self.core.policy).clone()
    }

    /// The revision of [`Self::policy`] if it is enabled, otherwise 0.
    pub fn enabled_revision(&self) -> u64 {
        self.core.enabled_revision.load(Ordering::Acquire)
    }

    /// Shows [`Self::enabled_revision`] on this board from now on. A database has one board.
    pub fn show_revision_on(&self, board: Arc<RevisionBoard>) {
        let _writer = self.core.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let _first = self.core.revision_board.set(board);
        self.core.write_on_board();
    }

    /// Calls `tell` after each batch from now on, when readers see it. The call is made on the writing
    /// thread, and must be quick. A database has one listener.
    pub fn on_applied(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _first = self.core.applied_listener.set(Box::new(tell));
    }

    /// Existing column families in order, without the default one.
    pub fn column_families(&self) -> Arc<Vec<String>> {
        read(&self.core.families).clone()
    }

    /// Version of the newest commit that readers see; at least 1.
    pub fn applied_version(&self) -> Version {
        self.core.applied_version()
    }

    /// Counts of rows and transactions, and figures of the engine, at this moment.
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

    /// [`ReadAt::Linearizable`] means the newest applied version here. On a replica the caller
    /// waits for a read point first.
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

    /// Runs on the calling thread: call it for large ranges where blocking is allowed.
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
