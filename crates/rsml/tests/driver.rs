//! Running replicas: real threads, in-memory network and storage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rsml::core::CoreOptions;
use rsml::transport::{InMemoryTransport, SharedMessageBus, Transport, create_shared_message_bus};
use rsml::wal::InMemoryStorage;
use rsml::{
    CommittedValue, ConsensusReplica, ExecutionError, ExecutionNotifier, Persist, Recovered, ReplicaId, ReplicaOptions,
    RequestError, SealedState, Sequence, Storage, StorageError, StorageStatistics,
};

/// Counts requests; the outcome of a request is its place. Panics or fails on request.
#[derive(Default)]
struct Counter {
    executed: u64,
    sequence: Sequence,
    state: Option<Bytes>,
}

impl ExecutionNotifier for Counter {
    fn notify_commit_batch(
        &mut self,
        values: &[CommittedValue],
        seal: &mut dyn FnMut(&[Bytes]) -> SealedState,
    ) -> Result<Vec<Bytes>, ExecutionError> {
        let mut outcomes = Vec::new();
        for request in values.iter().flat_map(|value| &value.requests) {
            assert_ne!(request.payload, "panic", "asked for");
            self.executed += 1;
            outcomes.push(Bytes::from(self.executed.to_string()));
        }
        let sealed = seal(&outcomes);
        self.sequence = sealed.sequence;
        self.state = Some(sealed.state);
        Ok(outcomes)
    }

    fn sealed_state(&self) -> Result<Option<Bytes>, ExecutionError> {
        Ok(self.state.clone())
    }

    fn next_expected_sequence(&self) -> Sequence {
        self.sequence.next()
    }

    fn persisted_sequence(&self) -> Result<Sequence, ExecutionError> {
        Ok(Sequence::ZERO)
    }

    fn start_flush(&mut self) {}

    fn is_ready(&self) -> bool {
        true
    }
}

/// Storage that fails once it is told to.
struct Fragile {
    inner: InMemoryStorage,
    broken: Arc<AtomicBool>,
}

impl Storage for Fragile {
    fn recover(&mut self, entries_from: Sequence) -> Result<Recovered, StorageError> {
        self.inner.recover(entries_from)
    }

    fn persist(&mut self, orders: &[Persist]) -> Result<(), StorageError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StorageError::Io { what: "fdatasync", path: "test".into(), error: "broken".into() });
        }
        self.inner.persist(orders)
    }

    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        self.inner.read(from, to, max_bytes)
    }

    fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        self.inner.trim(below)
    }

    fn statistics(&self) -> StorageStatistics {
        self.inner.statistics()
    }
}

struct Cluster {
    replicas: BTreeMap<u8, ConsensusReplica>,
    broken: Vec<Arc<AtomicBool>>,
}

fn start(id: u8, bus: &SharedMessageBus, broken: &Arc<AtomicBool>) -> ConsensusReplica {
    let replicas = (0..3).map(ReplicaId).collect();
    let options = ReplicaOptions {
        core: CoreOptions::new(ReplicaId(id), replicas, u64::from(id)),
        no_primary_wait: Duration::from_secs(5),
        new_disk_id: 100 + u128::from(id),
        new_cluster_id: 7,
    };
    let storage = Fragile { inner: InMemoryStorage::new(), broken: broken.clone() };
    let connect = |sink| Ok(Arc::new(InMemoryTransport::new(ReplicaId(id), bus, sink)) as Arc<dyn Transport>);
    ConsensusReplica::start(options, storage, Counter::default(), connect).expect("an empty replica starts")
}

impl Cluster {
    fn new() -> Cluster {
        let bus = create_shared_message_bus();
        let broken: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let replicas = (0..3).map(|id| (id, start(id, &bus, &broken[usize::from(id)]))).collect();
        Cluster { replicas, broken }
    }

    async fn execute(&self, id: u8, payload: &'static str) -> Result<Bytes, RequestError> {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.replicas[&id].execute_request_async(Bytes::from_static(payload.as_bytes()), deadline).await
    }

    /// Waits until a replica has failed, and returns why.
    async fn failure(&self, id: u8) -> String {
        let mut watch = self.replicas[&id].watch();
        let failed = watch.wait_for(|role| role.failed.is_some());
        let role = tokio::time::timeout(Duration::from_secs(20), failed).await.expect("it fails").expect("it tells");
        role.failed.clone().expect("waited for").reason
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_through_any_replica_are_executed_in_one_order() {
    let cluster = Cluster::new();
    let mut places = Vec::new();
    for round in 0..30 {
        places.push(cluster.execute(round % 3, "x").await.expect("executed"));
    }
    let expected: Vec<String> = (1..=30).map(|place| place.to_string()).collect();
    assert_eq!(places, expected);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_synchronisation_stops_that_replica_and_the_others_go_on() {
    let cluster = Cluster::new();
    cluster.execute(1, "before").await.expect("executed");
    let primary = cluster.replicas[&1].primary().expect("there is one").0;
    cluster.broken[usize::from(primary)].store(true, Ordering::SeqCst);
    let other = (primary + 1) % 3;
    assert_eq!(cluster.execute(other, "after").await.expect("executed by the others"), "2");
    assert!(cluster.failure(primary).await.contains("fdatasync"));
    let refused = cluster.execute(primary, "refused").await;
    assert!(matches!(refused, Err(RequestError::NotExecuted(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_executor_ends_the_replica_and_tells_who_waits() {
    let cluster = Cluster::new();
    cluster.execute(0, "before").await.expect("executed");
    let outcome = cluster.execute(0, "panic").await;
    assert!(matches!(outcome, Err(RequestError::Unknown(_))), "{outcome:?}");
    assert!(cluster.failure(0).await.contains("invariant"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_under_load_ends_every_request() {
    let cluster = Cluster::new();
    cluster.execute(0, "before").await.expect("executed");
    let deadline = Instant::now() + Duration::from_secs(20);
    let requests: Vec<_> =
        (0..500).map(|_| cluster.replicas[&0].execute_request_async(Bytes::from_static(b"x"), deadline)).collect();
    cluster.replicas[&0].stop();
    for request in requests {
        match request.await {
            Ok(_) | Err(RequestError::Unknown(_) | RequestError::NotExecuted(_)) => {}
            Err(other) => panic!("unexpected: {other}"),
        }
    }
}
