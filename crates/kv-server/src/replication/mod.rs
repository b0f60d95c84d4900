//! Replicated mode: consensus under the same front end.
//!
//! - [`KvStoreExecutor`]: applies what was agreed to one replica's database.
//! - [`ReplicaDatabases`]: the directories of that database, by generation, and what becomes of damaged ones.
//! - [`ReplicatedKvStore`]: the replicas of this process, each with its database, log, transport and consensus.
//! - [`ConsensusRouter`]: gives writes to consensus, and takes a read point before it reads.
//! - [`ReplicatedKvDatabase`]: the `KvDatabase` trait over that router, for embedders and tests.
//! - [`ReplicatedServerManager`]: all of it under a front end.

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
