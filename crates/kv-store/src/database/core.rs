//! State that a database shares with its threads: the engine, the writer, and what the writer
//! publishes to readers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};

use kv_api::access::Policy;
use kv_api::{KvError, Version};

use super::copy::DatabaseCopy;
use super::damage::Damage;
use super::options::StoreOptions;
use super::space_wait::SpaceWait;
use crate::commit::state_machine::StateMachine;
use crate::engine::{Engine, WriteBatch};
use crate::gc::range_clears::RangeClears;
use crate::gc::step::GcProgress;
use crate::journal::{Effects, Journal};
use crate::meta;
use crate::read::readers::Readers;
use crate::read::row_cache::RowCache;
use crate::sync::{AtomicU64, Mutex, MutexGuard, RwLock, RwLockReadGuard};

/// Shared by the public face, the group commit thread and the garbage collector.
pub(super) struct Core {
    pub engine: Arc<dyn Engine>,
    pub writer: Mutex<Writer>,
    /// `None`: changes are not recorded.
    pub journal: Option<Journal>,
    /// The error after which no write is accepted any more.
    pub failure: OnceLock<KvError>,
    pub damage: Damage,
    pub space: SpaceWait,
    pub readers: Arc<Readers>,
    pub row_cache: Arc<RowCache>,
    /// Range clears up to the applied version, and perhaps newer ones: published before the
    /// version.
    pub clears: RwLock<RangeClears>,
    /// Names of the existing families, without the default one, in order.
    pub families: RwLock<Arc<Vec<String>>>,
    /// The window's oldest readable version.
    pub oldest_readable: AtomicU64,
    /// Users, roles and tokens as of the applied version.
    pub policy: RwLock<Arc<Policy>>,
    /// The revision of that policy if it is enabled; 0 otherwise.
    pub enabled_revision: AtomicU64,
    /// Where that revision is shown as well.
    pub revision_board: OnceLock<Arc<RevisionBoard>>,
    /// Is told after each batch that readers see it.
    pub applied_listener: OnceLock<AppliedListener>,
    /// The feature level.
    pub level: AtomicU64,
    /// The newest version that readers see.
    pub applied: AtomicU64,
    /// Rows at the applied version, including those that an uncollected range clear hides.
    pub rows: AtomicU64,
    /// Commits that took a version since the database was opened.
    pub committed: AtomicU64,
    /// Refused commits since the database was opened.
    pub aborted: AtomicU64,
    /// Versions that the garbage collector has removed since the database was opened.
    pub collected_versions: AtomicU64,
    /// Results that the idempotency table holds.
    pub remembered_ids: AtomicU64,
}

/// Shows the revision of the live database's policy if it is enabled, otherwise 0. A reader of databases that replace
/// each other asks it without looking for the live one.
pub type RevisionBoard = std::sync::atomic::AtomicU64;

/// Called on the writing thread: it must be quick.
pub(super) type AppliedListener = Box<dyn Fn() + Send + Sync>;

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Only the holder of the lock writes to the engine.
pub(super) struct Writer {
    pub state: StateMachine,
    /// Kept between batches to reuse its memory.
    pub batch: WriteBatch,
    /// The effects of the batch, for the journal.
    pub effects: Effects,
    pub gc: GcProgress,
    /// The feature level after the batch.
    pub level: u32,
    /// [`Families::changes`](crate::commit::families::Families::changes) as of the published names.
    pub families: u64,
}

impl Core {
    pub fn open(
        engine: Arc<dyn Engine>,
        options: StoreOptions,
        journal: impl FnOnce(u64) -> Option<Journal>,
    ) -> Result<Self, KvError> {
        meta::claim_format(&*engine)?;
        let level = meta::load_level(&*engine, options.highest_level)?;
        let state = StateMachine::load(&*engine, options.sizes())?;
        let counters = state.counters();
        let journal = journal(counters.version);
        let effects = Effects::new(journal.is_some());
        Ok(Core {
            engine,
            journal,
            failure: OnceLock::new(),
            damage: Damage::default(),
            space: SpaceWait::default(),
            readers: Arc::new(Readers::new(options.clock)),
            row_cache: state.row_cache.clone(),
            clears: RwLock::new(state.clears.clone()),
            families: RwLock::new(Arc::new(state.families.names())),
            enabled_revision: AtomicU64::new(enabled_revision(&state.policy)),
            revision_board: OnceLock::new(),
            applied_listener: OnceLock::new(),
            policy: RwLock::new(state.policy.clone()),
            oldest_readable: AtomicU64::new(state.window.oldest_readable()),
            level: AtomicU64::new(u64::from(level)),
            applied: AtomicU64::new(counters.version),
            rows: AtomicU64::new(counters.rows),
            committed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            collected_versions: AtomicU64::new(0),
            remembered_ids: AtomicU64::new(state.remembered_ids()),
            writer: Mutex::new(Writer {
                families: state.families.changes(),
                state,
                batch: WriteBatch::new(),
                effects,
                level,
                gc: GcProgress::new(options.range_delete_entries),
            }),
        })
    }

