//! Messages between replicas: envelopes with an opaque body, delivered at most once, in order per
//! connection.
//!
//! [`TcpTransport`] connects processes, [`InMemoryTransport`] connects the replicas of one process.
//! Neither interprets, stores or resends messages. Over plain TCP, a peer is believed to be the
//! replica that it claims to be. With certificates ([`PeerTls`]) peers prove it, and everything is
//! encrypted.

mod accepting;
mod backoff;
mod closable_sink;
mod counters;
mod dialling;
mod frame;
mod greeting;
mod in_memory;
mod listening;
mod options;
mod outgoing;
mod peer;
mod shared;
mod strangers;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::message::MessageHeader;
use crate::{Membership, ReplicaId};

pub use crate::address::PeerAddress;
pub use frame::{Decoder, EncodedFrame, Frame, FrameError, FrameKind};
pub use in_memory::{InMemoryTransport, SharedMessageBus, create_shared_message_bus};
pub use options::TcpOptions;
pub use strangers::{Place, Strangers};
pub use tcp::TcpTransport;
pub use tls::{PeerTls, TlsError};
pub use tls_files::{FileError, RenewalStatus, TlsFile, TlsFiles};
pub use trouble::{Trouble, TroubleKind};

/// One message in transit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The sender.
    pub sender: MessageHeader,
    /// The receiver.
    pub to: ReplicaId,
    /// The encoded [`crate::Message`].
    pub body: Bytes,
    /// The entries or requests that travel with the message, kept apart so that they are never
    /// copied into the body.
    pub payload: Vec<Bytes>,
}

/// A report of a transport to the replica that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportEvent {
    /// A message has arrived.
    Received(Envelope),
    /// The transport can send to that peer again.
    Connected(ReplicaId),
    /// A connection of that peer has ended: a hint that the peer may have died, but no proof.
    Disconnected(ReplicaId),
}

/// Receives the events of a transport. Must not block; events that it cannot accept are lost, and
/// peers send again.
pub type EventSink = Arc<dyn Fn(TransportEvent) + Send + Sync>;

/// Sends envelopes to peers.
pub trait Transport: Send + Sync + 'static {
    /// Sends an envelope to its receiver if that is possible at once, or queues it. Never blocks:
    /// if there is no connection, or the queue is full, the envelope is dropped, and the protocol
    /// above repeats what matters.
    fn send(&self, envelope: Envelope);

    /// Takes over the peers of `membership`: connects new ones, and disconnects those that are no
    /// longer members. A transport that reaches every replica anyway may ignore this.
    fn set_peers(&self, membership: &Membership);

    /// Stops all tasks and closes all connections. Nothing is delivered after it returns.
    fn shutdown(&self);

    /// Counters since the transport was started.
    fn statistics(&self) -> TransportStatistics {
        TransportStatistics::default()
    }

    /// For each peer without a connection, why there is none; under this replica's own id, why no
    /// peer can connect to it.
    fn troubles(&self) -> BTreeMap<ReplicaId, Arc<Trouble>> {
        BTreeMap::new()
    }

    /// The state of this replica's certificates, for operators; `None` without TLS.
    fn certificates(&self) -> Option<Arc<RenewalStatus>> {
        None
    }
}

/// Counters of a transport since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStatistics {
    /// Bytes written to connections.
    pub bytes_sent: u64,
    /// Bytes read from connections.
    pub bytes_received: u64,
    /// Envelopes written whole.
    pub messages_sent: u64,
    /// Envelopes delivered to this replica.
    pub messages_received: u64,
    /// Bytes queued now, for all peers together. Each peer's queue has a bound of its own.
    pub bytes_queued: u64,
    /// Envelopes dropped because a queue was full or there was no connection.
    pub messages_dropped: u64,
    /// Connections to peers that were made again after the first one.
    pub reconnects: u64,
    /// Envelopes that arrived here but were meant for another replica.
    pub messages_misdirected: u64,
    /// Incoming connections that this replica closed because it did not accept what came over them.
    pub connections_rejected: u64,
    /// Connections, in either direction, that failed because of TLS: a certificate was not accepted
    /// or named another replica, or only one side used TLS.
    pub tls_failures: u64,
}
