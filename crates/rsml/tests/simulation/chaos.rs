//! What goes wrong when: faults that come by themselves, and faults that answer what the cluster does.

use rsml::core::{Input, TransferId};
use rsml::{ExecutionNotifier, Message, ReplicaId};

use crate::cluster::{Cluster, Event};

impl Cluster {
    /// Every 50 ms.
    pub fn fault(&mut self) {
        self.schedule(50_000, Event::Fault);
        let node = self.any_node();
        if self.random.one_in(self.faults.crash) {
            self.crash(node);
        }
        if self.nodes[node].running.is_none() && self.random.one_in(4) {
            self.start(node);
        }
        if self.random.one_in(self.faults.cut) {
            self.cut_something(node);
        } else if (self.faults.cut > 0 || self.faults.isolate_primary > 0) && self.random.one_in(10) {
            self.cut.clear();
        }
        if self.random.one_in(self.faults.isolate_primary)
            && let Some(primary) = self.nodes.iter().position(|n| n.is_primary())
        {
            self.isolate(primary);
        }
        if self.random.one_in(self.faults.hang) {
            self.nodes[node].disk.hangs_until = self.now + self.random.below(2_000_000);
        }
        if self.random.one_in(self.faults.pause) {
            self.nodes[node].paused_until = self.now + self.random.below(1_500_000);
        }
        self.disturb_roles(node);
        if self.random.one_in(self.faults.corrupt) {
            self.corrupt(node);
        }
        if let Some(running) = self.nodes[node].running.as_mut().filter(|_| self.random.one_in(3)) {
            running.applier.executor_mut().flush();
            let persisted = running.applier.executor().persisted_sequence().expect("the executor never fails");
            self.persisted(node, persisted);
        }
    }

    /// What operators and full disks do.
    fn disturb_roles(&mut self, node: usize) {
        if self.random.one_in(self.faults.transfer) {
            let primary = self.nodes.iter().position(|n| n.is_primary());
            let asked = if self.random.one_in(5) { node } else { primary.unwrap_or(node) };
            let to = if self.random.one_in(2) { None } else { Some(self.any_node()) };
            self.transfer(asked, to);
        }
        if self.random.one_in(self.faults.stop) {
            let handing_over_us = [0, 1_000, 30_000, 500_000][self.random.below(4) as usize];
            self.transfer(node, None);
            self.schedule(handing_over_us, Event::Stop(node, self.nodes[node].incarnation));
        }
        if self.random.one_in(self.faults.veto) {
            let is_eligible = !self.random.one_in(3);
            self.input(node, Input::Eligible(is_eligible));
        }
        if self.random.one_in(self.faults.full) {
            self.fill_disk(node);
        }
        if self.random.one_in(self.faults.leap) {
            self.nodes[node].clock.leap(self.random.below(3_000_000));
        }
    }

    pub fn transfer(&mut self, node: usize, to: Option<usize>) {
        let id = TransferId(self.next_id());
        let clock = self.clock(node);
        let deadline = clock.plus_us(self.random.below(2_000_000));
        let Some(running) = &mut self.nodes[node].running else { return };
        running.transfers.insert(id);
        let to = to.map(|to| ReplicaId(to as u8));
        self.input(node, Input::Transfer { id, to, deadline });
    }

    /// Says what it owes when it leaves, and is gone.
    pub fn stop(&mut self, node: usize) {
        self.input(node, Input::Stopping);
        self.crash(node);
    }

    /// For a while the log takes no more, or is merely said to be about to.
    fn fill_disk(&mut self, node: usize) {
        let full_us = self.random.below(2_000_000);
        self.input(node, Input::Space(false));
        if self.random.one_in(2) {
            self.nodes[node].disk.hangs_until = self.now + full_us;
        }
        self.schedule(full_us, Event::Space(node));
    }

    /// A node is about to start: its disk may have lost something meanwhile. Never more than the others can make good:
    /// one node at a time, and one disk for ever. Returns how many runs of entries are lost.
    pub fn lose(&mut self, node: usize) -> u64 {
        let is_sound = |n: &crate::node::Node| match &n.running {
            Some(running) => {
                let status = running.core.status();
                status.lost.is_empty() && (status.is_voter || !status.is_catching_up)
            }
            None => !n.has_losses,
        };
        let others_are_sound = (0..self.nodes.len()).all(|other| other == node || is_sound(&self.nodes[other]));
        self.nodes[node].has_losses = false;
        if self.nodes.len() < 3 || !others_are_sound || self.nodes[node].incarnation == 0 {
            return 0;
        }
        if self.is_born() && self.wiped.is_none_or(|wiped| wiped == node) && self.random.one_in(self.faults.wipe) {
            self.wiped = Some(node);
            self.nodes[node].wipe(&mut self.random);
            self.figures.wipes += 1;
            self.checks.forget(rsml::ReplicaId(node as u8));
            return 0;
        }
        // Of three disks one that is gone for good is all that may be lost.
        let may_lose = self.nodes.len() > 3 || self.wiped.is_none();
        if may_lose && self.is_born() && self.random.one_in(self.faults.lose_database) {
            self.nodes[node].database = Default::default();
            self.nodes[node].has_losses = true;
            self.figures.databases_lost += 1;
        }
        if may_lose && self.is_born() && self.random.one_in(self.faults.lose_entries) {
            self.nodes[node].has_losses = true;
            self.figures.losses += 1;
            return self.random.between(1, 3);
        }
        0
    }

