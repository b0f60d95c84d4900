//! The feature level (rule 13): which kinds of entries the log may hold.
//!
//! A program executes a range of levels; the cluster has one, which is part of its replicated state
//! and never goes down. A level is *raised* by an entry of its own. The primary appends one only if
//! its own program and that of every member execute the level: each member was heard from within
//! [`CoreOptions::level_heard_us`](super::CoreOptions::level_heard_us), from the disk that votes,
//! and so was every other disk in its place. So no replica that follows is left behind with a
//! program that must stop. A replica that comes later with an older program stops at the entry.
//!
//! A disk that is lost for good would stand in the way for ever: a new one gets its vote only at a
//! higher level. So a user may *force* a raise. Then members whose voting disk is silent are passed
//! over, provided that the voting disks of a majority were heard from. Nobody who was heard from is
//! ever passed over.
//!
//! Raising is asked for by a user. Two cases need no user: a primary with
//! [`CoreOptions::raise_after_us`](super::CoreOptions::raise_after_us), and a cluster whose log
//! holds no request: no earlier release has ever served it, so there is nothing to go back to. In
//! a new cluster the first entry of the first primary raises the level, as far as the calls of the
//! unborn replicas ([`Hello`](crate::message::Hello)) told what they execute.
//!
//! Invariants: the level at the end of the log of a primary ([`Proposer::level`]) is that of the
//! replicated state once all of it is applied; each entry that raises the level raises it.

use super::RaiseId;
use super::proposer::Proposer;
use super::replica::Replica;
use crate::value::Value;
use crate::{DiskId, FeatureLevel, Instant, LevelRange, ReplicaId, Sequence};

/// Why the feature level is not raised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RaiseError {
    /// This replica does not lead.
    #[error("this replica does not lead: {}", super::transfer::whom_to_ask(*.primary))]
    NotPrimary {
        /// The replica that leads, as far as it is known.
        primary: Option<ReplicaId>,
    },
    /// The level would go down.
    #[error("the feature level is {present} already, and never goes down to {wanted}")]
    Lower {
        /// The present level.
        present: FeatureLevel,
        /// The level asked for.
        wanted: FeatureLevel,
    },
    /// A replica runs a program that does not execute the level.
    #[error("the program of replica {replica} executes {levels}: upgrade it first, to go to level {wanted}")]
    NotExecuted {
        /// The replica.
        replica: ReplicaId,
        /// The levels that its program executes.
        levels: LevelRange,
        /// The level asked for.
        wanted: FeatureLevel,
    },
    /// A replica was not heard from lately, so it is not known what its program executes.
    #[error(
        "replica {0} was not heard from lately, so what its program executes is not known: start it, and try again; if it \
         is lost, force the raise without it"
    )]
    NotHeard(ReplicaId),
    /// The disk that votes as this replica was not heard from lately. Another one is in its place.
    #[error(
        "the disk that votes as replica {0} was not heard from lately, and another one follows in its place: put the \
         voting disk back, and try again; if it is lost, force the raise without it"
    )]
    VoterAway(ReplicaId),
    /// No replica executes a higher level than the present one.
    #[error("the feature level is {0}, the highest that the programs of all replicas execute")]
    AtHighest(FeatureLevel),
    /// The entry that raises the level was not applied in time. It may still be.
    #[error("the feature level is not known to be {0} yet: look at the status, and try again")]
    TimedOut(FeatureLevel),
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// A caller that waits until the level is applied here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Caller {
    id: RaiseId,
    to: FeatureLevel,
    /// When the caller gives up.
    deadline: Instant,
}

/// The state of a raise of the level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Raise {
    callers: Vec<Caller>,
    /// The level to raise to as soon as this primary proposes anything.
    wanted: Option<FeatureLevel>,
    /// Whether the user who wants it passes over members that are silent.
    is_forced: bool,
    /// The level that all members have executed without a break, and since when.
    executed_since: Option<(FeatureLevel, Instant)>,
}

/// The last report about the program on a peer's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HeardLevels {
    at: Instant,
    levels: LevelRange,
}

impl Replica {
    /// A peer said what its program executes.
    pub(super) fn note_levels(&mut self, replica: ReplicaId, disk: DiskId, levels: LevelRange) {
        let (now, within_us) = (self.now, self.options.level_heard_us);
        self.peers.levels.retain(|_, heard| now.since_us(heard.at) < within_us);
        self.peers.levels.insert((replica, disk), HeardLevels { at: now, levels });
    }

