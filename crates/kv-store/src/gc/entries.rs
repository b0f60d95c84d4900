//! The garbage table. Its GC entries say what is to be removed from the data table once nobody can
//! read it any more, oldest first. An entry is written in the batch of the commit that deletes or
//! clears, and removed in the batch that removes the last of the garbage ([`crate::gc::step`]). One
//! further record says how far collection is.
//!
//! ```text
//! key   = 'k' | version (u64) | number (u32)     a key was deleted at this version
//! value = its prefix
//!
//! key   = 'r' | version (u64) | number (u32)     a range was cleared at this version
//! value = length (u32) | begin | length (u32) | end
//!
//! key   = 's'
//! value = version (u64)                          all ranges cleared up to this version are collected
//! ```
//! Numbers are big-endian. `number` distinguishes the entries of one commit. Prefixes and bounds
//! are those of [`crate::key_codec`]; the bounds of a range are prefixes or ends of families.

use bytes::{Buf, Bytes};
use kv_api::KvError;

use crate::engine::{Cursor, Engine, Table, WriteBatch};
use crate::key_codec;

const KEY_TAG: u8 = b'k';
const RANGE_TAG: u8 = b'r';
const COLLECTED_KEY: &[u8] = b"s";
/// Tag, version, number.
const ENTRY_KEY_BYTES: usize = 13;

/// The entry of a deleted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyTombstone {
    pub version: u64,
    pub number: u32,
    /// Encoded family and user key.
    pub prefix: Bytes,
}

/// The entry of a cleared range: from `version` on, versions older than it are invisible for all
/// keys `begin <= key < end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeClear {
    pub version: u64,
    pub number: u32,
    pub begin: Bytes,
    pub end: Bytes,
}

fn entry_key(tag: u8, version: u64, number: u32) -> [u8; ENTRY_KEY_BYTES] {
    let mut key = [tag; ENTRY_KEY_BYTES];
    key[1..9].copy_from_slice(&version.to_be_bytes());
    key[9..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Writes the entry for a tombstone of `version` in the same batch, for the key with this prefix.
/// Each entry of a commit needs a number of its own.
pub(crate) fn put_key_tombstone(batch: &mut WriteBatch, version: u64, number: u32, prefix: &[u8]) {
    batch.put(Table::Garbage, &entry_key(KEY_TAG, version, number), prefix);
}

/// Writes the entry for a clear of the keys `begin <= key < end` at `version` in the same batch.
/// Each entry of a commit needs a number of its own.
pub(crate) fn put_range_clear(batch: &mut WriteBatch, version: u64, number: u32, begin: &[u8], end: &[u8]) {
    assert!(begin < end, "an empty range is cleared");
    let length = |bound: &[u8]| u32::try_from(bound.len()).expect("keys are far shorter").to_be_bytes();
    let value = [&length(begin)[..], begin, &length(end), end];
    batch.put_parts(Table::Garbage, &[&entry_key(RANGE_TAG, version, number)], &value);
}

/// All range clears that are not collected yet, by version and number.
pub(crate) fn load_range_clears(engine: &dyn Engine) -> Result<Vec<RangeClear>, KvError> {
    let mut entries = GcEntries::range_clears(engine, 0)?;
    let mut clears = Vec::new();
    while let Some(clear) = entries.range_clear()? {
        clears.push(clear);
        entries.next()?;
    }
    Ok(clears)
}

pub(crate) fn remove_key_tombstone(batch: &mut WriteBatch, version: u64, number: u32) {
    batch.delete(Table::Garbage, &entry_key(KEY_TAG, version, number));
}

pub(crate) fn remove_range_clear(batch: &mut WriteBatch, version: u64, number: u32) {
    batch.delete(Table::Garbage, &entry_key(RANGE_TAG, version, number));
}

/// Records that all ranges cleared up to `version` are collected, and that no read is below it.
pub(crate) fn put_collected_up_to(batch: &mut WriteBatch, version: u64) {
    batch.put(Table::Garbage, COLLECTED_KEY, &version.to_be_bytes());
}

/// The version of the last [`put_collected_up_to`]; 0 before the first.
pub(crate) fn load_collected_up_to(engine: &dyn Engine) -> Result<u64, KvError> {
    decode_collected_up_to(engine.get(Table::Garbage, COLLECTED_KEY)?)
}

/// The same, as a crash now would leave it.
pub(crate) fn load_persisted_collected_up_to(engine: &dyn Engine) -> Result<u64, KvError> {
    decode_collected_up_to(engine.persisted_get(Table::Garbage, COLLECTED_KEY)?)
}

fn decode_collected_up_to(stored: Option<Bytes>) -> Result<u64, KvError> {
    let Some(stored) = stored else { return Ok(0) };
    let version = <[u8; 8]>::try_from(stored.as_ref());
    version.map(u64::from_be_bytes).map_err(|_| damaged("record of what is collected", stored.len()))
}

/// A GC entry of either kind.
struct GcEntry<'c> {
    version: u64,
    number: u32,
    value: &'c [u8],
}

/// The GC entries of one kind, by version and number.
pub(crate) struct GcEntries<'e> {
    cursor: Box<dyn Cursor + 'e>,
}

