//! One replica with its disk and database, and the effect of one step on it. A step depends on
//! nothing else, so the same step of the same node is computed only once, whatever the state of the
//! rest of the cluster.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rsml::MessageHeader;
use rsml::core::{
    CoreOptions, Input, MemberChange, Outgoing, Outputs, ReadId, ReconfigureId, Replica, RequestId, Start,
};
use rsml::{
    BirthRecord, Boot, ClusterId, DiskId, Epoch, FeatureLevel, HardState, Instant, LevelRange, Message, Persist,
    Recovered, ReplicaId, ReplicatedState, Sequence, Value, View,
};

use super::observed::{Disk, Observed, check_claim, hash};
use super::table::Table;
use super::voters::{Voters, disk_id};

/// The only time there is, apart from the moments at which timeouts fire.
const NOW: Instant = Instant(1_000);
const FAR: Instant = Instant(1 << 40);
pub const HEARTBEAT_US: u64 = 10;
pub const RETRY_US: u64 = 20;
pub const ELECTION_US: u64 = 30;

/// Settings that all nodes share.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub replicas: u8,
    /// The replicas with which the cluster begins.
    pub founders: Voters,
    /// Maximum number of values proposed and not yet committed.
    pub pipeline: u64,
    /// Log writes are durable at once.
    pub instant_disk: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub replica: Replica,
    pub disk: Disk,
    /// Log writes on their way to the disk.
    writes: VecDeque<Persist>,
    database: ReplicatedState,
    pub observed: Observed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    pub sender: MessageHeader,
    pub to: ReplicaId,
    pub message: Message,
    pub payload: Vec<Bytes>,
}

/// An event at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A message of this number arrives.
    Receive(u32),
    /// This many of the oldest log writes become durable, by one synchronisation.
    Complete(usize),
    /// Time passes: this many microseconds.
    Pass(u64),
    /// The election timeout fires, and a peer that has promised this view grants its pre-vote.
    Stand(View),
    Propose(u8),
    Read(u8),
    /// An operator wants these voters; the number of the call.
    Seal(u8, Voters),
    /// A crash that keeps `kept` of the log writes in progress, and the database or not; then a
    /// start.
    Restart {
        kept: usize,
        keeps_database: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Delivered { sequence: u64, entry: u64 },
    ReadReady { read: u8, point: u64 },
}

/// A property that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    Agreement,
    Durability,
    Promises,
    Reads,
    /// An assertion of the core.
    Assertion,
}

#[derive(Clone, Debug)]
pub struct Effect {
    pub node: u32,
    pub sent: Vec<u32>,
    pub events: Vec<Event>,
    pub broken: Option<(Broken, String)>,
}

/// Everything that steps need and share.
pub struct World {
    settings: Settings,
    pub nodes: Table<Node>,
    pub packets: Table<Packet>,
    /// An answer to a pre-vote, to make others of.
    grant: Message,
}

impl World {
    pub fn new(settings: Settings) -> World {
        let all = Settings { founders: Voters(0b11), replicas: 2, ..settings };
        let (mut asker, mut asked) = (born(0, all), born(1, all));
        asker.pass(ELECTION_US);
        let sender = asker.replica.sender();
        for Outgoing { to, message, payload } in asker.replica.ready(NOW).send {
            if to == ReplicaId(1) {
                asked.replica.step(NOW, Input::Receive { sender, message, payload });
            }
        }
        let answers = asked.replica.ready(NOW).send.into_iter().map(|sent| sent.message);
        let grant = answers.filter(|message| matches!(message, Message::PreVoteReply(_))).last();
        World {
            settings,
            nodes: Table::default(),
            packets: Table::default(),
            grant: grant.expect("a replica that is asked for a pre-vote answers"),
        }
    }
}

fn options(me: ReplicaId, settings: Settings) -> CoreOptions {
    CoreOptions {
        heartbeat_us: HEARTBEAT_US,
        retry_us: RETRY_US,
        election_min_us: ELECTION_US,
        election_max_us: ELECTION_US,
        max_in_flight_values: settings.pipeline,
        levels: LevelRange::new(1, 2),
        ..CoreOptions::new(me, (0..settings.replicas).map(ReplicaId).collect(), 0)
    }
}

const CLUSTER: ClusterId = ClusterId(7);

fn birth(settings: Settings) -> BirthRecord {
    let first_voters = settings.founders.ids().map(|replica| (ReplicaId(replica), disk_id(replica))).collect();
    BirthRecord::new(CLUSTER, &first_voters)
}

/// Just after birth: a secondary that has promised nothing.
pub fn born(me: u8, settings: Settings) -> Node {
    let (cluster_id, birth, state) = (CLUSTER, birth(settings), born_state(settings));
    let entries = vec![Value { birth: Some(birth), ..Value::default() }.to_bytes()];
    let hard = HardState { cluster_id, epoch: Epoch(1), disk_id: disk_id(me), ..HardState::default() };
    let disk = Disk { hard, entries };
    let mut node = Node::start(ReplicaId(me), settings, disk, state);
    node.writes = node.replica.ready(NOW).persist.into();
    node.complete(1).expect("the first write of a start changes no promise");
    node.settle();
    node
}

