//! The state that the tasks of a [`TcpTransport`](super::TcpTransport) share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
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
use crate::{ClusterId, ReplicaId};

pub(super) struct TransportShared {
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
    pub fn new(options: TcpOptions, credentials: Option<Arc<Credentials>>, sink: EventSink) -> Self {
        let others = options.peers.iter().filter(|(id, _)| *id != options.me);
        TransportShared {
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
            sink: ClosableSink::new(sink),
            counters: Counters::default(),
            complaints: LogThrottle::new(),
            listen_address: OnceLock::new(),
            trouble: TroubleSlot::default(),
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
