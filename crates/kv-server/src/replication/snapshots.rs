//! Makes copies of a replica's database for its peers, and databases from their copies. This is the
//! adapter between the consensus library and the database.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use kv_api::KvError;
use kv_store::{DatabaseCopy, DatabaseInstall, StateBlob, TransactionalKvDatabase};
use rsml::{ExecutionError, ReplicatedState, Snapshot, SnapshotSink, SnapshotSource, Snapshots};

use super::level_record::check_level;
use super::place::DatabasePlace;
use crate::router::LocalReader;

/// A state that is larger is not taken. It has an entry of some 40 bytes for each disk that ever
/// issued a request.
const MAX_STATE_BYTES: usize = 64 << 20;

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

    fn take_state(&self) -> Result<Bytes, ExecutionError> {
        let state = self.reader.database().state_blob().map_err(failed)?;
        state.map(|(_, blob)| blob).ok_or_else(|| ExecutionError::failed("nothing was applied yet"))
    }

    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError> {
        // Close it before its files are removed.
        drop(self.installed.take(generation));
        if self.databases.is_witness() {
            let (databases, installed) = (self.databases.clone(), self.installed.clone());
            return Ok(Box::new(StateSink { databases, generation, installed, bytes: BytesMut::new() }));
        }
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

/// Builds the database of a witness from the library's own state.
struct StateSink {
    databases: Arc<dyn DatabasePlace>,
    generation: u64,
    installed: Installed,
    bytes: BytesMut,
}

impl SnapshotSink for StateSink {
    fn write(&mut self, bytes: Bytes) -> Result<(), ExecutionError> {
        if self.bytes.len() + bytes.len() > MAX_STATE_BYTES {
            let text =
                format!("the state of consensus is larger than {MAX_STATE_BYTES} bytes; its sender may be too old");
            return Err(ExecutionError::failed(text));
        }
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Bytes, ExecutionError> {
        let blob = self.bytes.freeze();
        let unreadable = || ExecutionError::corrupt("the state of consensus that a peer sent cannot be read");
        let state = ReplicatedState::from_bytes(&blob).ok_or_else(unreadable)?;
        let database = self.databases.create(self.generation).map_err(failed)?;
        let stored = StateBlob { sequence: state.sequence.0, blob: blob.clone() };
        let level = state.feature_level.0;
        database.prepare_at(&[], level).and_then(|prepared| prepared.commit(stored)).map_err(failed)?;
        database.flush().map_err(failed)?;
        self.installed.put(self.generation, database);
        Ok(blob)
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
