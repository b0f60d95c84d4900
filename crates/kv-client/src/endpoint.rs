//! One address of the cluster, and the tasks that keep connections to it.
//!
//! Each task has one connection. It connects only when there is a request to send, and reconnects
//! after the connection broke. While it cannot connect it fails requests at once, so that the
//! caller can try another address, and retries with back-off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::Options;
use crate::backoff::Backoff;
use crate::connector::connect;
use crate::pending::{Failure, PendingCall};
use crate::session::Session;

/// A separate set of connections: requests of one lane never wait for replies of the other one.
/// Within a lane that has one connection, requests stay in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Main,
    Commit,
    /// Of calls that wait for something to happen.
    Waiting,
}

/// A handle to the endpoint's tasks, which end with the last handle.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub address: Arc<str>,
    main: Arc<[Connection]>,
    commit: Arc<[Connection]>,
    waiting: Arc<[Connection]>,
}

/// A handle to the task of one connection.
struct Connection {
    requests: mpsc::Sender<PendingCall>,
    /// Requests that this connection was given and has not answered yet.
    in_flight: AtomicUsize,
}

impl Endpoint {
    pub fn start(address: String, options: &Options) -> Self {
        let address: Arc<str> = address.into();
        let connection = |_| {
            let (requests, queue) = mpsc::channel(options.max_in_flight.max(1));
            tokio::spawn(run(address.clone(), options.clone(), queue));
            Connection { requests, in_flight: AtomicUsize::new(0) }
        };
        let lane = || (0..options.connections_per_endpoint.max(1)).map(connection).collect();
        let (main, commit) = (lane(), lane());
        let waiting = std::iter::once(connection(0)).collect();
        Endpoint { address, main, commit, waiting }
    }

    /// Sends one request and waits for its reply without a time limit: enforcing the deadline is up
    /// to the caller.
    pub async fn call(&self, lane: Lane, call: Arc<ThriftCall>, deadline: Instant) -> Result<ThriftReply, Failure> {
        let connections = match lane {
            Lane::Main => &self.main,
            Lane::Commit => &self.commit,
            Lane::Waiting => &self.waiting,
        };
        let idlest = connections.iter().min_by_key(|connection| connection.in_flight.load(Ordering::Relaxed));
        let connection = idlest.expect("a lane has a connection");
        let _in_flight = InFlight::begin(&connection.in_flight);
        let (answer, reply) = oneshot::channel();
        let stopped = || Failure::NotSent("the client is shutting down".to_string());
        connection.requests.send(PendingCall { call, deadline, answer }).await.map_err(|_| stopped())?;
        // The task drops `answer` only if its runtime shuts down, perhaps in the middle of a send.
        reply.await.unwrap_or_else(|_| Err(Failure::Lost("the client is shutting down".to_string())))
    }

    /// Number of requests that have not been answered yet, without those that only wait.
    pub fn in_flight(&self) -> usize {
        let all = self.main.iter().chain(self.commit.iter());
        all.map(|connection| connection.in_flight.load(Ordering::Relaxed)).sum()
    }
}

/// Counts a request until its caller stops waiting for it.
struct InFlight<'c>(&'c AtomicUsize);

impl<'c> InFlight<'c> {
    fn begin(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        InFlight(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run(address: Arc<str>, options: Options, mut requests: mpsc::Receiver<PendingCall>) {
    let mut backoff = Backoff::new(&options);
    let mut last_failure: Option<(Instant, String)> = None;
    while let Some(first) = requests.recv().await {
        if let Some((retry_at, reason)) = &last_failure
            && Instant::now() < *retry_at
        {
            first.fail(Failure::NotSent(reason.clone()));
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
                first.fail(Failure::NotSent(reason.clone()));
                while let Ok(waiting) = requests.try_recv() {
                    waiting.fail(Failure::NotSent(reason.clone()));
                }
                last_failure = Some((Instant::now() + backoff.pause(), reason));
            }
        }
    }
}
