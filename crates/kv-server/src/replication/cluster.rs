//! The cluster as seen from this process: its own replicas as they are, the others as they last
//! reported.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use rsml::core::RaiseError;
use rsml::core::TransferError;
use rsml::{ConsensusReplica, CopySent, DriverStatus, FeatureLevel, LevelRange, ReplicaId};
use stage_times::Snapshot;

use super::local_replicas::{LocalReplica, LocalReplicas};
use super::members::Member;
use super::problems;
use crate::cluster::{
    AppliedDigest, ClusterSnapshot, ClusterView, CopyProgress, LocalDatabase, LocalDatabases, ReplicaStatus, Role,
};
use crate::failover::{Failover, FailoverControl};
use crate::front_end::ListenAddresses;
use crate::mode::Mode;
use crate::order::OrderError;
use crate::problems::Problem;
use crate::upgrade::{LevelView, ReplicaLevels, UpgradeControl};

/// A peer that has sent nothing for this long counts as unreachable. Reports come several times a
/// second.
const REACHABLE_WITHIN: Duration = Duration::from_secs(1);

/// How long a failover waits for a replica that can take over, and how often it checks.
const CANDIDATE_WAIT: Duration = Duration::from_secs(1);
const CANDIDATE_LOOK: Duration = Duration::from_millis(10);

/// The cluster as its replicas in this process see it.
pub struct ReplicatedCluster {
    local: Arc<LocalReplicas>,
    addresses: Arc<ListenAddresses>,
    started: Instant,
}

impl ReplicatedCluster {
    /// The cluster whose replicas `local` run here. `addresses` are those of this server.
    pub fn new(local: Arc<LocalReplicas>, addresses: Arc<ListenAddresses>) -> Self {
        ReplicatedCluster { local, addresses, started: Instant::now() }
    }

    /// The replicas of this process.
    pub(super) fn local(&self) -> &Arc<LocalReplicas> {
        &self.local
    }

    /// The replica that reports for this process: its primary, or else the first.
    pub(super) fn reporter(&self) -> &LocalReplica {
        let replicas = self.local.replicas();
        replicas.iter().find(|replica| replica.consensus.is_primary()).unwrap_or(&replicas[0])
    }

    fn status_of_local(&self, member: &Member, replica: &LocalReplica) -> ReplicaStatus {
        let (status, kept) = (&replica.consensus.status(), replica.reader.database().retention());
        let role = match status.core.role {
            "primary" => Role::Primary,
            "candidate" => Role::Candidate,
            "unborn" => Role::Unknown,
            _ if status.core.configuration.epoch > rsml::Epoch::FIRST
                && !status.core.configuration.members.contains_key(&status.core.id) =>
            {
                Role::Removed
            }
            _ if !status.core.is_voter => Role::Observer,
            _ if self.local.is_witness() => Role::Witness,
            _ => Role::Secondary,
        };
        let runs = status.failed.is_none();
        // The core's status is refreshed periodically, the applied sequence at once. Only committed
        // entries are applied, so the commit point is at least that.
        let committed = status.core.commit.max(status.digest_sequence);
        ReplicaStatus {
            role: if runs { role } else { Role::Unknown },
            reachable: runs,
            last_seen: runs.then(SystemTime::now),
            view: status.core.view.0,
            last_sequence: Some(status.core.last.max(committed).0),
            committed: Some(committed.0),
            applied: Some(status.digest_sequence.0),
            digest: (!self.local.is_witness())
                .then_some(AppliedDigest { sequence: status.digest_sequence.0, value: status.digest }),
            oldest_readable: Some(kept.oldest_readable),
            pending_clears: Some(kept.pending_clears),
            levels: Some(levels(status.core.feature_level, status.core.levels)),
            uptime: Some(self.started.elapsed()),
            problem: problems::most_serious(problems::of_local(member.id, status)),
            copy: own_copy(status),
            sends_copies: status.sending.iter().map(sent_copy).collect(),
            ..self.unknown(member)
        }
    }

