//! Running replicas: real threads, in-memory network and storage.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use rsml::core::{CoreOptions, MemberChange};
use rsml::transport::{InMemoryTransport, SharedMessageBus, create_shared_message_bus};
use rsml::wal::InMemoryStorage;
use rsml::{
    Addresses, CommittedValue, ConfiguredMember, ConsensusReplica, DiskId, ExecutedBatch, ExecutionError,
    ExecutionNotifier, Failure, FailureKind, LevelRange, Members, Persist, ReconfigureError, Recovered, ReplicaId,
    ReplicaOptions, RequestError, SealedState, Sequence, Snapshot, SnapshotSink, SnapshotSource, Snapshots, Storage,
    StorageError, StorageStatistics, ThreadKind, TransferError,
};

/// Counts requests. The outcome of a request is its position. The request `panic` makes it panic.
#[derive(Default)]
struct Counter {
    /// Executes the request `differ` differently from the other replicas.
    is_odd: bool,
    live: Arc<Mutex<Count>>,
    installed: Arc<Mutex<BTreeMap<u64, Count>>>,
}

/// The database of a counter. A copy consists of the three fields, one after the other.
#[derive(Clone, Default)]
struct Count {
    executed: u64,
    sequence: Sequence,
    state: Option<Bytes>,
}

/// How often [`eventually`] looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests that were counted, until they are committed.
struct Counted<'e> {
    live: MutexGuard<'e, Count>,
    outcomes: Vec<Bytes>,
}

impl ExecutedBatch for Counted<'_> {
    fn outcomes(&self) -> &[Bytes] {
        &self.outcomes
    }

    fn commit(mut self: Box<Self>, sealed: SealedState) -> Result<Vec<Bytes>, ExecutionError> {
        self.live.sequence = sealed.sequence;
        self.live.state = Some(sealed.state);
        Ok(self.outcomes)
    }
}

impl ExecutionNotifier for Counter {
    fn notify_commit_batch<'e>(
        &'e mut self,
        values: &'e [CommittedValue],
    ) -> Result<Box<dyn ExecutedBatch + 'e>, ExecutionError> {
        let mut live = lock(&self.live);
        let mut outcomes = Vec::new();
        for request in values.iter().flat_map(|value| &value.requests) {
            assert_ne!(request.payload, "panic", "asked for");
            live.executed += if self.is_odd && request.payload == "differ" { 2 } else { 1 };
            outcomes.push(Bytes::from(live.executed.to_string()));
        }
        Ok(Box::new(Counted { live, outcomes }))
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(lock(&self.live).state.clone())
    }

    fn next_expected_sequence(&self) -> Sequence {
        lock(&self.live).sequence.next()
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        Ok(Sequence::ZERO)
    }

    fn start_flush(&mut self) {}

    fn is_ready(&self) -> bool {
        true
    }

    fn snapshots(&self) -> Arc<dyn Snapshots> {
        Arc::new(CounterSnapshots { live: self.live.clone(), installed: self.installed.clone() })
    }

    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        let finished = lock(&self.installed).remove(&generation);
        *lock(&self.live) = finished.ok_or_else(|| ExecutionError::failed(format!("no generation {generation}")))?;
        Ok(())
    }
}

struct CounterSnapshots {
    live: Arc<Mutex<Count>>,
    installed: Arc<Mutex<BTreeMap<u64, Count>>>,
}

impl Snapshots for CounterSnapshots {
    fn take(&self) -> Result<Snapshot, ExecutionError> {
        let Count { executed, sequence, state } = lock(&self.live).clone();
        let state = state.ok_or_else(|| ExecutionError::failed("nothing was counted yet"))?;
        let copy = [&executed.to_be_bytes()[..], &sequence.0.to_be_bytes(), &state].concat();
        Ok(Snapshot { state, source: Box::new(CounterSource(copy.into())) })
    }

    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError> {
        lock(&self.installed).remove(&generation);
        Ok(Box::new(CounterSink { installed: self.installed.clone(), generation, written: Vec::new() }))
    }
}

struct CounterSource(Bytes);

impl SnapshotSource for CounterSource {
    fn total_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, ExecutionError> {
        let offset = usize::try_from(offset).expect("within the copy");
        Ok(self.0.slice(offset..offset + length))
    }
}

struct CounterSink {
    installed: Arc<Mutex<BTreeMap<u64, Count>>>,
    generation: u64,
    written: Vec<u8>,
}

