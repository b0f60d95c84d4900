//! The simulated cluster: nodes, network, disks, clients and faults around one queue of events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use rsml::core::{CoreOptions, Input, LogRead, Outputs, ReadId, Replica, RequestId, Start};
use rsml::transport::Sender;
use rsml::wal::InMemoryStorage;
use rsml::{Applier, DiskId, Instant, Message, Persist, ReplicaId, Sequence, Storage};

use crate::checks::Checks;
use crate::executor::ListExecutor;
use crate::random::Random;

/// How often things go wrong: `one in n`, 0 for never. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Faults {
    pub lose: u64,
    pub duplicate: u64,
    pub delay: u64,
    pub max_delay_us: u64,
    /// The longest that every message and every disk write take.
    pub network_us: u64,
    pub disk_us: u64,
    /// Per fault event (one every 50 ms): crash or restart a node, cut or heal links, hang a disk, pause a node.
    pub crash: u64,
    pub cut: u64,
    pub hang: u64,
    pub pause: u64,
    /// Right after a message that claims something durable, or starts something, was sent: crash the sender.
    pub crash_after_send: u64,
    /// Per fault event: cut off whoever leads, for a while.
    pub isolate_primary: u64,
}

impl Faults {
    pub fn none() -> Faults {
        Faults {
            lose: 0,
            duplicate: 0,
            delay: 0,
            max_delay_us: 0,
            crash: 0,
            cut: 0,
            hang: 0,
            pause: 0,
            crash_after_send: 0,
            isolate_primary: 0,
        }
    }

