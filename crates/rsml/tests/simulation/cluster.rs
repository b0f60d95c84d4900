//! The simulated cluster: nodes, network, clients and checks around one queue of events.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use rsml::core::{CoreOptions, Input, Outputs, ReadId, Refusal, RequestId};
use rsml::transport::Sender;
use rsml::{Divergence, Instant, Message, ReplicaId, Sequence};

use crate::checks::Checks;
use crate::disk::Done;
use crate::faults::Faults;
use crate::node::{Node, Running};
use crate::random::Random;

#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub view_changes: u64,
    pub crashes: u64,
    pub acknowledged: usize,
    pub reads: u64,
    /// Requests that were given up with a number: executed all the same, voided, surely not executed at once.
    pub given_up: u64,
    pub voided: u64,
    pub withdrawn: u64,
    /// How often a replica let go of a part of its log.
    pub trims: u64,
    /// Transfers after which another replica led.
    pub transfers: u64,
    pub storage_full: u64,
    /// Replicas that stopped because digests differed.
    pub diverged: u64,
    pub simulated_us: u64,
    /// Copies of a database that took the place of another; disks that lost entries, their database, or everything.
    pub snapshots: u64,
    pub losses: u64,
    pub databases_lost: u64,
    pub wipes: u64,
}

pub enum Event {
    Tick(usize, u64),
    Message {
        to: usize,
        sender: Sender,
        message: Message,
        payload: Vec<Bytes>,
    },
    Disk(usize, u64),
    Client(usize),
    Write(usize),
    Crash(usize, u64),
    Restart(usize, u64),
    /// One direction of a link works again.
    Heal(usize, usize),
    Upset(usize),
    Stop(usize, u64),
    /// A full disk has space again.
    Space(usize),
    Fault,
}

struct Scheduled {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as the queue wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

pub struct Cluster {
    pub now: u64,
    order: u64,
    queue: BinaryHeap<Scheduled>,
    pub nodes: Vec<Node>,
    /// Directions of links that carry nothing.
    pub cut: BTreeSet<(usize, usize)>,
    pub faults: Faults,
    pub random: Random,
    pub checks: Checks,
    pub figures: Figures,
    /// Whose disk was replaced.
    pub wiped: Option<usize>,
    next_id: u64,
    clients_active: bool,
    trace: Option<DefaultHasher>,
    seed: u64,
    lease_us: u64,
    /// Promises held back, and for whom.
    pub stragglers: Vec<(usize, Event)>,
    /// When the last message on each link arrives, if links keep order.
    arrivals: BTreeMap<(usize, usize), u64>,
    /// The one whose database was damaged.
    corrupted: Option<usize>,
}

impl Cluster {
    pub fn new(replicas: u8, seed: u64, faults: Faults) -> Cluster {
        let mut random = Random::new(seed);
        let lease_us = faults.lease_us;
        let mut cluster = Cluster {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            nodes: (0..replicas).map(|_| Node::new(&mut random, faults.drift_ppm)).collect(),
            cut: BTreeSet::new(),
            faults,
            random,
            checks: Checks::default(),
            figures: Figures::default(),
            wiped: None,
            next_id: 1,
            clients_active: true,
            trace: None,
            seed,
            lease_us,
            stragglers: Vec::new(),
            arrivals: BTreeMap::new(),
            corrupted: None,
        };
        for node in 0..replicas as usize {
            cluster.start(node);
            cluster.schedule(1_000 * node as u64, Event::Client(node));
        }
        cluster.schedule(50_000, Event::Fault);
        cluster
    }

    /// Folds everything that any core does into a hash.
    pub fn record_trace(&mut self) {
        self.trace = Some(DefaultHasher::new());
    }

    pub fn schedule(&mut self, after_us: u64, event: Event) {
        self.order += 1;
        self.queue.push(Scheduled { at: self.now + after_us, order: self.order, event });
    }

