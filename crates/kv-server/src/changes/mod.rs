//! The polls for changes that wait at one replica. [`crate::router::LocalReader`] makes them wait
//! and wakes them.

mod hurry;
mod interval_index;
mod registry;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use hurry::Hurry;
use kv_api::KvError;
use kv_store::ChangeFilter;
use registry::Registered;
pub(crate) use registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of a reply with changes, unless its request says how many.
pub(crate) const DEFAULT_BYTES: i32 = 1 << 20;
/// The most that a request may ask for. A single version may be longer.
pub(crate) const MAX_BYTES: i32 = 16 << 20;

/// Default of `changes.max_polls`.
pub const DEFAULT_MAX_POLLS: usize = 10_000;

/// Keys of all polls that wait at a time, in bytes.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// The polls of one replica.
#[derive(Default)]
pub struct ChangeHub {
    registry: Mutex<Option<Registry>>,
    /// Tells the task that the first poll waits, or one with an earlier deadline.
    pub(crate) wakeup: Notify,
    /// Whether that task runs.
    pub(crate) is_running: AtomicBool,
    max_polls: AtomicUsize,
    polls: AtomicU64,
}

/// Figures of the polls of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollStatistics {
    /// Polls that wait.
    pub waiting: u64,
    /// Polls so far.
    pub total: u64,
}

impl ChangeHub {
    /// A hub without polls.
    pub fn new() -> Self {
        let hub = ChangeHub::default();
        hub.max_polls.store(DEFAULT_MAX_POLLS, Ordering::Relaxed);
        hub
    }

    /// At most this many polls wait at a time.
    pub fn set_max_polls(&self, polls: usize) {
        self.max_polls.store(polls, Ordering::Relaxed);
    }

    /// The figures at this moment.
    pub fn statistics(&self) -> PollStatistics {
        let waiting = self.registry().as_ref().map_or(0, Registry::len) as u64;
        PollStatistics { waiting, total: self.polls.load(Ordering::Relaxed) }
    }

    /// The waiting polls; `None` before the first one.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Option<Registry>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a poll.
    pub(crate) fn count_poll(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets a poll wait; see [`Registry::register`]. It leaves when the second value is dropped.
    ///
    /// # Errors
    /// [`KvError::Overloaded`] when too many polls wait.
    pub(crate) fn register(
        &self,
        filter: &ChangeFilter,
        after: u64,
        applied: u64,
        until: Instant,
    ) -> Result<Option<(Registered, Leaving<'_>)>, KvError> {
        let mut registry = self.registry();
        let registry = registry.get_or_insert_with(Registry::new);
        let most = self.max_polls.load(Ordering::Relaxed);
        if registry.len() >= most {
            return Err(KvError::Overloaded(format!("{most} polls for changes are waiting (changes.max_polls)")));
        }
        if registry.bytes() > MAX_WAITING_BYTES {
            let text = format!("the keys of the polls that wait take {} bytes: ask for fewer", registry.bytes());
            return Err(KvError::Overloaded(text));
        }
        let registered = registry.register(filter, after, applied, until);
        Ok(registered.map(|registered| {
            let leaving = Leaving { hub: self, id: registered.id };
            (registered, leaving)
        }))
    }
}

/// Takes a poll out of the registry, also when its connection breaks.
pub(crate) struct Leaving<'h> {
    hub: &'h ChangeHub,
    id: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(registry) = self.hub.registry().as_mut() {
            registry.end(self.id);
            if registry.len() == 0 {
                // Its task ends.
                self.hub.wakeup.notify_one();
            }
        }
    }
}
