//! What a database keeps of the past, and for whom.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_api::{KvError, Version};

use super::TransactionalKvDatabase;
use super::core::read;

/// What of the past is kept, and how much of it was let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionStatistics {
    /// See [`TransactionalKvDatabase::oldest_readable`].
    pub oldest_readable: u64,
    /// Range clears that are not carried out yet.
    pub pending_clears: u64,
    /// Versions of rows that the engine holds, tombstones among them: an estimate. `None`: it cannot tell.
    pub stored_versions: Option<u64>,
    /// Versions that were removed behind deletes and range clears since the process started.
    pub collected_versions: u64,
    /// Results of commits that are remembered under an idempotency id.
    pub remembered_ids: u64,
    pub pins: u64,
}

impl TransactionalKvDatabase {
    /// The oldest version that can be read: the start of the readable window. Pinned versions may be older.
    pub fn oldest_readable(&self) -> Version {
        Version(self.core.oldest_readable().max(Version::EMPTY.0))
    }

    /// Range clears that are not carried out yet.
    pub fn pending_clears(&self) -> u64 {
        read(&self.core.clears).len() as u64
    }

    pub fn retention(&self) -> RetentionStatistics {
        RetentionStatistics {
            oldest_readable: self.oldest_readable().0,
            pending_clears: self.pending_clears(),
            stored_versions: self.core.engine.statistics().data_entries,
            collected_versions: self.core.collected_versions.load(Ordering::Relaxed),
            remembered_ids: self.core.remembered_ids.load(Ordering::Relaxed),
            pins: self.pins(),
        }
    }

    /// Keeps `version` readable for `lifetime`, beyond the readable window; also one that is not applied yet, from when it
    /// is. Pins are counted.
    ///
    /// # Errors
    /// [`KvError::TransactionTooOld`] when the version can't be read any more, [`KvError::Overloaded`] when there are
    /// [`MAX_PINS`](crate::MAX_PINS) already.
    pub fn pin(&self, version: Version, lifetime: Duration) -> Result<(), KvError> {
        self.core.readers.pin(version, lifetime, || self.core.check_within_window(version))
    }

    /// Pins of all versions.
    pub fn pins(&self) -> u64 {
        self.core.readers.pins() as u64
    }

    /// Keeps `version` readable for `lifetime` from now on, for whoever reads it page by page; not counted, and renewed by
    /// the next call. Errors as of [`Self::pin`].
    pub fn hold(&self, version: Version, lifetime: Duration) -> Result<(), KvError> {
        self.core.check_applied(version)?;
        self.core.readers.hold(version, lifetime, || self.core.check_within_window(version))
    }

    /// Whether replicated time must pass before all that is needless can be removed: some of what was written is still
    /// within the readable window.
    pub fn waits_for_time(&self) -> bool {
        self.core.oldest_readable() < self.applied_version().0
    }

    /// Takes one pin of the version away; without a pin it does nothing.
    pub fn unpin(&self, version: Version) {
        self.core.readers.unpin(version);
    }
}
