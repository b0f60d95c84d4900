//! Idempotency ids: one per commit, never used twice, under which a server remembers the commit's result.
//!
//! A result that arrived is *finished*: the next commit tells the server that nobody will ask for it again. An id is
//! finished only when no copy of its commit can be under way any more. Otherwise the copy would come after the record is
//! gone, and happen a second time; such records go by themselves, after ten minutes.
//!
//! A copy can be later still: in the socket of a server that was stopped for an hour. So every commit also depends on a
//! version that is recent when it is sent, and is too old by then. For that, a commit that has read nothing names a *guard*
//! as read: a key of this client that nobody writes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};

/// Most finished ids that wait to be told; older ones are left to their age.
const MAX_WAITING: usize = 4096;
/// Most finished ids that one commit carries.
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

    pub fn next(&self) -> Bytes {
        let mut id = BytesMut::with_capacity(24);
        id.put_slice(&self.client);
        id.put_u64(self.next.fetch_add(1, Ordering::Relaxed));
        id.freeze()
    }

    /// See the module's documentation.
    pub fn guard(&self) -> Bytes {
        [&[0xFF], &self.client[..]].concat().into()
    }

    /// Nobody will ask for these results again, and no copy of their commits is under way.
    pub fn finish(&self, ids: impl IntoIterator<Item = Bytes>) {
        let mut finished = self.finished();
        finished.extend(ids);
        let excess = finished.len().saturating_sub(MAX_WAITING);
        finished.drain(..excess);
    }

    /// What the next commit tells. If it fails, they are to be finished again.
    pub fn take_finished(&self) -> Vec<Bytes> {
        let mut finished = self.finished();
        let count = finished.len().min(MAX_PER_COMMIT);
        finished.drain(..count).collect()
    }

    fn finished(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        // What it guards is right after every step.
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ids_are_the_same() {
        let (one, other) = (Ids::new(), Ids::new());
        let ids = [one.next(), one.next(), other.next()];
        assert_eq!(ids.iter().map(Bytes::len).collect::<Vec<_>>(), [24; 3]);
        assert!(ids[0] != ids[1] && ids[0] != ids[2]);
        assert_eq!(ids[0][..16], ids[1][..16]);
    }

    #[test]
    fn finished_ids_are_told_once_and_do_not_pile_up() {
        let ids = Ids::new();
        ids.finish((0..MAX_WAITING + 10).map(|_| ids.next()));
        let mut told = Vec::new();
        loop {
            let some = ids.take_finished();
            assert!(some.len() <= MAX_PER_COMMIT);
            if some.is_empty() {
                break;
            }
            told.extend(some);
        }
        assert_eq!(told.len(), MAX_WAITING);
    }
}
