//! Old versions: how many the database keeps, and pins that keep them longer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_api::{KvError, Version};

use super::TransactionalKvDatabase;
use super::core::read;

/// Old versions that the database keeps and has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionStatistics {
    /// See [`TransactionalKvDatabase::oldest_readable`].
    pub oldest_readable: u64,
    /// Range clears whose rows are not removed yet.
    pub pending_clears: u64,
    /// Estimate of the versions in the engine, tombstones included. `None`: the engine cannot tell.
    pub stored_versions: Option<u64>,
    /// Versions removed because of deletes and range clears since the process started.
    pub collected_versions: u64,
    /// Commit results in the idempotency table.
    pub remembered_ids: u64,
    /// Pins of all versions.
    pub pins: u64,
}

impl TransactionalKvDatabase {
    /// The oldest version in the readable window. Pinned versions may be older.
    pub fn oldest_readable(&self) -> Version {
        Version(self.core.oldest_readable().max(Version::EMPTY.0))
    }

    /// Range clears whose rows are not removed yet.
    pub fn pending_clears(&self) -> u64 {
        read(&self.core.clears).len() as u64
    }

    /// Counts of old versions, pins and results at this moment.
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

    /// Keeps `version` readable for `lifetime`, also beyond the readable window. The version may be
    /// one that is not applied yet. Pins are counted: each [`Self::unpin`] removes one.
    ///
    /// # Errors
    /// [`KvError::TransactionTooOld`] when the version can't be read any more,
    /// [`KvError::Overloaded`] when [`MAX_PINS`](crate::MAX_PINS) exist.
    pub fn pin(&self, version: Version, lifetime: Duration) -> Result<(), KvError> {
        self.core.readers.pin(version, lifetime, || self.core.check_within_window(version))
    }

    /// The number of pins, of all versions.
    pub fn pins(&self) -> u64 {
        self.core.readers.pins() as u64
    }

    /// Keeps `version` readable for `lifetime` from now on, for a caller that reads it page by
    /// page. Not counted: the next call renews it.
    ///
    /// # Errors
    /// [`KvError::FutureVersion`] above the applied version; else those of [`Self::pin`], for a
    /// bound of its own.
    pub fn hold(&self, version: Version, lifetime: Duration) -> Result<(), KvError> {
        self.core.check_applied(version)?;
        self.core.readers.hold(version, lifetime, || self.core.check_within_window(version))
    }

    /// Whether garbage remains that can be removed only after replicated time has passed: some of
    /// what was written is still within the readable window.
    pub fn waits_for_time(&self) -> bool {
        self.core.oldest_readable() < self.applied_version().0
    }

    /// Removes one pin of the version, if there is one.
    pub fn unpin(&self, version: Version) {
        self.core.readers.unpin(version);
    }
}
