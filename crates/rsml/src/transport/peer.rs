//! What is known of one peer: the queue of envelopes to it, and which connections stand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::frame::encoded_bytes;
use super::gate::Gate;
use super::{Envelope, TransportEvent};
use crate::ReplicaId;

pub(super) struct Peer {
    pub id: ReplicaId,
    pub address: SocketAddr,
    queue: Mutex<Queue>,
    queue_bytes: usize,
    /// Something was queued.
    queued: Notify,
    /// The peer gave a sign of life: dialling it is worth a try at once.
    pub seen: Notify,
    link: Mutex<Link>,
}

/// Holds envelopes only while the outgoing connection stands. `bytes` covers what is being written too.
#[derive(Default)]
struct Queue {
    is_open: bool,
    envelopes: VecDeque<Envelope>,
    bytes: usize,
}

#[derive(Default)]
struct Link {
    outgoing_stands: bool,
    /// The newest incoming connection: its number, and how to end it.
    incoming: Option<(u64, CancellationToken)>,
    incoming_count: u64,
    /// The newest incoming connection when an end was told last. That it ends too, perhaps later than the peer is back,
    /// is no news.
    mourned: u64,
    /// Whether the end of a connection is news. The death of a peer ends two.
    is_alive: bool,
}

impl Peer {
    pub fn new(id: ReplicaId, address: SocketAddr, queue_bytes: usize) -> Self {
        Peer {
            id,
            address,
            queue: Mutex::default(),
            queue_bytes,
            queued: Notify::new(),
            seen: Notify::new(),
            link: Mutex::default(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when there is no room or no connection.
    pub fn push(&self, envelope: Envelope) -> bool {
        let bytes = encoded_bytes(&envelope);
        {
            let mut queue = self.queue();
            if !queue.is_open || queue.bytes + bytes > self.queue_bytes {
                return false;
            }
            queue.bytes += bytes;
            queue.envelopes.push_back(envelope);
        }
        self.queued.notify_one();
        true
    }

    /// Everything queued, at least one envelope, and the bytes to give back with [`Peer::written`].
    pub async fn take(&self) -> (VecDeque<Envelope>, usize) {
        loop {
            {
                let mut queue = self.queue();
                if !queue.envelopes.is_empty() {
                    return (std::mem::take(&mut queue.envelopes), queue.bytes);
                }
            }
            self.queued.notified().await;
        }
    }

    pub fn written(&self, bytes: usize) {
        self.queue().bytes -= bytes;
    }

    pub fn outgoing_began(&self, gate: &Gate) {
        let mut link = self.link();
        self.queue().is_open = true;
        link.outgoing_stands = true;
        link.is_alive = true;
        gate.deliver(TransportEvent::Connected(self.id));
    }

    /// Returns how many envelopes were still queued; they are dropped.
    pub fn outgoing_ended(&self, gate: &Gate) -> usize {
        let mut link = self.link();
        link.outgoing_stands = false;
        let dropped = std::mem::take(&mut *self.queue()).envelopes.len();
        self.tell_of_end(&mut link, gate);
        dropped
    }

    /// Returns the connection's number. The one before it is ended: the peer has only one, so that one is dead.
    pub fn incoming_began(&self, end: CancellationToken, gate: &Gate) -> u64 {
        let mut link = self.link();
        link.incoming_count += 1;
        let number = link.incoming_count;
        if let Some((_, superseded)) = link.incoming.replace((number, end)) {
            superseded.cancel();
        }
        if link.outgoing_stands && !link.is_alive {
            gate.deliver(TransportEvent::Connected(self.id));
        }
        link.is_alive = true;
        self.seen.notify_one();
        number
    }

    pub fn incoming_ended(&self, number: u64, gate: &Gate) {
        let mut link = self.link();
        if link.incoming.as_ref().is_some_and(|(newest, _)| *newest == number) {
            link.incoming = None;
            if number > link.mourned {
                self.tell_of_end(&mut link, gate);
            }
        }
    }

    fn tell_of_end(&self, link: &mut Link, gate: &Gate) {
        link.mourned = link.incoming_count;
        if std::mem::replace(&mut link.is_alive, false) {
            gate.deliver(TransportEvent::Disconnected(self.id));
        }
    }
}