    fn remote(&self, member: &Member, seen_by: &DriverStatus) -> ReplicaStatus {
        let id = ReplicaId(member.id as u8);
        let heard = seen_by.core.heard_us.get(&id).map(|us| Duration::from_micros(*us));
        let status = ReplicaStatus {
            reachable: heard.is_some_and(|ago| ago < REACHABLE_WITHIN),
            last_seen: heard.and_then(|ago| SystemTime::now().checked_sub(ago)),
            ..self.unknown(member)
        };
        let status = self.with_report(status, seen_by);
        ReplicaStatus {
            problem: problems::most_serious(problems::of_peer(&status, seen_by, self.started.elapsed())),
            ..status
        }
    }

    /// Adds the peer's last report about itself.
    fn with_report(&self, status: ReplicaStatus, seen_by: &DriverStatus) -> ReplicaStatus {
        let Some(report) = seen_by.core.reports.get(&ReplicaId(status.id as u8)) else { return status };
        let role = match () {
            () if !status.reachable => Role::Unknown,
            () if report.is_primary => Role::Primary,
            () if report.is_candidate => Role::Candidate,
            () if report.is_observer => Role::Observer,
            () if report.is_witness => Role::Witness,
            () => Role::Secondary,
        };
        ReplicaStatus {
            role,
            view: report.view,
            last_sequence: Some(report.last),
            committed: Some(report.commit),
            applied: Some(report.applied),
            digest: (!report.is_witness).then_some(AppliedDigest { sequence: report.applied, value: report.digest }),
            levels: Some(levels(report.level(), report.level_range())),
            copy: (report.is_copying && status.reachable).then(|| CopyProgress {
                peer: report.copy_source.checked_sub(1),
                bytes: report.copy_bytes,
                total_bytes: Some(report.copy_total).filter(|total| *total > 0),
                bytes_per_second: None,
            }),
            ..status
        }
    }

    fn unknown(&self, member: &Member) -> ReplicaStatus {
        let is_local = self.local.replicas().iter().any(|replica| replica.id == member.id);
        let shown = |bound: Option<SocketAddr>, known: &str| where_reached(bound.filter(|_| is_local), known);
        ReplicaStatus {
            id: member.id,
            role: Role::Unknown,
            reachable: false,
            last_seen: None,
            view: 0,
            last_sequence: None,
            committed: None,
            applied: None,
            digest: None,
            oldest_readable: None,
            pending_clears: None,
            levels: None,
            uptime: None,
            problem: None,
            copy: None,
            sends_copies: Vec::new(),
            peer: Some(member.peer.clone()),
            thrift: shown(self.addresses.thrift(), &member.thrift),
            admin: shown(self.addresses.admin(), &member.admin),
        }
    }
}

/// Where clients reach a listener: the address that the configuration gives, which may be a name,
/// and may differ from the one where the listener is bound (`0.0.0.0`, for example). Only a port that
/// the system chose is known from the listener alone.
fn where_reached(bound: Option<SocketAddr>, known: &str) -> String {
    match bound {
        Some(bound) if known.is_empty() || known.ends_with(":0") => bound.to_string(),
        _ => known.to_string(),
    }
}

fn levels(level: FeatureLevel, range: LevelRange) -> ReplicaLevels {
    ReplicaLevels { feature_level: level.0, lowest_level: range.lowest.0, highest_level: range.highest.0 }
}

fn own_copy(status: &DriverStatus) -> Option<CopyProgress> {
    let copy = status.core.copy.as_ref();
    let nobody = || CopyProgress { peer: None, bytes: 0, total_bytes: None, bytes_per_second: None };
    status.core.is_catching_up.then(|| {
        copy.map_or_else(nobody, |copy| CopyProgress {
            peer: Some(u32::from(copy.source.0)),
            bytes: copy.received,
            total_bytes: Some(copy.total).filter(|total| *total > 0),
            bytes_per_second: status.copy_bytes_per_second,
        })
    })
}

fn sent_copy(sent: &CopySent) -> CopyProgress {
    CopyProgress {
        peer: Some(u32::from(sent.to.0)),
        bytes: sent.bytes,
        total_bytes: Some(sent.total),
        bytes_per_second: Some(sent.bytes_per_second),
    }
}

#[async_trait]
impl ClusterView for ReplicatedCluster {
    async fn snapshot(&self) -> ClusterSnapshot {
        self.look()
    }

    fn cluster_id(&self) -> Option<String> {
        let id = self.reporter().consensus.status().core.cluster_id;
        (id != rsml::ClusterId::NONE).then(|| id.to_string())
    }
}

