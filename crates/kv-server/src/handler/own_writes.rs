//! Tests that reads see the earlier writes of their own connection, in whatever order the writes
//! end. They use a real socket and the pipeline, with a router whose writes end when the test says
//! so.

use std::collections::HashSet;

use kv_api::thrift::wire as codec;
use kv_api::{CommitResult, KvOperation, KvOutcome, Row, Rows, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::access::Gate;
use crate::cluster::{ClusterSnapshot, ClusterView, LocalDatabase, LocalDatabases};
use crate::fault_injection::FaultInjector;
use crate::request_watch::RequestWatch;
use crate::router::RequestRouter;
use crate::service_core::CoreParts;
use crate::thrift_server::{ThriftServer, ThriftServerOptions};

const PATIENCE: Duration = Duration::from_secs(20);
/// A range with a longer row is made again with more memory.
const LONG_ROW: usize = 300 << 10;

/// A step of a scene; a number identifies each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Set(u8),
    Delete(u8),
    Commit(u8),
    StampedKey(u8),
    StampedValue(u8),
    Get,
    GetStale,
    /// A range too long for the memory of its first attempt.
    GetRange,
    GetReadVersion,
}

impl Step {
    fn write(self) -> Option<u8> {
        match self {
            Step::Set(n) | Step::Delete(n) | Step::Commit(n) | Step::StampedKey(n) | Step::StampedValue(n) => Some(n),
            _ => None,
        }
    }

    fn call(self) -> ThriftCall {
        let key = |number: u8| vec![number];
        let stamp = || vec![0; 10];
        let get =
            |consistency| wire::GetRequest { key: b"k".to_vec(), column_family: None, consistency, auth_token: None };
        match self {
            Step::Set(n) => {
                wire::SetRequest { key: key(n), value: b"v".to_vec(), column_family: None, auth_token: None }.into()
            }
            Step::Delete(n) => wire::DeleteRequest { key: key(n), column_family: None, auth_token: None }.into(),
            Step::Commit(n) => {
                let operation = wire::Operation::new("set".to_string(), key(n), b"v".to_vec(), None, None);
                wire::AtomicCommitRequest::new(0, vec![operation], vec![], None, None, None, None, None, None, None)
                    .into()
            }
            Step::StampedKey(n) => {
                wire::SetVersionstampedKeyRequest::new([key(n), stamp()].concat(), b"v".to_vec(), None, None).into()
            }
            Step::StampedValue(n) => wire::SetVersionstampedValueRequest::new(key(n), stamp(), None, None).into(),
            Step::Get => get(None).into(),
            Step::GetStale => get(Some("stale".to_string())).into(),
            Step::GetRange => wire::GetRangeRequest::new(
                None, None, None, None, None, None, None, None, None, None, None, None, None, None,
            )
            .into(),
            Step::GetReadVersion => wire::GetReadVersionRequest { auth_token: None }.into(),
        }
    }
}

#[derive(Clone, Default)]
struct State {
    released: HashSet<u8>,
    begun: Vec<u8>,
    ended: Vec<u8>,
    /// For each read, the writes that had begun and those that had ended when it executed.
    reads: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A router whose writes end when they are released, and whose reads execute at once.
#[derive(Default)]
struct Held {
    state: watch::Sender<State>,
}

impl Held {
    async fn until(&self, what: &str, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(condition)).await;
        drop(waited.unwrap_or_else(|_| panic!("still waiting until {what}")).expect("the router lives"));
    }

    async fn write(&self, number: u8) -> Result<KvOutcome, KvError> {
        self.state.send_modify(|state| state.begun.push(number));
        let mut state = self.state.subscribe();
        drop(state.wait_for(|state| state.released.contains(&number)).await.expect("the router lives"));
        self.state.send_modify(|state| state.ended.push(number));
        // A failed write has ended, too.
        if number % 3 == 2 {
            return Err(KvError::CommitUnknown("as planned".to_string()));
        }
        let stamped = Bytes::from(vec![number; 11]);
        Ok(KvOutcome::Committed(CommitResult {
            version: 7,
            generated_keys: vec![stamped.clone()],
            generated_values: vec![stamped],
        }))
    }
}

