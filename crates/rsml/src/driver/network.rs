//! The network manager: sends the core's messages as envelopes of a transport.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::Outgoing;
use crate::message::MessageHeader;
use crate::transport::{Envelope, Transport, TransportStatistics, Trouble};
use crate::{Membership, ReplicaId};

/// Owns a replica's transport.
pub struct NetworkManager {
    transport: Arc<dyn Transport>,
}

impl NetworkManager {
    /// Sends over `transport`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        NetworkManager { transport }
    }

    pub(super) fn set_peers(&self, membership: &Membership) {
        self.transport.set_peers(membership);
    }

    pub(super) fn send(&self, sender: MessageHeader, outgoing: Outgoing) {
        let Outgoing { to, message, payload } = outgoing;
        self.transport.send(Envelope { sender, to, body: message.to_bytes(), payload });
    }

    /// Counters of the transport.
    pub fn statistics(&self) -> TransportStatistics {
        self.transport.statistics()
    }

    /// See [`Transport::troubles`].
    pub fn troubles(&self) -> BTreeMap<ReplicaId, Arc<Trouble>> {
        self.transport.troubles()
    }

    /// Closes all connections. Nothing is received after this returns.
    pub fn shutdown(&self) {
        self.transport.shutdown();
    }
}
