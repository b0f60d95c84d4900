//! Garbage collection as seen from the database: each step takes the writer's lock.

use std::sync::atomic::Ordering;

use kv_api::KvError;

use super::core::{Core, Writer};
use crate::gc::collector::{Collectable, Collected};
use crate::gc::data_compaction::DataCompaction;
use crate::gc::step;

impl Collectable for Core {
    fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError> {
        // Taking the watermark before the lock is safe: it only rises.
        let watermark = self.readers.gc_watermark(|| self.oldest_readable());
        self.engine.set_filter_watermark(self.damage.watch(step::filter_watermark(&*self.engine))?);
        let mut writer = self.writer()?;
        let collected = self.damage.watch(self.collect_with(&mut writer, watermark, budget_entries));
        collected.inspect_err(|error| self.stop_after(error))
    }

    fn compact(&self, compaction: &mut DataCompaction) -> Result<bool, KvError> {
        self.damage.watch(compaction.step(&*self.engine, self.rows.load(Ordering::Relaxed)))
    }

    fn has_stopped(&self) -> bool {
        self.write_failure().is_some() || self.damage.found().is_some()
    }
}

impl Core {
    /// The writer's lock keeps others from writing between reading the garbage and removing it.
    fn collect_with(&self, writer: &mut Writer, watermark: u64, budget_entries: u64) -> Result<Collected, KvError> {
        let Writer { state, batch, gc, .. } = writer;
        batch.clear();
        let result = step::collect(&*self.engine, watermark, budget_entries, gc, batch)?;
        state.record_collection(batch, &result);
        if !batch.is_empty() {
            self.space.write(&*self.engine, batch)?;
            gc.written(batch);
        }
        self.publish(writer);
        self.collected_versions.fetch_add(result.removed_versions, Ordering::Relaxed);
        Ok(Collected { removed_versions: result.removed_versions, more: result.more })
    }
}
