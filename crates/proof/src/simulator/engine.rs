//! The engine under a node's database: the shipped one in memory, which now and then also writes
//! out what it holds without being asked, as an engine does whose write buffers are full. So a
//! crash may come after any write, and every single one must leave a database that is sound.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kv_api::KvError;
use kv_store::engine::{Cursor, EngineCopy, EngineStatistics, Table, WriteBatch};
use kv_store::{Durability, Engine, MemoryEngine};

use super::random::Random;

pub struct FlushingEngine {
    inner: Arc<MemoryEngine>,
    /// Flushes once in this many writes; 0: never.
    flushing: Mutex<(Random, u64)>,
}

impl FlushingEngine {
    pub fn new(inner: MemoryEngine) -> FlushingEngine {
        inner.show_parts_to_compactions();
        FlushingEngine { inner: Arc::new(inner), flushing: Mutex::new((Random::new(0), 0)) }
    }

    /// From now on, with chance from `random`.
    pub fn flush_once_in(&self, writes: u64, random: Random) {
        *self.flushing.lock().expect("one thread runs a simulation") = (random, writes);
    }

    pub fn crash(&self) {
        self.inner.crash();
    }
}

impl Engine for FlushingEngine {
    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.get(table, key)
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.inner.write(batch)?;
        let (random, writes) = &mut *self.flushing.lock().expect("one thread runs a simulation");
        if random.one_in(*writes) {
            self.inner.flush()?;
        }
        Ok(())
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError> {
        self.inner.cursor(table, lower, upper)
    }

    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError> {
        self.inner.key_cursor()
    }

    fn flush(&self) -> Result<(), KvError> {
        self.inner.flush()
    }

    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.inner.persisted_get(table, key)
    }

    fn statistics(&self) -> EngineStatistics {
        self.inner.statistics()
    }

    fn batches_written(&self) -> u64 {
        self.inner.batches_written()
    }

    fn set_filter_watermark(&self, version: u64) {
        self.inner.set_filter_watermark(version);
    }

    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError> {
        self.inner.compact_data(begin, end)
    }

    fn data_splits(&self, slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError> {
        self.inner.data_splits(slice_bytes)
    }

    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError> {
        self.inner.copy()
    }

    fn remove_when_closed(&self) {
        self.inner.remove_when_closed();
    }
}
