//! Upgrades: the programs of the nodes, and the operator who ends an upgrade.
//!
//! A program is known by the feature levels that it executes. A node may be started with another
//! one. Nodes go up and down until the operator asks for a higher level, which is not before every
//! report about a program that was taken away must be forgotten; from then on they only go up. So
//! does whoever keeps to the manual, and no replica may ever stop because of a level.

use bytes::Bytes;
use rsml::core::{Input, RaiseId};
use rsml::{FeatureLevel, LevelRange, Persist, Sequence, Value};

use super::cluster::Cluster;

/// Longer than any report is on its way, or waits for a process that pauses.
const REPORTS_ARRIVE_WITHIN_US: u64 = 4_000_000;

/// Within this long after the last upgrade, the level is raised.
const RAISED_WITHIN_US: u64 = 20_000_000;

impl Cluster {
    /// A node is about to start, perhaps with another program.
    pub(super) fn change_program(&mut self, node: usize) {
        if self.nodes[node].incarnation == 0 || !self.random.one_in(self.faults.change_program) {
            return;
        }
        let present = u64::from(self.nodes[node].program.highest.0);
        let may_go_down = !self.upgrades.only_up && self.watch.acknowledged > 0 && self.faults.raise_after_us == 0;
        let lowest = if may_go_down { 1 } else { present };
        let highest = self.random.between(lowest, u64::from(self.faults.highest_level).max(lowest));
        self.install(node, highest as u32);
    }

    /// Crashes a node, which stays down until it is brought back.
    pub fn take_down(&mut self, node: usize) {
        self.kept_down.insert(node);
        self.crash(node);
    }

    /// Starts a node that was taken down.
    pub fn bring_back(&mut self, node: usize) {
        self.kept_down.remove(&node);
        self.start(node);
    }

    /// Gives a node that is down a program that executes levels up to `highest`.
    pub fn install(&mut self, node: usize, highest: u32) {
        assert!(self.nodes[node].running.is_none(), "programs are exchanged while the process is down");
        let before = std::mem::replace(&mut self.nodes[node].program, LevelRange::new(1, highest));
        if before.highest.0 < highest {
            self.note("upgraded", || format!("{node} to level {highest}"));
        } else if before.highest.0 > highest {
            self.note("downgraded", || format!("{node} to level {highest}"));
            self.upgrades.downgraded_at = Some(self.now);
        }
    }

    /// These entries are chosen: what raises the level is executed by the programs of all nodes.
    pub(super) fn check_raises(&self, entries: &[(Sequence, Bytes)]) {
        if self.faults.highest_level > 1 {
            let programs: Vec<LevelRange> = self.nodes.iter().map(|node| node.program).collect();
            entries.iter().for_each(|(sequence, entry)| self.watch.raised(*sequence, entry, &programs));
        }
    }

    /// These writes go to a log: if one of them raises the level, nobody goes back any more.
    pub(super) fn note_raises(&mut self, writes: &[Persist]) {
        let raises = |entry: &Bytes| Value::from_bytes(entry.clone()).raise_feature_level > 0;
        if self.faults.highest_level > 1 && writes.iter().flat_map(|write| &write.entries).any(raises) {
            self.upgrades.only_up = true;
        }
    }

    /// The operator asks `node` for a higher level, unless an older program was started lately.
    pub(super) fn ask_for_level(&mut self, node: usize) {
        let horizon_us = self.faults.level_heard_us * 12 / 10 + REPORTS_ARRIVE_WITHIN_US;
        if self.upgrades.downgraded_at.is_some_and(|at| self.now < at + horizon_us) {
            return;
        }
        // Members that are away are passed over only if they execute the level too.
        let lowest = self.nodes.iter().map(|node| node.program.highest.0).min().expect("a cluster has nodes");
        if self.faults.readmit && self.random.one_in(3) {
            return self.raise_level(node, Some(lowest), true);
        }
        let to = if self.random.one_in(2) { None } else { Some(self.random.between(1, 3) as u32) };
        self.raise_level(node, to, false);
    }

    /// Asks `node` to raise the level; if `force`, without disks that are away.
    pub fn raise_level(&mut self, node: usize, to: Option<u32>, force: bool) {
        self.upgrades.only_up = true;
        let id = RaiseId(self.next_id());
        let within_us = self.random.below(2_000_000);
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return };
        running.raises.insert(id);
        let deadline = running.clock.read(now).plus_us(within_us);
        self.note("level asked for", || format!("of {node}: {to:?}"));
        self.input(node, Input::Raise { id, to: to.map(FeatureLevel), force, deadline });
    }

    /// The level that `node` has applied.
    pub fn level_of(&self, node: usize) -> u32 {
        self.nodes[node].running.as_ref().expect("it runs").applier.state().feature_level.0
    }

    /// Half of the time, after all faults: each node in turn gets the newest program, and then the
    /// level is raised to the highest.
    pub fn finish_upgrade(&mut self) {
        let is_whole = self.wiped.is_none() && self.corrupted.is_none() && !self.faults.beyond_budget;
        if !is_whole || self.nodes.iter().any(|node| node.stopped) || !self.random.one_in(2) {
            return;
        }
        self.end_faults();
        let highest = self.faults.highest_level;
        let (first, count) = (self.any_node(), self.nodes.len());
        for node in (0..count).map(|place| (first + place) % count) {
            self.crash(node);
            self.install(node, highest.max(self.nodes[node].program.highest.0));
            self.start(node);
            self.run(1_000_000);
        }
        let until = self.now + RAISED_WITHIN_US * self.faults.slowness;
        while !self.member_nodes().into_iter().all(|node| self.level_of(node) == highest) {
            let levels: Vec<u32> = self.member_nodes().into_iter().map(|node| self.level_of(node)).collect();
            assert!(self.now < until, "the level is not raised to {highest}: {levels:?}");
            if let Some(primary) = self.nodes.iter().position(|node| node.is_primary()) {
                self.raise_level(primary, None, false);
            }
            self.run(500_000);
        }
        self.figures.count(if highest > 1 { "upgrade finished" } else { "restarted one by one" });
    }
}
