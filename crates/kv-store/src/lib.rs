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
//! Left out here: consensus, requests and their limits, which column families exist, and the removal of old
//! versions (every version is kept; the layout allows removing those below a horizon later).

mod conflict_index;
mod damage;
mod database;
mod database_copy;
pub mod engine;
#[allow(dead_code, reason = "the database does not write notes yet")]
mod garbage;
mod group_commit;
pub mod key_codec;
mod known_keys;
mod meta;
mod oneshot;
mod reads;
mod resolve;
mod scan;
mod space_wait;
mod state_machine;
mod superseded;
#[allow(dead_code, reason = "the database does not sweep yet")]
mod sweep;

pub use database::{Seal, StoreOptions, TransactionalKvDatabase};
pub use database_copy::{DatabaseCopy, DatabaseInstall};
pub use engine::{
    Durability, Engine, EngineKind, MemoryEngine, MemoryInstall, ResourceOptions, SharedResources, begin_install,
    open_engine,
};
#[cfg(feature = "rocksdb")]
pub use engine::{RocksEngine, RocksOptions};
pub use group_commit::GroupCommitOptions;
pub use meta::StateBlob;
pub use reads::RowsHash;
pub use resolve::STAMP_BYTES;
pub use state_machine::MAX_REPORTED_CONFLICTS;
