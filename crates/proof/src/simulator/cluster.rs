//! The simulated cluster: nodes, network, clients and checks around one queue of events.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use rsml::core::{CoreOptions, Input, Outputs, Refusal};
use rsml::{Addresses, Boot, Configuration, Divergence, Epoch, LevelRange, ReplicaId, Sequence, View};
use xxhash_rust::xxh3::Xxh3;

use super::claims::Origin;
use super::clients::Client;
use super::clock::{Clock, set_standard_time};
use super::counters::Counters;
use super::events::{Event, Process, Queue};
use super::faults::Faults;
use super::feeds::Feeds;
use super::node::{ApplyWork, Node, Running, SnapshotWork};
use super::oracle::Oracle;
use super::programs::{Upgrades, any_program};
use super::random::Random;
use super::records::Records;
use super::watch::{self, Watch};
use super::workload::WorkloadProfile;
use crate::checkers::leases::{self, Lease};

/// How often a node looks at its clock when nothing else happens; the driver's is the same.
const TICK_US: u64 = 10_000;

pub struct Cluster {
    pub now: u64,
    queue: Queue,
    pub nodes: Vec<Node>,
    /// Directions of links that carry nothing.
    pub cut: BTreeSet<(usize, usize)>,
    pub faults: Faults,
    pub profile: WorkloadProfile,
    pub random: Random,
    pub(super) clients: Vec<Client>,
    pub(super) clients_active: bool,
    pub(super) records: Records,
    pub(super) watch: Watch,
    pub(super) feeds: Feeds,
    pub(super) figures: Counters,
    pub(super) faults_ended: bool,
    /// The one that executed otherwise than the log says.
    pub(super) corrupted: Option<usize>,
    /// Whose disk was replaced, and is not back.
    pub(super) wiped: Option<usize>,
    /// The newest epoch when a disk that was missed came back last.
    pub(super) missed_in: Epoch,
    /// Nodes that stay down until all heals.
    pub(super) kept_down: BTreeSet<usize>,
    pub(super) upgrades: Upgrades,
    /// The nodes with which the cluster begins; the others are spare.
    pub(super) founders: usize,
    next_id: u64,
    trace: Option<Box<Xxh3>>,
    verbose: bool,
    pub(super) prints_messages: bool,
    seed: u64,
    /// Promises held back, and for whom.
    pub(super) stragglers: Vec<(usize, Event)>,
    /// When the last message on each link arrives, if links keep order.
    pub(super) arrivals: BTreeMap<(usize, usize), u64>,
}

impl Cluster {
    pub fn new(replicas: u8, seed: u64, faults: Faults, profile: WorkloadProfile) -> Cluster {
        Cluster::with_spare(replicas, 0, seed, faults, profile)
    }

    /// A cluster of `founders`, and so many nodes more that do not belong to it.
    pub fn with_spare(founders: u8, spare: u8, seed: u64, faults: Faults, profile: WorkloadProfile) -> Cluster {
        let replicas = founders + spare;
        set_standard_time(0);
        let mut random = Random::new(seed);
        let oracle = Oracle::default();
        let mut nodes: Vec<Node> =
            (0..replicas as usize).map(|place| Node::new(place, false, oracle.clone(), &mut random)).collect();
        for node in nodes.iter_mut().skip(usize::from(founders)) {
            if faults.witnesses > 0 && random.one_in(faults.witnesses) {
                *node = Node::new(node.place, true, oracle.clone(), &mut random);
            }
        }
        if faults.highest_level > 1 {
            let highest = faults.highest_level;
            // A node that joins later must execute what the others raised the level to.
            let all_are_new = faults.reconfigure > 0;
            nodes.iter_mut().for_each(|node| {
                let any = any_program(highest, &mut random);
                node.program = if all_are_new { LevelRange::new(1, highest) } else { any };
            });
        }
        let mut records = Records::default();
        let first_node = |client: usize| client % replicas as usize;
        let clients = (0..profile.clients).map(|c| Client::new(records.new_client(), first_node(c))).collect();
        let mut cluster = Cluster {
            now: 0,
            queue: Queue::default(),
            nodes,
            cut: BTreeSet::new(),
            faults,
            profile,
            random,
            clients,
            clients_active: true,
            records,
            watch: Watch::default(),
            feeds: Feeds::new(seed),
            figures: Counters { seeds: 1, ..Counters::default() },
            faults_ended: false,
            corrupted: None,
            wiped: None,
            missed_in: Epoch(0),
            kept_down: BTreeSet::new(),
            upgrades: Upgrades::default(),
            founders: usize::from(founders),
            next_id: 1,
            trace: None,
            verbose: false,
            prints_messages: false,
            seed,
            stragglers: Vec::new(),
            arrivals: BTreeMap::new(),
        };
        for node in 0..replicas as usize {
            cluster.start(node);
        }
        for client in 0..cluster.clients.len() {
            cluster.schedule(1_000 * client as u64, Event::Client(client));
        }
        cluster.schedule(50_000, Event::Fault);
        cluster
    }

