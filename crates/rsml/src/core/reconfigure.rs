//! Changes of the members: when a primary may propose the seal of its epoch (rules M6, M11 and
//! M12).
//!
//! - **M6** The primary proposes a seal only if the first entry of its view is chosen, the caller
//!   expects the present epoch, and no transfer of leadership is in progress.
//! - **M11** So that a change does not stop the cluster, the new voters must be there and close
//!   behind; a caller may force the change past these checks. None of them is needed for safety.
//! - **M12** A program that knows nothing of seals confirms reads behind one. So the feature level
//!   must be one that only programs execute which know them, and a vote for a seal counts only from
//!   such a program ([`Proposer::chosen`](super::Proposer::chosen)).
//!
//! Before it proposes the seal, the primary gives up its leases for the rest of its view (rule M8).

use std::collections::BTreeSet;

use super::ReconfigureId;
use super::replica::Replica;
use crate::configuration::{ConfiguredMember, Members, Reconfigure};
use crate::{DiskId, Epoch, FeatureLevel, Instant, ReplicaId, Sequence};

/// Maximum number of voters.
pub const MAX_VOTERS: usize = 7;
/// Maximum number of members without a vote.
pub const MAX_OBSERVERS: usize = 8;
/// New voters must have been heard from within this time.
const HEARD_WITHIN_US: u64 = 1_000_000;
/// New voters must lack no more than this of the log.
const CLOSE_BYTES: usize = 1 << 20;

/// Why the members are not changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReconfigureError {
    /// This replica does not lead.
    #[error("this replica does not lead: {}", super::transfer::whom_to_ask(*.primary))]
    NotPrimary {
        /// The replica that leads, as far as it is known.
        primary: Option<ReplicaId>,
    },
    /// The members were changed meanwhile.
    #[error(
        "the members are those of epoch {present}, and the change is meant for epoch {expected}: look at them again"
    )]
    OtherEpoch {
        /// The present epoch.
        present: Epoch,
        /// The epoch that the caller expects.
        expected: Epoch,
    },
    /// Another change is in progress.
    #[error("the members are being changed already: wait until that is done")]
    UnderWay,
    /// The primary has only just begun to lead.
    #[error("the primary is not established yet: try again in a moment")]
    NotEstablished,
    /// A transfer of leadership is in progress.
    #[error("leadership is being transferred to replica {0}: try again when that is over")]
    TransferUnderWay(ReplicaId),
    /// The cluster's feature level is too low.
    #[error(
        "members can be changed from feature level {needed} on, and the cluster has level {present}: raise it first"
    )]
    LevelTooLow {
        /// The present level.
        present: FeatureLevel,
        /// The level needed.
        needed: FeatureLevel,
    },
    /// A voter runs a program that does not know such changes, or has not applied their level yet.
    #[error("replica {0} has not applied feature level {1} yet: wait for it, or upgrade it")]
    LevelNotApplied(ReplicaId, FeatureLevel),
    /// Too few or too many voters.
    #[error("{0} members would vote; allowed: 1 to {MAX_VOTERS}")]
    VoterCount(usize),
    /// One voter less survives as many failures.
    #[error(
        "{0} members would vote, and survive no more failures than one less: let two begin or cease to vote in one \
         change, or force it"
    )]
    EvenVoters(usize),
    /// Too many members that do not vote.
    #[error("{0} members would follow without a vote; allowed: up to {MAX_OBSERVERS}")]
    ObserverCount(usize),
    /// Fewer databases than a majority.
    #[error(
        "{witnesses} of {voters} voters would be witnesses, which have no data; allowed: up to {allowed}, so that the \
         voters with data are a majority"
    )]
    TooManyWitnesses {
        /// How many would be.
        witnesses: usize,
        /// How many would vote, these included.
        voters: usize,
        /// How many may be.
        allowed: usize,
    },
    /// The disk was made for another part.
    #[error(
        "replica {replica} {}, and stays what it is: {}",
        if *is_witness { "is a witness, without data" } else { "holds data, and is no witness" },
        if *is_witness { "add it as a witness" } else { "start it with an empty directory and `replication.role = \"witness\"`" }
    )]
    OtherPart {
        /// The replica.
        replica: ReplicaId,
        /// Whether its disk is a witness's.
        is_witness: bool,
    },
    /// Nothing is known of a disk that shall begin to vote.
    #[error("replica {0} was not heard from with the disk that shall vote: start it")]
    UnknownDisk(ReplicaId),
    /// A disk is named under two numbers.
    #[error("disk {0} would vote under two numbers")]
    DiskTwice(DiskId),
    /// The members stay the same.
    #[error("these are the members already")]
    Unchanged,
    /// Too few of the new voters were heard from and are close behind.
    #[error(
        "only {ready} of {voters} new voters are ready, and {needed} are needed: {}",
        describe(*.example)
    )]
    NotReady {
        /// How many are ready.
        ready: usize,
        /// How many would vote.
        voters: usize,
        /// How many must be ready.
        needed: usize,
        /// One that is not, and why.
        example: (ReplicaId, Unready),
    },
    /// The change was not seen to be done in time. It may still be.
    #[error("the change is not known to be done yet: look at the members, and try again if they are the former ones")]
    TimedOut,
    /// Other members were agreed on.
    #[error("another change came first: look at the members again")]
    Superseded,
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// Why a new voter is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unready {
    /// It was not heard from lately.
    Silent,
    /// Another disk is in the place of the one that shall vote.
    OtherDisk,
    /// It lacks too much of the log.
    Behind,
}

