//! Copies that are read in small steps during writes, and the compactions of this engine.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::key_codec;

fn write(engine: &MemoryEngine, fill: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::new();
    fill(&mut batch);
    engine.write(&batch).unwrap();
}

fn rows(engine: &MemoryEngine, table: Table) -> Vec<(Bytes, Bytes)> {
    let state = engine.read_lock();
    state.tables.of(table).iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A put, a delete, or a delete of a range in a table, with keys of one byte.
fn change() -> impl Strategy<Value = (Table, u8, u8, Option<u8>)> {
    let table = prop_oneof![Just(Table::Data), Just(Table::Meta), Just(Table::Garbage)];
    (table, 0..20_u8, 0..6_u8, any::<Option<u8>>())
}

fn apply(engine: &MemoryEngine, changes: &[(Table, u8, u8, Option<u8>)]) {
    write(engine, |batch| {
        for (table, key, length, value) in changes {
            match (length, value) {
                (_, Some(value)) => batch.put(*table, &[*key], &[*value]),
                (0, None) => batch.delete(*table, &[*key]),
                (_, None) => batch.delete_range(*table, &[*key], &[key + length]),
            }
        }
    });
}

proptest! {
    #[test]
    fn a_copy_shows_one_moment_whatever_is_written_and_deleted_meanwhile(
        before in vec(change(), 0..40), meanwhile in vec(vec(change(), 0..6), 60), step in 1..5_usize,
        flush_at in 0..10_usize, crash_at in 0..20_usize,
    ) {
        let engine = MemoryEngine::new(Durability::UntilFlush);
        apply(&engine, &before);
        let expected = Table::ALL.map(|table| rows(&engine, table));
        let moment = ActiveCopy::begin(&engine);
        let mut meanwhile = meanwhile.iter().enumerate();
        for (table, expected) in Table::ALL.iter().zip(expected) {
            let (mut found, mut after) = (Vec::new(), Bound::Unbounded);
            loop {
                let chunk = moment.entries(*table, after, step);
                found.extend(chunk.entries);
                let Some(last) = chunk.last else { break };
                after = Bound::Excluded(last);
                if let Some((number, changes)) = meanwhile.next() {
                    apply(&engine, changes);
                    match number {
                        _ if number == flush_at => engine.flush().unwrap(),
                        _ if number == crash_at => engine.crash(),
                        _ => {}
                    }
                }
            }
            prop_assert_eq!(found, expected, "{:?}", table);
        }
    }
}

fn put_version(batch: &mut WriteBatch, key: &str, version: u64) {
    let (mut encoded, value) = (Vec::new(), [0, b'v']);
    key_codec::set_versioned(&mut encoded, &key_codec::prefix("", key.as_bytes()), version);
    batch.put(Table::Data, &encoded, &value);
}

/// The versions in the data table, in order of keys.
fn versions(engine: &MemoryEngine) -> Vec<u64> {
    rows(engine, Table::Data).iter().map(|(key, _)| key_codec::split(key).unwrap().1).collect()
}

#[test]
fn a_flush_drops_superseded_values_and_a_crash_does_not_bring_them_back() {
    let engine = MemoryEngine::new(Durability::UntilFlush);
    write(&engine, |batch| (1..=5).for_each(|version| put_version(batch, "a", version)));
    engine.flush().unwrap();
    assert_eq!(versions(&engine), [5, 4, 3, 2, 1], "a newly opened engine drops nothing");
    engine.set_filter_watermark(3);
    engine.set_filter_watermark(1);
    engine.flush().unwrap();
    assert_eq!(versions(&engine), [5, 4, 3]);
    write(&engine, |batch| put_version(batch, "a", 6));
    engine.crash();
    assert_eq!(versions(&engine), [5, 4, 3]);
    engine.flush().unwrap();
    assert_eq!(versions(&engine), [5, 4, 3]);
}

#[test]
fn each_flush_continues_where_the_last_one_stopped_also_within_a_key() {
    let engine = MemoryEngine::new(Durability::UntilFlush);
    write(&engine, |batch| {
        (1..=2_500).for_each(|version| put_version(batch, "a", version));
        (1..=10).for_each(|version| put_version(batch, "b", version));
    });
    // More versions above the watermark than one flush visits.
    engine.set_filter_watermark(1_200);
    let mut left = Vec::new();
    for _ in 0..4 {
        engine.flush().unwrap();
        left.push(versions(&engine).len());
        // The next pass visits what is written into the part that this pass has visited.
        write(&engine, |batch| put_version(batch, "a", 3_000 + left.len() as u64));
    }
    // Visited: 2,500 to 1,501; to 501, of which 1,200 stays; the rest and all of `b`; then again
    // from the begin.
    assert_eq!(left, [2_510, 2_510 - 699 + 1, 1_301 + 1 + 2, 1_301 + 1 + 3]);
}

#[test]
fn unflushed_values_are_not_dropped_and_supersede_nothing() {
    let engine = MemoryEngine::new(Durability::UntilFlush);
    write(&engine, |batch| (1..=3).for_each(|version| put_version(batch, "a", version)));
    engine.flush().unwrap();
    engine.set_filter_watermark(10);
    write(&engine, |batch| {
        (4..=6).for_each(|version| put_version(batch, "a", version));
        (1..=2).for_each(|version| put_version(batch, "b", version));
        // Removed from the current state only.
        let mut encoded = Vec::new();
        key_codec::set_versioned(&mut encoded, &key_codec::prefix("", b"a"), 3);
        batch.delete(Table::Data, &encoded);
    });
    (0..16).for_each(|_| write(&engine, |_| {}));
    assert_eq!(versions(&engine), [6, 5, 4, 2, 1]);
    engine.crash();
    assert_eq!(versions(&engine), [3]);
}

#[test]
fn compacting_a_range_flushes_and_visits_nothing_else() {
    let engine = MemoryEngine::new(Durability::UntilFlush);
    engine.set_filter_watermark(10);
    write(&engine, |batch| {
        for key in ["a", "b", "c"] {
            (1..=3).for_each(|version| put_version(batch, key, version));
        }
    });
    let bound = |key: &str| key_codec::prefix("", key.as_bytes());
    engine.compact_data(&bound("b"), &bound("c")).unwrap();
    engine.crash();
    assert_eq!(versions(&engine), [3, 2, 1, 3, 3, 2, 1]);
}
