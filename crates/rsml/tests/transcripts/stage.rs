//! A stage for replicas driven by hand: nothing is delivered, synchronised or ticked unless the
//! scene says so, and everything that a replica does is written down.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rsml::MessageHeader;
use rsml::core::{CoreOptions, Input, InstallStep, Outgoing, Outputs, ReadId, Replica, RequestId, Start, TransferId};
use rsml::wal::InMemoryStorage;
use rsml::{
    Applier, Boot, DiskId, ExecutionNotifier, Instant, LevelRange, Message, Persist, ReplicaId, Sequence,
    SnapshotInstaller, SnapshotServer, Storage,
};

use crate::executor::ListExecutor;
use crate::text::{disk_name, entry_text, message_text, name, step_text, value_text, view, write_text};

struct Node {
    core: Option<Replica>,
    storage: InMemoryStorage,
    pending: Vec<Persist>,
    applier: Applier<ListExecutor>,
    server: SnapshotServer,
    installer: SnapshotInstaller,
    /// Steps that wait for a slow installer.
    held_steps: Option<Vec<InstallStep>>,
    /// Entries that the next start can't read.
    unreadable: Vec<u64>,
    /// Entries that wait for a slow applier.
    held_work: Option<Vec<ApplyWork>>,
    /// How many disks it has lost.
    lost_disks: u128,
    /// The last report to each.
    reports: BTreeMap<ReplicaId, (MessageHeader, Outgoing)>,
    /// Each replica has its own clock, so that a scene decides which timeouts fire.
    now: u64,
}

pub struct Stage {
    nodes: Vec<Node>,
    /// Messages in flight, in the order in which they were sent.
    wire: VecDeque<(MessageHeader, Outgoing)>,
    text: String,
    silent: bool,
    next_id: u64,
    options: fn(&mut CoreOptions),
}

pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;

enum ApplyWork {
    Switch(u64),
    Entries(Vec<(Sequence, Bytes)>),
}

impl Node {
    fn new() -> Node {
        let applier = Applier::new(ListExecutor::default(), LevelRange::default()).expect("an empty database is sound");
        let snapshots = applier.executor().snapshots();
        Node {
            core: None,
            storage: InMemoryStorage::default(),
            pending: Vec::new(),
            server: SnapshotServer::new(snapshots.clone(), Boot(0)),
            installer: SnapshotInstaller::new(snapshots),
            held_steps: None,
            held_work: None,
            unreadable: Vec::new(),
            lost_disks: 0,
            applier,
            reports: BTreeMap::new(),
            now: 0,
        }
    }
}

impl Stage {
    /// `count` replicas with empty disks, each having started; nothing has been synchronised yet.
    pub fn new(count: usize, options: fn(&mut CoreOptions)) -> Stage {
        let nodes = (0..count).map(|_| Node::new()).collect();
        let mut stage = Stage { nodes, wire: VecDeque::new(), text: String::new(), silent: false, next_id: 0, options };
        for node in 0..count {
            stage.start(node);
        }
        stage
    }

    /// Three replicas of which A leads; not written down.
    pub fn led_by_a(options: fn(&mut CoreOptions)) -> Stage {
        let mut stage = Stage::new(3, options);
        stage.silent = true;
        stage.text.clear();
        stage.play();
        for (node, us) in [(A, 0), (B, 0), (C, 0), (A, 60_000), (A, 60_000)] {
            stage.tick(node, us);
            stage.play();
        }
        assert_eq!(stage.core(C).primary(), Some(ReplicaId(0)), "A leads");
        stage.silent = false;
        stage
    }

    pub fn note(&mut self, text: &str) {
        if !self.silent {
            self.text += &format!("\n# {text}\n");
        }
    }

