//! The operations of a database and their outcomes.

use std::time::Duration;

use bytes::Bytes;

use crate::access::AccessChange;
use crate::{AtomicCommit, ChangeRange, Changes, CommitResult, FamilyChange, KeyRef, Version};

/// Which state a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// Everything acknowledged before the call, by any replica.
    Linearizable,
    /// The state that this replica has applied, which may lag.
    Stale,
    /// Exactly this version.
    Version(Version),
}

/// A FoundationDB key selector: names a key by its position among the existing keys. It starts at
/// the last key less than `key` (or equal to it, with `or_equal`) and moves `offset` keys forward,
/// or backward if that is negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySelector {
    /// The key that the selector starts from.
    pub key: Bytes,
    /// Whether to start at `key` itself if it exists.
    pub or_equal: bool,
    /// At most [`MAX_SELECTOR_OFFSET`] either way.
    pub offset: i32,
}

/// Largest offset of a key selector, which must visit every key on its way.
pub const MAX_SELECTOR_OFFSET: u32 = 100_000;

impl KeySelector {
    /// The first key that is not less than `key`.
    pub fn first_greater_or_equal(key: impl Into<Bytes>) -> Self {
        KeySelector { key: key.into(), or_equal: false, offset: 1 }
    }

    /// The first key that is greater than `key`.
    pub fn first_greater_than(key: impl Into<Bytes>) -> Self {
        KeySelector { key: key.into(), or_equal: true, offset: 1 }
    }

    /// The last key that is not greater than `key`.
    pub fn last_less_or_equal(key: impl Into<Bytes>) -> Self {
        KeySelector { key: key.into(), or_equal: true, offset: 0 }
    }

    /// The last key that is less than `key`.
    pub fn last_less_than(key: impl Into<Bytes>) -> Self {
        KeySelector { key: key.into(), or_equal: false, offset: 0 }
    }
}

/// A range read, already normalised: `begin` is inclusive and `end` exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeQuery {
    /// First key.
    pub begin: Bytes,
    /// End of the range, exclusive.
    pub end: Bytes,
    /// If set, the range begins at the key that it names, and `begin` is ignored. A selector that
    /// leaves the family's keys stops at the end that it has reached.
    pub begin_selector: Option<KeySelector>,
    /// The same for the key before which the range ends.
    pub end_selector: Option<KeySelector>,
    /// Empty: the default family.
    pub column_family: String,
    /// Rows in range to skip before the first one returned.
    pub skip: u64,
    /// Maximum number of rows to return; `None`: no limit.
    pub limit: Option<u64>,
    /// Last row first.
    pub reverse: bool,
    /// The reply may end once it holds this many bytes; `has_more` is then true.
    pub target_bytes: Option<u64>,
    /// A reply above this fails with `RESULT_TOO_LARGE`.
    pub max_bytes: u64,
}

impl RangeQuery {
    /// All rows of the default family with `begin <= key < end`.
    pub fn between(begin: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        RangeQuery {
            begin: begin.into(),
            end: end.into(),
            begin_selector: None,
            end_selector: None,
            column_family: String::new(),
            skip: 0,
            limit: None,
            reverse: false,
            target_bytes: None,
            max_bytes: u64::MAX,
        }
    }
}

/// Asks for changes, and waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesQuery {
    /// The changes after this version.
    pub after: Version,
    /// The keys; none: every key of every family.
    pub ranges: Vec<ChangeRange>,
    /// How long to wait for a change.
    pub max_wait: Duration,
    /// The result ends before the version that would exceed this, but holds at least one.
    pub max_bytes: u64,
    /// Maximum number of versions.
    pub max_versions: usize,
    /// Whether values are wanted; otherwise they are empty.
    pub with_values: bool,
}

/// An operation on a [`crate::KvDatabase`].
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
    /// Creates or drops a column family. Ordered among the commits and answered like one.
    ChangeFamily(FamilyChange),
    /// Changes users, roles or tokens. Ordered among the commits and answered like one.
    ChangeAccess(AccessChange),
    /// Changes no rows but advances replicated time; answered like a commit.
    ClockTick,
    /// The changes after a version.
    ReadChanges(ChangesQuery),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

/// The rows of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// In the order of the query.
    pub rows: Vec<Row>,
    /// True exactly when another row exists in range.
    pub has_more: bool,
}

/// The outcome of the [`KvOperation`] of the same name. `Committed` also answers a change of
/// families.
#[derive(Clone, Debug, PartialEq)]
pub enum KvOutcome {
    ReadVersion(Version),
    Value(Option<Bytes>),
    Rows(Rows),
    Committed(CommitResult),
    Changes(Changes),
}
