//! The settings of a replica's core.

use super::Membership;
use crate::configuration::Addresses;
use crate::{FeatureLevel, LevelRange, ReplicaId};

/// Times and sizes. All times are in microseconds, all sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CoreOptions {
    /// The replica that is run.
    pub me: ReplicaId,
    /// The members of the cluster as the settings name them. The voters among them come from the
    /// log.
    pub membership: Membership,
    /// A primary sends something to each peer at least this often.
    pub heartbeat_us: u64,
    /// A secondary that hears from no primary for a random time from this one to `election_max_us`
    /// stands for election.
    pub election_min_us: u64,
    /// The longest such time.
    pub election_max_us: u64,
    /// After this long without progress, requests, reads and entries are sent again.
    pub retry_us: u64,
    /// Maximum payload bytes in one value.
    pub max_batch_bytes: usize,
    /// Maximum number of values proposed and not yet committed.
    pub max_in_flight_values: u64,
    /// Maximum bytes sent to one peer and not yet acknowledged by it.
    pub window_bytes: usize,
    /// Maximum payload bytes in one message.
    pub max_message_bytes: usize,
    /// Entries of a log that is not adopted yet are staged in memory up to about this many bytes.
    pub stage_bytes: usize,
    /// Applied entries are kept in memory, for peers that lag, up to this many bytes.
    pub log_cache_bytes: usize,
    /// While a replica lags or is away, the others keep entries for it in the log on disk up
    /// to about this many bytes. A replica that needs older entries gets a snapshot instead; the
    /// entries that it needs after the snapshot are kept in addition to these.
    pub log_keep_bytes: u64,
    /// Maximum bytes in one piece of a snapshot.
    pub snapshot_chunk_bytes: usize,
    /// Maximum bytes of a snapshot per second at first; 0: no limit. When the log grows faster than
    /// that, the rate is doubled until the snapshot gains on the log.
    pub snapshot_bytes_per_second: u64,
    /// Maximum bytes of requests without an outcome; further requests are refused.
    pub max_request_bytes: usize,
    /// Maximum bytes of entries that are not applied yet; a primary proposes no more beyond that.
    pub max_unapplied_bytes: usize,
    /// For how long secondaries let nobody else lead after they heard from the primary, which
    /// meanwhile serves reads without asking them. 0: no leases. Shorter than `election_min_us`,
    /// and the same on all replicas.
    pub lease_us: u64,
    /// The running digest is recorded at every multiple of this sequence, and compared with those
    /// of the other replicas. The same on all replicas; the driver passes it to the
    /// [`crate::Applier`].
    pub digest_interval: u64,
    /// The feature levels that this program executes.
    pub levels: LevelRange,
    /// The feature level is raised only if every member was heard from within this time.
    pub level_heard_us: u64,
    /// A primary raises the feature level by itself once all members have executed a higher one for
    /// this long. `None`: only when asked, or while nothing was ever written.
    pub raise_after_us: Option<u64>,
    /// Epochs are sealed only if the cluster has this feature level: the first one whose programs
    /// know what a seal forbids.
    pub epochs_level: FeatureLevel,
    /// Witnesses are members only if the cluster has this feature level: older programs would take
    /// them for voters with data.
    pub witness_level: FeatureLevel,
    /// Whether this replica, with an empty disk, may bootstrap a cluster together with the others
    /// that the settings name. Otherwise it waits until it is a member of one.
    pub bootstraps: bool,
    /// Whether this replica is a *witness*: it votes and keeps the log, and its executor has no
    /// database to speak of. It never leads, gives nobody a copy and executes no request. A disk
    /// stays what it is for good.
    pub is_witness: bool,
    /// Where this replica is reached, as it says to its peers. Empty: it says nothing.
    pub announced: Addresses,
    /// Whether a voter that came back with an empty disk votes again once it has caught up.
    pub readmit_replaced_disk: bool,
    /// Differs from replica to replica; only timing depends on it.
    pub seed: u64,
}

impl CoreOptions {
    /// The defaults for replica `me` of a cluster of `replicas`: 1 to 7, `me` included.
    pub fn new(me: ReplicaId, replicas: Vec<ReplicaId>, seed: u64) -> CoreOptions {
        CoreOptions {
            me,
            membership: Membership::new(me, replicas),
            heartbeat_us: 50_000,
            election_min_us: 300_000,
            election_max_us: 600_000,
            retry_us: 200_000,
            max_batch_bytes: 1 << 20,
            max_in_flight_values: 4,
            window_bytes: 16 << 20,
            max_message_bytes: 4 << 20,
            stage_bytes: 8 << 20,
            log_cache_bytes: 64 << 20,
            log_keep_bytes: 1 << 30,
            snapshot_chunk_bytes: 1 << 20,
            snapshot_bytes_per_second: 100 << 20,
            max_request_bytes: 256 << 20,
            max_unapplied_bytes: 128 << 20,
            lease_us: 0,
            digest_interval: crate::DIGEST_INTERVAL,
            levels: LevelRange::default(),
            level_heard_us: 10_000_000,
            raise_after_us: None,
            epochs_level: FeatureLevel(2),
            witness_level: FeatureLevel(3),
            bootstraps: true,
            is_witness: false,
            announced: Addresses::default(),
            readmit_replaced_disk: false,
            seed,
        }
    }
}
