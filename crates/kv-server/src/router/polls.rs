//! Polls for changes of one replica's database.
//!
//! A poll reads the journal; if there is nothing for it, it waits in the [`crate::changes::Registry`]. One task of
//! the replica compares what is applied with the ranges of the waiting polls and wakes those that
//! are concerned; they read the journal again. Nothing is kept for a poll but its ranges, so a slow
//! consumer costs nothing. The task also ends the waits whose time is up, so that a waiting poll
//! has no timer of its own, and it ends while no poll waits.
//!
//! Invariant: every version that concerns a poll either was read by it, or wakes it. For that, a
//! poll begins to wait only if it has read up to the version that the task has compared.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_api::{Changes, ChangesQuery, KvError, Version};
use kv_store::{ChangeFilter, ReadLimits};
use tokio::time::Instant;

use super::LocalReader;
use crate::changes::Hurry;

/// Reads of the journal of up to this many bytes run on the calling runtime thread.
const INLINE_BYTES: u64 = 256 << 10;

/// Waits may end this much late, so that few wakeups serve many of them.
const GRAIN: Duration = Duration::from_millis(10);

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
        self.hub().count_poll();
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
        let registered = hub.register(filter, after.0, applied.0, until)?;
        let Some((registered, _leaving)) = registered else { return Ok(()) };
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
                // A journal that begins again, or cannot be read: every poll finds out by itself.
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
