//! A stage for replicas driven by hand: nothing is delivered, synchronised or ticked unless the scene says so, and
//! everything that a replica does is written down.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rsml::core::{CoreOptions, Input, Outgoing, Outputs, ReadId, Replica, RequestId, Start, TransferId};
use rsml::transport::Sender;
use rsml::wal::InMemoryStorage;
use rsml::{Applier, DiskId, Instant, Message, Persist, ReplicaId, Storage, Value, View};

use crate::executor::ListExecutor;

struct Node {
    core: Option<Replica>,
    storage: InMemoryStorage,
    pending: Vec<Persist>,
    applier: Option<Applier<ListExecutor>>,
    /// The last report to each.
    reports: BTreeMap<ReplicaId, (Sender, Outgoing)>,
    /// Each replica has a clock of its own, so that a scene decides whose time runs out.
    now: u64,
}

pub struct Stage {
    nodes: Vec<Node>,
    /// Messages under way, in the order in which they were sent.
    wire: VecDeque<(Sender, Outgoing)>,
    text: String,
    silent: bool,
    next_id: u64,
    options: fn(&mut CoreOptions),
}

pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;

fn name(node: usize) -> char {
    (b'A' + node as u8) as char
}

impl Stage {
    /// `count` replicas with empty disks, each having started; nothing has been synchronised yet.
    pub fn new(count: usize, options: fn(&mut CoreOptions)) -> Stage {
        let node = |_| Node {
            core: None,
            storage: InMemoryStorage::default(),
            pending: Vec::new(),
            applier: Some(Applier::new(ListExecutor::default()).expect("an empty database is sound")),
            reports: BTreeMap::new(),
            now: 0,
        };
        let nodes = (0..count).map(node).collect();
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

    pub fn start(&mut self, node: usize) {
        let mut options =
            CoreOptions::new(ReplicaId(node as u8), (0..self.nodes.len() as u8).map(ReplicaId).collect(), node as u64);
        (self.options)(&mut options);
        let this = &mut self.nodes[node];
        let state = this.applier.as_ref().expect("it has a database").state().clone();
        let recovered = this.storage.recover().expect("memory never fails");
        let entries = this.storage.load(state.sequence.next()).expect("memory never fails");
        let (new_disk_id, new_cluster_id) = (DiskId(0xD0 + node as u128), 0xC0 + node as u128);
        let start = Start { recovered, entries, state, new_disk_id, new_cluster_id };
        this.core = Some(Replica::new(options, start, Instant(this.now)));
        self.write(&format!("{} starts", name(node)));
        self.carry_out(node);
    }

    /// The process dies with what was not synchronised, and what it sent is lost. Its database keeps everything.
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
        self.carry_out(node);
    }

    fn carry_out(&mut self, node: usize) {
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
            for order in outputs.persist {
                self.write(&format!("{who} writes {}", order_text(&order)));
                self.nodes[node].pending.push(order);
            }
            for outgoing in outputs.send {
                // Reports come with the clock, and are told by hand: see `tell`.
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
            if !outputs.deliver.is_empty() {
                self.apply(node, outputs.deliver);
            }
        }
    }

