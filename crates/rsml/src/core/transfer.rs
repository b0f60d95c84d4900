//! Handing over: a primary lets another replica lead, without waiting for anybody's timeout (Ongaro's thesis, 3.10).
//!
//! It goes on as usual until the target is close behind. Then it proposes nothing new, for one election timeout at most:
//! requests wait, none is refused. Once the target holds the whole log durably in this view and knows that all of it is
//! chosen, the primary gives up its lease, for as long as it leads this view, and tells the target, which stands at once
//! and needs no pre-vote. If nobody else leads in time, the primary goes on.
//!
//! Nothing of this bears on safety but the lease: the target leads only after a phase 1 like any other.
//!
//! Resigning is the blunt form: the primary stops leading and says so, and the others look at once.

use super::TransferId;
use super::replica::Replica;
use super::view_manager::Role;
use crate::message::{Message, Resign, Transfer};
use crate::{Instant, ReplicaId, View};

/// Why the primary is the same as before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TransferError {
    #[error("this replica does not lead: {}", ask_the_primary(*.primary))]
    NotPrimary { primary: Option<ReplicaId> },
    #[error("replica {0} leads already")]
    LeadsAlready(ReplicaId),
    #[error("replica {0} does not vote in this cluster: name one that does")]
    NotAVoter(ReplicaId),
    #[error("replica {0} was not heard lately: start it, look at the network, or name another one")]
    Unreachable(ReplicaId),
    #[error("replica {0} is not eligible to lead: make it eligible, or name another one")]
    Ineligible(ReplicaId),
    #[error("the storage of replica {0} is full: make space there, or name another one")]
    StorageFull(ReplicaId),
    #[error("no other replica can lead now: at least one other voter must be heard, be eligible and have space")]
    NoTarget,
    #[error("a transfer to replica {0} is under way: wait for its end")]
    UnderWay(ReplicaId),
    #[error("replica {0} did not take over in time: see who leads now, and try again")]
    TimedOut(ReplicaId),
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

