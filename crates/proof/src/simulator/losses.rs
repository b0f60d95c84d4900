//! What disks lose, and the budget for it: never more than the others can make good.
//!
//! One node at a time has losses that it has not got back yet, and one disk in a run is replaced for good; of three, a
//! replaced disk is all that may be lost, since it has no vote any more. So of every entry that was ever committed, an
//! intact copy is left in each quorum that may have committed it.

use rsml::ClusterId;

use super::cluster::Cluster;
use super::events::Event;

impl Cluster {
    /// Whether every disk belongs to the cluster by now: before that, a lost one is not missed.
    pub(super) fn all_are_born(&self) -> bool {
        self.nodes.iter().all(|node| node.log.ledger.promised().cluster_id != ClusterId::NONE)
    }

    fn may_lose(&self, node: usize) -> bool {
        if self.faults.beyond_budget {
            return !self.faults_ended;
        }
        let others_are_sound = (0..self.nodes.len()).all(|other| other == node || self.nodes[other].is_sound());
        self.nodes.len() >= 3 && self.corrupted.is_none() && !self.faults_ended && others_are_sound
    }

    /// Of three, a replaced disk is all that may be lost.
    fn may_lose_besides_disk(&self) -> bool {
        self.faults.beyond_budget || self.nodes.len() > 3 || self.wiped.is_none()
    }

    /// A node is about to start: its disk may have lost something meanwhile.
    pub(super) fn lose_before_start(&mut self, node: usize) {
        self.nodes[node].has_losses = false;
        if !self.may_lose(node) || self.nodes[node].incarnation == 0 {
            return;
        }
        let is_born = self.all_are_born();
        let may_wipe = self.faults.beyond_budget || self.wiped.is_none_or(|wiped| wiped == node);
        if is_born && may_wipe && self.random.one_in(self.faults.wipe) {
            self.note("disk replaced", || format!("of {node}"));
            self.wiped = Some(node);
            self.nodes[node].wipe(&mut self.random);
            return;
        }
        let may_rot = self.may_lose_besides_disk();
        if may_rot && is_born && self.random.one_in(self.faults.lose_database) {
            self.note("database lost", || format!("of {node}"));
            self.nodes[node].lose_database();
        }
        if may_rot && is_born && self.random.one_in(self.faults.rot) {
            self.rot(node, "log rotted while down");
        }
    }

    /// Sectors of a running node's log rot; noticed when they are read, or at the next start.
    pub(super) fn rot_running(&mut self, node: usize) {
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
