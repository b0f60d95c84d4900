//! How a replica is run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::core::CoreOptions;

/// The settings of a [`ConsensusReplica`](super::ConsensusReplica).
#[derive(Clone)]
pub struct ReplicaOptions {
    /// The settings of the core: the replica's id, its cluster and its timeouts.
    pub core: CoreOptions,
    /// After this many bytes were written to the log, the database is asked to flush.
    pub flush_after_log_bytes: u64,
    /// Maximum bytes of entries and requests from peers that may wait for the core. Messages
    /// beyond that are dropped, and peers send them again. At least the length of the longest
    /// message.
    pub max_waiting_bytes: usize,
    /// A request that finds no primary for this long fails, and is certainly not executed. A read
    /// that gets no read point for this long fails.
    pub no_primary_wait: Duration,
    /// A random number, which becomes the disk's id if the disk is empty.
    pub new_disk_id: u128,
    /// A random number, which becomes the cluster's id if this replica bootstraps the cluster.
    pub new_cluster_id: u128,
    /// Whether the disks have space for more writes, apart from what the log itself reports. Called
    /// once a second, on a thread that it may block. It should return false while there is still
    /// some space left, so that writes in progress can finish.
    pub has_space: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether the disks have ample space: enough to keep the log for a replica that is fetching a
    /// copy of the database, however much is written meanwhile. Called like `has_space`.
    pub has_ample_space: Arc<dyn Fn() -> bool + Send + Sync>,
    /// A thread that has not finished one piece of work for this long counts as stalled: see
    /// [`ConsensusReplica::stalled`](super::ConsensusReplica::stalled).
    pub stalled_after: Duration,
}

impl ReplicaOptions {
    /// The default of `max_waiting_bytes`.
    pub const MAX_WAITING_BYTES: usize = 256 << 20;

    /// These core settings, and the defaults of all others. The two ids must be random numbers: see
    /// the fields.
    pub fn new(core: CoreOptions, new_disk_id: u128, new_cluster_id: u128) -> Self {
        ReplicaOptions {
            core,
            flush_after_log_bytes: 256 << 20,
            max_waiting_bytes: Self::MAX_WAITING_BYTES,
            no_primary_wait: Duration::from_secs(5),
            new_disk_id,
            new_cluster_id,
            has_space: Arc::new(|| true),
            has_ample_space: Arc::new(|| true),
            stalled_after: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for ReplicaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("ReplicaOptions");
        text.field("core", &self.core).field("no_primary_wait", &self.no_primary_wait).finish_non_exhaustive()
    }
}
