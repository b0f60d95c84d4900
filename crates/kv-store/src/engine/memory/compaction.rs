//! What RocksDB's compactions do to the data table, for the memory engine: passes over the flushed state of the table, a part
//! at each flush and at some of the writes between, drop superseded values.

use std::ops::Bound;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::State;
use crate::engine::Table;
use crate::engine::superseded::Superseded;

/// Entries that one part of a pass looks at.
const SLICE_ENTRIES: usize = 1_000;

/// From one part to the next, if no flush comes before.
const BATCHES_BETWEEN: u32 = 16;

#[derive(Default)]
pub(super) struct Compaction {
    floor: u64,
    /// The pass under way.
    pass: Option<Pass>,
    batches: u32,
    /// Passes begun.
    passes: u64,
    /// Every second pass is shown only some of the entries, as a compaction is that takes some of the files.
    pub(super) shows_parts: bool,
}

/// A pass keeps its floor and its filter to its end, so that a key of more versions than a slice holds is passed, too. What
/// makes a later entry needless was seen in the flushed state and is still there: whoever removes it by other means
/// has removed all older ones of the key before.
struct Pass {
    filter: Superseded,
    /// The key looked at last.
    last: Option<Bytes>,
    /// Which entries it is shown; 0: all.
    part: u64,
}

impl Pass {
    fn new(floor: u64, part: u64) -> Pass {
        Pass { filter: Superseded::new(floor), last: None, part }
    }

    fn is_shown(&self, key: &[u8]) -> bool {
        self.part == 0 || xxh3_64_with_seed(key, self.part).is_multiple_of(2)
    }
}

impl Compaction {
    pub fn raise_watermark(&mut self, version: u64) {
        self.floor = self.floor.max(version);
    }

    /// What is left of it when the engine is opened anew.
    pub fn reopened(&self) -> Compaction {
        Compaction { shows_parts: self.shows_parts, ..Compaction::default() }
    }

    fn begin_pass(&mut self) -> Pass {
        self.passes += 1;
        let is_partial = self.shows_parts && self.passes.is_multiple_of(2);
        Pass::new(self.floor, if is_partial { self.passes } else { 0 })
    }
}

impl State {
    /// After each batch.
    pub(super) fn compact_now_and_then(&mut self) {
        self.compaction.batches += 1;
        if self.compaction.batches >= BATCHES_BETWEEN {
            self.compact_slice();
        }
    }

    /// The next part of the pass under way, or of the next one.
    pub(super) fn compact_slice(&mut self) {
        self.compaction.batches = 0;
        if self.compaction.floor == 0 {
            return;
        }
        let mut pass = self.compaction.pass.take().unwrap_or_else(|| self.compaction.begin_pass());
        let after = pass.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at = self.filter(after, None, SLICE_ENTRIES, &mut pass);
        self.compaction.pass = (looked_at == SLICE_ENTRIES).then_some(pass);
    }

    /// All entries `begin <= key < end`.
    pub(super) fn compact_range(&mut self, begin: &[u8], end: &[u8]) {
        let mut pass = Pass::new(self.compaction.floor, 0);
        self.filter(Bound::Included(Bytes::copy_from_slice(begin)), Some(end), usize::MAX, &mut pass);
    }

    /// Returns how many entries it has looked at.
    fn filter(&mut self, after: Bound<Bytes>, end: Option<&[u8]>, most: usize, pass: &mut Pass) -> usize {
        let mut looked_at = 0;
        let mut needless = Vec::new();
        let flushed = self.then(Table::Data, after, &self.undo);
        for (key, value) in flushed.take_while(|(key, _)| end.is_none_or(|end| *key < end)).take(most) {
            looked_at += 1;
            if pass.is_shown(key) && value.is_some_and(|value| pass.filter.may_go(key, value)) {
                needless.push(key.clone());
            }
            pass.last = Some(key.clone());
        }
        needless.into_iter().for_each(|key| self.drop_flushed(key));
        looked_at
    }

    /// Drops an entry of the flushed state, and of the present one if it is the same there.
    fn drop_flushed(&mut self, key: Bytes) {
        match self.undo.get_mut(&(Table::Data, key.clone())) {
            Some(flushed) => *flushed = None,
            None => drop(self.replace(Table::Data, key, None)),
        }
    }
}