    fn apply(&mut self, node: usize, entries: Vec<(rsml::Sequence, Bytes)>) {
        for (sequence, entry) in &entries {
            self.write(&format!("{} delivers {sequence} {}", name(node), entry_text(entry)));
        }
        let this = &mut self.nodes[node];
        let applier = this.applier.as_mut().expect("it has a database");
        let applied = applier.apply(entries).expect("the executor never fails");
        let state = applier.state().clone();
        let (sequence, sessions, time_us, digest) = (state.sequence, state.sessions, state.time_us, state.digest);
        for (disk, _, number) in applied.voided {
            self.write(&format!("{} passes over {}#{number}, a void", name(node), disk_name(disk.0)));
        }
        for (disk, _, number, outcome) in applied.outcomes {
            let text = String::from_utf8_lossy(&outcome).into_owned();
            self.write(&format!("{} executes {}#{number}, outcome {text}", name(node), disk_name(disk.0)));
        }
        let this = &mut self.nodes[node];
        let core = this.core.as_mut().expect("it runs");
        core.step(Instant(this.now), Input::Applied { sequence, sessions, time_us, digest });
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

    /// Everything that the replica wants written is durable.
    pub fn sync(&mut self, node: usize) {
        let orders = std::mem::take(&mut self.nodes[node].pending);
        let Some(last) = orders.last() else { return };
        let ticket = last.ticket;
        self.nodes[node].storage.persist(&orders).expect("memory never fails");
        self.write(&format!("{} has written it", name(node)));
        self.input(node, Input::Durable(ticket));
    }

    /// Delivers what is under way from one replica to another.
    pub fn carry(&mut self, from: usize, to: usize) {
        for (sender, outgoing) in self.take(from, to) {
            self.receive(sender, outgoing);
        }
    }

    /// Delivers it, and everything of it once more.
    pub fn carry_twice(&mut self, from: usize, to: usize) {
        for (sender, outgoing) in self.take(from, to) {
            self.receive(sender, outgoing.clone());
            self.receive(sender, outgoing);
        }
    }

    /// Loses it.
    pub fn lose(&mut self, from: usize, to: usize) {
        for (_, outgoing) in self.take(from, to) {
            let text = message_text(&outgoing.message, &outgoing.payload);
            self.write(&format!("{} -> {} lost: {text}", name(from), name(to)));
        }
    }

    fn take(&mut self, from: usize, to: usize) -> Vec<(Sender, Outgoing)> {
        let is_wanted =
            |(sender, outgoing): &(Sender, Outgoing)| (sender.replica.0 as usize, outgoing.to.0 as usize) == (from, to);
        let (wanted, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.wire).into_iter().partition(is_wanted);
        self.wire = rest;
        wanted.into()
    }

    fn receive(&mut self, sender: Sender, outgoing: Outgoing) {
        let message = Message::from_bytes(&outgoing.message.to_bytes()).expect("it was encoded just now");
        self.input(outgoing.to.0 as usize, Input::Receive { sender, message, payload: outgoing.payload });
    }

    /// Delivers and synchronises everything among these replicas until nothing more happens; what is meant for others
    /// is lost.
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

    /// The replica is told that it will stop.
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

    /// What a replica executed, in order.
    pub fn executed(&self, node: usize) -> Vec<String> {
        let applier = self.nodes[node].applier.as_ref().expect("it has a database");
        applier.executor().executed().iter().map(|(_, p)| String::from_utf8_lossy(p).into_owned()).collect()
    }

    /// The log of a replica in memory, and its views.
    pub fn show(&mut self, node: usize) {
        let core = self.core(node);
        let hard = core.hard_state();
        let last = core.status().last.0;
        let entries: Vec<String> = (1..=last)
            .filter_map(|sequence| core.value_at(rsml::Sequence(sequence)))
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
    /// What a failed scene did so far.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.text);
        }
    }
}

/// `3C` is the third view that C may lead.
fn view(number: u64) -> String {
    match View(number).owner() {
        None => "0".into(),
        Some(owner) => format!("{}{}", number / 256, name(owner.0 as usize)),
    }
}

fn disk_name(disk: u128) -> char {
    name((disk - 0xD0) as usize)
}

fn entry_text(entry: &Bytes) -> String {
    value_text(&Value::from_bytes(entry.clone()))
}

fn value_text(value: &Value) -> String {
    if value.birth.is_some() {
        return "[birth]".into();
    }
    let mut requests = Vec::new();
    for batch in &value.batches {
        let disk: u128 = batch.disk_id.into();
        for (number, payload) in batch.clone().into_requests() {
            let text = payload.map_or("void".into(), |payload| String::from_utf8_lossy(&payload).into_owned());
            requests.push(format!("{}#{number} {text}", disk_name(disk)));
        }
    }
    let what = if requests.is_empty() { "no-op".into() } else { requests.join(", ") };
    format!("[{what} of {}]", view(value.proposed_view))
}

fn order_text(order: &Persist) -> String {
    let hard = &order.hard_state;
    let mut text = format!("promised {}, accepted {}", view(hard.promised.0), view(hard.accepted_view.0));
    if let Some(base) = order.base {
        text += &format!(", drops through {base}, database {}", hard.generation);
    }
    if order.truncate {
        text += &format!(", cuts at {}", order.from);
    }
    for (sequence, entry) in (order.from.0..).zip(&order.entries) {
        text += &format!(", {sequence} {}", entry_text(entry));
    }
    text
}

