//! What a transaction has read: the commit fails if any of it was written since.
//!
//! Where there is too much of it, neighbouring ranges are joined. The transaction may then meet a conflict where there is
//! none, and never misses one.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::{KeyRange, KeyRef};

use crate::keys::{holds_one_key, key_after};
use crate::transaction::range_set::RangeSet;

/// Most ranges of one column family; the server takes 100,000 in all.
const MAX_RANGES: usize = 20_000;
/// Most bytes of the ranges of one column family.
const MAX_BYTES: usize = 2_000_000;

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
        let ranges = self.families.get_mut(family).expect("inserted where it was missing");
        ranges.insert(begin, end);
        while ranges.len() > 1 && (ranges.len() > MAX_RANGES || ranges.size_bytes() > MAX_BYTES) {
            ranges.coarsen(ranges.len().div_ceil(2));
        }
    }

    /// Single keys, and ranges.
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
    fn keys_that_touch_become_a_range_and_families_stay_apart() {
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
    fn many_ranges_become_fewer_that_hold_as_much() {
        let mut conflicts = Conflicts::default();
        let key = |number: usize| Bytes::from(format!("{number:08}"));
        (0..MAX_RANGES + 1).for_each(|number| conflicts.add_key("", key(number * 2)));
        let ranges = &conflicts.families[""];
        assert!(ranges.len() <= MAX_RANGES);
        assert!((0..MAX_RANGES + 1).all(|number| ranges.holding(&key(number * 2)).is_some()));
    }
}
