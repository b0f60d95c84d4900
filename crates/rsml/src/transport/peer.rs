//! One peer: its connections, and the queue of messages to it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::TransportEvent;
use super::closable_sink::ClosableSink;
use super::outgoing::{Outgoing, WriteMode};
use super::trouble::TroubleSlot;
use crate::log_throttle::LogThrottle;
use crate::{PeerAddress, ReplicaId};

pub(super) struct Peer {
    pub id: ReplicaId,
    pub address: PeerAddress,
    pub outgoing: Outgoing,
    /// Signalled when the peer connects to this replica: dialling it is worth a try at once.
    pub seen: Notify,
    /// Limits log lines about connections to the peer.
    pub complaints: LogThrottle,
    /// Why there is no connection to the peer.
    pub trouble: TroubleSlot,
    /// Cancelled once this is no longer a peer.
    pub removed: CancellationToken,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    has_outgoing: bool,
    /// The newest incoming connection: its number, and how to end it.
    incoming: Option<(u64, CancellationToken)>,
    incoming_count: u64,
    /// The number of the newest incoming connection when a disconnection was reported last. The end
    /// of that connection, or of one before it, is not reported again, even if the peer is back by
    /// then.
    reported_dead: u64,
    /// Whether the end of a connection is to be reported. The death of a peer ends two connections,
    /// but is reported once.
    is_alive: bool,
}

impl Peer {
    pub fn new(id: ReplicaId, address: PeerAddress, queue_bytes: usize) -> Self {
        Peer {
            id,
            address,
            outgoing: Outgoing::new(queue_bytes),
            seen: Notify::new(),
            complaints: LogThrottle::new(),
            trouble: TroubleSlot::default(),
            removed: CancellationToken::new(),
            link: Mutex::default(),
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn outgoing_began(&self, mode: WriteMode, sink: &ClosableSink) {
        let mut link = self.link();
        self.outgoing.open(mode);
        link.has_outgoing = true;
        link.is_alive = true;
        sink.deliver(TransportEvent::Connected(self.id));
    }

    /// Drops the messages that are still queued, and returns how many.
    pub fn outgoing_ended(&self, sink: &ClosableSink) -> usize {
        let mut link = self.link();
        link.has_outgoing = false;
        let dropped = self.outgoing.close();
        self.report_end(&mut link, sink);
        dropped
    }

    /// Returns the connection's number. Ends the previous connection: a peer has only one, so that
    /// one is dead.
    pub fn incoming_began(&self, end: CancellationToken, sink: &ClosableSink) -> u64 {
        let mut link = self.link();
        link.incoming_count += 1;
        let number = link.incoming_count;
        if self.removed.is_cancelled() {
            end.cancel();
        }
        if let Some((_, superseded)) = link.incoming.replace((number, end)) {
            superseded.cancel();
        }
        if link.has_outgoing && !link.is_alive {
            sink.deliver(TransportEvent::Connected(self.id));
        }
        link.is_alive = true;
        self.seen.notify_one();
        number
    }

    /// Ends both connections: this is no longer a peer.
    pub fn remove(&self) {
        let link = self.link();
        self.removed.cancel();
        if let Some((_, end)) = &link.incoming {
            end.cancel();
        }
    }

    pub fn incoming_ended(&self, number: u64, sink: &ClosableSink) {
        let mut link = self.link();
        if link.incoming.as_ref().is_some_and(|(newest, _)| *newest == number) {
            link.incoming = None;
            if number > link.reported_dead {
                self.report_end(&mut link, sink);
            }
        }
    }

    fn report_end(&self, link: &mut Link, sink: &ClosableSink) {
        link.reported_dead = link.incoming_count;
        if std::mem::replace(&mut link.is_alive, false) {
            sink.deliver(TransportEvent::Disconnected(self.id));
        }
    }
}
