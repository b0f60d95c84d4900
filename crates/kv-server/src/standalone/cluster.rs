//! The cluster of one replica that a standalone server reports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use kv_api::KvError;
use kv_api::access::Policy;

use crate::access::PolicySource;
use crate::cluster::{ClusterSnapshot, ClusterView, LocalDatabase, LocalDatabases, ReplicaStatus, Role};
use crate::failover::{Failover, FailoverControl};
use crate::front_end::ListenAddresses;
use crate::health;
use crate::membership::{Check, MemberControl, MembersView, WantedMembers};
use crate::mode::Mode;
use crate::order::OrderError;
use crate::problems::Problem;
use crate::router::LocalReader;
use crate::space::SpaceWatch;
use crate::upgrade::{HIGHEST_LEVEL, LOWEST_LEVEL, LevelView, ReplicaLevels, UpgradeControl};

/// The replica id that a standalone server reports.
const STANDALONE_ID: u32 = 0;

/// A cluster of one replica.
pub(super) struct StandaloneCluster {
    reader: LocalReader,
    addresses: Arc<ListenAddresses>,
    space: Arc<SpaceWatch>,
    started: Instant,
}

impl StandaloneCluster {
    /// A cluster whose uptime counts from now.
    pub fn new(reader: LocalReader, addresses: Arc<ListenAddresses>, space: Arc<SpaceWatch>) -> Self {
        StandaloneCluster { reader, addresses, space, started: Instant::now() }
    }

    /// The most serious problem, if there is one.
    pub fn problem(&self) -> Option<Problem> {
        let database = self.reader.database();
        let problem = if let Some(reason) = database.damage() {
            Problem::new("damaged", format!("the database is damaged: {reason}"), "restore it from a backup")
        } else if let Some(reason) = database.write_failure() {
            let text = format!("writes are refused, but reads continue: a write failed ({reason})");
            let remedy = "remove the cause (space, file descriptors, the disk); the server opens its database again by \
                          itself, or ends, as storage.on_write_failure says";
            Problem::new("writes_failed", text, remedy)
        } else if !self.space.has_space() {
            let remedy = "make space, or lower storage.min_free_mb; writes then continue by themselves";
            Problem::new("disk_full", format!("writes are refused: {}", self.space.refusal()), remedy)
        } else {
            return None;
        };
        Some(problem.of_replica(STANDALONE_ID))
    }

    fn levels(&self) -> ReplicaLevels {
        let feature_level = self.reader.database().level();
        ReplicaLevels { feature_level, lowest_level: LOWEST_LEVEL, highest_level: HIGHEST_LEVEL }
    }

    /// Why this process cannot do its work any more; `None` while it can.
    pub fn failure(&self) -> Option<String> {
        let database = self.reader.database();
        match database.can_commit() {
            true => health::stalled("group-commit", database.committing_for()).or_else(|| database.damage()),
            false => Some("the thread group-commit has ended".to_string()),
        }
    }
}

#[async_trait]
impl ClusterView for StandaloneCluster {
    fn cluster_id(&self) -> Option<String> {
        None
    }

    async fn snapshot(&self) -> ClusterSnapshot {
        let shown = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let kept = self.reader.database().retention();
        ClusterSnapshot {
            mode: Mode::Standalone,
            cluster_id: None,
            node_id: STANDALONE_ID,
            primary: Some(STANDALONE_ID),
            view: 0,
            epoch: 0,
            replicas: vec![ReplicaStatus {
                id: STANDALONE_ID,
                role: Role::Primary,
                reachable: true,
                last_seen: Some(SystemTime::now()),
                view: 0,
                // There is no consensus log.
                last_sequence: None,
                committed: None,
                applied: None,
                digest: None,
                oldest_readable: Some(kept.oldest_readable),
                pending_clears: Some(kept.pending_clears),
                levels: Some(self.levels()),
                uptime: Some(self.started.elapsed()),
                problem: self.problem(),
                copy: None,
                sends_copies: Vec::new(),
                peer: None,
                thrift: shown(self.addresses.thrift()),
                admin: shown(self.addresses.admin()),
            }],
        }
    }
}

#[async_trait]
impl FailoverControl for StandaloneCluster {
    async fn fail_over(&self, _: Option<u32>, _: tokio::time::Instant) -> Result<Failover, OrderError> {
        Err(OrderError::Impossible("this server is standalone: there is no other replica that could lead".into()))
    }
}

const NO_CLUSTER: &str = "this server is standalone and has no members: `synodkv convert` makes it the first replica of a \
                          cluster";

#[async_trait]
impl MemberControl for StandaloneCluster {
    fn members(&self) -> Result<MembersView, OrderError> {
        Err(OrderError::Impossible(NO_CLUSTER.into()))
    }

    async fn change(&self, _: WantedMembers, _: tokio::time::Instant) -> Result<MembersView, OrderError> {
        Err(OrderError::Impossible(NO_CLUSTER.into()))
    }

    async fn check(&self, _: WantedMembers) -> Result<Vec<Check>, OrderError> {
        Err(OrderError::Impossible(NO_CLUSTER.into()))
    }
}

impl PolicySource for StandaloneCluster {
    fn enabled_revision(&self) -> u64 {
        self.reader.enabled_revision()
    }

    fn policy(&self) -> Arc<Policy> {
        self.reader.database().policy()
    }

    /// Nobody else changes it.
    fn check_fresh(&self) -> Result<(), KvError> {
        Ok(())
    }
}

#[async_trait]
impl UpgradeControl for StandaloneCluster {
    fn level(&self) -> LevelView {
        let level = self.levels().feature_level;
        let at_highest = || format!("the feature level is {level}, the highest that this program executes");
        let next = (level < HIGHEST_LEVEL).then_some(HIGHEST_LEVEL).ok_or_else(at_highest);
        LevelView { level, next }
    }

    async fn finalize(&self, to: Option<u32>, _force: bool, _: tokio::time::Instant) -> Result<u32, OrderError> {
        let database = self.reader.database();
        let to = to.unwrap_or(HIGHEST_LEVEL);
        match tokio::task::spawn_blocking(move || database.raise_level(to)).await {
            Ok(Ok(level)) => Ok(level),
            Ok(Err(KvError::InvalidOperation(reason))) => Err(OrderError::Impossible(reason)),
            Ok(Err(error)) => Err(OrderError::NotNow(error.to_string())),
            Err(panic) => Err(OrderError::TimedOut(format!("raising the feature level failed: {panic}"))),
        }
    }
}

impl LocalDatabases for StandaloneCluster {
    fn replicas(&self) -> Vec<LocalDatabase> {
        vec![LocalDatabase { id: STANDALONE_ID, reader: self.reader.clone() }]
    }
}
