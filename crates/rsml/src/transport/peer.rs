//! What is known of one peer: which connections stand, and the queue to it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::TransportEvent;
use super::gate::Gate;
use super::outgoing::{Outgoing, Way};
use super::trouble::TroubleSlot;
use crate::PeerAddress;
use crate::ReplicaId;
use crate::seldom::Seldom;

pub(super) struct Peer {
    pub id: ReplicaId,
    pub address: PeerAddress,
    pub outgoing: Outgoing,
    /// The peer gave a sign of life: dialling it is worth a try at once.
    pub seen: Notify,
    /// About connections to it.
    pub complaints: Seldom,
    /// Why there is no connection to it.
    pub trouble: TroubleSlot,
    link: Mutex<Link>,
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
    pub fn new(id: ReplicaId, address: PeerAddress, queue_bytes: usize) -> Self {
        Peer {
            id,
            address,
            outgoing: Outgoing::new(queue_bytes),
            seen: Notify::new(),
            complaints: Seldom::new(),
            trouble: TroubleSlot::default(),
            link: Mutex::default(),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn outgoing_began(&self, way: Way, gate: &Gate) {
        let mut link = self.link();
        self.outgoing.open(way);
        link.outgoing_stands = true;
        link.is_alive = true;
        gate.deliver(TransportEvent::Connected(self.id));
    }

    /// Returns how many messages were still queued; they are dropped.
    pub fn outgoing_ended(&self, gate: &Gate) -> usize {
        let mut link = self.link();
        link.outgoing_stands = false;
        let dropped = self.outgoing.close();
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