impl SnapshotSink for CounterSink {
    fn write(&mut self, bytes: Bytes) -> Result<(), ExecutionError> {
        self.written.extend_from_slice(&bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Bytes, ExecutionError> {
        let short = |_| ExecutionError::corrupt("the copy is too short");
        let mut bytes = Bytes::from(self.written);
        let executed = bytes.try_get_u64().map_err(short)?;
        let sequence = Sequence(bytes.try_get_u64().map_err(short)?);
        let count = Count { executed, sequence, state: Some(bytes.clone()) };
        lock(&self.installed).insert(self.generation, count);
        Ok(bytes)
    }
}

/// Storage that fails on request, and hangs while a test holds its lock.
struct Fragile {
    inner: InMemoryStorage,
    broken: Arc<AtomicBool>,
    hangs: Arc<Mutex<()>>,
}

impl Storage for Fragile {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.inner.recover()
    }

    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError> {
        self.inner.load(from)
    }

    fn persist(&mut self, writes: &[Persist]) -> Result<usize, StorageError> {
        drop(lock(&self.hangs));
        if self.broken.load(Ordering::SeqCst) {
            return Err(StorageError::Io { what: "fdatasync", path: "test".into(), error: "broken".into() });
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
        self.inner.has_space()
    }

    fn statistics(&self) -> StorageStatistics {
        self.inner.statistics()
    }
}

struct Cluster {
    replicas: BTreeMap<u8, ConsensusReplica>,
    broken: Vec<Arc<AtomicBool>>,
    hangs: Vec<Arc<Mutex<()>>>,
    storages: Vec<InMemoryStorage>,
}

fn core_options(id: u8) -> CoreOptions {
    let replicas = (0..3).map(ReplicaId).collect();
    CoreOptions { digest_interval: 4, ..CoreOptions::new(ReplicaId(id), replicas, u64::from(id)) }
}

fn start(
    core: CoreOptions,
    bus: &SharedMessageBus,
    inner: &InMemoryStorage,
    broken: &Arc<AtomicBool>,
    hangs: &Arc<Mutex<()>>,
) -> ConsensusReplica {
    let id = core.me.0;
    let options = ReplicaOptions {
        flush_after_log_bytes: 1 << 20,
        stalled_after: Duration::from_millis(500),
        // On a busy machine, everything may take long.
        no_primary_wait: Duration::from_secs(60),
        ..ReplicaOptions::new(core, 100 + u128::from(id), 7)
    };
    let storage = Fragile { inner: inner.clone(), broken: broken.clone(), hangs: hangs.clone() };
    let counter = Counter { is_odd: id == 2, ..Counter::default() };
    let recovered = ConsensusReplica::recover(options, storage).expect("the log is empty");
    let ready = recovered.with_database(counter).expect("the database is empty");
    let transport = InMemoryTransport::new(ReplicaId(id), bus, ready.sink());
    ready.start(Arc::new(transport))
}

impl Cluster {
    fn new() -> Cluster {
        Self::with(core_options)
    }

    /// Starts each replica with its own options.
    fn with(options: impl Fn(u8) -> CoreOptions) -> Cluster {
        let bus = create_shared_message_bus();
        let broken: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let storages: Vec<_> = (0..3).map(|_| InMemoryStorage::new()).collect();
        let hangs: Vec<_> = (0..3).map(|_| Arc::default()).collect();
        let start = |id: u8| {
            let index = usize::from(id);
            start(options(id), &bus, &storages[index], &broken[index], &hangs[index])
        };
        let replicas = (0..3).map(|id| (id, start(id))).collect();
        Cluster { replicas, broken, hangs, storages }
    }

    async fn execute(&self, id: u8, payload: &'static str) -> Result<Bytes, RequestError> {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.replicas[&id].execute_request_async(Bytes::from_static(payload.as_bytes()), deadline).await
    }

    /// Waits until `replica` knows of another primary than `former`.
    async fn primary_but(&self, former: Option<ReplicaId>, replica: u8) -> ReplicaId {
        let mut watch = self.replicas[&replica].watch();
        let found = watch.wait_for(|role| role.primary.is_some() && role.primary != former);
        let role = tokio::time::timeout(Duration::from_secs(20), found)
            .await
            .expect("there is one")
            .expect("the replica runs");
        role.primary.expect("waited for")
    }

    /// Waits until a replica has failed, and returns why.
    async fn failure(&self, id: u8) -> Failure {
        let mut watch = self.replicas[&id].watch();
        let failed = watch.wait_for(|role| role.failed.is_some());
        let role =
            tokio::time::timeout(Duration::from_secs(20), failed).await.expect("it fails").expect("the replica runs");
        role.failed.clone().expect("waited for")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_through_any_replica_are_executed_in_one_order() {
    let cluster = Cluster::new();
    let mut positions = Vec::new();
    for round in 0..30 {
        positions.push(cluster.execute(round % 3, "x").await.expect("executed"));
    }
    let expected: Vec<String> = (1..=30).map(|position| position.to_string()).collect();
    assert_eq!(positions, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_point_covers_what_was_acknowledged_before_on_every_replica() {
    let cluster = Cluster::new();
    cluster.execute(0, "x").await.expect("executed");
    let acknowledged = cluster.replicas[&0].applied();
    for replica in cluster.replicas.values() {
        let point = replica.read_barrier(Instant::now() + Duration::from_secs(20)).await.expect("a quorum confirms");
        assert!(point >= acknowledged && replica.applied() >= point, "{point} {acknowledged}");
    }
}

#[test]
fn a_disk_that_hangs_is_reported_until_it_works_again() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cluster = Cluster::new();
    runtime.block_on(cluster.execute(1, "before")).expect("executed");
    let hangs = lock(&cluster.hangs[2]);
    runtime.block_on(cluster.execute(1, "meanwhile")).expect("executed by the others");
    let deadline = Instant::now() + Duration::from_secs(20);
    let wait_until = |what: &dyn Fn(&ConsensusReplica) -> bool| {
        while !what(&cluster.replicas[&2]) {
            assert!(Instant::now() < deadline, "{:?}", cluster.replicas[&2].status().stalled);
            std::thread::yield_now();
        }
    };
    let names_log = |replica: &ConsensusReplica| replica.stalled().is_some_and(|found| found.thread == ThreadKind::Log);
    wait_until(&names_log);
    drop(hangs);
    wait_until(&|replica| !names_log(replica));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_that_replica_and_the_others_continue() {
    let cluster = Cluster::new();
    cluster.execute(1, "before").await.expect("executed");
    let primary = cluster.replicas[&1].primary().expect("there is one").0;
    cluster.broken[usize::from(primary)].store(true, Ordering::SeqCst);
    let other = (primary + 1) % 3;
    assert_eq!(cluster.execute(other, "after").await.expect("executed by the others"), "2");
    let failure = cluster.failure(primary).await;
    assert!(failure.kind == FailureKind::Storage && failure.reason.contains("fdatasync"), "{failure:?}");
    let refused = cluster.execute(primary, "refused").await;
    assert!(matches!(refused, Err(RequestError::NotExecuted(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_found_no_space_are_performed_once_there_is_some() {
    let cluster = Cluster::new();
    cluster.execute(0, "before").await.expect("executed");
    cluster.storages.iter().for_each(|storage| storage.set_full(true));
    let waiting = cluster.execute(0, "x");
    tokio::pin!(waiting);
    tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.expect_err("no majority has space");
    cluster.storages.iter().for_each(|storage| storage.set_full(false));
    assert_eq!(waiting.await.expect("executed"), "2");
    assert!(cluster.replicas.values().all(|replica| replica.watch().borrow().failed.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_executor_ends_the_replica_and_answers_its_callers() {
    let cluster = Cluster::new();
    cluster.execute(0, "before").await.expect("executed");
    let outcome = cluster.execute(0, "panic").await;
    assert!(matches!(outcome, Err(RequestError::Unknown(_))), "{outcome:?}");
    assert_eq!(cluster.failure(0).await.kind, FailureKind::Invariant);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_executes_differently_stops_and_the_others_report_it() {
    let cluster = Cluster::new();
    cluster.execute(2, "differ").await.expect("executed");
    for _ in 0..12 {
        cluster.execute(0, "x").await.expect("executed");
    }
    let failure = cluster.failure(2).await;
    assert_eq!(failure.kind, FailureKind::Diverged);
    assert!(failure.reason.contains("replicas 0 and 1 agree on"), "{failure}");
    cluster.execute(1, "x").await.expect("executed by the others");
    for id in [0, 1] {
        let replica = &cluster.replicas[&id];
        let is_reported = async || replica.status().core.diverged_peers.contains_key(&ReplicaId(2));
        eventually("the others report it", is_reported).await;
        assert_eq!(replica.status().failed, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_under_load_ends_every_request() {
    let cluster = Cluster::new();
    cluster.execute(0, "before").await.expect("executed");
    let deadline = Instant::now() + Duration::from_secs(20);
    let requests: Vec<_> =
        (0..500).map(|_| cluster.replicas[&0].execute_request_async(Bytes::from_static(b"x"), deadline)).collect();
    cluster.replicas[&0].stop(false);
    for request in requests {
        match request.await {
            Ok(_) | Err(RequestError::Unknown(_) | RequestError::NotExecuted(_)) => {}
            Err(other) => panic!("unexpected: {other}"),
        }
    }
}

/// The only place where these tests wait for something that no watch announces.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let give_up = soon();
    while !is_so().await {
        assert!(Instant::now() < give_up, "never happened: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Prints how long the slowest write took.
#[tokio::test(flavor = "multi_thread")]
async fn writes_continue_while_leadership_is_passed_around() {
    let cluster = Arc::new(Cluster::new());
    cluster.execute(0, "first").await.expect("executed");
    let is_over = Arc::new(AtomicBool::new(false));
    let writers = (0..3).map(|id| {
        let (cluster, is_over) = (cluster.clone(), is_over.clone());
        tokio::spawn(async move {
            let (mut written, mut longest) = (0, Duration::ZERO);
            while !is_over.load(Ordering::SeqCst) {
                let started = Instant::now();
                cluster.execute(id, "x").await.expect("executed");
                longest = longest.max(started.elapsed());
                written += 1;
            }
            (written, longest)
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut primary = cluster.primary_but(None, 0).await;
    for _ in 0..10 {
        let to = ReplicaId((primary.0 + 1) % 3);
        let transferred = cluster.replicas[&primary.0].transfer_primary(Some(to), soon()).await;
        assert_eq!(transferred, Ok(to));
        primary = to;
    }
    is_over.store(true, Ordering::SeqCst);
    let (mut written, mut longest) = (1, Duration::ZERO);
    for writer in writers {
        let (more, slowest) = writer.await.expect("it writes to the end");
        (written, longest) = (written + more, longest.max(slowest));
    }
    println!("10 transfers during {written} writes, of which the slowest took {longest:?}");
    assert_eq!(cluster.execute(0, "last").await.expect("executed"), (written + 1).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_refuses_a_transfer_and_names_the_primary() {
    let cluster = Cluster::new();
    cluster.execute(0, "x").await.expect("executed");
    let primary = cluster.primary_but(None, 0).await;
    let secondary = cluster.replicas.values().find(|replica| !replica.is_primary()).expect("two of three");
    cluster.primary_but(None, secondary.id().0).await;
    let refused = secondary.transfer_primary(None, soon()).await;
    assert_eq!(refused, Err(TransferError::NotPrimary { primary: Some(primary) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_stops_gracefully_hands_over_first() {
    let cluster = Arc::new(Cluster::new());
    cluster.execute(0, "x").await.expect("executed");
    let former = cluster.primary_but(None, 0).await;
    let stopping = cluster.clone();
    tokio::task::spawn_blocking(move || stopping.replicas[&former.0].stop(true)).await.expect("it stops");
    let led = cluster.replicas.values().filter(|replica| replica.is_primary()).count();
    assert_eq!(led, 1, "another one leads already");
    let other = (former.0 + 1) % 3;
    assert_eq!(cluster.execute(other, "y").await.expect("executed"), "2");
    let stopped = cluster.replicas[&former.0].transfer_primary(None, soon()).await;
    assert!(matches!(stopped, Err(TransferError::Stopped(_))), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_may_no_longer_lead_hands_over() {
    let cluster = Cluster::new();
    cluster.execute(0, "x").await.expect("executed");
    let former = cluster.primary_but(None, 0).await;
    cluster.replicas[&former.0].set_eligible(false);
    let primary = cluster.primary_but(Some(former), former.0).await;
    let mut watch = cluster.replicas[&primary.0].watch();
    let recovered = watch.wait_for(|role| role.is_primary && role.recovered);
    tokio::time::timeout(Duration::from_secs(20), recovered).await.expect("it recovers").expect("the replica runs");
    assert_eq!(cluster.execute(former.0, "y").await.expect("executed"), "2");
    let back = cluster.replicas[&primary.0].transfer_primary(Some(former), soon()).await;
    assert_eq!(back, Err(TransferError::Ineligible(former)));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_and_reads_continue_while_no_majority_has_space() {
    // A new primary needs durable promises, for which there is no space. So the primary must not
    // change during this test, as it does on a busy machine when a heartbeat is late.
    let patient = |id| CoreOptions { election_min_us: 60_000_000, election_max_us: 90_000_000, ..core_options(id) };
    let cluster = Cluster::with(patient);
    cluster.execute(0, "x").await.expect("executed");
    // A replica serves reads from its own disk, so the one that serves the later read must have
    // this write.
    cluster.replicas[&1].read_barrier(soon()).await.expect("a quorum confirms");
    let attempt =
        || cluster.replicas[&0].execute_request_async(Bytes::new(), Instant::now() + Duration::from_millis(50));
    for full in [1, 2] {
        cluster.storages[full].set_full(true);
    }
    // Requests that get a number before the primary knows that continue once there is space.
    while attempt().await != Err(RequestError::StorageFull) {}
    cluster.replicas[&1].read_barrier(soon()).await.expect("a read needs no space");
    for full in [1, 2] {
        cluster.storages[full].set_full(false);
    }
    eventually("there is space", async || attempt().await != Err(RequestError::StorageFull)).await;
    cluster.execute(0, "y").await.expect("executed");
    assert!(cluster.replicas.values().all(|replica| replica.watch().borrow().failed.is_none()));
}

/// The options of a program that knows changes of members.
fn at_level_2(id: u8) -> CoreOptions {
    CoreOptions { levels: LevelRange::new(1, 2), ..core_options(id) }
}

fn voter(id: u8) -> (ReplicaId, ConfiguredMember) {
    (ReplicaId(id), ConfiguredMember::voter(DiskId(100 + u128::from(id))))
}

/// Lets these replicas vote, and no other be a member. A new one follows as an observer first.
async fn change_voters(cluster: &Cluster, voters: &[u8]) {
    let wanted: Members = voters.iter().map(|id| voter(*id)).collect();
    eventually(&format!("the members become {voters:?}"), async || {
        for replica in cluster.replicas.values().filter(|replica| replica.is_primary()) {
            let present = replica.status().core.configuration;
            if present.members == wanted {
                return true;
            }
            let mut members = present.members;
            for id in voters.iter().map(|id| ReplicaId(*id)) {
                members.entry(id).or_insert(ConfiguredMember::Observer { addresses: Addresses::default() });
            }
            let follow_all = members.len() == replica.status().core.configuration.members.len();
            let members = if follow_all { wanted.clone() } else { members };
            // Two voters are no good for anything but this.
            let force = follow_all && voters.len() == 2;
            let change = MemberChange { expected: present.epoch, members, force };
            let result = replica.reconfigure(change, soon()).await;
            let is_refused_for_now = matches!(
                result,
                Err(ReconfigureError::NotPrimary { .. }
                    | ReconfigureError::NotEstablished
                    | ReconfigureError::NotReady { .. }
                    | ReconfigureError::LevelTooLow { .. }
                    | ReconfigureError::LevelNotApplied(..)
                    | ReconfigureError::OtherEpoch { .. })
            );
            assert!(is_refused_for_now || result.is_ok(), "{result:?}");
        }
        false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_leave_and_return_while_the_others_write() {
    let cluster = Arc::new(Cluster::with(at_level_2));
    cluster.execute(0, "x").await.expect("executed");
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (cluster, is_over) = (cluster.clone(), is_over.clone());
        // Replica 0 stays a member all the time.
        tokio::spawn(async move {
            let mut written = 1;
            while !is_over.load(Ordering::SeqCst) {
                written += 1;
                assert_eq!(cluster.execute(0, "x").await.expect("executed"), written.to_string());
            }
            written
        })
    };
    for voters in [&[0, 1][..], &[0, 1, 2], &[0], &[0, 1, 2]] {
        change_voters(&cluster, voters).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let mut written = writer.await.expect("it writes to the end");
    for id in [1, 2, 0] {
        written += 1;
        let result = cluster.execute(id, "y").await;
        assert_eq!(result.expect("a member that was away serves again"), written.to_string(), "replica {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_removed_refuses_requests_and_says_so() {
    let cluster = Cluster::with(at_level_2);
    cluster.execute(0, "x").await.expect("executed");
    let removed = cluster.primary_but(None, 0).await.0;
    let others: Vec<u8> = (0..3).filter(|id| *id != removed).collect();
    change_voters(&cluster, &others).await;
    assert_eq!(cluster.execute(others[0], "y").await.expect("executed"), "2");
    let refused = cluster.execute(removed, "z").await.expect_err("it is no member");
    assert!(matches!(&refused, RequestError::NotExecuted(why) if why.contains("removed")), "{refused:?}");
    let is_retired = async || cluster.replicas[&removed].status().core.is_retired;
    eventually("it learns that the others do without it", is_retired).await;
}
