//! Writing on when the disk was full: a replica's batch is agreed, and cannot be refused any more; it waits for space.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_api::KvError;

use crate::engine::{Engine, WriteBatch};

/// How often a write that found no space is tried again.
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

    /// Writes the batch, if need be once there is space again.
    pub fn write(&self, engine: &dyn Engine, batch: &WriteBatch) -> Result<(), KvError> {
        let mut waited = false;
        loop {
            match engine.write(batch) {
                Err(KvError::StorageFull(reason)) => {
                    if !waited {
                        tracing::error!("the disk is full, and writes wait until there is space: {reason}. Free some");
                        waited = true;
                    }
                    if self.pause() {
                        return Err(KvError::StorageFull(reason));
                    }
                }
                result => {
                    if waited {
                        tracing::info!("the disk has space again; writes go on");
                    }
                    return result;
                }
            }
        }
    }

    /// True when waiting is of no use any more.
    fn pause(&self) -> bool {
        let given_up = self.given_up();
        let waiting = self.changed.wait_timeout_while(given_up, RETRY_INTERVAL, |given_up| !*given_up);
        *waiting.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The process stops: whoever waits gets the error.
    pub fn give_up(&self) {
        *self.given_up() = true;
        self.changed.notify_all();
    }
}
