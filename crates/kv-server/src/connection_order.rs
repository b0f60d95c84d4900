//! Lets a read see the earlier writes of its own connection, even if the client did not wait for
//! their replies.
//!
//! Invariant: a connection is in the table exactly while it has running writes. So the table grows
//! only with running work, and a read without writes to wait for costs one lookup.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use kv_api::KvError;
use tokio::sync::Notify;
use tokio::time::Instant;

const SHARDS: usize = 16;

/// The running writes, by connection.
#[derive(Default)]
pub struct ConnectionOrder {
    shards: [Mutex<HashMap<u64, Outstanding>>; SHARDS],
}

/// Writes of one connection, numbered in the order in which they began.
#[derive(Default)]
struct Outstanding {
    /// The number of the front of `ended`.
    first: u64,
    /// For each write from `first` on: whether it has ended. The front never has.
    ended: VecDeque<bool>,
    /// Notified when `first` moves.
    moved: Arc<Notify>,
}

impl ConnectionOrder {
    /// An order without writes.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Begins a write, which ends when the returned value is dropped. Call this in the order of
    /// arrival.
    pub fn begin_write(self: &Arc<Self>, connection_id: u64) -> WriteInHand {
        let mut shard = self.shard(connection_id);
        let outstanding = shard.entry(connection_id).or_default();
        outstanding.ended.push_back(false);
        let number = outstanding.first + outstanding.ended.len() as u64 - 1;
        WriteInHand { order: self.clone(), connection_id, number }
    }

    /// Returns once all writes that had begun when this was first polled have ended, successfully
    /// or not.
    ///
    /// # Errors
    /// [`KvError::Timeout`] if they have not by `deadline`.
    pub async fn earlier_writes(&self, connection_id: u64, deadline: Instant) -> Result<(), KvError> {
        let (moved, upto) = match self.shard(connection_id).get(&connection_id) {
            None => return Ok(()),
            Some(writes) => (writes.moved.clone(), writes.first + writes.ended.len() as u64),
        };
        loop {
            let mut told = std::pin::pin!(moved.notified());
            // Registers before it checks, so that a write that ends in between is not missed.
            told.as_mut().enable();
            let ended = match self.shard(connection_id).get(&connection_id) {
                None => true,
                // A different entry means that our writes ended and later ones started a new count.
                Some(writes) => !Arc::ptr_eq(&writes.moved, &moved) || writes.first >= upto,
            };
            if ended {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, told).await.is_err() {
                return Err(KvError::Timeout("earlier writes of this connection have not ended".to_string()));
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().expect("no code panics while holding this lock").is_empty())
    }

    fn end_write(&self, connection_id: u64, number: u64) {
        let mut shard = self.shard(connection_id);
        let writes = shard.get_mut(&connection_id).expect("a connection is in the table while it writes");
        let place = usize::try_from(number - writes.first).expect("as many writes as fit in memory");
        writes.ended[place] = true;
        if place > 0 {
            return;
        }
        while writes.ended.front() == Some(&true) {
            writes.ended.pop_front();
            writes.first += 1;
        }
        writes.moved.notify_waiters();
        if writes.ended.is_empty() {
            shard.remove(&connection_id);
        }
    }

    fn shard(&self, connection_id: u64) -> MutexGuard<'_, HashMap<u64, Outstanding>> {
        let shard = &self.shards[connection_id as usize % SHARDS];
        shard.lock().expect("no code panics while holding this lock")
    }
}

/// A running write. It is dropped when it has ended, even if nobody waits for it any more.
pub struct WriteInHand {
    order: Arc<ConnectionOrder>,
    connection_id: u64,
    number: u64,
}

impl Drop for WriteInHand {
    fn drop(&mut self) {
        self.order.end_write(self.connection_id, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Polls once and returns whether the future was ready.
    fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut context).is_ready()
    }

    #[tokio::test]
    async fn a_read_without_earlier_writes_waits_for_nothing() {
        let order = ConnectionOrder::new();
        let _other = order.begin_write(2);
        order.earlier_writes(1, soon()).await.unwrap();
    }

    #[tokio::test]
    async fn a_read_waits_for_all_earlier_writes_and_for_no_later_one() {
        let order = ConnectionOrder::new();
        let (first, second) = (order.begin_write(1), order.begin_write(1));
        let mut read = std::pin::pin!(order.earlier_writes(1, soon()));
        assert!(!is_ready(read.as_mut()));
        let _later = order.begin_write(1);
        drop(second);
        assert!(!is_ready(read.as_mut()));
        drop(first);
        assert!(is_ready(read.as_mut()));
    }

    #[tokio::test]
    async fn a_read_is_not_fooled_by_a_connection_that_was_idle_in_between() {
        let order = ConnectionOrder::new();
        let first = order.begin_write(1);
        let mut read = std::pin::pin!(order.earlier_writes(1, soon()));
        assert!(!is_ready(read.as_mut()));
        drop(first);
        let _later = order.begin_write(1);
        assert!(is_ready(read.as_mut()));
    }

    #[tokio::test]
    async fn a_read_gives_up_at_its_deadline() {
        let order = ConnectionOrder::new();
        let _write = order.begin_write(1);
        let error = order.earlier_writes(1, Instant::now()).await.unwrap_err();
        assert!(matches!(error, KvError::Timeout(_)));
    }

    #[test]
    fn nothing_is_kept_of_writes_that_ended() {
        let order = ConnectionOrder::new();
        let writes: Vec<_> = (0..100).map(|_| order.begin_write(7)).collect();
        drop(writes);
        assert!(order.shard(7).is_empty());
    }
}
