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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::dial::Name;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accepting::accept;
use super::backoff::Backoff;
use super::dialling::dial;
use super::frame::Frame;
use super::gate::{Counters, Gate, count};
use super::outgoing::Written;
use super::peer::Peer;
use super::tls::{Credentials, PeerTls};
use super::trouble::{Trouble, TroubleKind, TroubleSlot};
use super::{Envelope, EventSink, Transport, TransportStatistics};
use crate::PeerAddress;
use crate::seldom::Seldom;
use crate::{ClusterId, ReplicaId};

#[derive(Debug)]
pub struct TcpOptions {
    pub me: ReplicaId,
    /// Ignored when there is a `listener`. A name is looked up, and listened on, again and again until that works.
    pub listen: PeerAddress,
    /// A socket that listens already, for instance on a port that the system chose.
    pub listener: Option<std::net::TcpListener>,
    /// Where the other replicas listen. `me` among them is ignored.
    pub peers: Vec<(ReplicaId, PeerAddress)>,
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

    pub fn new<A: Into<PeerAddress>>(me: ReplicaId, listen: A, peers: Vec<(ReplicaId, A)>) -> Self {
        TcpOptions {
            me,
            listen: listen.into(),
            listener: None,
            peers: peers.into_iter().map(|(id, address)| (id, address.into())).collect(),
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

/// How long to wait before the own name is looked up again, at first and at most.
const LISTEN_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// See the module. Shut down when dropped.
pub struct TcpTransport {
    shared: Arc<Shared>,
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
    /// Where it listens, once it does.
    listens: OnceLock<SocketAddr>,
    /// Why it does not.
    trouble: TroubleSlot,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl TcpTransport {
    /// Listens and dials on `runtime`; returns as soon as it listens, or has begun to look up the name to listen on.
    ///
    /// # Errors
    /// The address is no name and cannot be listened on, or the certificates are of no use.
    pub fn start(mut options: TcpOptions, sink: EventSink, runtime: &Handle) -> io::Result<Self> {
        let listener = match (options.listener.take(), options.listen.literal()) {
            (None, Some(address)) => Some(
                std::net::TcpListener::bind(address)
                    .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?,
            ),
            (listener, _) => listener,
        };
        let credentials = options.tls.take().map(|tls| {
            let peers = options.peers.iter().map(|(id, _)| *id);
            Credentials::new(tls, options.me, peers).map(Arc::new).map_err(io::Error::other)
        });
        let credentials = credentials.transpose()?;
        let _context = runtime.enter();
        let listener = listener.map(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        let listener = listener.transpose()?;
        let name = options.listen.clone();
        let shared = Arc::new(Shared::new(options, credentials, sink));
        if let Some(listener) = &listener {
            shared.listens_on(listener)?;
        }
        for peer in shared.peers.values() {
            shared.spawn(runtime, dial(shared.clone(), peer.clone()));
        }
        let (accepting, accepts_on) = (shared.clone(), runtime.clone());
        shared.spawn(runtime, async move {
            let listener = match listener {
                Some(listener) => listener,
                None => accepting.listen_in_the_end(&name).await,
            };
            accept(accepting, listener, accepts_on).await;
        });
        Ok(TcpTransport { shared })
    }

    /// Where it listens; `None` as long as the name to listen on is looked up.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.listens.get().copied()
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

    fn troubles(&self) -> BTreeMap<ReplicaId, Arc<Trouble>> {
        let own = self.shared.trouble.get().map(|trouble| (self.shared.me, trouble));
        let peers = self.shared.peers.iter().filter_map(|(id, peer)| Some((*id, peer.trouble.get()?)));
        peers.chain(own).collect()
    }
}

/// On the first one that is this machine's; those of IPv4 first, since that is what others expect most.
async fn listen_on_one(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let (v4, v6): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses.iter().copied().partition(|address| address.is_ipv4());
    for address in v4.into_iter().chain(v6) {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
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
            peers: others.map(|(id, at)| (*id, Arc::new(Peer::new(*id, at.clone(), options.queue_bytes)))).collect(),
            credentials,
            gate: Gate::new(sink),
            counters: Counters::default(),
            complaints: Seldom::new(),
            listens: OnceLock::new(),
            trouble: TroubleSlot::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    fn listens_on(&self, listener: &TcpListener) -> io::Result<()> {
        let address = listener.local_addr()?;
        self.trouble.clear();
        self.listens.set(address).expect("it begins to listen once");
        Ok(())
    }

    /// Tries again as long as the name has no address, or none of this machine. Meanwhile this replica dials the others, and
    /// none of them reaches it.
    async fn listen_in_the_end(&self, address: &PeerAddress) -> TcpListener {
        let mut name = Name::new(address.as_str());
        let mut backoff = Backoff::new(LISTEN_PAUSE.0, LISTEN_PAUSE.1);
        loop {
            let failure = match name.look_up(self.connect_timeout).await {
                Err(error) => (TroubleKind::Unresolved, error),
                Ok(addresses) => match listen_on_one(&addresses).await {
                    Ok(listener) => match self.listens_on(&listener) {
                        Ok(()) => {
                            tracing::info!(%address, "listens for its peers now");
                            return listener;
                        }
                        Err(error) => (TroubleKind::NotListening, error),
                    },
                    Err(error) => (TroubleKind::NotListening, error),
                },
            };
            let (kind, error) = failure;
            if let Some(held_back) = self.complaints.may_speak() {
                tracing::warn!(%address, %error, held_back, "cannot listen for peers yet; tries again");
            }
            self.trouble.set(address.as_str(), kind, error.to_string());
            time::sleep(backoff.next_wait()).await;
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
