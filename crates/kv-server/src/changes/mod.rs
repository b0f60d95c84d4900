//! Waits for changes of one replica's database.
//!
//! A poll reads the journal; if there is nothing for it, it waits in the [`Registry`]. One task of
//! the replica compares what is applied with the ranges of the waiting polls and wakes those that
//! are concerned; they read the journal again. Nothing is kept for a poll but its ranges, so a slow
//! consumer costs nothing. The task also ends the waits whose time is up, so that a waiting poll
//! has no timer of its own, and it sleeps while no poll waits.
//!
//! Invariant: every version that concerns a poll either was read by it, or wakes it. For that, a
//! poll begins to wait only if it has read up to the version that the task has compared.

mod collector;
mod hurry;
mod interval_index;
mod registry;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use collector::ChangesCollector;
pub use hurry::Hurry;
use kv_api::{Changes, ChangesQuery, KvError, Version};
use kv_store::{ChangeFilter, ReadLimits};
use registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::router::LocalReader;

/// Default of `changes.max_polls`.
pub const DEFAULT_MAX_POLLS: usize = 10_000;

/// Keys of all polls that wait at a time, in bytes.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Reads of the journal of up to this many bytes run on the calling runtime thread.
const INLINE_BYTES: u64 = 256 << 10;

/// Waits may end this much late, so that few wakeups serve many of them.
const GRAIN: Duration = Duration::from_millis(10);

/// The polls of one replica.
#[derive(Default)]
pub struct ChangeHub {
    registry: Mutex<Option<Registry>>,
    /// Tells the task that the first poll waits, or one with an earlier deadline.
    wakeup: Notify,
    is_running: AtomicBool,
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

    fn registry(&self) -> MutexGuard<'_, Option<Registry>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalReader {
    /// The changes after a version; waits for some if the query says so, unless `hurry` is
    /// signalled. `deadline` bounds the reading itself.
    ///
    /// # Errors
    /// Those of [`kv_store::TransactionalKvDatabase::read_changes`]; [`KvError::InvalidOperation`]
    /// for ranges that make no sense; [`KvError::Overloaded`] when too many polls wait.
    pub async fn poll_changes(
        &self,
        query: &ChangesQuery,
        hurry: Option<&Hurry>,
        deadline: Instant,
    ) -> Result<Changes, KvError> {
        let since = hurry.map_or(0, Hurry::now);
        self.hub().polls.fetch_add(1, Ordering::Relaxed);
        let filter = Arc::new(ChangeFilter::of(&query.ranges)?);
        let until = Instant::now() + query.max_wait;
        let mut after = query.after;
        loop {
            let read = self.read_changes(after, query, &filter, deadline).await?;
            after = read.through;
            let is_in_hurry = hurry.is_some_and(|hurry| hurry.now() > since);
            if !read.changes.is_empty() || is_in_hurry || Instant::now() >= until {
                return Ok(read);
            }
            if !read.has_more {
                self.wait_for_change(&filter, after, until, hurry, since).await?;
            }
        }
    }

    async fn read_changes(
        &self,
        after: Version,
        query: &ChangesQuery,
        filter: &Arc<ChangeFilter>,
        deadline: Instant,
    ) -> Result<Changes, KvError> {
        let ChangesQuery { max_bytes, max_versions, with_values, .. } = *query;
        let limits = ReadLimits { max_bytes, max_versions, with_values };
        let database = self.database();
        if database.size_of_changes(after, filter)?.0 <= INLINE_BYTES {
            return database.read_changes(after, limits, filter);
        }
        let filter = filter.clone();
        self.slots().run(deadline, move |_| database.read_changes(after, limits, &filter)).await
    }

    /// Returns when a version after `after` concerns the filter, when the time is up, or when there
    /// is a hurry; perhaps without any of them.
    async fn wait_for_change(
        &self,
        filter: &ChangeFilter,
        after: Version,
        until: Instant,
        hurry: Option<&Hurry>,
        since: u64,
    ) -> Result<(), KvError> {
        let hub = self.hub();
        let applied = self.database().applied_version();
        let registered = {
            let mut registry = hub.registry();
            let registry = registry.get_or_insert_with(Registry::new);
            let most = hub.max_polls.load(Ordering::Relaxed);
            if registry.len() >= most {
                return Err(KvError::Overloaded(format!("{most} polls for changes are waiting (changes.max_polls)")));
            }
            if registry.bytes() > MAX_WAITING_BYTES {
                let text = format!("the keys of the polls that wait take {} bytes: ask for fewer", registry.bytes());
                return Err(KvError::Overloaded(text));
            }
            registry.register(filter, after.0, applied.0, until)
        };
        let Some(registered) = registered else { return Ok(()) };
        let _leaving = Leaving { hub, id: registered.id };
        if registered.changes_wakeup {
            self.start_waking();
            hub.wakeup.notify_one();
        }
        match hurry {
            Some(hurry) => tokio::select! {
                _ = registered.woken => {}
                () = hurry.after(since) => {}
            },
            None => drop(registered.woken.await),
        }
        Ok(())
    }

    /// Starts the task that wakes polls. It ends when no poll waits and nobody else holds the
    /// reader.
    fn start_waking(&self) {
        if !self.hub().is_running.swap(true, Ordering::AcqRel) {
            let reader = self.clone();
            tokio::spawn(async move { reader.wake_polls().await });
        }
    }

    async fn wake_polls(&self) {
        let hub = self.hub();
        loop {
            let mut advanced = std::pin::pin!(self.advanced());
            // Registers before it looks, so that an apply in between is not missed.
            advanced.as_mut().enable();
            let next = self.wake_concerned();
            let Some(next) = next else {
                // No poll waits. The next one starts this task again.
                hub.is_running.store(false, Ordering::Release);
                let is_empty = hub.registry().as_ref().is_none_or(|registry| registry.len() == 0);
                if is_empty || hub.is_running.swap(true, Ordering::AcqRel) {
                    return;
                }
                continue;
            };
            tokio::select! {
                () = advanced => {}
                () = hub.wakeup.notified() => {}
                () = tokio::time::sleep_until(next + GRAIN) => {}
            }
        }
    }

    /// Compares what was applied with the waiting polls, wakes those that are concerned or out of
    /// time, and returns the next deadline; `None` if no poll waits.
    fn wake_concerned(&self) -> Option<Instant> {
        let database = self.database();
        let mut guard = self.hub().registry();
        let registry = guard.as_mut()?;
        let mut woken = HashSet::new();
        while registry.len() > 0 && registry.seen() < database.applied_version().0 {
            let seen = Version(registry.seen());
            let visited = database.visit_changes(seen, &mut |version, touched| {
                registry.concerned(version, touched, &mut woken);
            });
            match visited {
                Ok(through) if through == seen => break,
                Ok(through) => registry.has_seen(through.0),
                // A journal that begins anew, or cannot be read: every poll finds out by itself.
                Err(_) => {
                    registry.has_seen(database.applied_version().0);
                    registry.end_all();
                }
            }
            woken.drain().for_each(|id| registry.end(id));
        }
        registry.expire(Instant::now())
    }
}

/// Takes a poll out of the registry, also when its connection breaks.
struct Leaving<'h> {
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
