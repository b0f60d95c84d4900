//! The way of a database from one kind of server to another: from a standalone one to a replica, or
//! back. The database itself is the same in both: who decides versions, times
//! and idempotency ids is the state machine, whose records go along with the rows. Only the state
//! blob of the replication layer comes or goes.

use std::path::Path;

use kv_api::KvError;

use super::TransactionalKvDatabase;

impl TransactionalKvDatabase {
    /// Makes another database of the same content at `path`, which must not exist. It takes no
    /// space at first where the file system has hard links, and neither of the two databases
    /// changes with the other.
    ///
    /// # Errors
    /// [`KvError::NotSupported`] if the engine keeps no files; else those of the storage.
    pub fn link_to(&self, path: &Path) -> Result<(), KvError> {
        self.core.damage.watch(self.core.engine.link_to(path))
    }

    /// Replicated time as of the last write, in microseconds. A clock that continues below it
    /// stands still for this database until it has caught up.
    pub fn time_us(&self) -> u64 {
        self.core.time_us()
    }

    /// Removes the state blob: the database belongs to no replica any more.
    ///
    /// # Errors
    /// Those of the storage. They are final: every later call fails, too.
    pub fn forget_state_blob(&self) -> Result<(), KvError> {
        self.core.prepare([], None)?.forget_blob()
    }
}