    /// Folds everything that any core does into a hash.
    pub fn record_trace(&mut self) {
        self.trace = Some(Box::new(Xxh3::new()));
    }

    /// Prints faults, changes of primary and what clients do.
    pub fn be_verbose(&mut self) {
        self.verbose = true;
    }

    /// Prints every message that arrives as well.
    pub fn print_messages(&mut self) {
        self.prints_messages = true;
    }

    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>12.6} {}", self.now as f64 / 1e6, text());
        }
    }

    /// A fault or another rare event happens.
    pub(super) fn note(&mut self, what: &'static str, detail: impl FnOnce() -> String) {
        self.figures.count(what);
        self.say(|| format!("{what} {}", detail()));
    }

    pub fn schedule(&mut self, after_us: u64, event: Event) {
        self.queue.push(self.now + after_us, event);
    }

    fn options(&mut self, node: usize) -> CoreOptions {
        let mut options = CoreOptions::new(ReplicaId(node as u8), self.named_by(node), self.seed ^ (node as u64) << 40);
        // Small bounds, so that the paths beyond them are taken often.
        let random = &mut self.random;
        options.max_batch_bytes = random.between(1, 600) as usize;
        options.max_in_flight_values = if random.one_in(2) { random.between(1, 8) } else { random.between(8, 64) };
        options.max_message_bytes = random.between(1, 1500) as usize;
        options.window_bytes = random.between(1, 6000) as usize;
        options.stage_bytes = random.between(0, 1500) as usize;
        options.log_cache_bytes = random.between(0, 6000) as usize;
        options.log_keep_bytes = if self.faults.short_logs { random.below(100_000) } else { u64::MAX };
        options.snapshot_chunk_bytes = random.between(1_000, 50_000) as usize;
        options.snapshot_bytes_per_second = match self.faults.slow_copies {
            true => random.between(10_000, 200_000),
            false if random.one_in(2) => 0,
            false => random.between(200_000, 10_000_000),
        };
        options.is_witness = self.nodes[node].is_witness;
        options.witness_level = options.epochs_level;
        options.digest_interval = self.faults.digest_interval;
        options.levels = self.nodes[node].program;
        options.level_heard_us = self.faults.level_heard_us * self.faults.slowness;
        options.raise_after_us = Some(self.faults.raise_after_us).filter(|us| *us > 0);
        options.lease_us = self.faults.lease_us;
        if self.faults.unequal_leases && options.lease_us > 0 {
            let shorter = random.below(options.lease_us);
            options.lease_us = random.pick(&[options.lease_us, options.lease_us, shorter, 0]);
        }
        options.readmit_replaced_disk = self.faults.readmit;
        if self.faults.moves {
            options.announced = Addresses::of_peer(format!("replica-{node}:{}", random.below(3)));
        }
        options.max_request_bytes = if random.one_in(10) { random.between(200, 3_000) as usize } else { 1 << 20 };
        for time_us in [
            &mut options.heartbeat_us,
            &mut options.election_min_us,
            &mut options.election_max_us,
            &mut options.retry_us,
        ] {
            *time_us *= self.faults.slowness;
        }
        options
    }

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].stopped {
            return;
        }
        self.change_program(node);
        let options = self.options(node);
        self.lose_before_start(node);
        let clock = Clock::any(self.now, self.faults.drift_ppm, &mut self.random);
        self.nodes[node].start(options, &mut self.random, clock, self.now);
        let running = self.nodes[node].running.as_ref().expect("it was started");
        let state = running.applier.state();
        let (hard, applied, digest) = (*running.core.hard_state(), state.sequence, state.digest);
        let (level, program) = (state.feature_level, self.nodes[node].program);
        let acting = running.core.membership().configuration().clone();
        let digest = if self.nodes[node].is_witness { None } else { Some(digest) };
        self.watch.started(ReplicaId(node as u8), &hard, applied, digest);
        self.note_epoch(node, &acting);
        self.watch.level(ReplicaId(node as u8), applied, level, program);
        if hard.boot > Boot(1) {
            self.disk_reported(node);
        }
        let is_tainted = digest.is_some_and(|digest| self.watch.is_tainted(applied, digest));
        self.nodes[node].running.as_mut().expect("it was started").is_tainted = is_tainted;
        let process = self.nodes[node].process();
        self.poll_feeds(node);
        self.schedule(0, Event::Tick(process));
        self.settle(node);
    }

    pub fn crash(&mut self, node: usize) {
        let power_loss = self.faults.power_loss && self.random.one_in(2);
        let Some(gone) = self.nodes[node].crash(&mut self.random, power_loss) else { return };
        self.note(if power_loss { "power loss" } else { "crash" }, || format!("of {node}"));
        self.tell_waiters(gone);
        for peer in 0..self.nodes.len() {
            if peer != node && !self.cut.contains(&(node, peer)) && self.nodes[peer].paused_until <= self.now {
                self.input(peer, Input::Disconnected(ReplicaId(node as u8)));
            }
        }
    }

    fn tell_waiters(&mut self, gone: Running) {
        for op in gone.waiting.into_values().chain(gone.numbered.into_values()) {
            self.lost(op);
        }
        let points = gone.points.into_iter().map(|(_, barrier)| barrier);
        for barrier in gone.reads.into_values().chain(points) {
            self.connection_broke(barrier);
        }
    }

    /// Gives the core an input; what follows from it is asked for at once, or a little later
    /// together with others.
    pub fn input(&mut self, node: usize, input: Input) {
        if self.faults.gather_us == 0 {
            return self.input_now(node, input);
        }
        let after = self.random.below(self.faults.gather_us);
        let (now, process) = (self.now, self.nodes[node].process());
        let Some(running) = &mut self.nodes[node].running else { return };
        running.core.step(running.clock.read(now), input);
        if !std::mem::replace(&mut running.settle_planned, true) {
            self.schedule(after, Event::Settle(process));
        }
    }

    pub(super) fn input_now(&mut self, node: usize, input: Input) {
        let now = self.now;
        if let Some(running) = &mut self.nodes[node].running {
            running.core.step(running.clock.read(now), input);
            running.core.check_invariants();
            self.settle(node);
        }
    }

    /// Dispatches the outputs of the core until there are none.
    pub(super) fn settle(&mut self, node: usize) {
        loop {
            let Some(running) = &mut self.nodes[node].running else { return };
            running.settle_planned = false;
            let outputs = running.core.ready(running.clock.read(self.now));
            running.core.check_invariants();
            let view = running.core.hard_state().promised;
            let epoch = running.core.membership().epoch();
            if std::mem::replace(&mut running.epoch, epoch) != epoch {
                let acting = running.core.membership().configuration().clone();
                self.note_epoch(node, &acting);
            }
            let Some(running) = &mut self.nodes[node].running else { return };
            let begins_to_lead = running.is_primary() && running.led != view;
            let promises_more = std::mem::replace(&mut running.promised, view) != view;
            if promises_more {
                watch::hold(leases::promises(ReplicaId(node as u8), view, &self.leases()));
            }
            if begins_to_lead {
                self.begins_to_lead(node, view);
            }
            if !self.dispatch(node, outputs) {
                return;
            }
        }
    }

    /// A replica acts under another configuration than before.
    fn note_epoch(&mut self, node: usize, acting: &Configuration) {
        if acting.epoch > Epoch(0) {
            self.say(|| format!("replica {node} acts in epoch {} since {}", acting.epoch, acting.since));
            self.watch.acts(ReplicaId(node as u8), acting);
        }
    }

    fn begins_to_lead(&mut self, node: usize, view: View) {
        self.nodes[node].running.as_mut().expect("it leads").led = view;
        let present: Vec<_> = self.nodes.iter().map(|n| n.log.ledger.promised().disk_id).collect();
        self.watch.leads(ReplicaId(node as u8), view, &present);
        watch::hold(leases::leads(ReplicaId(node as u8), view, &self.leases()));
        self.say(|| format!("replica {node} leads view {view}"));
        if self.random.one_in(self.faults.upset_primary) {
            let after = self.random.below(100_000);
            self.schedule(after, Event::Upset(node));
        }
    }

    /// The leases on which primaries rely at this moment.
    fn leases(&self) -> Vec<Lease> {
        if self.faults.lease_us == 0 {
            return Vec::new();
        }
        let relied_on = |running: &Running| {
            let grantors = running.core.relies_on(running.clock.read(self.now))?;
            Some(Lease { primary: running.core.id(), view: running.core.hard_state().promised, grantors })
        };
        self.nodes.iter().filter_map(|node| node.running.as_ref()).filter_map(relied_on).collect()
    }

    /// True when the core was given something new.
    fn dispatch(&mut self, node: usize, outputs: Outputs) -> bool {
        if let Some(trace) = &mut self.trace {
            (self.now, node, &outputs).hash(trace.as_mut());
        }
        let id = ReplicaId(node as u8);
        self.check_raises(&outputs.deliver);
        self.note_raises(&outputs.persist);
        let Node { running, log, program, .. } = &mut self.nodes[node];
        let running = running.as_mut().expect("it was just asked");
        let sender = running.core.sender();
        let promised = running.core.hard_state().promised;
        let has_lease = running.core.relies_on(running.clock.read(self.now)).is_some();
        if let Some(divergence) = &outputs.diverged {
            for outgoing in outputs.send {
                self.transmit(node, sender, outgoing.to.0 as usize, outgoing.message, outgoing.payload);
            }
            self.stop_diverged(node, divergence);
            return false;
        }
        for (id, number) in outputs.numbered {
            let op = running.waiting.remove(&id).expect("numbered once");
            running.numbered.insert(number, op);
        }
        for (transfer, result) in outputs.transferred {
            assert!(running.transfers.remove(&transfer), "a transfer ends once");
            if let Ok(leads) = result {
                assert_ne!(leads, id, "a replica handed over to itself");
                self.figures.count("transfer that worked");
            }
        }
        assert_eq!(outputs.too_new, None, "replica {id} cannot follow: its program executes {}", program);
        for (raise, result) in outputs.raised {
            assert!(running.raises.remove(&raise), "a raise ends once");
            self.figures.count(if result.is_ok() { "level raised" } else { "level refused" });
            if self.verbose {
                println!("{:>12.6} {id} on the level: {result:?}", self.now as f64 / 1e6);
            }
        }
        assert_eq!(outputs.checked, [], "nobody asks");
        for (change, result) in outputs.reconfigured {
            assert!(running.changes.remove(&change), "a change ends once");
            self.figures.count(if result.is_ok() { "members changed" } else { "change of members refused" });
            if self.verbose {
                println!("{:>12.6} {id} on the change of members: {result:?}", self.now as f64 / 1e6);
            }
        }
        let mut refused = Vec::new();
        for (id, refusal) in outputs.refused {
            if refusal == Refusal::StorageFull {
                self.figures.count("refused for want of space");
            }
            refused.push(running.waiting.remove(&id).expect("refused once"));
        }
        let mut unknown = Vec::new();
        for number in outputs.abandoned {
            unknown.extend(running.numbered.remove(&number));
        }
        for number in outputs.withdrawn {
            self.figures.count("request withdrawn");
            refused.extend(running.numbered.remove(&number));
        }
        for (read, point) in outputs.read_ready {
            // Without one it was given up, after the point was found.
            if let Some(barrier) = running.reads.remove(&read) {
                self.watch.read(id, barrier.floor, point);
                running.points.push((point, barrier));
            }
        }
        if outputs.switch.is_some() {
            self.watch.installed(id, running.core.status().applied);
        }
        for (sequence, entry) in &outputs.deliver {
            self.watch.delivered(id, *sequence, entry, &log.ledger);
        }
        running.unapplied.extend(outputs.switch.map(ApplyWork::Switch));
        running
            .unapplied
            .extend(outputs.deliver.into_iter().map(|(sequence, entry)| ApplyWork::Entry(sequence, entry)));
        running.snapshot_work.extend(outputs.read_snapshot.into_iter().map(SnapshotWork::Read));
        running.snapshot_work.extend(outputs.install.into_iter().map(SnapshotWork::Install));
        for outgoing in outputs.send {
            let Node { log, persisted, .. } = &self.nodes[node];
            let origin = Origin { sender, promised, log: &log.ledger, persisted: *persisted, has_lease };
            self.watch.claims(&outgoing.message, &outgoing.payload, &origin);
            self.transmit(node, sender, outgoing.to.0 as usize, outgoing.message, outgoing.payload);
        }
        self.nodes[node].log.take_writes(outputs.persist, outputs.read_log);
        if let Some(below) = outputs.trim {
            self.check_trim(node, below);
            self.figures.count("trim");
            self.check_trim_of_witness(node, below);
            self.nodes[node].log.trim(below);
        }
        self.start_log(node);
        for op in unknown {
            self.figures.count("request of a session that ended");
            self.lost(op);
        }
        for op in refused {
            self.refused(op);
        }
        let served = self.serve_or_plan(node);
        self.apply_or_plan(node) || served
    }

    /// While the log is no larger than it may be, nothing is let go of that some replica needs:
    /// what its database has not persisted, by its last report, and no copy on its way to it holds.
    fn check_trim(&self, node: usize, below: Sequence) {
        let running = self.nodes[node].running.as_ref().expect("it trims");
        // Where inputs are gathered, a report may have come since.
        if running.log_bytes > running.log_keep_bytes || self.faults.gather_us > 0 {
            return;
        }
        let status = running.core.status();
        let voters = status.configuration.voters().map(|(id, _)| id);
        for peer in voters.filter(|peer| usize::from(peer.0) != node) {
            let has = status.reports.get(&peer).map_or(0, |report| report.persisted.max(report.installing));
            assert!(
                below.0 <= has + 1,
                "replica {node} lets go of what is before {below}, and {peer} needs {}",
                has + 1
            );
        }
    }

    /// A replica says that digests differ, and stops for good.
    fn stop_diverged(&mut self, node: usize, divergence: &Divergence) {
        self.note("replica stopped by its digest", || format!("{node}: {divergence}"));
        let is_tainted = self.nodes[node].running.as_ref().is_some_and(|running| running.is_tainted);
        self.watch.diverged(ReplicaId(node as u8), is_tainted, divergence);
        self.crash(node);
        self.nodes[node].stopped = true;
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn is_alive(&self, process: Process) -> bool {
        self.nodes[process.node].process() == process && self.nodes[process.node].running.is_some()
    }

    /// Handles the next event; false when it lies beyond `until`.
    fn advance(&mut self, until: u64) -> bool {
        let Some((at, event)) = self.queue.pop(until) else {
            self.now = until;
            set_standard_time(self.now);
            return false;
        };
        self.now = at;
        set_standard_time(self.now);
        self.figures.events += 1;
        let awake = event.target().map_or(0, |node| self.nodes[node].paused_until);
        if awake > self.now {
            self.schedule(awake - self.now, event);
            return true;
        }
        self.handle(event);
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(process) if self.is_alive(process) => {
                self.schedule(TICK_US * self.faults.slowness, Event::Tick(process));
                self.input(process.node, Input::Tick);
            }
            Event::Settle(process) if self.is_alive(process) => self.settle(process.node),
            Event::Apply(process) if self.is_alive(process) => {
                self.apply(process.node);
                self.settle(process.node);
            }
            Event::Disk(process) if self.is_alive(process) => self.log_done(process.node),
            Event::Space(process) if self.is_alive(process) => self.start_log(process.node),
            Event::SpaceReturns(node) => self.nodes[node].log.set_full(false),
            Event::Snapshot(process) if self.is_alive(process) => {
                self.serve_snapshots(process.node);
                self.settle(process.node);
            }
            Event::Message(delivery) => self.deliver(*delivery),
            Event::Client(client) => self.client(client),
            Event::GiveUp { client, step } => self.give_up(client, step),
            Event::Resend { client, step } => self.resend(client, step),
            Event::BlindNote(node) => self.blind_note(node),
            Event::Fault => self.fault(),
            // Events planned as part of a fault are dropped once faults have ended.
            Event::Crash(_)
            | Event::Restart(_)
            | Event::Heal(..)
            | Event::Upset(_)
            | Event::Stop(_)
            | Event::Spring(_)
            | Event::Hint(..)
                if self.faults_ended => {}
            Event::Stop(process) if self.is_alive(process) => self.stop(process.node),
            Event::Crash(process) if self.is_alive(process) => self.crash(process.node),
            Event::Restart(process) => {
                let node = &self.nodes[process.node];
                if node.process() == process && node.running.is_none() {
                    self.start(process.node);
                }
            }
            Event::Heal(from, to) => drop(self.cut.remove(&(from, to))),
            Event::Upset(node) => self.upset(node),
            Event::Spring(process) if self.is_alive(process) => self.spring(process.node),
            Event::Hint(node, peer) => self.disconnect(node, peer),
            // Of a process that is gone.
            Event::Tick(_)
            | Event::Settle(_)
            | Event::Apply(_)
            | Event::Disk(_)
            | Event::Snapshot(_)
            | Event::Space(_)
            | Event::Stop(_)
            | Event::Spring(_)
            | Event::Crash(_) => {}
        }
    }

    pub fn run(&mut self, for_us: u64) {
        let until = self.now + for_us;
        while self.advance(until) {}
    }

    pub fn any_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    pub fn applied(&self, node: usize) -> Sequence {
        self.nodes[node].running.as_ref().expect("it runs").applied()
    }

    /// On whose leases `node` relies at this moment, if it serves reads without asking.
    pub fn relied_on(&self, node: usize) -> Option<Vec<usize>> {
        let held = self.leases().into_iter().find(|lease| lease.primary.0 as usize == node)?;
        Some(held.grantors.iter().map(|grantor| grantor.0 as usize).collect())
    }

    /// Whether `node` stands for election.
    pub fn is_candidate(&self, node: usize) -> bool {
        self.nodes[node].running.as_ref().is_some_and(|running| running.core.status().role == "candidate")
    }

    /// `node` sees its connection to `peer` end.
    pub fn disconnect(&mut self, node: usize, peer: usize) {
        if self.nodes[node].paused_until <= self.now {
            self.input(node, Input::Disconnected(ReplicaId(peer as u8)));
        }
    }

    pub fn views_led(&self) -> usize {
        self.watch.views_led()
    }

    pub fn trace_hash(&self) -> u64 {
        self.trace.as_ref().expect("it was recorded").finish()
    }

    pub fn figures(&self) -> Counters {
        Counters {
            simulated_us: self.now,
            views_led: self.watch.views_led() as u64,
            acknowledged: self.watch.acknowledged,
            ..self.figures.clone()
        }
    }
}
