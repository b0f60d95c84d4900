//! The interface of a database, local or replicated.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{AtomicCommit, CommitResult, KeyRef, KvError, RangeQuery, ReadAt, Rows, Version};

/// Statistics of one database, counted since its process started unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseStatistics {
    /// Visible rows. An estimate: rows of a cleared range count until they are removed.
    pub total_keys: u64,
    /// Bytes of live files and write buffers.
    pub total_size_bytes: u64,
    /// Committed transactions of all clients of the cluster.
    pub committed_transactions: u64,
    /// Refused transactions of all clients of the cluster.
    pub aborted_transactions: u64,
    /// Bytes that wait for compaction, if the engine has it.
    pub compaction_pending_bytes: Option<u64>,
    /// Hit rate of the block cache in percent; `None` before the first lookup or without a cache.
    pub cache_hit_rate_percent: Option<u64>,
}

/// A transactional key-value database.
#[async_trait]
pub trait KvDatabase: Send + Sync + 'static {
    /// A version that covers every commit acknowledged before the call; at least 1.
    async fn read_version(&self) -> Result<Version, KvError>;
    /// The value of a key, or `None` if it does not exist.
    async fn get(&self, key: KeyRef, at: ReadAt) -> Result<Option<Bytes>, KvError>;
    async fn get_range(&self, query: RangeQuery, at: ReadAt) -> Result<Rows, KvError>;
    /// Commits all mutations or none. Returns once the commit is durable: synced to disk
    /// (standalone), or held by a quorum (replicated).
    async fn atomic_commit(&self, commit: AtomicCommit) -> Result<CommitResult, KvError>;
    async fn statistics(&self) -> Result<DatabaseStatistics, KvError>;
}
