//! Write batches: the changes of one atomic engine write, in one buffer.

use super::Table;

/// Changes of entries, in order: of two for the same key the later one wins.
///
/// Deletes are physical: no later read finds the entry at any version. A row that a client deletes
/// gets a tombstone instead, which is a version of its own.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// Two fields of each entry, concatenated: key and value, or begin and end.
    bytes: Vec<u8>,
    entries: Vec<EntryPlace>,
}

#[derive(Clone, Copy, Debug)]
enum EntryKind {
    Put,
    Delete,
    DeleteRange,
}

/// The first field is `bytes[start..middle]`, the second `bytes[middle..end]`.
#[derive(Clone, Copy, Debug)]
struct EntryPlace {
    kind: EntryKind,
    table: Table,
    start: usize,
    middle: usize,
    end: usize,
}

/// One entry of a [`WriteBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEntry<'a> {
    /// Sets the value of a key.
    Put {
        /// The table of the key.
        table: Table,
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key, if the table has it.
    Delete {
        /// The table of the key.
        table: Table,
        /// The key.
        key: &'a [u8],
    },
    /// Removes the keys `begin <= key < end`; the range is never empty.
    DeleteRange {
        /// The table of the keys.
        table: Table,
        /// The first key of the range.
        begin: &'a [u8],
        /// The first key after the range.
        end: &'a [u8],
    },
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        WriteBatch::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.put_parts(table, &[key], &[value]);
    }

    /// Like [`Self::put`], for a key and a value in several parts. Returns the position of the
    /// entry, for [`Self::value`].
    pub fn put_parts(&mut self, table: Table, key: &[&[u8]], value: &[&[u8]]) -> usize {
        self.push(EntryKind::Put, table, key, value);
        self.entries.len() - 1
    }

    /// The value of the entry at a position that [`Self::put_parts`] returned since the batch was
    /// last cleared.
    pub fn value(&self, entry: usize) -> &[u8] {
        let place = &self.entries[entry];
        &self.bytes[place.middle..place.end]
    }

    /// Removes the entry of a key, if there is one.
    pub fn delete(&mut self, table: Table, key: &[u8]) {
        self.push(EntryKind::Delete, table, &[key], &[]);
    }

    /// Removes all entries `begin <= key < end`. This costs the engine and its readers more than a
    /// few single deletes: use it for many entries.
    pub fn delete_range(&mut self, table: Table, begin: &[u8], end: &[u8]) {
        if begin < end {
            self.push(EntryKind::DeleteRange, table, &[begin], &[end]);
        }
    }

    fn push(&mut self, kind: EntryKind, table: Table, first: &[&[u8]], second: &[&[u8]]) {
        let start = self.bytes.len();
        first.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let middle = self.bytes.len();
        second.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.entries.push(EntryPlace { kind, table, start, middle, end: self.bytes.len() });
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = BatchEntry<'_>> {
        self.entries.iter().map(|place| {
            let (table, first) = (place.table, &self.bytes[place.start..place.middle]);
            let second = &self.bytes[place.middle..place.end];
            match place.kind {
                EntryKind::Put => BatchEntry::Put { table, key: first, value: second },
                EntryKind::Delete => BatchEntry::Delete { table, key: first },
                EntryKind::DeleteRange => BatchEntry::DeleteRange { table, begin: first, end: second },
            }
        })
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all keys, values and bounds.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties the batch, and keeps its memory for the next one.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}
