//! Tests of exact boundaries: what happens at the very sequence, moment or size up to which a rule
//! holds. One replica is driven by hand, and the test plays its peers and its driver.

mod acceptor;
mod catch_up;
mod epochs;
mod leading;
mod learner;
mod lease;
mod level;
mod phase1;
mod replica;
mod secondary;
mod transfer;
mod trimming;
mod witness;

use bytes::Bytes;

use super::{CoreOptions, Input, Outputs, Replica, Start};
use crate::message::{Accept, Accepted, Message, MessageHeader, PreVoteReply, Promise, Report};
use crate::value::{BirthRecord, ReplicatedState, Value};
use crate::{
    Boot, ClusterId, DiskId, Epoch, FeatureLevel, HardState, Instant, Recovered, ReplicaId, Sequence, View, WriteId,
};

/// The replica that is run, and its peers.
const ME: ReplicaId = ReplicaId(0);
const ONE: ReplicaId = ReplicaId(1);
const TWO: ReplicaId = ReplicaId(2);
const CLUSTER: ClusterId = ClusterId(7);
/// Longer than any election timeout.
const ELECTION_US: u64 = 700_000;

/// The view numbered `round` of this owner.
fn view(round: u64, owner: ReplicaId) -> View {
    View(256 * round + u64::from(owner.0))
}

fn disk(replica: ReplicaId) -> DiskId {
    DiskId(100 + u128::from(replica.0))
}

fn birth_record() -> BirthRecord {
    BirthRecord::new(CLUSTER, &[ME, ONE, TWO].map(|id| (id, disk(id))).into())
}

/// An entry of the log: the bootstrap record, or a no-op that differs from those of other times.
fn entry(sequence: u64) -> Bytes {
    let birth = (sequence == 1).then(birth_record);
    Value { time_us: sequence, birth, ..Value::default() }.to_bytes()
}

fn entries(sequences: std::ops::RangeInclusive<u64>) -> Vec<Bytes> {
    sequences.map(entry).collect()
}

/// Replica 0 of three.
struct Lone {
    replica: Replica,
    now: u64,
    /// The last log write that it asked for.
    written: Option<WriteId>,
}

impl Lone {
    /// It starts with a log of `last` entries of `view`, none of which is known as committed except
    /// for the bootstrap record, and with an empty database.
    fn with_log(last: u64, view: View) -> Lone {
        Lone::started(last, view, |_, _| {})
    }

    /// The same, with other options, or from another disk.
    fn started(last: u64, view: View, change: impl FnOnce(&mut CoreOptions, &mut Start)) -> Lone {
        let mut options = CoreOptions::new(ME, vec![ME, ONE, TWO], 1);
        let hard = HardState {
            cluster_id: CLUSTER,
            epoch: Epoch(1),
            disk_id: disk(ME),
            boot: Boot(1),
            promised: view,
            accepted_view: view,
            ..HardState::default()
        };
        let recovered =
            Recovered { hard_state: Some(hard), first: Sequence(1), last: Sequence(last), lost: Vec::new() };
        let mut start = Start {
            recovered,
            entries: entries(1..=last).into_iter().map(Some).collect(),
            state: ReplicatedState::default(),
            new_disk_id: disk(ME),
            new_cluster_id: CLUSTER.0,
        };
        change(&mut options, &mut start);
        let replica = Replica::new(options, start, Instant(0));
        let mut lone = Lone { replica, now: 0, written: None };
        lone.ready();
        lone.sync();
        lone
    }

    /// The database has applied everything through `applied`, and the log in memory begins there.
    fn applied_through(start: &mut Start, applied: u64) {
        start.state = ReplicatedState {
            cluster_id: CLUSTER,
            sequence: Sequence(applied),
            configuration: birth_record().configuration(),
            first_voters: birth_record().configuration().voters().collect(),
            ..ReplicatedState::default()
        };
        let last = start.recovered.last.0;
        start.entries = (applied + 1..=last).map(|sequence| Some(entry(sequence))).collect();
    }

