//! The network manager: messages of the core become envelopes of a transport, and back.

use std::sync::{Arc, Weak};

use super::Event;
use super::replica::Shared;
use crate::Message;
use crate::core::{Input, Outgoing};
use crate::transport::{Envelope, EventSink, Sender, Transport, TransportEvent, TransportStatistics};

/// More messages than this waiting for a replica that cannot keep up are dropped; peers send again.
const MAX_WAITING: usize = 100_000;

/// Owns a replica's transport.
pub struct NetworkManager {
    transport: Arc<dyn Transport>,
}

impl NetworkManager {
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        NetworkManager { transport }
    }

    /// Where the transport of a replica delivers to.
    pub(super) fn sink(shared: Weak<Shared>) -> EventSink {
        Arc::new(move |event| {
            let input = match event {
                TransportEvent::Received(envelope) => {
                    let Some(message) = Message::from_bytes(&envelope.body) else { return };
                    Input::Receive { sender: envelope.sender, message, payload: envelope.payload }
                }
                TransportEvent::Disconnected(peer) => Input::Disconnected(peer),
                TransportEvent::Connected(_) => return,
            };
            if let Some(shared) = shared.upgrade().filter(|shared| shared.inbox.len() < MAX_WAITING) {
                shared.bring(Event::Input(input));
            }
        })
    }

    pub(super) fn send(&self, sender: Sender, outgoing: Outgoing) {
        let Outgoing { to, message, payload } = outgoing;
        self.transport.send(Envelope { sender, to, body: message.to_bytes(), payload });
    }

    pub fn statistics(&self) -> TransportStatistics {
        self.transport.statistics()
    }

    pub fn shutdown(&self) {
        self.transport.shutdown();
    }
}