    /// A peer has applied `level`: if this program does not execute it, this replica can neither
    /// apply what follows in the log nor use a copy of a database.
    pub(super) fn note_applied_level(&mut self, level: FeatureLevel) {
        if level > self.options.levels.highest {
            self.outputs.too_new = self.outputs.too_new.max(Some(level));
        }
    }

    /// A local caller wants the level raised: to `to`, or to the highest that all members execute.
    /// If `force`, members whose voting disk is silent are passed over.
    pub(super) fn raise_level(&mut self, id: RaiseId, to: Option<FeatureLevel>, force: bool, deadline: Instant) {
        match self.begin_raise(to, force) {
            Ok(to) if to <= self.applied.level => self.outputs.raised.push((id, Ok(self.applied.level))),
            Ok(to) => self.raise.callers.push(Caller { id, to, deadline }),
            Err(error) => self.outputs.raised.push((id, Err(error))),
        }
    }

    fn begin_raise(&mut self, to: Option<FeatureLevel>, force: bool) -> Result<FeatureLevel, RaiseError> {
        let Some(present) = self.proposer.as_ref().map(|proposer| proposer.level) else {
            return Err(RaiseError::NotPrimary { primary: self.primary() });
        };
        let to = match to {
            Some(to) if to < present => return Err(RaiseError::Lower { present, wanted: to }),
            Some(to) => to,
            None => self.next_level(present, force)?,
        };
        if to > present {
            self.check_executed_by_all(to, force)?;
            self.raise.wanted = self.raise.wanted.max(Some(to));
            self.raise.is_forced |= force;
        }
        Ok(to)
    }

    /// The level that follows: the highest that all members execute, without those whose voting
    /// disk is silent if `force`.
    ///
    /// # Errors
    /// Why the level cannot be raised.
    pub(super) fn next_level(&self, present: FeatureLevel, force: bool) -> Result<FeatureLevel, RaiseError> {
        let mut highest = self.options.levels.highest;
        if highest <= present {
            return Err(RaiseError::AtHighest(present));
        }
        for member in self.membership.members() {
            self.check_heard(member, force)?;
            let lowest_of_member = self.heard_levels(member).min_by_key(|levels| levels.highest);
            if let Some(levels) = lowest_of_member.filter(|levels| levels.highest <= present) {
                return Err(RaiseError::NotExecuted { replica: member, levels, wanted: highest });
            }
            highest = lowest_of_member.map_or(highest, |levels| levels.highest.min(highest));
        }
        self.check_executed_by_all(highest, force).map(|()| highest)
    }

    /// Whether this replica's program, and that of every member, executes `level` (rule 13).
    fn check_executed_by_all(&self, level: FeatureLevel, force: bool) -> Result<(), RaiseError> {
        let me = self.options.me;
        let lacks = |replica, levels| RaiseError::NotExecuted { replica, levels, wanted: level };
        if !self.options.levels.contains(level) {
            return Err(lacks(me, self.options.levels));
        }
        for member in self.membership.members() {
            self.check_heard(member, force)?;
            if let Some(levels) = self.heard_levels(member).find(|levels| !levels.contains(level)) {
                coverage!("rule13.a_member_lacks_it");
                return Err(lacks(member, levels));
            }
        }
        Ok(())
    }

    /// Whether the disk that votes as `member` was heard from lately; any disk, if none votes. With
    /// `force` it need not be, as long as the voting disks of a majority were.
    fn check_heard(&self, member: ReplicaId, force: bool) -> Result<(), RaiseError> {
        let error = match self.membership.voting_disk(member) {
            Some(_) if self.hears_voter(member) => return Ok(()),
            None if self.hears_any_disk(member) => return Ok(()),
            Some(_) if self.hears_any_disk(member) => RaiseError::VoterAway(member),
            _ => RaiseError::NotHeard(member),
        };
        if force
            && self.membership.voters().filter(|voter| self.hears_voter(*voter)).count() >= self.membership.quorum()
        {
            coverage!("rule13.passed_over");
            return Ok(());
        }
        if matches!(error, RaiseError::VoterAway(_)) {
            coverage!("rule13.voting_disk_is_away");
        }
        Err(error)
    }

