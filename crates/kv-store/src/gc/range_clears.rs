//! The range clears that hide rows: those that the sweeper has not carried out yet.
//!
//! A range clear is a tombstone for a whole range at one version. At a version `R` a row written at `V` is hidden iff some
//! clear that covers its key has a version in `(V, R]`. (In one commit only writes behind the clear are left, so at equal
//! versions the row is the later one.)
//!
//! The set is a treap ordered by where clears begin; every node also knows the greatest end and version below it, so that
//! questions pass over what cannot matter. Nodes are shared between copies: a reader's copy costs one reference count, and
//! the writer's next change leaves it alone. Memory is proportional to the number of clears, however they overlap.
//!
//! Of each clear it is known, too, when its range was first written to after it. At versions between the two no row is
//! visible there, and a read jumps over the whole range.
//!
//! Invariants: begins are in order (then versions), priorities are a heap, `max_end`, `max_version` and `max_first_write`
//! are those of the whole subtree. (Seidel, Aragon, *Randomized Search Trees*.) Priorities are random to everybody outside, because keys come
//! from clients: nobody can make the tree deep, and recursion with it. No answer depends on the shape.

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

/// Keys of the hash that priorities are made of, drawn when the process first needs them.
static PRIORITIES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

const NEVER: u64 = u64::MAX;

/// All rows with `begin <= prefix < end` in encoded form, which may lie in one family or be all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeClear {
    pub begin: Bytes,
    pub end: Bytes,
    pub version: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct RangeClears {
    root: Option<Arc<Node>>,
    count: usize,
}

#[derive(Clone, Debug)]
struct Node {
    clear: RangeClear,
    /// No row was written to the range from the clear's version up to before this one; [`NEVER`]: none at all.
    first_write: u64,
    priority: u64,
    max_end: Bytes,
    max_version: u64,
    max_first_write: u64,
    left: Option<Arc<Node>>,
    right: Option<Arc<Node>>,
}

impl RangeClears {
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing was changed since one was cloned from the other.
    pub fn is_same_as(&self, other: &RangeClears) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// Adds one to whose range nothing was written since. Clears of one version must not overlap.
    pub fn insert(&mut self, clear: RangeClear) {
        self.add(clear, NEVER);
    }

    /// Adds one of which it is not known whether its range was written to since.
    pub fn restore(&mut self, clear: RangeClear) {
        let first_write = clear.version;
        self.add(clear, first_write);
    }

    fn add(&mut self, clear: RangeClear, first_write: u64) {
        assert!(clear.begin < clear.end, "a range clear covers something");
        self.root = Some(insert(self.root.take(), clear, first_write));
        self.count += 1;
    }

    /// A row with this key is written at `version`, which no clear in the set is newer than.
    pub fn record_write(&mut self, prefix: &[u8], version: u64) {
        // Most writes change nothing, and then nothing that readers share is copied.
        let mut is_first = false;
        search_empty(self.root.as_deref(), prefix, NEVER, &mut |_| is_first = true);
        if is_first {
            record_first_write(&mut self.root, prefix, version);
        }
    }

    /// The range around `prefix`, as far as it is known, in which no row is visible at `at`.
    pub fn empty_around(&self, prefix: &[u8], at: u64) -> Option<(&Bytes, &Bytes)> {
        let mut empty: Option<(&Bytes, &Bytes)> = None;
        search_empty(self.root.as_deref(), prefix, at, &mut |clear| {
            empty = Some(match empty {
                Some((begin, end)) => (begin.min(&clear.begin), end.max(&clear.end)),
                None => (&clear.begin, &clear.end),
            });
        });
        empty
    }

    /// Takes out the clear of `version` that begins at `begin`; false when there is none.
    pub fn remove(&mut self, begin: &[u8], version: u64) -> bool {
        let removed = remove(&mut self.root, begin, version);
        self.count -= usize::from(removed);
        removed
    }

    /// Version of the newest clear that covers `prefix` and is not newer than `at`.
    pub fn newest_covering(&self, prefix: &[u8], at: u64) -> Option<u64> {
        let mut newest = 0;
        search_covering(self.root.as_deref(), prefix, at, &mut newest);
        (newest > 0).then_some(newest)
    }

