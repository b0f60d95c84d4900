//! The timing of faults: spontaneous ones, and reactions to the state of the cluster.

use rsml::core::{Input, TransferId};
use rsml::wal::Fault;
use rsml::{ExecutionNotifier, Message, ReplicaId};

use super::cluster::Cluster;
use super::events::Event;

/// How often faults that come by themselves are thrown dice for.
pub const FAULT_INTERVAL_US: u64 = 50_000;

impl Cluster {
    pub(super) fn fault(&mut self) {
        self.schedule(FAULT_INTERVAL_US, Event::Fault);
        let node = self.any_node();
        if self.random.one_in(self.faults.crash) {
            self.crash(node);
        }
        if self.nodes[node].running.is_none() && self.may_restart(node) && self.random.one_in(4) {
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
            self.note("primary isolated", || format!("{primary}"));
            self.isolate(primary);
        }
        if self.random.one_in(self.faults.trap_lessor) {
            self.trap_lessor();
        }
        self.stall(node);
        if self.random.one_in(self.faults.fail_log) && self.nodes[node].running.is_some() {
            let fault = self.random.pick(&[Fault::FailSync, Fault::FailSync, Fault::FailWrite]);
            self.note("log failure planned", || format!("{node}: {fault:?}"));
            self.nodes[node].log.fail_next(fault);
        }
        self.disturb_roles(node);
        self.disturb_members(node);
        self.look_for_space(node);
        if self.random.one_in(self.faults.rot_running) {
            self.rot_running(node);
        }
        if self.random.one_in(self.faults.fill) {
            self.fill(node);
        }
        if self.random.one_in(self.faults.corrupt) {
            self.corrupt(node);
        }
        if self.random.one_in(3) {
            self.flush(node);
        }
        self.disturb_versions(node);
        self.poll_feeds(node);
    }

    /// Actions of operators.
    fn disturb_roles(&mut self, node: usize) {
        if self.random.one_in(self.faults.transfer) {
            let primary = self.nodes.iter().position(|n| n.is_primary());
            let asked = if self.random.one_in(5) { node } else { primary.unwrap_or(node) };
            let to = if self.random.one_in(2) { None } else { Some(self.any_node()) };
            self.transfer(asked, to);
        }
        if self.random.one_in(self.faults.stop) {
            let handing_over_us = self.random.pick(&[0, 1_000, 30_000, 500_000]);
            self.transfer(node, None);
            let process = self.nodes[node].process();
            self.schedule(handing_over_us, Event::Stop(process));
        }
        if self.random.one_in(self.faults.ask_for_level) {
            let primary = self.nodes.iter().position(|n| n.is_primary());
            let asked = if self.random.one_in(5) { node } else { primary.unwrap_or(node) };
            self.ask_for_level(asked);
        }
        if self.random.one_in(self.faults.veto) {
            let is_eligible = !self.random.one_in(3);
            self.figures.count("eligibility changed");
            self.input(node, Input::Eligible(is_eligible));
        }
    }

