//! Replicated mode: consensus under the same front end.
//!
//! - [`KvStoreExecutor`]: applies what was agreed to one replica's database.
//! - [`ReplicatedKvStore`]: the replicas of this process, each with its database, log, transport and consensus.
//! - [`ConsensusRouter`]: gives writes to consensus, and takes a read point before it reads.
//! - [`ReplicatedKvDatabase`]: the `KvDatabase` trait over that router, for embedders and tests.
//! - [`ReplicatedServerManager`]: all of it under a front end.

mod cluster;
mod collector;
mod database;
mod executor;
mod manager;
pub mod operation;
mod router;
mod store;

pub use cluster::ReplicatedCluster;
pub use database::ReplicatedKvDatabase;
pub use executor::KvStoreExecutor;
pub use manager::ReplicatedServerManager;
pub use operation::{decode as decode_operation, encode as encode_operation};
pub use router::ConsensusRouter;
pub use store::{LocalReplicaParts, Network, ReplicatedKvStore};
