//! The storage engine under the database: ordered tables of bytes, written in atomic batches.
//!
//! Invariants of every engine:
//! - a [`WriteBatch`] becomes visible, and survives a crash, as a whole or not at all, across all
//!   tables;
//! - under [`Durability::EveryWrite`] a write that has returned survives a crash; under
//!   [`Durability::UntilFlush`] a crash may lose the newest batches since the last
//!   [`Engine::flush`], but never an older batch while a newer one survives, and never a part of a
//!   batch;
//! - keys are ordered as bytes.
//!
//! An engine knows nothing of versions, families or transactions, with two exceptions.
//! [`Engine::key_cursor`] may rely on how [`crate::key_codec`] encodes keys of [`Table::Data`], for
//! speed. And an engine that rewrites its files leaves out the values that `superseded.rs` lets it
//! drop ([`Engine::set_filter_watermark`]).

mod batch;
mod copy;
mod memory;
mod resources;
#[cfg(feature = "rocksdb")]
mod rocks;
mod stopped;
mod superseded;
#[cfg(test)]
pub(crate) mod testing;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kv_api::KvError;
use serde::{Deserialize, Serialize};

pub use batch::{BatchEntry, WriteBatch};
pub use copy::{EngineCopy, EngineInstall};
pub use memory::{MemoryEngine, MemoryInstall};
pub use resources::{ResourceOptions, SharedResources};
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksEngine, RocksInstall, RocksOptions};
pub(crate) use stopped::StoppedMeta;
pub use stopped::link_stopped;

/// The tables of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Every version of every row.
    Data,
    /// Records about the database itself.
    Meta,
    /// GC entries: what is to be removed from the data table once nobody can read it. Databases of
    /// a layout without this table open with an empty one.
    Garbage,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 3] = [Table::Data, Table::Meta, Table::Garbage];
}

/// Which writes survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Each write is synced to the engine's own log before it returns. For a database without a
    /// consensus log.
    EveryWrite,
    /// The engine keeps no log. A crash loses whole batches since the last flush, which are applied
    /// again from the consensus log.
    UntilFlush,
}

/// Figures of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStatistics {
    /// Bytes of live files and write buffers.
    pub size_bytes: u64,
    /// Estimated number of versions in [`Table::Data`]; `None`: unknown.
    pub data_entries: Option<u64>,
    /// Bytes in write buffers that are not flushed yet.
    pub unflushed_bytes: u64,
    /// Bytes that compaction has still to rewrite, by the engine's estimate; `None`: the engine
    /// does not compact.
    pub compaction_pending_bytes: Option<u64>,
    /// Share of block reads that the cache has served since the engine was opened; `None`: no
    /// cache, or no reads yet.
    pub cache_hit_rate_percent: Option<u64>,
}

/// A storage engine. Calls block, and may come from any thread. Errors are those of the storage;
/// [`KvError::Corruption`] from any call: the engine holds data that was never written to it.
pub trait Engine: Send + Sync + 'static {
    /// The folder of its files; `None` for an engine that keeps none. The caller may keep a folder of
    /// its own in it, which is removed with it.
    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Which writes survive a crash.
    fn durability(&self) -> Durability;

    /// The value of a key; `None` if the table has none.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// Writes all of `batch` or nothing. After an error the state of the engine is unknown, and the
    /// caller must stop writing.
    ///
    /// # Errors
    /// [`KvError::StorageFull`], only under [`Durability::UntilFlush`], is the exception: nothing
    /// was written, and the same batch may be written again later.
    fn write(&self, batch: &WriteBatch) -> Result<(), KvError>;

    /// Batches written since the engine was opened.
    fn batches_written(&self) -> u64;

    /// A cursor over the keys `lower <= key < upper`. It has no position yet.
    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError>;

    /// A cursor over [`Table::Data`] for lookups of single keys. The caller may use
    /// [`Cursor::seek`] with a target that contains a whole key prefix, and [`Cursor::next`]. An
    /// entry is valid only while it has that prefix.
    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError>;

    /// Makes everything written so far survive a crash, in all tables together.
    fn flush(&self) -> Result<(), KvError>;

    /// The value that a crash now would leave.
    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// Figures of the engine at this moment.
    fn statistics(&self) -> EngineStatistics;

    /// Lets the engine drop, whenever it rewrites its files, every value of [`Table::Data`] that a
    /// newer version of the same key supersedes at `version`. A dropped value is gone after a
    /// crash, too: the caller must make sure that whatever makes it superseded is persisted. A
    /// version below an earlier one changes nothing. A newly opened engine drops nothing.
    fn set_filter_watermark(&self, version: u64);

    /// Rewrites the files of [`Table::Data`] that hold keys `begin <= key < end`, and drops what
    /// may be dropped there. May flush, and may take long; reads and writes continue meanwhile.
    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError>;

    /// Keys that divide [`Table::Data`] into slices with files of about `slice_bytes` each; few or
    /// none where the engine needs no slices.
    fn data_splits(&self, slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError>;

    /// A copy of the engine at some moment during the call, whole batches only. Writes continue
    /// meanwhile.
    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError>;

    /// Makes another engine of the same content in the folder `path`, which must not exist. The two
    /// share files that neither changes.
    ///
    /// # Errors
    /// [`KvError::NotSupported`] from an engine that keeps no files.
    fn link_to(&self, path: &Path) -> Result<(), KvError> {
        let text = format!("a second database of the same files, {}, on an engine without files,", path.display());
        Err(KvError::NotSupported(text))
    }

    /// Another engine replaces this one: its files are removed when it is closed.
    fn remove_when_closed(&self);
}

/// A position in a table: on an entry, or on none. It may or may not see what is written after it
/// was made.
pub trait Cursor {
    /// Moves to the first entry with a key `>= target`.
    fn seek(&mut self, target: &[u8]) -> Result<(), KvError>;
    /// Moves to the last entry with a key `< target`.
    fn seek_before(&mut self, target: &[u8]) -> Result<(), KvError>;
    /// Moves to the next entry. The cursor must be on an entry.
    fn next(&mut self) -> Result<(), KvError>;
    /// Moves to the previous entry. The cursor must be on an entry.
    fn prev(&mut self) -> Result<(), KvError>;
    /// The key and value at the cursor; `None` beyond either end.
    fn entry(&self) -> Option<(&[u8], &[u8])>;
}

/// The engines to choose from. Configurations name them in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// On disk. Only in builds with the cargo feature `rocksdb`, which is on by default.
    RocksDb,
    /// In memory, for tests: lost when the process ends.
    Memory,
}

/// Opens or creates an engine; `path` is a folder of its own (unused by [`EngineKind::Memory`]).
///
/// # Errors
/// [`KvError::NotSupported`] for RocksDB in a build without it; else those of the storage.
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

/// Begins to build an engine in the folder `path` (unused by [`EngineKind::Memory`]) from the bytes
/// of a copy. Whatever the folder holds is removed.
///
/// # Errors
/// [`KvError::NotSupported`] for RocksDB in a build without it; else those of the storage.
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