    fn write(&mut self, line: &str) {
        if !self.silent {
            self.text += line;
            self.text.push('\n');
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn core(&self, node: usize) -> &Replica {
        self.nodes[node].core.as_ref().expect("it runs")
    }

    /// Changes the options of replicas that start from now on.
    pub fn set_options(&mut self, options: fn(&mut CoreOptions)) {
        self.options = options;
    }

    pub fn start(&mut self, node: usize) {
        let mut options =
            CoreOptions::new(ReplicaId(node as u8), (0..self.nodes.len() as u8).map(ReplicaId).collect(), node as u64);
        (self.options)(&mut options);
        let count = self.nodes.len();
        let this = &mut self.nodes[node];
        let recovered = this.storage.recover().expect("memory never fails");
        let state = this.applier.state().clone();
        let needs_database = recovered.first > state.sequence.next();
        let mut entries = if needs_database {
            Vec::new()
        } else {
            this.storage.load(state.sequence.next()).expect("memory never fails")
        };
        for sequence in std::mem::take(&mut this.unreadable) {
            let place = sequence.checked_sub(state.sequence.next().0).and_then(|place| entries.get_mut(place as usize));
            *place.expect("the entry is read at the start") = None;
        }
        let boot = Boot(recovered.hard_state.map_or(0, |hard| hard.boot.0) + 1);
        let snapshots = this.applier.executor().snapshots();
        this.server = SnapshotServer::new(snapshots.clone(), boot);
        this.installer = SnapshotInstaller::new(snapshots);
        (this.held_steps, this.held_work) = (None, None);
        // The first disks of A, B and C are named like them, those that replace them D, E and F.
        let number = node as u128 + this.lost_disks * count as u128;
        let (new_disk_id, new_cluster_id) = (DiskId(0xD0 + number), 0xC0 + node as u128);
        let start = Start { recovered, entries, state, new_disk_id, new_cluster_id };
        this.core = Some(Replica::new(options, start, Instant(this.now)));
        self.write(&format!("{} starts", name(node)));
        self.perform(node);
    }

    /// The process dies. Log writes that were not synchronised and messages in flight are lost; the
    /// database keeps everything.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].core = None;
        self.nodes[node].pending.clear();
        self.wire.retain(|(sender, _)| sender.replica.0 as usize != node);
        self.write(&format!("{} dies", name(node)));
    }

    fn input(&mut self, node: usize, input: Input) {
        let this = &mut self.nodes[node];
        let Some(core) = &mut this.core else { return };
        core.step(Instant(this.now), input);
        core.check_invariants();
        self.perform(node);
    }

    fn perform(&mut self, node: usize) {
        loop {
            let this = &mut self.nodes[node];
            let core = this.core.as_mut().expect("it runs");
            let outputs = core.ready(Instant(this.now));
            core.check_invariants();
            let sender = core.sender();
            if outputs == Outputs::default() {
                return;
            }
            let who = name(node);
            for (id, number) in outputs.numbered {
                self.write(&format!("{who} numbers request {} as its {number}", id.0));
            }
            for write in outputs.persist {
                self.write(&format!("{who} writes {}", write_text(&write)));
                self.nodes[node].pending.push(write);
            }
            for outgoing in outputs.send {
                // Reports depend on the clock, and are delivered by hand: see `tell`.
                if matches!(outgoing.message, Message::Report(_)) {
                    self.nodes[node].reports.insert(outgoing.to, (sender, outgoing));
                } else {
                    let to = name(outgoing.to.0 as usize);
                    self.write(&format!("{who} -> {to} {}", message_text(&outgoing.message, &outgoing.payload)));
                    self.wire.push_back((sender, outgoing));
                }
            }
            for (id, refusal) in outputs.refused {
                self.write(&format!("{who} refuses request {}: {refusal:?}", id.0));
            }
            for (id, result) in outputs.transferred {
                let text =
                    result.map_or_else(|error| error.to_string(), |leads| format!("{} leads", name(leads.0.into())));
                self.write(&format!("{who} ends transfer {}: {text}", id.0));
            }
            for (read, point) in outputs.read_ready {
                self.write(&format!("{who} read {} may be served at {point}", read.0));
            }
            let entries = Some(outputs.deliver).filter(|entries| !entries.is_empty());
            let work = outputs.switch.map(ApplyWork::Switch).into_iter().chain(entries.map(ApplyWork::Entries));
            for work in work {
                match &mut self.nodes[node].held_work {
                    Some(held) => held.push(work),
                    None => self.apply_work(node, work),
                }
            }
            self.serve_storage(node, outputs.trim, outputs.read_log);
            self.serve_snapshots(node, outputs.read_snapshot, outputs.install);
        }
    }

    fn apply_work(&mut self, node: usize, work: ApplyWork) {
        match work {
            ApplyWork::Switch(generation) => self.switch(node, generation),
            ApplyWork::Entries(entries) => self.apply(node, entries),
        }
    }

    fn apply(&mut self, node: usize, entries: Vec<(Sequence, Bytes)>) {
        for (sequence, entry) in &entries {
            self.write(&format!("{} delivers {sequence} {}", name(node), entry_text(entry)));
        }
        let this = &mut self.nodes[node];
        let applied = this.applier.apply(entries).expect("the executor never fails");
        for (disk, _, number) in applied.voided {
            self.write(&format!("{} passes over {}#{number}, a void", name(node), disk_name(disk.0)));
        }
        for (disk, _, number, outcome) in applied.outcomes {
            let text = String::from_utf8_lossy(&outcome).into_owned();
            self.write(&format!("{} executes {}#{number}, outcome {text}", name(node), disk_name(disk.0)));
        }
        self.tell_applied(node);
    }

    fn tell_applied(&mut self, node: usize) {
        let applied = Input::applied(self.nodes[node].applier.state());
        self.step(node, applied);
    }

    /// Gives the core an input while its outputs are being performed.
    fn step(&mut self, node: usize, input: Input) {
        let this = &mut self.nodes[node];
        this.core.as_mut().expect("it runs").step(Instant(this.now), input);
    }

    fn switch(&mut self, node: usize, generation: u64) {
        self.nodes[node].applier.switch_to(generation).expect("it was installed");
        let sequence = self.nodes[node].applier.state().sequence;
        self.write(&format!("{} goes on with database {generation}, which holds all through {sequence}", name(node)));
        self.tell_applied(node);
    }

    fn serve_storage(&mut self, node: usize, trim: Option<Sequence>, reads: Vec<rsml::core::LogRead>) {
        for read in reads {
            let found = self.nodes[node].storage.read(read.from, read.to, read.max_bytes);
            let entries = found.expect("memory never fails");
            self.write(&format!("{} reads {} entries from {} on", name(node), entries.len(), read.from));
            self.step(node, Input::LogRead { read, entries });
        }
        if let Some(below) = trim {
            self.write(&format!("{} lets go of its log below {below}", name(node)));
            self.nodes[node].storage.trim(below).expect("memory never fails");
        }
    }

    fn serve_snapshots(&mut self, node: usize, reads: Vec<rsml::core::SnapshotRead>, steps: Vec<InstallStep>) {
        for read in reads {
            let piece = self.nodes[node].server.read(&read);
            self.step(node, Input::SnapshotRead(piece));
        }
        for step in steps {
            match &mut self.nodes[node].held_steps {
                Some(held) => held.push(step),
                None => self.install_step(node, step),
            }
        }
    }

    fn install_step(&mut self, node: usize, step: InstallStep) {
        self.write(&format!("{} {}", name(node), step_text(&step)));
        if let Some(event) = self.nodes[node].installer.perform(step) {
            self.step(node, Input::Installed(event));
        }
    }

    /// From now on, databases of this replica are built slowly.
    pub fn hold_installer(&mut self, node: usize) {
        self.nodes[node].held_steps = Some(Vec::new());
    }

    /// Completes the steps asked for meanwhile, and is fast again.
    pub fn release_installer(&mut self, node: usize) {
        for step in self.nodes[node].held_steps.take().unwrap_or_default() {
            self.install_step(node, step);
        }
        self.perform(node);
    }

    /// From now on, this replica's database is slow.
    pub fn hold_applier(&mut self, node: usize) {
        self.nodes[node].held_work = Some(Vec::new());
    }

    /// Applies the entries delivered meanwhile, and is fast again.
    pub fn release_applier(&mut self, node: usize) {
        for work in self.nodes[node].held_work.take().unwrap_or_default() {
            self.apply_work(node, work);
        }
        self.perform(node);
    }

    /// The database survives a crash with all that it has applied; the log takes `log_bytes`.
    pub fn flush(&mut self, node: usize, log_bytes: u64) {
        let sequence = self.nodes[node].applier.state().sequence;
        self.write(&format!("{} has persisted all through {sequence}, its log takes {log_bytes} bytes", name(node)));
        self.input(node, Input::Persisted { sequence, log_bytes });
    }

    /// The database of a replica that is down is gone.
    pub fn lose_database(&mut self, node: usize) {
        assert!(self.nodes[node].core.is_none(), "it runs");
        self.write(&format!("{} loses its database", name(node)));
        self.nodes[node].applier =
            Applier::new(ListExecutor::default(), LevelRange::default()).expect("an empty database is sound");
    }

    /// A replica that is down gets an empty disk in the place of its own.
    pub fn replace_disk(&mut self, node: usize) {
        assert!(self.nodes[node].core.is_none(), "it runs");
        self.write(&format!("{}'s disk is replaced by an empty one", name(node)));
        let former = std::mem::replace(&mut self.nodes[node], Node::new());
        self.nodes[node].now = former.now;
        self.nodes[node].lost_disks = former.lost_disks + 1;
    }

    /// At its next start the replica can't read these entries; after that, it can.
    pub fn hide(&mut self, node: usize, from: u64, to: u64) {
        self.write(&format!("{}'s disk does not give away entries {from} to {to}, once", name(node)));
        self.nodes[node].unreadable = (from..=to).collect();
    }

    /// Entries of a replica's log are damaged: it finds that out when it reads them.
    pub fn damage(&mut self, node: usize, from: u64, to: u64) {
        self.write(&format!("{}'s disk loses entries {from} to {to}", name(node)));
        self.nodes[node].storage.damage(Sequence(from), Sequence(to));
    }

    /// Lets time pass for one replica.
    pub fn tick(&mut self, node: usize, us: u64) {
        self.nodes[node].now += us;
        self.input(node, Input::Tick);
    }

    /// Lets time pass for one replica without its noticing before the next message.
    pub fn wait(&mut self, node: usize, us: u64) {
        self.nodes[node].now += us;
    }

    /// All log writes of the replica become durable.
    pub fn sync(&mut self, node: usize) {
        let writes = std::mem::take(&mut self.nodes[node].pending);
        let Some(last) = writes.last() else { return };
        let write_id = last.write_id;
        self.nodes[node].storage.persist(&writes).expect("memory never fails");
        self.write(&format!("{} has written it", name(node)));
        self.input(node, Input::Durable(write_id));
    }

    /// Delivers the messages in flight from one replica to another.
    pub fn carry(&mut self, from: usize, to: usize) {
        for (sender, outgoing) in self.take(from, to) {
            self.receive(sender, outgoing);
        }
    }

    /// Delivers the oldest message in flight from one replica to another.
    pub fn carry_one(&mut self, from: usize, to: usize) {
        let mut messages = self.take(from, to).into_iter();
        let first = messages.next();
        self.wire.extend(messages);
        if let Some((sender, outgoing)) = first {
            self.receive(sender, outgoing);
        }
    }

    /// Delivers the answers with read points, ahead of all other messages in flight there.
    pub fn carry_answer(&mut self, from: usize, to: usize) {
        let is_answer =
            |(_, outgoing): &(MessageHeader, Outgoing)| matches!(outgoing.message, Message::ReadPointReply(_));
        let (answers, rest): (Vec<_>, Vec<_>) = self.take(from, to).into_iter().partition(is_answer);
        self.wire.extend(rest);
        assert!(!answers.is_empty(), "no answer is under way");
        for (sender, outgoing) in answers {
            self.receive(sender, outgoing);
        }
    }

    /// Delivers the messages in flight, twice.
    pub fn carry_twice(&mut self, from: usize, to: usize) {
        for (sender, outgoing) in self.take(from, to) {
            self.receive(sender, outgoing.clone());
            self.receive(sender, outgoing);
        }
    }

    /// Loses the messages in flight.
    pub fn lose(&mut self, from: usize, to: usize) {
        for (_, outgoing) in self.take(from, to) {
            let text = message_text(&outgoing.message, &outgoing.payload);
            self.write(&format!("{} -> {} lost: {text}", name(from), name(to)));
        }
    }

    fn take(&mut self, from: usize, to: usize) -> Vec<(MessageHeader, Outgoing)> {
        let is_wanted = |(sender, outgoing): &(MessageHeader, Outgoing)| {
            (sender.replica.0 as usize, outgoing.to.0 as usize) == (from, to)
        };
        let (wanted, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.wire).into_iter().partition(is_wanted);
        self.wire = rest;
        wanted.into()
    }

    fn receive(&mut self, sender: MessageHeader, outgoing: Outgoing) {
        let message = Message::from_bytes(&outgoing.message.to_bytes()).expect("it was encoded just now");
        self.input(outgoing.to.0 as usize, Input::Receive { sender, message, payload: outgoing.payload });
    }

    /// Delivers and synchronises everything among these replicas until nothing more happens;
    /// messages to others are lost.
    pub fn play_among(&mut self, nodes: &[usize]) {
        loop {
            for node in nodes {
                self.sync(*node);
            }
            let Some((sender, outgoing)) = self.wire.pop_front() else { break };
            let is_in = |id: ReplicaId| nodes.contains(&(id.0 as usize));
            if is_in(sender.replica) && is_in(outgoing.to) {
                self.receive(sender, outgoing);
            }
        }
    }

    pub fn play(&mut self) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].core.is_some()).collect();
        self.play_among(&running);
    }

    /// Does something without writing it down.
    pub fn off_stage(&mut self, what: impl FnOnce(&mut Stage)) {
        let silent = std::mem::replace(&mut self.silent, true);
        what(self);
        self.silent = silent;
    }

    pub fn propose(&mut self, node: usize, payload: &'static str) {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        self.write(&format!("{} is asked to execute {payload} (request {})", name(node), id.0));
        self.input(node, Input::Propose { id, payload: Bytes::from_static(payload.as_bytes()) });
    }

    /// The report that a replica sent last reaches another.
    pub fn tell(&mut self, from: usize, to: usize) {
        let report = self.nodes[from].reports.remove(&ReplicaId(to as u8));
        let (sender, outgoing) = report.expect("it reported since");
        self.receive(sender, outgoing);
    }

    pub fn transfer(&mut self, node: usize, to: Option<usize>) {
        self.next_id += 1;
        let id = TransferId(self.next_id);
        let whom = to.map_or("another one".to_string(), |to| name(to).to_string());
        self.write(&format!("{} is asked to let {whom} lead (transfer {})", name(node), id.0));
        let deadline = Instant(self.nodes[node].now + 5_000_000);
        self.input(node, Input::Transfer { id, to: to.map(|to| ReplicaId(to as u8)), deadline });
    }

    pub fn set_eligible(&mut self, node: usize, is_eligible: bool) {
        self.write(&format!("{} {} lead", name(node), if is_eligible { "may" } else { "may not" }));
        self.input(node, Input::Eligible(is_eligible));
    }

    pub fn set_space(&mut self, node: usize, has_space: bool) {
        self.write(&format!("{} has {}space", name(node), if has_space { "" } else { "no " }));
        self.input(node, Input::Space(has_space));
    }

    pub fn set_room(&mut self, node: usize, has_ample_space: bool) {
        self.write(&format!("{} has {}space to spare", name(node), if has_ample_space { "" } else { "no " }));
        self.input(node, Input::AmpleSpace(has_ample_space));
    }

    /// Where the replica's log begins, according to its last report.
    pub fn log_begins(&self, node: usize) -> u64 {
        let report = self.nodes[node].reports.values().next();
        match report.map(|(_, outgoing)| &outgoing.message) {
            Some(Message::Report(report)) => report.first,
            other => panic!("{} has not said where its log begins: {other:?}", name(node)),
        }
    }

    /// The replica is about to stop.
    pub fn take_leave(&mut self, node: usize) {
        self.write(&format!("{} is about to stop", name(node)));
        self.input(node, Input::Stopping);
    }

    pub fn read(&mut self, node: usize) {
        self.next_id += 1;
        let id = ReadId(self.next_id);
        self.write(&format!("{} is asked for a read point (read {})", name(node), id.0));
        self.input(node, Input::Read(id));
    }

    /// The caller of the request with this number in the replica's session gives up.
    pub fn give_up(&mut self, node: usize, number: u64) {
        self.write(&format!("the caller of {}#{number} gives up", name(node)));
        self.input(node, Input::GiveUp(number));
    }

    /// The requests that a replica executed, in order.
    pub fn executed(&self, node: usize) -> Vec<String> {
        self.nodes[node]
            .applier
            .executor()
            .executed()
            .iter()
            .map(|(_, p)| String::from_utf8_lossy(p).into_owned())
            .collect()
    }

    /// The log of a replica in memory, and its views.
    pub fn show(&mut self, node: usize) {
        let core = self.core(node);
        let hard = core.hard_state();
        let last = core.status().last.0;
        let entries: Vec<String> = (1..=last)
            .filter_map(|sequence| core.value_at(Sequence(sequence)))
            .map(|value| value_text(&value))
            .collect();
        let line = format!(
            "{}: promised {}, accepted {}, log {}",
            name(node),
            view(hard.promised.0),
            view(hard.accepted_view.0),
            entries.join(" ")
        );
        self.write(&line);
    }
}

impl Drop for Stage {
    /// The steps of a failed scene so far.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.text);
        }
    }
}
