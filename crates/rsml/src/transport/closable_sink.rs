//! An [`EventSink`] that can be closed for good.

use std::sync::{PoisonError, RwLock};

use super::{EventSink, TransportEvent};

/// Delivers events to a replica until it is closed.
pub(super) struct ClosableSink {
    sink: EventSink,
    is_open: RwLock<bool>,
}

impl ClosableSink {
    pub fn new(sink: EventSink) -> Self {
        ClosableSink { sink, is_open: RwLock::new(true) }
    }

    /// Returns false, and drops the event, if the sink is closed.
    pub fn deliver(&self, event: TransportEvent) -> bool {
        // Held during delivery, so that `close` waits for it.
        let is_open = self.is_open.read().unwrap_or_else(PoisonError::into_inner);
        if *is_open {
            (self.sink)(event);
        }
        *is_open
    }

    /// Waits for deliveries in progress; nothing is delivered after this returns. Returns whether
    /// the sink was open.
    pub fn close(&self) -> bool {
        std::mem::replace(&mut *self.is_open.write().unwrap_or_else(PoisonError::into_inner), false)
    }
}
