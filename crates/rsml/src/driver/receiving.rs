//! Where a replica's transport delivers its events.

use std::sync::{Arc, Weak};

use super::core_lock::CoreLock;
use super::sync::atomic::Ordering;
use super::work::{Event, received_bytes};
use crate::Message;
use crate::core::Input;
use crate::transport::{EventSink, TransportEvent};

/// If more messages than this wait for the core, new ones are dropped, and peers send them again.
const MAX_WAITING: usize = 100_000;

/// Turns events of the transport into inputs of the core.
pub fn sink(core: Weak<CoreLock>) -> EventSink {
    Arc::new(move |event| {
        let Some(core) = core.upgrade() else { return };
        let shared = core.shared();
        let input = match event {
            TransportEvent::Received(envelope) => {
                let Some(message) = Message::from_bytes(&envelope.body) else {
                    // Most likely a newer version sent it. That version must also express anything
                    // essential in messages that this one knows.
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
            core.submit(Event::Input(input));
        }
    })
}
