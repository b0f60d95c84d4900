//! Messages in and out: which ones are admitted, what handles them, and the header with which they
//! leave.

use bytes::Bytes;

use super::Outgoing;
use super::replica::Replica;
use crate::message::MessageHeader;
use crate::{Message, ReplicaId, View};

impl Replica {
    /// Takes a message, or drops it.
    pub(super) fn receive(&mut self, sender: MessageHeader, message: Message, payload: Vec<Bytes>) {
        if !self.admits(&sender, &message) {
            coverage!("foreign.not_of_this_cluster");
            self.counters.foreign += 1;
            return;
        }
        let from = sender.replica;
        if !matches!(message, Message::Hello(_)) {
            self.peers.heard.insert(from, self.now);
            if sender.epoch == self.epoch() && self.membership.contains(from) {
                self.track_disk(&sender);
            }
        }
        match message {
            Message::Hello(m) => self.on_hello(sender, m),
            Message::Born(m) => self.on_born(m),
            Message::PreVote(m) => self.on_pre_vote(from, m),
            Message::PreVoteReply(m) => self.on_pre_vote_reply(from, m),
            Message::Prepare(m) => self.on_prepare(from, m),
            Message::Promise(m) => self.on_promise(from, m),
            Message::Fetch(m) => self.on_fetch(from, m),
            Message::Fetched(m) => self.on_fetched(from, m, payload),
            Message::Refuse(m) => self.on_refuse(View(m.promised)),
            Message::Accept(m) => self.on_accept(from, m, payload),
            Message::Accepted(m) => self.on_accepted(&sender, m),
            Message::Requests(m) => self.on_requests(sender, m, payload),
            Message::RequestsGap(m) => self.requests.fill_gap(m.expected, self.now, self.options.heartbeat_us),
            Message::ReadPoint(m) => self.on_read_point(from, m.round),
            Message::ReadPointReply(m) => self.on_read_point_reply(m),
            Message::Transfer(m) => self.on_transfer(from, m),
            Message::Resign(m) => self.on_resign(from, m),
            Message::Report(m) => self.on_report(&sender, *m),
            Message::Behind(m) => self.on_behind(&m),
            Message::SnapshotRequest(m) => self.on_snapshot_request(from, &m),
            Message::SnapshotChunk(m) => self.on_snapshot_chunk(from, &m, payload),
            Message::Ended(m) => self.on_ended(from, &m),
            Message::EndedRequest(_) => self.on_ended_request(&sender),
            Message::CommittedRequest(m) => self.on_committed_request(&sender, &m),
            Message::Committed(m) => self.on_committed(from, &m, payload),
        }
    }

    /// Whether a message is of this cluster and epoch, of a disk that belongs, and not of a former
    /// start of it. From a disk that does not belong, an observer's, only messages that help it to
    /// follow are admitted; from another epoch, only those that mean the same in every one.
    fn admits(&mut self, sender: &MessageHeader, message: &Message) -> bool {
        if sender.replica == self.options.me {
            return false;
        }
        let mine = *self.acceptor.hard();
        let is_of_cluster = match message {
            Message::Hello(_) => self.membership.contains(sender.replica),
            Message::Born(m) => self.views.is_unborn() && m.birth.is_some() && self.membership.contains(sender.replica),
            _ => !self.views.is_unborn() && sender.cluster_id == mine.cluster_id,
        };
        let is_admitted = match message {
            _ if !is_of_cluster => false,
            Message::Hello(_) | Message::Born(_) => true,
            _ if sender.epoch != mine.epoch => self.on_other_epoch(sender, message),
            _ if !self.membership.knows_voters() || self.membership.contains(sender.replica) => {
                self.admits_disk(sender, message)
            }
            _ => self.admits_former_member(sender, message),
        };
        if !is_admitted {
            return false;
        }
        let is_voter = self.membership.is_voter(sender.replica, sender.disk_id);
        let (disk, newest) =
            self.peers.boots.entry((sender.replica, is_voter)).or_insert((sender.disk_id, sender.boot));
        if *disk != sender.disk_id {
            (*disk, *newest) = (sender.disk_id, sender.boot);
        }
        let is_newest = sender.boot >= *newest;
        *newest = sender.boot.max(*newest);
        if !is_newest {
            coverage!("foreign.former_boot");
        }
        is_newest
    }

    fn admits_disk(&self, sender: &MessageHeader, message: &Message) -> bool {
        match message {
            Message::Hello(_) | Message::Born(_) => true,
            // A replica without a database does not know the voters. It does nothing but install a
            // snapshot.
            _ if !self.membership.knows_voters() => {
                matches!(message, Message::Report(_) | Message::SnapshotChunk(_) | Message::SnapshotRequest(_))
            }
            _ if self.membership.is_voter(sender.replica, sender.disk_id) => true,
            Message::Accepted(_) | Message::Report(_) | Message::SnapshotRequest(_) | Message::SnapshotChunk(_) => true,
            Message::Requests(_) | Message::ReadPoint(_) => true,
            _ => false,
        }
    }

    /// A replica that is no member of this epoch may say how it is, and get what it lacks. It is
    /// told how far this one knows entries as chosen, so that it may retire.
    fn admits_former_member(&mut self, sender: &MessageHeader, message: &Message) -> bool {
        let is_member = self.membership.contains(self.options.me);
        if matches!(message, Message::Report(_)) && is_member && self.may_answer(sender.replica) {
            coverage!("epochs.former_member_answered");
            let report = self.own_report(Vec::new());
            self.send(sender.replica, Message::Report(Box::new(report)), Vec::new());
        }
        matches!(message, Message::Report(_) | Message::SnapshotRequest(_) | Message::SnapshotChunk(_))
    }

    /// Lets a primary track the disk that now uses the sender's replica id. The answers of a disk
    /// that is no member are no votes.
    fn track_disk(&mut self, sender: &MessageHeader) {
        let is_voter = self.membership.is_voter(sender.replica, sender.disk_id);
        let now = self.now;
        if let Some(proposer) = self.proposer.as_mut() {
            proposer.track_disk(sender.replica, sender.disk_id, is_voter, now);
        }
    }

    /// Sends a message, unless this start of the replica, or the epoch in which it acts, is not
    /// durable yet: after a crash, the next start would have the same number, and this message
    /// could be taken for one of that start (and see rule M1).
    pub(super) fn send(&mut self, to: ReplicaId, message: Message, payload: Vec<Bytes>) {
        let hard = self.acceptor.hard();
        let durable = self.acceptor.durable();
        if (durable.boot, durable.disk_id, durable.epoch) == (hard.boot, hard.disk_id, hard.epoch) {
            self.outputs.send.push(Outgoing { to, message, payload });
        }
    }

    /// Sends a message to all peers.
    pub(super) fn send_all(&mut self, message: Message) {
        let peers: Vec<ReplicaId> = self.membership.peers().collect();
        for to in peers {
            self.send(to, message.clone(), Vec::new());
        }
    }

    /// The header of everything that this replica sends.
    pub fn sender(&self) -> MessageHeader {
        let hard = self.acceptor.hard();
        MessageHeader {
            replica: self.options.me,
            cluster_id: hard.cluster_id,
            epoch: hard.epoch,
            disk_id: hard.disk_id,
            boot: hard.boot,
        }
    }
}