    /// Asks `node` to let `to` lead, or whoever is best.
    pub fn transfer(&mut self, node: usize, to: Option<usize>) {
        let id = TransferId(self.next_id());
        let within_us = self.random.below(2_000_000);
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return };
        running.transfers.insert(id);
        let deadline = running.clock.read(now).plus_us(within_us);
        self.note("transfer asked for", || format!("of {node}, to {to:?}"));
        let to = to.map(|to| ReplicaId(to as u8));
        self.input(node, Input::Transfer { id, to, deadline });
    }

    /// Says what it owes when it leaves, and is gone.
    pub fn stop(&mut self, node: usize) {
        self.note("stopped in good order", || format!("{node}"));
        self.input_now(node, Input::Stopping);
        self.crash(node);
    }

    /// Disks that hang, processes that pause, clocks that jump.
    fn stall(&mut self, node: usize) {
        if self.random.one_in(self.faults.hang) {
            let until = self.now + self.random.below(2_000_000);
            self.note("disk hangs", || format!("{node} until {:.3}", until as f64 / 1e6));
            self.nodes[node].log.hangs_until = until;
        }
        if self.random.one_in(self.faults.pause) {
            let until = self.now + self.random.below(1_500_000);
            self.note("process paused", || format!("{node} until {:.3}", until as f64 / 1e6));
            self.nodes[node].paused_until = until;
        }
        if self.random.one_in(self.faults.clock_jump) {
            let ahead_us = self.random.pick(&[1_000, 200_000, 1_000_000, 60_000_000]);
            let ahead_us = self.random.below(ahead_us);
            let now = self.now;
            if let Some(running) = &mut self.nodes[node].running {
                running.clock.jump(now, ahead_us);
                self.note("clock jumps", || format!("{node} by {ahead_us} us"));
            }
        }
    }

    /// The next request is executed wrongly by a running node, if none has gone wrong yet.
    pub fn corrupt(&mut self, node: usize) {
        if self.corrupted.is_some() || self.nodes[node].running.is_none() {
            return;
        }
        self.note("execution goes wrong", || format!("on {node}"));
        let running = self.nodes[node].running.as_mut().expect("it runs");
        running.applier.executor_mut().slip();
        self.corrupted = Some(node);
    }

    /// The database flushes, and reports to the core how far it would survive a crash.
    fn flush(&mut self, node: usize) {
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let Some(running) = &mut self.nodes[node].running else { return };
        // Told or not, it is asked how far it came by itself.
        if self.random.one_in(2) {
            running.database.flush();
        }
        let persisted = running.applier.executor().persisted_sequence().expect("the executor never fails");
        let log_bytes = self.nodes[node].log.bytes();
        self.nodes[node].persisted = persisted.max(self.nodes[node].persisted);
        self.nodes[node].running.as_mut().expect("it runs").log_bytes = log_bytes;
        self.input(node, Input::Persisted { sequence: persisted, log_bytes });
        // Whether there is space to spare changes how much of the log is kept, and nothing else.
        let has_ample_space = self.random.one_in(8) == self.faults.cramped;
        self.input(node, Input::AmpleSpace(has_ample_space));
    }

    /// Cuts one direction, one link, or a whole node.
    fn cut_something(&mut self, node: usize) {
        let other = self.any_node();
        match self.random.below(3) {
            0 => {
                self.note("one way cut", || format!("{node} to {other}"));
                self.cut.insert((node, other));
            }
            1 => {
                self.note("link cut", || format!("{node} and {other}"));
                self.cut.extend([(node, other), (other, node)]);
            }
            _ => {
                self.note("node isolated", || format!("{node}"));
                self.isolate(node);
            }
        }
    }

    /// Cuts a node off: in both directions, or only what it says or only what it hears; of five,
    /// one ally may remain.
    fn isolate(&mut self, node: usize) {
        let ally = if self.nodes.len() > 3 && self.random.one_in(2) { self.any_node() } else { node };
        let (says, hears) = self.random.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != ally) {
            if says {
                self.cut.insert((node, peer));
            }
            if hears {
                self.cut.insert((peer, node));
            }
        }
        if says && self.random.one_in(3) {
            self.break_connections_of(node, ally);
        }
        if self.random.one_in(2) {
            // Entries that it appends now stay a tail that no other replica knows of, or that none
            // commits.
            for _ in 0..self.random.between(3, 20) {
                let after = self.random.below(500_000);
                self.schedule(after, Event::BlindNote(node));
            }
        }
    }

    /// Its peers see that their connections to it end, and look for another primary at once, though
    /// it may keep leading.
    fn break_connections_of(&mut self, node: usize, ally: usize) {
        self.note("connections broken", || format!("of {node}"));
        for peer in (0..self.nodes.len()).filter(|peer| ![node, ally].contains(peer)) {
            self.disconnect(peer, node);
        }
    }

    /// `primary` has just begun to lead: whoever was away returns, and another is away.
    pub(super) fn upset(&mut self, primary: usize) {
        if self.faults.upset_primary == 0 {
            return;
        }
        self.note("new primary upset", || format!("{primary}"));
        self.cut.clear();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = self.nodes[node].paused_until.min(self.now);
            if self.nodes[node].running.is_none() && self.may_restart(node) {
                self.start(node);
            }
        }
        let other = self.any_node();
        if other != primary && self.random.one_in(2) {
            self.isolate(other);
        }
        if self.random.one_in(2) {
            let within = self.random.pick(&[2_000, 20_000, 200_000]);
            self.crash_and_restart(primary, within, 1_500_000);
        }
    }

    fn crash_and_restart(&mut self, node: usize, within_us: u64, down_us: u64) {
        let process = self.nodes[node].process();
        let at = self.random.below(within_us);
        let back = at + self.random.below(down_us);
        self.schedule(at, Event::Crash(process));
        self.schedule(back, Event::Restart(process));
    }

    /// A message is about to leave: its sender may die of it, before or after what the message
    /// claims is durable. It may be back at once and hear from everybody again, except from the one
    /// it spoke to, which hears from nobody else for a while: two sides then act on what only one
    /// of them still remembers.
    pub(super) fn crash_after(&mut self, from: usize, to: usize, message: &Message) {
        let is_sensitive =
            matches!(message, Message::Promise(_) | Message::Prepare(_) | Message::Accepted(_) | Message::Fetched(_));
        let is_promise = matches!(message, Message::Promise(_));
        let rare = if is_promise { self.faults.crash_after_send.div_ceil(20) } else { self.faults.crash_after_send };
        if !is_sensitive || !self.random.one_in(rare) {
            return;
        }
        self.note("crash after a claim", || format!("of {from}"));
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

    /// A pre-vote was granted: while the candidate's disk is slow, the voter may hear from the
    /// former primary again.
    pub(super) fn answer_granted_vote(&mut self, voter: usize, candidate: usize, message: &Message) {
        let is_granted = matches!(message, Message::PreVoteReply(reply) if reply.granted);
        if is_granted && self.random.one_in(self.faults.late_primary) {
            self.figures.count("candidate with a slow disk");
            self.cut.retain(|(from, to)| *from != voter && *to != voter);
            self.nodes[candidate].log.hangs_until = self.now + self.random.below(300_000);
        }
    }

    /// A candidate asks for promises: some of those that it was given long ago arrive now.
    pub(super) fn release_stragglers(&mut self, candidate: usize, message: &Message) {
        if !matches!(message, Message::Prepare(_)) || self.stragglers.is_empty() {
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
    pub(super) fn crash_counter(&mut self, node: usize) {
        if self.random.one_in(self.faults.crash_after_vote) {
            self.note("crash after a vote was counted", || format!("of {node}"));
            self.crash_and_restart(node, 5_000, 1_500_000);
        }
    }
}
