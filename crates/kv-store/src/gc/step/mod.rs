//! One step of garbage collection: removes from the data table what deletes and range clears have
//! made invisible.
//!
//! A step works through the GC entries in order of version, up to a watermark: no read and no
//! conflict check is at an older version. Of one version, range clears come first. A tombstone of
//! the same commit takes everything older with it, also rows that the clear has yet to count.
//!
//! - [`deleted_keys`]: removes every version of a deleted key up to the tombstone, the tombstone,
//!   and its GC entry, in one batch.
//! - [`cleared_ranges`]: removes every version in a cleared range that is older than the clear. A
//!   write of the clear's own version is one that followed the clear in the same commit, and stays.
//!   The GC entry is removed in the batch in which the walk reaches the end of the range, so that
//!   the clear hides the rest until then. After a restart the walk begins again.
//!
//! So after every batch each read and each check at or above the watermark finds what it found
//! before. Rows that a clear hides count as rows until they are collected: each step reports how
//! many it removes, and the caller subtracts them in the same batch.
//!
//! A step decides on what it has read. From its begin until its batch is written nobody else may
//! write to the engine: a row written into a range meanwhile would be removed with it.
//!
//! The caller drops a range clear from memory only when the batch that ends it is written. A reader
//! takes the clears before it makes its cursor, and so knows every clear whose rows it may still
//! find.

mod cleared_ranges;
mod deleted_keys;
mod run;

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::KvError;

use super::entries::{self, GcEntries, RangeClear};
use crate::engine::{BatchEntry, Engine, Table, WriteBatch};
use cleared_ranges::ClearProgress;

/// Entries of one key that are passed one by one before a seek skips the rest.
const STEPS_BEFORE_SEEK: usize = 8;

/// A run of at least this many adjacent entries is removed as a range. RocksDB skips a few thousand
/// deleted entries about as fast as a deleted range, and finds the keys next to them at once.
pub(crate) const RANGE_DELETE_ENTRIES: u64 = 1_000;

/// How far collection is. Not stored: begins at zero when a database is opened.
#[derive(Debug)]
pub(crate) struct GcProgress {
    /// No GC entry has an older version.
    version: u64,
    /// The version up to which all clears are recorded as collected; `None`: not read yet.
    collected_up_to: Option<u64>,
    /// The clear that the last step has not finished.
    clear: Option<ClearProgress>,
    /// The engine's number of batches at the last step, plus those reported since.
    batches_seen: u64,
    range_delete_entries: u64,
}

impl GcProgress {
    /// Runs of at least `range_delete_entries` are removed as a range.
    pub fn new(range_delete_entries: u64) -> Self {
        GcProgress { version: 0, collected_up_to: None, clear: None, batches_seen: 0, range_delete_entries }
    }

    /// Reports that `batch` was written to the engine. A range can be removed as one only if every
    /// batch between two steps is reported; otherwise it is removed in more pieces.
    pub fn written(&mut self, batch: &WriteBatch) {
        self.batches_seen += 1;
        let Some(clear) = self.clear.as_mut().filter(|clear| clear.is_holding_back()) else { return };
        let is_in_the_way = |entry| match entry {
            BatchEntry::Put { table: Table::Data, key, .. } => clear.has_passed(key),
            _ => false,
        };
        if batch.iter().any(is_in_the_way) {
            clear.walk_again();
        }
    }

    /// The unfinished clear. If a batch was not reported, it holds nothing back.
    fn take_clear(&mut self, engine: &dyn Engine) -> Option<ClearProgress> {
        let mut clear = self.clear.take();
        let written = engine.batches_written();
        if self.batches_seen != written {
            clear.iter_mut().for_each(ClearProgress::walk_again);
            self.batches_seen = written;
        }
        clear
    }
}

/// The effects of a step, once its batch is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepResult {
    /// GC entries and versions that the step has read.
    pub entries_read: u64,
    /// Removed versions. Of a key with very many, only those that were read count.
    pub removed_versions: u64,
    /// Rows that a clear had hidden. The caller subtracts them in the same batch.
    pub rows_cleared: u64,
    /// Version and number of each clear that is finished.
    pub range_clears_done: Vec<(u64, u32)>,
    /// Whether more is to do up to this watermark.
    pub more: bool,
}