    /// Replicated time as of the last write.
    pub fn time_us(&self) -> u64 {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).state.window.time_us()
    }

    pub fn oldest_readable(&self) -> u64 {
        self.oldest_readable.load(Ordering::Acquire)
    }

    pub fn clears(&self) -> RangeClears {
        read(&self.clears).clone()
    }

    pub fn applied_version(&self) -> Version {
        Version(self.applied.load(Ordering::Acquire))
    }

    pub fn level(&self) -> u32 {
        u32::try_from(self.level.load(Ordering::Acquire)).expect("a level was stored")
    }

    pub fn copy(&self) -> Result<DatabaseCopy, KvError> {
        let copy = self.engine.copy()?;
        // Read the blob from the copy: the database may have applied more batches since.
        let state = meta::load_copied_blob(&*copy)?;
        let empty = || KvError::InvalidOperation("a database without a state blob cannot be copied".into());
        Ok(DatabaseCopy::new(state.ok_or_else(empty)?, copy))
    }

    pub fn check_applied(&self, version: Version) -> Result<(), KvError> {
        let current = self.applied_version();
        match version > current {
            true => Err(KvError::FutureVersion { read_version: version.0, current: current.0 }),
            false => Ok(()),
        }
    }

    pub fn check_readable(&self, version: Version) -> Result<(), KvError> {
        self.check_within_window(version).or_else(|error| match self.readers.keeps(version.0) {
            true => Ok(()),
            false => Err(error),
        })
    }

    pub fn check_within_window(&self, version: Version) -> Result<(), KvError> {
        let oldest = self.oldest_readable();
        match version.0 < oldest {
            true => Err(KvError::TransactionTooOld { read_version: version.0, oldest }),
            false => Ok(()),
        }
    }

    pub fn writer(&self) -> Result<MutexGuard<'_, Writer>, KvError> {
        let writer = self.writer.lock().map_err(|_| KvError::Storage("an earlier apply panicked".into()))?;
        match self.failure.get() {
            // Keep the kind of error: the caller tells a lack of resources from a fault by it.
            Some(KvError::Overloaded(reason)) => Err(KvError::Overloaded(writing_stopped(reason))),
            Some(error) => Err(KvError::Storage(writing_stopped(&error.to_string()))),
            None => Ok(writer),
        }
    }

    pub fn write_failure(&self) -> Option<String> {
        let panicked = || self.writer.is_poisoned().then(|| "a thread panicked while it was writing".to_string());
        self.failure.get().map(KvError::to_string).or_else(panicked)
    }

    /// Ends writing for good because of `error`. The caller must hold the writer's lock.
    pub fn stop_after(&self, error: &KvError) {
        tracing::error!(%error, "a write to the database failed; no more writes are accepted until it is opened again");
        // Set at most once, because only the holder of the writer's lock sets it.
        let _ = self.failure.set(error.clone());
    }

    /// The caller must hold the writer's lock, so that an older revision never replaces a newer one.
    pub fn write_on_board(&self) {
        if let Some(board) = self.revision_board.get() {
            board.store(self.enabled_revision.load(Ordering::Relaxed), Ordering::Release);
        }
    }

    /// Publishes the writer's state to readers. The version comes last: a reader that sees it also
    /// sees everything that belongs to it.
    pub fn publish(&self, writer: &mut Writer) {
        let state = &writer.state;
        if !read(&self.clears).is_same_as(&state.clears) {
            *self.clears.write().unwrap_or_else(PoisonError::into_inner) = state.clears.clone();
        }
        if state.families.changes() != writer.families {
            writer.families = state.families.changes();
            *self.families.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state.families.names());
        }
        if !Arc::ptr_eq(&read(&self.policy), &state.policy) {
            *self.policy.write().unwrap_or_else(PoisonError::into_inner) = state.policy.clone();
            self.enabled_revision.store(enabled_revision(&state.policy), Ordering::Release);
            self.write_on_board();
        }
        self.level.store(u64::from(writer.level), Ordering::Release);
        let counters = state.counters();
        let applied = self.applied.load(Ordering::Relaxed);
        assert!(counters.version >= applied, "the version went back: {applied} -> {}", counters.version);
        self.rows.store(counters.rows, Ordering::Relaxed);
        self.remembered_ids.store(state.remembered_ids(), Ordering::Relaxed);
        self.oldest_readable.store(state.window.oldest_readable(), Ordering::Release);
        self.applied.store(counters.version, Ordering::Release);
        if let Some(tell) = self.applied_listener.get() {
            tell();
        }
    }
}

fn enabled_revision(policy: &Policy) -> u64 {
    if policy.enabled { policy.revision } else { 0 }
}

/// The message for writes that are refused after an earlier one failed.
pub(super) fn writing_stopped(reason: &str) -> String {
    format!("writing has stopped until the database is opened again, because {reason}")
}
