//! One address of the cluster, and the task that keeps a connection to it.
//!
//! The task connects when there is a request to send, not before, and again when the connection broke. While it cannot
//! connect it fails requests at once, so that the client can try elsewhere; it makes new attempts with back-off.

use std::sync::Arc;

use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::Options;
use crate::backoff::Backoff;
use crate::session::Session;

/// One request on its way through an endpoint.
pub(crate) struct Request {
    pub call: ThriftCall,
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

/// A handle to the endpoint's task, which ends when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub address: Arc<str>,
    requests: mpsc::Sender<Request>,
}

impl Endpoint {
    pub fn start(address: String, options: &Options) -> Self {
        let (requests, queue) = mpsc::channel(options.max_in_flight);
        let address: Arc<str> = address.into();
        tokio::spawn(run(address.clone(), options.clone(), queue));
        Endpoint { address, requests }
    }

    /// Sends one request and waits for its reply, as long as it takes: the deadline is the caller's to keep.
    pub async fn call(&self, call: ThriftCall, deadline: Instant) -> Result<ThriftReply, Failure> {
        let (answer, reply) = oneshot::channel();
        let stopped = || Failure::NotSent("the client is shutting down".to_string());
        self.requests.send(Request { call, deadline, answer }).await.map_err(|_| stopped())?;
        // A dropped answer means that the task was torn down with its runtime, maybe in the middle of a send.
        reply.await.unwrap_or_else(|_| Err(Failure::Lost("the client is shutting down".to_string())))
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
    match timeout(options.connect_timeout, TcpStream::connect(address)).await {
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
