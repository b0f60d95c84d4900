//! Drops superseded values while RocksDB compacts the data table.
//!
//! Compactions see files only, so a value that they drop is superseded in the persisted state.
//! Under [`crate::Durability::UntilFlush`] the watermark must be one that holds there: see
//! [`crate::Engine::set_filter_watermark`].

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::engine::superseded::Superseded;

/// The watermark of [`Superseded`]; 0: nothing may be dropped. Clones share it.
#[derive(Clone, Default)]
pub(super) struct FilterWatermark(Arc<AtomicU64>);

impl FilterWatermark {
    pub fn raise(&self, version: u64) {
        self.0.fetch_max(version, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct SupersededFactory {
    watermark: FilterWatermark,
}

impl SupersededFactory {
    pub fn new(watermark: FilterWatermark) -> Self {
        SupersededFactory { watermark }
    }
}

const NAME: &CStr = c"synodkv.superseded.1";

impl CompactionFilterFactory for SupersededFactory {
    type Filter = SupersededFilter;

    /// A filter for one compaction, or a part of one. It keeps the watermark of its beginning.
    fn create(&mut self, _context: CompactionFilterContext) -> SupersededFilter {
        SupersededFilter(Superseded::new(self.watermark.get()))
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

pub(super) struct SupersededFilter(Superseded);

impl CompactionFilter for SupersededFilter {
    fn filter(&mut self, _level: u32, key: &[u8], stored: &[u8]) -> CompactionDecision {
        match self.0.may_drop(key, stored) {
            true => CompactionDecision::Remove,
            false => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