    fn options(&mut self, node: usize) -> CoreOptions {
        let replicas = (0..self.nodes.len() as u8).map(ReplicaId).collect();
        let mut options = CoreOptions::new(ReplicaId(node as u8), replicas, self.seed ^ (node as u64) << 40);
        // Small bounds, so that the paths beyond them are taken often.
        let random = &mut self.random;
        options.max_batch_bytes = random.between(1, 200) as usize;
        options.max_in_flight_values = if random.one_in(2) { random.between(1, 8) } else { random.between(8, 64) };
        options.max_message_bytes = random.between(1, 500) as usize;
        options.window_bytes = random.between(1, 2000) as usize;
        options.stage_bytes = random.between(0, 500) as usize;
        options.log_cache_bytes = random.between(0, 2000) as usize;
        options.lease_us = self.lease_us;
        options.log_keep_bytes = if random.one_in(2) { random.below(50_000) } else { u64::MAX };
        options.snapshot_chunk_bytes = random.between(1_000, 50_000) as usize;
        options.snapshot_bytes_per_second = if random.one_in(2) { 0 } else { random.between(200_000, 10_000_000) };
        options.digest_interval = self.faults.digest_interval;
        options
    }

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].stopped {
            return;
        }
        let options = self.options(node);
        let losses = self.lose(node);
        let now = self.clock(node);
        self.nodes[node].start(options, losses, &mut self.random, now);
        let incarnation = self.nodes[node].incarnation;
        self.checks
            .restarted(ReplicaId(node as u8), self.nodes[node].running.as_ref().expect("it runs").core.hard_state());
        self.schedule(0, Event::Tick(node, incarnation));
        self.settle(node);
    }

    pub fn crash(&mut self, node: usize) {
        let power_loss = self.faults.power_loss && self.random.one_in(2);
        if !self.nodes[node].crash(&mut self.random, power_loss) {
            return;
        }
        self.figures.crashes += 1;
        for peer in 0..self.nodes.len() {
            if peer != node && !self.cut.contains(&(node, peer)) {
                self.input(peer, Input::Disconnected(ReplicaId(node as u8)));
            }
        }
    }

    /// What a node's clock shows now.
    pub fn clock(&self, node: usize) -> Instant {
        self.nodes[node].clock.show(self.now)
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.clock(node);
        if let Some(running) = &mut self.nodes[node].running {
            running.core.step(now, input);
            running.core.check_invariants();
            self.settle(node);
        }
    }

    /// Carries out what the core wants done, until it wants nothing more.
    fn settle(&mut self, node: usize) {
        loop {
            let now = self.clock(node);
            let Some(running) = &mut self.nodes[node].running else { return };
            let outputs = running.core.ready(now);
            running.core.check_invariants();
            let view = running.core.hard_state().promised;
            if running.is_primary() && running.led != view {
                running.led = view;
                self.checks.leads(running.core.id(), view, self.nodes.len() / 2 + 1);
                if self.random.one_in(self.faults.upset_primary) {
                    let after = self.random.below(100_000);
                    self.schedule(after, Event::Upset(node));
                }
            }
            if !self.carry_out(node, outputs) {
                return;
            }
        }
    }

    /// Damages the database of a running node, if none is damaged yet.
    pub fn corrupt(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.as_mut().filter(|_| self.corrupted.is_none()) else { return };
        let executor = running.applier.executor_mut();
        if self.random.one_in(2) {
            executor.corrupt_state()
        } else {
            executor.corrupt_outcome()
        }
        self.corrupted = Some(node);
    }

    /// A replica says that digests differ, and stops for good.
    fn stop_diverged(&mut self, node: usize, divergence: &Divergence) {
        assert!(self.corrupted.is_some(), "false alarm: replica {node} says {divergence}");
        let running = self.nodes[node].running.as_mut().expect("it was just asked");
        let is_tainted = running.applier.executor().is_tainted();
        self.checks.diverged(ReplicaId(node as u8), is_tainted, divergence);
        self.figures.diverged += 1;
        self.crash(node);
        self.nodes[node].stopped = true;
    }

    /// True when the core was given something new.
    fn carry_out(&mut self, node: usize, outputs: Outputs) -> bool {
        if let Some(trace) = &mut self.trace {
            (self.now, node, &outputs).hash(trace);
        }
        let id = ReplicaId(node as u8);
        let now = self.clock(node);
        let running = self.nodes[node].running.as_mut().expect("it was just asked");
        let sender = running.core.sender();
        if let Some(divergence) = &outputs.diverged {
            for outgoing in outputs.send {
                self.transmit(node, sender, outgoing.to.0 as usize, outgoing.message, outgoing.payload);
            }
            self.stop_diverged(node, divergence);
            return false;
        }
        for (id, number) in outputs.numbered {
            let payload = running.waiting.remove(&id).expect("numbered once");
            running.numbered.insert(number, payload);
        }
        for (transfer, result) in outputs.transferred {
            assert!(running.transfers.remove(&transfer), "a transfer ends once");
            if let Ok(leads) = result {
                assert_ne!(leads, id, "a replica handed over to itself");
                self.figures.transfers += 1;
            }
        }
        for number in outputs.withdrawn {
            let payload = running.numbered.get(&number).expect("it has no outcome yet");
            self.checks.refuse(payload.clone());
            running.withdrawn.insert(number);
            self.figures.withdrawn += 1;
        }
        for (id, refusal) in outputs.refused {
            self.figures.storage_full += u64::from(refusal == Refusal::StorageFull);
            self.checks.refuse(running.waiting.remove(&id).expect("refused once"));
        }
        let mut fed = false;
        for (read, point) in outputs.read_ready {
            let floor = running.reads.remove(&read).expect("a read ends once");
            self.checks.read(id, floor, point);
            self.figures.reads += 1;
        }
        if let Some(generation) = outputs.switch {
            running.applier.switch_to(generation).expect("it was installed");
            self.figures.snapshots += 1;
            // What became of requests that the new database has seen is not known here.
            let state = running.applier.state();
            let own = state.sessions.get(&sender.disk_id).filter(|session| session.boot == sender.boot);
            let last = own.map_or(0, |session| session.last);
            running.numbered = running.numbered.split_off(&(last + 1));
            running.withdrawn = running.withdrawn.split_off(&(last + 1));
            self.tell_applied(node);
            fed = true;
        }
        let running = self.nodes[node].running.as_mut().expect("it was just asked");
        if !outputs.deliver.is_empty() {
            for (sequence, entry) in &outputs.deliver {
                self.checks.delivered(id, *sequence, entry);
            }
            let applied = running.applier.apply(outputs.deliver).expect("the executor never fails");
            let own = (sender.disk_id, sender.boot);
            for (_, _, number) in applied.voided.into_iter().filter(|(disk, boot, _)| (*disk, *boot) == own) {
                let payload = running.numbered.remove(&number).expect("it ends once");
                if !running.withdrawn.remove(&number) {
                    self.checks.refuse(payload);
                }
                self.figures.voided += 1;
            }
            for (disk, boot, number, outcome) in applied.outcomes {
                if (disk, boot) == own {
                    let payload = running.numbered.remove(&number).expect("executed once");
                    assert!(!running.withdrawn.contains(&number), "request {number} was withdrawn and is executed");
                    let text = String::from_utf8(outcome.to_vec()).expect("text");
                    let sequence = text.split('@').nth(1).and_then(|s| s.parse().ok()).expect("a sequence");
                    self.checks.acknowledge(payload, Sequence(sequence));
                }
            }
            if self.faults.eager_databases {
                running.applier.executor_mut().flush();
            }
            self.tell_applied(node);
            if !applied.digests.is_empty() {
                let running = self.nodes[node].running.as_mut().expect("it was just asked");
                running.core.step(now, Input::Digests(applied.digests));
            }
            fed = true;
        }
        let running = self.nodes[node].running.as_mut().expect("it was just asked");
        for read in outputs.read_snapshot {
            let piece = running.server.read(&read);
            running.core.step(now, Input::SnapshotRead(piece));
            fed = true;
        }
        for step in outputs.install {
            if let Some(event) = running.installer.carry_out(step) {
                running.core.step(now, Input::Installed(event));
                fed = true;
            }
        }
        let running = self.nodes[node].running.as_mut().expect("it was just asked");
        let promised = running.core.hard_state().promised;
        let sound = self.nodes[node].disk.sound_last();
        let (durable, last) = self.nodes[node].disk.reported();
        for outgoing in outputs.send {
            self.checks.claims(&outgoing.message, promised, &durable, last, sound);
            self.transmit(node, sender, outgoing.to.0 as usize, outgoing.message, outgoing.payload);
        }
        self.nodes[node].disk.take_orders(outputs.persist, outputs.read_log);
        if let Some(below) = outputs.trim {
            self.nodes[node].disk.trim(below);
            self.figures.trims += 1;
        }
        self.start_disk(node);
        fed
    }

    fn tell_applied(&mut self, node: usize) {
        let (id, now) = (ReplicaId(node as u8), self.clock(node));
        let running = self.nodes[node].running.as_mut().expect("it was just asked");
        let state = running.applier.state().clone();
        if !running.applier.executor().is_tainted() {
            self.checks.applied(id, state.sequence, state.digest);
        }
        let (sequence, sessions, time_us, digest) = (state.sequence, state.sessions, state.time_us, state.digest);
        running.core.step(now, Input::Applied { sequence, sessions, time_us, digest });
    }

    /// The database of a node survives a crash through `sequence`.
    pub fn persisted(&mut self, node: usize, sequence: Sequence) {
        let log_bytes = self.nodes[node].disk.bytes();
        self.input(node, Input::Persisted { sequence, log_bytes });
    }

    fn transmit(&mut self, from: usize, sender: Sender, to: usize, message: Message, payload: Vec<Bytes>) {
        self.crash_after(from, to, &message);
        self.answer_granted_vote(from, to, &message);
        self.release_stragglers(from, &message);
        if self.cut.contains(&(from, to)) || self.random.one_in(self.faults.lose) {
            return;
        }
        let is_answer = matches!(message, Message::Promise(_) | Message::Accepted(_) | Message::Fetched(_));
        let may_straggle = is_answer && !self.faults.keeps_order;
        let encoded = message.to_bytes();
        let copies = if self.random.one_in(self.faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = self.random.between(50, self.faults.network_us);
            if self.random.one_in(self.faults.delay) {
                delay += self.random.below(self.faults.max_delay_us);
            }
            let straggles = may_straggle && self.random.one_in(self.faults.straggle);
            if straggles {
                delay += self.random.below(3_000_000);
            }
            if self.faults.keeps_order {
                let last = self.arrivals.entry((from, to)).or_default();
                *last = (self.now + delay).max(*last);
                delay = *last - self.now;
            }
            let message = Message::from_bytes(&encoded).expect("it was encoded just now");
            let is_promise = matches!(message, Message::Promise(_));
            let event = Event::Message { to, sender, message, payload: payload.clone() };
            if straggles && is_promise {
                self.stragglers.push((to, event));
            } else {
                self.schedule(delay, event);
            }
        }
    }

    fn start_disk(&mut self, node: usize) {
        if !self.nodes[node].disk.begin() {
            return;
        }
        let hangs = self.nodes[node].disk.hangs_until.saturating_sub(self.now);
        let latency = self.random.between(100, self.faults.disk_us(node)) + hangs;
        let incarnation = self.nodes[node].incarnation;
        self.schedule(latency, Event::Disk(node, incarnation));
    }

    fn disk_done(&mut self, node: usize) {
        let Done { durable, entries } = self.nodes[node].disk.end();
        if let Some((ticket, hard_state)) = durable {
            self.checks.durable(ReplicaId(node as u8), &hard_state);
            self.input(node, Input::Durable(ticket));
        }
        for (read, entries) in entries {
            self.input(node, Input::LogRead { read, entries });
        }
        self.start_disk(node);
    }

    /// A client writes, reads, or gives up.
    fn client(&mut self, node: usize) {
        if !self.clients_active {
            return;
        }
        let pause = self.random.between(200, 30_000);
        self.schedule(pause, Event::Client(node));
        if self.random.one_in(self.faults.burst) {
            for _ in 0..self.random.between(5, 60) {
                let after = self.random.below(50_000);
                self.schedule(after, Event::Write(node));
            }
        }
        match self.random.below(10) {
            0..6 => self.write(node),
            6..9 => self.read(node),
            _ => {
                let Some(running) = &mut self.nodes[node].running else { return };
                let waiting = running.waiting.keys().min().copied();
                let numbered = running.numbered.len() as u64;
                let place = self.random.below(numbered) as usize;
                let number = running.numbered.keys().nth(place).copied();
                if let Some(waiting) = waiting {
                    self.input(node, Input::Cancel(waiting));
                }
                if let Some(number) = number {
                    self.figures.given_up += 1;
                    self.input(node, Input::GiveUp(number));
                }
            }
        }
    }

    pub fn write(&mut self, node: usize) {
        let id = self.next_id();
        let size = self.random.below(60) as usize;
        let Some(running) = &mut self.nodes[node].running else { return };
        let payload = Bytes::from(format!("{node}-{id}-{}", "x".repeat(size)));
        running.waiting.insert(RequestId(id), payload.clone());
        self.input(node, Input::Propose { id: RequestId(id), payload });
    }

    fn read(&mut self, node: usize) {
        let id = self.next_id();
        let floor = self.checks.read_floor();
        let Some(running) = &mut self.nodes[node].running else { return };
        running.reads.insert(ReadId(id), floor);
        self.input(node, Input::Read(ReadId(id)));
    }

    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Handles the next event; false when it lies beyond `until`.
    fn advance(&mut self, until: u64) -> bool {
        if self.queue.peek().is_none_or(|next| next.at > until) {
            self.now = until;
            return false;
        }
        let Scheduled { at, event, .. } = self.queue.pop().expect("there is one");
        self.now = at;
        let target = match &event {
            Event::Tick(node, _) | Event::Message { to: node, .. } | Event::Disk(node, _) => Some(*node),
            _ => None,
        };
        if let Some(wait) = target.map(|node| self.nodes[node].paused_until).filter(|paused| *paused > self.now) {
            self.schedule(wait - self.now, event);
            return true;
        }
        self.handle(event);
        true
    }

    fn handle(&mut self, event: Event) {
        let is_same = |nodes: &[Node], node: usize, incarnation| nodes[node].incarnation == incarnation;
        match event {
            Event::Tick(node, incarnation) => {
                if is_same(&self.nodes, node, incarnation) && self.nodes[node].running.is_some() {
                    self.schedule(10_000, Event::Tick(node, incarnation));
                    self.input(node, Input::Tick);
                }
            }
            Event::Message { to, sender, message, payload } => {
                let is_vote = matches!(message, Message::Accepted(_));
                self.input(to, Input::Receive { sender, message, payload });
                if is_vote {
                    self.crash_counter(to);
                }
            }
            Event::Disk(node, incarnation) => {
                if is_same(&self.nodes, node, incarnation) && self.nodes[node].running.is_some() {
                    self.disk_done(node);
                }
            }
            Event::Client(node) => self.client(node),
            Event::Write(node) => self.write(node),
            Event::Crash(node, incarnation) => {
                if is_same(&self.nodes, node, incarnation) {
                    self.crash(node);
                }
            }
            Event::Restart(node, incarnation) => {
                if is_same(&self.nodes, node, incarnation) && self.nodes[node].running.is_none() {
                    self.start(node);
                }
            }
            Event::Heal(from, to) => drop(self.cut.remove(&(from, to))),
            Event::Upset(node) => self.upset(node),
            Event::Stop(node, incarnation) => {
                if is_same(&self.nodes, node, incarnation) && self.nodes[node].running.is_some() {
                    self.stop(node);
                }
            }
            Event::Space(node) => self.input(node, Input::Space(true)),
            Event::Fault => self.fault(),
        }
    }

    pub fn run(&mut self, for_us: u64) {
        let until = self.now + for_us;
        while self.advance(until) {}
    }

    /// All faults end; within `within_us` everything proposed is executed everywhere, and all agree. Unless so many have
    /// stopped for good that nothing can be agreed.
    pub fn heal_and_converge(&mut self, within_us: u64) {
        self.faults = Faults { digest_interval: self.faults.digest_interval, ..Faults::none() };
        self.cut.clear();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = 0;
            self.nodes[node].disk.hangs_until = 0;
            if self.nodes[node].running.is_none() {
                self.start(node);
            }
            self.input(node, Input::Eligible(true));
            self.input(node, Input::Space(true));
        }
        self.run(3_000_000);
        self.clients_active = false;
        self.figures.simulated_us = self.now;
        if !self.has_quorum() {
            return;
        }
        let until = self.now + within_us;
        while !self.is_converged() {
            assert!(self.now < until, "no agreement {within_us} µs after the last fault: {:#?}", self.describe());
            self.run(10_000);
        }
        let running = || self.nodes.iter().filter_map(|node| node.running.as_ref());
        let first = running().next().expect("some run");
        for other in running() {
            let (id, first_id) = (other.core.id(), first.core.id());
            self.checks.final_state(id, &other.applier.executor().executed());
            assert_eq!(other.applier.state(), first.applier.state(), "replicas {first_id} and {id} differ");
        }
        self.figures.simulated_us = self.now;
    }

    fn is_converged(&self) -> bool {
        let running = || self.nodes.iter().filter_map(|n| n.running.as_ref());
        let first = running().next().map(Running::applied);
        first > Some(Sequence::BIRTH)
            && running().all(|r| {
                Some(r.applied()) == first
                    && r.waiting.is_empty()
                    && r.numbered.is_empty()
                    && r.reads.is_empty()
                    && r.transfers.is_empty()
                    && r.core.status().commit == r.core.status().last
            })
    }

    /// Whether enough replicas are left to go on: some may have stopped for good.
    fn has_quorum(&self) -> bool {
        let left = self.nodes.iter().filter(|node| !node.stopped).count();
        left > self.nodes.len() / 2
    }

    fn describe(&self) -> Vec<String> {
        let text = |node: &Node| match &node.running {
            Some(r) => {
                let waits = (r.waiting.len(), r.numbered.len(), r.reads.len());
                format!("{:?} waits {waits:?} applied {}", r.core.status(), r.applied())
            }
            None => "down".to_string(),
        };
        self.nodes.iter().map(text).collect()
    }

    pub fn views_led(&self) -> usize {
        self.checks.views_led()
    }

    pub fn trace_hash(&self) -> u64 {
        self.trace.as_ref().expect("it was recorded").finish()
    }

    pub fn figures(&self) -> Figures {
        let view_changes = self.checks.views_led() as u64;
        Figures { view_changes, acknowledged: self.checks.acknowledged(), ..self.figures.clone() }
    }
}
