//! Transfer of leadership: a primary lets another replica lead without waiting for a timeout
//! (Ongaro's thesis, 3.10).
//!
//! The primary works as usual until the target is close behind. Then it drains: it proposes nothing
//! new, for one election timeout at most, while requests wait and none is refused. Once the target
//! holds the whole log durably in this view, and knows that all of it is chosen, the primary
//! revokes its lease for the rest of this view and asks the target to stand, which needs no
//! pre-vote. If no other replica leads in time, the primary resumes.
//!
//! Only the lease bears on safety: the target leads after a phase 1 like any other.
//!
//! Resigning is the blunt form: the primary stops leading and says so, and the others stand at
//! once.

use super::TransferId;
use super::replica::Replica;
use super::view_manager::Role;
use crate::message::{Message, Resign, Transfer};
use crate::{Instant, ReplicaId, View};

/// Why the primary is the same as before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TransferError {
    /// This replica does not lead.
    #[error("this replica does not lead: {}", whom_to_ask(*.primary))]
    NotPrimary {
        /// The replica that leads, as far as it is known.
        primary: Option<ReplicaId>,
    },
    /// The target is the primary already.
    #[error("replica {0} leads already")]
    LeadsAlready(ReplicaId),
    /// The target has no vote.
    #[error("replica {0} does not vote in this cluster: name one that does")]
    NotAVoter(ReplicaId),
    /// The target has no database.
    #[error("replica {0} is a witness, which never leads: name a voter that holds data")]
    Witness(ReplicaId),
    /// The target was not heard from lately.
    #[error("replica {0} was not heard lately: start it, look at the network, or name another one")]
    Unreachable(ReplicaId),
    /// The target may not lead.
    #[error("replica {0} is not eligible to lead: make it eligible, or name another one")]
    Ineligible(ReplicaId),
    /// The target lacks space.
    #[error("the storage of replica {0} is full: make space there, or name another one")]
    StorageFull(ReplicaId),
    /// No other replica can lead.
    #[error("no other replica can lead now: at least one other voter must be heard, be eligible and have space")]
    NoTarget,
    /// A transfer to another replica is in progress.
    #[error("a transfer to replica {0} is under way: wait for its end")]
    UnderWay(ReplicaId),
    /// The target did not lead in time.
    #[error("replica {0} did not take over in time: see who leads now, and try again")]
    TimedOut(ReplicaId),
    /// The replica has stopped.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

