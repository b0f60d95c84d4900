//! [`TcpTransport`]: one connection per pair of peers and direction. Each replica dials the ones it sends over, and only
//! receives over those it accepts.
//!
//! The dialler says hello; the accepting side greets it when it takes the connection, and says that it lives every
//! `alive_interval_ms`. A dialler that hears none for `silence_ms` dials anew: after a partition the kernel would wait
//! up to minutes before it sends again over the old connection.
//!
//! [`TransportEvent::Connected`] is told when an outgoing connection was taken, [`TransportEvent::Disconnected`] when the
//! outgoing or the incoming connection of a peer ends, once if its death ends both. While there is no outgoing
//! connection, envelopes are dropped: the protocol above repeats what matters, and stale messages help no one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accepting::accept;
use super::dialling::dial;
use super::frame::Frame;
use super::gate::{Counters, Gate, count};
use super::outgoing::Written;
use super::peer::Peer;
use super::seldom::Seldom;
use super::tls::{Credentials, PeerTls};
use super::{Envelope, EventSink, Transport, TransportStatistics};
use crate::{ClusterId, ReplicaId};

#[derive(Debug)]
pub struct TcpOptions {
    pub me: ReplicaId,
    /// Ignored when there is a `listener`.
    pub listen: SocketAddr,
    /// A socket that listens already, for instance on a port that the system chose.
    pub listener: Option<std::net::TcpListener>,
    /// Where the other replicas listen. `me` among them is ignored.
    pub peers: Vec<(ReplicaId, SocketAddr)>,
    /// When known on both sides, connections between different clusters are refused.
    pub cluster_id: ClusterId,
    /// How much may wait for one peer, what is being written included; more is dropped.
    pub queue_bytes: usize,
    /// Incoming connections whose dialler has not said who it is. More are closed at once: each takes a socket and some
    /// memory. At least 1.
    pub max_strangers: usize,
    /// The wait before dialling again doubles from here...
    pub reconnect_min_ms: u64,
    /// ...up to here, and is shortened by up to half at random.
    pub reconnect_max_ms: u64,
    /// How long a peer may take to accept, and to say who it is.
    pub connect_timeout_ms: u64,
    pub alive_interval_ms: u64,
    /// Several times `alive_interval_ms`.
    pub silence_ms: u64,
    /// Encrypts every connection, and lets only peers speak that prove who they are. All replicas or none.
    pub tls: Option<PeerTls>,
}

impl TcpOptions {
    /// The default of `queue_bytes`.
    pub const QUEUE_BYTES: usize = 64 << 20;
    /// The default of `max_strangers`.
    pub const MAX_STRANGERS: usize = 128;

    pub fn new(me: ReplicaId, listen: SocketAddr, peers: Vec<(ReplicaId, SocketAddr)>) -> Self {
        TcpOptions {
            me,
            listen,
            listener: None,
            peers,
            cluster_id: ClusterId::NONE,
            queue_bytes: Self::QUEUE_BYTES,
            max_strangers: Self::MAX_STRANGERS,
            reconnect_min_ms: 10,
            reconnect_max_ms: 1000,
            connect_timeout_ms: 2000,
            alive_interval_ms: 1000,
            silence_ms: 4000,
            tls: None,
        }
    }
}

/// See the module. Shut down when dropped.
pub struct TcpTransport {
    shared: Arc<Shared>,
    local_address: SocketAddr,
}

/// What the tasks of a transport have in common.
pub(super) struct Shared {
    pub me: ReplicaId,
    pub max_strangers: usize,
    pub cluster_id: ClusterId,
    pub connect_timeout: Duration,
    pub alive_interval: Duration,
    pub silence: Duration,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    pub peers: BTreeMap<ReplicaId, Arc<Peer>>,
    /// `None`: without TLS.
    pub credentials: Option<Arc<Credentials>>,
    pub gate: Gate,
    pub counters: Counters,
    /// About incoming connections.
    pub complaints: Seldom,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TcpTransport {
    /// Listens and dials on `runtime`; returns as soon as it listens.
    pub fn start(mut options: TcpOptions, sink: EventSink, runtime: &Handle) -> io::Result<Self> {
        let listener = match options.listener.take() {
            Some(listener) => listener,
            None => std::net::TcpListener::bind(options.listen)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", options.listen)))?,
        };
        let credentials = options.tls.take().map(|tls| {
            let peers = options.peers.iter().map(|(id, _)| *id);
            Credentials::new(tls, options.me, peers).map(Arc::new).map_err(io::Error::other)
        });
        let credentials = credentials.transpose()?;
        listener.set_nonblocking(true)?;
        let local_address = listener.local_addr()?;
        let _context = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let shared = Arc::new(Shared::new(options, credentials, sink));
        for peer in shared.peers.values() {
            shared.spawn(runtime, dial(shared.clone(), peer.clone()));
        }
        shared.spawn(runtime, accept(shared.clone(), listener, runtime.clone()));
        Ok(TcpTransport { shared, local_address })
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Waits until all tasks have ended and all sockets are closed, after [`Transport::shutdown`].
    pub async fn closed(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Transport for TcpTransport {
    fn send(&self, envelope: Envelope) {
        let counters = &self.shared.counters;
        let Some(peer) = self.shared.peers.get(&envelope.to) else {
            return count(&counters.messages_dropped, 1);
        };
        let pushed = match Frame::message(envelope).encode() {
            Ok(frame) => peer.outgoing.push(frame),
            Err(error) => {
                tracing::error!(peer = peer.id.0, %error, "a message cannot be sent");
                None
            }
        };
        match pushed {
            Some(written) => self.shared.count_written(written),
            None => count(&counters.messages_dropped, 1),
        }
    }

    /// Not to be called from within the [`EventSink`].
    fn shutdown(&self) {
        self.shared.gate.close();
        self.shared.stop.cancel();
    }

    fn statistics(&self) -> TransportStatistics {
        let bytes_queued = self.shared.peers.values().map(|peer| peer.outgoing.bytes() as u64).sum();
        TransportStatistics { bytes_queued, ..self.shared.counters.statistics() }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn new(options: TcpOptions, credentials: Option<Arc<Credentials>>, sink: EventSink) -> Self {
        let others = options.peers.iter().filter(|(id, _)| *id != options.me);
        Shared {
            me: options.me,
            max_strangers: options.max_strangers.max(1),
            cluster_id: options.cluster_id,
            connect_timeout: Duration::from_millis(options.connect_timeout_ms),
            alive_interval: Duration::from_millis(options.alive_interval_ms.max(1)),
            silence: Duration::from_millis(options.silence_ms),
            reconnect_min: Duration::from_millis(options.reconnect_min_ms.max(1)),
            reconnect_max: Duration::from_millis(options.reconnect_max_ms),
            peers: others.map(|&(id, at)| (id, Arc::new(Peer::new(id, at, options.queue_bytes)))).collect(),
            credentials,
            gate: Gate::new(sink),
            counters: Counters::default(),
            complaints: Seldom::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub fn count_written(&self, written: Written) {
        count(&self.counters.messages_sent, written.frames);
        count(&self.counters.bytes_sent, written.bytes);
    }

    /// Runs a task until it ends or the transport is shut down.
    pub fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn_on(async move { stop.run_until_cancelled(task).await.unwrap_or(()) }, runtime);
    }
}
