//! An engine in memory, for simulation and tests, that can simulate crashes.
//!
//! Invariants:
//! - under [`Durability::UntilFlush`], `undo` holds for each key changed since the last flush its
//!   value at that flush, so that undoing all changes restores the flushed state;
//! - in the same way each entry of `copies` holds the values that keys had when that copy began, so
//!   that a copy reads one moment in small steps while writes continue;
//! - like RocksDB's compactions, [`compaction`] now and then drops superseded values of the flushed
//!   state, whatever was written since. They are gone from there, and from the current state unless
//!   they were changed.

mod compaction;
mod copy;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use kv_api::KvError;

use super::{BatchEntry, Cursor, Durability, Engine, EngineCopy, EngineStatistics, Table, WriteBatch};
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use compaction::Compaction;
use copy::MemoryCopy;

pub use copy::MemoryInstall;

/// A table.
pub(super) type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Default)]
pub(super) struct Tables {
    pub data: Rows,
    pub meta: Rows,
    pub garbage: Rows,
}

impl Tables {
    fn of(&self, table: Table) -> &Rows {
        match table {
            Table::Data => &self.data,
            Table::Meta => &self.meta,
            Table::Garbage => &self.garbage,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut Rows {
        match table {
            Table::Data => &mut self.data,
            Table::Meta => &mut self.meta,
            Table::Garbage => &mut self.garbage,
        }
    }
}

/// The values that keys had before they were changed; `None`: no value.
type Before = BTreeMap<(Table, Bytes), Option<Bytes>>;

/// A storage engine of ordered maps behind one lock.
pub struct MemoryEngine {
    durability: Durability,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    undo: Before,
    /// The changes since the begin of each running copy, by its number.
    copies: BTreeMap<u64, Before>,
    copies_begun: u64,
    compaction: Compaction,
    batches_written: u64,
    size_bytes: u64,
    unflushed_bytes: u64,
}

impl State {
    /// Sets or removes an entry, and returns the value before. Running copies keep that value.
    fn replace(&mut self, table: Table, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        let rows = self.tables.of_mut(table);
        let entry_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| (key.len() + value.len()) as u64);
        let added = entry_bytes(&value);
        let old = match value {
            Some(value) => rows.insert(key.clone(), value),
            None => rows.remove(&key),
        };
        self.size_bytes = self.size_bytes + added - entry_bytes(&old);
        for copy in self.copies.values_mut() {
            copy.entry((table, key.clone())).or_insert_with(|| old.clone());
        }
        old
    }

    /// Sets or removes an entry such that a crash undoes it where it should.
    fn change(&mut self, durability: Durability, table: Table, key: Bytes, value: Option<Bytes>) {
        let before = self.replace(table, key.clone(), value);
        if durability == Durability::UntilFlush {
            self.undo.entry((table, key)).or_insert(before);
        }
    }

    /// The keys `begin <= key < end`.
    fn keys(&self, table: Table, begin: &[u8], end: &[u8]) -> Vec<Bytes> {
        let bounds = (Bound::Included(begin), Bound::Excluded(end));
        self.tables.of(table).range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect()
    }

    /// Keys of a table after `after` that exist now or existed at an earlier moment, with their
    /// value then. `before` holds the changes since that moment.
    fn then<'s>(
        &'s self,
        table: Table,
        after: Bound<Bytes>,
        before: &'s Before,
    ) -> impl Iterator<Item = (&'s Bytes, Option<&'s Bytes>)> {
        let today = self.tables.of(table).range((after.clone(), Bound::Unbounded));
        let mut today = today.map(|(key, value)| (key, Some(value))).peekable();
        let from = match after {
            Bound::Unbounded => Bound::Included((table, Bytes::new())),
            after => after.map(|key| (table, key)),
        };
        let changed = before.range((from, Bound::Unbounded)).take_while(move |((of, _), _)| *of == table);
        let mut changed = changed.map(|((_, key), value)| (key, value.as_ref())).peekable();
        std::iter::from_fn(move || match (today.peek(), changed.peek()) {
            (Some((now, _)), Some((then, _))) => match now.cmp(then) {
                Ordering::Less => today.next(),
                // The earlier value of a key that was changed since counts.
                Ordering::Equal => today.next().and(changed.next()),
                // Only `before` has a key that was removed since.
                Ordering::Greater => changed.next(),
            },
            (None, Some(_)) => changed.next(),
            (_, None) => today.next(),
        })
    }