impl<'e> GcEntries<'e> {
    /// The entries of deleted keys, from the version `from` on.
    pub fn key_tombstones(engine: &'e dyn Engine, from: u64) -> Result<Self, KvError> {
        GcEntries::open(engine, KEY_TAG, from)
    }

    /// The entries of cleared ranges, from the version `from` on.
    pub fn range_clears(engine: &'e dyn Engine, from: u64) -> Result<Self, KvError> {
        GcEntries::open(engine, RANGE_TAG, from)
    }

    fn open(engine: &'e dyn Engine, tag: u8, from: u64) -> Result<Self, KvError> {
        // A damaged key may be too short to have a version.
        let begin = if from == 0 { vec![tag] } else { entry_key(tag, from, 0).to_vec() };
        let mut cursor = engine.cursor(Table::Garbage, &begin, &[tag + 1])?;
        cursor.seek(&begin)?;
        Ok(GcEntries { cursor })
    }

    /// Moves to the next entry.
    pub fn next(&mut self) -> Result<(), KvError> {
        self.cursor.next()
    }

    /// Version of the current entry; `None` after the last one.
    pub fn version(&self) -> Result<Option<u64>, KvError> {
        Ok(self.current()?.map(|entry| entry.version))
    }

    fn current(&self) -> Result<Option<GcEntry<'_>>, KvError> {
        let Some((key, value)) = self.cursor.entry() else { return Ok(None) };
        let rest = <[u8; ENTRY_KEY_BYTES]>::try_from(key).map_err(|_| damaged("key", key.len()))?;
        let mut rest = &rest[1..];
        Ok(Some(GcEntry { version: rest.get_u64(), number: rest.get_u32(), value }))
    }

    /// The current entry, which is that of a deleted key; `None` after the last one.
    pub fn key_tombstone(&self) -> Result<Option<KeyTombstone>, KvError> {
        let Some(GcEntry { version, number, value: prefix }) = self.current()? else { return Ok(None) };
        if key_codec::prefix_length(prefix) != Some(prefix.len()) {
            return Err(damaged("deleted key", prefix.len()));
        }
        Ok(Some(KeyTombstone { version, number, prefix: Bytes::copy_from_slice(prefix) }))
    }

    /// The current entry, which is that of a cleared range; `None` after the last one.
    pub fn range_clear(&self) -> Result<Option<RangeClear>, KvError> {
        let Some(GcEntry { version, number, value }) = self.current()? else { return Ok(None) };
        // Nothing is older than version 0.
        let found = bounds(value).filter(|_| version > 0);
        let (begin, end) = found.ok_or_else(|| damaged("cleared range", value.len()))?;
        let owned = Bytes::copy_from_slice;
        Ok(Some(RangeClear { version, number, begin: owned(begin), end: owned(end) }))
    }
}