/// The version for [`Engine::set_filter_watermark`]: the watermark of the last step, but below
/// every range clear that was not collected then. Collecting a clear counts the newest version of
/// each key that is older than the clear, also where a newer one was written since. Taken from the
/// persisted state: compactions drop versions from there, and a crash returns to it.
pub(crate) fn filter_watermark(engine: &dyn Engine) -> Result<u64, KvError> {
    entries::load_persisted_collected_up_to(engine)
}

/// Adds the next deletes to `batch`. Reads about `budget_entries` entries, or more where one key
/// has very many. The caller must write the batch before anybody else writes, and before the next
/// step.
pub(crate) fn collect(
    engine: &dyn Engine,
    watermark: u64,
    budget_entries: u64,
    progress: &mut GcProgress,
    batch: &mut WriteBatch,
) -> Result<StepResult, KvError> {
    let mut tombstones = GcEntries::key_tombstones(engine, progress.version)?;
    let mut clears = GcEntries::range_clears(engine, progress.version)?;
    let mut clear_begun = progress.take_clear(engine);
    let mut step = Step {
        engine,
        watermark,
        budget_entries,
        range_delete_entries: progress.range_delete_entries,
        batch,
        result: StepResult::default(),
        collected_ranges: BTreeMap::new(),
    };
    loop {
        let next_clear = clears.range_clear()?.filter(|clear| clear.version <= watermark);
        let Some(version) =
            tombstones.version()?.into_iter().chain(next_clear.as_ref().map(|clear| clear.version)).min()
        else {
            break;
        };
        if version > watermark {
            break;
        }
        if step.is_over() || next_clear.as_ref().is_some_and(|clear| step.has_collected_in(clear)) {
            step.result.more = true;
            break;
        }
        progress.version = version;
        match next_clear {
            Some(clear) if clear.version == version => {
                progress.clear = step.collect_range(&clear, clear_begun.take())?;
                if progress.clear.is_none() {
                    clears.next()?;
                }
            }
            next_clear => {
                let end = next_clear.map_or(watermark.saturating_add(1), |clear| clear.version);
                progress.version = step.collect_deleted_keys(&mut tombstones, end)?;
            }
        }
    }
    let Step { result, batch, .. } = step;
    let cleared = clears.version()?.filter(|version| *version <= watermark).map_or(watermark, |left| left - 1);
    record_collected(engine, cleared, progress, batch)?;
    Ok(result)
}

/// Records that all clears up to `version` are collected.
fn record_collected(
    engine: &dyn Engine,
    version: u64,
    progress: &mut GcProgress,
    batch: &mut WriteBatch,
) -> Result<(), KvError> {
    let known = match progress.collected_up_to {
        Some(known) => known,
        None => entries::load_collected_up_to(engine)?,
    };
    progress.collected_up_to = Some(known.max(version));
    if version > known {
        entries::put_collected_up_to(batch, version);
    }
    Ok(())
}

struct Step<'a, 'e> {
    engine: &'e dyn Engine,
    watermark: u64,
    budget_entries: u64,
    range_delete_entries: u64,
    batch: &'a mut WriteBatch,
    result: StepResult,
    /// The ranges that this step has begun to collect, by begin. They do not overlap.
    collected_ranges: BTreeMap<Bytes, Bytes>,
}

impl Step<'_, '_> {
    /// Whether the engine still shows entries in the range of this clear that the batch removes for
    /// another one: they would be counted twice.
    fn has_collected_in(&self, clear: &RangeClear) -> bool {
        let last_before_end = self.collected_ranges.range(..clear.end.clone()).next_back();
        last_before_end.is_some_and(|(_, end)| *end > clear.begin)
    }

    fn is_over(&self) -> bool {
        self.result.entries_read >= self.budget_entries
    }
}

#[cfg(test)]
mod tests;
