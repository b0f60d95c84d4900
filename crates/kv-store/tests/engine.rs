//! Engines compared with a plain map: batches that put and delete, flushes, crashes and copies in
//! any order.

mod support;

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kv_store::engine::{EngineInstall, Table, WriteBatch};
use kv_store::{Durability, Engine, MemoryInstall};
use proptest::collection::vec;
use proptest::prelude::*;
use support::place::{self, Place};

type Content = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Change {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Action {
    Write(Vec<Change>),
    Flush,
    Crash,
    Copy,
}

/// Few keys in the encoding of the data table: two families, four user keys each, four versions.
fn key() -> impl Strategy<Value = Vec<u8>> {
    (prop_oneof![Just(""), Just("f")], "[ab]{1,2}", 1..5_u64).prop_map(|(family, key, version)| {
        let mut encoded = Vec::new();
        kv_store::key_codec::set_versioned(&mut encoded, &kv_store::key_codec::prefix(family, key.as_bytes()), version);
        encoded
    })
}

fn change() -> impl Strategy<Value = Change> {
    let table = || prop_oneof![4 => Just(Table::Data), 1 => Just(Table::Meta), 2 => Just(Table::Garbage)];
    prop_oneof![
        4 => (table(), key(), vec(any::<u8>(), 0..4)).prop_map(|(table, key, value)| Change::Put(table, key, value)),
        2 => (table(), key()).prop_map(|(table, key)| Change::Delete(table, key)),
        1 => (table(), key(), key()).prop_map(|(table, begin, end)| Change::DeleteRange(table, begin, end)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => vec(change(), 1..12).prop_map(Action::Write),
        2 => Just(Action::Flush),
        1 => Just(Action::Crash),
        1 => Just(Action::Copy),
    ]
}

fn write(engine: &dyn Engine, content: &mut Content, changes: &[Change]) {
    let mut batch = WriteBatch::new();
    for change in changes {
        match change {
            Change::Put(table, key, value) => {
                batch.put(*table, key, value);
                content.insert((*table, key.clone()), value.clone());
            }
            Change::Delete(table, key) => {
                batch.delete(*table, key);
                content.remove(&(*table, key.clone()));
            }
            Change::DeleteRange(table, begin, end) => {
                batch.delete_range(*table, begin, end);
                content.retain(|(of, key), _| of != table || key < begin || key >= end);
            }
        }
    }
    engine.write(&batch).unwrap();
}

fn rows(content: &Content, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let of_table = content.iter().filter(|((of, _), _)| *of == table);
    of_table.map(|((_, key), value)| (key.clone(), value.clone())).collect()
}

fn walk(engine: &dyn Engine, table: Table, forward: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (lower, upper) = ([].as_slice(), [0xff; 8].as_slice());
    let mut cursor = engine.cursor(table, lower, upper).unwrap();
    if forward { cursor.seek(lower) } else { cursor.seek_before(upper) }.unwrap();
    let mut rows = Vec::new();
    while let Some((key, value)) = cursor.entry() {
        rows.push((key.to_vec(), value.to_vec()));
        if forward { cursor.next() } else { cursor.prev() }.unwrap();
    }
    if !forward {
        rows.reverse();
    }
    rows
}

/// Checks that every way of reading shows `content`, and that a crash would leave `persisted`.
fn check(engine: &dyn Engine, content: &Content, persisted: &Content, keys: &[Vec<u8>]) {
    for table in Table::ALL {
        let rows = rows(content, table);
        assert_eq!(walk(engine, table, true), rows, "{table:?}");
        assert_eq!(walk(engine, table, false), rows, "{table:?} backwards");
        for key in keys {
            let at = (table, key.clone());
            assert_eq!(engine.get(table, key).unwrap().as_deref(), content.get(&at).map(Vec::as_slice));
            assert_eq!(engine.persisted_get(table, key).unwrap().as_deref(), persisted.get(&at).map(Vec::as_slice));
        }
    }
    let mut cursor = engine.key_cursor().unwrap();
    for key in keys {
        cursor.seek(key).unwrap();
        // The versions of this key from this one to the oldest.
        let prefix = &key[..key.len() - 8];
        let here = (Bound::Included((Table::Data, key.clone())), Bound::Excluded((Table::Meta, vec![])));
        for ((_, expected), value) in content.range(here).take_while(|((_, key), _)| key.starts_with(prefix)) {
            assert_eq!(cursor.entry(), Some((expected.as_slice(), value.as_slice())));
            cursor.next().unwrap();
        }
        assert!(cursor.entry().is_none_or(|(key, _)| !key.starts_with(prefix)));
    }
}

/// Checks that a copy, and an engine built from it, have `content`.
fn check_copy(place: &Place, engine: &dyn Engine, content: &Content, keys: &[Vec<u8>]) {
    let mut copy = engine.copy().unwrap();
    for key in keys {
        let expected = content.get(&(Table::Data, key.clone())).map(Vec::as_slice);
        assert_eq!(copy.get(Table::Data, key).unwrap().as_deref(), expected);
    }
    let bytes = copy.read(0, usize::try_from(copy.total_bytes()).unwrap()).unwrap();
    let built = |mut install: Box<dyn EngineInstall>| {
        install.write(&bytes).unwrap();
        install.finish().unwrap()
    };
    match place {
        Place::Memory(_) => {
            let built = built(Box::new(MemoryInstall::new(Durability::UntilFlush)));
            check(&*built, content, content, keys);
        }
        #[cfg(feature = "rocksdb")]
        Place::Rocks(_) => {
            let home = place::rocks::RocksHome::new();
            check(&*built(home.begin_install()), content, content, keys);
        }
    }
}

fn run(mut place: Place, actions: &[Action]) {
    let (mut content, mut persisted) = (Content::new(), Content::new());
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut engine = place.engine();
    for action in actions {
        match action {
            Action::Write(changes) => write(&*engine, &mut content, changes),
            Action::Flush => {
                engine.flush().unwrap();
                persisted = content.clone();
            }
            Action::Crash => {
                place.crash_engine(engine);
                engine = place.engine();
                content = persisted.clone();
            }
            Action::Copy => {
                check_copy(&place, &*engine, &content, &keys);
                // RocksDB flushes before it makes a copy.
                if !matches!(place, Place::Memory(_)) {
                    persisted = content.clone();
                }
            }
        }
        keys.extend(content.keys().map(|(_, key)| key.clone()));
        keys.sort();
        keys.dedup();
        check(&*engine, &content, &persisted, &keys);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_memory_engine_is_a_map(actions in vec(action(), 1..30)) {
        run(place::all(Durability::UntilFlush).remove(0), &actions);
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn rocksdb_is_a_map(actions in vec(action(), 1..30)) {
        run(place::all(Durability::UntilFlush).remove(1), &actions);
    }
}

#[test]
fn an_empty_range_deletes_nothing() {
    for place in place::all(Durability::UntilFlush) {
        let engine = place.engine();
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, b"b", b"1");
        batch.delete_range(Table::Meta, b"c", b"a");
        batch.delete_range(Table::Meta, b"b", b"b");
        assert_eq!(batch.len(), 1);
        engine.write(&batch).unwrap();
        assert_eq!(engine.get(Table::Meta, b"b").unwrap(), Some(Bytes::from("1")));
        engine.compact_data(b"c", b"a").unwrap();
    }
}

#[test]
fn a_crash_loses_deletes_together_with_everything_after_them() {
    for mut place in place::all(Durability::UntilFlush) {
        let engine = place.engine();
        let mut batch = WriteBatch::new();
        for i in 0..100_u8 {
            batch.put(Table::Data, &kv_store::key_codec::prefix("", &[i]), b"row");
        }
        batch.put(Table::Garbage, b"note", b"1");
        batch.put(Table::Meta, b"rows", b"100");
        engine.write(&batch).unwrap();
        engine.flush().unwrap();
        batch.clear();
        let bounds = [0, 99].map(|i| kv_store::key_codec::prefix("", &[i]));
        batch.delete_range(Table::Data, &bounds[0], &bounds[1]);
        batch.delete(Table::Garbage, b"note");
        batch.put(Table::Meta, b"rows", b"1");
        engine.write(&batch).unwrap();
        batch.clear();
        batch.put(Table::Meta, b"later", b"1");
        engine.write(&batch).unwrap();
        assert_eq!(walk(&*engine, Table::Data, true).len(), 1);
        assert_eq!(engine.persisted_get(Table::Data, &bounds[0]).unwrap(), Some(Bytes::from("row")));
        place.crash_engine(engine);

        let engine = place.engine();
        let lengths = Table::ALL.map(|table| walk(&*engine, table, true).len());
        assert_eq!(lengths, [100, 1, 1]);
        assert_eq!(engine.get(Table::Meta, b"rows").unwrap(), Some(Bytes::from("100")));
    }
}

#[test]
fn a_synced_delete_survives_a_crash() {
    for mut place in place::all(Durability::EveryWrite) {
        let engine = place.engine();
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, b"a", b"1");
        batch.put(Table::Meta, b"b", b"1");
        batch.put(Table::Garbage, b"c", b"1");
        engine.write(&batch).unwrap();
        batch.clear();
        batch.delete(Table::Meta, b"a");
        batch.delete_range(Table::Garbage, b"a", b"d");
        engine.write(&batch).unwrap();
        place.crash_engine(engine);
        let engine = place.engine();
        assert_eq!(Table::ALL.map(|table| walk(&*engine, table, true).len()), [0, 1, 0]);
    }
}
