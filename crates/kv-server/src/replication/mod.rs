//! Replicated mode: consensus under the front end that both modes share.
//!
//! - [`KvStoreExecutor`]: applies the log to one replica's database.
//! - [`ReplicaDatabases`]: the directories of that database, by generation, and the handling of
//!   damaged ones.
//! - [`ReplicatedKvStore`]: the replicas of this process, each with its database, log, transport
//!   and consensus.
//! - [`ConsensusRouter`]: passes writes to consensus, and obtains a read point before each read.
//! - [`ReplicatedKvDatabase`]: the `KvDatabase` trait over that router, for embedders and tests.
//! - [`ReplicatedServerManager`]: starts and stops all of it, under a front end.

mod cluster;
mod collector;
mod database;
mod databases;
mod executor;
mod manager;
mod place;
mod problems;
mod router;
mod snapshots;
mod store;
#[cfg(test)]
mod tests;

pub use cluster::ReplicatedCluster;
pub use database::ReplicatedKvDatabase;
pub use databases::ReplicaDatabases;
pub use executor::KvStoreExecutor;
pub use manager::ReplicatedServerManager;
pub use place::DatabasePlace;
pub use router::ConsensusRouter;
pub use store::{LocalReplicaParts, Network, ReplicatedKvStore, check_certificates};
