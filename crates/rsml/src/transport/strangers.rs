//! Strangers: incoming connections whose dialler has not identified itself. Each takes a descriptor
//! and some memory, so their number is limited.
//!
//! If there are too many, the oldest one is closed. A peer identifies itself within milliseconds,
//! so it gets in however many others stay silent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The strangers of one listener.
pub struct Strangers {
    most: usize,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    next: u64,
    /// By arrival.
    waiting: BTreeMap<u64, (SocketAddr, CancellationToken)>,
}

/// One connection's place among the strangers. Dropping it frees the place.
pub struct Place {
    strangers: Arc<Strangers>,
    number: u64,
}

impl Strangers {
    /// Allows `most` strangers at a time.
    pub fn new(most: usize) -> Self {
        Strangers { most, all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection that `end` closes. If the oldest one had to be closed to make room, also
    /// returns its address.
    pub fn enter(self: &Arc<Self>, address: SocketAddr, end: CancellationToken) -> (Place, Option<SocketAddr>) {
        let mut all = self.all();
        let number = all.next;
        all.next += 1;
        drop(all);
        self.enter_as(number, address, end)
    }

    /// The same for the connection with this number by arrival. The tasks of connections may run in
    /// another order than the connections came: the oldest one may be this one. Not to be mixed with
    /// [`Strangers::enter`].
    pub fn enter_as(
        self: &Arc<Self>,
        number: u64,
        address: SocketAddr,
        end: CancellationToken,
    ) -> (Place, Option<SocketAddr>) {
        let mut all = self.all();
        all.waiting.insert(number, (address, end));
        let gone = if all.waiting.len() > self.most { all.waiting.pop_first() } else { None };
        drop(all);
        let gone = gone.map(|(_, (address, end))| {
            end.cancel();
            address
        });
        (Place { strangers: self.clone(), number }, gone)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.all().waiting.remove(&self.number);
    }
}
