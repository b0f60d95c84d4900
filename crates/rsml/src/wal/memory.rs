//! [`InMemoryStorage`]: a log with the exact semantics of one on disk, but in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::{Change, WriteRecord, group_bytes};
use super::index::Bounds;
use crate::{HardState, Persist, Recovered, Sequence, Storage, StorageError, StorageStatistics};

/// A log in memory, for tests, and for replicas that keep nothing. Clones share the log, so a test
/// can keep one and restart a replica with it.
#[derive(Clone, Debug, Default)]
pub struct InMemoryStorage {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct Content {
    hard_state: Option<HardState>,
    bounds: Bounds,
    /// The entries of `bounds`; `None` for a damaged one.
    entries: VecDeque<Option<Bytes>>,
    is_full: bool,
    statistics: StorageStatistics,
}

impl Default for Content {
    fn default() -> Self {
        Content {
            hard_state: None,
            bounds: Bounds::empty_after(Sequence::ZERO),
            entries: VecDeque::new(),
            is_full: false,
            statistics: StorageStatistics::default(),
        }
    }
}

impl Content {
    fn apply(&mut self, write: &Persist) {
        self.hard_state = Some(write.hard_state);
        for record in WriteRecord::of(write) {
            let objection = self.bounds.objection(&record);
            assert!(objection.is_none(), "{}", objection.unwrap_or_default());
            let Bounds { first, last } = self.bounds;
            match record.change {
                Change::Append => {}
                Change::Replace if record.from > last.next() => self.entries.clear(),
                Change::Replace => self.entries.truncate(record.from.0.saturating_sub(first.0) as usize),
                Change::Base => {
                    let forgotten = record.from.next().0.saturating_sub(first.0).min(self.entries.len() as u64);
                    self.entries.drain(..forgotten as usize);
                }
            }
            self.bounds.apply(&record);
        }
        self.entries.extend(write.entries.iter().cloned().map(Some));
    }

    fn load(&self, from: Sequence) -> Vec<Option<Bytes>> {
        let skipped = from.0.saturating_sub(self.bounds.first.0) as usize;
        self.entries.iter().skip(skipped).cloned().collect()
    }

    fn lost(&self) -> Vec<(Sequence, Sequence)> {
        let mut lost: Vec<(Sequence, Sequence)> = Vec::new();
        for (position, _) in self.entries.iter().enumerate().filter(|(_, entry)| entry.is_none()) {
            let sequence = Sequence(self.bounds.first.0 + position as u64);
            match lost.last_mut() {
                Some((_, to)) if to.next() == sequence => *to = sequence,
                _ => lost.push((sequence, sequence)),
            }
        }
        lost
    }

    fn read(&self, from: Sequence, to: Sequence, max_bytes: usize) -> Vec<Bytes> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        if from < self.bounds.first {
            return entries;
        }
        for sequence in from.0..=to.min(self.bounds.last).0 {
            let Some(entry) = &self.entries[(sequence - self.bounds.first.0) as usize] else { break };
            bytes += entry.len();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }
}

impl InMemoryStorage {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Damages the stored entries in `from..=to`.
    pub fn damage(&self, from: Sequence, to: Sequence) {
        let mut content = self.content();
        let first = content.bounds.first.0;
        let is_meant = |position: usize| (from.0..=to.0).contains(&(first + position as u64));
        content.entries.iter_mut().enumerate().filter(|(position, _)| is_meant(*position)).for_each(|(_, e)| *e = None);
    }

    /// Sets whether the storage is full. While it is, writes are left out.
    pub fn set_full(&self, is_full: bool) {
        self.content().is_full = is_full;
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for InMemoryStorage {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        let content = self.content();
        let Bounds { first, last } = content.bounds;
        Ok(Recovered { hard_state: content.hard_state, first, last, lost: content.lost() })
    }

    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError> {
        Ok(self.content().load(from))
    }

    fn persist(&mut self, writes: &[Persist]) -> Result<usize, StorageError> {
        let mut content = self.content();
        if content.is_full {
            return Ok(0);
        }
        for write in writes {
            content.apply(write);
            content.statistics.entries_written += write.entries.len() as u64;
        }
        content.statistics.bytes_written += group_bytes(writes);
        content.statistics.fsyncs += 1;
        Ok(writes.len())
    }

    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        Ok(self.content().read(from, to, max_bytes))
    }

    fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        let mut content = self.content();
        while content.bounds.first < below && content.entries.pop_front().is_some() {
            content.bounds.first = content.bounds.first.next();
        }
        Ok(())
    }

    fn has_space(&self) -> bool {
        !self.content().is_full
    }

    fn statistics(&self) -> StorageStatistics {
        let content = self.content();
        let bytes_on_disk = content.entries.iter().flatten().map(|entry| entry.len() as u64).sum();
        StorageStatistics { bytes_on_disk, ..content.statistics }
    }
}
