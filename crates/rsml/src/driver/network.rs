//! The network manager: messages of the core become envelopes of a transport, and back.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::Event;
use super::replica::Shared;
use super::sync::atomic::Ordering;
use crate::core::{Input, Outgoing};
use crate::message::MessageHeader;
use crate::transport::{Envelope, EventSink, Transport, TransportEvent, TransportStatistics, Trouble};
use crate::{Message, ReplicaId};

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
            let Some(shared) = shared.upgrade() else { return };
            let input = match event {
                TransportEvent::Received(envelope) => {
                    let Some(message) = Message::from_bytes(&envelope.body) else {
                        // Of a newer version, most likely: what matters to that one it says in other words too.
                        shared.status().messages_unknown += 1;
                        return;
                    };
                    Input::Receive { sender: envelope.sender, message, payload: envelope.payload }
                }
                TransportEvent::Disconnected(peer) => Input::Disconnected(peer),
                TransportEvent::Connected(_) => return,
            };
            let bytes = received_bytes(&input);
            let waiting = shared.waiting_bytes.load(Ordering::Relaxed);
            if shared.inbox.len() < MAX_WAITING && (bytes == 0 || waiting + bytes <= shared.max_waiting_bytes) {
                shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
                shared.bring(Event::Input(input));
            }
        })
    }

    pub(super) fn send(&self, sender: MessageHeader, outgoing: Outgoing) {
        let Outgoing { to, message, payload } = outgoing;
        self.transport.send(Envelope { sender, to, body: message.to_bytes(), payload });
    }

    pub fn statistics(&self) -> TransportStatistics {
        self.transport.statistics()
    }

    pub fn troubles(&self) -> BTreeMap<ReplicaId, Arc<Trouble>> {
        self.transport.troubles()
    }

    pub fn shutdown(&self) {
        self.transport.shutdown();
    }
}

/// What an input takes of [`MAX_WAITING_BYTES`] until the core has it.
pub(super) fn received_bytes(input: &Input) -> usize {
    match input {
        Input::Receive { payload, .. } => payload.iter().map(bytes::Bytes::len).sum(),
        _ => 0,
    }
}
