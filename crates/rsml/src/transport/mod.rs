//! How replicas reach each other: envelopes with an opaque body, best effort, in order per connection.
//!
//! [`TcpTransport`] connects processes, [`InMemoryTransport`] the replicas of one process. Neither knows what the
//! messages mean, stores them or repeats them. Over TCP, peers are believed to be who they say they are, unless they have
//! certificates ([`PeerTls`]): then they prove it, and everything is encrypted.

mod accepting;
mod backoff;
mod dialling;
mod frame;
mod gate;
mod greeting;
mod in_memory;
mod outgoing;
mod peer;
mod strangers;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::ReplicaId;
use crate::message::MessageHeader;

pub use crate::address::PeerAddress;
pub use frame::{Decoder, EncodedFrame, Frame, FrameError, FrameKind};
pub use in_memory::{InMemoryTransport, SharedMessageBus, create_shared_message_bus};
pub use tcp::{TcpOptions, TcpTransport};
pub use tls::{PeerTls, TlsError, TlsFile};
pub use trouble::{Trouble, TroubleKind};

/// One message on its way. `body` is the encoded [`crate::Message`]; `payload` are the entries or requests that travel
/// with it, kept apart so that they are never copied into the body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    pub sender: MessageHeader,
    pub to: ReplicaId,
    pub body: Bytes,
    pub payload: Vec<Bytes>,
}

/// What a transport tells the replica that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportEvent {
    Received(Envelope),
    Connected(ReplicaId),
    /// The connection from that peer ended: a hint that it may have died, no proof.
    Disconnected(ReplicaId),
}

/// Where a transport delivers to. Must not block; what it cannot take is dropped (peers send again).
pub type EventSink = Arc<dyn Fn(TransportEvent) + Send + Sync>;

/// Sends envelopes to peers. Never blocks: a full queue drops, and the protocol above repeats what matters.
pub trait Transport: Send + Sync + 'static {
    fn send(&self, envelope: Envelope);

    /// Stops all tasks and closes all connections. Nothing is delivered after it returns.
    fn shutdown(&self);

    fn statistics(&self) -> TransportStatistics {
        TransportStatistics::default()
    }

    /// Why there is no connection to a peer, for each to which there is none now; under the own id, why nobody can connect
    /// to this replica.
    fn troubles(&self) -> BTreeMap<ReplicaId, Arc<Trouble>> {
        BTreeMap::new()
    }
}

/// Counters of a transport since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStatistics {
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub messages_sent: u64,
    pub messages_received: u64,
    /// Now waiting for peers to take them, of all peers together; each has a bound of its own.
    pub bytes_queued: u64,
    /// Envelopes dropped because a queue was full or no connection stood.
    pub messages_dropped: u64,
    /// Connections to peers that were made again after the first one.
    pub reconnects: u64,
    /// Envelopes that arrived here and were meant for another replica.
    pub messages_misdirected: u64,
    /// Incoming connections that were closed because what came over them was no message of a peer.
    pub connections_rejected: u64,
    /// Connections, in either direction, that came to nothing over TLS: a certificate that is not accepted or names another
    /// replica, or TLS on one side only.
    pub tls_failures: u64,
}