pub(super) fn whom_to_ask(primary: Option<ReplicaId>) -> String {
    match primary {
        Some(primary) => format!("ask replica {primary}, which does"),
        None => "no primary is known now; try again once there is one".to_string(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// The target is too far behind; the primary works as usual.
    CatchingUp,
    /// The primary has proposed nothing new since then.
    Draining(Instant),
    /// The target was asked to stand.
    Asked(Instant),
}

/// A transfer in progress. It may outlast the role of primary, until a new primary is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LeadershipTransfer {
    callers: Vec<TransferId>,
    to: ReplicaId,
    view: View,
    /// The target must be close behind by then. Callers that still wait then get an error.
    deadline: Instant,
    stage: Stage,
}

impl Replica {
    /// A local caller wants `to` to lead, or the replica that is furthest along.
    pub(super) fn transfer(&mut self, id: TransferId, to: Option<ReplicaId>, deadline: Instant) {
        match self.begin_transfer(to, deadline) {
            Ok(transfer) => transfer.callers.push(id),
            Err(error) => self.outputs.transferred.push((id, Err(error))),
        }
    }

    /// Starts a transfer, or joins the one in progress.
    pub(super) fn begin_transfer(
        &mut self,
        to: Option<ReplicaId>,
        deadline: Instant,
    ) -> Result<&mut LeadershipTransfer, TransferError> {
        let Some(view) = self.proposer.as_ref().map(|proposer| proposer.view) else {
            return Err(TransferError::NotPrimary { primary: self.primary() });
        };
        let under_way = self.transfer.take().filter(|transfer| transfer.view == view);
        let transfer = match under_way {
            Some(transfer) if to.is_some_and(|to| to != transfer.to) => {
                let error = TransferError::UnderWay(transfer.to);
                self.transfer = Some(transfer);
                return Err(error);
            }
            Some(transfer) => LeadershipTransfer { deadline: transfer.deadline.max(deadline), ..transfer },
            None => {
                let to = match to {
                    Some(to) => self.check_target(to)?,
                    None => self.successor().ok_or(TransferError::NoTarget)?,
                };
                LeadershipTransfer { callers: Vec::new(), to, view, deadline, stage: Stage::CatchingUp }
            }
        };
        Ok(self.transfer.insert(transfer))
    }

    fn check_target(&self, to: ReplicaId) -> Result<ReplicaId, TransferError> {
        if to == self.options.me {
            return Err(TransferError::LeadsAlready(to));
        }
        if !self.membership.has_voter(to) {
            return Err(TransferError::NotAVoter(to));
        }
        if self.membership.is_witness(to) {
            return Err(TransferError::Witness(to));
        }
        self.obstacle(to).map_or(Ok(to), Err)
    }

    /// Why a voter cannot lead, as far as this primary knows.
    fn obstacle(&self, peer: ReplicaId) -> Option<TransferError> {
        let progress = self.proposer.as_ref().and_then(|proposer| proposer.peers.get(&peer));
        if progress.is_some_and(|p| !p.is_voter) {
            // Its disk was replaced, and is an observer's.
            return Some(TransferError::NotAVoter(peer));
        }
        let report = self.peers.reports.get(&peer);
        match progress {
            Some(p) if self.now.since_us(p.last_heard) < self.options.election_min_us => {}
            _ => return Some(TransferError::Unreachable(peer)),
        }
        if report.is_some_and(|report| report.is_ineligible) {
            return Some(TransferError::Ineligible(peer));
        }
        report.is_some_and(|report| report.storage_full).then_some(TransferError::StorageFull(peer))
    }

    /// The voter that should lead instead of this primary: of those that can, the one that holds
    /// most of the log.
    pub(super) fn successor(&self) -> Option<ReplicaId> {
        let peers = self.proposer.as_ref()?.peers.iter();
        let follows = peers.filter(|(_, p)| p.matched > crate::Sequence::ZERO);
        let fit = follows.filter(|(id, _)| self.obstacle(**id).is_none());
        fit.max_by_key(|(id, p)| (p.matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    /// Whether this primary proposes nothing for now, because of a transfer.
    pub(super) fn is_draining(&self) -> bool {
        let view = self.proposer.as_ref().map(|proposer| proposer.view);
        self.transfer.as_ref().is_some_and(|h| Some(h.view) == view && h.stage != Stage::CatchingUp)
    }

    /// Whether a replica that promised more than this primary's view is most likely the one that
    /// was asked to stand.
    pub(super) fn has_asked_successor(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| matches!(transfer.stage, Stage::Asked(_)))
    }

    /// The replica that this primary transfers its leadership to.
    pub(super) fn transfer_target(&self) -> Option<ReplicaId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Takes the next step of a transfer once it is possible.
    pub(super) fn advance_transfer(&mut self) {
        let (now, last, commit) = (self.now, self.acceptor.log().last(), self.learner.commit());
        let close = 2 * self.options.max_in_flight_values;
        let (Some(transfer), Some(proposer)) = (&mut self.transfer, &mut self.proposer) else { return };
        let Some(progress) = proposer.peers.get_mut(&transfer.to).filter(|_| transfer.view == proposer.view) else {
            return;
        };
        if transfer.stage == Stage::CatchingUp && last.0 - progress.matched.0 <= close {
            transfer.stage = Stage::Draining(now);
        }
        let holds_all = progress.matched == last && commit == last;
        if !holds_all || !matches!(transfer.stage, Stage::Draining(_)) {
            return;
        }
        if progress.commit < last {
            if progress.last_sent_commit < last {
                progress.request_answer();
            }
            return;
        }
        transfer.stage = Stage::Asked(now);
        let (to, view) = (transfer.to, proposer.view);
        self.revoke_lease(view);
        self.send(to, Message::Transfer(Transfer { view: view.0 }), Vec::new());
    }

    /// Ends a transfer whose time is over, and answers callers whose own time is.
    pub(super) fn tick_transfer(&mut self) {
        let (now, patience_us) = (self.now, self.options.election_max_us);
        let view = self.proposer.as_ref().map(|proposer| proposer.view);
        let Some(transfer) = &mut self.transfer else { return };
        let late = Err(TransferError::TimedOut(transfer.to));
        let is_over = match transfer.stage {
            Stage::CatchingUp => now >= transfer.deadline,
            Stage::Draining(since) | Stage::Asked(since) => now.since_us(since) >= patience_us,
        };
        if is_over {
            self.end_transfer(late);
        } else if Some(transfer.view) != view && !matches!(transfer.stage, Stage::Asked(_)) {
            self.end_transfer(Err(TransferError::NotPrimary { primary: None }));
        } else if now >= transfer.deadline {
            let callers = std::mem::take(&mut transfer.callers);
            self.outputs.transferred.extend(callers.into_iter().map(|id| (id, late.clone())));
        }
    }

    /// Ends a transfer. `result`: the replica that leads now, if it is another one.
    pub(super) fn end_transfer(&mut self, result: Result<ReplicaId, TransferError>) {
        let Some(transfer) = self.transfer.take() else { return };
        self.outputs.transferred.extend(transfer.callers.into_iter().map(|id| (id, result.clone())));
    }

    /// The primary that this replica follows asks it to stand.
    pub(super) fn on_transfer(&mut self, from: ReplicaId, message: Transfer) {
        let view = View(message.view);
        let follows = view == self.acceptor.promised() && self.views.primary() == Some(from);
        let is_free = matches!(self.views.role(), Role::Secondary | Role::PreVoting { .. });
        if follows && is_free && self.acceptor.vote(view).is_some() && self.may_stand() {
            self.start_campaign(view);
        }
    }

    /// Stops leading and says so, so that the others need not wait for a timeout.
    pub(super) fn resign(&mut self) {
        let Some(view) = self.proposer.as_ref().map(|proposer| proposer.view) else { return };
        self.send_all(Message::Resign(Resign { view: view.0 }));
        self.become_secondary(None);
    }

    /// The primary of a view leads no longer.
    pub(super) fn on_resign(&mut self, from: ReplicaId, message: Resign) {
        let view = View(message.view);
        let follows = view == self.acceptor.promised() && view.owner() == Some(from);
        if follows && self.views.primary() == Some(from) {
            self.become_secondary(None);
            self.views.expire_election_timer_soon(self.now, self.options.heartbeat_us);
        }
    }
}
