//! The state of a replica, for its user, and for its peers a few times a second.

use std::collections::BTreeMap;

use super::digests::{DivergedPeer, RefusedCopy};
use super::replica::Replica;
use super::snapshot::CopyStatus;
use crate::configuration::Configuration;
use crate::message::MessageHeader;
use crate::message::{Levels, Report};
use crate::value::{DigestAt, Value};
use crate::{Boot, DiskId, FeatureLevel, LevelRange, Message, ReplicaId, Sequence, View};

use super::level::RaiseError;

/// The state of a replica, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The id of this replica.
    pub id: ReplicaId,
    /// `unborn`, `secondary`, `candidate` or `primary`.
    pub role: &'static str,
    /// The cluster that it belongs to; [`ClusterId::NONE`](crate::ClusterId::NONE) while it is
    /// unborn.
    pub cluster_id: crate::ClusterId,
    /// The epoch in which it acts.
    pub epoch: crate::Epoch,
    /// The configuration of that epoch.
    pub configuration: Configuration,
    /// Its log holds the seal of that epoch, which is not known as chosen yet: it is about to enter
    /// the next one.
    pub is_sealed: bool,
    /// It is no member any more, and the others can do without it: it may be stopped.
    pub is_retired: bool,
    /// It leads, and these disks of its peers follow.
    pub disks: BTreeMap<ReplicaId, DiskId>,
    /// The disk on which it keeps its log.
    pub disk_id: DiskId,
    /// How often that disk has been started.
    pub boot: Boot,
    /// The view that it has promised.
    pub view: View,
    /// The primary, as far as it knows.
    pub primary: Option<ReplicaId>,
    /// It leads and may serve reads: a quorum holds the first entry of its view.
    pub established: bool,
    /// It leads and has applied everything chosen before its view.
    pub recovered: bool,
    /// It leads and is transferring its leadership to this replica.
    pub handing_over_to: Option<ReplicaId>,
    /// Its user lets it lead.
    pub is_eligible: bool,
    /// Its storage lacks space.
    pub storage_full: bool,
    /// For how long the oldest log write has been on its way to the disk, in microseconds.
    pub disk_waits_us: u64,
    /// The last entry of its log, which may not be durable yet.
    pub last: Sequence,
    /// The last durable entry.
    pub durable: Sequence,
    /// The commit point that it knows.
    pub commit: Sequence,
    /// The last entry that its database has applied.
    pub applied: Sequence,
    /// Microseconds since each peer was last heard from; absent: never.
    pub heard_us: BTreeMap<ReplicaId, u64>,
    /// The last report of each peer. Peers report a few times a second.
    pub reports: BTreeMap<ReplicaId, Report>,
    /// The peers whose database a majority contradicts.
    pub diverged_peers: BTreeMap<ReplicaId, DivergedPeer>,
    /// False while it is unborn, and for an observer.
    pub is_voter: bool,
    /// How often it has adopted the log of a new view since its start.
    pub view_changes: u64,
    /// It needs a snapshot of a peer's database.
    pub is_catching_up: bool,
    /// The snapshot that is being fetched; `None` before any replica was asked.
    pub copy: Option<CopyStatus>,
    /// A snapshot that was fetched and not installed.
    pub refused_copy: Option<RefusedCopy>,
    /// Peers that install a snapshot, and for which the log is kept whatever its size.
    pub log_held_for: Vec<ReplicaId>,
    /// A snapshot is complete; the record that makes it the live database is not durable yet.
    pub is_switching: bool,
    /// Snapshots that have replaced its database since its start.
    pub snapshots_installed: u64,
    /// Entries of the log that its disk has lost and that it has not got from the others yet.
    pub lost: Vec<(Sequence, Sequence)>,
    /// Entries that may have been chosen, and that no replica has any more: nobody can lead until
    /// one of them has.
    pub blocked: Option<(Sequence, Sequence)>,
    /// Values that it has proposed since its start.
    pub proposals: u64,
    /// The bytes of its callers' requests without an outcome.
    pub pending_request_bytes: usize,
    /// The feature level at `applied`.
    pub feature_level: FeatureLevel,
    /// The feature levels that its program executes.
    pub levels: LevelRange,
    /// The feature level to which the cluster can be raised now, as far as it knows, or why there
    /// is none.
    pub next_level: Result<FeatureLevel, RaiseError>,
    /// Messages dropped because they came from another cluster, a former start, or a disk that does
    /// not belong.
    pub foreign_messages: u64,
}