    /// Whether every disk belongs to the cluster by now.
    fn is_born(&self) -> bool {
        self.nodes.iter().all(|n| n.was_voter)
    }

    fn any_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    /// Cuts one direction, one link, or a whole node.
    fn cut_something(&mut self, node: usize) {
        let other = self.any_node();
        match self.random.below(3) {
            0 => drop(self.cut.insert((node, other))),
            1 => self.cut.extend([(node, other), (other, node)]),
            _ => self.isolate(node),
        }
    }

    /// Cuts a node off: in both directions, or only what it says or only what it hears; of five, one ally may remain.
    fn isolate(&mut self, node: usize) {
        let ally = if self.nodes.len() > 3 && self.random.one_in(2) { self.any_node() } else { node };
        let (says, hears) = [(true, true), (true, true), (true, false), (false, true)][self.random.below(4) as usize];
        for peer in (0..self.nodes.len()).filter(|peer| *peer != ally) {
            if says {
                self.cut.insert((node, peer));
            }
            if hears {
                self.cut.insert((peer, node));
            }
        }
        if self.random.one_in(2) {
            // What it takes now stays a tail that nobody else knows of, or that nobody else commits.
            for _ in 0..self.random.between(5, 40) {
                let after = self.random.below(500_000);
                self.schedule(after, Event::Write(node));
            }
        }
    }

    /// `primary` has just begun to lead: whoever was away returns, and another is away.
    pub fn upset(&mut self, primary: usize) {
        if self.faults.upset_primary == 0 {
            return;
        }
        self.cut.clear();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = self.nodes[node].paused_until.min(self.now);
            if self.nodes[node].running.is_none() {
                self.start(node);
            }
        }
        let other = self.any_node();
        if other != primary && self.random.one_in(2) {
            self.isolate(other);
        }
        if self.random.one_in(2) {
            let within = [2_000, 20_000, 200_000][self.random.below(3) as usize];
            self.crash_and_restart(primary, within, 1_500_000);
        }
    }

    fn crash_and_restart(&mut self, node: usize, within_us: u64, down_us: u64) {
        let incarnation = self.nodes[node].incarnation;
        let at = self.random.below(within_us);
        let back = at + self.random.below(down_us);
        self.schedule(at, Event::Crash(node, incarnation));
        self.schedule(back, Event::Restart(node, incarnation));
    }

    /// A message is about to leave: its sender may die of it, before or after what the message claims is durable. It may
    /// be back at once and hear everybody again, except the one it spoke to, who hears nobody else for a while: two
    /// sides then act on what only one of them still remembers.
    pub fn crash_after(&mut self, from: usize, to: usize, message: &Message) {
        let is_sensitive =
            matches!(message, Message::Promise(_) | Message::Prepare(_) | Message::Accepted(_) | Message::Fetched(_));
        let is_promise = matches!(message, Message::Promise(_));
        let rare = if is_promise { self.faults.crash_after_send.div_ceil(20) } else { self.faults.crash_after_send };
        if !is_sensitive || !self.random.one_in(rare) {
            return;
        }
        let down_us = if self.random.one_in(2) { 2_000 } else { 300_000 };
        self.crash_and_restart(from, 1_500, down_us);
        if self.random.one_in(2) {
            self.cut.clear();
            let after = self.random.between(50_000, 500_000);
            let others = (0..self.nodes.len()).filter(|other| *other != from);
            let links: Vec<_> = others.flat_map(|other| [(to, other), (other, to)]).chain([(to, from)]).collect();
            for (a, b) in links {
                self.cut.insert((a, b));
                self.schedule(after, Event::Heal(a, b));
            }
        }
    }

    /// A pre-vote was granted: while the candidate's disk is slow, the voter may hear the former primary again.
    pub fn answer_granted_vote(&mut self, voter: usize, candidate: usize, message: &Message) {
        let is_granted = matches!(message, Message::PreVoteReply(reply) if reply.granted);
        if is_granted && self.random.one_in(self.faults.late_primary) {
            self.cut.retain(|(from, to)| *from != voter && *to != voter);
            self.nodes[candidate].disk.hangs_until = self.now + self.random.below(300_000);
        }
    }

    /// A candidate asks for promises: some of those that it was given long ago arrive now.
    pub fn release_stragglers(&mut self, candidate: usize, message: &Message) {
        if !matches!(message, Message::Prepare(_)) {
            return;
        }
        for (to, event) in std::mem::take(&mut self.stragglers) {
            if to == candidate && self.random.one_in(3) {
                let delay = self.random.below(1_000);
                self.schedule(delay, event);
            } else {
                self.stragglers.push((to, event));
            }
        }
    }

    /// A vote arrived and was counted.
    pub fn crash_counter(&mut self, node: usize) {
        if self.random.one_in(self.faults.crash_after_vote) {
            self.crash_and_restart(node, 5_000, 1_500_000);
        }
    }
}
