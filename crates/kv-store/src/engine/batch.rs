//! Writes collected for one atomic engine write, in one buffer.

use super::Table;

/// Entries to put, in order: a later one for the same key wins. Nothing is ever deleted from an engine this way: a
/// deleted row is a version of its own.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Keys and values one after the other.
    bytes: Vec<u8>,
    entries: Vec<EntryPlace>,
}

/// The key is `bytes[start..key_end]`, the value `bytes[key_end..value_end]`.
#[derive(Clone, Copy, Debug)]
struct EntryPlace {
    table: Table,
    start: usize,
    key_end: usize,
    value_end: usize,
}

/// One entry of a [`WriteBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    pub table: Table,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl WriteBatch {
    pub fn new() -> Self {
        WriteBatch::default()
    }

    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.put_parts(table, &[key], &[value]);
    }

    /// The same, for a key and a value that lie in pieces.
    pub fn put_parts(&mut self, table: Table, key: &[&[u8]], value: &[&[u8]]) {
        let start = self.bytes.len();
        key.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let key_end = self.bytes.len();
        value.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.entries.push(EntryPlace { table, start, key_end, value_end: self.bytes.len() });
    }

    pub fn iter(&self) -> impl Iterator<Item = Put<'_>> {
        self.entries.iter().map(|place| Put {
            table: place.table,
            key: &self.bytes[place.start..place.key_end],
            value: &self.bytes[place.key_end..place.value_end],
        })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all keys and values.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it, keeping its memory for the next batch.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}
