//! The phases of a run: faults; then a connected core of a majority, which must make progress; then
//! all of them, who must come to agree.

use std::collections::BTreeSet;

use rsml::core::Input;
use rsml::{ReplicaId, Sequence};

use super::cluster::Cluster;
use super::node::{Node, Running};
use super::rows::{JOURNAL, all_with, stamped, version_of};
use super::watch;
use super::workload::OpId;

/// Within this long after the last fault a core must have committed something of its own, and read
/// it.
const PROGRESS_WITHIN_US: u64 = 15_000_000;

/// A replica with a new copy needs the entries after it; this is the time for fetching them.
const AFTER_COPY_US: u64 = 5_000_000;

/// Replicas whose digests differ, and which no third one can decide between, stop within this long:
/// four of the longest election timeouts (600 ms), and what it takes to tell each other.
const UNDECIDED_WITHIN_US: u64 = 3_500_000;

/// So much later where one of the core needs a copy of a database, for each node outside, or
/// stopped for good: it may be the one that is asked first, and answer nothing though it is heard.
const SOURCE_PATIENCE_US: u64 = 11_000_000;

impl Cluster {
    /// Nobody but those outside a core is kept down.
    pub(super) fn may_restart(&self, node: usize) -> bool {
        !self.kept_down.contains(&node)
    }

    /// Faults end for a majority; the others may stay down, or cut off in one direction or both.
    /// Their number is drawn. Within some seconds the majority commits what its clients ask for.
    pub fn expect_progress_of_a_core(&mut self) {
        let count = self.nodes.len();
        // While members change, it is not known beforehand who is needed.
        if !self.has_quorum() || self.faults.beyond_budget || self.faults.reconfigure > 0 {
            return;
        }
        // Where copies are missing everybody may be needed.
        // A cluster that only its founder knows of waits for it.
        let is_whole = self.all_are_born() && self.corrupted.is_none() && !self.has_losses();
        let most_outside = if is_whole { (count - 1) / 2 } else { 0 };
        let outside_count = self.random.below(most_outside as u64 + 1) as usize;
        let mut outside = BTreeSet::new();
        while outside.len() < outside_count {
            outside.insert(self.any_node());
        }
        self.say(|| format!("faults end, {outside:?} stay outside"));
        self.end_faults();
        for node in outside.iter().copied() {
            self.leave_outside(node);
        }
        let core: Vec<usize> =
            (0..count).filter(|node| !outside.contains(node) && Some(*node) != self.corrupted).collect();
        if core.is_empty() {
            return;
        }
        for node in &core {
            if self.nodes[*node].running.is_none() {
                self.start(*node);
            }
        }
        let begun = self.now;
        let mut until = begun + PROGRESS_WITHIN_US * self.faults.slowness;
        let goal = self.watch.agreement.highest();
        let acknowledged = self.watch.acknowledged;
        while !self.has_progressed(&core, goal, acknowledged) {
            let stopped = self.nodes.iter().filter(|node| node.stopped).count();
            let patience_us = SOURCE_PATIENCE_US * (outside_count + stopped) as u64 * self.faults.slowness;
            let copied_until = begun + PROGRESS_WITHIN_US * self.faults.slowness + patience_us;
            if self.now < copied_until && self.is_catching_up(&core) {
                until = until.max(self.now + AFTER_COPY_US * self.faults.slowness);
            }
            if self.now >= until && self.needs_a_copy_that_nobody_vouches_for() {
                return;
            }
            assert!(self.now < until, "no progress of {core:?} beyond {goal}: {:#?}", self.describe());
            self.run(20_000);
            if !self.has_quorum() {
                return;
            }
            let node = core[self.random.below(core.len() as u64) as usize];
            self.blind_note(node);
        }
        self.figures.count(if outside_count == 0 { "progress of all" } else { "progress of a majority alone" });
    }

    /// Every node of the core has applied more than any had when faults ended, and something new
    /// was acknowledged. A node that found meanwhile that it has a copy of a wrong database has
    /// stopped, and is not of the core.
    fn has_progressed(&self, core: &[usize], goal: Sequence, acknowledged: u64) -> bool {
        let beyond = |node: &usize| self.nodes[*node].running.as_ref().is_some_and(|r| r.applied() > goal);
        self.watch.is_born()
            && self.watch.acknowledged > acknowledged
            && core.iter().filter(|node| !self.nodes[**node].stopped).all(beyond)
    }

    fn is_catching_up(&self, nodes: &[usize]) -> bool {
        let running = nodes.iter().filter_map(|node| self.nodes[*node].running.as_ref());
        running.into_iter().any(|running| running.core.status().is_catching_up)
    }