impl ReplicatedCluster {
    /// The members, and the replicas of this process, which may have been removed.
    fn members_and_own(&self) -> Vec<Member> {
        let members = self.local.members();
        let own = |replica: &LocalReplica| {
            let known = self.local.addresses(super::members::replica_id(replica.id));
            let client = |place: usize| known.clients.get(place).cloned().unwrap_or_default();
            Member { id: replica.id, votes: false, peer: known.peer.clone(), thrift: client(0), admin: client(1) }
        };
        let removed = self.local.replicas().iter().filter(|replica| members.get(replica.id).is_none()).map(own);
        let mut all: Vec<Member> = members.iter().cloned().chain(removed).collect();
        all.sort_by_key(|member| member.id);
        all
    }

    fn look(&self) -> ClusterSnapshot {
        let reporter = self.reporter();
        let seen_by = reporter.consensus.status();
        let replicas = self.members_and_own().into_iter().map(|member| {
            match self.local.replicas().iter().find(|replica| replica.id == member.id) {
                Some(replica) => self.status_of_local(&member, replica),
                None => self.remote(&member, &seen_by),
            }
        });
        let is_born = seen_by.core.cluster_id != rsml::ClusterId::NONE;
        ClusterSnapshot {
            mode: Mode::Replicated,
            cluster_id: is_born.then(|| seen_by.core.cluster_id.to_string()),
            node_id: reporter.id,
            primary: reporter.consensus.primary().map(|id| u32::from(id.0)),
            view: seen_by.core.view.0,
            epoch: seen_by.core.epoch.0,
            replicas: replicas.collect(),
        }
    }

    /// All problems of the cluster and its replicas that this process knows.
    pub fn problems(&self) -> Vec<Problem> {
        let (snapshot, seen_by) = (self.look(), self.reporter().consensus.status());
        let up = self.started.elapsed();
        let of_cluster = problems::of_cluster(&self.local.members(), &snapshot.replicas, snapshot.cluster_id.is_some());
        let of_replica =
            |replica: &ReplicaStatus| match self.local.replicas().iter().find(|local| local.id == replica.id) {
                Some(local) => problems::of_local(replica.id, &local.consensus.status()),
                None => problems::of_peer(replica, &seen_by, up),
            };
        of_cluster.into_iter().chain(snapshot.replicas.iter().flat_map(of_replica)).collect()
    }

    /// The replica of this process that leads, or would know best who does.
    ///
    /// A new primary is known to its peers a moment before this process has noticed that it leads.
    /// So an order is always put to the replica itself, which knows: a redirection by what was
    /// noticed last could lead back here.
    pub(super) fn to_be_ordered(&self) -> &LocalReplica {
        let replicas = self.local.replicas();
        let named = self.reporter().consensus.primary().map(|id| u32::from(id.0));
        let leading = replicas.iter().find(|replica| replica.consensus.is_primary());
        leading.or_else(|| replicas.iter().find(|replica| Some(replica.id) == named)).unwrap_or(self.reporter())
    }

    /// The error of a replica that does not lead, and so cannot do what is wanted.
    /// `primary`: the one that it follows.
    pub(super) fn ask_the_primary(&self, primary: Option<ReplicaId>, wanted: &'static str) -> OrderError {
        match primary.and_then(|id| self.local.members().get(u32::from(id.0)).cloned()) {
            Some(member) => OrderError::AskPrimary { primary: member.id, admin: member.admin.clone() },
            None => OrderError::NoPrimary { wanted },
        }
    }

    fn explain(&self, error: TransferError) -> OrderError {
        match error {
            TransferError::NotPrimary { primary } => self.ask_the_primary(primary, FAILOVER),
            TransferError::TimedOut(_) => OrderError::TimedOut(error.to_string()),
            error => OrderError::NotNow(error.to_string()),
        }
    }
}

/// What only the primary can do for a failover.
const FAILOVER: &str = "transfer leadership";

