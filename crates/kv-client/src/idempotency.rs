//! Idempotency ids. Each commit gets one that is never used again, and the server remembers the
//! commit's result under it.
//!
//! An id is *finished* once its result has arrived. The next commit reports finished ids, so that
//! the server can drop their records. An id must be finished only when no copy of its commit can be
//! in flight any more: a copy that arrived after the record was dropped would be executed a second
//! time. Ids that are never finished expire at the server after ten minutes.
//!
//! A copy can arrive even later than that, from the socket of a server that was stopped for an
//! hour. Therefore every commit also depends on a version that is recent when the commit is sent,
//! and too old by then. To depend on a version, a commit that has read nothing names a *guard* as
//! read: a key of this client that nobody writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};

/// Maximum number of finished ids that wait to be reported. Older ones are left to expire.
const MAX_WAITING: usize = 4096;
/// Maximum number of finished ids that one commit reports.
const MAX_PER_COMMIT: usize = 64;

pub(crate) struct Ids {
    /// Drawn at random, so that no two clients share one.
    client: [u8; 16],
    next: AtomicU64,
    finished: Mutex<VecDeque<Bytes>>,
}

impl Ids {
    pub fn new() -> Self {
        Ids { client: rand::random(), next: AtomicU64::new(1), finished: Mutex::default() }
    }

    /// A new id.
    pub fn next(&self) -> Bytes {
        let mut id = BytesMut::with_capacity(24);
        id.put_slice(&self.client);
        id.put_u64(self.next.fetch_add(1, Ordering::Relaxed));
        id.freeze()
    }

    /// The key that a commit names as read if it has read nothing; see the module's documentation.
    pub fn guard(&self) -> Bytes {
        [&[0xFF], &self.client[..]].concat().into()
    }

    /// Marks ids whose results have arrived, and of whose commits no copy is in flight.
    pub fn finish(&self, ids: impl IntoIterator<Item = Bytes>) {
        let mut finished = self.finished();
        finished.extend(ids);
        let excess = finished.len().saturating_sub(MAX_WAITING);
        finished.drain(..excess);
    }

    /// The ids for the next commit to report. If that commit fails, the caller must finish them
    /// again.
    pub fn take_finished(&self) -> Vec<Bytes> {
        let mut finished = self.finished();
        let count = finished.len().min(MAX_PER_COMMIT);
        finished.drain(..count).collect()
    }

    fn finished(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        // A panic while this was locked cannot have left it inconsistent.
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique() {
        let (one, other) = (Ids::new(), Ids::new());
        let ids = [one.next(), one.next(), other.next()];
        assert_eq!(ids.iter().map(Bytes::len).collect::<Vec<_>>(), [24; 3]);
        assert!(ids[0] != ids[1] && ids[0] != ids[2]);
        assert_eq!(ids[0][..16], ids[1][..16]);
    }

    #[test]
    fn finished_ids_are_reported_once_and_do_not_accumulate() {
        let ids = Ids::new();
        ids.finish((0..MAX_WAITING + 10).map(|_| ids.next()));
        let mut reported = Vec::new();
        loop {
            let some = ids.take_finished();
            assert!(some.len() <= MAX_PER_COMMIT);
            if some.is_empty() {
                break;
            }
            reported.extend(some);
        }
        assert_eq!(reported.len(), MAX_WAITING);
    }
}