fn ask_the_primary(primary: Option<ReplicaId>) -> String {
    match primary {
        Some(primary) => format!("ask replica {primary}, which does"),
        None => "no primary is known now; try again once there is one".to_string(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// The target is too far behind; everything goes on as usual.
    CatchingUp,
    /// Nothing new is proposed since then.
    Draining(Instant),
    /// The target was told to stand.
    Asked(Instant),
}

/// A transfer under way; it may outlast the role of primary, until it is known who leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handover {
    callers: Vec<TransferId>,
    to: ReplicaId,
    view: View,
    /// The target must be close behind by then, and the callers are told then what is known.
    deadline: Instant,
    stage: Stage,
}

impl Replica {
    pub(super) fn transfer(&mut self, id: TransferId, to: Option<ReplicaId>, deadline: Instant) {
        match self.begin_handover(to, deadline) {
            Ok(handover) => handover.callers.push(id),
            Err(error) => self.outputs.transferred.push((id, Err(error))),
        }
    }

    /// Starts handing over, or joins what is under way.
    pub(super) fn begin_handover(
        &mut self,
        to: Option<ReplicaId>,
        deadline: Instant,
    ) -> Result<&mut Handover, TransferError> {
        let Some(view) = self.views.proposer().map(|proposer| proposer.view) else {
            return Err(TransferError::NotPrimary { primary: self.primary() });
        };
        let under_way = self.handover.take().filter(|handover| handover.view == view);
        let handover = match under_way {
            Some(handover) if to.is_some_and(|to| to != handover.to) => {
                let error = TransferError::UnderWay(handover.to);
                self.handover = Some(handover);
                return Err(error);
            }
            Some(handover) => Handover { deadline: handover.deadline.max(deadline), ..handover },
            None => {
                let to = match to {
                    Some(to) => self.check_target(to)?,
                    None => self.successor().ok_or(TransferError::NoTarget)?,
                };
                Handover { callers: Vec::new(), to, view, deadline, stage: Stage::CatchingUp }
            }
        };
        Ok(self.handover.insert(handover))
    }

    fn check_target(&self, to: ReplicaId) -> Result<ReplicaId, TransferError> {
        if to == self.options.me {
            return Err(TransferError::LeadsAlready(to));
        }
        if !self.configuration.disks.contains_key(&to) {
            return Err(TransferError::NotAVoter(to));
        }
        self.obstacle(to).map_or(Ok(to), Err)
    }

    /// What keeps a voter from leading, as far as this primary knows.
    fn obstacle(&self, peer: ReplicaId) -> Option<TransferError> {
        let progress = self.views.proposer().and_then(|proposer| proposer.peers.get(&peer));
        if progress.is_some_and(|p| !p.is_voter) {
            // A new disk in the place of the one that votes.
            return Some(TransferError::NotAVoter(peer));
        }
        let report = self.reports.get(&peer);
        match progress {
            Some(p) if self.now.since_us(p.last_heard) < self.options.election_min_us => {}
            _ => return Some(TransferError::Unreachable(peer)),
        }
        if report.is_some_and(|report| report.is_ineligible) {
            return Some(TransferError::Ineligible(peer));
        }
        report.is_some_and(|report| report.storage_full).then_some(TransferError::StorageFull(peer))
    }

    /// The voter that should lead instead of this primary: of those that can, the one furthest along.
    pub(super) fn successor(&self) -> Option<ReplicaId> {
        let peers = self.views.proposer()?.peers.iter();
        let follows = peers.filter(|(_, p)| p.matched > crate::Sequence::ZERO);
        let fit = follows.filter(|(id, _)| self.obstacle(**id).is_none());
        fit.max_by_key(|(id, p)| (p.matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    /// Whether this primary proposes nothing for now.
    pub(super) fn is_handing_over(&self) -> bool {
        let view = self.views.proposer().map(|proposer| proposer.view);
        self.handover.as_ref().is_some_and(|h| Some(h.view) == view && h.stage != Stage::CatchingUp)
    }

    /// Whether a replica that promised more than this primary's view is most likely the one that was told to stand.
    pub(super) fn has_asked_successor(&self) -> bool {
        self.handover.as_ref().is_some_and(|handover| matches!(handover.stage, Stage::Asked(_)))
    }

    pub(super) fn handover_target(&self) -> Option<ReplicaId> {
        self.handover.as_ref().map(|handover| handover.to)
    }

    /// Takes the next step of a transfer when its time has come.
    pub(super) fn advance_handover(&mut self) {
        let (now, last, commit) = (self.now, self.acceptor.log().last(), self.learner.commit());
        let close = 2 * self.options.max_in_flight_values;
        let (Some(handover), Role::Primary(proposer)) = (&mut self.handover, &mut self.views.role) else { return };
        let Some(progress) = proposer.peers.get_mut(&handover.to).filter(|_| handover.view == proposer.view) else {
            return;
        };
        if handover.stage == Stage::CatchingUp && last.0 - progress.matched.0 <= close {
            handover.stage = Stage::Draining(now);
        }
        let holds_all = progress.matched == last && commit == last;
        if !holds_all || !matches!(handover.stage, Stage::Draining(_)) {
            return;
        }
        if progress.commit < last {
            let is_told = progress.told_commit >= last;
            progress.due |= !is_told;
            progress.ask |= !is_told;
            return;
        }
        handover.stage = Stage::Asked(now);
        let (to, view) = (handover.to, proposer.view);
        self.void_lease(view);
        self.send(to, Message::Transfer(Transfer { view: view.0 }), Vec::new());
    }

    /// Ends a transfer whose time is over; its callers may have to be told before.
    pub(super) fn tick_handover(&mut self) {
        let (now, patience_us) = (self.now, self.options.election_max_us);
        let view = self.views.proposer().map(|proposer| proposer.view);
        let Some(handover) = &mut self.handover else { return };
        let late = Err(TransferError::TimedOut(handover.to));
        let is_over = match handover.stage {
            Stage::CatchingUp => now >= handover.deadline,
            Stage::Draining(since) | Stage::Asked(since) => now.since_us(since) >= patience_us,
        };
        if is_over {
            self.end_handover(late);
        } else if Some(handover.view) != view && !matches!(handover.stage, Stage::Asked(_)) {
            self.end_handover(Err(TransferError::NotPrimary { primary: None }));
        } else if now >= handover.deadline {
            let callers = std::mem::take(&mut handover.callers);
            self.outputs.transferred.extend(callers.into_iter().map(|id| (id, late.clone())));
        }
    }

    /// `result`: who leads now, if somebody else does.
    pub(super) fn end_handover(&mut self, result: Result<ReplicaId, TransferError>) {
        let Some(handover) = self.handover.take() else { return };
        self.outputs.transferred.extend(handover.callers.into_iter().map(|id| (id, result.clone())));
    }

    /// The primary that this replica follows wants it to lead.
    pub(super) fn on_transfer(&mut self, from: ReplicaId, message: Transfer) {
        let view = View(message.view);
        let follows = view == self.acceptor.promised() && self.views.primary == Some(from);
        let is_free = matches!(self.views.role, Role::Secondary | Role::PreVoting { .. });
        if follows && is_free && self.acceptor.vote(view).is_some() && self.may_stand() {
            self.start_campaign(view);
        }
    }

    /// Leads no more, and says so: the others need not find out.
    pub(super) fn resign(&mut self) {
        let Some(view) = self.views.proposer().map(|proposer| proposer.view) else { return };
        self.send_all(Message::Resign(Resign { view: view.0 }));
        self.become_secondary(None);
    }

    pub(super) fn on_resign(&mut self, from: ReplicaId, message: Resign) {
        let view = View(message.view);
        let follows = view == self.acceptor.promised() && view.owner() == Some(from);
        if follows && self.views.primary == Some(from) {
            self.become_secondary(None);
            self.views.suspect(self.now, self.options.heartbeat_us);
        }
    }
}
