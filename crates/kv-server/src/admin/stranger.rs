//! Connections to the admin interface of clients that nobody knows yet: little time, few places.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rsml::transport::{Place, Strangers};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::accepting::{Idleness, STRANGERS_PATIENCE, most_strangers};
use crate::access::{Gate, Session};

/// The strangers of the interface.
pub(super) struct Hall {
    gate: Arc<Gate>,
    strangers: Arc<Strangers>,
}

/// One connection. Once its client is known, it stays so: what the client may do is not decided here.
pub(super) struct Stranger {
    gate: Arc<Gate>,
    session: Arc<Session>,
    place: Mutex<Option<Place>>,
}

impl Hall {
    /// For a listener with this many connections at most.
    pub fn new(gate: Arc<Gate>, max_connections: usize) -> Self {
        Hall { gate, strangers: Arc::new(Strangers::new(most_strangers(max_connections))) }
    }

    /// A new connection, which `end` closes.
    pub fn enter(&self, session: &Arc<Session>, arrival: u64, peer: SocketAddr, end: &CancellationToken) -> Stranger {
        let is_known = self.gate.knows(session);
        let place = (!is_known).then(|| self.strangers.enter_as(arrival, peer, end.clone()).0);
        Stranger { gate: self.gate.clone(), session: session.clone(), place: Mutex::new(place) }
    }
}

impl Stranger {
    /// Looks again whether it is one.
    pub fn look(&self) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() && self.gate.knows(&self.session) {
            *place = None;
        }
        place.is_some()
    }

    /// Returns when a stranger has sent no complete request for too long; never for others.
    pub async fn overstays(&self, idleness: &Idleness) {
        while self.look() {
            match idleness.since().map(|since| since + STRANGERS_PATIENCE) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => sleep(STRANGERS_PATIENCE).await,
            }
        }
        std::future::pending().await
    }
}
