//! Removes from the data table what deletes and range clears have made needless, in small steps.
//!
//! The notes of the garbage table are worked off in order of version, up to a watermark: no read and no conflict check is at an
//! older version than that. Of one version, range clears come first, because a tombstone of the same commit goes with
//! everything older, also with rows that the clear has yet to count.
//!
//! - [`deleted_keys`]: of a deleted key every version up to the tombstone goes, the tombstone and its note included, in one
//!   batch.
//! - [`cleared_ranges`]: of a cleared range every version older than the clear goes. A write of the clear's own version is that
//!   of the same commit, behind the clear, and stays. The note goes in the batch in which the walk reaches the end, so
//!   that the clear hides what is left until then. A walk that a restart interrupts begins anew.
//!
//! So after every batch each read and each check at or above the watermark finds what it found before. Rows that a clear hides
//! still count as rows until they are swept; each step says how many it removes, and they must be counted down in the
//! same batch.
//!
//! A step decides on what it has read: from its begin until its batch is written, nobody else may write to the engine. A
//! row that was written into a range meanwhile would be removed with it.
//!
//! Whoever keeps the range clears in memory drops a clear only when the batch that ends it is written, and a reader looks
//! at the clears before it makes its cursor: then it knows each clear whose rows it may still find.

mod cleared_ranges;
mod deleted_keys;
mod run;

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::KvError;

use super::entries::{self, GcEntries, RangeClear};
use crate::engine::{BatchEntry, Engine, Table, WriteBatch};
use cleared_ranges::ClearProgress;

/// Entries of one key that are passed one by one before a seek jumps over the rest.
const STEPS_BEFORE_SEEK: usize = 8;

/// From so many adjacent entries on they are removed as a range. RocksDB passes over a few thousand deleted entries about as
/// fast as over a deleted range, and keys beside them are found at once.
pub(crate) const RANGE_DELETE_ENTRIES: u64 = 1_000;

/// Where sweeping has got to. Begins anew with each opening of a database.
#[derive(Debug)]
pub(crate) struct GcProgress {
    /// Version of the oldest note that may be there.
    version: u64,
    /// The version up to which all clears are known to be swept; `None`: not looked up yet.
    collected_up_to: Option<u64>,
    clear: Option<ClearProgress>,
    /// As many batches had been written to the engine when the last one was looked at.
    batches_seen: u64,
    range_delete_entries: u64,
}

impl GcProgress {
    /// So many adjacent entries are removed as a range.
    pub fn new(range_delete_entries: u64) -> Self {
        GcProgress { version: 0, collected_up_to: None, clear: None, batches_seen: 0, range_delete_entries }
    }

    /// `batch` was written to the engine. To be told of every batch from one step to the next, so that a range of which
    /// nothing has changed meanwhile is removed as one; if not, it is removed in more pieces.
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

    /// The clear under way. What it holds back counts on having seen all batches.
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

/// What one step does, once its batch is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepResult {
    /// GcEntries and versions that the step has looked at.
    pub entries_looked_at: u64,
    /// Versions that it removes; of a key with very many, only those that were looked at.
    pub removed_versions: u64,
    /// Rows that a clear has made invisible: they are counted down in the same batch.
    pub rows_cleared: u64,
    /// Clears that are done: version and number.
    pub range_clears_done: Vec<(u64, u32)>,
    /// Whether there is more to do at this watermark.
    pub more: bool,
}

/// The watermark for [`Engine::set_filter_watermark`]: the last watermark of a sweep, but below every range clear that was not swept then,
/// because its sweep counts the newest version of each key that is older than the clear, also where a newer one was
/// written since. As it is persisted: what compactions drop, they drop from the persisted state, and a crash goes back
/// to it.
pub(crate) fn filter_watermark(engine: &dyn Engine) -> Result<u64, KvError> {
    entries::load_persisted_collected_up_to(engine)
}

/// Adds the next deletes to `batch`, looking at `budget_entries` entries, or more where one key has
/// very many. The caller writes the batch
/// before anybody else writes, and before the next step.
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

/// Records that all clears up to `version` are swept.
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
    /// The ranges swept in this step, by their begin; they do not overlap.
    collected_ranges: BTreeMap<Bytes, Bytes>,
}

impl Step<'_, '_> {
    /// Whether the engine still shows, in the range of this clear, what the batch removes for another one: it would be
    /// counted once more.
    fn has_collected_in(&self, clear: &RangeClear) -> bool {
        let last_before_end = self.collected_ranges.range(..clear.end.clone()).next_back();
        last_before_end.is_some_and(|(_, end)| *end > clear.begin)
    }

    fn is_over(&self) -> bool {
        self.result.entries_looked_at >= self.budget_entries
    }
}

#[cfg(test)]
mod tests;
