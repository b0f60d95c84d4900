//! Key selectors, and ranges of keys to read.

use std::ops;

use bytes::Bytes;

use crate::keys::{IntoBytes, end_of_keys, key_after, prefix_end};

/// Identifies a key by its position among the keys that exist. Start at the last key less than
/// `key` (less than or equal to it, if `or_equal`), then go `offset` keys forward, or backward if
/// the offset is negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySelector {
    /// The key to start from. It need not exist.
    pub key: Bytes,
    /// Whether `key` itself may be the starting position.
    pub or_equal: bool,
    /// How many keys to go forward, or backward if negative.
    pub offset: i32,
}

impl KeySelector {
    /// The first key greater than or equal to `key`.
    pub fn first_greater_or_equal(key: impl IntoBytes) -> Self {
        KeySelector { key: key.into_bytes(), or_equal: false, offset: 1 }
    }

    /// The first key greater than `key`.
    pub fn first_greater_than(key: impl IntoBytes) -> Self {
        KeySelector { key: key.into_bytes(), or_equal: true, offset: 1 }
    }

    /// The last key less than `key`.
    pub fn last_less_than(key: impl IntoBytes) -> Self {
        KeySelector { key: key.into_bytes(), or_equal: false, offset: 0 }
    }

    /// The last key less than or equal to `key`.
    pub fn last_less_or_equal(key: impl IntoBytes) -> Self {
        KeySelector { key: key.into_bytes(), or_equal: true, offset: 0 }
    }

    /// The selector that is `keys` keys further, or back if negative.
    pub fn offset_by(self, keys: i32) -> Self {
        KeySelector { offset: self.offset.saturating_add(keys), ..self }
    }

    /// The position from which keys are counted. It lies after the keys that are less than `key`
    /// (or equal, if `or_equal`) and before all others.
    pub(crate) fn origin(&self) -> Bytes {
        if self.or_equal { key_after(&self.key) } else { self.key.clone() }
    }
}

/// A range of keys to read, with a direction and a limit. Made from two keys (`Range::new("a",
/// "b")`, or `"a".."b"` where a function takes `impl Into<Range>`), from a prefix, or from two
/// [`KeySelector`]s.
///
/// ```
/// use kv_client::Range;
///
/// let newest = Range::prefix("log/").reverse().limit(10);
/// let everything_from_m_on = Range::from("m"..);
/// # let _ = (newest, everything_from_m_on);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub(crate) begin: KeySelector,
    pub(crate) end: KeySelector,
    pub(crate) limit: Option<usize>,
    pub(crate) reverse: bool,
}

impl Range {
    /// The keys `begin <= key < end`.
    pub fn new(begin: impl IntoBytes, end: impl IntoBytes) -> Self {
        Range::between(KeySelector::first_greater_or_equal(begin), KeySelector::first_greater_or_equal(end))
    }

    /// The keys from the one that `begin` selects up to but not including the one that `end`
    /// selects.
    pub fn between(begin: KeySelector, end: KeySelector) -> Self {
        Range { begin, end, limit: None, reverse: false }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        let begin = prefix.into_bytes();
        let end = prefix_end(&begin);
        Range::new(begin, end)
    }

    /// All keys of the column family.
    pub fn all() -> Self {
        Range::new(Bytes::new(), end_of_keys())
    }

    /// Limits the result to this many rows.
    pub fn limit(self, rows: usize) -> Self {
        Range { limit: Some(rows), ..self }
    }

    /// Reads in descending order of keys. A limit then keeps the rows nearest to the end.
    pub fn reverse(self) -> Self {
        Range { reverse: true, ..self }
    }
}

impl<K: IntoBytes> From<ops::Range<K>> for Range {
    fn from(range: ops::Range<K>) -> Self {
        Range::new(range.start, range.end)
    }
}

impl<K: IntoBytes> From<ops::RangeInclusive<K>> for Range {
    fn from(range: ops::RangeInclusive<K>) -> Self {
        let (begin, end) = range.into_inner();
        Range::between(KeySelector::first_greater_or_equal(begin), KeySelector::first_greater_than(end))
    }
}

impl<K: IntoBytes> From<ops::RangeFrom<K>> for Range {
    fn from(range: ops::RangeFrom<K>) -> Self {
        Range::new(range.start, end_of_keys())
    }
}

impl<K: IntoBytes> From<ops::RangeTo<K>> for Range {
    fn from(range: ops::RangeTo<K>) -> Self {
        Range::new(Bytes::new(), range.end)
    }
}

impl From<ops::RangeFull> for Range {
    fn from(_: ops::RangeFull) -> Self {
        Range::all()
    }
}
