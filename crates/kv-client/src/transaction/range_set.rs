//! A set of keys, stored as ranges that neither overlap nor touch.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use bytes::Bytes;

/// Invariant: for neighbours `(begin, end)` and `(next_begin, next_end)`,
/// `begin < end < next_begin < next_end`.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeSet {
    /// Begin (inclusive) to end (exclusive).
    ranges: BTreeMap<Bytes, Bytes>,
    /// Size of both ends of all ranges.
    size_bytes: usize,
}

impl RangeSet {
    pub const fn new() -> Self {
        RangeSet { ranges: BTreeMap::new(), size_bytes: 0 }
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.ranges.iter()
    }

    /// Adds `begin <= key < end`, or nothing if that is empty.
    pub fn insert(&mut self, begin: Bytes, end: Bytes) {
        if begin >= end {
            return;
        }
        let (mut begin, mut end) = (begin, end);
        if let Some((before, before_end)) = self.at_or_before(&begin)
            && *before_end >= begin
        {
            if *before_end >= end {
                return;
            }
            begin = before.clone();
        }
        // Every range that begins within the new one or right after it becomes a part of it.
        while let Some((absorbed, its_end)) = self.first_from(&begin)
            && *absorbed <= end
        {
            let absorbed = absorbed.clone();
            end = end.max(its_end.clone());
            self.remove(&absorbed);
        }
        self.add(begin, end);
    }

    /// The range that contains `key`.
    pub fn containing(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.at_or_before(key).filter(|(_, end)| key < &end[..])
    }

    /// The range that begins before `position` and extends at least up to it: the one that a scan
    /// in descending order is in when it has come to `position`.
    pub fn reaching(&self, position: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.before(position).filter(|(_, end)| position <= &end[..])
    }

    /// The first range that begins at `position` or later.
    pub fn first_from(&self, position: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.ranges.range::<[u8], _>((Included(position), Unbounded)).next()
    }

    /// The last range that begins before `position`.
    pub fn before(&self, position: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.ranges.range::<[u8], _>((Unbounded, Excluded(position))).next_back()
    }

    pub fn intersects(&self, begin: &[u8], end: &[u8]) -> bool {
        begin < end && self.before(end).is_some_and(|(_, last_end)| &last_end[..] > begin)
    }

    /// Joins neighbours until at most `max` ranges are left. The set may then contain more keys
    /// than were added.
    pub fn coarsen(&mut self, max: usize) {
        while self.ranges.len() > max.max(1) {
            let mut ranges = std::mem::take(self).ranges.into_iter();
            while let Some((begin, end)) = ranges.next() {
                let end = ranges.next().map_or(end, |(_, end)| end);
                self.add(begin, end);
            }
        }
    }

    fn add(&mut self, begin: Bytes, end: Bytes) {
        self.size_bytes += begin.len() + end.len();
        self.ranges.insert(begin, end);
    }

    fn remove(&mut self, begin: &Bytes) {
        if let Some(end) = self.ranges.remove(begin) {
            self.size_bytes -= begin.len() + end.len();
        }
    }

    fn at_or_before(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        self.ranges.range::<[u8], _>((Unbounded, Included(key))).next_back()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(number: u8) -> Bytes {
        Bytes::copy_from_slice(&[number])
    }

    fn check_invariant(set: &RangeSet) {
        let ranges: Vec<_> = set.iter().collect();
        assert!(ranges.iter().all(|(begin, end)| begin < end), "{ranges:?}");
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
        assert_eq!(set.size_bytes(), ranges.iter().map(|(begin, end)| begin.len() + end.len()).sum());
    }

    proptest! {
        #[test]
        fn a_set_contains_exactly_the_ranges_that_were_added(added in prop::collection::vec((0..30u8, 0..30u8), 0..12)) {
            let mut set = RangeSet::new();
            for (begin, end) in &added {
                set.insert(bytes(*begin), bytes(*end));
                check_invariant(&set);
            }
            for key in 0..30u8 {
                let is_added = added.iter().any(|(begin, end)| (*begin..*end).contains(&key));
                prop_assert_eq!(set.containing(&[key]).is_some(), is_added, "{}", key);
                let before_is_added = key > 0 && added.iter().any(|(begin, end)| (*begin..*end).contains(&(key - 1)));
                // All keys between two numbers belong to the range of the lower one.
                prop_assert_eq!(set.reaching(&[key]).is_some(), before_is_added, "{}", key);
            }
            for (begin, end) in [(0, 30), (3, 4), (7, 20), (9, 9), (12, 5)] {
                let expected = (begin..end).any(|key| set.containing(&[key]).is_some());
                prop_assert_eq!(set.intersects(&[begin], &[end]), expected);
            }
        }

        #[test]
        fn a_coarser_set_contains_at_least_the_same_keys(
            added in prop::collection::vec((0..200u8, 1..4u8), 0..60),
            max in 1..20usize,
        ) {
            let mut set = RangeSet::new();
            for (begin, length) in &added {
                set.insert(bytes(*begin), bytes(begin + length));
            }
            let fine = set.clone();
            set.coarsen(max);
            check_invariant(&set);
            prop_assert!(set.len() <= max);
            prop_assert!((0..=255).all(|key| fine.containing(&[key]).is_none() || set.containing(&[key]).is_some()));
        }
    }
}