    /// Whether a row written at `written` is hidden to readers at `at`.
    pub fn hide(&self, prefix: &[u8], written: u64, at: u64) -> bool {
        self.root.is_some() && self.newest_covering(prefix, at).is_some_and(|cleared| cleared > written)
    }

    /// Where clears newer than `after` begin to overlap `[begin, end)`: the first `most` places in order, each once.
    pub fn cleared_in(&self, begin: &[u8], end: &[u8], after: u64, most: usize) -> Vec<Bytes> {
        let mut found = Vec::new();
        search_overlapping(self.root.as_deref(), begin, end, after, &mut |clear| {
            let place = if clear.begin.as_ref() < begin { Bytes::copy_from_slice(begin) } else { clear.begin.clone() };
            if found.last() != Some(&place) {
                found.push(place);
            }
            found.len() < most
        });
        found
    }
}

fn order(node: &Node, begin: &[u8], version: u64) -> Ordering {
    begin.cmp(&node.clear.begin).then(version.cmp(&node.clear.version))
}

fn insert(root: Option<Arc<Node>>, clear: RangeClear, first_write: u64) -> Arc<Node> {
    let priority = PRIORITIES.hash_one((&clear.begin, clear.version));
    let Some(mut root) = root else {
        return Arc::new(Node::leaf(clear, first_write, priority));
    };
    if priority > root.priority {
        let (left, right) = split(Some(root), &clear.begin, clear.version);
        let mut node = Node { left, right, ..Node::leaf(clear, first_write, priority) };
        node.update();
        return Arc::new(node);
    }
    let node = Arc::make_mut(&mut root);
    let side = match order(node, &clear.begin, clear.version) {
        Ordering::Less => &mut node.left,
        Ordering::Greater => &mut node.right,
        Ordering::Equal => panic!("two range clears of version {} begin at the same place", clear.version),
    };
    *side = Some(insert(side.take(), clear, first_write));
    node.update();
    root
}

type Side = Option<Arc<Node>>;

/// What is before the place and what is behind it.
fn split(root: Side, begin: &[u8], version: u64) -> (Side, Side) {
    let Some(mut root) = root else {
        return (None, None);
    };
    let node = Arc::make_mut(&mut root);
    match order(node, begin, version) {
        Ordering::Less => {
            let (before, after) = split(node.left.take(), begin, version);
            node.left = after;
            node.update();
            (before, Some(root))
        }
        _ => {
            let (before, after) = split(node.right.take(), begin, version);
            node.right = before;
            node.update();
            (Some(root), after)
        }
    }
}

/// Everything in `left` is before everything in `right`.
fn merge(left: Side, right: Side) -> Side {
    let (Some(mut left), Some(mut right)) = (left.clone(), right.clone()) else {
        return left.or(right);
    };
    if left.priority > right.priority {
        let node = Arc::make_mut(&mut left);
        node.right = merge(node.right.take(), Some(right));
        node.update();
        Some(left)
    } else {
        let node = Arc::make_mut(&mut right);
        node.left = merge(Some(left), node.left.take());
        node.update();
        Some(right)
    }
}

fn remove(root: &mut Side, begin: &[u8], version: u64) -> bool {
    let Some(found) = root else {
        return false;
    };
    let node = Arc::make_mut(found);
    let removed = match order(node, begin, version) {
        Ordering::Less => remove(&mut node.left, begin, version),
        Ordering::Greater => remove(&mut node.right, begin, version),
        Ordering::Equal => {
            *root = merge(node.left.take(), node.right.take());
            return true;
        }
    };
    node.update();
    removed
}

fn search_covering(node: Option<&Node>, prefix: &[u8], at: u64, newest: &mut u64) {
    let Some(node) = node else { return };
    if node.max_version <= *newest || node.max_end.as_ref() <= prefix {
        return;
    }
    let clear = &node.clear;
    if clear.begin.as_ref() <= prefix {
        if clear.version <= at && clear.version > *newest && clear.end.as_ref() > prefix {
            *newest = clear.version;
        }
        search_covering(node.right.as_deref(), prefix, at, newest);
    }
    search_covering(node.left.as_deref(), prefix, at, newest);
}

