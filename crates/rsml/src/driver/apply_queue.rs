//! The queue of the apply thread.
//!
//! A batch of entries costs the database about as much as ten single writes in it, and a wake-up of
//! the thread besides. So a replica on which nobody waits for an entry, as on most secondaries,
//! lets entries wait until they make a larger batch, [`MAX_DEFERRED_BYTES`] at most, or until the
//! next tick of the core.
//!
//! Invariant: if anybody waits for an entry that is in the queue, the thread has been woken since
//! that entry came. All calls but [`ApplyQueue::drain`] and [`ApplyQueue::close`] come from the
//! thread that runs the core, under its lock: whoever adds entries knows who waits, and whoever
//! starts to wait knows which entries were added.

use bytes::Bytes;

use super::inbox::Inbox;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::work::{ApplyWork, Milestones};
use crate::Sequence;

/// Entries with more bytes than this together are applied although nobody waits for them.
const MAX_DEFERRED_BYTES: usize = 256 << 10;

pub struct ApplyQueue {
    inbox: Inbox<ApplyWork>,
    /// Bytes of entries that were added since the thread was last woken.
    deferred_bytes: AtomicUsize,
}

impl ApplyQueue {
    pub fn new() -> Self {
        ApplyQueue { inbox: Inbox::new(), deferred_bytes: AtomicUsize::new(0) }
    }

    /// Adds entries. The thread applies them at once if they are `urgent` because somebody waits
    /// for one of them.
    pub fn deliver(&self, entries: Vec<(Sequence, Bytes)>, times: Milestones, urgent: bool) {
        let bytes: usize = entries.iter().map(|(_, entry)| entry.len()).sum();
        let deferred = self.deferred_bytes.load(Ordering::Relaxed) + bytes;
        self.inbox.push_without_waking(ApplyWork::Entries(entries, times));
        if urgent || deferred > MAX_DEFERRED_BYTES {
            self.hurry();
        } else {
            self.deferred_bytes.store(deferred, Ordering::Relaxed);
        }
    }

    /// Has the thread continue with the database of another generation, after all entries so far.
    pub fn switch_to(&self, generation: u64) {
        self.inbox.push_without_waking(ApplyWork::Switch(generation));
        self.hurry();
    }

    /// Has the thread apply all that waits.
    pub fn hurry(&self) {
        self.deferred_bytes.store(0, Ordering::Relaxed);
        self.inbox.wake();
    }

    /// Has the thread apply what has waited since the last tick.
    pub fn tick(&self) {
        if self.deferred_bytes.load(Ordering::Relaxed) > 0 {
            self.hurry();
        }
    }

    /// For the thread: waits for work and takes all. `None` once the queue is closed and empty.
    pub fn drain(&self) -> Option<Vec<ApplyWork>> {
        self.inbox.drain()
    }

    /// Accepts no more work.
    pub fn close(&self) {
        self.inbox.close();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shuttle::check_dfs;
    use shuttle::thread;

    use super::*;
    use crate::driver::sync;

    fn entry(number: u64, bytes: usize) -> Vec<(Sequence, Bytes)> {
        vec![(Sequence(number), Bytes::from(vec![0; bytes]))]
    }

    fn times() -> Milestones {
        Milestones { logged: sync::now(), delivered: sync::now() }
    }

    /// In every interleaving: the thread takes `count` entries in order while `feed` adds them. A
    /// thread that is not woken for the last one never ends, which the scheduler reports.
    fn takes_all(count: u64, feed: impl Fn(&ApplyQueue) + Send + Sync + 'static) {
        check_dfs(
            move || {
                let queue = Arc::new(ApplyQueue::new());
                let taking = {
                    let queue = queue.clone();
                    thread::spawn(move || {
                        let mut taken = Vec::new();
                        while taken.len() < count as usize {
                            for work in queue.drain().expect("it is open") {
                                let ApplyWork::Entries(entries, _) = work else { panic!("nothing switches here") };
                                taken.extend(entries.iter().map(|(sequence, _)| sequence.0));
                            }
                        }
                        taken
                    })
                };
                feed(&queue);
                let taken = taking.join().expect("no panic");
                assert_eq!(taken, (1..=count).collect::<Vec<_>>());
            },
            None,
        );
    }

    #[test]
    fn an_urgent_entry_takes_all_before_it_along() {
        takes_all(3, |queue| {
            queue.deliver(entry(1, 10), times(), false);
            queue.deliver(entry(2, 10), times(), false);
            queue.deliver(entry(3, 10), times(), true);
        });
    }

    #[test]
    fn whoever_begins_to_wait_has_all_entries_applied() {
        takes_all(2, |queue| {
            queue.deliver(entry(1, 10), times(), true);
            queue.deliver(entry(2, 10), times(), false);
            queue.hurry();
        });
    }

    #[test]
    fn entries_wait_until_the_next_tick_at_most() {
        takes_all(2, |queue| {
            queue.deliver(entry(1, 10), times(), false);
            queue.tick();
            queue.deliver(entry(2, 10), times(), false);
            queue.tick();
        });
    }

    #[test]
    fn entries_with_many_bytes_do_not_wait() {
        for share in [1, 2, 3] {
            takes_all(share + 1, move |queue| {
                // Each delivery alone may wait, and so may all but the last one together.
                for number in 1..=share {
                    queue.deliver(entry(number, MAX_DEFERRED_BYTES / share as usize), times(), false);
                }
                queue.deliver(entry(share + 1, share as usize), times(), false);
            });
        }
    }

    #[test]
    fn closing_the_queue_leaves_nothing_behind() {
        check_dfs(
            || {
                let queue = Arc::new(ApplyQueue::new());
                let taking = {
                    let queue = queue.clone();
                    thread::spawn(move || std::iter::from_fn(|| queue.drain()).flatten().count())
                };
                queue.deliver(entry(1, 10), times(), false);
                queue.close();
                assert_eq!(taking.join().expect("no panic"), 1);
            },
            None,
        );
    }

    #[test]
    fn a_thread_that_sleeps_is_not_woken_for_entries_that_may_wait() {
        check_dfs(
            || {
                let queue = Arc::new(ApplyQueue::new());
                let taking = {
                    let queue = queue.clone();
                    thread::spawn(move || queue.drain().expect("it is open").len())
                };
                let sleeps = queue.inbox.is_sleeping();
                queue.deliver(entry(1, MAX_DEFERRED_BYTES), times(), false);
                assert!(!sleeps || queue.inbox.is_sleeping());
                queue.deliver(entry(2, 1), times(), false);
                assert!(!queue.inbox.is_sleeping(), "both together are too many bytes");
                let taken = taking.join().expect("no panic");
                assert!(!sleeps || taken == 2, "it took {taken}");
            },
            None,
        );
    }
}
