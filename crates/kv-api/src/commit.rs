//! A commit, which is the only operation that writes rows, and its result. Replicas agree on the
//! encoded bytes. Field numbers are never reused, so that a later version can read an older log.

use bytes::Bytes;
use prost::Message;

use crate::keys::{KeyRange, KeyRef};
use crate::{KvError, Version};

/// The effect of a mutation on its key. Operands of arithmetic and bitwise kinds are little-endian,
/// as in FoundationDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MutationKind {
    Set = 0,
    Delete = 1,
    /// The 10 bytes at `stamp_offset` of the key (absent: its last 10) are replaced by the
    /// versionstamp.
    SetVersionstampedKey = 2,
    /// The same for the value.
    SetVersionstampedValue = 3,
    /// Removes every key in `[key, value)`.
    ClearRange = 4,
    Add = 5,
    Min = 6,
    Max = 7,
    ByteMin = 8,
    ByteMax = 9,
    BitAnd = 10,
    BitOr = 11,
    BitXor = 12,
    AppendIfFits = 13,
    CompareAndClear = 14,
}

/// One change inside a commit.
#[derive(Clone, PartialEq, Message)]
pub struct Mutation {
    /// A [`MutationKind`].
    #[prost(enumeration = "MutationKind", tag = "1")]
    pub kind: i32,
    /// The key; of a range clear, the first key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// The value or operand; of a range clear, the end of the range (exclusive).
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
    /// Empty: the default family.
    #[prost(string, tag = "4")]
    pub column_family: String,
    /// Where the 10-byte stamp goes; absent: the last 10 bytes.
    #[prost(uint32, optional, tag = "5")]
    pub stamp_offset: Option<u32>,
}

impl Mutation {
    /// Sets a key of the default family.
    pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Mutation { key: key.into(), value: value.into(), ..Mutation::default() }
    }

    /// Deletes a key of the default family.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Mutation { kind: MutationKind::Delete as i32, key: key.into(), ..Mutation::default() }
    }
}

/// A transaction: all its mutations happen at one version, or none does.
#[derive(Clone, PartialEq, Message)]
pub struct AtomicCommit {
    /// Examined only when there are read conflicts: the commit fails with [`KvError::Conflict`] iff
    /// one of them was written in `(read_version, commit version)`.
    #[prost(uint64, tag = "1")]
    pub read_version: u64,
    /// The changes, in the order in which they are applied.
    #[prost(message, repeated, tag = "2")]
    pub mutations: Vec<Mutation>,
    /// Keys without a family: a write in any family conflicts.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub read_conflict_keys: Vec<Bytes>,
    /// Keys that were read, each in its family.
    #[prost(message, repeated, tag = "4")]
    pub read_conflicts: Vec<KeyRef>,
    /// Ranges that were read.
    #[prost(message, repeated, tag = "5")]
    pub read_conflict_ranges: Vec<KeyRange>,
    /// Empty if the commit has none; at most [`MAX_IDEMPOTENCY_ID_BYTES`]. For
    /// [`IDEMPOTENCY_SECONDS`] of replicated time, a repeat of a successful commit returns the
    /// first result and changes nothing.
    #[prost(bytes = "bytes", tag = "6")]
    pub idempotency_id: Bytes,
    /// Ids of earlier commits whose results have reached the caller, which will never ask for them
    /// again: replicas forget them at once. Only commits that were sent once belong here, because a
    /// copy still in flight would be executed again. (Acknowledged results: Lee et al.,
    /// *Implementing Linearizability at Large Scale and Low Latency*, SOSP 2015.)
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub finished_ids: Vec<Bytes>,
}

/// Longest idempotency id, in bytes.
pub const MAX_IDEMPOTENCY_ID_BYTES: usize = 255;

/// How long the result of a commit with an idempotency id is remembered, in seconds of replicated
/// time.
pub const IDEMPOTENCY_SECONDS: u64 = 600;

impl AtomicCommit {
    /// A commit of these mutations without read conflicts.
    pub fn of(mutations: Vec<Mutation>) -> Self {
        AtomicCommit { mutations, ..AtomicCommit::default() }
    }

    /// Whether anything was read that a concurrent write could have changed.
    pub fn has_read_conflicts(&self) -> bool {
        !(self.read_conflict_keys.is_empty() && self.read_conflicts.is_empty() && self.read_conflict_ranges.is_empty())
    }

    /// The bytes that the transaction limit counts: keys, values, conflict keys, and both ends of
    /// conflict ranges and range clears. Ids do not count; their length and number have limits of
    /// their own.
    pub fn size_bytes(&self) -> usize {
        let mutations: usize = self.mutations.iter().map(|m| m.key.len() + m.value.len()).sum();
        let keys: usize = self.read_conflict_keys.iter().map(Bytes::len).sum();
        let refs: usize = self.read_conflicts.iter().map(|k| k.key.len()).sum();
        let ranges: usize = self.read_conflict_ranges.iter().map(|r| r.begin.len() + r.end.len()).sum();
        mutations + keys + refs + ranges
    }

    /// Bytes of the idempotency id and of the finished ids.
    pub fn ids_bytes(&self) -> usize {
        self.idempotency_id.len() + self.finished_ids.iter().map(Bytes::len).sum::<usize>()
    }
}

/// The result of a successful commit.
#[derive(Clone, PartialEq, Message)]
pub struct CommitResult {
    /// See [`CommitResult::version`].
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// Keys completed by `SetVersionstampedKey`, in the order of the mutations.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub generated_keys: Vec<Bytes>,
    /// Values completed by `SetVersionstampedValue`, in the order of the mutations.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub generated_values: Vec<Bytes>,
}

impl CommitResult {
    /// The commit version.
    pub fn version(&self) -> Version {
        Version(self.version)
    }
}

/// The state machine's decision about one commit; the same on every replica.
pub type CommitVerdict = Result<CommitResult, KvError>;
