//! The changes of a database, from its journal.

use std::sync::Arc;

use kv_api::{Changes, KvError, Version};

use super::TransactionalKvDatabase;
use crate::engine::Engine;
use crate::journal::{
    ChangeFilter, Journal, JournalFolder, JournalPlace, JournalStatistics, MemoryJournal, ReadLimits, ReadSize, Touched,
};

/// The folder of the journal inside that of the engine.
const FOLDER: &str = "changes";

/// Where the journal of a database on this engine lies. `is_wanted`: otherwise what an earlier
/// journal left is removed.
pub(super) fn place_of_journal(engine: &dyn Engine, is_wanted: bool) -> Arc<dyn JournalPlace> {
    let Some(path) = engine.folder() else { return Arc::new(MemoryJournal::default()) };
    let folder = JournalFolder::new(path.join(FOLDER));
    if !is_wanted && let Err(error) = folder.remove_all() {
        tracing::warn!(%error, "cannot remove the change journal, which is not wanted any more");
    }
    Arc::new(folder)
}

impl TransactionalKvDatabase {
    /// The versions after `after` that changed what `filter` asks for, up to the applied version:
    /// whole versions, in order, each once.
    ///
    /// # Errors
    /// [`KvError::TransactionTooOld`] if the journal does not reach back to `after`,
    /// [`KvError::NotSupported`] without a journal, and [`KvError::Storage`] or
    /// [`KvError::StorageFull`] while it cannot be written.
    pub fn read_changes(&self, after: Version, limits: ReadLimits, filter: &ChangeFilter) -> Result<Changes, KvError> {
        self.journal()?.read(after.0, self.applied_version().0, limits, filter)
    }

    /// About how many bytes of the journal [`Self::read_changes`] would look at.
    ///
    /// # Errors
    /// Those of [`Self::read_changes`].
    pub fn size_of_changes(&self, after: Version, filter: &ChangeFilter) -> Result<ReadSize, KvError> {
        self.journal()?.size_of_read(after.0, self.applied_version().0, filter)
    }

    /// Passes what each applied version after `after` touches to `visit`, as encoded keys
    /// ([`crate::key_codec::prefix`]), as far as one read of the journal goes. Returns the last
    /// version that was visited.
    ///
    /// # Errors
    /// Those of [`Self::read_changes`].
    pub fn visit_changes(&self, after: Version, visit: &mut dyn FnMut(u64, Touched<'_>)) -> Result<Version, KvError> {
        self.journal()?.visit(after.0, self.applied_version().0, visit).map(Version)
    }

    /// Figures of the journal; `None` without one.
    pub fn journal_statistics(&self) -> Option<JournalStatistics> {
        self.core.journal.as_ref().map(Journal::statistics)
    }

    fn journal(&self) -> Result<&Journal, KvError> {
        let off = || KvError::NotSupported("reading changes from a server with changes.enabled = false".into());
        self.core.journal.as_ref().ok_or_else(off)
    }
}
