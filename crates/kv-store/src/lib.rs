//! A multi-version transactional database over a small storage engine.
//!
//! - [`engine`]: ordered tables with atomic batches; [`MemoryEngine`] for simulation and tests,
//!   `RocksEngine` (cargo feature `rocksdb`, on by default) for data on disk.
//! - [`key_codec`]: how the engine's tables encode keys, versions and values.
//! - [`TransactionalKvDatabase`]: commits, conflict checks, and reads at a version.
//! - [`TransactionalKvDatabase::read_changes`]: the effects of each version, from a journal next to
//!   the engine.
//! - [`DatabaseCopy`], [`DatabaseInstall`]: a database as one stream of bytes, and back.
//!
//! A deterministic state machine decides each commit: the same commits in the same order give the
//! same verdicts, versions and rows on every replica, however they are batched and wherever a
//! process restarts.
//!
//! A background thread removes versions that have left the readable window. No result depends on
//! when it does.
//!
//! Not in this crate: consensus, requests and their limits.

#![warn(missing_docs)]

mod clock;
mod commit;
mod database;
pub mod engine;
mod gc;
mod journal;
pub mod key_codec;
mod meta;
mod read;
mod sync;

pub use clock::Clock;
pub use commit::conflicts::MAX_REPORTED_CONFLICTS;
pub use commit::families::MAX_COLUMN_FAMILIES;
pub use commit::idempotency::MAX_RECORDS as MAX_IDEMPOTENCY_RECORDS;
pub use commit::resolve::STAMP_BYTES;
pub use commit::state_machine::MAX_RECENT_CLEARS;
pub use database::{
    BulkLoad, DatabaseCopy, DatabaseInstall, GroupCommitOptions, PendingWrite, PreparedBatch, RetentionStatistics,
    RevisionBoard, StoreOptions, TransactionalKvDatabase,
};
pub use engine::{
    Durability, Engine, EngineKind, MemoryEngine, MemoryInstall, ResourceOptions, SharedResources, begin_install,
    link_stopped, open_engine,
};
#[cfg(feature = "rocksdb")]
pub use engine::{RocksEngine, RocksOptions};
pub use gc::collector::Collected;
pub use journal::{
    ChangeFilter, JournalFile, JournalFolder, JournalOptions, JournalPlace, JournalStatistics, MemoryJournal,
    ReadLimits, ReadSize, Touched,
};
pub use meta::{StateBlob, StoredRecords};
pub use read::readers::MAX_PINS;
pub use read::reads::RowsHash;