    fn leave_outside(&mut self, node: usize) {
        if self.random.one_in(2) {
            self.kept_down.insert(node);
            self.crash(node);
            return;
        }
        let (says, hears) = self.random.pick(&[(true, true), (true, false), (false, true)]);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != node) {
            if says {
                self.cut.insert((node, peer));
            }
            if hears {
                self.cut.insert((peer, node));
            }
        }
    }

    pub(super) fn end_faults(&mut self) {
        self.faults = self.faults.ended();
        self.faults_ended = true;
        self.cut.clear();
        self.stragglers.clear();
        self.kept_down.clear();
        for node in &mut self.nodes {
            node.paused_until = 0;
            node.log.hangs_until = 0;
            node.log.set_full(false);
        }
        for node in 0..self.nodes.len() {
            self.input(node, Input::Eligible(true));
            self.look_for_space(node);
        }
    }

    /// All faults end; within `within_us` everything proposed is executed everywhere, and all
    /// agree.
    pub fn heal_and_converge(&mut self, within_us: u64) {
        self.say(|| "all heals".to_string());
        self.end_faults();
        for node in 0..self.nodes.len() {
            if self.nodes[node].running.is_none() {
                self.start(node);
            }
        }
        self.run(1_500_000);
        self.pass_digests();
        self.clients_active = false;
        if !self.has_quorum() {
            return;
        }
        let until = self.now + within_us;
        while !self.is_converged() {
            if self.now >= until && self.needs_a_copy_that_nobody_vouches_for() {
                return;
            }
            if self.now >= until && self.faults.beyond_budget {
                self.figures.count("refused to go on beyond the budget");
                self.say(|| format!("no agreement: {:#?}", self.describe()));
                return;
            }
            assert!(self.now < until, "no agreement {within_us} µs after the last fault: {:#?}", self.describe());
            self.run(10_000);
        }
        self.check_end();
    }

    /// A database that went wrong shows at the next sequences of which digests are compared: they
    /// have to come.
    fn pass_digests(&mut self) {
        if self.corrupted.is_none() {
            return;
        }
        let applied =
            |cluster: &Self| cluster.nodes.iter().filter_map(|n| n.running.as_ref()).map(Running::applied).max();
        let goal = applied(self).map_or(0, |sequence| sequence.0) + 2 * self.faults.digest_interval;
        for _ in 0..1_000 {
            if !self.has_quorum() || applied(self).is_some_and(|sequence| sequence.0 > goal) {
                break;
            }
            (0..self.nodes.len()).for_each(|node| self.blind_note(node));
            self.run(20_000);
        }
        self.run(UNDECIDED_WITHIN_US * self.faults.slowness);
    }

    fn is_converged(&self) -> bool {
        let members = self.member_nodes();
        let nodes = || members.iter().map(|place| &self.nodes[*place]);
        let running = || nodes().filter_map(|n| n.running.as_ref());
        let first = running().next().map(Running::applied);
        // Who has just been made the only voter may still lack what the others chose before.
        let begun = self.watch.configurations.newest().map_or(Sequence::BIRTH, |newest| newest.since);
        let is_one_missing = nodes().any(|node| !node.stopped && node.running.is_none());
        !is_one_missing
            && first > Some(Sequence::BIRTH)
            && first >= Some(begun)
            && self.clients_are_idle()
            && running().all(|r| {
                Some(r.applied()) == first
                    && r.waiting.is_empty()
                    && r.numbered.is_empty()
                    && r.reads.is_empty()
                    && r.transfers.is_empty()
                    && r.raises.is_empty()
                    && r.core.status().commit == r.core.status().last
            })
    }

    /// Whether enough replicas are left for a quorum: some may have stopped for good.
    fn has_quorum(&self) -> bool {
        let voters = self.voting_nodes();
        let left = voters.iter().filter(|place| !self.nodes[**place].stopped).count();
        left > voters.len() / 2
    }

    /// A replica needs a copy, and those that have one contradict each other: somebody outside has
    /// to decide.
    fn needs_a_copy_that_nobody_vouches_for(&mut self) -> bool {
        let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
        let Some(refused) = running.filter_map(|running| running.core.status().refused_copy).next() else {
            return false;
        };
        assert!(self.watch.has_taint(), "false alarm: {refused}");
        self.figures.count("refused a copy that nobody vouches for");
        true
    }

    /// Replicas are equal, and row by row what the log says; what they hold explains everything
    /// that anybody ever saw. Witnesses hold nothing.
    fn check_end(&mut self) {
        for node in 0..self.nodes.len() {
            self.compare_versions(node);
            self.end_feeds(node);
        }
        let members = self.member_nodes();
        let full = members.iter().filter(|place| !self.nodes[**place].is_witness);
        let running = || full.clone().filter_map(|place| self.nodes[*place].running.as_ref());
        let first = running().next().expect("a quorum runs");
        let (state, first_id) = (first.applier.state(), first.core.id());
        for other in running() {
            let id = other.core.id();
            assert_eq!(other.applier.state(), state, "replicas {first_id} and {id} differ in their replicated state");
        }
        // Where nobody has got a wrong database from another, somebody sees that they differ.
        let is_original = |node: &Node| !node.stopped && node.log.ledger.promised().generation == 0;
        if self.nodes.len() > 1 && self.nodes.iter().all(is_original) {
            assert!(running().all(|r| !r.is_tainted), "a database went wrong, and nobody stopped");
        }
        let database = &first.database;
        let rows = database.range(&all_with(JOURNAL, ""), database.applied_version()).expect("it is applied");
        let journal: Vec<(u128, u64)> = rows.rows.iter().map(stamped).collect();
        let effects: Vec<(u64, u64)> = journal.iter().map(|(stamp, op)| (*op, version_of(*stamp))).collect();
        self.watch.journal("the journal", &effects);
        watch::hold(self.records.check(&self.profile));
        let took_effect = journal.iter().map(|(_, op)| OpId(*op)).collect();
        let is_decided = self.records.check_registers(&took_effect).unwrap_or_else(|violation| panic!("{violation}"));
        if !is_decided {
            self.figures.count("linearizability undecided");
        }
    }

    fn describe(&self) -> Vec<String> {
        let text = |node: &Node| match &node.running {
            Some(r) => {
                let waits = (r.waiting.len(), r.numbered.len(), r.reads.len());
                format!("{:?} waits {waits:?} applied {}", r.core.status(), r.applied())
            }
            None => format!("replica {} is down", ReplicaId(node.place as u8)),
        };
        self.nodes.iter().map(text).collect()
    }
}
