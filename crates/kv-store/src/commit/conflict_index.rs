//! An index of recent writes: for each key its newest version, and whether that is a value or a
//! tombstone.
//!
//! It is a cache of the data table and gives the same verdicts. Invariants:
//! - a key that is in the index has no version newer than the one the index holds;
//! - every write with a version above [`ConflictIndex::complete_after`] is in the index;
//! - nothing is evicted between two calls of [`ConflictIndex::trim`]. The writes of the current
//!   batch are not in the engine yet; the index is how later commits of the batch see them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Up to this many recent writes a range check visits one by one. For more, ordering the keys pays.
const FEW_WRITES: usize = 1024;

/// Keys are prefixes in the encoding of [`crate::key_codec`]: family and user key.
pub(crate) struct ConflictIndex {
    newest: HashMap<Arc<[u8]>, Indexed>,
    /// Every write in version order. The capacity bounds its length.
    log: VecDeque<(u64, Arc<[u8]>)>,
    /// The keys of `newest` in order. Built by the first range check that needs them, and dropped
    /// when none has for long: most databases check no ranges, and keeping the order is the most
    /// expensive part of the index.
    ordered: Option<OrderedKeys>,
    complete_after: u64,
    capacity: usize,
}

struct Indexed {
    /// The key of the map, shared with the log.
    key: Arc<[u8]>,
    newest: NewestWrite,
}

struct OrderedKeys {
    keys: BTreeSet<Arc<[u8]>>,
    /// The newest version in the index at their last use.
    used_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewestWrite {
    pub version: u64,
    /// Whether the key has a value at that version, unless a range clear hides it.
    pub exists: bool,
    /// Position of its value in the current batch. Meaningless for writes of earlier batches.
    pub entry: usize,
}

impl ConflictIndex {
    /// An index that is complete after the version `complete_after`, and that [`Self::trim`]
    /// reduces to `capacity` writes.
    pub fn new(complete_after: u64, capacity: usize) -> Self {
        ConflictIndex { newest: HashMap::new(), log: VecDeque::new(), ordered: None, complete_after, capacity }
    }

    /// Every write above this version is in the index: it suffices for a check at this read version
    /// or a later one.
    pub fn complete_after(&self) -> u64 {
        self.complete_after
    }

    /// The newest write of a key, if the index has it.
    pub fn get(&self, prefix: &[u8]) -> Option<NewestWrite> {
        self.newest.get(prefix).map(|indexed| indexed.newest)
    }

    /// Records a write. Versions never go back.
    pub fn record(&mut self, prefix: &[u8], write: NewestWrite) {
        let latest = self.latest_version();
        assert!(write.version >= latest, "a write at version {} came after one at {latest}", write.version);
        let key = match self.newest.get_mut(prefix) {
            Some(indexed) => {
                indexed.newest = write;
                indexed.key.clone()
            }
            None => {
                let key: Arc<[u8]> = prefix.into();
                self.newest.insert(key.clone(), Indexed { key: key.clone(), newest: write });
                if let Some(ordered) = &mut self.ordered {
                    ordered.keys.insert(key.clone());
                }
                key
            }
        };
        self.log.push_back((write.version, key));
    }

    /// The keys in `[begin, end)` that were written after `read_version`, as far as the index
    /// knows: at least the first `most` in key order, perhaps more.
    pub fn written_in(&mut self, begin: &[u8], end: &[u8], read_version: u64, most: usize) -> BTreeSet<Arc<[u8]>> {
        if begin >= end {
            return BTreeSet::new();
        }
        let since = self.log.partition_point(|(version, _)| *version <= read_version);
        let writes = self.log.len() - since;
        if writes > FEW_WRITES {
            self.order_keys();
        }
        // Walk either the range, or the writes since the read version, whichever is shorter.
        self.written_in_short_range(begin, end, read_version, most, writes).unwrap_or_else(|| {
            let recent = self.log.range(since..).map(|(_, key)| key);
            recent.filter(|key| key.as_ref() >= begin && key.as_ref() < end).cloned().collect()
        })
    }

