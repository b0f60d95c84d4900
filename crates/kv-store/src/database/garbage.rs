//! The database's side of garbage collection: steps that take the writer's lock.

use std::sync::atomic::Ordering;

use kv_api::KvError;

use super::core::{Core, Writer};
use crate::gc::collector::{Collectable, Collected};
use crate::gc::data_compaction::DataCompaction;
use crate::gc::step;

impl Collectable for Core {
    fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError> {
        // A floor from before is as good: it only rises.
        let floor = self.readers.floor(|| self.horizon());
        self.engine.set_filter_floor(self.damage.watch(step::filter_floor(&*self.engine))?);
        let mut writer = self.writer()?;
        let collected = self.damage.watch(self.sweep_with(&mut writer, floor, budget_entries));
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
    /// Nobody else writes while what the sweeper reads becomes what it removes.
    fn sweep_with(&self, writer: &mut Writer, floor: u64, budget_entries: u64) -> Result<Collected, KvError> {
        let Writer { state, batch, sweep, .. } = writer;
        batch.clear();
        let swept = step::sweep(&*self.engine, floor, budget_entries, sweep, batch)?;
        state.sweep(batch, &swept);
        if !batch.is_empty() {
            self.space.write(&*self.engine, batch)?;
            sweep.written(batch);
        }
        self.publish(writer);
        self.swept_versions.fetch_add(swept.removed_versions, Ordering::Relaxed);
        Ok(Collected { removed_versions: swept.removed_versions, more: swept.more })
    }
}
