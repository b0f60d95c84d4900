//! [`TcpTransport`]: two connections per pair of peers, one in each direction. Each replica sends
//! over the connections that it dials, and only receives over those that it accepts.
//!
//! The dialler says hello. The accepting side greets it when it accepts the connection, and then
//! sends a sign of life every `alive_interval_ms`. A dialler that hears none for `silence_ms` dials
//! again: after a partition the kernel would wait up to minutes before it sends again over the old
//! connection.
//!
//! The transport reports [`TransportEvent::Connected`] when a peer has accepted an outgoing
//! connection, and [`TransportEvent::Disconnected`] when the outgoing or the incoming connection of
//! a peer ends, but only once if the peer's death ends both. While there is no outgoing connection,
//! envelopes are dropped: the protocol above repeats what matters, and stale messages help nobody.
//!
//! [`TransportEvent::Connected`]: super::TransportEvent::Connected
//! [`TransportEvent::Disconnected`]: super::TransportEvent::Disconnected

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::accepting::accept;
use super::counters::count;
use super::dialling::dial;
use super::frame::Frame;
use super::options::TcpOptions;
use super::shared::TransportShared;
use super::tls::Credentials;
use super::trouble::Trouble;
use super::{Envelope, EventSink, RenewalStatus, Transport, TransportStatistics};
use crate::{Membership, ReplicaId};

/// A [`Transport`] over TCP, with or without TLS. It shuts down when it is dropped.
pub struct TcpTransport {
    shared: Arc<TransportShared>,
}

impl TcpTransport {
    /// Listens and dials on `runtime`. Returns as soon as the transport listens, or has begun to
    /// resolve the name to listen on.
    ///
    /// # Errors
    /// The address to listen on is not a name and cannot be listened on, or the certificates cannot
    /// be used.
    pub fn start(mut options: TcpOptions, sink: EventSink, runtime: &Handle) -> io::Result<Self> {
        let listener = match (options.listener.take(), options.listen.literal()) {
            (None, Some(address)) => Some(
                std::net::TcpListener::bind(address)
                    .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?,
            ),
            (listener, _) => listener,
        };
        let me = options.membership.me();
        let credentials =
            options.tls.take().map(|tls| Credentials::new(tls, me).map(Arc::new).map_err(io::Error::other));
        let credentials = credentials.transpose()?;
        let _context = runtime.enter();
        let listener = listener.map(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        let listener = listener.transpose()?;
        let (name, membership) = (options.listen.clone(), options.membership.clone());
        let shared = Arc::new(TransportShared::new(options, credentials, sink, runtime));
        if let Some(listener) = &listener {
            shared.note_listening(listener)?;
        }
        let transport = TcpTransport { shared: shared.clone() };
        transport.set_peers(&membership);
        if let Some(credentials) = &shared.credentials {
            shared.spawn(credentials.watch());
        }
        let accepting = shared.clone();
        shared.spawn(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => accepting.listen_eventually(&name).await,
            };
            accept(accepting, listener).await;
        });
        Ok(transport)
    }

    /// Where the transport listens; `None` while the name to listen on is being resolved.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.listen_address.get().copied()
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
        let Some(peer) = self.shared.peer(envelope.to) else {
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

    fn set_peers(&self, membership: &Membership) {
        // Also former members, which are told what they miss, and those that the settings name.
        let known = membership.contacts().into_iter().filter_map(|(peer, address)| Some((peer, address?)));
        let (added, removed) = self.shared.replace_peers(known.collect());
        for peer in removed {
            peer.remove();
        }
        for peer in added {
            self.shared.spawn(dial(self.shared.clone(), peer));
        }
    }

    /// Must not be called from within the [`EventSink`].
    fn shutdown(&self) {
        self.shared.sink.close();
        self.shared.stop.cancel();
    }

    fn statistics(&self) -> TransportStatistics {
        let bytes_queued = self.shared.peers().iter().map(|peer| peer.outgoing.bytes() as u64).sum();
        TransportStatistics { bytes_queued, ..self.shared.counters.statistics() }
    }

    fn troubles(&self) -> BTreeMap<ReplicaId, Arc<Trouble>> {
        let own = self.shared.trouble.get().map(|trouble| (self.shared.me, trouble));
        let peers = self.shared.peers();
        let peers = peers.iter().filter_map(|peer| Some((peer.id, peer.trouble.get()?)));
        peers.chain(own).collect()
    }

    fn certificates(&self) -> Option<Arc<RenewalStatus>> {
        self.shared.credentials.as_ref().map(|credentials| credentials.status())
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}
