//! The replica under test, and its surroundings.

use std::sync::Mutex as Plain;
use std::time::{Duration, Instant as StdInstant};

use super::super::sync;
use super::super::sync::thread::{self, JoinHandle};
use super::*;
use crate::core::{CoreOptions, Input, Replica, Start};
use crate::message::MessageHeader;
use crate::transport::{Envelope, EventSink, Transport, TransportEvent};
use crate::wal::InMemoryStorage;
use crate::{
    Applier, Boot, CommittedValue, DiskId, ExecutedBatch, ExecutionError, ExecutionNotifier, Instant, LevelRange,
    Membership, Message, Persist, Recovered, ReplicaId, SealedState, Snapshot, SnapshotSink, SnapshotSource, Snapshots,
    StorageStatistics,
};

pub const ME: ReplicaId = ReplicaId(0);
pub const PEER: ReplicaId = ReplicaId(1);
pub const COPY_BYTES: usize = 10;

/// Counts requests: the outcome of each is its position among all executed requests.
#[derive(Clone, Default)]
struct Counter {
    executed: u64,
    sealed: Option<SealedState>,
    copied: Arc<Plain<Option<Bytes>>>,
}

/// Requests that were counted but not committed yet.
struct Counted<'e> {
    counter: &'e mut Counter,
    outcomes: Vec<Bytes>,
}

impl ExecutedBatch for Counted<'_> {
    fn outcomes(&self) -> &[Bytes] {
        &self.outcomes
    }

    fn commit(self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError> {
        *self.counter.copied.lock().expect("no test panics here") = Some(sealed.state.clone());
        self.counter.sealed = Some(sealed);
        Ok(self.outcomes)
    }
}

impl ExecutionNotifier for Counter {
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        let mut outcomes = Vec::new();
        for request in values.iter().flat_map(|value| &value.requests) {
            if request.payload == "fail" {
                return Err(ExecutionError::failed("asked for"));
            }
            assert_ne!(request.payload, "panic", "asked for");
            self.executed += 1;
            outcomes.push(Bytes::from(self.executed.to_string()));
        }
        Ok(Box::new(Counted { counter: self, outcomes }))
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(self.sealed.as_ref().map(|sealed| sealed.state.clone()))
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.sealed.as_ref().map_or(Sequence(1), |sealed| sealed.sequence.next())
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        Ok(Sequence::ZERO)
    }

    fn start_flush(&mut self) {}

    fn is_ready(&self) -> bool {
        true
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(Copies(self.copied.clone()))
    }

    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        panic!("nothing was installed as generation {generation}")
    }
}

/// Copies of the sealed state, with constant bytes as data.
struct Copies(Arc<Plain<Option<Bytes>>>);

impl Snapshots for Copies {
    fn take(&self) -> Result<Snapshot, ExecutionError> {
        let state = self.0.lock().expect("no test panics here").clone().expect("the cluster is bootstrapped");
        Ok(Snapshot { state, source: Box::new(Rows) })
    }

    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError> {
        panic!("generation {generation} is not wanted")
    }
}

struct Rows;

impl SnapshotSource for Rows {
    fn total_bytes(&self) -> u64 {
        COPY_BYTES as u64
    }

    fn read(&mut self, _: u64, length: usize) -> Result<Bytes, ExecutionError> {
        Ok(Bytes::from(vec![7; length]))
    }
}

/// A log that fails on request.
#[derive(Clone, Default)]
struct Log {
    inner: InMemoryStorage,
    is_broken: Arc<std::sync::atomic::AtomicBool>,
}

impl Storage for Log {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.inner.recover()
    }

    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError> {
        self.inner.load(from)
    }

    fn persist(&mut self, writes: &[Persist]) -> Result<usize, StorageError> {
        if self.is_broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StorageError::Io { what: "fdatasync", path: "test".into(), error: "asked for".into() });
        }
        self.inner.persist(writes)
    }

    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        self.inner.read(from, to, max_bytes)
    }

    fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        self.inner.trim(below)
    }

    fn has_space(&self) -> bool {
        true
    }

    fn statistics(&self) -> StorageStatistics {
        self.inner.statistics()
    }
}

/// Passes what the replica sends to its peer to the test.
struct Wire {
    sent: sync::mpsc::Sender<(Message, Vec<Bytes>)>,
}

impl Transport for Wire {
    fn send(&self, envelope: Envelope) {
        let message = Message::from_bytes(&envelope.body).expect("of this version");
        // Fails only after the test has ended.
        let _unheard = self.sent.send((message, envelope.payload));
    }

    fn set_peers(&self, _: &Membership) {}

    fn shutdown(&self) {}
}

fn core_options(replicas: &[ReplicaId]) -> CoreOptions {
    CoreOptions::new(ME, replicas.to_vec(), 1)
}

