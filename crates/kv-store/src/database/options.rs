//! Options of a database.

use std::time::Duration;

use crate::clock::Clock;
use crate::commit::state_machine::Sizes;
use crate::engine::SharedResources;
use crate::gc::step;
use crate::journal::JournalOptions;

/// How a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Recent writes that the conflict index remembers. Checks against older ones, and writes to
    /// keys that were last written before them, read the engine. An entry takes about 150 bytes
    /// plus the key. The number never changes a verdict.
    pub conflict_index_entries: usize,
    /// Existing keys that are remembered, at 16 bytes each: overwriting one needs no lookup to keep
    /// the row count.
    pub known_keys: usize,
    /// Memory for rows that were read, in bytes: reading one again needs no engine. 0: none are
    /// kept.
    pub row_cache_bytes: usize,
    /// `Some`: [`KvDatabase::atomic_commit`](kv_api::KvDatabase::atomic_commit) commits here.
    /// `None`: this is a replica, which applies only what the log has committed.
    pub group_commit: Option<GroupCommitOptions>,
    /// A run of at least this many adjacent garbage entries is removed from the engine as a range,
    /// and may be held back until its end is known. At least 1.
    pub range_delete_entries: u64,
    /// The highest feature level that this program executes: a database of a higher one is not
    /// opened.
    pub highest_level: u32,
    /// The interval at which a thread looks for garbage. `None`: the owner calls
    /// [`TransactionalKvDatabase::collect_garbage`](crate::TransactionalKvDatabase::collect_garbage).
    pub collect_every: Option<Duration>,
    /// How much the change journal keeps. `None`: there is no journal, and what an earlier one left
    /// in the folder of the engine is removed.
    pub journal: Option<JournalOptions>,
    /// The clock by which pins and holds end.
    pub clock: Clock,
}

impl StoreOptions {
    /// For a database that commits by itself.
    pub fn standalone() -> Self {
        StoreOptions { group_commit: Some(GroupCommitOptions::default()), ..StoreOptions::replicated() }
    }

    /// For the database of a replica.
    pub fn replicated() -> Self {
        StoreOptions {
            conflict_index_entries: 200_000,
            known_keys: 2_000_000,
            row_cache_bytes: 32 << 20,
            group_commit: None,
            range_delete_entries: step::RANGE_DELETE_ENTRIES,
            highest_level: kv_api::HIGHEST_LEVEL,
            collect_every: Some(Duration::from_millis(500)),
            journal: None,
            clock: Clock::SYSTEM,
        }
    }
}

impl StoreOptions {
    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            conflict_index_entries: self.conflict_index_entries,
            known_keys: self.known_keys,
            row_cache_bytes: self.row_cache_bytes,
        }
    }

    /// With a database's share of the resources.
    pub fn with_share(self, resources: &SharedResources) -> Self {
        StoreOptions { row_cache_bytes: resources.options().row_cache_bytes, ..self }
    }
}

/// Bounds of the group commit queue and of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupCommitOptions {
    /// Maximum number of commits in the queue.
    pub max_queued_commits: usize,
    /// Maximum bytes of commits in the queue. A larger single commit is accepted when the queue is
    /// empty.
    pub max_queued_bytes: usize,
    /// A batch that has reached this many bytes takes no more commits.
    pub max_batch_bytes: usize,
}

impl Default for GroupCommitOptions {
    fn default() -> Self {
        GroupCommitOptions { max_queued_commits: 16_384, max_queued_bytes: 64 << 20, max_batch_bytes: 4 << 20 }
    }
}
