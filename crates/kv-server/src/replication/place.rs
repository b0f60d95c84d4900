//! The storage of one replica's databases.

use std::sync::Arc;

use kv_api::KvError;
use kv_store::{DatabaseInstall, TransactionalKvDatabase};

/// The databases of one replica, by generation: files in a server ([`super::ReplicaDatabases`]).
/// Tests that must control what survives, and when background work happens, have their own.
pub trait DatabasePlace: Send + Sync + 'static {
    /// Opens the live database at a start. Those of other generations are leftovers.
    fn open(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError>;

    /// Whether this is the place of a witness: its databases hold the state of consensus, and no
    /// rows.
    fn is_witness(&self) -> bool {
        false
    }

    /// Begins an empty database of a later generation, for a witness. Removes what is there.
    fn create(self: Arc<Self>, generation: u64) -> Result<Arc<TransactionalKvDatabase>, KvError>;

    /// Begins the database of a later generation. [`DatabasePlace::watch`] makes it the live one.
    fn begin_install(self: Arc<Self>, generation: u64) -> Result<DatabaseInstall, KvError>;

    /// Makes this the live database, whose damage is damage of the replica.
    fn watch(self: Arc<Self>, generation: u64, database: &TransactionalKvDatabase);

    /// Whether flushed data survives a restart.
    fn survive_exit(&self) -> bool;

    /// Flushes in the background, unless a flush is already running. Called only if databases
    /// survive a restart.
    fn start_flush(&self, database: Arc<TransactionalKvDatabase>);

    /// Closes a database that another one has replaced, and removes its files, as soon as nobody
    /// reads it.
    fn close(&self, database: Arc<TransactionalKvDatabase>);
}
