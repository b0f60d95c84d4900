//! Runs of adjacent entries, which are removed together.

use super::StepResult;
use crate::engine::{Table, WriteBatch};

/// Adjacent entries to remove.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Entries in the run; of a part that was skipped, none.
    pub entries: u64,
    /// Entries that count as rows until they are removed.
    pub rows: u64,
    /// Keys of the first entries, concatenated, and where each ends.
    keys: Vec<u8>,
    ends: Vec<usize>,
    /// Whether the run is removed as a range: it has enough entries, or contains a part that was
    /// skipped.
    is_long: bool,
    /// Sorts after the last entry.
    end: Vec<u8>,
}

impl Run {
    /// Appends an entry. A run of at least `range_delete_entries` is removed as a range.
    pub fn push(&mut self, key: &[u8], range_delete_entries: u64) {
        self.entries += 1;
        self.is_long |= self.entries >= range_delete_entries;
        if !self.is_long || self.ends.is_empty() {
            self.keys.extend_from_slice(key);
            self.ends.push(self.keys.len());
        }
        self.end.clear();
        self.end.extend_from_slice(key);
        self.end.push(0);
    }

    /// Extends the run up to `end`, without reading the entries there.
    pub fn reach(&mut self, end: &[u8]) {
        self.is_long = true;
        self.end.clear();
        self.end.extend_from_slice(end);
    }

    /// Whether the run is removed as a range.
    pub fn is_long(&self) -> bool {
        self.is_long
    }

    /// The key of the first entry.
    pub fn first(&self) -> Option<&[u8]> {
        self.ends.first().map(|end| &self.keys[..*end])
    }

    /// Ends the run: adds its removal to `batch`, and empties it.
    pub fn end(&mut self, batch: &mut WriteBatch, result: &mut StepResult) {
        let run = std::mem::take(self);
        result.removed_versions += run.entries;
        result.rows_cleared += run.rows;
        match run.first() {
            Some(first) if run.is_long => batch.delete_range(Table::Data, first, &run.end),
            _ => run.keys().for_each(|key| batch.delete(Table::Data, key)),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.keys[*start..*end])
    }
}
