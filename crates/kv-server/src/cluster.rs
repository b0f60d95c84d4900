//! What a server knows about its cluster and about the databases in its own process, as traits: the front end shows both
//! without knowing the mode.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::Serialize;

use crate::mode::Mode;
use crate::problems::Problem;
use crate::router::LocalReader;

/// What a replica does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Primary,
    Secondary,
    /// Stands for primary.
    Candidate,
    /// Holds data but has no vote.
    Learner,
    /// Nothing has been heard from it.
    Unknown,
}

/// How well a replica is, in the words of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaHealth {
    Healthy,
    /// Reachable, but it follows no primary.
    Degraded,
    Unreachable,
    /// Not heard of since this server started.
    Unknown,
}

impl ReplicaHealth {
    pub fn name(self) -> &'static str {
        match self {
            ReplicaHealth::Healthy => "healthy",
            ReplicaHealth::Degraded => "degraded",
            ReplicaHealth::Unreachable => "unreachable",
            ReplicaHealth::Unknown => "unknown",
        }
    }
}

/// The running digest of what a replica has applied, and up to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedDigest {
    pub sequence: u64,
    pub value: u64,
}

/// A copy of a database on its way from one replica to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyProgress {
    /// The other side; `None` before a replica that can send it was found.
    pub peer: Option<u32>,
    pub bytes: u64,
    /// `None` as long as that is not known.
    pub total_bytes: Option<u64>,
    /// So far, as one of the two sides in this process measures it.
    pub bytes_per_second: Option<u64>,
}

/// One replica as this server sees it. `None` is what this server cannot know, such as the applied point of a replica that
/// has not told.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    pub id: u32,
    pub role: Role,
    pub reachable: bool,
    pub last_seen: Option<SystemTime>,
    pub view: u64,
    /// The last sequence of its log.
    pub last_sequence: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub digest: Option<AppliedDigest>,
    /// The oldest version that its database can read, pinned ones aside; of a replica in this process.
    pub oldest_readable: Option<u64>,
    /// Range clears that its database has not carried out yet; of a replica in this process.
    pub pending_clears: Option<u64>,
    pub uptime: Option<Duration>,
    /// The gravest of what is known to be wrong with it: it stopped, its disk is full, others found its database to differ.
    pub problem: Option<Problem>,
    /// The copy of another replica's database that it gets.
    pub copy: Option<CopyProgress>,
    /// Copies of its database that others get; of a replica in this process.
    pub sends_copies: Vec<CopyProgress>,
    /// Where it listens; `None` where it has no such listener.
    pub peer: Option<String>,
    pub thrift: String,
    pub admin: String,
}

impl ReplicaStatus {
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
    pub mode: Mode,
    pub cluster_id: Option<String>,
    /// The replica whose view this is; where several live in one process, the one that answers for them.
    pub node_id: u32,
    pub primary: Option<u32>,
    pub view: u64,
    /// By ascending id.
    pub replicas: Vec<ReplicaStatus>,
}

impl ClusterSnapshot {
    pub fn replica(&self, id: u32) -> Option<&ReplicaStatus> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    /// `healthy`: every replica is; `degraded`: some are not, but writes go on; `unhealthy`: no primary.
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

    pub fn healthy_count(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.health(self.primary) == ReplicaHealth::Healthy).count()
    }
}

/// Tells what the cluster looks like from here.
#[async_trait]
pub trait ClusterView: Send + Sync + 'static {
    async fn snapshot(&self) -> ClusterSnapshot;
}

/// A replica whose database is in this process.
#[derive(Clone)]
pub struct LocalReplica {
    pub id: u32,
    pub reader: LocalReader,
}

/// The databases of this process. The list may change, as a rebuilt replica gets a new database.
pub trait LocalReplicas: Send + Sync + 'static {
    /// By ascending id; never empty while the server runs.
    fn replicas(&self) -> Vec<LocalReplica>;
}
