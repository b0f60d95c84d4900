//! Waits for disk space. A replica cannot refuse a batch that the log has committed, so a write to
//! a full disk is retried until there is space.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_api::KvError;

use crate::engine::{Engine, WriteBatch};

/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Default)]
pub(crate) struct SpaceWait {
    given_up: Mutex<bool>,
    changed: Condvar,
}

impl SpaceWait {
    fn given_up(&self) -> MutexGuard<'_, bool> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the batch; on a full disk, retries until there is space or [`Self::give_up`] is
    /// called.
    pub fn write(&self, engine: &dyn Engine, batch: &WriteBatch) -> Result<(), KvError> {
        let mut waited = false;
        loop {
            match engine.write(batch) {
                Err(KvError::StorageFull(reason)) => {
                    if !waited {
                        tracing::error!("the disk is full: writes wait until space is freed: {reason}");
                        waited = true;
                    }
                    if self.pause() {
                        return Err(KvError::StorageFull(reason));
                    }
                }
                result => {
                    if waited {
                        tracing::info!("the disk has space again; writes continue");
                    }
                    return result;
                }
            }
        }
    }

    /// Waits before the next attempt. True when waiting was given up.
    fn pause(&self) -> bool {
        let given_up = self.given_up();
        let waiting = self.changed.wait_timeout_while(given_up, RETRY_INTERVAL, |given_up| !*given_up);
        *waiting.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The process is stopping: a waiting write fails.
    pub fn give_up(&self) {
        *self.given_up() = true;
        self.changed.notify_all();
    }
}
