//! Requests and reads of this replica's callers on their way to the primary, which may be this
//! replica itself.

use bytes::Bytes;

use super::proposer::Admission;
use super::reads::Reader;
use super::replica::Replica;
use super::requests::Portion;
use super::{Refusal, RequestId};
use crate::message::MessageHeader;
use crate::message::{Message, ReadPoint, ReadPointReply, Requests, RequestsGap};
use crate::{ReplicaId, Sequence, View};

impl Replica {
    /// Takes a request of a local caller, or refuses it.
    pub(super) fn propose(&mut self, id: RequestId, payload: Bytes) {
        if self.membership.knows_voters() && !self.membership.contains(self.options.me) {
            coverage!("requests.not_a_member");
            self.outputs.refused.push((id, Refusal::NotAMember));
        } else if self.lacks_space() {
            coverage!("requests.storage_full");
            self.outputs.refused.push((id, Refusal::StorageFull));
        } else if self.requests.is_full(payload.len(), self.options.max_request_bytes) {
            coverage!("requests.overloaded");
            self.outputs.refused.push((id, Refusal::Overloaded));
        } else {
            self.requests.push(id, payload);
        }
    }

    /// Numbers the requests that wait and hands them to the primary, if there is one.
    pub(super) fn forward_requests(&mut self) {
        let Some(primary) = self.primary() else { return };
        let target = (self.acceptor.promised(), primary);
        let bounds = (self.options.max_message_bytes, self.options.window_bytes);
        let (disk, boot) = (self.acceptor.hard().disk_id, self.acceptor.hard().boot);
        loop {
            let portion = self.requests.portion(self.now, target, bounds, &mut self.outputs.numbered);
            let Some(portion) = portion else { return };
            if let Some(proposer) = &mut self.proposer {
                let admission = proposer.admit(disk, boot, portion.first, portion.payloads, portion.voids);
                assert_eq!(admission, Admission::Taken, "the own session has no holes");
            } else {
                let Portion { first, payloads, voids } = portion;
                self.send(primary, Message::Requests(Requests { first, voids }), payloads);
            }
        }
    }

    /// Requests of another replica's session, for this primary.
    pub(super) fn on_requests(&mut self, sender: MessageHeader, message: Requests, payloads: Vec<Bytes>) {
        let is_voter = self.membership.is_voter(sender.replica, sender.disk_id);
        let max_bytes = self.options.max_request_bytes;
        let Some(proposer) = self.proposer.as_mut() else { return };
        if !proposer.has_room(sender.disk_id, is_voter, max_bytes) {
            // The sender repeats them after a while.
            return;
        }
        let Requests { first, voids } = message;
        if let Admission::Gap(expected) = proposer.admit(sender.disk_id, sender.boot, first, payloads, voids) {
            self.send(sender.replica, Message::RequestsGap(RequestsGap { expected }), Vec::new());
        }
    }

    /// Another replica asks this primary for a read point.
    pub(super) fn on_read_point(&mut self, replica: ReplicaId, round: u64) {
        if self.views.is_primary() {
            self.reads.push_remote(replica, round);
        }
    }

    /// The primary has confirmed a read point.
    pub(super) fn on_read_point_reply(&mut self, message: ReadPointReply) {
        let point = Sequence(message.sequence);
        if View(message.view) == self.acceptor.promised() {
            self.learner.observe_commit(View(message.view), point, &self.acceptor);
        }
        if self.views.is_primary() {
            return;
        }
        if let Some((readers, _)) = self.reads.finish(message.round) {
            self.serve_reads(readers, point);
        }
    }

    /// Begins a read round when one is due, and ends the one in flight once it is confirmed.
    pub(super) fn run_reads(&mut self) {
        if self.is_established() {
            let has_lease = self.holds_lease();
            self.confirm_reads();
            if self.is_sealed() {
                // It would count itself (rule M8): reads wait for the next epoch.
                coverage!("epochs.reads_wait");
                return;
            }
            if self.reads.start(self.learner.commit(), self.now).is_some() {
                if let Some(proposer) = self.proposer.as_mut().filter(|_| !has_lease) {
                    proposer.request_answers();
                }
                self.confirm_reads();
            }
        } else if !self.views.is_primary() {
            let Some(primary) = self.primary() else { return };
            if let Some(round) = self.reads.start(Sequence::ZERO, self.now) {
                self.send(primary, Message::ReadPoint(ReadPoint { round }), Vec::new());
            }
        }
    }

    /// Asks the primary again for a round that seems lost. Heartbeats repeat the rounds of a
    /// primary.
    pub(super) fn retry_reads(&mut self) {
        let Some(round) = self.reads.retry(self.now, self.options.retry_us) else { return };
        if let Some(primary) = self.primary().filter(|primary| *primary != self.options.me) {
            self.send(primary, Message::ReadPoint(ReadPoint { round }), Vec::new());
        }
    }

    /// Ends the round in flight once it is certain that this primary led when the round began: a
    /// quorum, this replica included, has answered it, or lets nobody else lead now.
    fn confirm_reads(&mut self) {
        let quorum = self.membership.quorum();
        let Some(round) = self.reads.awaited() else { return };
        let answered = self.proposer.as_ref().is_some_and(|p| p.confirmations(round) + 1 >= quorum);
        let confirmed = answered || self.holds_lease();
        if !confirmed {
            return;
        }
        if let Some((readers, point)) = self.reads.finish(round) {
            self.serve_reads(readers, point);
        }
    }

    fn serve_reads(&mut self, readers: Vec<Reader>, point: Sequence) {
        let view = self.acceptor.promised().0;
        for reader in readers {
            match reader {
                Reader::Local(id) => self.outputs.read_ready.push((id, point)),
                Reader::Remote { replica, round } => {
                    let reply = ReadPointReply { round, sequence: point.0, view };
                    self.send(replica, Message::ReadPointReply(reply), Vec::new());
                }
            }
        }
    }
}