impl Replica {
    /// The state of this replica.
    pub fn status(&self) -> ReplicaStatus {
        let hard = self.acceptor.hard();
        ReplicaStatus {
            id: self.options.me,
            role: self.views.role_name(),
            cluster_id: hard.cluster_id,
            epoch: hard.epoch,
            configuration: self.membership.configuration().clone(),
            is_sealed: self.is_sealed(),
            is_retired: self.is_retired(),
            disks: self.following_disks(),
            disk_id: hard.disk_id,
            boot: hard.boot,
            view: hard.promised,
            primary: self.primary(),
            established: self.is_established(),
            recovered: self.is_recovered(),
            handing_over_to: self.transfer_target(),
            is_eligible: self.fitness.is_eligible,
            storage_full: self.fitness.is_full,
            disk_waits_us: self.fitness.disk.waits_us(),
            last: self.acceptor.log().last(),
            durable: self.acceptor.durable_last(),
            commit: self.learner.commit(),
            applied: self.learner.applied(),
            reports: self.peers.reports.clone(),
            diverged_peers: self.digests.diverged_peers(),
            is_voter: self.is_voter(),
            heard_us: self.peers.heard.iter().map(|(id, at)| (*id, self.now.since_us(*at))).collect(),
            view_changes: self.counters.view_changes,
            is_catching_up: self.is_catching_up(),
            copy: self.copy_status(),
            refused_copy: self.refused_copy(),
            log_held_for: self.held_for(),
            is_switching: self.is_switching(),
            snapshots_installed: self.catch_up.installed,
            lost: self.acceptor.log().hole_ranges(),
            blocked: self.blocked,
            proposals: self.counters.proposals,
            pending_request_bytes: self.requests.bytes(),
            feature_level: self.applied.level,
            levels: self.options.levels,
            next_level: self.next_level(self.applied.level, false),
            foreign_messages: self.counters.foreign,
        }
    }

    fn following_disks(&self) -> BTreeMap<ReplicaId, DiskId> {
        let peers = self.proposer.iter().flat_map(|proposer| &proposer.peers);
        peers.map(|(id, progress)| (*id, progress.disk)).collect()
    }

    /// Whether a read asked for now would find a primary that can serve it, as far as this replica
    /// knows.
    pub fn is_ready_to_read(&self) -> bool {
        self.is_established() || (self.primary().is_some() && self.primary() != Some(self.id()))
    }

    /// The value of an entry in memory; for status and tests.
    pub fn value_at(&self, sequence: Sequence) -> Option<Value> {
        self.acceptor.log().get(sequence).cloned().map(Value::from_bytes)
    }

    /// Sends the peers a report of this replica, a few times a second.
    pub(super) fn report(&mut self) {
        if self.views.is_unborn() || self.now < self.timers.next_report {
            return;
        }
        self.timers.next_report = self.now.plus_us(4 * self.options.heartbeat_us);
        self.trim();
        self.send_report();
    }

    /// Sends the peers a report of this replica.
    pub(super) fn send_report(&mut self) {
        let digests = self.digests.publish().into_iter().map(DigestAt::from).collect();
        let report = self.own_report(digests);
        for peer in self.membership.contacts().into_keys() {
            self.send(peer, Message::Report(Box::new(report.clone())), Vec::new());
        }
    }

    /// The state of this replica, for its peers, with these digests.
    pub(super) fn own_report(&self, digests: Vec<DigestAt>) -> Report {
        let copy = self.copy_status();
        Report {
            view: self.acceptor.promised().0,
            last: self.acceptor.log().last().0,
            commit: self.learner.commit().0,
            applied: self.learner.applied().0,
            digest: if self.options.is_witness { 0 } else { self.applied.digest },
            is_primary: self.views.is_primary(),
            is_candidate: self.views.is_candidate(),
            persisted: self.stored.persisted.0,
            storage_full: self.fitness.is_full,
            is_ineligible: !self.fitness.is_eligible || self.options.is_witness,
            first: self.stored.first.0,
            is_observer: !self.is_voter(),
            installing: self.catch_up.installing().0,
            inherited: self.digests.inherited().0,
            is_copying: self.is_catching_up(),
            copy_bytes: copy.as_ref().map_or(0, |copy| copy.received),
            copy_total: copy.as_ref().map_or(0, |copy| copy.total),
            copy_source: copy.as_ref().map_or(0, |copy| u32::from(copy.source.0) + 1),
            log_grown: self.stored.log_grown,
            digests,
            levels: Levels::field(self.options.levels),
            feature_level: self.applied.level.to_field(),
            addresses: self.options.announced.field(),
            is_witness: self.options.is_witness,
        }
    }

    /// Takes the report of a peer.
    pub(super) fn on_report(&mut self, sender: &MessageHeader, mut report: Report) {
        let digests = std::mem::take(&mut report.digests).into_iter().map(From::from);
        self.note_levels(sender.replica, sender.disk_id, report.level_range());
        self.note_applied_level(report.level());
        self.on_announcement(sender, report.addresses.as_ref());
        self.peers.storage.insert(sender.replica, (sender.disk_id, report.is_witness));
        self.note_begun(sender.epoch, Sequence(report.commit));
        self.digests.observe(sender, Sequence(report.inherited), digests, &self.membership);
        self.peers.reports.insert(sender.replica, report);
    }
}
