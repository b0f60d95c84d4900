//! The keys and ranges that a transaction has read. Its commit fails if any of them was written
//! since.
//!
//! If there are too many, neighbouring ranges are joined. The transaction may then fail although
//! nothing that it read was written, but it never misses a conflict.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::{KeyRange, KeyRef};

use super::range_set::RangeSet;
use crate::keys::{holds_one_key, key_after};

/// Maximum number of ranges of one column family; the server accepts 100,000 in total.
const MAX_RANGES: usize = 20_000;
/// Maximum size of the ranges of one column family, in bytes.
const MAX_BYTES: usize = 2_000_000;

/// Whether a read can make the commit fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadMode {
    /// The commit fails if what was read has been written since.
    Tracked,
    /// The commit does not depend on what was read.
    Snapshot,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Conflicts {
    families: BTreeMap<String, RangeSet>,
}

impl Conflicts {
    pub fn add_key(&mut self, family: &str, key: Bytes) {
        let end = key_after(&key);
        self.add_range(family, key, end);
    }

    pub fn add_range(&mut self, family: &str, begin: Bytes, end: Bytes) {
        if begin >= end {
            return;
        }
        if !self.families.contains_key(family) {
            self.families.insert(family.to_string(), RangeSet::new());
        }
        let ranges = self.families.get_mut(family).expect("inserted if it was missing");
        ranges.insert(begin, end);
        while ranges.len() > 1 && (ranges.len() > MAX_RANGES || ranges.size_bytes() > MAX_BYTES) {
            ranges.coarsen(ranges.len().div_ceil(2));
        }
    }

    /// Everything that was read, as single keys and as ranges.
    pub fn parts(&self) -> (Vec<KeyRef>, Vec<KeyRange>) {
        let (mut keys, mut ranges) = (Vec::new(), Vec::new());
        for (family, set) in &self.families {
            for (begin, end) in set.iter() {
                let (begin, end, column_family) = (begin.clone(), end.clone(), family.clone());
                if holds_one_key(&begin, &end) {
                    keys.push(KeyRef { key: begin, column_family });
                } else {
                    ranges.push(KeyRange { begin, end, column_family });
                }
            }
        }
        (keys, ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_keys_become_a_range_and_families_stay_separate() {
        let mut conflicts = Conflicts::default();
        conflicts.add_key("", "a".into());
        conflicts.add_key("", "b".into());
        conflicts.add_key("", "b\0".into());
        conflicts.add_range("", "x".into(), "x".into());
        conflicts.add_key("other", "a".into());
        let (keys, ranges) = conflicts.parts();
        let other = KeyRef { key: "a".into(), column_family: "other".into() };
        assert_eq!(keys, [KeyRef::new("a"), other]);
        assert_eq!(ranges, [KeyRange { begin: "b".into(), end: "b\0\0".into(), column_family: String::new() }]);
    }

    #[test]
    fn too_many_ranges_become_fewer_that_cover_at_least_the_same_keys() {
        let mut conflicts = Conflicts::default();
        let key = |number: usize| Bytes::from(format!("{number:08}"));
        (0..MAX_RANGES + 1).for_each(|number| conflicts.add_key("", key(number * 2)));
        let ranges = &conflicts.families[""];
        assert!(ranges.len() <= MAX_RANGES);
        assert!((0..MAX_RANGES + 1).all(|number| ranges.containing(&key(number * 2)).is_some()));
    }
}
