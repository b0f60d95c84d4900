//! How a cluster is born (bootstrapped), once.
//!
//! A replica with an empty disk is *unborn*: it belongs to no cluster. Unborn replicas call each
//! other. When the one with the lowest number has heard from *all* others that their disks are
//! empty too, it bootstraps the cluster: it mints the *bootstrap record*, which holds the cluster's
//! id and the disks that vote. That record is the first entry of every log, in view 0. It counts as
//! chosen, because no replica votes before it holds the record, and because only one replica mints
//! it, which makes it durable before it sends it. A disk that is not in the record (a replaced one)
//! gets the record as well: it becomes an *observer*, which follows and applies like the others. It
//! has no vote, since nobody knows what its predecessor promised.

use super::replica::Replica;
use super::view_manager::Role;
use crate::message::MessageHeader;
use crate::message::{Born, Hello, Levels, Message};
use crate::value::{BirthRecord, Value};
use crate::{ClusterId, Epoch, Sequence, View};

impl Replica {
    /// Calls the other unborn replicas, once per heartbeat.
    pub(super) fn call_unborn_peers(&mut self) {
        if self.now >= self.timers.next_heartbeat {
            self.timers.next_heartbeat = self.now.plus_us(self.options.heartbeat_us);
            let (levels, addresses) = (Levels::field(self.options.levels), self.options.announced.field());
            let is_witness = self.options.is_witness;
            self.send_all(Message::Hello(Hello { levels, addresses, is_witness }));
            self.try_to_bootstrap();
        }
    }

    /// A peer has an empty disk.
    pub(super) fn on_hello(&mut self, sender: MessageHeader, message: Hello) {
        self.note_levels(sender.replica, sender.disk_id, Levels::range(message.levels));
        self.on_announcement(&sender, message.addresses.as_ref());
        let Some(empty_peers) = self.views.empty_peers_mut() else {
            if !self.membership.is_voter(sender.replica, sender.disk_id) {
                // The peer's disk was replaced: forget what the former disk reported.
                self.peers.reports.remove(&sender.replica);
                self.digests.forget(sender.replica);
                self.peers.heard.remove(&sender.replica);
            }
            if self.is_birth_durable() && self.membership.knows_voters() {
                coverage!("birth.record_sent_again");
                let birth = self.birth_record();
                self.send(sender.replica, Message::Born(Born { birth: Some(birth) }), Vec::new());
            }
            return;
        };
        if message.is_witness {
            return;
        }
        empty_peers.insert(sender.replica, sender.disk_id);
        self.try_to_bootstrap();
    }

    fn is_birth_durable(&self) -> bool {
        self.acceptor.durable().cluster_id == self.acceptor.hard().cluster_id
    }

    fn birth_record(&self) -> BirthRecord {
        self.membership.birth_record(self.acceptor.hard().cluster_id)
    }

    fn try_to_bootstrap(&mut self) {
        let Role::Unborn { empty_peers } = self.views.role() else { return };
        let hard = *self.acceptor.hard();
        let is_lowest = self.membership.members().next() == Some(self.options.me);
        let is_durable = self.acceptor.durable().boot == hard.boot;
        if !self.options.bootstraps
            || self.options.is_witness
            || !is_lowest
            || !is_durable
            || empty_peers.len() + 1 < self.membership.members().len()
        {
            return;
        }
        let own = [(self.options.me, hard.disk_id)];
        let disks = empty_peers.iter().map(|(id, disk)| (*id, *disk)).chain(own).collect();
        self.be_born(BirthRecord::new(ClusterId(self.bootstrap.new_cluster_id), &disks));
        self.bootstrap.is_unannounced = true;
        coverage!("birth.bootstrapped");
    }

    /// The replica that bootstrapped the cluster sends the record to the others once it is durable,
    /// and stands for election.
    pub(super) fn announce_birth(&mut self) {
        if self.bootstrap.is_unannounced && self.is_birth_durable() {
            self.bootstrap.is_unannounced = false;
            let birth = self.birth_record();
            self.send_all(Message::Born(Born { birth: Some(birth) }));
            self.views.expire_election_timer_soon(self.now, 1);
        }
    }

    /// This replica belongs to a cluster from now on: as a voter if its disk is in the record, and
    /// otherwise as an observer.
    pub(super) fn on_born(&mut self, message: Born) {
        if let Some(birth) = message.birth {
            self.be_born(birth);
        }
    }

    /// Takes the bootstrap record as the first entry, in the log write that makes the cluster's id
    /// durable.
    fn be_born(&mut self, birth: BirthRecord) {
        self.membership.adopt(&birth.configuration());
        let cluster_id = birth.cluster_id();
        let value = Value { birth: Some(birth), ..Value::default() };
        self.acceptor.be_born(cluster_id, Epoch::FIRST, value.to_bytes());
        self.learner.install(Sequence::BIRTH, View::BIRTH);
        self.become_secondary(None);
    }
}