/// Steps the core until `is_done`, and does everything that it asks for at once.
fn step_until(
    core: &mut Replica,
    (log, applier): (&mut Log, &mut Applier<Counter>),
    now: &mut Instant,
    is_done: impl Fn(&Replica) -> bool,
) {
    while !is_done(core) {
        *now = Instant(now.0 + 10_000);
        core.step(*now, Input::Tick);
        loop {
            let outputs = core.ready(*now);
            if outputs.persist.is_empty() && outputs.deliver.is_empty() {
                break;
            }
            log.persist(&outputs.persist).expect("memory does not fail");
            if let Some(last) = outputs.persist.last() {
                core.step(*now, Input::Durable(last.write_id));
            }
            if !outputs.deliver.is_empty() {
                applier.apply(outputs.deliver).expect("the counter does not fail");
                core.step(*now, Input::applied(applier.state()));
            }
        }
        assert!(now.0 < 60_000_000, "it takes too long: {:?}", core.status());
    }
}

fn new_core(replicas: &[ReplicaId], log: &mut Log, applier: &Applier<Counter>, now: Instant) -> Replica {
    let recovered = log.recover().expect("memory");
    let state = applier.state().clone();
    let entries = log.load(state.sequence.next()).expect("memory");
    let start = Start { recovered, entries, state, new_disk_id: DiskId(100), new_cluster_id: 7 };
    Replica::new(core_options(replicas), start, now)
}

/// A running replica that leads.
pub struct Harness {
    pub replica: Arc<ConsensusReplica>,
    pub sink: EventSink,
    /// The messages that the replica sends to its peer.
    pub received: sync::mpsc::Receiver<(Message, Vec<Bytes>)>,
    peer: MessageHeader,
    is_broken: Arc<std::sync::atomic::AtomicBool>,
}

impl Harness {
    /// Bootstraps a cluster of one replica, restarts the replica with a peer that does not vote,
    /// lets it become primary, and only then starts its threads.
    pub fn start() -> Harness {
        let mut log = Log::default();
        let mut applier = Applier::new(Counter::default(), LevelRange::default()).expect("it is empty");
        let mut now = Instant(0);
        let mut bootstrapper = new_core(&[ME], &mut log, &applier, now);
        step_until(&mut bootstrapper, (&mut log, &mut applier), &mut now, Replica::is_recovered);
        let mut core = new_core(&[ME, PEER], &mut log, &applier, now);
        step_until(&mut core, (&mut log, &mut applier), &mut now, Replica::is_recovered);
        let hard = *core.hard_state();
        let peer = MessageHeader {
            replica: PEER,
            disk_id: DiskId(200),
            boot: Boot(1),
            cluster_id: hard.cluster_id,
            epoch: hard.epoch,
        };
        let options = ReplicaOptions::new(core_options(&[ME, PEER]), 100, 7);
        let (sent, received) = sync::mpsc::channel();
        let is_broken = log.is_broken.clone();
        let started = sync::now() - Duration::from_micros(now.0);
        let ready = ReadyReplica::new(options, core, started, log, applier);
        let sink = ready.sink();
        let replica = Arc::new(ready.start(Arc::new(Wire { sent })));
        Harness { replica, sink, received, peer, is_broken }
    }

    /// The peer sends these messages over its connection, one after the other.
    pub fn peer_sends(&self, messages: Vec<(Message, Vec<Bytes>)>) -> JoinHandle<()> {
        self.deliver_from(self.peer, messages)
    }

    /// A stranger, which is no replica of this cluster, sends these messages.
    pub fn stranger_sends(&self, messages: Vec<(Message, Vec<Bytes>)>) -> JoinHandle<()> {
        self.deliver_from(MessageHeader { replica: ReplicaId(9), ..self.peer }, messages)
    }

    fn deliver_from(&self, sender: MessageHeader, messages: Vec<(Message, Vec<Bytes>)>) -> JoinHandle<()> {
        let sink = self.sink.clone();
        thread::spawn(move || {
            for (message, payload) in messages {
                sink(TransportEvent::Received(Envelope { sender, to: ME, body: message.to_bytes(), payload }));
            }
        })
    }

    pub fn break_log(&self) {
        self.is_broken.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Runs `task` with the replica on a thread of its own.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl FnOnce(&ConsensusReplica) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let replica = self.replica.clone();
        thread::spawn(move || task(&replica))
    }
}

/// Later than any test ends.
pub fn deadline() -> StdInstant {
    sync::now() + Duration::from_secs(3000)
}

/// The position of an executed request among all of them.
pub fn position(outcome: Result<Bytes, RequestError>) -> u64 {
    let outcome = outcome.expect("it is executed");
    String::from_utf8_lossy(&outcome).parse().expect("a number")
}
