//! Trimming: dropping the beginning of the log.
//!
//! The database is the snapshot: this replica does not need entries that the database has
//! persisted. They are kept for lagging peers, up to `log_keep_bytes`. A peer that needs older ones
//! gets a snapshot of the database.
//!
//! A snapshot is of use only with the entries that follow it. While a peer installs one, and until
//! it has those entries too, the log is *held* for it: no entry that it still needs is dropped,
//! however large the log gets meanwhile.
//!
//! # Invariants
//! - No entry is dropped that the database of this replica has not persisted.
//! - A witness drops no entry that fewer databases than a majority of the voters have persisted:
//!   without a database of its own, its log is all that it can give to a voter that lags, however
//!   long that is away.
//! - While a hold is in force, no entry above [`Hold::above`] is dropped.
//! - A hold is in force only while its peer makes progress, has not started over too often, and the
//!   disk has ample space. Without a hold in force the log is cut down to `log_keep_bytes`, or to a
//!   multiple of that while a peer that installs a snapshot makes progress. So neither a peer that
//!   hangs nor one that starts over again and again makes the log grow for long, and none makes it
//!   fill the disk.

use std::collections::BTreeMap;

use super::replica::Replica;
use crate::message::Report;
use crate::{Instant, ReplicaId, Sequence};

/// The log is kept up to this multiple of `log_keep_bytes` while a replica installs a snapshot and
/// its hold is not in force.
const KEPT_DURING_CATCH_UP: u64 = 8;

/// A peer that received nothing for this many retry intervals (a minute by default) makes no
/// progress. The source of a snapshot may need a while to make it.
const PATIENCE: u64 = 300;

/// A peer has caught up once it has the entries that were committed this many retry intervals ago
/// (a second by default).
const SOON: u64 = 5;

/// Maximum number of snapshots that a peer may start before the log is no longer held for it.
const MAX_ATTEMPTS: u32 = 8;

/// The log is kept for a peer that installs a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    /// The peer has, or is getting, everything through here; until its snapshot is known, the
    /// entries that were trimmed then.
    above: Sequence,
    /// The bytes of the snapshot that it had received, and how far its log reached.
    copied: u64,
    reached: Sequence,
    /// When either last grew.
    progress: Instant,
    /// Snapshots that it has started.
    attempts: u32,
    /// Set once its snapshot is installed: the commit point here at some moment, and when that was.
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
            // It has started another one.
            self.attempts += 1;
            self.progress = now;
        }
        self.copied = report.copy_bytes;
        self.reached = self.reached.max(reached);
        self.above = self.above.max(self.reached).max(Sequence(report.persisted.max(report.installing)));
    }

    /// Whether it has the entries after its snapshot too, except for the newest ones. Entries that
    /// were committed while it fetched the others are the next goal.
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

/// The last committed entry in the peer's log: it needs none of those through here.
fn reached(report: &Report) -> Sequence {
    Sequence(report.commit.min(report.last))
}

fn is_copying(report: &Report) -> bool {
    report.is_copying || report.installing > 0
}

/// The peers for which the log is held, and whether the disk has space for that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Retention {
    holds: BTreeMap<ReplicaId, Hold>,
    /// The disk has ample space.
    pub has_ample_space: bool,
}

impl Retention {
    pub fn new() -> Self {
        Retention { holds: BTreeMap::new(), has_ample_space: true }
    }
}

impl Replica {
    /// The database of this replica survives a crash through `sequence`; the log takes `log_bytes`
    /// on disk.
    pub(super) fn note_persisted(&mut self, sequence: Sequence, log_bytes: u64) {
        assert!(sequence <= self.learner.applied(), "{sequence} was never applied");
        self.stored.persisted = self.stored.persisted.max(sequence);
        self.stored.log_bytes = log_bytes;
    }

