//! Replicated mode: consensus under the front end that both modes share.
//!
//! - [`KvStoreExecutor`]: applies the log to one replica's database.
//! - [`ReplicaDatabases`]: the directories of that database, by generation, and the handling of
//!   damaged ones.
//! - [`LocalReplicas`]: the replicas of this process, each with its database, log, transport
//!   and consensus.
//! - [`Members`]: the members of the cluster and their addresses.
//! - [`ConsensusRouter`]: passes writes to consensus, and obtains a read point before each read.
//! - [`ReplicatedKvDatabase`]: the `KvDatabase` trait over that router, for embedders and tests.
//! - [`ReplicatedServerManager`]: starts and stops all of it, under a front end.

mod cluster;
mod database;
mod databases;
mod executor;
mod level_record;
mod local_replicas;
mod manager;
mod member_control;
mod members;
mod place;
mod policy;
mod problems;
mod prometheus;
mod router;
mod snapshots;
#[cfg(test)]
mod tests;

pub use cluster::ReplicatedCluster;
pub use database::ReplicatedKvDatabase;
pub use databases::ReplicaDatabases;
pub(crate) use databases::{MARKER, Marker, generation_of, name_of};
pub use executor::KvStoreExecutor;
pub use local_replicas::{LocalReplica, LocalReplicas, Network, check_certificates};
pub(crate) use local_replicas::{open_log, open_log_at, random};
pub use manager::ReplicatedServerManager;
pub use members::Members;
pub use place::DatabasePlace;
pub use policy::ReplicatedPolicy;
pub use router::ConsensusRouter;
