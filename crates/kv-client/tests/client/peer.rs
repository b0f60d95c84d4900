//! A server of a few lines: it decodes calls, answers pings by itself, and does with all others as it is told.
//!
//! Calls of one connection are worked on side by side and answered in their order, as by a real server; all disorder is
//! the script's. What it does late waits for a gate that the test opens, so nothing depends on how fast anything runs.

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

/// Closed at first; once it is open it stays so. Clones are the same gate.
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
        // There is never a permit: this ends, with an error, when the semaphore is closed.
        let _ = self.0.acquire().await;
    }
}

/// What the peer does about a call.
#[allow(clippy::large_enum_variant, reason = "one at a time, in tests")]
pub enum Action {
    Reply(ThriftReply),
    /// Leaves it without an answer, and those after it too, as a server that hangs.
    Silence,
    Close,
    /// Sends these bytes instead of a reply.
    Bytes(Vec<u8>),
    /// Does this when the gate is open: what the closure does to a database happens only then.
    After(Gate, Box<dyn FnOnce() -> Action + Send>),
    ReplyAndClose(ThriftReply),
    Twice(ThriftReply),
    /// One half of the reply, and the other one when the gate is open.
    Halves(ThriftReply, Gate),
    /// One half of the reply, and no more.
    HalfAndClose(ThriftReply),
    /// Under the sequence id of the call that came so many before this one.
    AsAnEarlierOne(ThriftReply, i32),
    /// Keeps the reply back, and sends it behind that to the next call of the connection.
    Stray(ThriftReply),
}

impl Action {
    /// Carries something out now, or when the gate is open, and answers.
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

/// An address where nobody listens: somebody did a moment ago, so that it is nobody else's.
pub fn unreachable_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

impl Peer {
    pub async fn start(script: impl Fn(ThriftCall) -> Action + Send + Sync + 'static) -> Peer {
        Peer::start_batched(1, script).await
    }

    /// Answers only when `batch` calls have arrived.
    pub async fn start_batched(batch: usize, script: impl Fn(ThriftCall) -> Action + Send + Sync + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, connections.clone(), batch, Arc::new(script)));
        Peer { address, connections, task }
    }

    /// Keeps what is set in memory.
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
    // Dropping the set with this task ends the connections.
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::SeqCst);
        // What is sent arrives at once: tests with a clock of their own do not wait for it.
        stream.set_nodelay(true).expect("a socket");
        serving.spawn(serve(stream, batch, script.clone()));
    }
}

/// What goes out for one call, in its turn.
enum Answer {
    Bytes(Vec<u8>),
    /// The second part waits for the gate.
    Parts(Vec<u8>, Gate, Vec<u8>),
    /// These bytes, and then the connection is closed.
    Last(Vec<u8>),
    Stray(Vec<u8>),
}

/// Ends when the client has closed the connection, or the script has.
async fn serve(mut stream: TcpStream, batch: usize, script: Script) {
    let mut scanner = Scanner::new(WireLimits::default());
    let (mut input, mut calls) = (Vec::new(), Vec::new());
    let mut answers: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
    let mut strays = Vec::new();
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
                    Answer::Stray(bytes) => {
                        strays.extend(bytes);
                        continue;
                    }
                    Answer::Last(bytes) => {
                        let _ = writer.write_all(&bytes).await;
                        return;
                    }
                };
                // A client that has closed the connection is noticed by the next read.
                let _ = writer.write_all(&now).await;
                if let Some((gate, second)) = later {
                    gate.opened().await;
                    let _ = writer.write_all(&second).await;
                }
                let _ = writer.write_all(&std::mem::take(&mut strays)).await;
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
        Action::After(..) => unreachable!("it is resolved"),
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
        Action::AsAnEarlierOne(reply, steps) => Answer::Bytes(encoded(name, sequence - steps, &reply)),
        Action::Stray(reply) => Answer::Stray(bytes(&reply)),
    }
}

/// Waits in a task of its own: what a server has received it carries out, whether or not the connection is still there.
async fn resolved(mut action: Action) -> Action {
    while let Action::After(gate, then) = action {
        let carrying_out = tokio::spawn(async move {
            gate.opened().await;
            then()
        });
        action = carrying_out.await.expect("the script does not panic");
    }
    action
}
