//! Why there is no connection to a peer, for operators.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Where an operator should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// The name has no address, or no name server answers.
    Unresolved,
    /// Nothing answers at the address.
    Unreachable,
    /// Something answers, but it is no peer, or it does not accept this replica as one.
    Refused,
    /// A replica of another cluster answers.
    OtherCluster,
    /// This replica cannot listen on its own address.
    NotListening,
}

/// Why there is no connection, since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The peer's address as configured, or this replica's own.
    pub address: String,
    /// Where to look.
    pub kind: TroubleKind,
    /// The latest error.
    pub reason: String,
    /// When trouble of this kind began.
    pub since: Instant,
}

/// The present trouble, if any.
#[derive(Debug, Default)]
pub(super) struct TroubleSlot(Mutex<Option<Arc<Trouble>>>);

impl TroubleSlot {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<Trouble>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self) -> Option<Arc<Trouble>> {
        self.slot().clone()
    }

    pub fn clear(&self) {
        *self.slot() = None;
    }

    pub fn set(&self, address: &str, kind: TroubleKind, reason: String) {
        let mut slot = self.slot();
        let since = slot.as_ref().filter(|trouble| trouble.kind == kind).map_or_else(Instant::now, |t| t.since);
        *slot = Some(Arc::new(Trouble { address: address.to_owned(), kind, reason, since }));
    }
}