    fn hears_voter(&self, member: ReplicaId) -> bool {
        let voting = self.membership.voting_disk(member);
        let is_own = member == self.options.me && voting == Some(self.acceptor.hard().disk_id);
        is_own || self.heard_lately(member).any(|(heard, _)| Some(heard) == voting)
    }

    fn hears_any_disk(&self, member: ReplicaId) -> bool {
        member == self.options.me || self.heard_lately(member).next().is_some()
    }

    /// The levels of the programs on those disks of `member` that were heard from lately.
    fn heard_levels(&self, member: ReplicaId) -> impl Iterator<Item = LevelRange> {
        self.heard_lately(member).map(|(_, levels)| levels)
    }

    fn heard_lately(&self, member: ReplicaId) -> impl Iterator<Item = (DiskId, LevelRange)> {
        let heard = self.peers.levels.iter().filter(move |((replica, _), _)| *replica == member);
        let lately = |heard: &HeardLevels| self.now.since_us(heard.at) < self.options.level_heard_us;
        heard.filter(move |(_, heard)| lately(heard)).map(|((_, disk), heard)| (*disk, heard.levels))
    }

    /// Appends the entry that raises the level, if that is wanted and still allowed. While a
    /// transfer of leadership lets nothing be proposed, it waits.
    pub(super) fn propose_raise(&mut self) {
        let Some(to) = self.raise.wanted else { return };
        if self.is_draining() || self.is_sealed() {
            return;
        }
        self.raise.wanted = None;
        let force = std::mem::take(&mut self.raise.is_forced);
        let Some(present) = self.proposer.as_ref().map(|proposer| proposer.level) else { return };
        if to <= present || self.check_executed_by_all(to, force).is_err() {
            return;
        }
        let (now, Some(proposer)) = (self.now, self.proposer.as_mut()) else { return };
        let value = proposer.raising(now, to);
        self.counters.proposals += 1;
        self.acceptor.append(proposer.view, vec![value.to_bytes()]);
    }

    /// The first entry of this primary's view: a no-op, or, in a new cluster, an entry that raises
    /// the level. `adopted`: the last entry of the log that it adopted.
    pub(super) fn first_value(&self, proposer: &mut Proposer, adopted: Sequence) -> Value {
        match self.next_level(proposer.level, false) {
            Ok(to) if adopted == Sequence::BIRTH => {
                coverage!("rule13.raised_at_birth");
                proposer.raising(self.now, to)
            }
            _ => proposer.value(self.now, Vec::new()),
        }
    }

    /// Each tick: raises the level where no user has to ask, and ends calls whose time is over.
    pub(super) fn tick_level(&mut self) {
        let now = self.now;
        // A copy of a peer's database may have brought the level.
        self.finish_raises();
        let (late, callers) =
            std::mem::take(&mut self.raise.callers).into_iter().partition(|caller| now >= caller.deadline);
        self.raise.callers = callers;
        let late: Vec<Caller> = late;
        self.outputs.raised.extend(late.into_iter().map(|caller| (caller.id, Err(RaiseError::TimedOut(caller.to)))));
        let Some(proposer) = &self.proposer else {
            self.raise.executed_since = None;
            self.raise.wanted = None;
            self.raise.is_forced = false;
            return;
        };
        let (present, is_empty) = (proposer.level, proposer.has_no_requests());
        if !is_empty && self.options.raise_after_us.is_none() {
            return;
        }
        let Ok(to) = self.next_level(present, false) else {
            self.raise.executed_since = None;
            return;
        };
        let since = match self.raise.executed_since {
            Some((level, since)) if level == to => since,
            _ => now,
        };
        self.raise.executed_since = Some((to, since));
        if is_empty || self.options.raise_after_us.is_some_and(|after_us| now.since_us(since) >= after_us) {
            coverage!("rule13.raised_by_itself");
            self.raise.wanted = self.raise.wanted.max(Some(to));
        }
    }

    /// Answers the callers whose level is applied here.
    pub(super) fn finish_raises(&mut self) {
        let level = self.applied.level;
        let (done, waiting) =
            std::mem::take(&mut self.raise.callers).into_iter().partition(|caller| caller.to <= level);
        self.raise.callers = waiting;
        let done: Vec<Caller> = done;
        self.outputs.raised.extend(done.into_iter().map(|caller| (caller.id, Ok(level))));
    }
}
