//! One form for all states that differ only in details that decide nothing, so that a model checker
//! recognises a state.
//!
//! Such details are mostly times: a checker fires timeouts as it likes, and does not care when they
//! would have been due. No other caller has a use for this. Nothing that is forgotten here (how
//! long ago a peer was heard from, random timeouts, the numbers of pre-votes) is part of a safety
//! rule.

use super::digests::Digests;
use super::fitness::DiskWatch;
use super::freshness::Freshness;
use super::replica::{Counters, Replica, Timers};
use super::trimming::Retention;
use super::upkeep::Upkeep;
use crate::{Instant, Sequence};

impl Replica {
    /// As if everything so far had happened at `at`, which may lie before the present. Every
    /// timeout starts again there, pre-votes are granted, reports and digests are forgotten, and
    /// the log writes on their way to the disk are numbered from 1: the caller must renumber them
    /// in the same way. Answers to earlier pre-votes must not arrive any more, since pre-votes are
    /// numbered from 1 again.
    ///
    /// # Panics
    /// With leases, which are about time.
    pub fn canonicalize(&mut self, at: Instant) {
        assert_eq!(self.options.lease_us, 0, "leases are about time");
        self.now = at;
        self.timers = Timers::new(at);
        self.peers.heard.clear();
        self.peers.reports.clear();
        self.peers.levels.clear();
        self.freshness = Freshness::default();
        self.stored.log_grown = 0;
        self.retention = Retention::new();
        self.counters = Counters::default();
        self.acceptor.renumber_writes();
        self.digests = Digests::new(&self.options, &[], Sequence::ZERO, at);
        self.fitness.disk = DiskWatch::new(at);
        self.epochs.restart_clocks();
        self.upkeep = Upkeep::default();
        self.requests.restart_clocks(at);
        self.reads.restart_clock(at);
        self.views.canonicalize(at);
        if let Some(proposer) = &mut self.proposer {
            proposer.restart_clocks(at);
        }
    }
}
