//! Makes copies of a replica's database for its peers, and databases from their copies. This is the
//! adapter between the consensus library and the database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kv_api::KvError;
use kv_store::{DatabaseCopy, DatabaseInstall, TransactionalKvDatabase};
use rsml::{ExecutionError, Snapshot, SnapshotSink, SnapshotSource, Snapshots};

use super::level_record::check_level;
use super::place::DatabasePlace;
use crate::router::LocalReader;

/// Converts an error. Damage, of this replica's data or of a received copy, is kept distinct from
/// all other errors.
pub(super) fn failed(error: KvError) -> ExecutionError {
    match error {
        KvError::Corruption(reason) => ExecutionError::corrupt(reason),
        KvError::Overloaded(reason) => ExecutionError::starved(reason),
        other => ExecutionError::failed(other.to_string()),
    }
}

/// Complete databases, by generation, that wait to become live.
#[derive(Clone, Default)]
pub(super) struct Installed(Arc<Mutex<BTreeMap<u64, Arc<TransactionalKvDatabase>>>>);

impl Installed {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<TransactionalKvDatabase>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, generation: u64, database: Arc<TransactionalKvDatabase>) {
        self.all().insert(generation, database);
    }

    /// Removes the database of a generation and returns it.
    pub fn take(&self, generation: u64) -> Option<Arc<TransactionalKvDatabase>> {
        self.all().remove(&generation)
    }

    /// Removes databases that can no longer become live, because their generation is older. A later
    /// one may be complete already.
    pub fn remove_before(&self, generation: u64) {
        let mut all = self.all();
        let later = all.split_off(&generation);
        let unwanted = std::mem::replace(&mut *all, later);
        drop(all);
        unwanted.values().for_each(|database| database.remove_when_closed());
    }
}

pub(super) struct ReplicaSnapshots {
    /// Reads the live database, of which copies are made.
    pub reader: LocalReader,
    /// Where received copies are written.
    pub databases: Arc<dyn DatabasePlace>,
    /// Where complete ones wait.
    pub installed: Installed,
}

impl Snapshots for ReplicaSnapshots {
    fn take(&self) -> Result<Snapshot, ExecutionError> {
        let copy = self.reader.database().copy().map_err(failed)?;
        Ok(Snapshot { state: copy.state().blob.clone(), source: Box::new(Source(copy)) })
    }

    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError> {
        // Close it before its files are removed.
        drop(self.installed.take(generation));
        let install = self.databases.clone().begin_install(generation).map_err(failed)?;
        Ok(Box::new(Sink { install, generation, installed: self.installed.clone() }))
    }
}

struct Source(DatabaseCopy);

impl SnapshotSource for Source {
    fn total_bytes(&self) -> u64 {
        self.0.total_bytes()
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, ExecutionError> {
        self.0.read(offset, length).map_err(failed)
    }
}

struct Sink {
    install: DatabaseInstall,
    generation: u64,
    installed: Installed,
}

impl SnapshotSink for Sink {
    fn write(&mut self, bytes: Bytes) -> Result<(), ExecutionError> {
        self.install.write(&bytes).map_err(failed)
    }

    fn finish(self: Box<Self>) -> Result<Bytes, ExecutionError> {
        let (database, state) = self.install.finish().map_err(failed)?;
        check_level(&database).map_err(failed)?;
        self.installed.put(self.generation, database);
        Ok(state.blob)
    }
}
