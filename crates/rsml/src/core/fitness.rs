//! Whether this replica should lead: it was not told otherwise, its disk works, and it has space.
//!
//! None of this bears on safety. A replica that should not lead votes and follows like any other, and leads if it must:
//! a primary is replaced only where somebody else can do better.

use super::replica::Replica;
use super::view_manager::Role;
use crate::message::Report;
use crate::{Instant, ReplicaId, WriteId};

/// Looks at how long the disk takes, once per tick. Time in which this replica itself stood still does not count: each
/// look adds no more than `most_us`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DiskWatch {
    /// The oldest write that is not done.
    oldest: Option<WriteId>,
    looked: Instant,
    /// How long it has been the oldest, and for how much of that time it held this primary back behind the others.
    waits_us: u64,
    behind_us: u64,
    /// The longest that writes took lately.
    usual_us: u64,
}

impl DiskWatch {
    pub fn new(now: Instant) -> DiskWatch {
        DiskWatch { oldest: None, looked: now, waits_us: 0, behind_us: 0, usual_us: 0 }
    }

    fn look(&mut self, now: Instant, most_us: u64, oldest: Option<WriteId>, is_behind: bool) {
        let passed_us = now.since_us(self.looked).min(most_us);
        self.looked = now;
        if oldest.is_some() && oldest == self.oldest {
            self.waits_us += passed_us;
            self.behind_us = if is_behind { self.behind_us + passed_us } else { 0 };
            return;
        }
        if self.oldest.is_some() {
            self.usual_us = self.waits_us.max(self.usual_us - self.usual_us.div_ceil(8));
        }
        self.oldest = oldest;
        (self.waits_us, self.behind_us) = (0, 0);
    }

    /// How long the oldest write has been on its way.
    pub fn waits_us(&self) -> u64 {
        self.waits_us
    }

    /// So much later than usual counts as hanging.
    fn patience_us(&self, min_us: u64, max_us: u64) -> u64 {
        min_us.max(2 * self.usual_us.min(max_us))
    }
}

impl Replica {
    /// Whether to stand for election now. One without space leaves it to those that have some, unless nobody leads for long.
    pub(super) fn may_stand(&self) -> bool {
        let nobody_leads_us = self.now.since_us(self.views.quiet_until);
        let defers = self.is_full && nobody_leads_us < 4 * self.options.election_max_us && self.is_peer_fit();
        self.is_voter() && self.may_lead() && !defers && !self.disk_stands_still()
    }

    fn may_lead(&self) -> bool {
        self.is_eligible && !self.is_stopping
    }

    fn is_peer_fit(&self) -> bool {
        let is_fit = |report: &Report| !report.storage_full && !report.is_ineligible && !report.is_observer;
        self.reports.iter().any(|(id, report)| self.is_heard(*id) && is_fit(report))
    }

    fn is_heard(&self, peer: ReplicaId) -> bool {
        let lately_us = 2 * self.options.election_max_us;
        self.heard.get(&peer).is_some_and(|at| self.now.since_us(*at) < lately_us)
    }

    /// Too few replicas have space for what is not proposed yet.
    pub(super) fn lacks_space(&self) -> bool {
        let voters = || self.configuration.disks.keys().copied();
        let is_full = |id: ReplicaId| match id == self.options.me {
            true => self.is_full,
            false => self.reports.get(&id).is_some_and(|report| report.storage_full),
        };
        let votes = |id: ReplicaId| match id == self.options.me {
            true => self.is_voter(),
            false => self.is_heard(id) && self.reports.get(&id).is_none_or(|report| !report.is_observer),
        };
        let has_space = |id: ReplicaId| votes(id) && !is_full(id);
        // Where nobody is full, it is not for want of space that too few are there.
        voters().any(is_full) && voters().filter(|id| has_space(*id)).count() < self.quorum()
    }

    pub(super) fn set_eligible(&mut self, is_eligible: bool) {
        if self.is_eligible != is_eligible {
            self.is_eligible = is_eligible;
            self.next_report = self.now;
        }
    }

    pub(super) fn set_space(&mut self, has_space: bool) {
        if self.is_full == has_space {
            self.is_full = !has_space;
            self.next_report = self.now;
            // The others may be running full in the same moment: they are heard first.
            self.next_handover = self.now.plus_us(self.options.election_max_us);
        }
    }

    pub(super) fn stop_leading(&mut self) {
        self.is_stopping = true;
        self.resign();
        if matches!(self.views.role, Role::PreVoting { .. } | Role::Preparing(_)) {
            self.become_secondary(None);
        }
    }

    /// Each tick.
    pub(super) fn watch_disk(&mut self) {
        let owed = self.acceptor.oldest_pending();
        let others = self.views.proposer().and_then(|proposer| proposer.chosen(None, self.quorum()));
        let is_behind = owed.is_some_and(|(_, last)| others >= Some(last));
        self.disk.look(self.now, self.options.heartbeat_us, owed.map(|(write_id, _)| write_id), is_behind);
    }

    /// Nothing gets durable here, so nothing would come of standing.
    fn disk_stands_still(&self) -> bool {
        self.disk.waits_us >= self.options.election_min_us
    }

    /// A quorum of others has long made durable what the own disk still owes. Where all disks are slow, or where the others
    /// are no quorum, another primary would do no better; and where space is lacking the disk does not hang: see
    /// [`Replica::yield_if_unfit`].
    fn disk_hangs(&self) -> bool {
        let patience_us = self.disk.patience_us(self.options.election_min_us, self.options.election_max_us);
        !self.is_full && self.disk.behind_us >= patience_us
    }

    /// A primary that should not lead lets another one, if there is one that should. True: it leads no more.
    pub(super) fn yield_if_unfit(&mut self) -> bool {
        if self.disk_hangs() && self.successor().is_some() {
            coverage!("liveness.hanging_disk_resigns");
            self.resign();
            return true;
        }
        // A new primary needs durable promises of a majority: where too few have space, nobody would lead, and reads end.
        let should_lead = self.may_lead() && (!self.is_full || self.lacks_space());
        if !should_lead && self.now >= self.next_handover && self.handover.is_none() {
            let next = self.now.plus_us(4 * self.options.election_max_us);
            // Without a successor this replica leads on.
            if self.begin_handover(None, next).is_ok() {
                coverage!("liveness.hands_over_unfit");
                self.next_handover = next;
            }
        }
        false
    }

    /// Everything that was chosen before this primary's view is applied here, and its own first entry.
    pub fn is_recovered(&self) -> bool {
        match &self.views.role {
            Role::Primary(proposer) => self.learner.applied() >= proposer.first_own(),
            _ => false,
        }
    }
}
