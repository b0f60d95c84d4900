//! Tests with raw sockets, against a service whose calls end when the test says so.

mod breaking_off;
mod frames;
mod going_away;
mod order;
mod scripted;
mod slow_readers;
mod stops;

use kv_api::thrift::generated::{GetRangeRequest, GetRangeResponse, GetResponse, KeyValue, SetRequest, SetResponse};
use kv_api::thrift::wire::{self, Encoding, MessageKind, Protocol, Scanner, WireLimits};
use scripted::{End, Scripted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// A server in front of a scripted service.
struct Stage {
    script: Arc<Scripted>,
    server: ServerAtWork,
}

/// The handles of a running server.
struct ServerAtWork {
    counters: Arc<ThriftServerCounters>,
    pools: Pools,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Stage {
    async fn with(options: ThriftServerOptions) -> Stage {
        let script = Arc::new(Scripted::default());
        let server = ThriftServer::bind("127.0.0.1:0", options, Arc::clone(&script) as Arc<dyn ThriftService>)
            .await
            .expect("a free port");
        let (counters, pools) = (server.counters(), server.pools());
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        Stage { script, server: ServerAtWork { counters, pools, address, shutdown, serving } }
    }

    /// A server whose reads reserve so little that many of them run at a time.
    async fn start() -> Stage {
        Stage::with(of_short_values()).await
    }

    async fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        stream
    }

    /// Waits until no connection, no reserved byte and no socket is left.
    async fn until_nothing_is_left(&self) {
        self.until_no_connection_is_left().await;
        until("no socket is left", || open_sockets(self.server.address.port()) == 0).await;
    }

    async fn until_no_connection_is_left(&self) {
        let ServerAtWork { counters, pools, .. } = &self.server;
        until("no connection is left", || value(&counters.connections_open) == 0).await;
        for pool in [&pools.input, &pools.large_input, &pools.replies, &pools.large_replies] {
            assert_eq!((pool.used_bytes(), pool.is_short()), (0, false), "memory that nobody uses any more");
        }
    }

    async fn stop(self) {
        let ServerAtWork { shutdown, serving, .. } = self.server;
        shutdown.cancel();
        tokio::time::timeout(PATIENCE, serving).await.expect("the server stops").expect("without a panic");
    }
}

fn of_short_values() -> ThriftServerOptions {
    ThriftServerOptions { max_value_bytes: 100, ..Default::default() }
}

/// Sockets of this port that are connected, or whose other end has closed: those for which the
/// server holds a descriptor.
fn open_sockets(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the system's table of sockets");
    let is_open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && [ESTABLISHED, CLOSE_WAIT].contains(&fields[3])
    };
    table.lines().skip(1).filter(is_open).count()
}

fn get(key: &str) -> ThriftCall {
    super::client::get(key).into()
}

fn set(key: &str, value: Vec<u8>) -> ThriftCall {
    SetRequest::new(key.as_bytes().to_vec(), value, None, None).into()
}

/// A range that is first tried with little memory.
fn range(key: &str) -> ThriftCall {
    let key = key.as_bytes().to_vec();
    GetRangeRequest::new(key, None, None, None, None, None, None, None, None, None, None, None, None, None).into()
}

fn found(value: Vec<u8>) -> ThriftReply {
    GetResponse::new(value, true, None, None, None).into()
}

fn is_set() -> ThriftReply {
    SetResponse::new(true, None, None, None).into()
}

fn rows(value: Vec<u8>) -> ThriftReply {
    GetRangeResponse::new(vec![KeyValue::new(b"row".to_vec(), value)], true, None, false, None, None).into()
}

/// Bytes that depend on their position, so that lost, duplicated or misplaced ones are noticed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mixed = |place: u64| (place.wrapping_add(seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..length as u64).map(mixed).collect()
}

fn message(encoding: Encoding, sequence_id: i32, call: &ThriftCall) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_call(&mut bytes, encoding, sequence_id, call);
    bytes
}

/// The message, changed to another kind.
fn of_kind(encoding: Encoding, mut message: Vec<u8>, kind: u8) -> Vec<u8> {
    let start = if encoding.framed { 4 } else { 0 };
    match encoding.protocol {
        Protocol::Binary => message[start + 3] = kind,
        Protocol::Compact => message[start + 1] = kind << 5 | 1,
    }
    message
}

const ONE_WAY: u8 = 4;

/// The message, changed to call an unknown method. The first `get` in a message is the name.
fn of_unknown_method(mut message: Vec<u8>) -> Vec<u8> {
    let name = message.windows(3).position(|window| window == b"get").expect("the name is in there");
    message[name..name + 3].copy_from_slice(b"fly");
    message
}

/// A frame around content, whose declared length may be wrong.
fn frame(length: i32, content: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), content].concat()
}

fn framed(content: &[u8]) -> Vec<u8> {
    frame(i32::try_from(content.len()).expect("a short frame"), content)
}

fn reply_bytes(encoding: Encoding, method: Method, sequence_id: i32, reply: &ThriftReply) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode_reply(&mut bytes, encoding, method.name().as_bytes(), sequence_id, reply);
    bytes
}

/// A reply as a client sees it.
#[derive(Debug, PartialEq)]
struct Seen {
    encoding: Encoding,
    sequence_id: i32,
    name: String,
    what: What,
}

#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are replies")]
enum What {
    Reply(ThriftReply),
    Exception(ApplicationErrorKind),
}

fn limits() -> WireLimits {
    WireLimits { max_message_bytes: 100 << 20, max_string_bytes: 100 << 20, ..WireLimits::default() }
}

fn seen(message: &[u8], encoding: Encoding) -> Seen {
    let header = wire::read_header(message, encoding).expect("a header");
    let name = String::from_utf8(header.name.to_vec()).expect("a name");
    let method = Method::of_name(header.name).unwrap_or(Method::Get);
    let (sequence_id, reply) = wire::decode_reply(message, encoding, limits(), method).expect("a reply");
    let what = match reply {
        ThriftReply::Exception(exception) => {
            assert_eq!(header.kind, MessageKind::Exception);
            What::Exception(exception.kind)
        }
        reply => What::Reply(reply),
    };
    Seen { encoding, sequence_id, name, what }
}

/// All replies until the stream ends, which must not be in the middle of a reply.
async fn all_seen(stream: &mut TcpStream) -> Vec<Seen> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    read.await.expect("the server closes the connection").expect("in good order");
    let (mut scanner, mut at, mut all) = (Scanner::new(limits()), 0, Vec::new());
    while at < bytes.len() {
        let envelope = scanner.scan(&bytes[at..]).expect("the server speaks Thrift").expect("whole replies only");
        all.push(seen(&bytes[at..at + envelope.end], envelope.encoding));
        at += envelope.end;
    }
    all
}

async fn exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes));
    read.await.expect("the server answers").expect("and does not close the connection");
    bytes
}

/// Checks that another client is served meanwhile, with calls that need no shared memory.
async fn assert_others_are_served(stage: &Stage) {
    stage.script.plan("other", [End::Reply(is_set())]);
    stage.script.release("other");
    let mut other = stage.dial().await;
    for sequence_id in 0..OTHERS {
        let call = message(Encoding::default(), sequence_id, &set("other", vec![]));
        other.write_all(&call).await.expect("the server reads");
        let expected = reply_to_another(sequence_id);
        assert_eq!(exactly(&mut other, expected.len()).await, expected);
    }
}

const OTHERS: i32 = 20;

fn reply_to_another(sequence_id: i32) -> Vec<u8> {
    reply_bytes(Encoding::default(), Method::SetKey, sequence_id, &is_set())
}
