//! Adjacent entries that are removed together.

use super::StepResult;
use crate::engine::{Table, WriteBatch};

/// Entries to remove, with nothing between them.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub entries: u64,
    /// How many of them were rows until now.
    pub rows: u64,
    /// The first keys, one after the other, and where each ends.
    keys: Vec<u8>,
    ends: Vec<usize>,
    /// As many entries, or a part that was not looked at: it is removed as a range.
    is_long: bool,
    /// Sorts behind the last one.
    behind: Vec<u8>,
}

impl Run {
    /// A run of `range_delete_entries` is removed as a range.
    pub fn push(&mut self, key: &[u8], range_delete_entries: u64) {
        self.entries += 1;
        self.is_long |= self.entries >= range_delete_entries;
        if !self.is_long || self.ends.is_empty() {
            self.keys.extend_from_slice(key);
            self.ends.push(self.keys.len());
        }
        self.behind.clear();
        self.behind.extend_from_slice(key);
        self.behind.push(0);
    }

    /// Everything up to `end` goes, too.
    pub fn reach(&mut self, end: &[u8]) {
        self.is_long = true;
        self.behind.clear();
        self.behind.extend_from_slice(end);
    }

    /// Whether it is removed as a range.
    pub fn is_long(&self) -> bool {
        self.is_long
    }

    pub fn first(&self) -> Option<&[u8]> {
        self.ends.first().map(|end| &self.keys[..*end])
    }

    /// Removes it; it is empty then.
    pub fn end(&mut self, batch: &mut WriteBatch, result: &mut StepResult) {
        let run = std::mem::take(self);
        result.removed_versions += run.entries;
        result.rows_cleared += run.rows;
        match run.first() {
            Some(first) if run.is_long => batch.delete_range(Table::Data, first, &run.behind),
            _ => run.keys().for_each(|key| batch.delete(Table::Data, key)),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.keys[*start..*end])
    }
}
