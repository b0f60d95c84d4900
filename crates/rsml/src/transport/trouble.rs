//! What keeps a connection from coming about, for those who show it to people.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// The name has no address, or no name server answers.
    Unresolved,
    /// Nobody answers there.
    Unreachable,
    /// Somebody answers, and is no peer, or takes this replica for none.
    Refused,
    /// The own address cannot be listened on.
    NotListening,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As configured.
    pub address: String,
    pub kind: TroubleKind,
    pub reason: String,
    /// Since when it has been of this kind.
    pub since: Instant,
}

/// The trouble that there is at the moment, if any.
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
