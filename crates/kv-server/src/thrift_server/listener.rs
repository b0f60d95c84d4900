//! Accepts connections and ends them when the server stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::counters::{OpenConnection, add};
use super::{ConnectionContext, ThriftServerCounters, ThriftServerOptions, ThriftService, connection};

/// How long to wait after a failed accept: it usually fails for want of file descriptors, and at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound server; [`ThriftServer::serve`] runs it.
pub struct ThriftServer {
    listener: TcpListener,
    local_address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections of a server have in common.
pub(super) struct Shared {
    pub options: ThriftServerOptions,
    pub service: Arc<dyn ThriftService>,
    pub counters: Arc<ThriftServerCounters>,
}

impl ThriftServer {
    /// Takes the address; clients can connect from now on and are served once [`ThriftServer::serve`] runs.
    pub async fn bind(
        address: impl ToSocketAddrs,
        options: ThriftServerOptions,
        service: Arc<dyn ThriftService>,
    ) -> io::Result<ThriftServer> {
        options.validate().map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
        let listener = TcpListener::bind(address).await?;
        let local_address = listener.local_addr()?;
        let shared = Arc::new(Shared { options, service, counters: Arc::default() });
        Ok(ThriftServer { listener, local_address, shared })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_address
    }

    pub fn counters(&self) -> Arc<ThriftServerCounters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until `shutdown` is cancelled. Then it accepts and reads no more, gives running calls `drain_timeout_ms` to
    /// end, sends their replies, closes every connection and returns.
    pub async fn serve(self, shutdown: CancellationToken) {
        let ThriftServer { listener, shared, .. } = self;
        let mut connections = JoinSet::new();
        let mut last_id = 0;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => log_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        while let Some(ended) = connections.try_join_next() {
                            log_panic(ended);
                        }
                        if connections.len() >= shared.options.max_connections {
                            add(&shared.counters.connections_refused, 1);
                            tracing::debug!(%peer, "connection refused: max_connections are open");
                            continue;
                        }
                        last_id += 1;
                        let context = ConnectionContext { connection_id: last_id, peer };
                        connections.spawn(serve_one(Arc::clone(&shared), context, stream, shutdown.child_token()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        let drain = Duration::from_millis(shared.options.drain_timeout_ms);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(drain, all_ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "calls still running after drain_timeout_ms are given up");
            connections.shutdown().await;
        }
    }
}

async fn serve_one(shared: Arc<Shared>, context: ConnectionContext, stream: TcpStream, shutdown: CancellationToken) {
    let _open = OpenConnection::new(&shared.counters);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(peer = %context.peer, %error, "cannot set TCP_NODELAY");
    }
    let ended = connection::serve(&shared, &context, stream, shutdown).await;
    tracing::debug!(peer = %context.peer, connection = context.connection_id, ?ended, "connection closed");
}

/// Handlers cannot get here, they are caught one by one: this would be a fault of the server itself.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "the task of a connection panicked");
    }
}
