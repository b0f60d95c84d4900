//! Compactions of the memory engine, modelled on RocksDB's. Passes over the flushed state of the
//! data table drop superseded values; each flush does a part of a pass, and so do some of the
//! writes in between.

use std::ops::Bound;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::State;
use crate::engine::Table;
use crate::engine::superseded::Superseded;

/// Entries that one part of a pass visits.
const SLICE_ENTRIES: usize = 1_000;

/// Batches from one part to the next, if no flush comes before.
const BATCHES_BETWEEN: u32 = 16;

#[derive(Default)]
pub(super) struct Compaction {
    watermark: u64,
    /// The pass that has begun.
    pass: Option<Pass>,
    batches: u32,
    /// Passes begun so far.
    passes: u64,
    /// Whether every second pass leaves out some of the entries, as a compaction of some of the
    /// files does.
    pub(super) shows_parts: bool,
}

/// A pass keeps its watermark and its filter to its end, and so also filters a key with more
/// versions than one part visits. An entry that was superseded in the flushed state when the filter
/// saw the newer one still is: whoever removes the newer one by other means has removed all older
/// ones of the key before.
struct Pass {
    filter: Superseded,
    /// The last key visited.
    last: Option<Bytes>,
    /// Chooses the entries that the pass visits; 0: all.
    part: u64,
}

impl Pass {
    fn new(watermark: u64, part: u64) -> Pass {
        Pass { filter: Superseded::new(watermark), last: None, part }
    }

    fn is_shown(&self, key: &[u8]) -> bool {
        self.part == 0 || xxh3_64_with_seed(key, self.part).is_multiple_of(2)
    }
}

impl Compaction {
    pub fn raise_watermark(&mut self, version: u64) {
        self.watermark = self.watermark.max(version);
    }

    /// The state after the engine was reopened.
    pub fn reopened(&self) -> Compaction {
        Compaction { shows_parts: self.shows_parts, ..Compaction::default() }
    }

    fn begin_pass(&mut self) -> Pass {
        self.passes += 1;
        let is_partial = self.shows_parts && self.passes.is_multiple_of(2);
        Pass::new(self.watermark, if is_partial { self.passes } else { 0 })
    }
}

impl State {
    /// Called after each batch: does a part of a pass when one is due.
    pub(super) fn compact_now_and_then(&mut self) {
        self.compaction.batches += 1;
        if self.compaction.batches >= BATCHES_BETWEEN {
            self.compact_slice();
        }
    }

    /// Does the next part of a pass.
    pub(super) fn compact_slice(&mut self) {
        self.compaction.batches = 0;
        if self.compaction.watermark == 0 {
            return;
        }
        let mut pass = self.compaction.pass.take().unwrap_or_else(|| self.compaction.begin_pass());
        let after = pass.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let filtered = self.filter(after, None, SLICE_ENTRIES, &mut pass);
        self.compaction.pass = (filtered == SLICE_ENTRIES).then_some(pass);
    }

    /// Visits all entries `begin <= key < end`.
    pub(super) fn compact_range(&mut self, begin: &[u8], end: &[u8]) {
        let mut pass = Pass::new(self.compaction.watermark, 0);
        self.filter(Bound::Included(Bytes::copy_from_slice(begin)), Some(end), usize::MAX, &mut pass);
    }

    /// Returns the number of entries visited.
    fn filter(&mut self, after: Bound<Bytes>, end: Option<&[u8]>, most: usize, pass: &mut Pass) -> usize {
        let mut filtered = 0;
        let mut needless = Vec::new();
        let flushed = self.then(Table::Data, after, &self.undo);
        let mut last = None;
        for (key, value) in flushed.take_while(|(key, _)| end.is_none_or(|end| *key < end)).take(most) {
            filtered += 1;
            if pass.is_shown(key) && value.is_some_and(|value| pass.filter.may_drop(key, value)) {
                needless.push(key.clone());
            }
            last = Some(key);
        }
        pass.last = last.cloned();
        needless.into_iter().for_each(|key| self.drop_flushed(key));
        filtered
    }

    /// Drops an entry from the flushed state, and from the current one if it is the same there.
    fn drop_flushed(&mut self, key: Bytes) {
        match self.undo.get_mut(&(Table::Data, key.clone())) {
            Some(flushed) => *flushed = None,
            None => drop(self.replace(Table::Data, key, None)),
        }
    }
}
