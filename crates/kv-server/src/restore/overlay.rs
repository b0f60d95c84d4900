//! Changes that are put on the rows of a backup while these are restored.
//!
//! The changes come first. The last state of each key is kept in a storage engine of its own, because it
//! may be more than fits into memory; the ranges that they clear are in memory, joined where they touch.
//! Then the rows of the backup come in their order, and the two are merged.
//!
//! Invariants:
//! - a key in the engine was written after every clear of a range that holds it;
//! - merged rows come in the order of the keys, each once: every key of the engine before the row of the
//!   backup at hand was merged already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use kv_api::{Change, ClearCause, Effect, KvError};
use kv_store::engine::{Table, WriteBatch};
use kv_store::{Engine, key_codec};

/// A batch of changes is written when it has this many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Keys that are read from the engine at a time; fewer if their values are large.
const READ_KEYS: usize = 1_000;
const READ_BYTES: usize = 4 << 20;
/// The order of this table is that of its bytes, and nothing else is known of it.
const TABLE: Table = Table::Meta;

const DELETED: &[u8] = &[0];
const SET: &[u8] = &[1];

/// Takes the next row: family, key and value.
pub(super) type PassOn<'p> = dyn FnMut(&str, &[u8], &[u8]) -> Result<(), KvError> + 'p;

pub(super) struct Overlay {
    engine: Arc<dyn Engine>,
    batch: WriteBatch,
    /// The encoded keys `begin <= key < end` of the backup that are gone; none of them touch.
    cleared: BTreeMap<Vec<u8>, Vec<u8>>,
    created: BTreeSet<String>,
    dropped: BTreeSet<String>,
    /// The next keys to merge, with their states.
    next: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// The last key that was read for `next`; all of the engine was read if `is_read`.
    read: Vec<u8>,
    is_read: bool,
}

impl Overlay {
    /// Over an engine that is empty.
    pub fn new(engine: Arc<dyn Engine>) -> Overlay {
        Overlay {
            engine,
            batch: WriteBatch::new(),
            cleared: BTreeMap::new(),
            created: BTreeSet::new(),
            dropped: BTreeSet::new(),
            next: VecDeque::new(),
            read: Vec::new(),
            is_read: false,
        }
    }

