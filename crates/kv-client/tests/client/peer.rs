//! A scripted server. It decodes calls, answers pings by itself, and leaves all other calls to the
//! script of the test.
//!
//! Like a real server, it executes the calls of one connection concurrently and answers them in
//! their order, unless the script says otherwise. A late action waits for a gate that the test
//! opens, so that no test depends on how fast anything runs.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use kv_api::thrift::generated::*;
use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Holds actions back until the test opens it. It then stays open. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Gate {
        Gate(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.close();
    }

    pub async fn opened(&self) {
        // The semaphore never has a permit: this returns an error once it is closed.
        let _ = self.0.acquire().await;
    }
}

/// What the server does in response to a call.
#[allow(clippy::large_enum_variant, reason = "tests have few of them at a time")]
pub enum Action {
    Reply(ThriftReply),
    /// Answers neither this call nor any later one of the connection, like a server that hangs.
    Silence,
    Close,
    /// Sends these bytes instead of a reply.
    Bytes(Vec<u8>),
    /// Does this once the gate is open. The closure's effect on a database happens only then.
    After(Gate, Box<dyn FnOnce() -> Action + Send>),
    ReplyAndClose(ThriftReply),
    Twice(ThriftReply),
    /// Sends one half of the reply, and the other half once the gate is open.
    Halves(ThriftReply, Gate),
    /// Sends only the first half of the reply.
    HalfAndClose(ThriftReply),
    /// Sends the reply under the sequence id of the call that came this many calls earlier.
    UnderSequenceOf(ThriftReply, i32),
    /// Sends the reply only after the one to the next call of the connection.
    AfterTheNext(ThriftReply),
}

impl Action {
    /// Does something once the gate is open.
    pub fn after(gate: &Gate, then: impl FnOnce() -> Action + Send + 'static) -> Action {
        Action::After(gate.clone(), Box::new(then))
    }
}

type Script = Arc<dyn Fn(ThriftCall) -> Action + Send + Sync>;

pub struct Peer {
    address: String,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

/// An address at which no process listens. It was bound a moment ago, so it does not belong to
/// another process.
pub fn unreachable_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

impl Peer {
    pub async fn start(script: impl Fn(ThriftCall) -> Action + Send + Sync + 'static) -> Peer {
        Peer::start_batched(1, script).await
    }

    /// Starts to answer only once `batch` calls have arrived.
    pub async fn start_batched(batch: usize, script: impl Fn(ThriftCall) -> Action + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, connections.clone(), batch, Arc::new(script)));
        Peer { address, connections, task }
    }

    /// A server that keeps its rows in memory.
    pub async fn with_memory() -> Peer {
        let rows = Mutex::new(BTreeMap::new());
        Peer::start(move |call| {
            let mut rows = rows.lock().expect("no panic while locked");
            Action::Reply(match call {
                ThriftCall::Get(request) => {
                    let value: Option<Vec<u8>> = rows.get(&request.key).cloned();
                    let found = value.is_some();
                    GetResponse {
                        value: value.unwrap_or_default(),
                        found,
                        error: None,
                        error_code: None,
                        leader_endpoint: None,
                    }
                    .into()
                }
                ThriftCall::SetKey(request) => {
                    rows.insert(request.key, request.value);
                    SetResponse { success: true, error: None, error_code: None, leader_endpoint: None }.into()
                }
                ThriftCall::DeleteKey(request) => {
                    rows.remove(&request.key);
                    DeleteResponse { success: true, error: None, error_code: None, leader_endpoint: None }.into()
                }
                other => panic!("a request that this peer does not know: {other:?}"),
            })
        })
        .await
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Stops listening and closes every connection.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn accept(listener: TcpListener, connections: Arc<AtomicUsize>, batch: usize, script: Script) {
    // The connections end when this task does, because that drops the set.
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        // Replies must arrive at once: tests with a paused clock do not wait for them.
        stream.set_nodelay(true).expect("a socket");
        serving.spawn(serve(stream, batch, script.clone()));
    }
}

/// The bytes to send for one call when its turn has come.
enum Answer {
    Bytes(Vec<u8>),
    /// The second part waits for the gate.
    Parts(Vec<u8>, Gate, Vec<u8>),
    /// The connection is closed after these bytes.
    Last(Vec<u8>),
    AfterTheNext(Vec<u8>),
}

