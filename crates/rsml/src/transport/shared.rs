//! The state that the tasks of a [`TcpTransport`](super::TcpTransport) share.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EventSink;
use super::closable_sink::ClosableSink;
use super::counters::{Counters, count};
use super::options::TcpOptions;
use super::outgoing::Written;
use super::peer::Peer;
use super::tls::Credentials;
use super::trouble::TroubleSlot;
use crate::log_throttle::LogThrottle;
use crate::{ClusterId, PeerAddress, ReplicaId};

pub(super) struct TransportShared {
    pub me: ReplicaId,
    pub max_strangers: usize,
    pub cluster_id: ClusterId,
    pub connect_timeout: Duration,
    pub alive_interval: Duration,
    pub silence: Duration,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// The bound of each peer's queue.
    pub queue_bytes: usize,
    peers: RwLock<BTreeMap<ReplicaId, Arc<Peer>>>,
    /// Runs the tasks.
    pub runtime: Handle,
    /// `None`: without TLS.
    pub credentials: Option<Arc<Credentials>>,
    pub sink: ClosableSink,
    pub counters: Counters,
    /// Limits log lines about incoming connections.
    pub complaints: LogThrottle,
    /// The address that the transport listens on, once it does.
    pub listen_address: OnceLock<SocketAddr>,
    /// Why the transport does not listen.
    pub trouble: TroubleSlot,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

impl TransportShared {
    /// A transport without peers.
    pub fn new(options: TcpOptions, credentials: Option<Arc<Credentials>>, sink: EventSink, runtime: &Handle) -> Self {
        TransportShared {
            me: options.membership.me(),
            max_strangers: options.max_strangers.max(1),
            cluster_id: options.cluster_id,
            connect_timeout: Duration::from_millis(options.connect_timeout_ms),
            alive_interval: Duration::from_millis(options.alive_interval_ms.max(1)),
            silence: Duration::from_millis(options.silence_ms),
            reconnect_min: Duration::from_millis(options.reconnect_min_ms.max(1)),
            reconnect_max: Duration::from_millis(options.reconnect_max_ms),
            queue_bytes: options.queue_bytes,
            peers: RwLock::default(),
            runtime: runtime.clone(),
            credentials,
            sink: ClosableSink::new(sink),
            counters: Counters::default(),
            complaints: LogThrottle::new(),
            listen_address: OnceLock::new(),
            trouble: TroubleSlot::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub fn peer(&self, id: ReplicaId) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// By ascending id.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Replaces the peers by those with these ids and addresses. A peer that was there before with
    /// the same address stays. Returns the new ones and the removed ones.
    pub fn replace_peers(&self, wanted: BTreeMap<ReplicaId, PeerAddress>) -> (Vec<Arc<Peer>>, Vec<Arc<Peer>>) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        peers.retain(|id, peer| {
            let stays = wanted.get(id) == Some(&peer.address);
            if !stays {
                removed.push(peer.clone());
            }
            stays
        });
        for (id, address) in wanted {
            if let Entry::Vacant(entry) = peers.entry(id) {
                let peer = Arc::new(Peer::new(id, address, self.queue_bytes));
                added.push(entry.insert(peer).clone());
            }
        }
        (added, removed)
    }

    pub fn count_written(&self, written: Written) {
        count(&self.counters.messages_sent, written.frames);
        count(&self.counters.bytes_sent, written.bytes);
    }

    /// Runs a task until it ends or the transport is shut down.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn_on(async move { stop.run_until_cancelled(task).await.unwrap_or(()) }, &self.runtime);
    }
}