fn describe((replica, why): (ReplicaId, Unready)) -> String {
    match why {
        Unready::Silent => format!("replica {replica} was not heard from lately; start it"),
        Unready::OtherDisk => format!("replica {replica} has another disk than the one that shall vote"),
        Unready::Behind => format!("replica {replica} is still catching up; wait for it"),
    }
}

/// A change that a local caller wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberChange {
    /// The epoch whose members are replaced.
    pub expected: Epoch,
    /// The new members, all of them.
    pub members: Members,
    /// Skips the checks of rule M11 that only keep the cluster running.
    pub force: bool,
}

/// One thing that a change of the members needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Precondition {
    /// The condition.
    pub name: &'static str,
    /// Whether it is, or why not.
    pub result: Result<(), ReconfigureError>,
    /// A caller may force the change without it (rule M11).
    pub can_be_forced: bool,
}

/// A caller that waits until the new epoch has begun here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Caller {
    id: ReconfigureId,
    epoch: Epoch,
    members: Members,
    deadline: Instant,
}

/// The change that this replica has proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reconfiguration {
    caller: Option<Caller>,
}

impl Replica {
    /// A local caller wants other members.
    pub(super) fn reconfigure(&mut self, id: ReconfigureId, change: MemberChange, deadline: Instant) {
        if let Err(error) = self.check_change(&change) {
            return self.outputs.reconfigured.push((id, Err(error)));
        }
        self.seal(&change.members);
        self.reconfiguration.caller =
            Some(Caller { id, epoch: change.expected.next(), members: change.members, deadline });
    }

    /// Proposes the seal of this primary's epoch, which was checked ([`Replica::check_change`]).
    pub(super) fn seal(&mut self, members: &Members) {
        coverage!("epochs.seal_proposed");
        if members.values().any(ConfiguredMember::is_witness) {
            coverage!("witness.sealed");
        }
        let seal = Reconfigure::new(self.epoch().next(), members);
        let (now, Some(proposer)) = (self.now, self.proposer.as_mut()) else { return };
        let (view, value) = (proposer.view, proposer.sealing(now, seal));
        self.revoke_lease(view);
        self.counters.proposals += 1;
        self.acceptor.append(view, vec![value.to_bytes()]);
    }

