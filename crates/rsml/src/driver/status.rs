//! A replica's reports to its users and operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::copy_log::CopySent;
use super::failure::Failure;
use super::heartbeat::StalledThread;
use crate::core::ReplicaStatus;
use crate::transport::{TransportStatistics, Trouble};
use crate::{ReplicaId, ReplicatedState, Sequence, StorageStatistics, View};

/// The replica's role, as reported to watchers whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The highest view that this replica has promised.
    pub view: View,
    /// The replica that leads, as far as this one knows.
    pub primary: Option<ReplicaId>,
    /// Whether this replica leads.
    pub is_primary: bool,
    /// Whether the primary serves reads: everything chosen before its view is applied or about to
    /// be.
    pub established: bool,
    /// Whether this replica leads and has applied everything chosen before its view.
    pub recovered: bool,
    /// Why the replica stopped, if it did.
    pub failed: Option<Failure>,
}

/// Everything about a replica that operators want to see.
#[derive(Clone, Debug)]
pub struct DriverStatus {
    /// The state of the core.
    pub core: ReplicaStatus,
    /// Counters of the log.
    pub storage: StorageStatistics,
    /// Counters of the transport.
    pub network: TransportStatistics,
    /// For each peer without a connection, why there is none; under this replica's own id, why no
    /// peer can connect to it.
    pub troubles: BTreeMap<ReplicaId, Arc<Trouble>>,
    /// If this replica is fetching a copy of a peer's database: how fast, in bytes per second.
    pub copy_bytes_per_second: Option<u64>,
    /// Copies of this replica's database that peers are fetching.
    pub sending: Vec<CopySent>,
    /// A thread of this replica that has stalled.
    pub stalled: Option<StalledThread>,
    /// The log waits for file descriptors.
    pub lacks_descriptors: bool,
    /// How many messages were ignored because this version does not know their kind.
    pub messages_unknown: u64,
    /// The running digest at `digest_sequence`.
    pub digest: u64,
    /// The last sequence that the database has applied.
    pub digest_sequence: Sequence,
    /// Requests of all sessions that were executed since start.
    pub requests_executed: u64,
    /// `batch_sizes[i]`: how many values had fewer than 2^i requests, and at least 2^(i-1).
    pub batch_sizes: Vec<u64>,
    /// Why the replica stopped, if it did.
    pub failed: Option<Failure>,
}

impl DriverStatus {
    /// The status of a replica that has just recovered.
    pub(super) fn first(core: ReplicaStatus, storage: StorageStatistics, state: &ReplicatedState) -> Self {
        DriverStatus {
            core,
            storage,
            network: TransportStatistics::default(),
            troubles: BTreeMap::new(),
            copy_bytes_per_second: None,
            sending: Vec::new(),
            stalled: None,
            lacks_descriptors: false,
            messages_unknown: 0,
            digest: state.digest,
            digest_sequence: state.sequence,
            requests_executed: 0,
            batch_sizes: vec![0; 24],
            failed: None,
        }
    }
}