    /// `None` when the keys are not ordered, or when the range has more than `most_steps` of them.
    fn written_in_short_range(
        &self,
        begin: &[u8],
        end: &[u8],
        read_version: u64,
        most: usize,
        most_steps: usize,
    ) -> Option<BTreeSet<Arc<[u8]>>> {
        let mut found = BTreeSet::new();
        let bounds = (Bound::Included(begin), Bound::Excluded(end));
        for (step, key) in self.ordered.as_ref()?.keys.range::<[u8], _>(bounds).enumerate() {
            if step == most_steps {
                return None;
            }
            if self.newest[key].newest.version > read_version {
                found.insert(key.clone());
                if found.len() == most {
                    break;
                }
            }
        }
        Some(found)
    }

    fn order_keys(&mut self) {
        let used_at = self.latest_version();
        let ordered =
            self.ordered.get_or_insert_with(|| OrderedKeys { keys: self.newest.keys().cloned().collect(), used_at });
        ordered.used_at = used_at;
    }

    fn latest_version(&self) -> u64 {
        self.log.back().map_or(self.complete_after, |(version, _)| *version)
    }

    /// Evicts the oldest writes beyond the capacity, and raises [`Self::complete_after`]
    /// accordingly. Call it only when all recorded writes are in the engine.
    pub fn trim(&mut self) {
        while self.log.len() > self.capacity {
            let (version, key) = self.log.pop_front().expect("the log is longer than its capacity");
            self.complete_after = self.complete_after.max(version);
            // A key that was written again since stays.
            if let Entry::Occupied(indexed) = self.newest.entry(key)
                && indexed.get().newest.version == version
            {
                let (key, _) = indexed.remove_entry();
                if let Some(ordered) = &mut self.ordered {
                    ordered.keys.remove(&key);
                }
            }
        }
        if self.ordered.as_ref().is_some_and(|ordered| ordered.used_at < self.complete_after) {
            self.ordered = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_of(writes: &[(&str, u64)], capacity: usize) -> ConflictIndex {
        let mut index = ConflictIndex::new(1, capacity);
        for (key, version) in writes {
            index.record(key.as_bytes(), NewestWrite { version: *version, exists: true, entry: 0 });
        }
        index
    }

    fn written(index: &mut ConflictIndex, begin: &str, end: &str, read_version: u64, most: usize) -> Vec<String> {
        let found = index.written_in(begin.as_bytes(), end.as_bytes(), read_version, most);
        found.iter().take(most).map(|key| String::from_utf8(key.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_oldest_writes_are_evicted_first_and_the_index_is_complete_after_them() {
        let mut index = index_of(&[("a", 2), ("b", 3), ("c", 4)], 2);
        index.trim();
        assert_eq!(index.complete_after(), 2);
        assert_eq!(index.get(b"a"), None);
        assert_eq!(index.get(b"b"), Some(NewestWrite { version: 3, exists: true, entry: 0 }));
    }

    #[test]
    fn a_key_written_again_outlives_its_older_write() {
        let mut index = index_of(&[("a", 2), ("b", 3), ("a", 4)], 2);
        index.trim();
        assert_eq!(index.complete_after(), 2);
        assert_eq!(index.get(b"a"), Some(NewestWrite { version: 4, exists: true, entry: 0 }));
    }

    #[test]
    fn nothing_is_evicted_before_trimming() {
        let mut index = index_of(&[("a", 2), ("b", 3)], 0);
        assert_eq!(written(&mut index, "a", "z", 1, 10), ["a", "b"]);
    }

    #[test]
    fn a_range_finds_the_same_from_the_ordered_keys_and_from_the_recent_writes() {
        let keys: Vec<String> = (0..5000).map(|i| format!("k{i:04}")).collect();
        let mut writes: Vec<(&str, u64)> = keys.iter().zip(2..).map(|(key, version)| (key.as_str(), version)).collect();
        writes.extend([("k0010", 6000), ("k0005", 6001), ("k0010", 6002)]);
        let mut index = index_of(&writes, 10_000);
        for _ in ["without ordered keys where they are not needed", "with them"] {
            assert_eq!(written(&mut index, "k0000", "k9999", 5999, 10), ["k0005", "k0010"]);
            assert_eq!(written(&mut index, "k0000", "k9999", 5999, 1), ["k0005"]);
            assert!(written(&mut index, "k0011", "k9999", 5999, 10).is_empty());
            // Many writes since this version: few of them in the first range, all in the second.
            assert_eq!(written(&mut index, "k0010", "k0012", 2, 10), ["k0010", "k0011"]);
            assert_eq!(written(&mut index, "k0000", "k9999", 2, 2), ["k0001", "k0002"]);
            assert!(written(&mut index, "k9999", "k0000", 1, 10).is_empty());
            assert!(index.ordered.is_some());
        }
    }

    #[test]
    fn ordered_keys_follow_writes_and_evictions_and_go_when_unused() {
        let keys: Vec<String> = (0..3000).map(|i| format!("k{i:04}")).collect();
        let writes: Vec<(&str, u64)> = keys.iter().zip(2..).map(|(key, version)| (key.as_str(), version)).collect();
        let mut index = index_of(&writes, 2000);
        assert_eq!(written(&mut index, "k0000", "k0002", 1, 10), ["k0000", "k0001"]);
        let write = |version| NewestWrite { version, exists: true, entry: 0 };
        index.record(b"k0001x", write(4000));
        index.trim();
        let complete_after = index.complete_after();
        assert_eq!(written(&mut index, "k0000", "k0002", complete_after, 10), ["k0001x"]);
        (4001..=6001).for_each(|version| index.record(b"other", write(version)));
        index.trim();
        assert!(index.ordered.is_none());
    }

    /// An index of `count` keys `k0000` and so on, the first written at version 2, that evicts
    /// nothing.
    fn index_of_many(count: u64) -> ConflictIndex {
        let mut index = ConflictIndex::new(1, usize::MAX);
        for version in 2..count + 2 {
            let write = NewestWrite { version, exists: true, entry: 0 };
            index.record(format!("k{:04}", version - 2).as_bytes(), write);
        }
        index
    }

    #[test]
    fn keys_are_ordered_when_a_check_would_visit_more_than_few_writes() {
        let (few, all) = (FEW_WRITES as u64, 3 * FEW_WRITES as u64);
        let mut index = index_of_many(all);
        // These writes have the versions up to `all` + 1.
        written(&mut index, "k", "l", all + 1 - few, 10);
        assert!(index.ordered.is_none());
        written(&mut index, "k", "l", all - few, 10);
        assert!(index.ordered.is_some());
    }

    #[test]
    fn a_walk_over_ordered_keys_takes_exactly_as_many_steps_as_there_are_writes() {
        let mut index = index_of_many(10);
        index.order_keys();
        let walk = |end: &str, most, steps| {
            let found = index.written_in_short_range(b"k0002", end.as_bytes(), 1, most, steps);
            found.map(|found| found.len())
        };
        assert_eq!((walk("k0005", 9, 3), walk("k0005", 9, 2)), (Some(3), None));
        assert_eq!((walk("k0005", 2, 2), walk("k0005", 3, 3)), (Some(2), Some(3)));
    }

    #[test]
    fn ordered_keys_are_dropped_once_the_index_is_complete_only_after_their_last_use() {
        let mut index = index_of_many(10);
        index.order_keys();
        let used_at = index.latest_version();
        for (written, is_kept) in [(used_at + 1, true), (used_at + 2, false)] {
            index.record(b"other", NewestWrite { version: written, exists: true, entry: 0 });
            index.capacity = 1;
            index.trim();
            assert_eq!((index.complete_after(), index.ordered.is_some()), (written - 1, is_kept));
        }
    }
}
