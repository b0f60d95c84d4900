//! The driver: a [`ConsensusReplica`] runs the core with real threads, storage, network and clock.
//!
//! Each replica has four threads. The *log* thread makes all writes that have queued up durable
//! with one sync. The *apply* thread applies all entries that have queued up in one atomic write,
//! and answers the callers that wait for an outcome. The *snapshot* thread reads copies of the
//! database for peers, and builds a database from a peer's copy. The *core* thread handles the
//! passage of time.
//!
//! Any thread that delivers an input may run the core (see `core_lock`). It processes all inputs
//! that wait, judges timeouts only after them (a replica that was stalled must not blame its
//! peers), and then dispatches the outputs: writes to the log thread and messages to the network at
//! the same time.
//!
//! A failure of the storage or of the executor stops the replica: nothing is retried.

mod apply_queue;
mod apply_thread;
mod copy_log;
mod core_lock;
mod core_runner;
mod error;
mod failure;
mod heartbeat;
mod inbox;
#[cfg(test)]
mod interleavings;
mod leadership;
mod log_thread;
mod logged;
mod network;
mod options;
mod receiving;
mod replica;
mod shared;
mod snapshot_thread;
mod starting;
mod status;
mod sync;
mod threads;
mod waiters;
mod work;

pub use copy_log::CopySent;
pub use error::{ReadError, RequestError, StartError};
pub use failure::{Failure, FailureKind};
pub use heartbeat::{StalledThread, ThreadKind};
pub use network::NetworkManager;
pub use options::ReplicaOptions;
pub use replica::ConsensusReplica;
pub use starting::{ReadyReplica, RecoveredReplica};
pub use status::{DriverStatus, RoleChange};