    /// Drops entries that every voter's database has persisted; if the log has grown too long, also
    /// those that only the database of this replica has persisted. Never drops entries that a peer
    /// needs whose hold is in force.
    pub(super) fn trim(&mut self) {
        self.look_after_holds();
        let kept_for_all = self.membership.voters().map(|id| self.persisted_at(id)).min();
        let keep =
            self.options.log_keep_bytes.saturating_mul(if self.is_any_copying() { KEPT_DURING_CATCH_UP } else { 1 });
        let upto = match kept_for_all {
            Some(upto) if self.stored.log_bytes <= keep => upto.min(self.stored.persisted),
            _ => self.stored.persisted,
        };
        let upto = match self.options.is_witness {
            true if self.persisted_by_a_majority() < upto => {
                coverage!("witness.keeps_its_log");
                self.persisted_by_a_majority()
            }
            _ => upto,
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

    /// Through here the databases of as many voters as make a majority survive a crash, witnesses
    /// not counted. Their disks hold it without the log of this replica.
    pub(super) fn persisted_by_a_majority(&self) -> Sequence {
        let is_of_voter = |report: &&Report| !report.is_observer && !report.is_witness;
        let persisted = |id| {
            let report = self.peers.reports.get(&id).filter(is_of_voter);
            report.map_or(Sequence::ZERO, |report| Sequence(report.persisted))
        };
        let mut all: Vec<Sequence> = self.membership.configuration().full_voters().map(persisted).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.get(self.membership.quorum() - 1).copied().unwrap_or(Sequence::ZERO)
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
            |hold: &Hold| self.retention.has_ample_space && hold.attempts <= MAX_ATTEMPTS && self.makes_progress(hold);
        self.retention.holds.iter().filter(move |(_, hold)| is_in_force(hold))
    }

    fn held_above(&self) -> Option<Sequence> {
        self.in_force().map(|(_, hold)| hold.above).min()
    }

    /// The peers for which the log is held now, whatever its size.
    pub(super) fn held_for(&self) -> Vec<ReplicaId> {
        self.in_force().map(|(id, _)| *id).collect()
    }

    /// Whether a peer installs a snapshot, or fetches the entries after one, and makes progress.
    /// Peers of earlier versions do not report how much of their snapshot they have received.
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE_US: u64 = 1000;
    const SOON_US: u64 = 100;

    /// A peer that has received `copy_bytes` of its snapshot, and whose log is committed through
    /// `reached`.
    fn copying(copy_bytes: u64, reached: u64) -> Report {
        Report { is_copying: true, copy_bytes, commit: reached, last: reached, ..Report::default() }
    }

    /// A hold since 0, for a peer that had received 50 bytes, and whose log reached 10.
    fn hold() -> Hold {
        Hold::new(Sequence(10), &copying(50, 10), Instant(0))
    }

    #[test]
    fn a_peer_that_reports_the_same_again_makes_no_progress() {
        let mut hold = hold();
        hold.update(&copying(50, 10), Instant(500));
        assert!(hold.makes_progress(Instant(PATIENCE_US - 1), PATIENCE_US));
        assert!(!hold.makes_progress(Instant(PATIENCE_US), PATIENCE_US), "nothing came since 0");
        assert_eq!(hold.attempts, 1, "it has not started over");
        for progress in [copying(51, 10), copying(51, 11)] {
            hold.update(&progress, Instant(500));
            assert!(hold.makes_progress(Instant(500 + PATIENCE_US - 1), PATIENCE_US));
        }
        hold.update(&copying(50, 11), Instant(600));
        assert_eq!(hold.attempts, 2, "it has less than before");
    }

    #[test]
    fn a_peer_has_caught_up_when_it_reaches_the_goal_exactly_and_just_in_time() {
        let installed = Report { is_copying: false, ..copying(0, 10) };
        for (reached, at, has_caught_up) in [(19, SOON_US, false), (20, SOON_US, true), (20, SOON_US + 1, false)] {
            let mut hold = hold();
            assert!(!hold.has_caught_up(&installed, Sequence(20), Instant(0), SOON_US), "20 is the goal");
            hold.update(&copying(0, reached), Instant(at));
            let found = hold.has_caught_up(&installed, Sequence(30), Instant(at), SOON_US);
            assert_eq!(found, has_caught_up, "{reached} at {at}");
        }
    }
}