/// Visits every clear over the key that is not newer than `at`, and whose range was not written to up to there. With
/// [`NEVER`]: to this day.
fn search_empty<'n>(node: Option<&'n Node>, prefix: &[u8], at: u64, visit: &mut dyn FnMut(&'n RangeClear)) {
    let Some(node) = node else { return };
    let is_unwritten = |first_write: u64| first_write > at || first_write == NEVER;
    if !is_unwritten(node.max_first_write) || node.max_end.as_ref() <= prefix {
        return;
    }
    let clear = &node.clear;
    if clear.begin.as_ref() <= prefix {
        if clear.version <= at && is_unwritten(node.first_write) && clear.end.as_ref() > prefix {
            visit(clear);
        }
        search_empty(node.right.as_deref(), prefix, at, visit);
    }
    search_empty(node.left.as_deref(), prefix, at, visit);
}

fn record_first_write(side: &mut Side, prefix: &[u8], version: u64) {
    let Some(root) = side.as_mut().filter(|node| node.max_first_write == NEVER && node.max_end.as_ref() > prefix)
    else {
        return;
    };
    let node = Arc::make_mut(root);
    if node.clear.begin.as_ref() <= prefix {
        if node.first_write == NEVER && node.clear.end.as_ref() > prefix {
            assert!(node.clear.version <= version, "a row is written before a clear that is there already");
            node.first_write = version;
        }
        record_first_write(&mut node.right, prefix, version);
    }
    record_first_write(&mut node.left, prefix, version);
    node.update();
}

/// Visits, in order, every clear newer than `after` that overlaps `[begin, end)`, until `visit` returns false.
fn search_overlapping(
    node: Option<&Node>,
    begin: &[u8],
    end: &[u8],
    after: u64,
    visit: &mut dyn FnMut(&RangeClear) -> bool,
) -> bool {
    let Some(node) = node else { return true };
    if node.max_version <= after || node.max_end.as_ref() <= begin {
        return true;
    }
    if !search_overlapping(node.left.as_deref(), begin, end, after, visit) {
        return false;
    }
    let clear = &node.clear;
    if clear.begin.as_ref() >= end {
        return true;
    }
    if clear.version > after && clear.end.as_ref() > begin && !visit(clear) {
        return false;
    }
    search_overlapping(node.right.as_deref(), begin, end, after, visit)
}

impl Node {
    fn leaf(clear: RangeClear, first_write: u64, priority: u64) -> Node {
        let (max_end, max_version, max_first_write) = (clear.end.clone(), clear.version, first_write);
        Node { clear, first_write, priority, max_end, max_version, max_first_write, left: None, right: None }
    }

