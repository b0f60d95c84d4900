//! A database that continues under another history, because the end of its own is lost.
//!
//! Clients may have seen versions that this database never had: those of commits that only lost
//! replicas knew. None of these may be taken for a version of the new history. So it begins far
//! behind all of them, and every version before its beginning is unreadable at once.

use kv_api::{KvError, Version};

use super::TransactionalKvDatabase;
use crate::meta::StateBlob;

impl TransactionalKvDatabase {
    /// Skips `versions` versions, makes every version before the resulting one unreadable, and
    /// stores `state`, all in one batch. Returns the version with which the new history begins: its
    /// rows are those of the newest version before.
    ///
    /// # Errors
    /// [`KvError::InvalidOperation`] if too few versions are left, with nothing written;
    /// and those of the storage, which are final.
    pub fn begin_new_history(&self, versions: u64, state: StateBlob) -> Result<Version, KvError> {
        let mut writer = self.core.writer()?;
        let inner = &mut *writer;
        inner.batch.clear();
        inner.effects.clear();
        inner.state.skip_versions(versions, &mut inner.batch)?;
        let written = self.core.write_prepared(&mut writer, Some(&state));
        self.core.damage.watch(written).inspect_err(|error| self.core.stop_after(error))?;
        if let Some(journal) = &self.core.journal {
            journal.begin_again(self.applied_version().0);
        }
        Ok(self.applied_version())
    }
}
