//! The needs of a call: each is one verb on one stretch of keys.

use std::fmt;

use super::Verb;
use super::text::{escaped, family_text};

/// One thing that a call does. A call is allowed if each of its needs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    /// The kind of access.
    pub verb: Verb,
    /// The column family (empty: the default family); `None`: every family, those of the future
    /// included.
    pub family: Option<&'a str>,
    /// The keys within the family.
    pub keys: Keys<'a>,
}

/// A stretch of the keys of a family, borrowed from a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys<'a> {
    /// Every key.
    All,
    /// Exactly this key.
    One(&'a [u8]),
    /// Every key that begins with these bytes.
    Prefix(&'a [u8]),
    /// `begin <= key < end`. An empty range asks only that the family be no secret: some grant of
    /// the verb in it.
    Range {
        /// First key.
        begin: &'a [u8],
        /// End of the range, exclusive.
        end: &'a [u8],
    },
    /// `begin <= key <= last`.
    Through {
        /// First key.
        begin: &'a [u8],
        /// Last key.
        last: &'a [u8],
    },
    /// Every key from this one on.
    From(&'a [u8]),
}

impl<'a> Need<'a> {
    /// The verb on the cluster as a whole.
    pub fn cluster(verb: Verb) -> Self {
        Need { verb, family: None, keys: Keys::All }
    }

    /// The verb on these keys of this family.
    pub fn of(verb: Verb, family: &'a str, keys: Keys<'a>) -> Self {
        Need { verb, family: Some(family), keys }
    }
}

impl Keys<'_> {
    /// The least key that may be among them.
    pub(super) fn begin(&self) -> &[u8] {
        match self {
            Keys::All => b"",
            Keys::One(key) | Keys::Prefix(key) | Keys::From(key) => key,
            Keys::Range { begin, .. } | Keys::Through { begin, .. } => begin,
        }
    }

    /// Whether no key is among them.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Keys::Range { begin, end } => begin >= end,
            Keys::Through { begin, last } => begin > last,
            Keys::All | Keys::One(_) | Keys::Prefix(_) | Keys::From(_) => false,
        }
    }

    /// Whether none of them is `end` or lies behind it; `None` lies behind every key.
    pub(super) fn all_before(&self, end: Option<&[u8]>) -> bool {
        let Some(end) = end else { return true };
        match self {
            Keys::All | Keys::From(_) => false,
            Keys::One(key) => *key < end,
            Keys::Prefix(prefix) => *prefix < end && !end.starts_with(prefix),
            Keys::Range { end: wanted, .. } => *wanted <= end,
            Keys::Through { last, .. } => *last < end,
        }
    }
}

impl fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.verb)?;
        match (self.family, self.keys) {
            (None, Keys::All) => return Ok(()),
            (None, _) => write!(f, " in every column family")?,
            (Some(family), _) => write!(f, " in column family '{}'", family_text(family))?,
        }
        match self.keys {
            Keys::All => Ok(()),
            Keys::One(key) => write!(f, " on key '{}'", escaped(key)),
            Keys::Prefix(prefix) => write!(f, " on all keys that begin with '{}'", escaped(prefix)),
            Keys::Range { begin, end } => write!(f, " on keys from '{}' up to '{}'", escaped(begin), escaped(end)),
            Keys::Through { begin, last } => {
                write!(f, " on keys from '{}' through '{}'", escaped(begin), escaped(last))
            }
            Keys::From(begin) => write!(f, " on all keys from '{}'", escaped(begin)),
        }
    }
}
