//! The storage engine under the database: ordered bytes in three tables, written in atomic batches.
//!
//! Invariants every engine keeps:
//! - a [`WriteBatch`] is seen, and survives a crash, whole or not at all, across all tables;
//! - under [`Durability::EveryWrite`] a write that returned survives a crash; under [`Durability::UntilFlush`] a crash may
//!   throw away the newest batches since the last [`Engine::flush`], never an older one and never a part of one;
//! - keys are ordered as bytes.
//!
//! An engine knows nothing of versions, families or transactions, with two exceptions: for speed [`Engine::key_cursor`]
//! may use that keys of [`Table::Data`] are laid out by [`crate::key_codec`], and when an engine rewrites its files, it
//! leaves out what [`crate::superseded`] says nobody can ask for any more ([`Engine::set_filter_floor`]).

mod batch;
mod copy;
mod memory;
mod memory_copy;
mod resources;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(test)]
pub(crate) mod testing;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use kv_api::KvError;
use serde::{Deserialize, Serialize};

pub use batch::{BatchEntry, WriteBatch};
pub use copy::{EngineCopy, EngineInstall};
pub use memory::MemoryEngine;
pub use memory_copy::MemoryInstall;
pub use resources::{ResourceOptions, SharedResources};
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksEngine, RocksInstall, RocksOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Every version of every row.
    Data,
    /// Records about the database itself.
    Meta,
    /// What is to be removed from the data table once nobody can see it: a queue (see [`crate::garbage`]). Databases of a
    /// layout without this table open with an empty one.
    Garbage,
}

impl Table {
    pub const ALL: [Table; 3] = [Table::Data, Table::Meta, Table::Garbage];
}

/// What survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Each write is synced to the engine's own log before it returns: for a database without a log above it.
    EveryWrite,
    /// The engine keeps no log; what was written since the last flush is lost in a crash, consistently, and is written
    /// again from the consensus log.
    UntilFlush,
}

/// An engine's own figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStatistics {
    /// Bytes of live files and write buffers.
    pub size_bytes: u64,
    /// Versions in [`Table::Data`], roughly. `None`: not known.
    pub data_entries: Option<u64>,
    /// Bytes in write buffers that no flush has written to files yet.
    pub unflushed_bytes: u64,
    /// `None`: the engine does not compact.
    pub compaction_pending_bytes: Option<u64>,
    /// Since the engine was opened; `None`: no cache, or nothing asked of it yet.
    pub cache_hit_rate_percent: Option<u64>,
}

/// A storage engine. Calls block; all may come from any thread.
pub trait Engine: Send + Sync + 'static {
    fn durability(&self) -> Durability;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// Writes all of `batch` or nothing. After an error the engine's state is unknown: the caller must stop writing.
    ///
    /// # Errors
    /// [`KvError::StorageFull`], under [`Durability::UntilFlush`] only, is the exception: nothing was written, and the
    /// same batch may be written again later. [`KvError::Corruption`], of this and every other call: the engine holds
    /// what was never written to it.
    fn write(&self, batch: &WriteBatch) -> Result<(), KvError>;

    /// Batches written since the engine was opened.
    fn batches_written(&self) -> u64;

    /// A cursor over the keys `lower <= key < upper`, not yet on an entry.
    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError>;

    /// A cursor of [`Table::Data`] for jumping to the versions of one key after another. Only [`Cursor::seek`] may be
    /// used, with a target that holds a whole key prefix, and [`Cursor::next`]; the entry is of any use only while it has
    /// that same prefix.
    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError>;

    /// Makes everything written so far survive a crash, all tables as one.
    fn flush(&self) -> Result<(), KvError>;

    /// The value as a crash at this moment would leave it.
    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    fn statistics(&self) -> EngineStatistics;

    /// From now on the engine may drop, whenever it rewrites its files, every value of [`Table::Data`] that a newer version
    /// of the same key supersedes at `version` ([`crate::superseded`]). What it drops is gone after a crash, too, so the
    /// caller sees to it that what makes these values needless is persisted. A lower version than before changes
    /// nothing. An engine that was just opened drops nothing.
    fn set_filter_floor(&self, version: u64);

    /// Rewrites the files of [`Table::Data`] that hold keys `begin <= key < end`, so that what may be dropped there is. May
    /// flush, and may take long; reads and writes go on meanwhile.
    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError>;

    /// Keys that part [`Table::Data`] into slices of files of about `slice_bytes` each; few, where slices are not needed.
    fn data_splits(&self, slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError>;

    /// A copy of what was written before some moment between call and return, whole batches only. Writes go on meanwhile.
    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError>;

    /// Another engine has taken its place: when this one is closed, its files are removed.
    fn remove_when_closed(&self);
}

/// A position in a table, on one entry or on none. It may or may not see what is written after it was made.
pub trait Cursor {
    /// To the first entry with a key `>= target`.
    fn seek(&mut self, target: &[u8]) -> Result<(), KvError>;
    /// To the last entry with a key `< target`.
    fn seek_before(&mut self, target: &[u8]) -> Result<(), KvError>;
    /// To the next entry; only from an entry.
    fn next(&mut self) -> Result<(), KvError>;
    /// To the previous entry; only from an entry.
    fn prev(&mut self) -> Result<(), KvError>;
    /// The key and value under the cursor; `None` beyond either end.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
}

/// Which engine a database stands on. Configurations name it in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// On disk. Only in builds with the cargo feature `rocksdb`, which is on by default.
    RocksDb,
    /// For tests: the rows are lost when the process ends.
    Memory,
}

/// Opens or creates an engine; `path` is its own folder (unused by [`EngineKind::Memory`]).
pub fn open_engine(
    kind: EngineKind,
    path: &Path,
    durability: Durability,
    resources: &SharedResources,
) -> Result<Arc<dyn Engine>, KvError> {
    match kind {
        EngineKind::Memory => Ok(Arc::new(MemoryEngine::new(durability))),
        #[cfg(feature = "rocksdb")]
        EngineKind::RocksDb => Ok(Arc::new(RocksEngine::open(path, RocksOptions::new(durability, resources.clone()))?)),
        #[cfg(not(feature = "rocksdb"))]
        EngineKind::RocksDb => {
            let _ = (path, resources);
            Err(without_rocksdb())
        }
    }
}

/// Begins an engine in the folder `path` (unused by [`EngineKind::Memory`]) from the bytes of another's copy. What lies
/// there goes.
pub fn begin_install(
    kind: EngineKind,
    path: &Path,
    durability: Durability,
    resources: &SharedResources,
) -> Result<Box<dyn EngineInstall>, KvError> {
    match kind {
        EngineKind::Memory => Ok(Box::new(MemoryInstall::new(durability))),
        #[cfg(feature = "rocksdb")]
        EngineKind::RocksDb => {
            Ok(Box::new(RocksInstall::begin(path, RocksOptions::new(durability, resources.clone()))?))
        }
        #[cfg(not(feature = "rocksdb"))]
        EngineKind::RocksDb => {
            let _ = (path, resources);
            Err(without_rocksdb())
        }
    }
}

#[cfg(not(feature = "rocksdb"))]
fn without_rocksdb() -> KvError {
    KvError::NotSupported("the RocksDB engine, in a build without the cargo feature \"rocksdb\",".into())
}
