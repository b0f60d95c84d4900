//! Losses of disks, and their budget: never more than the others can restore.
//!
//! One node at a time has losses that it has not got back yet, and of one node at a time the disk
//! is replaced; of three, a replaced disk is all that may be lost, since the one in its place has
//! no vote. So of every entry that was ever committed, an intact copy is left in each quorum that
//! may have committed it.
//!
//! A replaced disk may be gone for good. Or it comes back as it was, however much it has missed,
//! leaves again, and so on: it has its vote whenever it is there, and the one that is there
//! meanwhile never has one. Where members change, the vote may pass to whichever is there, so the
//! other one is the one that is missed.

use rsml::ClusterId;

use super::cluster::Cluster;
use super::events::Event;

impl Cluster {
    /// Whether every disk belongs to the cluster by now: before that, a lost one is not missed.
    pub(super) fn all_are_born(&self) -> bool {
        let members = self.member_nodes();
        members.iter().all(|place| self.nodes[*place].log.ledger.promised().cluster_id != ClusterId::NONE)
    }

    fn may_lose(&self, node: usize) -> bool {
        if self.faults.beyond_budget {
            return !self.faults_ended;
        }
        let others_are_sound = (0..self.nodes.len()).all(|other| other == node || self.nodes[other].is_sound());
        let are_enough = self.voting_nodes().len() >= 3 && self.has_newest_epoch_begun();
        are_enough && self.corrupted.is_none() && !self.faults_ended && others_are_sound
    }

    /// Of three or four, a replaced disk is all that may be lost.
    fn may_lose_besides_disk(&self) -> bool {
        self.faults.beyond_budget || self.voting_nodes().len() > 4 || self.wiped.is_none()
    }

    /// A node is about to start: its disk may have lost something meanwhile.
    pub(super) fn lose_before_start(&mut self, node: usize) {
        self.nodes[node].has_losses = false;
        self.forget_what_was_replaced();
        if self.faults_ended || self.nodes[node].incarnation == 0 {
            return;
        }
        let exchanges = self.nodes[node].has_spare() && self.random.one_in(self.faults.exchange);
        if exchanges && self.exchange_disks(node) || !self.may_lose(node) {
            return;
        }
        if self.may_replace(node) && self.random.one_in(self.faults.wipe) {
            self.replace_disk(node, self.faults.exchange > 0);
            return;
        }
        let is_born = self.all_are_born();
        let may_rot = self.may_lose_besides_disk();
        if may_rot && is_born && self.random.one_in(self.faults.lose_database) {
            self.note("database lost", || format!("of {node}"));
            self.nodes[node].lose_database();
        }
        if may_rot && is_born && self.random.one_in(self.faults.rot) {
            self.rot(node, "log rotted while down");
        }
    }

    /// Whether another disk may be in the place of this node's.
    fn may_replace(&self, node: usize) -> bool {
        let is_only_one = self.faults.beyond_budget || self.wiped.is_none_or(|wiped| wiped == node);
        self.may_lose(node) && self.all_are_born() && is_only_one
    }

    /// An empty disk takes the place of that of a node that is down. The first one may come back if
    /// `keeps`.
    pub fn replace_disk(&mut self, node: usize, keeps: bool) {
        self.note("disk replaced", || format!("of {node}"));
        self.wiped = Some(node);
        self.nodes[node].wipe(keeps, &mut self.random);
    }

    /// The first disk of a node that is down comes back to its place, or leaves it again. False
    /// when it must not.
    fn exchange_disks(&mut self, node: usize) -> bool {
        let is_missed = !self.has_its_voting_disk(node);
        if !is_missed && !self.may_replace(node) {
            return false;
        }
        self.nodes[node].exchange();
        let what = if self.nodes[node].is_replaced() { "disk left again" } else { "replaced disk returned" };
        self.note(what, || format!("that of {node}"));
        if !is_missed {
            self.wiped = Some(node);
        } else if self.wiped == Some(node) {
            // A seal that gives the vote to the disk that left may be under way.
            self.missed_in = self.newest_epoch();
            if !self.faults.changes_members() {
                self.wiped = None;
            }
        }
        true
    }

    /// The first disk of a node that is down leaves its place, to an empty one or the one that had
    /// been there. False when it must not.
    pub(super) fn take_disk_away(&mut self, node: usize) -> bool {
        if self.nodes[node].is_replaced() || self.nodes[node].running.is_some() || !self.may_replace(node) {
            return false;
        }
        if !self.nodes[node].has_spare() {
            self.replace_disk(node, true);
            return true;
        }
        self.exchange_disks(node)
    }

    /// The first disk of a node that is down is in its place again, if it is not gone for good.
    pub(super) fn bring_disk_back(&mut self, node: usize) {
        let node_is_down = self.nodes[node].running.is_none();
        if node_is_down && self.nodes[node].is_replaced() && self.nodes[node].has_spare() {
            self.exchange_disks(node);
        }
    }

    /// Sectors of a running node's log rot; noticed when they are read, or at the next start.
    pub(super) fn rot_running(&mut self, node: usize) {
        self.forget_what_was_replaced();
        let may_rot = self.may_lose_besides_disk();
        if may_rot && self.all_are_born() && self.may_lose(node) && self.nodes[node].running.is_some() {
            self.rot(node, "log rotted while running");
        }
    }

    fn rot(&mut self, node: usize, what: &'static str) {
        let sectors = self.random.between(1, 3);
        if self.nodes[node].log.rot(sectors, &mut self.random) {
            self.note(what, || format!("of {node}: {sectors} sectors"));
        }
    }

    /// The log of a node can't grow for a while.
    pub(super) fn fill(&mut self, node: usize) {
        let for_us = self.random.pick(&[300_000, 2_000_000]);
        let for_us = self.random.below(for_us);
        self.note("disk full", || format!("{node} for {for_us} us"));
        self.nodes[node].log.set_full(true);
        self.schedule(for_us, Event::SpaceReturns(node));
    }

    /// Whether any copy of anything is missing: then everybody may be needed.
    pub(super) fn has_losses(&self) -> bool {
        self.wiped.is_some() || !self.nodes.iter().all(|node| node.is_sound())
    }
}