    /// Adds the next version.
    pub fn change(&mut self, change: &Change) -> Result<(), KvError> {
        assert!(self.read.is_empty() && !self.is_read, "changes come before rows");
        for of_family in &change.effects {
            let family = &of_family.column_family;
            key_codec::check_family(family)?;
            match &of_family.effect {
                Effect::Set { key, value } => {
                    self.batch.put_parts(TABLE, &[&key_codec::prefix(family, key)], &[SET, value]);
                    self.exists(family);
                }
                Effect::Delete { key } => self.batch.put(TABLE, &key_codec::prefix(family, key), DELETED),
                Effect::Clear { begin, end, cause } => {
                    let end = match end {
                        Some(end) => key_codec::prefix(family, end),
                        None => key_codec::family_end(family),
                    };
                    self.clear(key_codec::prefix(family, begin), end);
                    if *cause == ClearCause::FamilyDropped {
                        self.created.remove(family);
                        self.dropped.insert(family.clone());
                    }
                }
            }
        }
        if self.batch.size_bytes() >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn exists(&mut self, family: &str) {
        if !family.is_empty() && !self.created.contains(family) {
            self.created.insert(family.to_string());
            self.dropped.remove(family);
        }
    }

    fn clear(&mut self, mut begin: Vec<u8>, mut end: Vec<u8>) {
        if begin >= end {
            return;
        }
        self.batch.delete_range(TABLE, &begin, &end);
        // Every range that begins at or before the end, and ends at or behind the beginning, becomes part of it.
        while let Some((other, other_end)) = self.cleared.range(..=end.clone()).next_back() {
            if *other_end < begin {
                break;
            }
            begin = begin.min(other.clone());
            end = end.max(other_end.clone());
            let other = other.clone();
            self.cleared.remove(&other);
        }
        self.cleared.insert(begin, end);
    }

    fn write(&mut self) -> Result<(), KvError> {
        if !self.batch.is_empty() {
            self.engine.write(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Families besides the default one, of those of the backup and of the changes.
    pub fn families(&self, of_backup: &[String]) -> Vec<String> {
        let kept = of_backup.iter().filter(|name| !self.dropped.contains(*name)).cloned();
        let families: BTreeSet<String> = kept.chain(self.created.iter().cloned()).collect();
        families.into_iter().collect()
    }

    /// Passes on the rows up to the next one of the backup, and that one unless it has changed.
    pub fn row(&mut self, family: &str, key: &[u8], value: &[u8], into: &mut PassOn<'_>) -> Result<(), KvError> {
        let prefix = key_codec::prefix(family, key);
        self.rows_before(Some(&prefix), into)?;
        if self.next.front().is_some_and(|(next, _)| *next == prefix) {
            let (_, state) = self.next.pop_front().expect("it was looked at just now");
            return pass_on(&prefix, &state, into);
        }
        let before = self.cleared.range(..=prefix.clone()).next_back();
        if before.is_some_and(|(_, end)| prefix < *end) {
            return Ok(());
        }
        into(family, key, value)
    }

    /// Passes on the rest.
    pub fn finish(&mut self, into: &mut PassOn<'_>) -> Result<(), KvError> {
        self.rows_before(None, into)
    }

    fn rows_before(&mut self, end: Option<&[u8]>, into: &mut PassOn<'_>) -> Result<(), KvError> {
        loop {
            if self.next.is_empty() {
                self.read_more()?;
            }
            match self.next.front() {
                Some((next, _)) if end.is_none_or(|end| next.as_slice() < end) => {
                    let (prefix, state) = self.next.pop_front().expect("it was looked at just now");
                    pass_on(&prefix, &state, into)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn read_more(&mut self) -> Result<(), KvError> {
        if self.is_read {
            return Ok(());
        }
        self.write()?;
        let mut cursor = self.engine.cursor(TABLE, &[], &key_codec::END)?;
        // The smallest key after the last one.
        let from = if self.read.is_empty() { Vec::new() } else { [&self.read[..], &[0]].concat() };
        cursor.seek(&from)?;
        let mut bytes = 0;
        while let Some((key, state)) = cursor.entry() {
            bytes += key.len() + state.len();
            self.next.push_back((key.to_vec(), state.to_vec()));
            if self.next.len() >= READ_KEYS || bytes >= READ_BYTES {
                break;
            }
            cursor.next()?;
        }
        match self.next.back() {
            Some((key, _)) => self.read.clone_from(key),
            None => self.is_read = true,
        }
        Ok(())
    }
}

fn pass_on(prefix: &[u8], state: &[u8], into: &mut PassOn<'_>) -> Result<(), KvError> {
    match state.split_first() {
        Some((1, value)) => into(key_codec::family(prefix)?, &key_codec::user_key(prefix)?, value),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kv_api::{FamilyEffect, Version};
    use kv_store::{BulkLoad, Durability, MemoryEngine};

    use super::*;

    type Row = (String, Vec<u8>, Vec<u8>);
    type Rows = BTreeMap<(usize, String, Vec<u8>), Vec<u8>>;

    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }

        fn family(&mut self) -> String {
            ["", "b", "users", "zz"][self.below(4) as usize].to_string()
        }

        /// Bytes that the encoding of keys has to escape are among them.
        fn key(&mut self) -> Vec<u8> {
            (0..self.below(3)).map(|_| [0, 1, 0x7f, 0xfe, 0xff][self.below(5) as usize]).collect()
        }
    }

    /// Rows in the order in which they are restored.
    fn place(family: &str, key: &[u8]) -> (usize, String, Vec<u8>) {
        (family.len(), family.to_string(), key.to_vec())
    }

    fn merge(engine: Arc<dyn Engine>, base: &Rows, changes: &[Change]) -> (Vec<Row>, Vec<String>) {
        let mut overlay = Overlay::new(engine);
        changes.iter().for_each(|change| overlay.change(change).unwrap());
        let mut merged = Vec::new();
        let mut into = |family: &str, key: &[u8], value: &[u8]| {
            merged.push((family.to_string(), key.to_vec(), value.to_vec()));
            Ok(())
        };
        for ((_, family, key), value) in base {
            overlay.row(family, key, value, &mut into).unwrap();
        }
        overlay.finish(&mut into).unwrap();
        (merged, overlay.families(&["b".to_string(), "users".to_string()]))
    }

    #[test]
    fn merged_rows_are_those_of_a_model_at_every_version_of_random_histories() {
        for seed in 0..60 {
            let mut random = Random(seed);
            let mut base = Rows::new();
            for _ in 0..random.below(60) {
                let family = ["", "b", "users"][random.below(3) as usize];
                base.insert(place(family, &random.key()), vec![1]);
            }
            let (mut rows, mut changes) = (base.clone(), Vec::new());
            for version in 2..20_u64 {
                let mut effects = Vec::new();
                for _ in 0..random.below(3) {
                    let (column_family, begin) = (random.family(), random.key());
                    let (end, cause) = match random.below(3) {
                        0 => (None, ClearCause::FamilyDropped),
                        1 => (None, ClearCause::Transaction),
                        _ => (Some(random.key()), ClearCause::Transaction),
                    };
                    let begin = if cause == ClearCause::FamilyDropped { Vec::new() } else { begin };
                    rows.retain(|(_, family, key), _| {
                        *family != column_family || *key < begin || end.as_ref().is_some_and(|end| key >= end)
                    });
                    let effect = Effect::Clear { begin: begin.into(), end: end.map(Bytes::from), cause };
                    effects.push(FamilyEffect { column_family, effect });
                }
                for _ in 0..random.below(4) {
                    let (column_family, key) = (random.family(), random.key());
                    let effect = if random.below(3) == 0 {
                        rows.remove(&place(&column_family, &key));
                        Effect::Delete { key: key.into() }
                    } else {
                        rows.insert(place(&column_family, &key), vec![version as u8]);
                        Effect::Set { key: key.into(), value: vec![version as u8].into() }
                    };
                    effects.push(FamilyEffect { column_family, effect });
                }
                changes.push(Change { version: Version(version), time_us: version, effects });
                let engine = Arc::new(MemoryEngine::new(Durability::UntilFlush));
                let (merged, families) = merge(engine, &base, &changes);
                let expected: Vec<_> =
                    rows.iter().map(|((_, family, key), value)| (family.clone(), key.clone(), value.clone())).collect();
                assert_eq!(merged, expected, "seed {seed}, version {version}");
                assert!(rows.keys().all(|(_, family, _)| family.is_empty() || families.contains(family)));
            }
        }
    }

    #[test]
    fn more_changes_than_are_read_at_once_are_merged_in_the_order_of_a_load() {
        let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
        let set = |number| Effect::Set { key: key(number), value: vec![7; 100].into() };
        let changes: Vec<Change> = (0..5_000_u32)
            .map(|number| Change {
                version: Version(2 + u64::from(number)),
                time_us: 0,
                effects: vec![FamilyEffect { column_family: "b".to_string(), effect: set(number * 2) }],
            })
            .collect();
        let base: Rows = (0..5_000_u32).map(|number| (place("b", &key(number * 3)), vec![1])).collect();
        let (merged, _) = merge(Arc::new(MemoryEngine::new(Durability::UntilFlush)), &base, &changes);
        let mut load = BulkLoad::begin(
            Arc::new(MemoryEngine::new(Durability::UntilFlush)),
            Version(2),
            crate::upgrade::LOWEST_LEVEL,
        )
        .unwrap();
        load.family("b").unwrap();
        for (family, key, value) in &merged {
            load.row(family, key, value).unwrap();
        }
        assert_eq!(load.finish(None).unwrap(), 5_000 + 5_000 - 1_667);
    }
}