    fn keep_all(&mut self) {
        self.undo.clear();
        self.unflushed_bytes = 0;
    }
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new(durability: Durability) -> Self {
        MemoryEngine { durability, state: RwLock::default() }
    }

    /// An engine with these entries, flushed.
    pub(super) fn holding(durability: Durability, tables: Tables) -> Self {
        let entries = Table::ALL.iter().flat_map(|table| tables.of(*table));
        let size_bytes = entries.map(|(key, value)| (key.len() + value.len()) as u64).sum();
        MemoryEngine { durability, state: RwLock::new(State { tables, size_bytes, ..State::default() }) }
    }

    /// Makes every second compaction pass leave out some of the entries from now on.
    pub fn show_parts_to_compactions(&self) {
        self.write_lock().compaction.shows_parts = true;
    }

    /// Loses what a crash would lose: under [`Durability::UntilFlush`] everything since the last
    /// flush.
    ///
    /// Call it when no database is open on this engine; then open one again.
    pub fn crash(&self) {
        let mut state = self.write_lock();
        for ((table, key), before) in std::mem::take(&mut state.undo) {
            state.replace(table, key, before);
        }
        state.unflushed_bytes = 0;
        state.compaction = state.compaction.reopened();
    }

    /// A panic within the few locked lines would be a defect that leaves the data untrustworthy.
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
        Ok(self.read_lock().tables.of(table).get(key).cloned())
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut state = self.write_lock();
        state.batches_written += 1;
        for entry in batch.iter() {
            let owned = Bytes::copy_from_slice;
            match entry {
                BatchEntry::Put { table, key, value } => {
                    state.change(self.durability, table, owned(key), Some(owned(value)));
                }
                BatchEntry::Delete { table, key } => state.change(self.durability, table, owned(key), None),
                BatchEntry::DeleteRange { table, begin, end } => {
                    for key in state.keys(table, begin, end) {
                        state.change(self.durability, table, key, None);
                    }
                }
            }
        }
        if self.durability == Durability::UntilFlush {
            state.unflushed_bytes += batch.size_bytes() as u64;
        }
        state.compact_now_and_then();
        Ok(())
    }

    fn batches_written(&self) -> u64 {
        self.read_lock().batches_written
    }

    fn cursor(&self, table: Table, lower: &[u8], upper: &[u8]) -> Result<Box<dyn Cursor + '_>, KvError> {
        Ok(Box::new(MemoryCursor::new(self, table, lower.into(), Some(upper.into()))))
    }

    fn key_cursor(&self) -> Result<Box<dyn Cursor + '_>, KvError> {
        let everything = MemoryCursor::new(self, Table::Data, vec![], None);
        Ok(Box::new(everything))
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut state = self.write_lock();
        state.keep_all();
        state.compact_slice();
        Ok(())
    }

    fn persisted_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let state = self.read_lock();
        match state.undo.get(&(table, Bytes::copy_from_slice(key))) {
            Some(before) => Ok(before.clone()),
            None => Ok(state.tables.of(table).get(key).cloned()),
        }
    }

    fn set_filter_watermark(&self, version: u64) {
        self.write_lock().compaction.raise_watermark(version);
    }

    /// Flushes first, as RocksDB does.
    fn compact_data(&self, begin: &[u8], end: &[u8]) -> Result<(), KvError> {
        let mut state = self.write_lock();
        state.keep_all();
        state.compact_range(begin, end);
        Ok(())
    }

    /// The engine has no files.
    fn data_splits(&self, _slice_bytes: u64) -> Result<Vec<Vec<u8>>, KvError> {
        Ok(Vec::new())
    }

    fn copy(&self) -> Result<Box<dyn EngineCopy>, KvError> {
        Ok(Box::new(MemoryCopy::take(self)?))
    }

    /// The engine has no files.
    fn remove_when_closed(&self) {}

    fn statistics(&self) -> EngineStatistics {
        let state = self.read_lock();
        EngineStatistics {
            size_bytes: state.size_bytes,
            data_entries: Some(state.tables.data.len() as u64),
            unflushed_bytes: state.unflushed_bytes,
            compaction_pending_bytes: None,
            cache_hit_rate_percent: None,
        }
    }
}