    fn ready(&mut self) -> Outputs {
        let outputs = self.replica.ready(Instant(self.now));
        self.replica.check_invariants();
        self.written = outputs.persist.last().map(|write| write.write_id).or(self.written);
        outputs
    }

    fn step(&mut self, input: Input) -> Outputs {
        self.replica.step(Instant(self.now), input);
        self.ready()
    }

    fn tick_at(&mut self, us: u64) -> Outputs {
        self.now = us;
        self.step(Input::Tick)
    }

    /// All log writes are done.
    fn sync(&mut self) -> Outputs {
        match self.written.take() {
            Some(write_id) => self.step(Input::Durable(write_id)),
            None => Outputs::default(),
        }
    }

    fn receive(&mut self, from: ReplicaId, message: Message) -> Outputs {
        self.receive_with(from, message, Vec::new())
    }

    fn receive_with(&mut self, from: ReplicaId, message: Message, payload: Vec<Bytes>) -> Outputs {
        let sender =
            MessageHeader { replica: from, cluster_id: CLUSTER, epoch: Epoch(1), disk_id: disk(from), boot: Boot(1) };
        self.step(Input::Receive { sender, message, payload })
    }

    fn report(&mut self, from: ReplicaId, report: Report) -> Outputs {
        self.receive(from, Message::Report(Box::new(report)))
    }

    fn applied(&mut self, sequence: u64) -> Outputs {
        let sequence = Sequence(sequence);
        self.step(Input::Applied {
            sequence,
            sessions: Default::default(),
            time_us: 0,
            digest: 0,
            feature_level: FeatureLevel::FIRST,
        })
    }

    fn last(&self) -> u64 {
        self.replica.status().last.0
    }

    fn commit(&self) -> u64 {
        self.replica.status().commit.0
    }

    /// It follows the primary of `view`, whose log it has through `commit`, which is chosen.
    fn follow(&mut self, view: View, commit: u64) -> Outputs {
        let from = view.owner().expect("some replica leads the view");
        self.receive(from, Message::Accept(accept(view, self.last(), commit)))
    }

    /// It stands, and is promised the view by replica 1, whose log is empty but for the birth
    /// record.
    fn stand(&mut self) -> View {
        let asked = self.tick_at(self.now + ELECTION_US);
        let round = asked.send.iter().find_map(|sent| match &sent.message {
            Message::PreVote(pre_vote) => Some(pre_vote.round),
            _ => None,
        });
        let round = round.expect("it stands for election");
        self.receive(ONE, Message::PreVoteReply(PreVoteReply { round, granted: true, promised: 0 }));
        let view = self.replica.status().view;
        self.sync();
        view
    }

    /// It stands and leads. Replica 1 holds the first entry only, and replica 2 says nothing.
    fn lead(&mut self) -> View {
        let view = self.stand();
        let promise = Promise { view: view.0, last: 1, commit: 1, first: 1, ..Promise::default() };
        self.receive(ONE, Message::Promise(promise));
        self.sync();
        assert_eq!(self.replica.status().role, "primary");
        view
    }
}

/// A heartbeat of the primary of `view` to a replica that holds its log through `last`.
fn accept(view: View, last: u64, commit: u64) -> Accept {
    let agreed_view = view.0;
    Accept { view: view.0, adopted: 1, from: last + 1, agreed_view, commit, ..Accept::default() }
}

/// A peer holds everything through `last`, durably and in `view`.
fn accepted(view: View, last: u64) -> Accepted {
    Accepted {
        view: view.0,
        durable_view: view.0,
        durable_last: last,
        memory_view: view.0,
        expected: last + 1,
        acknowledged: last,
        ..Accepted::default()
    }
}

/// The messages to one replica.
fn sent_to(outputs: &Outputs, to: ReplicaId) -> Vec<Message> {
    outputs.send.iter().filter(|sent| sent.to == to).map(|sent| sent.message.clone()).collect()
}
