//! An engine in memory, for simulation and tests, whose crashes can be played.
//!
//! Invariants:
//! - under [`Durability::UntilFlush`] `undo` holds, for each key written since the last flush, what the key was at that
//!   flush; so undoing it all gives exactly the flushed state;
//! - in the same way each entry of `copies` holds what keys were at the moment when that copy was begun, so that a copy
//!   reads one moment in small steps while writes go on.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use kv_api::KvError;

use super::{Cursor, Durability, Engine, EngineCopy, EngineStatistics, Table, WriteBatch, memory_copy::MemoryCopy};

/// A table.
pub(super) type Rows = BTreeMap<Bytes, Bytes>;

/// What keys were before they were written; `None`: they were not.
type Before = HashMap<(Table, Bytes), Option<Bytes>>;

/// Ordered maps behind one lock.
pub struct MemoryEngine {
    durability: Durability,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    data: Rows,
    meta: Rows,
    undo: Before,
    /// Of each copy under way, by its number.
    copies: BTreeMap<u64, Before>,
    copies_begun: u64,
    size_bytes: u64,
    unflushed_bytes: u64,
}

impl State {
    fn table(&self, table: Table) -> &Rows {
        match table {
            Table::Data => &self.data,
            Table::Meta => &self.meta,
        }
    }

    /// Sets or removes an entry and returns what was there.
    fn replace(&mut self, table: Table, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        let map = match table {
            Table::Data => &mut self.data,
            Table::Meta => &mut self.meta,
        };
        let key_bytes = key.len() as u64;
        let entry_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, |v| key_bytes + v.len() as u64);
        let added = entry_bytes(&value);
        let old = match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
        self.size_bytes = self.size_bytes + added - entry_bytes(&old);
        old
    }
}

impl MemoryEngine {
    pub fn new(durability: Durability) -> Self {
        MemoryEngine { durability, state: RwLock::default() }
    }

    /// An engine that holds these entries, flushed.
    pub(super) fn holding(durability: Durability, data: Rows, meta: Rows) -> Self {
        let entries = data.iter().chain(&meta);
        let size_bytes = entries.map(|(key, value)| (key.len() + value.len()) as u64).sum();
        MemoryEngine { durability, state: RwLock::new(State { data, meta, size_bytes, ..State::default() }) }
    }

    /// Loses what a crash would lose: under [`Durability::UntilFlush`] everything since the last flush.
    ///
    /// Call it when no database is open on this engine, then open one again.
    pub fn crash(&self) {
        let mut state = self.write_lock();
        for ((table, key), before) in std::mem::take(&mut state.undo) {
            state.replace(table, key, before);
        }
        state.unflushed_bytes = 0;
    }

    /// A panic inside one of the few locked lines below would be a defect; the data is then not to be trusted.
    fn read_lock(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no thread panics while it holds the memory engine")
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no thread panics while it holds the memory engine")
    }
}

impl Engine for MemoryEngine {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.read_lock().table(table).get(key).cloned())
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut state = self.write_lock();
        for put in batch.iter() {
            let key = Bytes::copy_from_slice(put.key);
            let before = state.replace(put.table, key.clone(), Some(Bytes::copy_from_slice(put.value)));
            for copy in state.copies.values_mut() {
                copy.entry((put.table, key.clone())).or_insert_with(|| before.clone());
            }
            if self.durability == Durability::UntilFlush {
                state.undo.entry((put.table, key)).or_insert(before);
            }
        }
        if self.durability == Durability::UntilFlush {
            state.unflushed_bytes += batch.size_bytes() as u64;
        }
        Ok(())
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError> {
        Ok(Box::new(MemoryCursor { engine: self, table, lower: lower.into(), upper: Some(upper.into()), entry: None }))
    }

    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError> {
        let everything = MemoryCursor { engine: self, table: Table::Data, lower: vec![], upper: None, entry: None };
        Ok(Box::new(everything))
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut state = self.write_lock();
        state.undo.clear();
        state.unflushed_bytes = 0;
        Ok(())
    }

    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let state = self.read_lock();
        match state.undo.get(&(table, Bytes::copy_from_slice(key))) {
            Some(before) => Ok(before.clone()),
            None => Ok(state.table(table).get(key).cloned()),
        }
    }

    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError> {
        Ok(Box::new(MemoryCopy::take(self)?))
    }

    /// There are no files.
    fn remove_when_closed(&self) {}

    fn statistics(&self) -> EngineStatistics {
        let state = self.read_lock();
        EngineStatistics {
            size_bytes: state.size_bytes,
            unflushed_bytes: state.unflushed_bytes,
            compaction_pending_bytes: None,
            cache_hit_rate_percent: None,
        }
    }
}