impl Node {
    fn start(me: ReplicaId, settings: Settings, disk: Disk, database: ReplicatedState) -> Node {
        let recovered = Recovered {
            hard_state: Some(disk.hard),
            first: Sequence::BIRTH,
            last: Sequence(disk.entries.len() as u64),
            ..Recovered::default()
        };
        let start = Start {
            recovered,
            entries: disk.entries.iter().cloned().map(Some).collect(),
            state: database.clone(),
            new_disk_id: disk.hard.disk_id,
            new_cluster_id: 0,
        };
        let replica = Replica::new(options(me, settings), start, NOW);
        let observed = Observed::of(&replica, &disk, 0);
        Node { replica, disk, writes: VecDeque::new(), database, observed }
    }

    /// Brings the node into the one form of all equal nodes.
    fn settle(&mut self) {
        self.replica.canonicalize(NOW);
        for (write_id, write) in (1..).zip(&mut self.writes) {
            write.write_id = rsml::WriteId(write_id);
        }
        self.observed = Observed::of(&self.replica, &self.disk, self.writes.len());
    }

    /// The node after `step`, with everything that happened. An assertion that fails leaves the
    /// node as it was.
    pub fn take(&self, step: Step, world: &World) -> Effect {
        let mut node = self.clone();
        let mut effect = Effect { node: 0, sent: Vec::new(), events: Vec::new(), broken: None };
        let outcome = catch_unwind(AssertUnwindSafe(|| node.run(step, world, &mut effect)));
        effect.broken = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(broken)) => Some(broken),
            Err(panic) => {
                node = self.clone();
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                Some((Broken::Assertion, text.unwrap_or_default()))
            }
        };
        effect.node = world.nodes.number(node);
        effect
    }

    fn run(&mut self, step: Step, world: &World, effect: &mut Effect) -> Result<(), (Broken, String)> {
        match step {
            Step::Receive(packet) => {
                let packet = world.packets.get(packet);
                let (sender, message) = (packet.sender, packet.message.clone());
                self.replica.step(NOW, Input::Receive { sender, message, payload: packet.payload.clone() });
            }
            Step::Complete(count) => self.complete(count)?,
            Step::Pass(us) => self.pass(us),
            Step::Stand(promised) => self.stand(promised, world, effect)?,
            Step::Propose(value) => {
                let payload = Bytes::copy_from_slice(&[b'a' + value]);
                self.replica.step(NOW, Input::Propose { id: RequestId(u64::from(value)), payload });
            }
            Step::Read(read) => self.replica.step(NOW, Input::Read(ReadId(u64::from(read)))),
            Step::Seal(number, voters) => {
                self.hear_of_new_voters(voters);
                let change = MemberChange { expected: self.observed.epoch, members: voters.members(), force: true };
                let id = ReconfigureId(u64::from(number));
                self.replica.step(NOW, Input::Reconfigure { id, change, deadline: FAR });
            }
            Step::Restart { kept, keeps_database } => self.restart(kept, keeps_database, world.settings)?,
        }
        while self.perform_outputs(world, effect)? || (world.settings.instant_disk && self.complete_all()?) {}
        self.settle();
        self.replica.check_invariants();
        Ok(())
    }

    /// A disk that begins to vote was heard from before; in the model nobody reports.
    fn hear_of_new_voters(&mut self, voters: Voters) {
        let present = Voters::from(self.replica.membership().configuration());
        let me = self.replica.id().0;
        for id in voters.ids().filter(|id| *id != me && !present.contains(*id)) {
            let (replica, disk_id) = (ReplicaId(id), disk_id(id));
            // Its first start: a later one would turn its messages away.
            let sender = MessageHeader { replica, disk_id, boot: Boot(1), ..self.replica.sender() };
            let message = Message::Report(Box::default());
            self.replica.step(NOW, Input::Receive { sender, message, payload: Vec::new() });
        }
    }

    /// The oldest log writes become durable, and the replica is notified.
    fn complete(&mut self, count: usize) -> Result<(), (Broken, String)> {
        let mut last = None;
        for write in self.writes.drain(..count).collect::<Vec<_>>() {
            last = Some(write.write_id);
            self.write(write)?;
        }
        if let Some(write_id) = last {
            self.replica.step(NOW, Input::Durable(write_id));
        }
        Ok(())
    }

    fn complete_all(&mut self) -> Result<bool, (Broken, String)> {
        let count = self.writes.len();
        self.complete(count)?;
        Ok(count > 0)
    }

    fn write(&mut self, write: Persist) -> Result<(), (Broken, String)> {
        let (before, after) = (&self.disk.hard, &write.hard_state);
        if after.promised < before.promised || after.accepted_view > after.promised {
            let story = format!("the disk's promise goes from {} to {}", before.promised, after.promised);
            return Err((Broken::Promises, story));
        }
        self.disk.hard = write.hard_state;
        if write.truncate || !write.entries.is_empty() {
            self.disk.entries.truncate(write.from.0 as usize - 1);
            assert_eq!(self.disk.entries.len() as u64 + 1, write.from.0, "a write leaves a hole in the log");
            self.disk.entries.extend(write.entries);
        }
        Ok(())
    }

    /// The timeouts up to `us` fire, and the replica's clock stands still again.
    fn pass(&mut self, us: u64) {
        self.replica.step(NOW.plus_us(us), Input::Tick);
        self.replica.canonicalize(NOW);
    }

    /// Asks for pre-votes, all of which peers grant that have promised this view.
    fn stand(&mut self, promised: View, world: &World, effect: &mut Effect) -> Result<(), (Broken, String)> {
        self.pass(ELECTION_US);
        let outputs = self.replica.ready(NOW);
        let questions: Vec<_> = outputs.send.iter().map(|sent| (sent.to, sent.message.clone())).collect();
        self.perform(outputs, world, effect)?;
        for (peer, question) in questions {
            let (Message::PreVote(_), mut answer) = (question, world.grant.clone()) else { continue };
            if let Message::PreVoteReply(answer) = &mut answer {
                // In the one form of all equal nodes every pre-vote has this number.
                (answer.round, answer.granted, answer.promised) = (0, true, promised.0);
            }
            let sender = MessageHeader { replica: peer, disk_id: disk_id(peer.0), ..self.replica.sender() };
            // The present boot of the peer is not known here, and the grant does not depend on it;
            // only a former one would be turned away.
            self.replica.step(NOW, Input::Receive { sender, message: answer, payload: Vec::new() });
        }
        Ok(())
    }

    fn restart(&mut self, kept: usize, keeps_database: bool, settings: Settings) -> Result<(), (Broken, String)> {
        for _ in 0..kept {
            let write = self.writes.pop_front().expect("no more are kept than there are");
            self.write(write)?;
        }
        let database = match keeps_database {
            true => self.database.clone(),
            false => born_state(settings),
        };
        *self = Node::start(self.replica.id(), settings, self.disk.clone(), database);
        Ok(())
    }

    /// Performs the outputs of the replica. True when that led to further inputs.
    fn perform_outputs(&mut self, world: &World, effect: &mut Effect) -> Result<bool, (Broken, String)> {
        let outputs = self.replica.ready(NOW);
        self.perform(outputs, world, effect)
    }

    fn perform(&mut self, outputs: Outputs, world: &World, effect: &mut Effect) -> Result<bool, (Broken, String)> {
        assert!(outputs.read_log.is_empty(), "small logs stay in memory");
        self.writes.extend(outputs.persist);
        for Outgoing { to, message, payload } in outputs.send {
            let promised = self.replica.hard_state().promised;
            check_claim(&message, promised, &self.disk).map_err(|text| (Broken::Promises, text.to_string()))?;
            if is_modelled(&message) {
                let sender = self.replica.sender();
                effect.sent.push(world.packets.number(Packet { sender, to, message, payload }));
            }
        }
        for (read, point) in outputs.read_ready {
            effect.events.push(Event::ReadReady { read: read.0 as u8, point: point.0 });
        }
        if outputs.deliver.is_empty() {
            return Ok(false);
        }
        for (sequence, entry) in outputs.deliver {
            effect.events.push(Event::Delivered { sequence: sequence.0, entry: hash(&entry) });
            execute(&mut self.database, sequence, entry);
        }
        self.replica.step(NOW, Input::applied(&self.database));
        Ok(true)
    }
}

