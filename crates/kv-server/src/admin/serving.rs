//! The listener of the admin interface: HTTP/1.1 with a bound on everything that a client can leave
//! unfinished.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stranger::Hall;
use super::{AdminInterface, routes};
use crate::accepting::{AcceptTerms, ByteStream, Incoming, accept_until};
use crate::access::{ConnectionFacts, Session};
use crate::tls::{Admitted, Doorway, plain_reply_deadline};

/// How long a client may take for the head of a request, the first and every later one of its
/// connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request. No request has a body.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// When the server stops, how long a finished answer may take to leave.
const LINGER: Duration = Duration::from_millis(500);
const LACKS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n\
    {\"error\":\"this address speaks HTTPS only ([admin.tls] or [server.tls] mode = \\\"require\\\")\"}";
/// The kind of client, for the log.
pub(crate) const OPERATOR: &str = "admin";
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Binds the address of the interface.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop` is cancelled and the running requests are answered. At `max_connections`, a
/// new connection takes the place of the one that has sent no complete request for longest. If all
/// are being answered, the new one gets a 503. Clients without an identity get fewer places, and less time.
pub(crate) async fn serve(
    listener: TcpListener,
    doorway: Arc<Doorway>,
    interface: AdminInterface,
    max_connections: usize,
    stop: CancellationToken,
) {
    let sampling = tokio::spawn(interface.console.sample(interface.metrics.clone(), stop.clone()));
    let judging = tokio::spawn(interface.limits.clone().run(stop.clone()));
    let hall = Hall::new(interface.core.gate().clone(), max_connections);
    let shared = Arc::new(Shared { hall, router: routes(interface) });
    // What is sent before a handshake must not look like an answer in plain text.
    let refusal = if doorway.is_open() { NO_PLACE } else { &[] };
    let terms = AcceptTerms { name: OPERATOR, max_connections, spared: Duration::ZERO, refusal };
    doorway.keep_watch(stop.clone());
    let serve = |incoming| serve_one(doorway.clone(), shared.clone(), incoming, stop.clone());
    let mut connections = accept_until(listener, terms, stop.clone(), serve, |_| {}).await;
    while connections.join_next().await.is_some() {}
    if let Err(error) = judging.await {
        tracing::error!(%error, "the limits of requests were not watched to the end");
    }
    if let Err(error) = sampling.await {
        tracing::error!(%error, "the series of the console were not filled to the end");
    }
}

/// What all connections share.
struct Shared {
    hall: Hall,
    router: Router,
}

async fn serve_one(doorway: Arc<Doorway>, shared: Arc<Shared>, incoming: Incoming, stop: CancellationToken) {
    match doorway.admit(incoming).await {
        Some(Admitted::Plain(incoming, facts)) => serve_stream(&shared, incoming, facts, stop).await,
        Some(Admitted::Encrypted(incoming, facts)) => serve_stream(&shared, *incoming, facts, stop).await,
        Some(Admitted::LacksTls(incoming)) => explain(incoming.stream).await,
        None => {}
    }
}

/// Tells a client without TLS what is missing.
async fn explain(mut stream: TcpStream) {
    let deadline = plain_reply_deadline();
    let explained = async {
        stream.write_all(LACKS_TLS).await?;
        stream.shutdown().await?;
        // Closing a socket with unread input resets it, and the answer would be lost.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _best_effort = tokio::time::timeout_at(deadline, explained).await;
}

async fn serve_stream(
    shared: &Shared,
    incoming: Incoming<impl ByteStream>,
    facts: ConnectionFacts,
    stop: CancellationToken,
) {
    let Incoming { stream, peer, arrival, idleness, end } = incoming;
    let router = TowerToHyperService::new(shared.router.clone());
    let session = Arc::new(Session::new(facts));
    let stranger = Arc::new(shared.hall.enter(&session, arrival, peer, &end));
    // The time for the handshake is over, and the time for a request begins.
    idleness.idle_since(Instant::now());
    let (asked, seen, observed) = (idleness.clone(), idleness, stranger.clone());
    let service = service_fn(move |mut request: Request<_>| {
        asked.busy();
        request.extensions_mut().insert(session.clone());
        let (answer, answered, observed) = (router.call(request), asked.clone(), observed.clone());
        async move {
            let answer = answer.await;
            observed.look();
            answered.idle_since(Instant::now());
            answer
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_BUFFER_BYTES);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stranger.overstays(&seen) => Ok(()),
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match (seen.is_busy(), stop.is_cancelled()) {
                (true, _) => connection.await,
                (false, true) => tokio::time::timeout(LINGER, connection).await.unwrap_or(Ok(())),
                // It is idle, and a new connection needs its place now.
                (false, false) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an admin connection ended");
    }
}
