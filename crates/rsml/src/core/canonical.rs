//! One form for states that differ only in what decides nothing, so that a model checker knows a state again.
//!
//! Time is the main thing: a checker fires timeouts as it likes, and does not care when they would have been due. No other
//! caller has a use for this, and what it forgets (how long ago a peer was heard, jitter, numbers of pre-vote rounds) is
//! never part of a safety rule.

use super::Jitter;
use super::digests::Digests;
use super::fitness::DiskWatch;
use super::replica::{Counters, Replica};
use super::trimming::Retention;
use super::view_manager::Role;
use crate::{Instant, Sequence};

impl Replica {
    /// As if everything that happened so far had happened at `at`, which may lie before the present: every timeout begins
    /// anew there, pre-votes are granted, reports and digests are forgotten, and the writes on their way to the disk are numbered
    /// from 1: whoever carries them out must renumber them in the same way. Answers to earlier pre-votes must not arrive
    /// any more, since rounds of them are numbered anew.
    ///
    /// # Panics
    /// With leases, which are about time.
    pub fn canonicalize(&mut self, at: Instant) {
        assert_eq!(self.options.lease_us, 0, "leases are about time");
        self.now = at;
        self.next_report = at;
        self.next_call = at;
        self.heard.clear();
        self.reports.clear();
        self.log_grown = 0;
        self.retention = Retention::new();
        self.counters = Counters::default();
        self.acceptor.renumber_writes();
        self.digests = Digests::new(&self.options, &[], Sequence::ZERO, at);
        self.disk = DiskWatch::new(at);
        self.next_handover = at;
        self.requests.restart_clocks(at);
        self.reads.restart_clock(at);
        self.views.jitter = Jitter(0);
        self.views.deadline = at.plus_us(self.options.election_max_us);
        self.views.quiet_until = at;
        self.views.round = 0;
        match &mut self.views.role {
            Role::Preparing(campaign) => campaign.fetched = at,
            Role::Primary(proposer) => proposer.restart_clocks(at),
            Role::PreVoting { round, .. } => *round = 0,
            Role::Secondary | Role::Unborn { .. } => {}
        }
    }
}
