//! Changes of rows, in the order in which they were made.

use bytes::Bytes;

use crate::Version;

/// The keys `begin <= key < end` of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRange {
    /// Empty: the default family.
    pub column_family: String,
    /// The first key; empty: the first of the family.
    pub begin: Bytes,
    /// `None`: to the end of the family.
    pub end: Option<Bytes>,
}

impl ChangeRange {
    /// One key.
    pub fn key(column_family: impl Into<String>, key: &[u8]) -> Self {
        let end = [key, b"\0"].concat();
        ChangeRange { column_family: column_family.into(), begin: Bytes::copy_from_slice(key), end: Some(end.into()) }
    }

    /// All keys of a family.
    pub fn family(column_family: impl Into<String>) -> Self {
        ChangeRange { column_family: column_family.into(), begin: Bytes::new(), end: None }
    }
}

/// An event of a key, or of a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The key has this value now. Values of atomic mutations, and keys and values with
    /// versionstamps, stand here as they were stored.
    Set { key: Bytes, value: Bytes },
    /// The key was deleted. It may not have existed.
    Delete { key: Bytes },
    /// Every key with `begin <= key < end` was removed; `end` is `None` at the end of the family.
    Clear { begin: Bytes, end: Option<Bytes>, cause: ClearCause },
}

/// Why a range was cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearCause {
    /// A transaction cleared it.
    Transaction,
    /// Its family was dropped.
    FamilyDropped,
}

/// An effect and the family in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyEffect {
    /// Empty: the default family.
    pub column_family: String,
    /// The event.
    pub effect: Effect,
}

/// Everything that one version changed: applied in this order, the effects turn the rows of the
/// version before into those of this one. Cleared ranges stand before keys, and no key appears
/// twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The commit version.
    pub version: Version,
    /// Replicated time of the commit, in microseconds.
    pub time_us: u64,
    /// Its effects within the ranges that were asked for.
    pub effects: Vec<FamilyEffect>,
}

/// Changes after a version: of whole versions only, in their order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The versions that changed something in the ranges that were asked for.
    pub changes: Vec<Change>,
    /// Everything up to this version is in `changes`, or was before. The next request continues
    /// after it.
    pub through: Version,
    /// Whether later versions exist already.
    pub has_more: bool,
    /// Changes after this version, or a later one, can be asked for.
    pub oldest: Version,
}
