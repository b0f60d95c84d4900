//! The range clears that hide rows: those that garbage collection has not collected yet.
//!
//! A range clear is a tombstone of one version for a whole range. At a version `R`, a row written
//! at `V` is hidden iff a clear that covers its key has a version in `(V, R]`. (A commit keeps only
//! the writes that follow its clears, so at equal versions the row is the later one.)
//!
//! The set is a treap ordered by the begin of each clear. Each node also knows the greatest end and
//! version in its subtree, so that searches skip subtrees that cannot matter. Copies share nodes: a
//! reader's copy costs one reference count, and the writer's changes do not affect it. Memory is
//! proportional to the number of clears, however they overlap.
//!
//! The set also knows when the range of a clear was first written to after the clear. Between these
//! two versions no row is visible in the range, and a read jumps over all of it.
//!
//! Invariants: nodes are in order of begin, then version; priorities form a heap; `max_end`,
//! `max_version` and `max_first_write` are the maxima of the subtree. (Seidel, Aragon, *Randomized
//! Search Trees*.) Keys come from clients, so priorities depend on a secret of the process: nobody
//! can make the tree, and with it the recursion, deep. No answer depends on the shape of the tree.

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

/// The secret that priorities depend on, drawn on first use.
static PRIORITIES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

const NEVER: u64 = u64::MAX;

/// Hides all rows with `begin <= prefix < end` in encoded form. The range lies within one family or
/// is all of one.
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
    /// The version of the first write to the range at or after the clear's own version; [`NEVER`]:
    /// there was none.
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

    /// Whether neither of two copies has changed since one was cloned from the other.
    pub fn is_same_as(&self, other: &RangeClears) -> bool {
        match (&self.root, &other.root) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }

    /// Adds a clear to whose range nothing was written since. Clears of the same version must not
    /// overlap.
    pub fn insert(&mut self, clear: RangeClear) {
        self.add(clear, NEVER);
    }

    /// Adds a clear whose range may have been written to since.
    pub fn restore(&mut self, clear: RangeClear) {
        let first_write = clear.version;
        self.add(clear, first_write);
    }

    fn add(&mut self, clear: RangeClear, first_write: u64) {
        assert!(clear.begin < clear.end, "a range clear covers something");
        self.root = Some(insert(self.root.take(), clear, first_write));
        self.count += 1;
    }

    /// Records that a row with this key is written at `version`. No clear in the set is newer than
    /// that.
    pub fn record_write(&mut self, prefix: &[u8], version: u64) {
        // Most writes change nothing: search first, and copy no nodes that readers share.
        let mut is_first = false;
        search_empty(self.root.as_deref(), prefix, NEVER, &mut |_| is_first = true);
        if is_first {
            record_first_write(&mut self.root, prefix, version);
        }
    }

    /// The range around `prefix` in which no row is visible at `at`, as far as the set knows.
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

    /// Removes the clear of `version` that begins at `begin`; false if there is none.
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

    /// Whether readers at `at` do not see a row written at `written`.
    pub fn hide(&self, prefix: &[u8], written: u64, at: u64) -> bool {
        self.root.is_some() && self.newest_covering(prefix, at).is_some_and(|cleared| cleared > written)
    }

    /// Where clears newer than `after` begin to overlap `[begin, end)`: the first `most` such keys
    /// in order, without repeats.
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

/// Divides a tree into the nodes before a position and those at or after it.
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

/// Joins two trees. Everything in `left` is before everything in `right`.
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

/// Visits every clear of `prefix` up to version `at` whose range was not written to up to `at`;
/// with [`NEVER`], never.
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

/// Visits, in order, every clear newer than `after` that overlaps `[begin, end)`, until `visit`
/// returns false.
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
        fn the_set_answers_as_a_plain_list_does(
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
        fn no_row_is_visible_where_the_set_says_that_there_is_none(
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
                // Writes also by the commit that clears.
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
                // A reader's copy may be of any moment at which its version was applied.
                let known = |copy: &RangeClears| copy.empty_around(&[key], at).map(|(b, e)| (b.clone(), e.clone()));
                let later: Vec<_> = copies.iter().skip(at as usize).map(known).collect();
                prop_assert!(later.windows(2).all(|pair| pair[0] == pair[1]), "later changes matter to earlier readers");
            }
        }
    }

    #[test]
    fn nothing_is_known_about_writes_after_a_restored_clear() {
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
        assert!(!set.hide(&[3], 5, 5), "written after the clear");
        assert!(!set.hide(&[3], 4, 4), "read before the clear");
        assert!(!set.hide(&[9], 4, 9) && !set.hide(&[0], 4, 9), "not covered");
    }
}
