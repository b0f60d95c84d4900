//! The server: binds its address, accepts connections, and shuts down.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rsml::transport::Strangers;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio_util::sync::CancellationToken;

use super::counters::{OpenConnection, add};
use super::memory_budget::Pools;
use super::plain;
use super::shared::Shared;
use super::{ConnectionContext, ThriftServerCounters, ThriftServerOptions, ThriftService, connection};
use crate::accepting::{AcceptTerms, Accepted, ByteStream, Incoming, accept_until, most_strangers};
use crate::access::{ConnectionFacts, Session};
use crate::tls::{Admitted, Doorway};

/// A bound server; [`ThriftServer::serve`] runs it.
pub struct ThriftServer {
    listener: TcpListener,
    local_address: SocketAddr,
    shared: Arc<Shared>,
    doorway: Arc<Doorway>,
}

/// The kind of client, for the log.
pub(crate) const CLIENT: &str = "client";

impl ThriftServer {
    /// Binds the address. Clients can connect from now on and are served once
    /// [`ThriftServer::serve`] runs.
    pub async fn bind(
        address: impl ToSocketAddrs,
        options: ThriftServerOptions,
        service: Arc<dyn ThriftService>,
    ) -> io::Result<ThriftServer> {
        options.validate().map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        let listener = TcpListener::bind(address).await?;
        let local_address = listener.local_addr()?;
        let pools = Pools::new(&options);
        let strangers = Arc::new(Strangers::new(most_strangers(options.max_connections)));
        let doorway = Arc::new(Doorway::off(CLIENT, options.max_connections));
        let shared = Arc::new(Shared { options, service, counters: Arc::default(), pools, strangers });
        Ok(ThriftServer { listener, local_address, shared, doorway })
    }

    /// The server with TLS.
    pub(crate) fn with_tls(self, doorway: Arc<Doorway>) -> ThriftServer {
        ThriftServer { doorway, ..self }
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_address
    }

    /// The counters of the server.
    pub fn counters(&self) -> Arc<ThriftServerCounters> {
        Arc::clone(&self.shared.counters)
    }

    /// The memory budgets that connections share, for a display of their use.
    pub fn pools(&self) -> Pools {
        self.shared.pools.clone()
    }

    /// Serves until `shutdown` is cancelled. Then it stops accepting and reading, gives running
    /// calls `drain_timeout_ms` to end, sends their replies, closes every connection and returns.
    pub async fn serve(self, shutdown: CancellationToken) {
        let ThriftServer { listener, shared, doorway, .. } = self;
        doorway.keep_watch(shutdown.clone());
        let terms = AcceptTerms {
            name: CLIENT,
            max_connections: shared.options.max_connections,
            spared: Duration::from_millis(shared.options.spared_idle_ms),
            refusal: &[],
        };
        let mut last_id = 0;
        let serve = |incoming: Incoming| {
            last_id += 1;
            serve_one(Arc::clone(&shared), Arc::clone(&doorway), last_id, incoming)
        };
        let tell = |accepted| match accepted {
            Accepted::Refused => add(&shared.counters.connections_refused, 1),
            Accepted::InPlaceOfIdle => add(&shared.counters.connections_displaced, 1),
        };
        let mut connections = accept_until(listener, terms, shutdown, serve, tell).await;
        let drain = Duration::from_millis(shared.options.drain_timeout_ms);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(drain, all_ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "calls still running after drain_timeout_ms are aborted");
            connections.shutdown().await;
        }
    }
}

async fn serve_one(shared: Arc<Shared>, doorway: Arc<Doorway>, connection_id: u64, incoming: Incoming) {
    let _open = OpenConnection::new(&shared.counters);
    match doorway.admit(incoming).await {
        Some(Admitted::Plain(incoming, facts)) => serve_stream(&shared, connection_id, incoming, facts).await,
        Some(Admitted::Encrypted(incoming, facts)) => serve_stream(&shared, connection_id, *incoming, facts).await,
        Some(Admitted::LacksTls(incoming)) => plain::explain(incoming.stream).await,
        None => {}
    }
}

async fn serve_stream<S: ByteStream>(
    shared: &Shared,
    connection_id: u64,
    incoming: Incoming<S>,
    facts: ConnectionFacts,
) {
    let context = ConnectionContext { connection_id, session: Arc::new(Session::new(facts)), hurry: Arc::default() };
    let ended = connection::serve(shared, &context, incoming).await;
    tracing::debug!(peer = %context.peer(), connection = context.connection_id, ?ended, "connection closed");
}
