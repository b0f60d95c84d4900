//! Tells the poll that waits on a connection that it holds up something else.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The signal of one connection: another request has arrived behind those that run, or the
/// connection is ending.
#[derive(Debug, Default)]
pub struct Hurry {
    signals: AtomicU64,
    told: Notify,
}

impl Hurry {
    /// Ends the waits of this connection.
    pub fn signal(&self) {
        self.signals.fetch_add(1, Ordering::AcqRel);
        self.told.notify_waiters();
    }

    /// The signals so far: a wait that begins now ends with the next one.
    pub fn now(&self) -> u64 {
        self.signals.load(Ordering::Acquire)
    }

    /// Returns once there are more signals than at `since`.
    pub async fn after(&self, since: u64) {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            // Registers before it checks, so that a signal in between is not missed.
            told.as_mut().enable();
            if self.now() > since {
                return;
            }
            told.await;
        }
    }
}
