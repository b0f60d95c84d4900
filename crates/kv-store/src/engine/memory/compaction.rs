//! What RocksDB's compactions do to the data table, for the memory engine: a pass over the table, a part of it at each
//! flush, drops superseded values.

use std::ops::Bound;

use bytes::Bytes;

use super::State;
use crate::{engine::Table, superseded::Superseded};

/// Entries that a flush looks at.
const SLICE_ENTRIES: usize = 1_000;

#[derive(Default)]
pub(super) struct Compaction {
    floor: u64,
    /// The pass under way.
    pass: Option<Pass>,
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
    /// The next part of the pass under way, or of the next one. Everything is flushed.
    pub(super) fn compact_slice(&mut self) {
        let floor = self.compaction.floor;
        let begin = || Pass { filter: Superseded::new(floor), last: None };
        let mut pass = self.compaction.pass.take().unwrap_or_else(begin);
        let after = pass.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at = self.filter((after, Bound::Unbounded), SLICE_ENTRIES, &mut pass);
        self.compaction.pass = (looked_at == SLICE_ENTRIES).then_some(pass);
    }

    /// All entries `begin <= key < end`. Everything is flushed.
    pub(super) fn compact_range(&mut self, begin: &[u8], end: &[u8]) {
        if begin < end {
            let owned = Bytes::copy_from_slice;
            let bounds = (Bound::Included(owned(begin)), Bound::Excluded(owned(end)));
            let mut pass = Pass { filter: Superseded::new(self.compaction.floor), last: None };
            self.filter(bounds, usize::MAX, &mut pass);
        }
    }

    /// Returns how many entries it has looked at.
    fn filter(&mut self, bounds: (Bound<Bytes>, Bound<Bytes>), most: usize, pass: &mut Pass) -> usize {
        assert!(self.undo.is_empty(), "only what is flushed is compacted, and {} keys are not", self.undo.len());
        let mut looked_at = 0;
        let mut needless = Vec::new();
        for (key, value) in self.tables.data.range(bounds).take(most) {
            looked_at += 1;
            if pass.filter.may_go(key, value) {
                needless.push(key.clone());
            }
            pass.last = Some(key.clone());
        }
        for key in needless {
            self.replace(Table::Data, key, None);
        }
        looked_at
    }
}