/// Serves one connection until the client or the script closes it.
async fn serve(mut stream: TcpStream, batch: usize, script: Script) {
    let mut scanner = Scanner::new(WireLimits::default());
    let (mut input, mut calls) = (Vec::new(), Vec::new());
    let mut answers: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
    let mut held_back = Vec::new();
    let (mut reader, mut writer) = stream.split();
    loop {
        tokio::select! {
            read = reader.read_buf(&mut input) => {
                if !read.is_ok_and(|count| count > 0) {
                    return;
                }
                while let Some((sequence, call)) = next_call(&mut scanner, &mut input) {
                    match call {
                        ThriftCall::Ping(_) => answers.push_back(Box::pin(pong(sequence))),
                        call => calls.push((sequence, call)),
                    }
                }
                if calls.len() >= batch {
                    for (sequence, call) in calls.drain(..) {
                        let name = call.method().name();
                        answers.push_back(Box::pin(answer(script(call), name, sequence)));
                    }
                }
            }
            Some(answer) = answers.next() => {
                let (now, later) = match answer {
                    Answer::Bytes(bytes) => (bytes, None),
                    Answer::Parts(first, gate, second) => (first, Some((gate, second))),
                    Answer::AfterTheNext(bytes) => {
                        held_back.extend(bytes);
                        continue;
                    }
                    Answer::Last(bytes) => {
                        let _ = writer.write_all(&bytes).await;
                        return;
                    }
                };
                // If the client has closed the connection, the next read will say so.
                let _ = writer.write_all(&now).await;
                if let Some((gate, second)) = later {
                    gate.opened().await;
                    let _ = writer.write_all(&second).await;
                }
                let _ = writer.write_all(&std::mem::take(&mut held_back)).await;
            }
        }
    }
}

fn next_call(scanner: &mut Scanner, input: &mut Vec<u8>) -> Option<(i32, ThriftCall)> {
    let envelope = scanner.scan(input).expect("the client sends messages")?;
    let message: Vec<u8> = input.drain(..envelope.end).collect();
    let incoming = wire::decode_call(&message, envelope.encoding, WireLimits::default()).expect("a call");
    Some((incoming.sequence_id, incoming.call.expect("a known method")))
}

fn encoded(name: &str, sequence: i32, reply: &ThriftReply) -> Vec<u8> {
    let mut output = Vec::new();
    wire::encode_reply(&mut output, Encoding::default(), name.as_bytes(), sequence, reply);
    output
}

async fn pong(sequence: i32) -> Answer {
    let pong = PingResponse { message: b"pong".to_vec(), timestamp: 0, server_timestamp: 1 };
    Answer::Bytes(encoded("ping", sequence, &pong.into()))
}

async fn answer(action: Action, name: &'static str, sequence: i32) -> Answer {
    let bytes = |reply: &ThriftReply| encoded(name, sequence, reply);
    match resolved(action).await {
        Action::After(..) => unreachable!("`resolved` leaves none"),
        Action::Silence => pending().await,
        Action::Reply(reply) => Answer::Bytes(bytes(&reply)),
        Action::Bytes(bytes) => Answer::Bytes(bytes),
        Action::Close => Answer::Last(Vec::new()),
        Action::ReplyAndClose(reply) => Answer::Last(bytes(&reply)),
        Action::Twice(reply) => Answer::Bytes(bytes(&reply).repeat(2)),
        Action::Halves(reply, gate) => {
            let mut first = bytes(&reply);
            let second = first.split_off(first.len() / 2);
            Answer::Parts(first, gate, second)
        }
        Action::HalfAndClose(reply) => {
            let mut first = bytes(&reply);
            first.truncate(first.len() / 2);
            Answer::Last(first)
        }
        Action::UnderSequenceOf(reply, steps) => Answer::Bytes(encoded(name, sequence - steps, &reply)),
        Action::AfterTheNext(reply) => Answer::AfterTheNext(bytes(&reply)),
    }
}

/// Waits for the gates of an action, in a task of its own: a server executes a request that it has
/// received even if the connection has ended.
async fn resolved(mut action: Action) -> Action {
    while let Action::After(gate, then) = action {
        let execution = tokio::spawn(async move {
            gate.opened().await;
            then()
        });
        action = execution.await.expect("the script does not panic");
    }
    action
}