#[async_trait]
impl RequestRouter for Held {
    async fn route(&self, operation: KvOperation, _: &RequestContext) -> Result<KvOutcome, KvError> {
        if let KvOperation::AtomicCommit(commit) = operation {
            return self.write(commit.mutations[0].key[0]).await;
        }
        self.state.send_modify(|state| state.reads.push((state.begun.clone(), state.ended.clone())));
        match operation {
            KvOperation::ReadVersion => Ok(KvOutcome::ReadVersion(Version(7))),
            KvOperation::Get { .. } => Ok(KvOutcome::Value(None)),
            KvOperation::GetRange { query, .. } if query.max_bytes < LONG_ROW as u64 => {
                Err(KvError::ResultTooLarge { limit: query.max_bytes })
            }
            KvOperation::GetRange { .. } => {
                let row = Row { key: Bytes::from_static(b"k"), value: Bytes::from(vec![1; LONG_ROW]) };
                Ok(KvOutcome::Rows(Rows { rows: vec![row], has_more: false }))
            }
            other => panic!("not in these scenes: {other:?}"),
        }
    }
}

struct Nobody;

#[async_trait]
impl ClusterView for Nobody {
    async fn snapshot(&self) -> ClusterSnapshot {
        unreachable!("nobody asks for the cluster")
    }

    fn cluster_id(&self) -> Option<String> {
        None
    }
}

impl LocalDatabases for Nobody {
    fn replicas(&self) -> Vec<LocalDatabase> {
        Vec::new()
    }
}

struct Stage {
    router: Arc<Held>,
    stream: TcpStream,
    handler: Arc<UnifiedThriftHandler>,
    shutdown: CancellationToken,
}

async fn stage() -> Stage {
    let (router, metrics) = (Arc::new(Held::default()), ServerMetrics::new());
    let core = Arc::new(KvServiceCore::new(CoreParts {
        router: router.clone(),
        cluster: Arc::new(Nobody),
        replicas: Arc::new(Nobody),
        metrics: metrics.clone(),
        faults: Arc::new(FaultInjector::new(false)),
        limits: kv_api::Limits::default(),
        column_families: Vec::new(),
        max_pin: Duration::from_secs(1),
        gate: Arc::new(Gate::open()),
        watch: Arc::new(RequestWatch::new(0)),
    }));
    let handler = Arc::new(UnifiedThriftHandler::new(core, metrics));
    let options = ThriftServerOptions { max_value_bytes: 100, request_timeout_ms: 600_000, ..Default::default() };
    let server = ThriftServer::bind("127.0.0.1:0", options, handler.clone()).await.expect("a free port");
    let (address, shutdown) = (server.local_addr(), CancellationToken::new());
    tokio::spawn(server.serve(shutdown.clone()));
    let stream = TcpStream::connect(address).await.expect("the server listens");
    Stage { router, stream, handler, shutdown }
}

fn permutations(items: &[u8]) -> Vec<Vec<u8>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    let with_first = |item: &u8| {
        let rest: Vec<u8> = items.iter().filter(|other| *other != item).copied().collect();
        permutations(&rest).into_iter().map(|rest| [vec![*item], rest].concat()).collect::<Vec<_>>()
    };
    items.iter().flat_map(with_first).collect()
}

