//! A server of a few lines: it decodes calls, answers pings by itself, and does with all others as it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kv_api::thrift::generated::*;
use kv_api::thrift::wire::{self, Encoding, Scanner, WireLimits};
use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the peer does about a call.
#[allow(clippy::large_enum_variant, reason = "one at a time, in tests")]
pub enum Action {
    Reply(ThriftReply),
    /// Leaves it without an answer, and those after it too, as a server that hangs.
    Silence,
    Close,
    /// Sends these bytes instead of a reply.
    Bytes(Vec<u8>),
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
                    GetResponse { value: value.unwrap_or_default(), found, error: None, error_code: None }.into()
                }
                ThriftCall::SetKey(request) => {
                    rows.insert(request.key, request.value);
                    SetResponse { success: true, error: None, error_code: None }.into()
                }
                ThriftCall::DeleteKey(request) => {
                    rows.remove(&request.key);
                    DeleteResponse { success: true, error: None, error_code: None }.into()
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
        serving.spawn(serve(stream, batch, script.clone()));
    }
}

async fn serve(mut stream: TcpStream, batch: usize, script: Script) {
    let limits = WireLimits::default();
    let mut scanner = Scanner::new(limits);
    let mut input = Vec::new();
    let mut calls = Vec::new();
    while stream.read_buf(&mut input).await.is_ok_and(|count| count > 0) {
        while let Some(envelope) = scanner.scan(&input).expect("the client sends messages") {
            let message: Vec<u8> = input.drain(..envelope.end).collect();
            let incoming = wire::decode_call(&message, envelope.encoding, limits).expect("a call");
            let call = incoming.call.expect("a known method");
            if matches!(call, ThriftCall::Ping(_)) {
                let pong = PingResponse { message: b"pong".to_vec(), timestamp: 0, server_timestamp: 1 };
                let mut output = Vec::new();
                let name = incoming.name;
                wire::encode_reply(&mut output, Encoding::default(), name, incoming.sequence_id, &pong.into());
                stream.write_all(&output).await.expect("the client reads");
            } else {
                calls.push((incoming.sequence_id, call));
            }
        }
        if calls.len() < batch {
            continue;
        }
        for (sequence, call) in calls.drain(..) {
            let name = call.method().name().as_bytes();
            let mut output = Vec::new();
            match script(call) {
                Action::Reply(reply) => {
                    wire::encode_reply(&mut output, Encoding::default(), name, sequence, &reply);
                }
                Action::Bytes(bytes) => output = bytes,
                Action::Close => return,
                Action::Silence => std::future::pending().await,
            }
            stream.write_all(&output).await.expect("the client reads");
        }
    }
}
