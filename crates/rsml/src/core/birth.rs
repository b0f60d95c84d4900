//! How a cluster is born, once.
//!
//! Replicas with empty disks call each other. When the one with the lowest id has heard from *all* others that theirs
//! are empty too, it mints the cluster: an id, and which disks belong. That record is the first entry of every log, in
//! view 0, and counts as chosen, because nobody votes before holding it, and it is minted by one replica only, which
//! makes it durable before it tells. A disk that is not in the record (a replaced one) is told the record as well: it
//! becomes an *observer*, which follows and applies like the others, and has no vote, since nobody knows what its
//! predecessor promised.

use super::replica::Replica;
use super::view_manager::Role;
use crate::message::MessageHeader;
use crate::message::{Born, Hello, Message};
use crate::value::{BirthRecord, Member, Value};
use crate::{DiskId, Epoch, Sequence, View};

impl Replica {
    /// Calls the other founders, now and then.
    pub(super) fn call_founders(&mut self) {
        if self.now >= self.next_call {
            self.next_call = self.now.plus_us(self.options.heartbeat_us);
            self.send_all(Message::Hello(Hello {}));
            self.try_to_found();
        }
    }

    pub(super) fn on_hello(&mut self, sender: MessageHeader) {
        let Role::Unborn { empty_peers } = &mut self.views.role else {
            if !self.configuration.is_voter(sender.replica, sender.disk_id) {
                // Another disk in the place of one that belongs: what that one told is over.
                self.reports.remove(&sender.replica);
                self.digests.forget(sender.replica);
                self.heard.remove(&sender.replica);
            }
            if self.is_birth_durable() && !self.configuration.disks.is_empty() {
                coverage!("birth.told_again");
                let birth = self.birth_record();
                self.send(sender.replica, Message::Born(Born { birth: Some(birth) }), Vec::new());
            }
            return;
        };
        empty_peers.insert(sender.replica, sender.disk_id);
        self.try_to_found();
    }

    fn is_birth_durable(&self) -> bool {
        self.acceptor.durable().cluster_id == self.acceptor.hard().cluster_id
    }

    fn birth_record(&self) -> BirthRecord {
        let members = self.configuration.disks.iter();
        BirthRecord {
            cluster_id: self.acceptor.hard().cluster_id.0.into(),
            members: members.map(|(r, d)| Member { replica: u32::from(r.0), disk_id: d.0.into() }).collect(),
        }
    }

    fn try_to_found(&mut self) {
        let Role::Unborn { empty_peers } = &self.views.role else { return };
        let hard = *self.acceptor.hard();
        let is_lowest = self.options.replicas.iter().min() == Some(&self.options.me);
        let is_durable = self.acceptor.durable().boot == hard.boot;
        if !is_lowest || !is_durable || empty_peers.len() + 1 < self.options.replicas.len() {
            return;
        }
        let own = [(self.options.me, hard.disk_id)];
        let mut disks: Vec<(crate::ReplicaId, DiskId)> = empty_peers.iter().map(|(r, d)| (*r, *d)).chain(own).collect();
        disks.sort_unstable();
        let members = disks.iter().map(|(r, d)| Member { replica: u32::from(r.0), disk_id: d.0.into() }).collect();
        self.be_born(BirthRecord { cluster_id: self.new_cluster_id.into(), members });
        self.is_founder = true;
        coverage!("birth.founded");
    }

    /// The founder tells the others once the record is durable, and stands for election.
    pub(super) fn announce_birth(&mut self) {
        if self.is_founder && self.is_birth_durable() {
            self.is_founder = false;
            let birth = self.birth_record();
            self.send_all(Message::Born(Born { birth: Some(birth) }));
            self.views.suspect(self.now, 1);
        }
    }

    /// A disk that is not in the record is an observer's: it follows this cluster from now on, and does not vote.
    pub(super) fn on_born(&mut self, message: Born) {
        if let Some(birth) = message.birth {
            self.be_born(birth);
        }
    }

    /// Takes the birth record as the first entry, in the same durable write as the cluster's id.
    fn be_born(&mut self, birth: BirthRecord) {
        self.configuration = birth.configuration();
        let cluster_id = birth.cluster_id();
        let value = Value { birth: Some(birth), ..Value::default() };
        self.acceptor.be_born(cluster_id, Epoch(1), value.to_bytes());
        self.learner.install(Sequence::BIRTH, View::BIRTH);
        self.become_secondary(None);
    }
}
