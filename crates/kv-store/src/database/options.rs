//! How a database is opened.

use std::time::Duration;

use crate::gc::step;

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Recent writes that the conflict index remembers. A check of older ones, and a write to a key whose last write is
    /// older, asks the engine. One entry takes about 150 bytes and the key. Never changes a verdict.
    pub conflict_index_entries: usize,
    /// Existing keys that are remembered, at 16 bytes each, so that overwriting one needs no lookup to keep the row count.
    pub known_keys: usize,
    /// `Some`: [`KvDatabase::atomic_commit`] commits here. `None`: this is a replica, which only applies what was agreed.
    pub group_commit: Option<GroupCommitOptions>,
    /// From so many adjacent entries on, what range clears have made needless is removed from the engine as a range, and may
    /// be held back for that until the end of the run is known. At least 1.
    pub range_delete_entries: u64,
    /// How often a thread looks for what can be removed. `None`: whoever owns the database calls
    /// [`TransactionalKvDatabase::collect_garbage`].
    pub collect_every: Option<Duration>,
}

impl StoreOptions {
    /// For a database that takes commits itself.
    pub fn standalone() -> Self {
        StoreOptions { group_commit: Some(GroupCommitOptions::default()), ..StoreOptions::replicated() }
    }

    /// For a replica's database.
    pub fn replicated() -> Self {
        StoreOptions {
            conflict_index_entries: 200_000,
            known_keys: 2_000_000,
            group_commit: None,
            range_delete_entries: step::RANGE_DELETE_ENTRIES,
            collect_every: Some(Duration::from_millis(500)),
        }
    }
}

/// Bounds of the queue and of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupCommitOptions {
    /// Commits that may wait.
    pub max_queued_commits: usize,
    /// Bytes of commits that may wait; a single commit above it is still let in when nothing waits.
    pub max_queued_bytes: usize,
    /// A batch takes no more commits once it has this many bytes.
    pub max_batch_bytes: usize,
}

impl Default for GroupCommitOptions {
    fn default() -> Self {
        GroupCommitOptions { max_queued_commits: 16_384, max_queued_bytes: 64 << 20, max_batch_bytes: 4 << 20 }
    }
}
