//! What can be asked of a database, and what it answers.

use bytes::Bytes;

use crate::{AtomicCommit, CommitResult, FamilyChange, KeyRef, Version};

/// Which state a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// Everything acknowledged before the call, by any replica.
    Linearizable,
    /// Whatever this replica has applied: may lag behind.
    Stale,
    /// Exactly this version.
    Version(Version),
}

/// A range read, already normalised: `begin` is inclusive and `end` exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    pub begin: Bytes,
    pub end: Bytes,
    /// Empty: the default family.
    pub column_family: String,
    /// Rows in range to pass over before the first one returned.
    pub skip: u64,
    /// Most rows to return; `None`: no limit.
    pub limit: Option<u64>,
    pub reverse: bool,
    /// The caller lets the reply end once it holds this many bytes; `has_more` is then true.
    pub target_bytes: Option<u64>,
    /// A reply above this fails with `RESULT_TOO_LARGE`.
    pub max_bytes: u64,
}

/// Asked of a [`crate::KvDatabase`] or routed to one.
#[derive(Clone, Debug, PartialEq)]
pub enum KvOperation {
    ReadVersion,
    Get {
        key: KeyRef,
        at: ReadAt,
    },
    GetRange {
        query: RangeQuery,
        at: ReadAt,
    },
    AtomicCommit(AtomicCommit),
    /// Ordered among the commits, and answered like one.
    ChangeFamily(FamilyChange),
    /// Changes nothing, but replicated time passes with it; answered like a commit.
    PassTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: Bytes,
    pub value: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// True exactly when another row exists in range.
    pub has_more: bool,
}

/// The answer to a [`KvOperation`] of the same name; `Committed` answers a change of families, too.
#[derive(Clone, Debug, PartialEq)]
pub enum KvOutcome {
    ReadVersion(Version),
    Value(Option<Bytes>),
    Rows(Rows),
    Committed(CommitResult),
}
