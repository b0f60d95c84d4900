//! The database: one writer that applies batches of commits, and readers that never wait for it.
//!
//! Invariants:
//! - all effects of a batch (rows, counters, replication blob) are in one engine batch;
//! - the applied version is published after that batch is in the engine, so a reader at a published version finds
//!   everything of it, and everything newer is invisible to it;
//! - after a failed apply no further one is tried: what the engine holds is then unknown. For lack of space none fails
//!   on a replica: it waits.

mod copy;
mod core;
mod damage;
mod garbage;
mod group_commit;
mod install;
mod oneshot;
mod options;
mod prepared;
#[cfg(test)]
mod races;
mod reads;
mod retention;
mod space_wait;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitResult, CommitVerdict, DatabaseStatistics, KeyRef, KvDatabase, KvError, LoggedWrite,
    RangeQuery, ReadAt, Rows, TimedWrite, Version,
};

use crate::engine::{Engine, EngineStatistics};
use crate::gc::collector::{Collectable, Collected, Collector};
use crate::meta;
use core::{Core, read, writing_stopped};
use group_commit::GroupCommit;

pub use copy::DatabaseCopy;
pub use group_commit::PendingWrite;
pub use install::DatabaseInstall;
pub use options::{GroupCommitOptions, StoreOptions};
pub use prepared::PreparedBatch;
pub use retention::RetentionStatistics;

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

    /// Decides `writes` in order, each seeing the ones before it, and writes nothing yet: the caller reads the verdicts
    /// and then calls [`PreparedBatch::commit`]. For replicas. Until then every other writer waits, the garbage
    /// collector among them; readers do not.
    ///
    /// # Errors
    /// Those of the storage. They are final: every later call fails too.
    pub fn prepare<'c>(&self, writes: impl IntoIterator<Item = &'c TimedWrite>) -> Result<PreparedBatch<'_>, KvError> {
        self.core.prepare(writes)
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