async fn receive(stream: &mut TcpStream, input: &mut Vec<u8>) -> (i32, Vec<u8>) {
    let limits = codec::WireLimits { max_string_bytes: 16 << 20, ..Default::default() };
    let mut scanner = codec::Scanner::new(limits);
    loop {
        if let Some(envelope) = scanner.scan(input).expect("the server speaks Thrift") {
            let message: Vec<u8> = input.drain(..envelope.end).collect();
            let header = codec::read_header(&message, envelope.encoding).expect("a header");
            return (header.sequence_id, header.name.to_vec());
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(input)).await.expect("the server answers");
        assert_ne!(read.expect("the connection works"), 0, "the server closed the connection");
    }
}

/// Plays the steps with every order of the ends of their writes.
async fn play(steps: &[Step]) {
    let Stage { router, mut stream, handler, shutdown } = stage().await;
    let writes: Vec<u8> = steps.iter().filter_map(|step| step.write()).collect();
    let mut input = Vec::new();
    for order in permutations(&writes) {
        router.state.send_replace(State::default());
        let mut bytes = Vec::new();
        for (number, step) in (0..).zip(steps) {
            codec::encode_call(&mut bytes, codec::Encoding::default(), number, &step.call());
        }
        stream.write_all(&bytes).await.expect("the server reads");
        router.until("all writes have begun", |state| state.begun.len() == writes.len()).await;
        for number in &order {
            router.state.send_modify(|state| {
                state.released.insert(*number);
            });
            router.until("the write has ended", |state| state.ended.contains(number)).await;
        }
        for (number, step) in (0..).zip(steps) {
            let expected = (number, step.call().method().name().as_bytes().to_vec());
            assert_eq!(receive(&mut stream, &mut input).await, expected, "{steps:?} ended in the order {order:?}");
        }
        let state = router.state.borrow().clone();
        assert_eq!(state.begun, writes, "writes begin in the order in which they came");
        check_reads(steps, &order, &state);
    }
    assert!(handler.order.is_empty(), "something is kept of writes that ended");
    shutdown.cancel();
}

/// Checks how many earlier writes each read saw, at least. Reads may execute in any order; the one
/// with the fewest comes first.
fn check_reads(steps: &[Step], order: &[u8], state: &State) {
    let reads = steps.iter().enumerate().filter(|(_, step)| step.write().is_none());
    let mut wanted: Vec<HashSet<u8>> = Vec::new();
    for (place, step) in reads {
        let earlier: HashSet<u8> = steps[..place].iter().filter_map(|step| step.write()).collect();
        // A long range executes twice.
        wanted.extend(vec![earlier; if *step == Step::GetRange { 2 } else { 1 }]);
    }
    let mut seen: Vec<HashSet<u8>> = state.reads.iter().map(|(_, ended)| ended.iter().copied().collect()).collect();
    wanted.sort_by_key(HashSet::len);
    seen.sort_by_key(HashSet::len);
    assert_eq!(seen.len(), wanted.len(), "{steps:?}");
    for (seen, wanted) in seen.iter().zip(&wanted) {
        assert!(
            seen.is_superset(wanted),
            "{steps:?}, ended in the order {order:?}: {wanted:?} were not all seen: {seen:?}"
        );
    }
}

#[tokio::test]
async fn each_kind_of_read_waits_for_each_kind_of_write_before_it_in_whatever_order_they_end() {
    let writes = [Step::Set, Step::Delete, Step::Commit, Step::StampedKey, Step::StampedValue];
    for read in [Step::Get, Step::GetStale, Step::GetRange, Step::GetReadVersion] {
        for write in writes {
            play(&[write(1), read]).await;
            play(&[write(2), read, Step::Set(3), read, Step::Delete(4)]).await;
        }
    }
}

#[tokio::test]
async fn a_read_between_writes_of_all_kinds_sees_those_before_it_in_whatever_order_they_end() {
    let writes = [Step::Set(1), Step::Delete(2), Step::Commit(3), Step::StampedKey(4), Step::StampedValue(5)];
    for read in [Step::Get, Step::GetRange, Step::GetReadVersion] {
        let mut steps = writes.to_vec();
        steps.insert(3, read);
        play(&steps).await;
    }
}
