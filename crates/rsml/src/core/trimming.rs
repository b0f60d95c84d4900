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
//! - A hold is in force only while its peer makes progress and the disk has ample space. Without one in force the log is
//!   cut down to `log_keep_bytes`, or to a multiple of that while a peer gets a copy. So neither a peer that hangs nor one that
//!   begins again and again makes the log grow for long, and none makes it fill the disk.

use std::collections::BTreeMap;

use super::replica::Replica;
use crate::message::Report;
use crate::{Instant, ReplicaId, Sequence};

/// So many times `log_keep_bytes` of log are kept while a replica gets a copy and its hold is not in force.
const KEPT_DURING_CATCH_UP: u64 = 8;

/// A peer that got nothing for so many `retry_us` (a minute by default) makes no progress: the source of a copy may need a
/// while to make it.
const PATIENCE: u64 = 300;

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
}

impl Hold {
    fn new(above: Sequence, report: &Report, now: Instant) -> Hold {
        Hold { above, copied: report.copy_bytes, reached: reached(report), progress: now, attempts: 1 }
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

    fn makes_progress(&self, now: Instant, patience_us: u64) -> bool {
        self.attempts <= MOST_ATTEMPTS && now.since_us(self.progress) < patience_us
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
    /// The own commit point when it was looked last: who has reached that needs no hold any more.
    commit: Sequence,
    /// The disk has far more space than it must.
    pub is_roomy: bool,
}

impl Retention {
    pub fn new() -> Self {
        Retention { holds: BTreeMap::new(), commit: Sequence::ZERO, is_roomy: true }
    }
}

impl Replica {
    /// The own database survives a crash through `sequence`.
    pub(super) fn note_persisted(&mut self, sequence: Sequence, log_bytes: u64) {
        assert!(sequence <= self.learner.applied(), "{sequence} was never applied");
        self.persisted = self.persisted.max(sequence);
        self.log_bytes = log_bytes;
    }

    /// Below what every voter's database has persisted, always; else, when the log has grown too long, below what the own
    /// one has. Never what somebody needs whose hold is in force.
    pub(super) fn trim(&mut self) {
        self.look_after_holds();
        let kept_for_all = self.configuration.disks.keys().map(|id| self.persisted_at(*id)).min();
        let keep =
            self.options.log_keep_bytes.saturating_mul(if self.is_any_copying() { KEPT_DURING_CATCH_UP } else { 1 });
        let upto = match kept_for_all {
            Some(upto) if self.log_bytes <= keep => upto.min(self.persisted),
            _ => self.persisted,
        };
        let upto = match self.held_above() {
            Some(above) if above < upto => {
                coverage!("trim.held_for_a_copy");
                above
            }
            _ => upto,
        };
        let below = upto.next();
        if below > self.first_stored {
            self.first_stored = below;
            self.outputs.trim = Some(below);
        }
    }

    fn look_after_holds(&mut self) {
        let goal = std::mem::replace(&mut self.retention.commit, self.learner.commit());
        let (now, above) = (self.now, self.first_stored.previous());
        for (id, report) in &self.reports {
            let is_voter = self.configuration.disks.contains_key(id);
            match self.retention.holds.get_mut(id) {
                None if is_voter && is_copying(report) => {
                    self.retention.holds.insert(*id, Hold::new(above, report, now));
                }
                None => {}
                Some(_) if !is_copying(report) && reached(report) >= goal => {
                    self.retention.holds.remove(id);
                }
                Some(hold) => hold.update(report, now),
            }
        }
    }

    fn is_held_for(&self, hold: &Hold) -> bool {
        hold.makes_progress(self.now, PATIENCE * self.options.retry_us)
    }

    fn held_above(&self) -> Option<Sequence> {
        let in_force = self.retention.holds.values().filter(|hold| self.retention.is_roomy && self.is_held_for(hold));
        in_force.map(|hold| hold.above).min()
    }

    /// Whether a peer gets a copy, or the entries behind one.
    fn is_any_copying(&self) -> bool {
        let is_installing = |id| self.reports.get(id).is_some_and(|report| report.installing > 0);
        self.configuration.disks.keys().any(is_installing)
            || self.retention.holds.values().any(|hold| self.is_held_for(hold))
    }

    /// For whom the log is held now, whatever its size.
    pub(super) fn held_for(&self) -> Vec<ReplicaId> {
        let holds = self.retention.holds.iter().filter(|(_, hold)| self.retention.is_roomy && self.is_held_for(hold));
        holds.map(|(id, _)| *id).collect()
    }

    fn persisted_at(&self, id: ReplicaId) -> Sequence {
        let reported = self.reports.get(&id);
        match id == self.options.me {
            true => self.persisted,
            false => reported.map_or(Sequence::ZERO, |report| Sequence(report.persisted.max(report.installing))),
        }
    }
}
