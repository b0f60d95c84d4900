//! Decides when to compact the data table although nothing in the engine asks for it.
//!
//! While rows are overwritten, the engine's own compactions meet old and new versions and drop the
//! old ones. Some old versions remain: those overwritten shortly before the writing ends, and those
//! that were compacted while readers could still see them. Nothing rewrites their files. So once
//! far more versions than rows exist, and have had time to become garbage, the whole table is
//! rewritten once, slice by slice.

use kv_api::KvError;

use crate::engine::Engine;
use crate::key_codec;

/// Up to this many versions beyond the rows never justify rewriting the table.
const SPARE_VERSIONS: u64 = 1_000_000;

/// Approximate bytes of files that one step rewrites: about a second of work, for which a shutdown
/// may have to wait.
const SLICE_BYTES: u64 = 64 << 20;

/// Rewrites the data table from time to time.
#[derive(Debug, Default)]
pub(crate) struct DataCompaction {
    /// The ends of the remaining slices of the current pass; the next slice's is last.
    ends: Vec<Vec<u8>>,
    /// Where the next slice begins.
    begin: Vec<u8>,
    /// Versions that the last pass could not drop. They count like rows.
    left: u64,
}

impl DataCompaction {
    /// Whether a pass has begun or should begin: at least half of the versions are neither rows nor
    /// left over from the last pass.
    pub fn is_due(&self, versions: u64, rows: u64) -> bool {
        let needed = rows.max(self.left).saturating_add(SPARE_VERSIONS / 2);
        !self.ends.is_empty() || versions / 2 > needed
    }

    /// Compacts one slice, if that is due; returns whether more is to do. May take about a second,
    /// during which writes continue.
    pub fn step(&mut self, engine: &dyn Engine, rows: u64) -> Result<bool, KvError> {
        let Some(versions) = engine.statistics().data_entries else { return Ok(false) };
        if !self.is_due(versions, rows) {
            return Ok(false);
        }
        if self.ends.is_empty() {
            self.begin_pass(engine, SLICE_BYTES)?;
        }
        let end = self.ends.pop().expect("there is a slice");
        engine.compact_data(&self.begin, &end)?;
        self.begin = end;
        if self.ends.is_empty() {
            self.left = engine.statistics().data_entries.unwrap_or(0);
        }
        Ok(!self.ends.is_empty())
    }

    fn begin_pass(&mut self, engine: &dyn Engine, slice_bytes: u64) -> Result<(), KvError> {
        self.ends = engine.data_splits(slice_bytes)?;
        self.ends.push(key_codec::END.to_vec());
        self.ends.sort_by(|left, right| right.cmp(left));
        self.begin.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, Table, WriteBatch, testing};

    #[test]
    fn a_pass_is_due_when_half_of_many_versions_are_neither_rows_nor_left_over() {
        let compaction = DataCompaction::default();
        let due = |versions, rows| compaction.is_due(versions, rows);
        assert!(!due(0, 0) && !due(SPARE_VERSIONS, 0) && due(SPARE_VERSIONS + 2, 0));
        assert!(!due(11_000_000, 5_000_000) && due(11_000_002, 5_000_000));
        let compaction = DataCompaction { left: 20_000_000, ..DataCompaction::default() };
        assert!(!compaction.is_due(41_000_000, 5_000_000) && compaction.is_due(41_000_002, 5_000_000));
        let under_way = DataCompaction { ends: vec![vec![1]], ..DataCompaction::default() };
        assert!(under_way.is_due(0, 0));
    }

    #[test]
    fn a_pass_drops_what_is_superseded_everywhere() {
        for place in testing::all(Durability::UntilFlush) {
            let engine = place.engine();
            let mut encoded = Vec::new();
            for version in 1..=3 {
                let mut batch = WriteBatch::new();
                for key in ["first", "last"] {
                    for family in ["", &"x".repeat(255)] {
                        key_codec::set_versioned(&mut encoded, &key_codec::prefix(family, key.as_bytes()), version);
                        batch.put(Table::Data, &encoded, &[0, 1]);
                    }
                }
                engine.write(&batch).unwrap();
                engine.flush().unwrap();
            }
            engine.set_filter_watermark(2);
            let mut compaction = DataCompaction::default();
            compaction.begin_pass(&*engine, 1).unwrap();
            while compaction.step(&*engine, 0).unwrap() {}
            assert_eq!((compaction.left, engine.statistics().data_entries), (8, Some(8)));
        }
    }
}
