//! [`InMemoryStorage`]: the exact semantics of a log, kept in memory; for tests and for replicas that keep nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::{OrderRecord, group_bytes};
use super::index::Bounds;
use crate::{HardState, Persist, Recovered, Sequence, Storage, StorageError, StorageStatistics};

/// A log in memory. Clones share it, so that a test can keep one and start a replica on it again.
#[derive(Clone, Debug, Default)]
pub struct InMemoryStorage {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct Content {
    hard_state: Option<HardState>,
    bounds: Bounds,
    /// The entries of `bounds`.
    entries: VecDeque<Bytes>,
    statistics: StorageStatistics,
}

impl Default for Content {
    fn default() -> Self {
        Content {
            hard_state: None,
            bounds: Bounds::empty_after(Sequence::ZERO),
            entries: VecDeque::new(),
            statistics: StorageStatistics::default(),
        }
    }
}

impl Content {
    fn apply(&mut self, order: &Persist) {
        let record = OrderRecord::of(order);
        let objection = self.bounds.objection(&record);
        assert!(objection.is_none(), "{}", objection.unwrap_or_default());
        self.hard_state = Some(order.hard_state);
        if !record.changes_log() {
            return;
        }
        let kept = order.from.0.saturating_sub(self.bounds.first.0).min(self.entries.len() as u64);
        let starts_anew = order.from > self.bounds.last.next();
        self.entries.truncate(if starts_anew { 0 } else { kept as usize });
        self.entries.extend(order.entries.iter().cloned());
        self.bounds.apply(&record);
    }

    fn read(&self, from: Sequence, to: Sequence, max_bytes: usize) -> Vec<Bytes> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        if from < self.bounds.first {
            return entries;
        }
        for sequence in from.0..=to.min(self.bounds.last).0 {
            let entry = &self.entries[(sequence - self.bounds.first.0) as usize];
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
    pub fn new() -> Self {
        Self::default()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for InMemoryStorage {
    fn recover(&mut self, entries_from: Sequence) -> Result<Recovered, StorageError> {
        let content = self.content();
        let Bounds { first, last } = content.bounds;
        let entries_from = entries_from.max(first);
        let entries = content.read(entries_from, last, usize::MAX);
        Ok(Recovered { hard_state: content.hard_state, first, last, entries_from, entries })
    }

    fn persist(&mut self, orders: &[Persist]) -> Result<(), StorageError> {
        let mut content = self.content();
        for order in orders {
            content.apply(order);
            content.statistics.entries_written += order.entries.len() as u64;
        }
        content.statistics.bytes_written += group_bytes(orders);
        content.statistics.fsyncs += 1;
        Ok(())
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

    fn statistics(&self) -> StorageStatistics {
        let content = self.content();
        let bytes_on_disk = content.entries.iter().map(|entry| entry.len() as u64).sum();
        StorageStatistics { bytes_on_disk, ..content.statistics }
    }
}