fn bounds(mut value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut take = || {
        let (length, rest) = value.split_first_chunk::<4>()?;
        let (bound, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        value = rest;
        Some(bound)
    };
    let (begin, end) = (take()?, take()?);
    (value.is_empty() && begin < end).then_some((begin, end))
}

fn damaged(what: &str, length: usize) -> KvError {
    KvError::Corruption(format!("in the garbage table a {what} of {length} bytes cannot be read"))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Durability, MemoryEngine};

    fn engine_with(fill: impl FnOnce(&mut WriteBatch)) -> MemoryEngine {
        let engine = MemoryEngine::new(Durability::UntilFlush);
        let mut batch = WriteBatch::new();
        fill(&mut batch);
        engine.write(&batch).unwrap();
        engine
    }

    fn tombstones(engine: &dyn Engine, from: u64) -> Result<Vec<KeyTombstone>, KvError> {
        let mut entries = GcEntries::key_tombstones(engine, from)?;
        let mut found = Vec::new();
        while let Some(entry) = entries.key_tombstone()? {
            found.push(entry);
            entries.next()?;
        }
        Ok(found)
    }

    proptest! {
        #[test]
        fn entries_are_read_in_order_of_version_and_number(
            entries in vec((1_u64.., any::<u32>(), vec(any::<u8>(), 0..5), vec(any::<u8>(), 0..5)), 0..20),
        ) {
            let (mut keys, mut clears) = (Vec::new(), Vec::new());
            for (version, number, begin, end) in entries {
                let (begin, end) = (key_codec::prefix("f", &begin), key_codec::prefix("f", &end));
                keys.push(KeyTombstone { version, number, prefix: begin.clone().into() });
                if begin < end {
                    clears.push(RangeClear { version, number, begin: begin.into(), end: end.into() });
                }
            }
            keys.sort_by_key(|entry| (entry.version, entry.number));
            keys.dedup_by_key(|entry| (entry.version, entry.number));
            clears.sort_by_key(|entry| (entry.version, entry.number));
            clears.dedup_by_key(|entry| (entry.version, entry.number));
            let engine = engine_with(|batch| {
                keys.iter().for_each(|entry| put_key_tombstone(batch, entry.version, entry.number, &entry.prefix));
                clears.iter().for_each(|entry| put_range_clear(batch, entry.version, entry.number, &entry.begin, &entry.end));
            });
            prop_assert_eq!(&tombstones(&engine, 0).unwrap(), &keys);
            prop_assert_eq!(&load_range_clears(&engine).unwrap(), &clears);
            if let Some(middle) = keys.get(keys.len() / 2).map(|entry| entry.version) {
                keys.retain(|entry| entry.version >= middle);
                prop_assert_eq!(tombstones(&engine, middle).unwrap(), keys);
            }
        }

        #[test]
        fn a_damaged_entry_is_reported_as_corruption(key in vec(any::<u8>(), 0..16), value in vec(any::<u8>(), 0..12)) {
            for tag in [KEY_TAG, RANGE_TAG] {
                let engine = engine_with(|batch| batch.put(Table::Garbage, &[&[tag][..], &key].concat(), &value));
                let is_damage = |error: KvError| matches!(error, KvError::Corruption(_));
                match tag {
                    KEY_TAG => prop_assert!(tombstones(&engine, 0).err().is_none_or(is_damage)),
                    _ => prop_assert!(load_range_clears(&engine).is_err_and(is_damage)),
                }
            }
        }
    }

    #[test]
    fn every_truncated_or_longer_entry_is_damage() {
        let mut batch = WriteBatch::new();
        let (begin, end) = (key_codec::prefix("", b"a"), key_codec::family_end(""));
        put_range_clear(&mut batch, 7, 0, &begin, &end);
        let Some(crate::engine::BatchEntry::Put { key, value, .. }) = batch.iter().next() else { panic!("an entry") };
        for length in (0..value.len()).chain([value.len() + 1]) {
            let changed: Vec<u8> = value.iter().copied().chain([0]).take(length).collect();
            let engine = engine_with(|batch| batch.put(Table::Garbage, key, &changed));
            assert!(matches!(load_range_clears(&engine), Err(KvError::Corruption(_))), "{length} bytes");
        }
        for key in [&key[..12], &[key, &[0]].concat()] {
            let engine = engine_with(|batch| batch.put(Table::Garbage, key, value));
            let error = load_range_clears(&engine).unwrap_err();
            assert!(error.to_string().contains(&format!("key of {} bytes", key.len())), "{error}");
        }
    }

    #[test]
    fn the_record_of_what_is_collected_is_kept_and_is_no_entry() {
        let engine = engine_with(|_| {});
        assert_eq!(load_collected_up_to(&engine), Ok(0));
        let mut batch = WriteBatch::new();
        put_collected_up_to(&mut batch, 7);
        engine.write(&batch).unwrap();
        assert_eq!((load_collected_up_to(&engine), load_persisted_collected_up_to(&engine)), (Ok(7), Ok(0)));
        engine.flush().unwrap();
        assert_eq!(load_persisted_collected_up_to(&engine), Ok(7));
        assert_eq!((load_range_clears(&engine), tombstones(&engine, 0)), (Ok(vec![]), Ok(vec![])));
        let engine = engine_with(|batch| batch.put(Table::Garbage, COLLECTED_KEY, &[7]));
        assert!(matches!(load_collected_up_to(&engine), Err(KvError::Corruption(_))));
    }
}