#[async_trait]
impl FailoverControl for ReplicatedCluster {
    async fn fail_over(&self, to: Option<u32>, deadline: tokio::time::Instant) -> Result<Failover, OrderError> {
        let members = self.local.members();
        if let Some(id) = to.filter(|id| members.get(*id).is_none()) {
            let ids = members.ids();
            return Err(OrderError::Impossible(format!("there is no replica {id}: there are {ids}")));
        }
        let started = Instant::now();
        let LocalReplica { id: old_primary, consensus, .. } = self.to_be_ordered();
        let target = to.map(|id| ReplicaId(u8::try_from(id).expect("the configuration bounds replica ids")));
        let new_primary = match transfer(consensus, target, deadline).await {
            Ok(id) | Err(TransferError::LeadsAlready(id)) => id,
            Err(error) => return Err(self.explain(error)),
        };
        let took = started.elapsed();
        if target.is_some_and(|target| target != new_primary) {
            return Err(OrderError::NotNow(format!("replica {new_primary} leads now: ask it to choose another one")));
        }
        let took_ms = took.as_millis() as u64;
        tracing::info!(from = old_primary, to = new_primary.0, took_ms, "failover done, as requested");
        let view = consensus.view().0;
        Ok(Failover { old_primary: *old_primary, new_primary: u32::from(new_primary.0), view, took })
    }
}

#[async_trait]
impl UpgradeControl for ReplicatedCluster {
    fn level(&self) -> LevelView {
        let replica = &self.reporter().consensus;
        let next = replica.status().core.next_level;
        LevelView { level: replica.feature_level().0, next: next.map(|level| level.0).map_err(|e| e.to_string()) }
    }

    async fn finalize(&self, to: Option<u32>, force: bool, deadline: tokio::time::Instant) -> Result<u32, OrderError> {
        let consensus = &self.to_be_ordered().consensus;
        let before = consensus.feature_level();
        match consensus.raise_feature_level(to.map(FeatureLevel), force, deadline.into_std()).await {
            Ok(level) => {
                if level > before {
                    tracing::info!(from = before.0, to = level.0, "the feature level was raised, as requested");
                }
                Ok(level.0)
            }
            Err(RaiseError::NotPrimary { primary }) => Err(self.ask_the_primary(primary, "raise the feature level")),
            // Nothing is left to raise: that is what was asked for.
            Err(RaiseError::AtHighest(level)) => Ok(level.0),
            Err(error @ RaiseError::Lower { .. }) => Err(OrderError::Impossible(error.to_string())),
            Err(error @ (RaiseError::TimedOut(_) | RaiseError::Stopped(_))) => {
                Err(OrderError::TimedOut(error.to_string()))
            }
            Err(error) => Err(OrderError::NotNow(error.to_string())),
        }
    }
}

/// A new primary has not heard yet from any replica that could take over. If there is one, its
/// message arrives within milliseconds.
async fn transfer(
    consensus: &ConsensusReplica,
    target: Option<ReplicaId>,
    deadline: tokio::time::Instant,
) -> Result<ReplicaId, TransferError> {
    let give_up_at = deadline.min(tokio::time::Instant::now() + CANDIDATE_WAIT);
    loop {
        match consensus.transfer_primary(target, deadline.into_std()).await {
            Err(TransferError::NoTarget) if tokio::time::Instant::now() < give_up_at => {
                tokio::time::sleep(CANDIDATE_LOOK).await;
            }
            result => return result,
        }
    }
}

impl LocalDatabases for ReplicatedCluster {
    fn replicas(&self) -> Vec<LocalDatabase> {
        let replicas = self.local.replicas().iter();
        replicas.map(|replica| LocalDatabase { id: replica.id, reader: replica.reader.clone() }).collect()
    }

    fn stages(&self, now: Instant) -> Snapshot {
        let mut sum = Snapshot::default();
        for replica in self.local.replicas() {
            sum.add(&replica.reader.stages().snapshot(now));
            sum.add(&replica.consensus.stages().snapshot(now));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_reached_where_the_configuration_says() {
        let bound = Some("0.0.0.0:9190".parse().expect("an address"));
        assert_eq!(where_reached(bound, "node-0:9190"), "node-0:9190");
        assert_eq!(where_reached(bound, ""), "0.0.0.0:9190");
        assert_eq!(where_reached(bound, "127.0.0.1:0"), "0.0.0.0:9190");
        assert_eq!(where_reached(None, "127.0.0.1:0"), "127.0.0.1:0");
    }
}
