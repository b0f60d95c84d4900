//! Letting go of the log's beginning.
//!
//! The database is the snapshot: entries that it has persisted are needed by nobody here. They are kept for peers that
//! lag, as far as `log_keep_bytes` reaches; whoever needs more gets a copy of the database.
//!
//! A copy is worth something only with the entries behind it. So while a peer gets one, and until it has those entries too,
//! the log is *held* for it: nothing that it still needs is let go of, however large the log gets meanwhile.
//!
//! # Invariants
//! - Nothing is let go of that the own database has not persisted.
//! - While a hold is in force, no entry above [`Hold::above`] is let go of.
//! - A hold is in force only while its peer makes progress, has not begun too often, and the disk has ample space. Without one
//!   in force the log is cut down to `log_keep_bytes`, or to a multiple of that while a peer that gets a copy makes progress. So
//!   neither a peer that hangs nor one that begins again and again makes the log grow for long, and none makes it fill the disk.

use std::collections::BTreeMap;

use super::replica::Replica;
use crate::message::Report;
use crate::{Instant, ReplicaId, Sequence};

/// So many times `log_keep_bytes` of log are kept while a replica gets a copy and its hold is not in force.
const KEPT_DURING_CATCH_UP: u64 = 8;

/// A peer that got nothing for so many `retry_us` (a minute by default) makes no progress: the source of a copy may need a
/// while to make it.
const PATIENCE: u64 = 300;

/// A peer that has caught up with what was committed so many `retry_us` ago (a second by default) lags like any other.
const SOON: u64 = 5;

/// So many copies may come to nothing before a peer is not waited for any more.
const MOST_ATTEMPTS: u32 = 8;

/// The log is kept for a peer that gets a copy of a database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    /// The peer has, or is getting, everything through here. Before its copy has a name, all that there was.
    above: Sequence,
    /// What had come of its copy, and how far its log reached.
    copied: u64,
    reached: Sequence,
    /// When either had grown last.
    progress: Instant,
    /// Copies that it has begun.
    attempts: u32,
    /// Since its copy is in: what was committed here at some moment, and when that was.
    goal: Option<(Sequence, Instant)>,
}

impl Hold {
    fn new(above: Sequence, report: &Report, now: Instant) -> Hold {
        Hold { above, copied: report.copy_bytes, reached: reached(report), progress: now, attempts: 1, goal: None }
    }

    fn update(&mut self, report: &Report, now: Instant) {
        let reached = reached(report);
        if report.copy_bytes > self.copied || reached > self.reached {
            self.progress = now;
        } else if report.copy_bytes < self.copied && report.is_copying {
            // It has begun another one.
            self.attempts += 1;
            self.progress = now;
        }
        self.copied = report.copy_bytes;
        self.reached = self.reached.max(reached);
        self.above = self.above.max(self.reached).max(Sequence(report.persisted.max(report.installing)));
    }

    /// Whether it has the entries behind its copy too, but for those of the last moment. Those that came while it fetched the
    /// others are a goal of their own.
    fn has_caught_up(&mut self, report: &Report, commit: Sequence, now: Instant, soon_us: u64) -> bool {
        if is_copying(report) {
            self.goal = None;
            return false;
        }
        let (goal, since) = *self.goal.get_or_insert((commit, now));
        if self.reached < goal {
            return false;
        }
        self.goal = Some((commit, now));
        now.since_us(since) <= soon_us
    }

    fn makes_progress(&self, now: Instant, patience_us: u64) -> bool {
        now.since_us(self.progress) < patience_us
    }
}

/// How far the peer's log holds what is committed: it asks for nothing of that.
fn reached(report: &Report) -> Sequence {
    Sequence(report.commit.min(report.last))
}

fn is_copying(report: &Report) -> bool {
    report.is_copying || report.installing > 0
}

/// For whom the log is held, and whether that may go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retention {
    holds: BTreeMap<ReplicaId, Hold>,
    /// The disk has far more space than it must.
    pub is_roomy: bool,
}

impl Retention {
    pub fn new() -> Self {
        Retention { holds: BTreeMap::new(), is_roomy: true }
    }
}

impl Replica {
    /// The own database survives a crash through `sequence`.
    pub(super) fn note_persisted(&mut self, sequence: Sequence, log_bytes: u64) {
        assert!(sequence <= self.learner.applied(), "{sequence} was never applied");
        self.stored.persisted = self.stored.persisted.max(sequence);
        self.stored.log_bytes = log_bytes;
    }

    /// Below what every voter's database has persisted, always; else, when the log has grown too long, below what the own
    /// one has. Never what somebody needs whose hold is in force.
    pub(super) fn trim(&mut self) {
        self.look_after_holds();
        let kept_for_all = self.membership.voters().map(|id| self.persisted_at(id)).min();
        let keep =
            self.options.log_keep_bytes.saturating_mul(if self.is_any_copying() { KEPT_DURING_CATCH_UP } else { 1 });
        let upto = match kept_for_all {
            Some(upto) if self.stored.log_bytes <= keep => upto.min(self.stored.persisted),
            _ => self.stored.persisted,
        };
        let upto = match self.held_above() {
            Some(above) if above < upto => {
                coverage!("trim.held_for_a_copy");
                above
            }
            _ => upto,
        };
        let below = upto.next();
        if below > self.stored.first {
            self.stored.first = below;
            self.outputs.trim = Some(below);
        }
    }

    fn look_after_holds(&mut self) {
        let (now, commit, above) = (self.now, self.learner.commit(), self.stored.first.previous());
        let soon_us = SOON * self.options.retry_us;
        for (id, report) in &self.peers.reports {
            let is_voter = self.membership.has_voter(*id);
            match self.retention.holds.get_mut(id) {
                None if is_voter && is_copying(report) => {
                    self.retention.holds.insert(*id, Hold::new(above, report, now));
                }
                None => {}
                Some(hold) => {
                    hold.update(report, now);
                    if hold.has_caught_up(report, commit, now, soon_us) {
                        self.retention.holds.remove(id);
                    }
                }
            }
        }
    }

    fn makes_progress(&self, hold: &Hold) -> bool {
        hold.makes_progress(self.now, PATIENCE * self.options.retry_us)
    }

    fn in_force(&self) -> impl Iterator<Item = (&ReplicaId, &Hold)> {
        let is_in_force =
            |hold: &Hold| self.retention.is_roomy && hold.attempts <= MOST_ATTEMPTS && self.makes_progress(hold);
        self.retention.holds.iter().filter(move |(_, hold)| is_in_force(hold))
    }

    fn held_above(&self) -> Option<Sequence> {
        self.in_force().map(|(_, hold)| hold.above).min()
    }

    /// For whom the log is held now, whatever its size.
    pub(super) fn held_for(&self) -> Vec<ReplicaId> {
        self.in_force().map(|(id, _)| *id).collect()
    }

    /// Whether a peer gets a copy, or the entries behind one, and makes progress. Peers of earlier versions do not tell how
    /// much of their copy has come.
    fn is_any_copying(&self) -> bool {
        let is_silent = |report: &Report| report.installing > 0 && !report.is_copying;
        self.membership.voters().filter_map(|id| self.peers.reports.get(&id)).any(is_silent)
            || self.retention.holds.values().any(|hold| self.makes_progress(hold))
    }

    fn persisted_at(&self, id: ReplicaId) -> Sequence {
        let reported = self.peers.reports.get(&id);
        match id == self.options.me {
            true => self.stored.persisted,
            false => reported.map_or(Sequence::ZERO, |report| Sequence(report.persisted.max(report.installing))),
        }
    }
}
