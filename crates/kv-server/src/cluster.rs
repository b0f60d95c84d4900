//! The traits through which the front end shows the cluster and the databases of this process,
//! without knowing the mode.

use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use serde::Serialize;
use stage_times::Snapshot;

use crate::mode::Mode;
use crate::problems::Problem;
use crate::router::LocalReader;
use crate::upgrade::ReplicaLevels;

/// The present role of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Secondary,
    /// It campaigns to become primary.
    Candidate,
    /// It holds data but has no vote. `/status` calls the role `learner`, its name in earlier
    /// versions, and says `observer` in a field of its own.
    #[serde(rename = "learner")]
    Observer,
    /// It votes with its log, and has no rows.
    Witness,
    /// No member of the cluster any more.
    Removed,
    /// No message from it has arrived yet.
    Unknown,
}

/// The health of a replica, in the words of the Thrift interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaHealth {
    Healthy,
    /// Reachable, but it follows no primary.
    Degraded,
    Unreachable,
    /// No message from it since this server started.
    Unknown,
}

impl ReplicaHealth {
    /// The name in the Thrift interface.
    pub fn name(self) -> &'static str {
        match self {
            ReplicaHealth::Healthy => "healthy",
            ReplicaHealth::Degraded => "degraded",
            ReplicaHealth::Unreachable => "unreachable",
            ReplicaHealth::Unknown => "unknown",
        }
    }
}

/// The running digest of the entries that a replica has applied, and the last sequence that it
/// covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedDigest {
    /// The last sequence that the digest covers.
    pub sequence: u64,
    /// The digest.
    pub value: u64,
}

/// The progress of a database copy from one replica to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyProgress {
    /// The other replica; `None` until one that can send the copy was found.
    pub peer: Option<u32>,
    /// Bytes copied so far.
    pub bytes: u64,
    /// Size of the copy; `None` until it is known.
    pub total_bytes: Option<u64>,
    /// Average rate so far, as measured by the side in this process.
    pub bytes_per_second: Option<u64>,
}

/// One replica as this server sees it. A field is `None` if this server cannot know it, for example
/// the applied sequence of a replica that has not reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    /// The replica's id.
    pub id: u32,
    /// Its role.
    pub role: Role,
    /// Whether it runs and its messages arrive.
    pub reachable: bool,
    /// When its last message arrived.
    pub last_seen: Option<SystemTime>,
    /// The view.
    pub view: u64,
    /// The last sequence of its log.
    pub last_sequence: Option<u64>,
    /// The last sequence that it knows to be committed.
    pub committed: Option<u64>,
    /// The last sequence that its database has applied.
    pub applied: Option<u64>,
    /// The digest of what it has applied.
    pub digest: Option<AppliedDigest>,
    /// The oldest version that its database can read, apart from pinned ones. Known for replicas in
    /// this process only.
    pub oldest_readable: Option<u64>,
    /// Range clears that its database has not finished yet. Known for replicas in this process
    /// only.
    pub pending_clears: Option<u64>,
    /// Its feature levels.
    pub levels: Option<ReplicaLevels>,
    /// Time since its process started.
    pub uptime: Option<Duration>,
    /// Its most serious known problem: for example it stopped, its disk is full, or others found
    /// that its database differs.
    pub problem: Option<Problem>,
    /// The copy of another replica's database that it is receiving.
    pub copy: Option<CopyProgress>,
    /// Copies of its database that others are fetching. Known for replicas in this process only.
    pub sends_copies: Vec<CopyProgress>,
    /// Where it listens for peers; `None` in standalone mode.
    pub peer: Option<String>,
    /// Its Thrift address.
    pub thrift: String,
    /// Its admin address.
    pub admin: String,
}

impl ReplicaStatus {
    /// Its health, given the primary of the cluster.
    pub fn health(&self, primary: Option<u32>) -> ReplicaHealth {
        match (self.reachable, self.last_seen) {
            (false, None) => ReplicaHealth::Unknown,
            (false, Some(_)) => ReplicaHealth::Unreachable,
            (true, _) if primary.is_none() || self.role == Role::Candidate || self.problem.is_some() => {
                ReplicaHealth::Degraded
            }
            (true, _) => ReplicaHealth::Healthy,
        }
    }
}

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSnapshot {
    /// The mode of this server.
    pub mode: Mode,
    /// The cluster's id; `None` in standalone mode and before the bootstrap.
    pub cluster_id: Option<String>,
    /// The replica that reports this state. If several run in one process, one of them reports for
    /// all.
    pub node_id: u32,
    /// The primary, if one is known.
    pub primary: Option<u32>,
    /// The view.
    pub view: u64,
    /// The epoch of the members; 0 in standalone mode and before the bootstrap.
    pub epoch: u64,
    /// By ascending id.
    pub replicas: Vec<ReplicaStatus>,
}

impl ClusterSnapshot {
    /// The replica with this id.
    pub fn replica(&self, id: u32) -> Option<&ReplicaStatus> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// `healthy` if every replica is; `degraded` if some are not but writes continue; `unhealthy`
    /// without a primary or a majority of healthy replicas.
    pub fn cluster_status(&self) -> &'static str {
        let healthy = self.healthy_count();
        if self.primary.is_none() || healthy <= self.replicas.len() / 2 {
            "unhealthy"
        } else if healthy < self.replicas.len() {
            "degraded"
        } else {
            "healthy"
        }
    }

    /// Number of healthy replicas.
    pub fn healthy_count(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.health(self.primary) == ReplicaHealth::Healthy).count()
    }
}

/// Reports the cluster as seen from this server.
#[async_trait]
pub trait ClusterView: Send + Sync + 'static {
    async fn snapshot(&self) -> ClusterSnapshot;

    /// The id of the cluster whose versions these are; `None` in standalone mode and before the
    /// bootstrap. Cheap.
    fn cluster_id(&self) -> Option<String>;
}

/// A database of this process, with the id of its replica.
#[derive(Clone)]
pub struct LocalDatabase {
    /// The replica's id.
    pub id: u32,
    /// Reads the database.
    pub reader: LocalReader,
}

/// The databases of this process. The list may change, because a rebuilt replica gets a new
/// database.
pub trait LocalDatabases: Send + Sync + 'static {
    /// All of them by ascending id; never empty while the server runs.
    fn replicas(&self) -> Vec<LocalDatabase>;

    /// How long requests spend in each stage, over all of them.
    fn stages(&self, now: Instant) -> Snapshot {
        let mut sum = Snapshot::default();
        for LocalDatabase { reader, .. } in self.replicas() {
            sum.add(&reader.stages().snapshot(now));
            if let Some(stages) = reader.database().stages() {
                sum.add(&stages.snapshot(now));
            }
        }
        sum
    }
}
