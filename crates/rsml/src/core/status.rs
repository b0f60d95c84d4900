//! How a replica is: what it tells its user, and what it tells its peers a few times a second.

use std::collections::BTreeMap;

use super::catch_up::CopyStatus;
use super::digests::{RefusedCopy, Stray};
use super::replica::Replica;
use super::view_manager::Role;
use crate::message::MessageHeader;
use crate::message::Report;
use crate::value::DigestAt;
use crate::{Boot, DiskId, Message, ReplicaId, Sequence, View};

/// A view from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub id: ReplicaId,
    pub role: &'static str,
    pub cluster_id: crate::ClusterId,
    pub epoch: crate::Epoch,
    pub disk_id: DiskId,
    pub boot: Boot,
    pub view: View,
    pub primary: Option<ReplicaId>,
    /// A primary that may serve reads: a quorum holds the first entry of its own view.
    pub established: bool,
    /// A primary that has applied everything chosen before its view.
    pub recovered: bool,
    /// To whom this primary is handing over.
    pub handing_over_to: Option<ReplicaId>,
    pub is_eligible: bool,
    pub storage_full: bool,
    /// How long the oldest write to the log has been on its way to the disk.
    pub disk_waits_us: u64,
    pub last: Sequence,
    pub durable: Sequence,
    pub commit: Sequence,
    pub applied: Sequence,
    /// Microseconds since each peer was last heard; absent: never.
    pub heard_us: BTreeMap<ReplicaId, u64>,
    /// What each peer last told about itself, a few times a second.
    pub reports: BTreeMap<ReplicaId, Report>,
    /// The peers whose database a majority contradicts.
    pub strays: BTreeMap<ReplicaId, Stray>,
    /// False while unborn, and for a disk that does not belong.
    pub is_voter: bool,
    pub view_changes: u64,
    /// Waits for a copy of a peer's database.
    pub is_catching_up: bool,
    /// What has come of it; `None` before anybody was asked.
    pub copy: Option<CopyStatus>,
    /// Such a copy came, and was not taken.
    pub refused_copy: Option<RefusedCopy>,
    /// Peers that get a copy, and for which the log is kept whatever its size.
    pub log_held_for: Vec<ReplicaId>,
    /// Such a copy is complete; the record that makes it the live database is not durable yet.
    pub is_switching: bool,
    /// Copies of a peer's database that took the place of the own one since the start.
    pub snapshots_installed: u64,
    /// What the disk has lost of the log and this replica has not got from the others yet.
    pub lost: Vec<(Sequence, Sequence)>,
    /// Entries that may have been chosen, and that nobody has any more: as long as it is so, nobody can lead.
    pub blocked: Option<(Sequence, Sequence)>,
    /// Values proposed by this replica.
    pub proposals: u64,
    pub pending_request_bytes: usize,
    /// Messages dropped because they came from another cluster, a former start, or a disk that does not belong.
    pub foreign_messages: u64,
}

impl Replica {
    pub fn status(&self) -> ReplicaStatus {
        let hard = self.acceptor.hard();
        ReplicaStatus {
            id: self.options.me,
            role: self.views.role_name(),
            cluster_id: hard.cluster_id,
            epoch: hard.epoch,
            disk_id: hard.disk_id,
            boot: hard.boot,
            view: hard.promised,
            primary: self.primary(),
            established: self.is_established(),
            recovered: self.is_recovered(),
            handing_over_to: self.handover_target(),
            is_eligible: self.is_eligible,
            storage_full: self.is_full,
            disk_waits_us: self.disk.waits_us(),
            last: self.acceptor.log().last(),
            durable: self.acceptor.durable_last(),
            commit: self.learner.commit(),
            applied: self.learner.applied(),
            reports: self.reports.clone(),
            strays: self.digests.strays(),
            is_voter: self.is_voter(),
            heard_us: self.heard.iter().map(|(id, at)| (*id, self.now.since_us(*at))).collect(),
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
            foreign_messages: self.counters.foreign,
        }
    }

    /// Tells the peers how this replica is, a few times a second.
    pub(super) fn report(&mut self) {
        if self.is_unborn() || self.now < self.next_report {
            return;
        }
        self.next_report = self.now.plus_us(4 * self.options.heartbeat_us);
        self.trim();
        self.send_report();
    }

    pub(super) fn send_report(&mut self) {
        let copy = self.copy_status();
        let report = Report {
            view: self.acceptor.promised().0,
            last: self.acceptor.log().last().0,
            commit: self.learner.commit().0,
            applied: self.learner.applied().0,
            digest: self.applied_digest,
            is_primary: matches!(self.views.role, Role::Primary(_)),
            is_candidate: matches!(self.views.role, Role::PreVoting { .. } | Role::Preparing(_)),
            persisted: self.persisted.0,
            storage_full: self.is_full,
            is_ineligible: !self.is_eligible,
            first: self.first_stored.0,
            is_observer: !self.is_voter(),
            installing: self.catch_up.installing().0,
            inherited: self.digests.inherited().0,
            is_copying: self.is_catching_up(),
            copy_bytes: copy.as_ref().map_or(0, |copy| copy.received),
            copy_total: copy.as_ref().map_or(0, |copy| copy.total),
            copy_source: copy.as_ref().map_or(0, |copy| u32::from(copy.source.0) + 1),
            log_grown: self.log_grown,
            digests: self.digests.publish().into_iter().map(DigestAt::from).collect(),
        };
        self.send_all(Message::Report(report));
    }

    pub(super) fn on_report(&mut self, sender: &MessageHeader, mut report: Report) {
        let digests = std::mem::take(&mut report.digests).into_iter().map(From::from);
        self.digests.hear(sender, Sequence(report.inherited), digests);
        self.reports.insert(sender.replica, report);
    }
}
