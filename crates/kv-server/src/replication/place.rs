//! Where the databases of one replica live.

use std::sync::Arc;

use kv_api::KvError;
use kv_store::{DatabaseInstall, TransactionalKvDatabase};

/// The databases of one replica, by generation: files for a server ([`super::ReplicaDatabases`]), something else for
/// tests that must decide themselves what survives and when work in the background is done.
pub trait DatabasePlace: Send + Sync + 'static {
    /// Opens the live database at a start. Those of other generations are leftovers.
    fn open(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError>;

    /// Begins the database of a later generation. It becomes the live one by [`DatabasePlace::watch`].
    fn begin_install(self: Arc<Self>, generation: u64) -> Result<DatabaseInstall, KvError>;

    /// This database is the live one from now on: damage of it is damage of the replica.
    fn watch(self: Arc<Self>, generation: u64, database: &TransactionalKvDatabase);

    /// Whether what the databases have flushed is there after a restart.
    fn survive_exit(&self) -> bool;

    /// Flushes in the background, unless that is under way. Asked only where databases survive.
    fn start_flush(&self, database: Arc<TransactionalKvDatabase>);

    /// Another database has taken this one's place: it goes, with its files, as soon as nobody reads it.
    fn close(&self, database: Arc<TransactionalKvDatabase>);
}