fn is_modelled(message: &Message) -> bool {
    !matches!(
        message,
        Message::Hello(_) | Message::Born(_) | Message::PreVote(_) | Message::PreVoteReply(_) | Message::Report(_)
    )
}

/// The state of a database that has executed nothing since the cluster's birth.
fn born_state(settings: Settings) -> ReplicatedState {
    let configuration = birth(settings).configuration();
    ReplicatedState {
        cluster_id: CLUSTER,
        sequence: Sequence::BIRTH,
        first_voters: configuration.voters().collect(),
        configuration,
        feature_level: FeatureLevel(2),
        ..ReplicatedState::default()
    }
}

fn execute(database: &mut ReplicatedState, sequence: Sequence, entry: Bytes) {
    assert_eq!(database.sequence.next(), sequence, "delivered out of sequence");
    database.sequence = sequence;
    let value = Value::from_bytes(entry);
    database.time_us = database.time_us.max(value.time_us);
    if let Some(next) = value.reconfigure.and_then(|seal| database.configuration.after(&seal, sequence)) {
        database.configuration = next;
        let voting: Vec<DiskId> = database.configuration.voters().map(|(_, disk)| disk).collect();
        database.sessions.retain(|disk, _| voting.contains(disk));
    }
    for batch in &value.batches {
        let session = database.sessions.entry(DiskId(batch.disk_id.into())).or_default();
        for number in batch.first..batch.first + batch.payloads.len() as u64 {
            session.admit(rsml::Boot(batch.boot), number);
        }
    }
}