    /// Some kinds often, some seldom, some never.
    pub fn any(random: &mut Random) -> Faults {
        let mut weight = |low, high| if random.one_in(3) { 0 } else { random.between(low, high) };
        Faults {
            lose: weight(5, 500),
            duplicate: weight(5, 500),
            delay: weight(2, 100),
            max_delay_us: weight(1_000, 400_000),
            network_us: [100, 300, 300, 3_000, 20_000][weight(1, 4) as usize],
            disk_us: [200, 2_000, 2_000, 20_000, 80_000][weight(1, 4) as usize],
            crash: weight(3, 60),
            cut: weight(3, 60),
            hang: weight(10, 100),
            pause: weight(10, 100),
            crash_after_send: weight(20, 2_000),
            isolate_primary: weight(3, 60),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub view_changes: u64,
    pub crashes: u64,
    pub acknowledged: usize,
    pub reads: u64,
}

enum Event {
    Tick(usize, u64),
    Message { to: usize, sender: Sender, message: Message, payload: Vec<Bytes> },
    Disk(usize, u64),
    Client(usize),
    Crash(usize, u64),
    Restart(usize, u64),
    Fault,
}

/// What survives a crash.
struct Disk {
    storage: InMemoryStorage,
    queue: VecDeque<Persist>,
    reads: Vec<LogRead>,
    busy: Vec<Persist>,
    hangs_until: u64,
}

struct Running {
    core: Replica,
    applier: Applier<ListExecutor>,
    /// Requests of this start, by number and by id.
    waiting: HashMap<RequestId, Bytes>,
    numbered: BTreeMap<u64, Bytes>,
    reads: HashMap<ReadId, Sequence>,
}

struct Node {
    incarnation: u64,
    running: Option<Running>,
    database: ListExecutor,
    disk: Disk,
    paused_until: u64,
}

pub struct Cluster {
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    nodes: Vec<Node>,
    cut: BTreeSet<(usize, usize)>,
    faults: Faults,
    random: Random,
    checks: Checks,
    figures: Figures,
    next_id: u64,
    clients_active: bool,
    trace: DefaultHasher,
    seed: u64,
}

impl Cluster {
    pub fn new(replicas: u8, seed: u64, faults: Faults) -> Cluster {
        let mut cluster = Cluster {
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            faults,
            random: Random::new(seed),
            checks: Checks::default(),
            figures: Figures::default(),
            next_id: 1,
            clients_active: true,
            trace: DefaultHasher::new(),
            seed,
        };
        for _ in 0..replicas {
            let storage = InMemoryStorage::default();
            let disk = Disk { storage, queue: VecDeque::new(), reads: Vec::new(), busy: Vec::new(), hangs_until: 0 };
            let database = ListExecutor::default();
            cluster.nodes.push(Node { incarnation: 0, running: None, database, disk, paused_until: 0 });
        }
        for node in 0..replicas as usize {
            cluster.start(node);
            cluster.schedule(1_000 * node as u64, Event::Client(node));
        }
        cluster.schedule(50_000, Event::Fault);
        cluster
    }

    fn schedule(&mut self, after_us: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + after_us, self.order)));
        self.events.insert(self.order, event);
    }

    fn options(&mut self, node: usize) -> CoreOptions {
        let replicas = (0..self.nodes.len() as u8).map(ReplicaId).collect();
        let mut options = CoreOptions::new(ReplicaId(node as u8), replicas, self.seed ^ (node as u64) << 40);
        // Small bounds, so that the paths beyond them are taken often.
        options.max_batch_bytes = self.random.between(1, 200) as usize;
        options.max_in_flight_values = self.random.between(1, 8);
        options.max_message_bytes = self.random.between(1, 500) as usize;
        options.window_bytes = self.random.between(1, 2000) as usize;
        options.stage_bytes = self.random.between(0, 500) as usize;
        options.log_cache_bytes = self.random.between(0, 2000) as usize;
        options
    }

    fn start(&mut self, node: usize) {
        let options = self.options(node);
        let (disk_id, cluster_id) = (self.random.next(), self.random.next());
        let now = Instant(self.now);
        let state = &mut self.nodes[node];
        state.incarnation += 1;
        let applier = Applier::new(state.database.clone()).expect("the database is sound");
        let sealed = applier.state().clone();
        let recovered = state.disk.storage.recover(sealed.sequence.next()).expect("the disk is sound");
        let start = Start {
            recovered,
            state: sealed,
            new_disk_id: DiskId(u128::from(disk_id)),
            new_cluster_id: u128::from(cluster_id) | 1,
        };
        let core = Replica::new(options, start, now);
        state.running =
            Some(Running { core, applier, waiting: HashMap::new(), numbered: BTreeMap::new(), reads: HashMap::new() });
        let incarnation = state.incarnation;
        self.schedule(0, Event::Tick(node, incarnation));
        self.settle(node);
    }

    /// The process dies: of what was being written a prefix may have reached the disk.
    fn crash(&mut self, node: usize) {
        let Some(running) = self.nodes[node].running.take() else { return };
        self.figures.crashes += 1;
        let state = &mut self.nodes[node];
        state.database = running.applier.executor().clone();
        state.database.crash();
        let busy = std::mem::take(&mut state.disk.busy);
        let survives = self.random.below(busy.len() as u64 + 1) as usize;
        if survives > 0 {
            state.disk.storage.persist(&busy[..survives]).expect("memory never fails");
        }
        state.disk.queue.clear();
        state.disk.reads.clear();
        state.disk.hangs_until = 0;
        for peer in 0..self.nodes.len() {
            if peer != node && !self.cut.contains(&(node, peer)) {
                self.input(peer, Input::Disconnected(ReplicaId(node as u8)));
            }
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        let now = Instant(self.now);
        if let Some(running) = &mut self.nodes[node].running {
            running.core.step(now, input);
            running.core.check_invariants();
            self.settle(node);
        }
    }

    /// Carries out what the core wants done, until it wants nothing more.
    fn settle(&mut self, node: usize) {
        loop {
            let now = Instant(self.now);
            let Some(running) = &mut self.nodes[node].running else { return };
            let outputs = running.core.ready(now);
            running.core.check_invariants();
            let status = running.core.status();
            if status.role == "primary" {
                self.checks.leads(status.id, status.view);
            }
            let sender = running.core.sender();
            if !self.carry_out(node, sender, outputs) {
                return;
            }
        }
    }

    /// True when the core was given something new.
    fn carry_out(&mut self, node: usize, sender: Sender, outputs: Outputs) -> bool {
        (self.now, node, &outputs).hash(&mut self.trace);
        let id = ReplicaId(node as u8);
        for outgoing in outputs.send {
            self.transmit(node, sender, outgoing.to.0 as usize, outgoing.message, outgoing.payload);
        }
        let state = &mut self.nodes[node];
        let running = state.running.as_mut().expect("it was just asked");
        for (id, number) in outputs.numbered {
            let payload = running.waiting.remove(&id).expect("numbered once");
            running.numbered.insert(number, payload);
        }
        for (id, _) in outputs.refused {
            self.checks.refuse(running.waiting.remove(&id).expect("refused once"));
        }
        state.disk.queue.extend(outputs.persist);
        state.disk.reads.extend(outputs.read_log);
        let mut fed = false;
        for (read, point) in outputs.read_ready {
            let floor = running.reads.remove(&read).expect("a read ends once");
            self.checks.read(id, floor, point);
            self.figures.reads += 1;
        }
        if !outputs.deliver.is_empty() {
            for (sequence, entry) in &outputs.deliver {
                self.checks.delivered(id, *sequence, entry);
            }
            let applied = running.applier.apply(outputs.deliver).expect("the executor never fails");
            let own = (sender.disk_id, sender.boot);
            for (disk, boot, number, outcome) in applied.outcomes {
                if (disk, boot) == own {
                    let payload = running.numbered.remove(&number).expect("executed once");
                    let text = String::from_utf8(outcome.to_vec()).expect("text");
                    let sequence = text.split('@').nth(1).and_then(|s| s.parse().ok()).expect("a sequence");
                    self.checks.acknowledge(payload, Sequence(sequence));
                }
            }
            let state = running.applier.state().clone();
            let (sequence, sessions, time_us, digest) = (state.sequence, state.sessions, state.time_us, state.digest);
            running.core.step(Instant(self.now), Input::Applied { sequence, sessions, time_us, digest });
            fed = true;
        }
        self.start_disk(node);
        fed
    }

    fn transmit(&mut self, from: usize, sender: Sender, to: usize, message: Message, payload: Vec<Bytes>) {
        if self.cut.contains(&(from, to)) || self.random.one_in(self.faults.lose) {
            return;
        }
        let is_sensitive =
            matches!(message, Message::Promise(_) | Message::Prepare(_) | Message::Accepted(_) | Message::Fetched(_));
        if is_sensitive && self.random.one_in(self.faults.crash_after_send) {
            let (after, incarnation) = (self.random.below(1_500), self.nodes[from].incarnation);
            self.schedule(after, Event::Crash(from, incarnation));
        }
        let copies = if self.random.one_in(self.faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut delay = self.random.between(50, self.faults.network_us);
            if self.random.one_in(self.faults.delay) {
                delay += self.random.below(self.faults.max_delay_us);
            }
            let message = Message::from_bytes(&message.clone().to_bytes()).expect("it was encoded just now");
            self.schedule(delay, Event::Message { to, sender, message, payload: payload.clone() });
        }
    }

    fn start_disk(&mut self, node: usize) {
        let hangs = self.nodes[node].disk.hangs_until.saturating_sub(self.now);
        let disk = &mut self.nodes[node].disk;
        if !disk.busy.is_empty() || (disk.queue.is_empty() && disk.reads.is_empty()) {
            return;
        }
        disk.busy = disk.queue.drain(..).collect();
        let latency = self.random.between(100, self.faults.disk_us) + hangs;
        let incarnation = self.nodes[node].incarnation;
        self.schedule(latency, Event::Disk(node, incarnation));
    }

    fn disk_done(&mut self, node: usize) {
        let disk = &mut self.nodes[node].disk;
        let orders = std::mem::take(&mut disk.busy);
        let reads = std::mem::take(&mut disk.reads);
        if let Some(last) = orders.last() {
            disk.storage.persist(&orders).expect("memory never fails");
            self.checks.durable(ReplicaId(node as u8), &last.hard_state);
            self.input(node, Input::Durable(last.ticket));
        }
        for read in reads {
            let entries = self.nodes[node].disk.storage.read(read.from, read.to, read.max_bytes).expect("it is stored");
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
        let id = self.next_id;
        self.next_id += 1;
        let floor = self.checks.acknowledged_to();
        let Some(running) = &mut self.nodes[node].running else { return };
        let choice = self.random.below(10);
        let input = if choice < 6 {
            let size = self.random.below(60) as usize;
            let payload = Bytes::from(format!("{node}-{id}-{}", "x".repeat(size)));
            running.waiting.insert(RequestId(id), payload.clone());
            Input::Propose { id: RequestId(id), payload }
        } else if choice < 9 {
            running.reads.insert(ReadId(id), floor);
            Input::Read(ReadId(id))
        } else {
            let Some(waiting) = running.waiting.keys().min().copied() else { return };
            Input::Cancel(waiting)
        };
        self.input(node, input);
    }

    fn fault(&mut self) {
        self.schedule(50_000, Event::Fault);
        let node = self.random.below(self.nodes.len() as u64) as usize;
        if self.random.one_in(self.faults.crash) {
            self.crash(node);
        }
        if self.nodes[node].running.is_none() && self.random.one_in(4) {
            self.start(node);
        }
        if self.random.one_in(self.faults.cut) {
            self.cut_something(node);
        } else if self.random.one_in(10) {
            self.cut.clear();
        }
        if self.random.one_in(self.faults.isolate_primary) {
            let leads = |n: &Node| n.running.as_ref().is_some_and(|r| r.core.status().role == "primary");
            if let Some(primary) = self.nodes.iter().position(leads) {
                // It may still talk to a minority.
                let ally = self.random.below(self.nodes.len() as u64) as usize;
                let is_minority = self.nodes.len() > 3;
                let others = (0..self.nodes.len()).filter(|peer| !(is_minority && *peer == ally));
                self.cut.extend(others.flat_map(|peer| [(primary, peer), (peer, primary)]));
            }
        }
        if self.random.one_in(self.faults.hang) {
            self.nodes[node].disk.hangs_until = self.now + self.random.below(2_000_000);
        }
        if self.random.one_in(self.faults.pause) {
            self.nodes[node].paused_until = self.now + self.random.below(1_500_000);
        }
        if let Some(running) = self.nodes[node].running.as_mut().filter(|_| self.random.one_in(3)) {
            running.applier.executor_mut().flush();
        }
    }

    /// Cuts one direction, one link, or a whole node.
    fn cut_something(&mut self, node: usize) {
        let other = self.random.below(self.nodes.len() as u64) as usize;
        match self.random.below(3) {
            0 => drop(self.cut.insert((node, other))),
            1 => self.cut.extend([(node, other), (other, node)]),
            _ => self.cut.extend((0..self.nodes.len()).flat_map(|peer| [(node, peer), (peer, node)])),
        }
    }

    /// Handles the next event; false when it lies beyond `until`.
    fn advance(&mut self, until: u64) -> bool {
        let Some(Reverse((at, order))) = self.queue.peek().copied().filter(|Reverse((at, _))| *at <= until) else {
            self.now = until;
            return false;
        };
        self.queue.pop();
        self.now = at;
        let event = self.events.remove(&order).expect("scheduled once");
        let target = match &event {
            Event::Tick(node, _) | Event::Message { to: node, .. } | Event::Disk(node, _) => Some(*node),
            _ => None,
        };
        if let Some(wait) = target.map(|node| self.nodes[node].paused_until).filter(|paused| *paused > self.now) {
            self.schedule(wait - self.now, event);
            return true;
        }
        match event {
            Event::Tick(node, incarnation) => {
                if self.nodes[node].incarnation == incarnation && self.nodes[node].running.is_some() {
                    self.schedule(10_000, Event::Tick(node, incarnation));
                    self.input(node, Input::Tick);
                }
            }
            Event::Message { to, sender, message, payload } => {
                self.input(to, Input::Receive { sender, message, payload });
            }
            Event::Disk(node, incarnation) => {
                if self.nodes[node].incarnation == incarnation && self.nodes[node].running.is_some() {
                    self.disk_done(node);
                }
            }
            Event::Client(node) => self.client(node),
            Event::Crash(node, incarnation) => {
                if self.nodes[node].incarnation == incarnation {
                    self.crash(node);
                    let after = self.random.below(300_000);
                    self.schedule(after, Event::Restart(node, incarnation));
                }
            }
            Event::Restart(node, incarnation) => {
                if self.nodes[node].incarnation == incarnation && self.nodes[node].running.is_none() {
                    self.start(node);
                }
            }
            Event::Fault => self.fault(),
        }
        true
    }

    pub fn run_with_faults(&mut self, for_us: u64) {
        let until = self.now + for_us;
        while self.advance(until) {}
    }

    /// All faults end; within `within_us` everything proposed is executed everywhere, and all agree.
    pub fn heal_and_converge(&mut self, within_us: u64) {
        self.faults = Faults::none();
        self.cut.clear();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = 0;
            self.nodes[node].disk.hangs_until = 0;
            if self.nodes[node].running.is_none() {
                self.start(node);
            }
        }
        self.run_with_faults(3_000_000);
        self.clients_active = false;
        let until = self.now + within_us;
        while !self.is_converged() {
            assert!(self.advance(until), "no agreement {within_us} µs after the last fault: {:#?}", self.describe());
        }
        for (id, node) in self.nodes.iter().enumerate() {
            let running = node.running.as_ref().expect("all run");
            self.checks.final_state(ReplicaId(id as u8), running.applier.executor().executed());
            let first = self.nodes[0].running.as_ref().expect("all run");
            assert_eq!(running.applier.state(), first.applier.state(), "replicas 0 and {id} differ");
        }
    }

    fn is_converged(&self) -> bool {
        let running = || self.nodes.iter().filter_map(|n| n.running.as_ref());
        let applied = |r: &Running| r.applier.state().sequence;
        let first = running().next().map(applied);
        first > Some(Sequence::BIRTH)
            && running().all(|r| {
                Some(applied(r)) == first
                    && r.waiting.is_empty()
                    && r.numbered.is_empty()
                    && r.reads.is_empty()
                    && r.core.status().commit == r.core.status().last
            })
    }

    fn describe(&self) -> Vec<String> {
        let text = |node: &Node| match &node.running {
            Some(r) => {
                let waits = (r.waiting.len(), r.numbered.len(), r.reads.len());
                format!("{:?} waits {waits:?} sequence {}", r.core.status(), r.applier.state().sequence)
            }
            None => "down".to_string(),
        };
        self.nodes.iter().map(text).collect()
    }

    pub fn views_led(&self) -> usize {
        self.checks.views_led()
    }

    pub fn trace_hash(&self) -> u64 {
        self.trace.finish()
    }

    pub fn figures(&self) -> Figures {
        let view_changes = self.checks.views_led() as u64;
        Figures { view_changes, acknowledged: self.checks.acknowledged(), ..self.figures.clone() }
    }
}