    fn update(&mut self) {
        self.max_end = self.clear.end.clone();
        self.max_version = self.clear.version;
        self.max_first_write = self.first_write;
        for child in [&self.left, &self.right].into_iter().flatten() {
            if child.max_end > self.max_end {
                self.max_end = child.max_end.clone();
            }
            self.max_version = self.max_version.max(child.max_version);
            self.max_first_write = self.max_first_write.max(child.max_first_write);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn clear(begin: u8, end: u8, version: u64) -> RangeClear {
        RangeClear { begin: vec![begin].into(), end: vec![end].into(), version }
    }

    fn check_shape(node: Option<&Node>) -> Option<(Bytes, u64, u64)> {
        let node = node?;
        let below = [check_shape(node.left.as_deref()), check_shape(node.right.as_deref())];
        for child in [&node.left, &node.right].into_iter().flatten() {
            assert!(child.priority <= node.priority, "the heap is broken");
        }
        let own = (node.clear.end.clone(), node.clear.version, node.first_write);
        let found = below.into_iter().flatten().chain([own]);
        let most = found.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1), a.2.max(b.2))).expect("at least its own");
        assert_eq!(most, (node.max_end.clone(), node.max_version, node.max_first_write));
        Some(most)
    }

    proptest! {
        #[test]
        fn it_answers_as_a_plain_list_does(
            ranges in vec((0u8..20, 1u8..8), 1..60),
            removed in vec(any::<prop::sample::Index>(), 0..30),
            questions in vec((0u8..28, 0u8..28, 0u64..70), 20),
        ) {
            let mut list: Vec<RangeClear> = Vec::new();
            let mut set = RangeClears::default();
            for (version, (begin, length)) in (1u64..).zip(&ranges) {
                list.push(clear(*begin, begin + length, version));
                set.insert(list.last().unwrap().clone());
            }
            let before = (set.clone(), list.clone());
            for index in removed.into_iter().filter(|_| !ranges.is_empty()) {
                if list.is_empty() { break; }
                let gone = list.remove(index.index(list.len()));
                prop_assert!(set.remove(&gone.begin, gone.version));
                prop_assert!(!set.remove(&gone.begin, gone.version));
            }
            for (set, list) in [(set, list), before] {
                check_shape(set.root.as_deref());
                prop_assert_eq!(set.len(), list.len());
                for (key, other, version) in &questions {
                    let (key, other) = (&[*key][..], &[*other][..]);
                    let covers = |c: &&RangeClear| c.begin.as_ref() <= key && c.end.as_ref() > key;
                    let newest = list.iter().filter(covers).map(|c| c.version).filter(|v| v <= version).max();
                    prop_assert_eq!(set.newest_covering(key, *version), newest);
                    let overlaps = |c: &&RangeClear| c.begin.as_ref() < other && c.end.as_ref() > key && key < other;
                    let newer = list.iter().filter(overlaps).filter(|c| c.version > *version);
                    let mut places: Vec<Bytes> =
                        newer.map(|c| c.begin.clone().max(Bytes::copy_from_slice(key))).collect();
                    places.sort();
                    places.dedup();
                    places.truncate(3);
                    if key < other {
                        prop_assert_eq!(set.cleared_in(key, other, *version, 3), places);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_row_is_visible_where_it_says_that_there_is_none(
            steps in vec((any::<bool>(), 0u8..20, 1u8..8), 1..60),
            removed in vec(any::<prop::sample::Index>(), 0..10),
            questions in vec((0u8..28, 0u64..70), 30),
        ) {
            let (mut set, mut list, mut rows) = (RangeClears::default(), Vec::new(), Vec::new());
            let mut copies = vec![set.clone()];
            for (version, (clears, key, length)) in (1u64..).zip(&steps) {
                if *clears {
                    list.push(clear(*key, key + length, version));
                    set.insert(list.last().unwrap().clone());
                }
                // Also by the commit that clears.
                if !*clears || length % 2 == 0 {
                    rows.push((*key, version));
                    set.record_write(&[*key], version);
                }
                copies.push(set.clone());
            }
            for index in removed.into_iter().take(list.len()) {
                let gone = list.remove(index.index(list.len()));
                set.remove(&gone.begin, gone.version);
            }
            check_shape(set.root.as_deref());
            let is_empty = |c: &RangeClear, at: u64| {
                let in_range = |key: u8| c.begin.as_ref() <= &[key][..] && c.end.as_ref() > &[key][..];
                c.version <= at && !rows.iter().any(|(key, version)| in_range(*key) && (c.version..=at).contains(version))
            };
            for (key, at) in questions {
                let covers = |c: &&RangeClear| c.begin.as_ref() <= &[key][..] && c.end.as_ref() > &[key][..];
                let empty: Vec<&RangeClear> = list.iter().filter(covers).filter(|c| is_empty(c, at)).collect();
                let expected = empty.iter().map(|c| &c.begin).min().zip(empty.iter().map(|c| &c.end).max());
                prop_assert_eq!(set.empty_around(&[key], at), expected);
                // A reader's copy is of any moment when the version was there already.
                let known = |copy: &RangeClears| copy.empty_around(&[key], at).map(|(b, e)| (b.clone(), e.clone()));
                let later: Vec<_> = copies.iter().skip(at as usize).map(known).collect();
                prop_assert!(later.windows(2).all(|pair| pair[0] == pair[1]), "later changes matter to earlier readers");
            }
        }
    }

    #[test]
    fn of_one_that_was_there_at_the_start_nothing_is_known() {
        let mut set = RangeClears::default();
        set.restore(clear(1, 9, 5));
        assert_eq!(set.empty_around(&[3], 7), None);
        assert!(set.hide(&[3], 4, 7));
    }

    #[test]
    fn a_row_written_by_the_commit_of_the_clear_stays() {
        let mut set = RangeClears::default();
        set.insert(clear(1, 9, 5));
        assert!(set.hide(&[3], 4, 5) && set.hide(&[3], 4, 9));
        assert!(!set.hide(&[3], 5, 5), "written behind the clear");
        assert!(!set.hide(&[3], 4, 4), "read before the clear");
        assert!(!set.hide(&[9], 4, 9) && !set.hide(&[0], 4, 9), "not covered");
    }
}
