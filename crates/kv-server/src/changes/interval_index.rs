//! Finds the waiting polls whose ranges a change touches.
//!
//! Ranges lie in arrays whose lengths at least double from one to the next. Each is ordered by begin
//! and knows for every half of itself the highest end. So a lookup takes logarithmic time for each
//! array and each range that it finds, and so does an insertion on average. A removed range stays
//! until its array is built again; the caller skips it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

type Bytes = Arc<[u8]>;

#[derive(Clone)]
struct Item {
    begin: Bytes,
    end: Bytes,
    /// The highest end in the part of the array whose middle this is.
    highest: Bytes,
    id: u64,
}

#[derive(Default)]
pub(super) struct IntervalIndex {
    /// The longest first.
    arrays: Vec<Vec<Item>>,
}

impl IntervalIndex {
    pub fn insert(&mut self, ranges: impl Iterator<Item = Range<Vec<u8>>>, id: u64) {
        let mut items: Vec<Item> = ranges
            .map(|range| {
                let (begin, end): (Bytes, Bytes) = (range.start.into(), range.end.into());
                Item { begin, highest: end.clone(), end, id }
            })
            .collect();
        if items.is_empty() {
            return;
        }
        while let Some(shorter) = self.arrays.pop_if(|array| array.len() < 2 * items.len()) {
            items.extend(shorter);
        }
        self.arrays.push(built(items));
    }

    /// Forgets all ranges but those of `live`.
    pub fn keep_only(&mut self, live: &HashSet<u64>) {
        let all: Vec<Item> = self.arrays.drain(..).flatten().filter(|item| live.contains(&item.id)).collect();
        if !all.is_empty() {
            self.arrays.push(built(all));
        }
    }

    /// All ranges, those that were removed included.
    pub fn len(&self) -> usize {
        self.arrays.iter().map(Vec::len).sum()
    }

    /// Passes the ids of the ranges that hold `key`.
    pub fn holding(&self, key: &[u8], found: &mut dyn FnMut(u64)) {
        self.arrays.iter().for_each(|array| search(array, key, &|begin| begin <= key, found));
    }

    /// Passes the ids of the ranges that share a key with `begin <= key < end`.
    pub fn touching(&self, begin: &[u8], end: &[u8], found: &mut dyn FnMut(u64)) {
        self.arrays.iter().for_each(|array| search(array, begin, &|other| other < end, found));
    }
}

fn built(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by(|a, b| a.begin.cmp(&b.begin));
    note_highest(&mut items);
    items
}

fn note_highest(items: &mut [Item]) -> Option<Bytes> {
    if items.is_empty() {
        return None;
    }
    let middle = items.len() / 2;
    let (left, rest) = items.split_at_mut(middle);
    let (item, right) = rest.split_first_mut().expect("the middle is there");
    let ends = [note_highest(left), Some(item.end.clone()), note_highest(right)];
    let highest = ends.into_iter().flatten().max().expect("that of the middle is there");
    item.highest = highest.clone();
    Some(highest)
}

/// Passes the ranges that end after `after`, and whose begin `begins` accepts: it accepts a begin if
/// it accepts a greater one.
fn search(items: &[Item], after: &[u8], begins: &dyn Fn(&[u8]) -> bool, found: &mut dyn FnMut(u64)) {
    if items.is_empty() {
        return;
    }
    let middle = items.len() / 2;
    let item = &items[middle];
    if &*item.highest <= after {
        return;
    }
    search(&items[..middle], after, begins, found);
    if begins(&item.begin) {
        if &*item.end > after {
            found(item.id);
        }
        search(&items[middle + 1..], after, begins, found);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exactly_the_ranges_that_a_comparison_with_each_finds_are_found(
            ranges in vec((0u8..40, 1u8..20), 0..60),
            removed in vec(any::<bool>(), 60),
            (begin, length) in (0u8..60, 1u8..10),
        ) {
            let mut index = IntervalIndex::default();
            for (id, (begin, length)) in (0u64..).zip(&ranges) {
                index.insert(std::iter::once(vec![*begin]..vec![begin + length]), id);
            }
            let all: Vec<(u64, u8, u8)> =
                (0u64..).zip(&ranges).map(|(id, (begin, length))| (id, *begin, begin + length)).collect();
            let compare = |index: &IntervalIndex, all: &[(u64, u8, u8)]| {
                let end = begin + length;
                let (mut holding, mut touching) = (BTreeSet::new(), BTreeSet::new());
                index.holding(&[begin], &mut |id| assert!(holding.insert(id)));
                index.touching(&[begin], &[end], &mut |id| assert!(touching.insert(id)));
                let expected = |fits: &dyn Fn(&(u64, u8, u8)) -> bool| {
                    all.iter().filter(|range| fits(range)).map(|range| range.0).collect::<BTreeSet<u64>>()
                };
                assert_eq!(holding, expected(&|(_, from, to)| *from <= begin && begin < *to));
                assert_eq!(touching, expected(&|(_, from, to)| *from < end && begin < *to));
            };
            compare(&index, &all);
            let live: HashSet<u64> = all.iter().map(|range| range.0).filter(|id| !removed[*id as usize]).collect();
            index.keep_only(&live);
            let left: Vec<_> = all.into_iter().filter(|range| live.contains(&range.0)).collect();
            prop_assert_eq!(index.len(), left.len());
            compare(&index, &left);
        }
    }
}