    /// Whether this primary may propose this change now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_change(&self, change: &MemberChange) -> Result<(), ReconfigureError> {
        let counts = |precondition: &Precondition| !(change.force && precondition.can_be_forced);
        let failure = self.preconditions(change).into_iter().filter(counts).find_map(|found| found.result.err());
        failure.map_or(Ok(()), Err)
    }

    /// Everything that a change needs, in the order in which it is checked.
    pub fn preconditions(&self, change: &MemberChange) -> Vec<Precondition> {
        let strict = |name, result| Precondition { name, result, can_be_forced: false };
        let forceable = |name, result| Precondition { name, result, can_be_forced: true };
        vec![
            strict("this replica leads", self.check_leads()),
            strict("the members are those that the change is meant for", self.check_epoch(change.expected)),
            strict("no other change is under way", self.check_unsealed()),
            strict("the primary is established", self.check_established()),
            strict("the feature level allows it", self.check_level(&change.members)),
            strict("such a cluster can be", check_shape(&change.members)),
            strict("the members become others", self.check_changed(&change.members)),
            strict("every new voter has a disk for its part", self.check_parts(&change.members)),
            forceable("every voter has applied the feature level", self.check_levels_applied(&change.members)),
            forceable("enough of the new voters are ready", self.check_readiness(&change.members)),
            forceable("the number of voters is odd", self.check_odd(&change.members)),
        ]
    }

    fn check_leads(&self) -> Result<(), ReconfigureError> {
        match &self.proposer {
            Some(_) => Ok(()),
            None => Err(ReconfigureError::NotPrimary { primary: self.primary() }),
        }
    }

    fn check_epoch(&self, expected: Epoch) -> Result<(), ReconfigureError> {
        let present = self.epoch();
        if present == expected { Ok(()) } else { Err(ReconfigureError::OtherEpoch { present, expected }) }
    }

    fn check_unsealed(&self) -> Result<(), ReconfigureError> {
        let is_under_way = self.is_sealed() || self.reconfiguration.caller.is_some();
        if is_under_way { Err(ReconfigureError::UnderWay) } else { Ok(()) }
    }

    fn check_established(&self) -> Result<(), ReconfigureError> {
        match self.transfer_target() {
            _ if !self.is_established() => Err(ReconfigureError::NotEstablished),
            Some(to) => Err(ReconfigureError::TransferUnderWay(to)),
            None => Ok(()),
        }
    }

    fn check_level(&self, members: &Members) -> Result<(), ReconfigureError> {
        let has_witness = members.values().any(ConfiguredMember::is_witness);
        let needed = if has_witness { self.options.witness_level } else { self.options.epochs_level };
        let present = self.applied.level;
        let is_reached = self.proposer.as_ref().is_some_and(|proposer| proposer.level.min(present) >= needed);
        if is_reached { Ok(()) } else { Err(ReconfigureError::LevelTooLow { present, needed }) }
    }

    fn check_changed(&self, members: &Members) -> Result<(), ReconfigureError> {
        let is_same = *members == self.membership.configuration().members;
        if is_same { Err(ReconfigureError::Unchanged) } else { Ok(()) }
    }

    /// A disk is that of a witness or holds data, for good. What a disk is that begins to vote is
    /// known from the replica itself: one that was never heard from might be a witness, and a
    /// cluster whose voters are all witnesses has nobody to lead it.
    fn check_parts(&self, members: &Members) -> Result<(), ReconfigureError> {
        let present = &self.membership.configuration().members;
        for (id, member) in members {
            let Some(disk) = member.voting_disk() else { continue };
            let former = present.get(id).filter(|former| former.voting_disk() == Some(disk));
            let is_witness = match former {
                Some(former) => former.is_witness(),
                None if *id == self.options.me => self.options.is_witness,
                None => {
                    let told = self.peers.storage.get(id).filter(|(told, _)| *told == disk);
                    told.ok_or(ReconfigureError::UnknownDisk(*id))?.1
                }
            };
            if is_witness != member.is_witness() {
                return Err(ReconfigureError::OtherPart { replica: *id, is_witness });
            }
        }
        Ok(())
    }

    /// A cluster that has an even number of voters already may keep it.
    fn check_odd(&self, members: &Members) -> Result<(), ReconfigureError> {
        let count = voters(members).count();
        let is_even = count.is_multiple_of(2) && count != self.membership.voters().len();
        if is_even { Err(ReconfigureError::EvenVoters(count)) } else { Ok(()) }
    }

    fn check_levels_applied(&self, members: &Members) -> Result<(), ReconfigureError> {
        let needed = self.options.epochs_level;
        let lacks_level = |id: &ReplicaId| {
            let report = self.peers.reports.get(id);
            *id != self.options.me && report.is_some_and(|report| report.level() < needed)
        };
        let all = self.membership.voters().chain(voters(members).map(|(id, _)| id));
        let lacking = all.into_iter().find(lacks_level);
        lacking.map_or(Ok(()), |id| Err(ReconfigureError::LevelNotApplied(id, needed)))
    }

    fn check_readiness(&self, members: &Members) -> Result<(), ReconfigureError> {
        let count = voters(members).count();
        let quorum = count / 2 + 1;
        let needed = if count > 2 { quorum + 1 } else { quorum };
        let unready: Vec<_> = voters(members).filter_map(|(id, disk)| Some((id, self.unready(id, disk)?))).collect();
        let ready = count - unready.len();
        match unready.first() {
            Some(example) if ready < needed => {
                Err(ReconfigureError::NotReady { ready, voters: count, needed, example: *example })
            }
            _ => Ok(()),
        }
    }

    /// Why that disk could not vote in a new epoch at once.
    pub(super) fn unready(&self, id: ReplicaId, disk: DiskId) -> Option<Unready> {
        if id == self.options.me {
            return (disk != self.acceptor.hard().disk_id).then_some(Unready::OtherDisk);
        }
        let progress = self.proposer.as_ref().and_then(|proposer| proposer.peers.get(&id));
        let Some(progress) = progress.filter(|p| self.now.since_us(p.last_heard) < HEARD_WITHIN_US) else {
            return Some(Unready::Silent);
        };
        if progress.disk != disk {
            return Some(Unready::OtherDisk);
        }
        let is_close = progress.matched > Sequence::ZERO
            && self.acceptor.log().bytes_behind(progress.matched).is_some_and(|bytes| bytes <= CLOSE_BYTES);
        (!is_close).then_some(Unready::Behind)
    }

    /// A new epoch was entered: it is the one that the caller wanted, or another one.
    pub(super) fn finish_reconfiguration(&mut self) {
        let epoch = self.epoch();
        let Some(caller) = self.reconfiguration.caller.take_if(|caller| caller.epoch <= epoch) else { return };
        let is_as_wanted = caller.epoch == epoch && caller.members == self.membership.configuration().members;
        let result = if is_as_wanted { Ok(epoch) } else { Err(ReconfigureError::Superseded) };
        self.outputs.reconfigured.push((caller.id, result));
    }

    /// Each tick: ends a call whose time is over.
    pub(super) fn tick_reconfiguration(&mut self) {
        let now = self.now;
        if let Some(caller) = self.reconfiguration.caller.take_if(|caller| now >= caller.deadline) {
            self.outputs.reconfigured.push((caller.id, Err(ReconfigureError::TimedOut)));
        }
    }
}

fn voters(members: &Members) -> impl Iterator<Item = (ReplicaId, DiskId)> {
    members.iter().filter_map(|(id, member)| Some((*id, member.voting_disk()?)))
}

/// Whether these could be the members of a cluster at all.
fn check_shape(members: &Members) -> Result<(), ReconfigureError> {
    let disks: Vec<DiskId> = members.values().filter_map(|member| member.voting_disk()).collect();
    if !(1..=MAX_VOTERS).contains(&disks.len()) {
        return Err(ReconfigureError::VoterCount(disks.len()));
    }
    let witnesses = members.values().filter(|member| member.is_witness()).count();
    let (voters, allowed) = (disks.len(), (disks.len() - 1) / 2);
    if witnesses > allowed {
        return Err(ReconfigureError::TooManyWitnesses { witnesses, voters, allowed });
    }
    let observers = members.len() - disks.len();
    if observers > MAX_OBSERVERS {
        return Err(ReconfigureError::ObserverCount(observers));
    }
    let mut seen = BTreeSet::new();
    match disks.into_iter().find(|disk| !seen.insert(*disk)) {
        Some(disk) => Err(ReconfigureError::DiskTwice(disk)),
        None => Ok(()),
    }
}
