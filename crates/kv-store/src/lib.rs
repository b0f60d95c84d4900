//! A multi-version transactional database over a small storage engine.
//!
//! - [`engine`]: ordered tables with atomic batches; [`MemoryEngine`] for simulation and tests, `RocksEngine` (cargo feature
//!   `rocksdb`, on by default) for data on disk.
//! - [`key_codec`]: how keys, versions and values lie in the engine.
//! - [`TransactionalKvDatabase`]: commits, conflict checks, reads at a version.
//! - [`DatabaseCopy`], [`DatabaseInstall`]: a database as one row of bytes, and back.
//!
//! What a commit does is decided by a deterministic state machine: the same commits in the same order give the same
//! verdicts, versions and rows on every replica, however they are split into batches and whatever restarts lie between.
//!
//! Versions that have left the readable window are removed behind the scenes; nothing that can still be asked for depends
//! on when.
//!
//! Left out here: consensus, requests and their limits.

mod clock;
mod collector;
mod conflict_index;
mod conflicts;
mod damage;
mod data_compaction;
mod database;
mod database_copy;
pub mod engine;
mod execute;
mod families;
mod garbage;
mod group_commit;
pub mod key_codec;
mod known_keys;
mod meta;
mod once;
mod oneshot;
mod range_clears;
mod readers;
mod reads;
mod resolve;
mod scan;
mod selectors;
mod space_wait;
mod state_machine;
mod superseded;
mod sweep;
mod sync;
mod window;

pub use clock::Clock;
pub use collector::Collected;
pub use conflicts::MAX_REPORTED_CONFLICTS;
pub use database::{RetentionStatistics, Seal, StoreOptions, TransactionalKvDatabase};
pub use database_copy::{DatabaseCopy, DatabaseInstall};
pub use engine::{
    Durability, Engine, EngineKind, MemoryEngine, MemoryInstall, ResourceOptions, SharedResources, begin_install,
    open_engine,
};
#[cfg(feature = "rocksdb")]
pub use engine::{RocksEngine, RocksOptions};
pub use families::MAX_COLUMN_FAMILIES;
pub use group_commit::{GroupCommitOptions, PendingWrite};
pub use meta::StateBlob;
pub use once::MAX_RECORDS as MAX_IDEMPOTENCY_RECORDS;
pub use readers::MAX_PINS;
pub use reads::RowsHash;
pub use resolve::STAMP_BYTES;
pub use state_machine::MAX_RECENT_CLEARS;
