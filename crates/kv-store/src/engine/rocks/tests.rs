//! Behaviour specific to RocksDB: the families of the former layout, and what compactions drop.

use tempfile::TempDir;

use super::*;
use crate::engine::{EngineInstall, ResourceOptions, SharedResources};
use crate::key_codec;

struct Home {
    folder: TempDir,
    options: RocksOptions,
}

impl Home {
    /// With buffers that fill up soon.
    fn new() -> Self {
        let resources = SharedResources::new(ResourceOptions::default()).unwrap();
        let options =
            RocksOptions { write_buffer_bytes: 256 << 10, ..RocksOptions::new(Durability::UntilFlush, resources) };
        Home { folder: tempfile::tempdir().unwrap(), options }
    }

    fn open(&self) -> Result<RocksEngine, KvError> {
        RocksEngine::open(self.folder.path().join("db"), self.options.clone())
    }
}

fn put_version(batch: &mut WriteBatch, key: &str, version: u64, value: &[u8]) {
    let suffix = key_codec::version_suffix(version);
    batch.put_parts(
        Table::Data,
        &[&key_codec::prefix("", key.as_bytes()), &suffix],
        &key_codec::row_parts(Some(value)),
    );
}

fn write(engine: &RocksEngine, fill: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::new();
    fill(&mut batch);
    engine.write(&batch).unwrap();
}

fn entries(engine: &RocksEngine, table: Table) -> usize {
    let mut cursor = engine.cursor(table, &[], &key_codec::END).unwrap();
    cursor.seek(&[]).unwrap();
    let mut entries = 0;
    while cursor.entry().is_some() {
        entries += 1;
        cursor.next().unwrap();
    }
    entries
}

/// A database with three rows, and without the family of `table`.
fn without(home: &Home, table: Table) -> RocksEngine {
    let mut engine = home.open().unwrap();
    write(&engine, |batch| {
        (1..=3).for_each(|version| put_version(batch, "a", version, b"1"));
        batch.put(Table::Meta, b"state", b"1");
    });
    engine.flush().unwrap();
    engine.db.drop_cf(family_name(table)).unwrap();
    engine
}

#[test]
fn a_database_of_the_former_layout_opens_with_an_empty_garbage_table() {
    let home = Home::new();
    drop(without(&home, Table::Garbage));
    for garbage in [0, 1] {
        let engine = home.open().unwrap();
        assert_eq!(Table::ALL.map(|table| entries(&engine, table)), [3, 1, garbage]);
        write(&engine, |batch| batch.put(Table::Garbage, b"entry", b"1"));
        engine.flush().unwrap();
    }
}

#[test]
fn a_database_that_lacks_another_table_is_damaged() {
    for table in [Table::Data, Table::Meta] {
        let home = Home::new();
        drop(without(&home, table));
        let error = home.open().err().expect("refused");
        assert!(matches!(error, KvError::Corruption(_)), "{error}");
    }
}

#[test]
fn a_copy_of_the_former_layout_is_installed() {
    let home = Home::new();
    let engine = without(&home, Table::Garbage);
    let mut copy = RocksCopy::take(&engine).unwrap();
    let row = copy.read(0, usize::try_from(copy.total_bytes()).unwrap()).unwrap();
    let other = Home::new();
    let mut install = RocksInstall::begin(&other.folder.path().join("db"), other.options.clone()).unwrap();
    install.write(&row).unwrap();
    let installed = Box::new(install).finish().unwrap();
    assert_eq!(installed.get(Table::Garbage, b"entry").unwrap(), None);
    assert_eq!(installed.get(Table::Meta, b"state").unwrap(), Some("1".into()));
}

#[test]
fn a_compaction_drops_superseded_values_for_good() {
    let home = Home::new();
    let engine = home.open().unwrap();
    for version in 1..=5 {
        write(&engine, |batch| put_version(batch, "a", version, b"1"));
        engine.flush().unwrap();
    }
    engine.compact_data(&[], &key_codec::END).unwrap();
    assert_eq!(entries(&engine, Table::Data), 5, "a newly opened engine drops nothing");
    engine.set_filter_watermark(3);
    engine.set_filter_watermark(1);
    engine.compact_data(&[], &key_codec::END).unwrap();
    assert_eq!(entries(&engine, Table::Data), 3);
    drop(engine);
    assert_eq!(entries(&home.open().unwrap(), Table::Data), 3);
}

#[test]
fn files_that_are_not_compacted_yet_are_counted() {
    let home = Home::new();
    let engine = home.open().unwrap();
    for version in 0..=2 {
        assert_eq!(engine.files_to_compact(), version);
        write(&engine, |batch| put_version(batch, "a", version, b"1"));
        engine.flush().unwrap();
    }
}

/// Writes of 30 MB, each superseded soon, fit into a few megabytes.
#[test]
fn endless_overwriting_of_a_few_rows_takes_bounded_space() {
    let home = Home::new();
    let engine = home.open().unwrap();
    let value = |version: u64| std::array::from_fn::<u8, 100, _>(|at| (version.wrapping_mul(at as u64 + 7) >> 5) as u8);
    let mut largest = 0;
    for round in 0..300 {
        write(&engine, |batch| {
            for version in round * 1_000 + 1..=(round + 1) * 1_000 {
                put_version(batch, &format!("{:03}", version % 500), version, &value(version));
            }
        });
        engine.set_filter_watermark((round * 1_000).saturating_sub(2_000));
        largest = largest.max(engine.statistics().size_bytes);
    }
    assert!(largest < 8 << 20, "{largest} bytes");
}

#[test]
fn write_buffers_with_many_deletes_are_flushed() {
    let home = Home::new();
    let engine = home.open().unwrap();
    let key = |number: u64| key_codec::prefix("", &number.to_be_bytes());
    write(&engine, |batch| batch.put(Table::Data, b"row", b"1"));
    write(&engine, |batch| (1..MAX_DELETES_UNFLUSHED).for_each(|number| batch.delete(Table::Data, &key(number))));
    assert_eq!(engine.deletes.load(Ordering::Relaxed), MAX_DELETES_UNFLUSHED - 1);
    write(&engine, |batch| batch.delete(Table::Garbage, b"entry"));
    assert_eq!(engine.deletes.load(Ordering::Relaxed), 0);
    // The flush is not waited for, but a later flush includes everything written before it.
    engine.flush().unwrap();
    assert_eq!(engine.persisted_get(Table::Data, b"row").unwrap(), Some("1".into()));
}
