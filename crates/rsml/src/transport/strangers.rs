//! Incoming connections whose dialler has not said who it is. Each takes a descriptor and some memory, so there are few.
//!
//! Where there are too many, the one that has been silent for longest goes: a peer says who it is within milliseconds, so
//! it gets in however many others stay silent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

pub(super) struct Strangers {
    most: usize,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    next: u64,
    /// By arrival.
    waiting: BTreeMap<u64, (SocketAddr, CancellationToken)>,
}

/// The place of one connection among the strangers, which it leaves when this is dropped.
pub(super) struct Place {
    strangers: Arc<Strangers>,
    number: u64,
}

impl Strangers {
    /// At most `most` at a time.
    pub fn new(most: usize) -> Self {
        Strangers { most, all: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a connection that `end` ends; also returns the address of the one that had to go for it, which was ended.
    pub fn enter(self: &Arc<Self>, address: SocketAddr, end: CancellationToken) -> (Place, Option<SocketAddr>) {
        let mut all = self.all();
        let gone = if all.waiting.len() < self.most { None } else { all.waiting.pop_first() };
        let number = all.next;
        all.next += 1;
        all.waiting.insert(number, (address, end));
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
