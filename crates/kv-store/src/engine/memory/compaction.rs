//! What RocksDB's compactions do to the data table, for the memory engine: passes over the flushed state of the table, a part
//! at each flush and at some of the writes between, drop superseded values.

use std::ops::Bound;

use bytes::Bytes;

use super::State;
use crate::{engine::Table, superseded::Superseded};

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
}

/// A pass keeps its floor and its filter to its end, so that a key of more versions than a slice holds is passed, too. What
/// makes a later entry needless was seen in the flushed state and is still there: whoever removes it by other means
/// has removed all older ones of the key before.
struct Pass {
    filter: Superseded,
    /// The key looked at last.
    last: Option<Bytes>,
}

impl Compaction {
    pub fn raise_floor(&mut self, version: u64) {
        self.floor = self.floor.max(version);
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
        let floor = self.compaction.floor;
        if floor == 0 {
            return;
        }
        let begin = || Pass { filter: Superseded::new(floor), last: None };
        let mut pass = self.compaction.pass.take().unwrap_or_else(begin);
        let after = pass.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at = self.filter(after, None, SLICE_ENTRIES, &mut pass);
        self.compaction.pass = (looked_at == SLICE_ENTRIES).then_some(pass);
    }

    /// All entries `begin <= key < end`.
    pub(super) fn compact_range(&mut self, begin: &[u8], end: &[u8]) {
        let mut pass = Pass { filter: Superseded::new(self.compaction.floor), last: None };
        self.filter(Bound::Included(Bytes::copy_from_slice(begin)), Some(end), usize::MAX, &mut pass);
    }

    /// Returns how many entries it has looked at.
    fn filter(&mut self, after: Bound<Bytes>, end: Option<&[u8]>, most: usize, pass: &mut Pass) -> usize {
        let mut looked_at = 0;
        let mut needless = Vec::new();
        let flushed = self.then(Table::Data, after, &self.undo);
        for (key, value) in flushed.take_while(|(key, _)| end.is_none_or(|end| *key < end)).take(most) {
            looked_at += 1;
            if value.is_some_and(|value| pass.filter.may_go(key, value)) {
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