/// A moment of the engine that can still be read while writes go on. Dropping it lets go of it.
pub(super) struct ActiveCopy<'e> {
    engine: &'e MemoryEngine,
    number: u64,
}

/// A step of reading a moment.
pub(super) struct Chunk {
    pub entries: Vec<(Bytes, Bytes)>,
    /// Where to go on; `None` at the end of the table.
    pub last: Option<Bytes>,
}

impl<'e> ActiveCopy<'e> {
    pub fn begin(engine: &'e MemoryEngine) -> Self {
        let mut state = engine.write_lock();
        let number = state.copies_begun;
        state.copies_begun += 1;
        state.copies.insert(number, Before::new());
        ActiveCopy { engine, number }
    }

    /// What the table held at that moment behind `after`, looking at no more than `most` entries of today. Keys are
    /// never removed from an engine, so that every key of then is there.
    pub fn entries(&self, table: Table, after: Bound<&[u8]>, most: usize) -> Chunk {
        let state = self.engine.read_lock();
        let before = &state.copies[&self.number];
        let mut chunk = Chunk { entries: Vec::new(), last: None };
        for (key, value) in state.table(table).range::<[u8], _>((after, Bound::Unbounded)).take(most) {
            let then = match before.get(&(table, key.clone())) {
                Some(then) => then.clone(),
                None => Some(value.clone()),
            };
            chunk.entries.extend(then.map(|then| (key.clone(), then)));
            chunk.last = Some(key.clone());
        }
        chunk
    }
}

impl Drop for ActiveCopy<'_> {
    fn drop(&mut self) {
        self.engine.write_lock().copies.remove(&self.number);
    }
}

/// Holds a copy of its entry instead of the lock, so that a long scan never blocks a write. Each step sees the map as it
/// then is.
struct MemoryCursor<'e> {
    engine: &'e MemoryEngine,
    table: Table,
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
    entry: Option<(Bytes, Bytes)>,
}

impl MemoryCursor<'_> {
    fn first_from(&mut self, from: Bound<&[u8]>) {
        let state = self.engine.read_lock();
        let found = state.table(self.table).range::<[u8], _>((from, Bound::Unbounded)).next();
        self.entry = found
            .filter(|(key, _)| self.upper.as_ref().is_none_or(|upper| key.as_ref() < upper.as_slice()))
            .map(|(key, value)| (key.clone(), value.clone()));
    }

    fn last_before(&mut self, target: &[u8]) {
        let state = self.engine.read_lock();
        let bounds = (Bound::Unbounded, Bound::Excluded(target));
        let found = state.table(self.table).range::<[u8], _>(bounds).next_back();
        self.entry = found
            .filter(|(key, _)| key.as_ref() >= self.lower.as_slice())
            .map(|(key, value)| (key.clone(), value.clone()));
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, target: &[u8]) -> Result<(), KvError> {
        let from = target.max(&self.lower).to_vec();
        self.first_from(Bound::Included(&from));
        Ok(())
    }

    fn seek_before(&mut self, target: &[u8]) -> Result<(), KvError> {
        let before = match &self.upper {
            Some(upper) => target.min(upper).to_vec(),
            None => target.to_vec(),
        };
        self.last_before(&before);
        Ok(())
    }

    fn next(&mut self) -> Result<(), KvError> {
        let (key, _) = self.entry.take().expect("a cursor moves on only from an entry");
        self.first_from(Bound::Excluded(&key));
        Ok(())
    }

    fn prev(&mut self) -> Result<(), KvError> {
        let (key, _) = self.entry.take().expect("a cursor moves back only from an entry");
        self.last_before(&key);
        Ok(())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.entry.as_ref().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}
