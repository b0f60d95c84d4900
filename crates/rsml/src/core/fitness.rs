//! Whether this replica should lead: its operator lets it, its disk works, and it has space.
//!
//! None of this bears on safety. A replica that should not lead votes and follows like any other,
//! and leads if it must: a primary is replaced only if another replica can do better.

use super::replica::Replica;
use crate::message::Report;
use crate::{Instant, ReplicaId, WriteId};

/// Whether this replica should lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fitness {
    /// Whether its operator lets it lead.
    pub is_eligible: bool,
    /// Whether its storage lacks space.
    pub is_full: bool,
    /// Whether it is about to stop.
    pub is_stopping: bool,
    pub disk: DiskWatch,
}

impl Fitness {
    pub fn new(now: Instant) -> Fitness {
        Fitness { is_eligible: true, is_full: false, is_stopping: false, disk: DiskWatch::new(now) }
    }
}

/// Measures how long the disk takes, once per tick. Time in which this replica itself was stalled
/// does not count: each measurement adds no more than `most_us`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DiskWatch {
    /// The oldest log write that is not done.
    oldest: Option<WriteId>,
    measured_at: Instant,
    /// How long it has been the oldest. `behind_us`: for how much of that time a majority of the
    /// others has been ahead of this primary because of it.
    waits_us: u64,
    behind_us: u64,
    /// The longest time that a log write took lately; it decays with each later write.
    longest_us: u64,
}

impl DiskWatch {
    pub fn new(now: Instant) -> DiskWatch {
        DiskWatch { oldest: None, measured_at: now, waits_us: 0, behind_us: 0, longest_us: 0 }
    }

    fn measure(&mut self, now: Instant, most_us: u64, oldest: Option<WriteId>, is_behind: bool) {
        let passed_us = now.since_us(self.measured_at).min(most_us);
        self.measured_at = now;
        if oldest.is_some() && oldest == self.oldest {
            self.waits_us += passed_us;
            self.behind_us = if is_behind { self.behind_us + passed_us } else { 0 };
            return;
        }
        if self.oldest.is_some() {
            self.longest_us = self.waits_us.max(self.longest_us - self.longest_us.div_ceil(8));
        }
        self.oldest = oldest;
        (self.waits_us, self.behind_us) = (0, 0);
    }

    /// How long the oldest log write has been pending.
    pub fn waits_us(&self) -> u64 {
        self.waits_us
    }

    /// A log write that takes longer than this hangs.
    fn hang_us(&self, min_us: u64, max_us: u64) -> u64 {
        min_us.max(2 * self.longest_us.min(max_us))
    }
}

impl Replica {
    /// Whether to stand for election now. A replica without space leaves elections to those that
    /// have some, unless nobody leads for long.
    pub(super) fn may_stand(&self) -> bool {
        let leaderless_us = self.views.leaderless_us(self.now);
        let defers = self.fitness.is_full && leaderless_us < 4 * self.options.election_max_us && self.is_peer_fit();
        self.may_promise() && self.may_lead() && !defers && !self.disk_stands_still()
    }

    fn may_lead(&self) -> bool {
        self.fitness.is_eligible && !self.fitness.is_stopping && !self.options.is_witness
    }

    fn is_peer_fit(&self) -> bool {
        let is_fit = |report: &Report| !report.storage_full && !report.is_ineligible && !report.is_observer;
        self.peers.reports.iter().any(|(id, report)| self.is_heard(*id) && is_fit(report))
    }

    fn is_heard(&self, peer: ReplicaId) -> bool {
        let lately_us = 2 * self.options.election_max_us;
        self.peers.heard.get(&peer).is_some_and(|at| self.now.since_us(*at) < lately_us)
    }

    /// Whether too few replicas have space for further requests.
    pub(super) fn lacks_space(&self) -> bool {
        let voters = || self.membership.voters();
        let is_full = |id: ReplicaId| match id == self.options.me {
            true => self.fitness.is_full,
            false => self.peers.reports.get(&id).is_some_and(|report| report.storage_full),
        };
        let votes = |id: ReplicaId| match id == self.options.me {
            true => self.is_voter(),
            false => self.is_heard(id) && self.peers.reports.get(&id).is_none_or(|report| !report.is_observer),
        };
        let has_space = |id: ReplicaId| votes(id) && !is_full(id);
        // If no replica is full, then space is not the reason why too few are there.
        voters().any(is_full) && voters().filter(|id| has_space(*id)).count() < self.membership.quorum()
    }

    /// Records whether the operator lets this replica lead.
    pub(super) fn set_eligible(&mut self, is_eligible: bool) {
        if self.fitness.is_eligible != is_eligible {
            self.fitness.is_eligible = is_eligible;
            self.timers.next_report = self.now;
        }
    }

    /// Records whether storage has space.
    pub(super) fn set_space(&mut self, has_space: bool) {
        if self.fitness.is_full == has_space {
            self.fitness.is_full = !has_space;
            self.timers.next_report = self.now;
            // The others may be running out of space at the same moment: wait for their reports.
            self.timers.next_transfer = self.now.plus_us(self.options.election_max_us);
        }
    }

    /// Prepares for a stop: this replica stops leading, and stands for election no more.
    pub(super) fn stop_leading(&mut self) {
        self.fitness.is_stopping = true;
        self.resign();
        if self.views.is_candidate() {
            self.become_secondary(None);
        }
    }

    /// Each tick: measures the disk.
    pub(super) fn watch_disk(&mut self) {
        let oldest = self.acceptor.oldest_pending();
        let others = self.proposer.as_ref().and_then(|proposer| proposer.chosen(None, self.membership.quorum(), None));
        let is_behind = oldest.is_some_and(|(_, last)| others >= Some(last));
        self.fitness.disk.measure(self.now, self.options.heartbeat_us, oldest.map(|(write_id, _)| write_id), is_behind);
    }

    /// Whether the disk makes no progress. Nothing becomes durable then, so a campaign would fail.
    fn disk_stands_still(&self) -> bool {
        self.fitness.disk.waits_us >= self.options.election_min_us
    }

    /// Whether a quorum of others has long made durable what this replica's disk has not. If all
    /// disks are slow, or if the others are no quorum, another primary would do no better. A lack
    /// of space is no hang: see [`Replica::yield_if_unfit`].
    fn disk_hangs(&self) -> bool {
        let hang_us = self.fitness.disk.hang_us(self.options.election_min_us, self.options.election_max_us);
        !self.fitness.is_full && self.fitness.disk.behind_us >= hang_us
    }

    /// Lets another replica lead if this primary should not and another one should. Returns true if
    /// this replica has stopped leading.
    pub(super) fn yield_if_unfit(&mut self) -> bool {
        if self.disk_hangs() && self.successor().is_some() {
            coverage!("liveness.hanging_disk_resigns");
            self.resign();
            return true;
        }
        // A new primary needs durable promises of a quorum: if too few replicas have space, nobody
        // would lead, and reads would stop.
        let should_lead = self.may_lead() && (!self.fitness.is_full || self.lacks_space());
        if !should_lead && self.now >= self.timers.next_transfer && self.transfer.is_none() {
            let next = self.now.plus_us(4 * self.options.election_max_us);
            // Without a successor this replica keeps leading.
            if self.begin_transfer(None, next).is_ok() {
                coverage!("liveness.transfers_when_unfit");
                self.timers.next_transfer = next;
            }
        }
        false
    }
}
