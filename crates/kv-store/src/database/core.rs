//! What the threads of a database share: the engine, the writer's state, and what readers see of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};

use kv_api::{KvError, Version};

use super::copy::DatabaseCopy;
use super::damage::Damage;
use super::options::StoreOptions;
use super::space_wait::SpaceWait;
use crate::commit::state_machine::StateMachine;
use crate::engine::{Engine, WriteBatch};
use crate::gc::range_clears::RangeClears;
use crate::gc::step::GcProgress;
use crate::meta;
use crate::read::readers::Readers;
use crate::sync::{AtomicU64, Mutex, MutexGuard, RwLock, RwLockReadGuard};

/// What the group commit thread shares with the database.
pub(super) struct Core {
    pub engine: Arc<dyn Engine>,
    pub writer: Mutex<Writer>,
    /// Why applying has ended for good.
    pub failure: OnceLock<KvError>,
    pub damage: Damage,
    pub space: SpaceWait,
    pub readers: Arc<Readers>,
    /// Everything at or below the applied version, and perhaps more. Published before that version is.
    pub clears: RwLock<RangeClears>,
    pub families: RwLock<Arc<Vec<String>>>,
    pub oldest_readable: AtomicU64,
    pub applied: AtomicU64,
    pub rows: AtomicU64,
    pub committed: AtomicU64,
    pub aborted: AtomicU64,
    pub collected_versions: AtomicU64,
    pub remembered_ids: AtomicU64,
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Writer {
    pub state: StateMachine,
    /// Kept for its memory.
    pub batch: WriteBatch,
    pub gc: GcProgress,
    /// State of the families that was published.
    pub families: u64,
}

impl Core {
    pub fn open(engine: Arc<dyn Engine>, options: StoreOptions) -> Result<Self, KvError> {
        meta::claim_format(&*engine)?;
        let state = StateMachine::load(&*engine, options.conflict_index_entries, options.known_keys)?;
        let counters = state.counters();
        Ok(Core {
            engine,
            failure: OnceLock::new(),
            damage: Damage::default(),
            space: SpaceWait::default(),
            readers: Arc::default(),
            clears: RwLock::new(state.clears.clone()),
            families: RwLock::new(Arc::new(state.families.names())),
            oldest_readable: AtomicU64::new(state.window.oldest_readable()),
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

    pub fn copy(&self) -> Result<DatabaseCopy, KvError> {
        let copy = self.engine.copy()?;
        // From the copy itself: whatever was applied meanwhile is not in it.
        let state = meta::load_copied_blob(&*copy)?;
        let empty = || KvError::InvalidOperation("a database without a sealed state is not copied".into());
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

    /// GcEntries an error after which nothing is written any more. The caller holds the writer.
    pub fn stop_after(&self, error: &KvError) {
        tracing::error!(%error, "a write to the database failed; it accepts no more writes until it is opened again");
        // Only the holder of the writer's lock sets it, once.
        let _ = self.failure.set(error.clone());
    }

    /// Shows readers what the writer has written. The version comes last: who sees it sees all that belongs to it.
    pub fn publish(&self, writer: &mut Writer) {
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
        self.oldest_readable.store(state.window.oldest_readable(), Ordering::Release);
        self.applied.store(counters.version, Ordering::Release);
    }
}

/// For writes that are refused because an earlier one failed.
pub(super) fn writing_stopped(reason: &str) -> String {
    format!("writing has stopped until the database is opened again, because {reason}")
}