/// A moment of the engine that stays readable while writes continue. Dropping it releases what is
/// kept for it.
pub(super) struct ActiveCopy<'e> {
    engine: &'e MemoryEngine,
    number: u64,
}

/// The entries that one step of reading a moment has found.
pub(super) struct Chunk {
    pub entries: Vec<(Bytes, Bytes)>,
    /// The key after which the next step continues; `None` at the end of the table.
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

    /// The entries that the table had at that moment after the key `after`, visiting at most `most`
    /// keys.
    pub fn entries(&self, table: Table, after: Bound<Bytes>, most: usize) -> Chunk {
        let state = self.engine.read_lock();
        let mut chunk = Chunk { entries: Vec::new(), last: None };
        for (key, value) in state.then(table, after, &state.copies[&self.number]).take(most) {
            chunk.entries.extend(value.map(|value| (key.clone(), value.clone())));
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

/// Upper limit for the entries that a cursor reads ahead.
const MAX_AHEAD: usize = 16;

/// Holds copies of entries instead of the lock, so that a long scan never blocks a write. The longer
/// it moves forward, the more entries it reads ahead; whatever it has not read yet, it reads from
/// the map as it is then.
struct MemoryCursor<'e> {
    engine: &'e MemoryEngine,
    table: Table,
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
    entry: Option<(Bytes, Bytes)>,
    /// The entries after it that were read already.
    ahead: VecDeque<(Bytes, Bytes)>,
    /// How many to read at once when that is empty.
    reads: usize,
}

impl<'e> MemoryCursor<'e> {
    fn new(engine: &'e MemoryEngine, table: Table, lower: Vec<u8>, upper: Option<Vec<u8>>) -> MemoryCursor<'e> {
        MemoryCursor { engine, table, lower, upper, entry: None, ahead: VecDeque::new(), reads: 1 }
    }

    /// Goes to another place.
    fn leave(&mut self) {
        self.ahead.clear();
        self.reads = 1;
    }

    fn first_from(&mut self, from: Bound<&[u8]>) {
        let state = self.engine.read_lock();
        let found = state.tables.of(self.table).range::<[u8], _>((from, Bound::Unbounded));
        let is_within = |key: &Bytes| self.upper.as_ref().is_none_or(|upper| key.as_ref() < upper.as_slice());
        let mut read = found.take_while(|(key, _)| is_within(key)).map(|(key, value)| (key.clone(), value.clone()));
        self.entry = read.next();
        self.ahead.extend(read.take(self.reads - 1));
        self.reads = (self.reads * 2).min(MAX_AHEAD);
    }

    fn last_before(&mut self, target: &[u8]) {
        let state = self.engine.read_lock();
        let bounds = (Bound::Unbounded, Bound::Excluded(target));
        let found = state.tables.of(self.table).range::<[u8], _>(bounds).next_back();
        self.entry = found
            .filter(|(key, _)| key.as_ref() >= self.lower.as_slice())
            .map(|(key, value)| (key.clone(), value.clone()));
    }
}

impl Cursor for MemoryCursor<'_> {
    fn seek(&mut self, target: &[u8]) -> Result<(), KvError> {
        self.leave();
        let from = target.max(&self.lower).to_vec();
        self.first_from(Bound::Included(&from));
        Ok(())
    }

    fn seek_before(&mut self, target: &[u8]) -> Result<(), KvError> {
        self.leave();
        let before = match &self.upper {
            Some(upper) => target.min(upper).to_vec(),
            None => target.to_vec(),
        };
        self.last_before(&before);
        Ok(())
    }

    fn next(&mut self) -> Result<(), KvError> {
        let (key, _) = self.entry.take().expect("a cursor moves on only from an entry");
        self.entry = self.ahead.pop_front();
        if self.entry.is_some() {
            return Ok(());
        }
        self.first_from(Bound::Excluded(&key));
        Ok(())
    }

    fn prev(&mut self) -> Result<(), KvError> {
        let (key, _) = self.entry.take().expect("a cursor moves back only from an entry");
        self.leave();
        self.last_before(&key);
        Ok(())
    }

    fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.entry.as_ref().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}
