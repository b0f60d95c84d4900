//! The polls that wait, and which of them a change concerns.
//!
//! Invariants: each waiting poll is in `waiting` and, until it is woken, in `deadlines`; its ranges
//! are in `keys` or in `ranges`. All versions up to `seen` were compared with every poll that waited
//! then. A poll begins to wait only if it has read everything up to `seen` itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use kv_store::{ChangeFilter, Touched};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::interval_index::IntervalIndex;

/// The index of ranges is built again once more than this, and half of it, is of no use.
const FEW: usize = 64;

pub(crate) struct Registry {
    waiting: HashMap<u64, Waiting>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Polls of single keys.
    keys: BTreeMap<Box<[u8]>, Vec<u64>>,
    /// Polls of ranges.
    ranges: IntervalIndex,
    live_ranges: usize,
    bytes: usize,
    seen: u64,
    next: u64,
}

struct Waiting {
    /// It has read everything up to this version.
    after: u64,
    until: Instant,
    keys: Vec<Box<[u8]>>,
    ranges: usize,
    bytes: usize,
    wake: oneshot::Sender<()>,
}

/// A poll that has begun to wait.
pub(crate) struct Registered {
    pub id: u64,
    pub woken: oneshot::Receiver<()>,
    /// Whether the task that wakes polls must look at its deadlines or at the journal again.
    pub changes_wakeup: bool,
}

impl Registry {
    /// Without polls.
    pub fn new() -> Self {
        Registry {
            waiting: HashMap::new(),
            deadlines: BTreeSet::new(),
            keys: BTreeMap::new(),
            ranges: IntervalIndex::default(),
            live_ranges: 0,
            bytes: 0,
            seen: 0,
            next: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the keys of all waiting polls.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Begins to wait; `None` if newer versions than `after` were compared already: the poll must
    /// read them itself. `applied`: a version that the database had before the call.
    pub fn register(&mut self, filter: &ChangeFilter, after: u64, applied: u64, until: Instant) -> Option<Registered> {
        let is_first = self.waiting.is_empty();
        if is_first {
            self.seen = after.min(applied);
        }
        if after < self.seen {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let (mut keys, mut ranges, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (range, is_key) in filter.encoded_ranges() {
            bytes += range.start.len() + range.end.len();
            match is_key {
                true => keys.push(range.start.clone().into_boxed_slice()),
                false => ranges.push(range.clone()),
            }
        }
        keys.iter().for_each(|key| self.keys.entry(key.clone()).or_default().push(id));
        let range_count = ranges.len();
        self.ranges.insert(ranges.into_iter(), id);
        self.live_ranges += range_count;
        self.bytes += bytes;
        let is_earliest = self.deadlines.first().is_none_or(|(earliest, _)| until < *earliest);
        self.deadlines.insert((until, id));
        let (wake, woken) = oneshot::channel();
        self.waiting.insert(id, Waiting { after, until, keys, ranges: range_count, bytes, wake });
        Some(Registered { id, woken, changes_wakeup: is_first || is_earliest })
    }

    /// Wakes a poll, or forgets one that nobody waits for any more.
    pub fn end(&mut self, id: u64) {
        let Some(ended) = self.waiting.remove(&id) else { return };
        self.deadlines.remove(&(ended.until, id));
        for key in ended.keys {
            if let Some(ids) = self.keys.get_mut(&key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
        self.live_ranges -= ended.ranges;
        self.bytes -= ended.bytes;
        let useless = self.ranges.len() - self.live_ranges;
        if useless > FEW && useless > self.live_ranges {
            let live: HashSet<u64> = self.waiting.keys().copied().collect();
            self.ranges.keep_only(&live);
        }
        // Its receiver may be gone.
        let _ = ended.wake.send(());
    }

    /// The polls that a version concerns.
    pub fn concerned(&self, version: u64, touched: Touched<'_>, into: &mut HashSet<u64>) {
        let mut found = |id: u64| {
            if self.waiting.get(&id).is_some_and(|waiting| waiting.after < version) {
                into.insert(id);
            }
        };
        match touched {
            Touched::Key(key) => {
                self.keys.get(key).into_iter().flatten().for_each(|id| found(*id));
                self.ranges.holding(key, &mut found);
            }
            Touched::Range(begin, end) if begin < end => {
                let touched =
                    self.keys.range::<[u8], _>((std::ops::Bound::Included(begin), std::ops::Bound::Excluded(end)));
                touched.flat_map(|(_, ids)| ids).for_each(|id| found(*id));
                self.ranges.touching(begin, end, &mut found);
            }
            Touched::Range(..) => {}
        }
    }

    /// All versions up to this one were compared.
    pub fn has_seen(&mut self, version: u64) {
        self.seen = self.seen.max(version);
    }

    /// Ends the wait of all polls: each reads again.
    pub fn end_all(&mut self) {
        let all: Vec<u64> = self.waiting.keys().copied().collect();
        all.into_iter().for_each(|id| self.end(id));
    }

    /// Ends the wait of the polls whose time is up at `now`, and returns when the next one's is.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some((until, id)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            self.deadlines.remove(&(until, id));
            self.end(id);
        }
        self.deadlines.first().map(|(until, _)| *until)
    }
}
