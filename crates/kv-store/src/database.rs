//! The database: one writer that applies batches of commits, and readers that never wait for it.
//!
//! Invariants:
//! - all effects of a batch (rows, counters, replication blob) are in one engine batch;
//! - the applied version is published after that batch is in the engine, so a reader at a published version finds
//!   everything of it, and everything newer is invisible to it;
//! - after a failed apply no further one is tried: what the engine holds is then unknown. For lack of space none fails
//!   on a replica: it waits.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitResult, CommitVerdict, DatabaseStatistics, KeyRef, KvDatabase, KvError, RangeQuery, ReadAt,
    Rows, Version,
};

use crate::{
    damage::Damage,
    database_copy::DatabaseCopy,
    engine::{Engine, EngineStatistics, WriteBatch},
    group_commit::{GroupCommit, GroupCommitOptions},
    meta::{self, StateBlob},
    reads::{self, RowsHash},
    space_wait::SpaceWait,
    state_machine::StateMachine,
};

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
}

impl StoreOptions {
    /// For a database that takes commits itself.
    pub fn standalone() -> Self {
        StoreOptions { group_commit: Some(GroupCommitOptions::default()), ..StoreOptions::replicated() }
    }

    /// For a replica's database.
    pub fn replicated() -> Self {
        StoreOptions { conflict_index_entries: 200_000, known_keys: 2_000_000, group_commit: None }
    }
}

/// Makes the replication layer's record of a batch from the batch's verdicts.
pub type Seal<'s> = &'s mut dyn FnMut(&[CommitVerdict]) -> StateBlob;

/// A multi-version transactional database on an [`Engine`].
///
/// Families are plain names here, the default one the empty string; whether a family exists, and the limits of
/// [`kv_api::Limits`], are checked above. Every version of a row is kept.
pub struct TransactionalKvDatabase {
    /// First, so that it ends before the rest goes.
    group_commit: Option<GroupCommit>,
    core: Arc<Core>,
}

impl TransactionalKvDatabase {
    /// Opens the database on `engine`, creating it where the engine is empty. One database per engine at a time.
    pub fn open(engine: Arc<dyn Engine>, options: StoreOptions) -> Result<Arc<Self>, KvError> {
        let core = Arc::new(Core::open(engine, options)?);
        let group_commit = options.group_commit.map(|options| GroupCommit::start(core.clone(), options)).transpose()?;
        Ok(Arc::new(TransactionalKvDatabase { group_commit, core }))
    }

    /// Decides `commits` in order, each seeing the ones before it, and writes what they change together with the record
    /// that `seal` makes of the verdicts, in one engine batch. For replicas: how durable that is, is the engine's
    /// durability.
    ///
    /// An error is the storage's and final: every later call fails too.
    pub fn apply<'c>(
        &self,
        commits: impl IntoIterator<Item = &'c AtomicCommit>,
        seal: Seal<'_>,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        self.core.apply(commits, Some(seal))
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

    /// Version of the newest commit that readers see; at least 1.
    pub fn applied_version(&self) -> Version {
        self.core.applied_version()
    }

    /// The value of `key` at `version`: [`KvError::FutureVersion`] above the applied one.
    pub fn read_at(&self, key: &KeyRef, version: Version) -> Result<Option<Bytes>, KvError> {
        self.core.check_readable(version)?;
        self.core.damage.watch(reads::read_key(&*self.core.engine, key, version.0))
    }

    /// The rows of `query` at `version`. Rows of the reply, never the whole range, are held in memory.
    ///
    /// `max_bytes` counts each row with 16 bytes more than its key and value; a caller that set `target_bytes` gets a
    /// shorter reply there instead of [`KvError::ResultTooLarge`], unless the first row alone is too large.
    pub fn range_at(&self, query: &RangeQuery, version: Version) -> Result<Rows, KvError> {
        self.core.check_readable(version)?;
        self.core.damage.watch(reads::read_range(&*self.core.engine, query, version.0))
    }

    /// Hashes the rows of one family at `version`, from the key `begin` on, at most `limit` of them.
    pub fn hash_rows(&self, family: &str, begin: &[u8], version: Version, limit: u64) -> Result<RowsHash, KvError> {
        self.core.check_readable(version)?;
        self.core.damage.watch(reads::hash_rows(&*self.core.engine, family, begin, version.0, limit))
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
        let Some(group_commit) = &self.group_commit else {
            return Err(KvError::NotSupported("a commit to a replica's database, past the consensus log,".into()));
        };
        let verdict = group_commit.submit(commit)?;
        let ended = || KvError::CommitUnknown("the database stopped before it answered".into());
        verdict.await.unwrap_or_else(|| Err(ended()))
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
    failure: OnceLock<String>,
    damage: Damage,
    space: SpaceWait,
    applied: AtomicU64,
    rows: AtomicU64,
    committed: AtomicU64,
    aborted: AtomicU64,
}

struct Writer {
    state: StateMachine,
    /// Kept for its memory.
    batch: WriteBatch,
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
            writer: Mutex::new(Writer { state, batch: WriteBatch::new() }),
            failure: OnceLock::new(),
            damage: Damage::default(),
            space: SpaceWait::default(),
            applied: AtomicU64::new(counters.version),
            rows: AtomicU64::new(counters.rows),
            committed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
        })
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

    fn check_readable(&self, version: Version) -> Result<(), KvError> {
        let current = self.applied_version();
        match version > current {
            true => Err(KvError::FutureVersion { read_version: version.0, current: current.0 }),
            false => Ok(()),
        }
    }

    pub fn apply<'c>(
        &self,
        commits: impl IntoIterator<Item = &'c AtomicCommit>,
        seal: Option<Seal<'_>>,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let mut writer = self.writer.lock().map_err(|_| KvError::Storage("an earlier apply panicked".into()))?;
        if let Some(reason) = self.failure.get() {
            return Err(KvError::Storage(format!("writing has stopped after an error: {reason}")));
        }
        self.damage.watch(self.apply_with(&mut writer, commits, seal)).inspect_err(|error| {
            tracing::error!(%error, "applying failed; the database takes no more writes");
            // Only the holder of the writer's lock sets it, once.
            let _ = self.failure.set(error.to_string());
        })
    }

    fn apply_with<'c>(
        &self,
        writer: &mut Writer,
        commits: impl IntoIterator<Item = &'c AtomicCommit>,
        seal: Option<Seal<'_>>,
    ) -> Result<Vec<CommitVerdict>, KvError> {
        let Writer { state, batch } = writer;
        batch.clear();
        let verdicts = state.decide(&*self.engine, commits, batch)?;
        if let Some(seal) = seal {
            meta::put_blob(batch, &seal(&verdicts));
        }
        if !batch.is_empty() {
            self.space.write(&*self.engine, batch)?;
        }
        state.written();
        if batch.size_bytes() > MAX_KEPT_BATCH_BYTES {
            *batch = WriteBatch::new();
        }
        self.publish(state, &verdicts);
        Ok(verdicts)
    }

    fn publish(&self, state: &StateMachine, verdicts: &[CommitVerdict]) {
        let counters = state.counters();
        let applied = self.applied.load(Ordering::Relaxed);
        assert!(counters.version >= applied, "the version went back: {applied} -> {}", counters.version);
        self.rows.store(counters.rows, Ordering::Relaxed);
        self.applied.store(counters.version, Ordering::Release);
        let aborted = verdicts.iter().filter(|verdict| verdict.is_err()).count() as u64;
        self.committed.fetch_add(verdicts.len() as u64 - aborted, Ordering::Relaxed);
        self.aborted.fetch_add(aborted, Ordering::Relaxed);
    }
}
