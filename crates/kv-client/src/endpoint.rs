//! One address of the cluster, and the tasks that keep connections to it.
//!
//! Each task has one connection. It connects when there is a request to send, not before, and again when the connection broke. While it cannot
//! connect it fails requests at once, so that the client can try elsewhere; it makes new attempts with back-off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::Options;
use crate::backoff::Backoff;
use crate::session::Session;

/// One request on its way through an endpoint.
pub(crate) struct Request {
    pub call: Arc<ThriftCall>,
    /// When its caller stops waiting.
    pub deadline: Instant,
    pub answer: oneshot::Sender<Result<ThriftReply, Failure>>,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not one byte of it left this process.
    NotSent(String),
    /// It was sent, or a part of it was, and the connection broke.
    Lost(String),
    /// What came back was no reply.
    Malformed(String),
}

/// Requests of one lane never wait for replies of the other one. Within a lane with one connection they stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Main,
    Commit,
}

/// A handle to the endpoint's tasks, which end when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub address: Arc<str>,
    main: Arc<[Connection]>,
    commit: Arc<[Connection]>,
}

struct Connection {
    requests: mpsc::Sender<Request>,
    /// Requests that were given to it and not answered.
    waiting: AtomicUsize,
}

impl Endpoint {
    pub fn start(address: String, options: &Options) -> Self {
        let address: Arc<str> = address.into();
        let connection = |_| {
            let (requests, queue) = mpsc::channel(options.max_in_flight.max(1));
            tokio::spawn(run(address.clone(), options.clone(), queue));
            Connection { requests, waiting: AtomicUsize::new(0) }
        };
        let lane = || (0..options.connections_per_endpoint.max(1)).map(connection).collect();
        let (main, commit) = (lane(), lane());
        Endpoint { address, main, commit }
    }

    /// Sends one request and waits for its reply, as long as it takes: the deadline is the caller's to keep.
    pub async fn call(&self, lane: Lane, call: Arc<ThriftCall>, deadline: Instant) -> Result<ThriftReply, Failure> {
        let connections = match lane {
            Lane::Main => &self.main,
            Lane::Commit => &self.commit,
        };
        let idlest = connections.iter().min_by_key(|connection| connection.waiting.load(Ordering::Relaxed));
        let connection = idlest.expect("a lane has a connection");
        let _waiting = Waiting::begin(&connection.waiting);
        let (answer, reply) = oneshot::channel();
        let stopped = || Failure::NotSent("the client is shutting down".to_string());
        connection.requests.send(Request { call, deadline, answer }).await.map_err(|_| stopped())?;
        // A dropped answer means that the task was torn down with its runtime, maybe in the middle of a send.
        reply.await.unwrap_or_else(|_| Err(Failure::Lost("the client is shutting down".to_string())))
    }

    /// Requests that were not answered yet.
    pub fn waiting(&self) -> usize {
        let all = self.main.iter().chain(self.commit.iter());
        all.map(|connection| connection.waiting.load(Ordering::Relaxed)).sum()
    }
}

/// Counts a request as long as somebody waits for it.
struct Waiting<'c>(&'c AtomicUsize);

impl<'c> Waiting<'c> {
    fn begin(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run(address: Arc<str>, options: Options, mut requests: mpsc::Receiver<Request>) {
    let mut backoff = Backoff::new(&options);
    let mut last_failure: Option<(Instant, String)> = None;
    while let Some(first) = requests.recv().await {
        if let Some((retry_at, reason)) = &last_failure
            && Instant::now() < *retry_at
        {
            refuse(first, reason);
            continue;
        }
        match connect(&address, &options).await {
            Ok(stream) => {
                last_failure = None;
                backoff.reset();
                let reason = Session::new(stream, &options).run(first, &mut requests).await;
                tracing::debug!(endpoint = %address, reason, "connection ended");
            }
            Err(reason) => {
                tracing::debug!(endpoint = %address, reason, "cannot connect");
                refuse(first, &reason);
                while let Ok(waiting) = requests.try_recv() {
                    refuse(waiting, &reason);
                }
                last_failure = Some((Instant::now() + backoff.pause(), reason));
            }
        }
    }
}

fn refuse(request: Request, reason: &str) {
    // Whoever stopped waiting does not mind.
    let _ = request.answer.send(Err(Failure::NotSent(reason.to_string())));
}

async fn connect(address: &str, options: &Options) -> Result<TcpStream, String> {
    match timeout(options.connect_timeout, dial::connect(address)).await {
        Ok(Ok(stream)) => {
            // Small requests must not wait for the acknowledgement of earlier ones.
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            Ok(stream)
        }
        Ok(Err(error)) => Err(plain_reason(&error)),
        Err(_) => Err(format!("no connection within {} ms", options.connect_timeout.as_millis())),
    }
}

/// The operating system's words without its error number.
fn plain_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        _ => error.to_string(),
    }
}