fn message_text(message: &Message, payload: &[Bytes]) -> String {
    let entries = |from: u64| -> String {
        (from..).zip(payload).map(|(sequence, entry)| format!(", {sequence} {}", entry_text(entry))).collect()
    };
    match message {
        Message::Hello(_) => "my disk is empty".into(),
        Message::Born(_) => "the cluster is born".into(),
        Message::PreVote(m) => format!("would you promise {}?", view(m.view)),
        Message::PreVoteReply(m) => {
            format!("{} (promised {})", if m.granted { "yes" } else { "no" }, view(m.promised))
        }
        Message::Prepare(m) if m.transfer > 0 => {
            format!("1a {}, told to by the primary of {}", view(m.view), view(m.transfer))
        }
        Message::Prepare(m) => format!("1a {}", view(m.view)),
        Message::Promise(m) => format!(
            "1b {}: accepted {}, length {}, committed {}{}",
            view(m.view),
            view(m.accepted_view),
            m.last,
            m.commit,
            m.lost.iter().map(|lost| format!(", lost {} to {}", lost.from, lost.to)).collect::<String>()
        ),
        Message::Fetch(m) => format!("fetch for {} from {}", view(m.view), m.from),
        Message::Fetched(m) => format!("fetched for {}{}", view(m.view), entries(m.from)),
        Message::Refuse(m) => format!("refused, promised {}", view(m.promised)),
        Message::Accept(m) => {
            let agreed = format!("L {}, after {} of {}", m.adopted, m.from - 1, view(m.agreed_view));
            let marks = format!("commit {}, token {}, probe {}", m.commit, m.token & 0xFFFF, m.probe);
            let lease =
                if m.lease_us > 0 { format!(", lease {} from {}", m.lease_us, m.lease_from_us) } else { String::new() };
            let answer = if m.answer { ", answer!" } else { "" };
            format!("2a {}: {agreed}, {marks}{lease}{answer}{}", view(m.view), entries(m.from))
        }
        Message::Accepted(m) => {
            let gap = if m.gap { ", gap" } else { "" };
            let lease = if m.lease_from_us > 0 { format!(", leased from {}", m.lease_from_us) } else { String::new() };
            format!(
                "2b {}: durable {} of {}, expects {} of {}, settled {}, committed {}, token {}, probe {}{gap}{lease}",
                view(m.view),
                m.durable_last,
                view(m.durable_view),
                m.expected,
                view(m.memory_view),
                m.settled,
                m.commit,
                m.token & 0xFFFF,
                m.probe
            )
        }
        Message::Requests(m) => {
            let text = |n: u64, p: &Bytes| match m.voids.contains(&n) {
                true => format!(" #{n} void"),
                false => format!(" #{n} {}", String::from_utf8_lossy(p)),
            };
            let requests = (m.first..).zip(payload).map(|(n, p)| text(n, p));
            format!("requests{}", requests.collect::<String>())
        }
        Message::RequestsGap(m) => format!("requests are missing from #{}", m.expected),
        Message::ReadPoint(m) => format!("read point? round {}", m.round & 0xFFFF),
        Message::ReadPointReply(m) => {
            format!("read point {} of {}, round {}", m.sequence, view(m.view), m.round & 0xFFFF)
        }
        Message::Report(_) => "report".into(),
        Message::Transfer(m) => format!("stand now: {} hands over", view(m.view)),
        Message::Resign(m) => format!("leads {} no more", view(m.view)),
        Message::Behind(m) => format!("get a snapshot: entries before {} are gone", m.first),
        Message::SnapshotRequest(m) => format!("snapshot from byte {}, through {} at least", m.offset, m.at_least),
        Message::SnapshotChunk(m) => {
            let bytes: usize = payload.iter().map(Bytes::len).sum();
            format!("snapshot through {} of {}: {bytes} bytes from {}", m.sequence, view(m.view), m.offset)
        }
    }
}
