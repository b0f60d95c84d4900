//! Tests that a transaction reads its own writes, against a model that applies every mutation to a
//! map in order.

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::{Mutation, MutationKind, Row, Rows, Version, atomic};
use proptest::prelude::*;

use super::merge::{Merger, ReadRange, Step};
use super::range_set::RangeSet;
use super::writes::{LocalValue, Unreadable, Writes};
use crate::keys::key_after;
use crate::stamped::{Stamped, VERSIONSTAMP_BYTES, first_stamp_after};

const READ_VERSION: Version = Version(7);
/// Sorts after every key of the tests.
const LAST: &[u8] = &[0xFF; 14];

type Map = BTreeMap<Bytes, Bytes>;

// The model.

fn execute(map: &mut Map, mutation: &Mutation, stamp: &[u8; VERSIONSTAMP_BYTES]) {
    let Mutation { key, value, .. } = mutation.clone();
    let stamped = |bytes: Bytes| {
        let offset = mutation.stamp_offset.expect("stamped mutations have an offset") as usize;
        Stamped::at(bytes, offset).expect("there is room").with_stamp(stamp)
    };
    match mutation.kind() {
        MutationKind::Set => drop(map.insert(key, value)),
        MutationKind::Delete => drop(map.remove(&key)),
        MutationKind::ClearRange => map.retain(|existing, _| *existing < key || *existing >= value),
        MutationKind::SetVersionstampedKey => drop(map.insert(stamped(key), value)),
        MutationKind::SetVersionstampedValue => drop(map.insert(key, stamped(value))),
        kind => {
            let changed = atomic::apply(kind, map.remove(&key), &value);
            changed.into_iter().for_each(|value| drop(map.insert(key.clone(), value)));
        }
    }
}

/// The database after the mutations have been executed. Each stamped mutation gets a stamp of its
/// own.
fn executed(database: &Map, mutations: &[Mutation], version: Version) -> Map {
    let mut map = database.clone();
    for (count, mutation) in mutations.iter().enumerate() {
        let mut stamp = first_stamp_after(Version(version.0 - 1));
        stamp[8..].copy_from_slice(&(count as u16).to_be_bytes());
        execute(&mut map, mutation, &stamp);
    }
    map
}

fn expected_rows(map: &Map, scan: &Scan) -> Vec<Row> {
    if scan.begin >= scan.end {
        return Vec::new();
    }
    let row = |(key, value): (&Bytes, &Bytes)| Row { key: key.clone(), value: value.clone() };
    let mut rows: Vec<Row> = map.range(scan.begin.clone()..scan.end.clone()).map(row).collect();
    if scan.reverse {
        rows.reverse();
    }
    rows.truncate(scan.limit);
    rows
}

// The code under test.

fn write(writes: &mut Writes, mutation: &Mutation) {
    let Mutation { key, value, .. } = mutation.clone();
    let offset = mutation.stamp_offset.unwrap_or(0) as usize;
    let stamped = |bytes: Bytes| Stamped::at(bytes, offset).expect("there is room");
    match mutation.kind() {
        MutationKind::Set => writes.set("", key, value),
        MutationKind::Delete => writes.delete("", key),
        MutationKind::ClearRange => writes.clear_range("", key, value),
        MutationKind::SetVersionstampedKey => writes.set_stamped_key("", stamped(key), value),
        MutationKind::SetVersionstampedValue => writes.set_stamped_value("", key, stamped(value)),
        kind => writes.atomic("", kind, key, value),
    }
}

fn written(mutations: &[Mutation]) -> Writes {
    let mut writes = Writes::new();
    mutations.iter().for_each(|mutation| write(&mut writes, mutation));
    writes
}

#[derive(Clone, Debug)]
struct Scan {
    begin: Bytes,
    end: Bytes,
    reverse: bool,
    limit: usize,
    /// Number of rows in a page of the server.
    page_rows: usize,
}

fn serve(database: &Map, begin: &Bytes, end: &Bytes, scan: &Scan) -> Rows {
    assert!(begin < end, "an empty range was requested");
    let everything = Scan { begin: begin.clone(), end: end.clone(), limit: usize::MAX, ..scan.clone() };
    let mut rows = expected_rows(database, &everything);
    let has_more = rows.len() > scan.page_rows;
    rows.truncate(scan.page_rows);
    Rows { rows, has_more }
}

/// The next row. Serves as many pages as that takes.
fn next_row(
    merger: &mut Merger,
    database: &Map,
    writes: &Writes,
    scan: &Scan,
    read: &mut Vec<ReadRange>,
) -> Result<Option<Row>, Unreadable> {
    loop {
        match merger.step(writes, "", read) {
            Step::Row(row) => return Ok(Some(row)),
            Step::End => return Ok(None),
            Step::Unreadable(_) => return Err(Unreadable),
            Step::Fetch { begin, end } => {
                let rows = serve(database, &begin, &end, scan);
                merger.feed(begin, end, rows).expect("the page is valid");
            }
        }
    }
}

/// The rows of a scan, and the keys that it read from the database.
fn scanned(database: &Map, writes: &Writes, scan: &Scan) -> Result<(Vec<Row>, RangeSet), Unreadable> {
    let mut merger = Merger::new(scan.begin.clone(), scan.end.clone(), scan.reverse);
    let mut read = Vec::new();
    let mut rows = Vec::new();
    while rows.len() < scan.limit
        && let Some(row) = next_row(&mut merger, database, writes, scan, &mut read)?
    {
        rows.push(row);
    }
    let mut set = RangeSet::new();
    read.into_iter().for_each(|(begin, end)| set.insert(begin, end));
    Ok((rows, set))
}

// Random cases.

fn all_keys() -> Vec<Bytes> {
    let letters = b"abc";
    let short = letters.iter().map(|a| vec![*a]);
    let long = letters.iter().flat_map(|a| letters.iter().map(|b| vec![*a, *b]));
    short.chain(long).map(Bytes::from).collect()
}

fn a_key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(all_keys())
}

fn a_value() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0x7F, 0xFF]), 0..3).prop_map(Bytes::from)
}

/// A position between keys: at a key, right after one, before all keys, or after all keys.
fn a_position() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        6 => a_key(),
        2 => a_key().prop_map(|key| key_after(&key)),
        1 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(LAST)),
    ]
}

fn a_database() -> impl Strategy<Value = Map> {
    prop::collection::btree_map(a_key(), a_value(), 0..12)
}

fn a_mutation() -> impl Strategy<Value = Mutation> {
    let kinds = vec![
        MutationKind::Add,
        MutationKind::Min,
        MutationKind::Max,
        MutationKind::ByteMin,
        MutationKind::ByteMax,
        MutationKind::BitAnd,
        MutationKind::BitOr,
        MutationKind::BitXor,
        MutationKind::AppendIfFits,
        MutationKind::CompareAndClear,
    ];
    let of = |kind: MutationKind, key, value| Mutation { kind: kind as i32, key, value, ..Mutation::default() };
    prop_oneof![
        3 => (a_key(), a_value()).prop_map(|(key, value)| Mutation::set(key, value)),
        2 => a_key().prop_map(Mutation::delete),
        2 => (a_position(), a_position()).prop_map(move |(begin, end)| of(MutationKind::ClearRange, begin, end)),
        4 => (prop::sample::select(kinds), a_key(), a_value()).prop_map(move |(kind, key, value)| of(kind, key, value)),
    ]
}

/// As [`a_mutation`], and also mutations with versionstamps, whose keys end up among the others.
fn a_mutation_maybe_stamped() -> impl Strategy<Value = Mutation> {
    let of = |kind: MutationKind, key, value: Bytes, offset: usize| Mutation {
        kind: kind as i32,
        key,
        value,
        stamp_offset: Some(offset as u32),
        ..Mutation::default()
    };
    let stamped = |prefix: Bytes, suffix: Bytes| Stamped::between(prefix, suffix);
    prop_oneof![
        6 => a_mutation(),
        1 => (a_key(), a_value(), a_value()).prop_map(move |(prefix, suffix, value)| {
            let key = stamped(prefix, suffix);
            of(MutationKind::SetVersionstampedKey, key.bytes.clone(), value, key.offset)
        }),
        1 => (a_key(), a_value()).prop_map(move |(key, prefix)| {
            let value = stamped(prefix, Bytes::new());
            of(MutationKind::SetVersionstampedValue, key, value.bytes.clone(), value.offset)
        }),
        // A clear of all keys with a prefix, whatever stamp they get.
        1 => a_key().prop_map(|key| {
            let end = crate::keys::prefix_end(&key);
            Mutation { kind: MutationKind::ClearRange as i32, key, value: end, ..Mutation::default() }
        }),
    ]
}

fn a_scan() -> impl Strategy<Value = Scan> {
    let limit = prop_oneof![Just(usize::MAX), 1..6usize];
    (a_position(), a_position(), any::<bool>(), limit, 1..4usize)
        .prop_map(|(begin, end, reverse, limit, page_rows)| Scan { begin, end, reverse, limit, page_rows })
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    prop::collection::vec(a_mutation(), 0..10)
}

/// Copies of the database in which another client has changed one key.
fn changes_of(database: &Map, key: &Bytes) -> Vec<Map> {
    let values = [None, Some(""), Some("\x01"), Some("\x02\x01"), Some("\x7f"), Some("other")];
    let changed = |value: Option<&'static str>| {
        let mut map = database.clone();
        map.remove(key);
        value.into_iter().for_each(|value| drop(map.insert(key.clone(), value.into())));
        map
    };
    values.into_iter().map(changed).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_range_shows_the_database_with_own_writes_on_top(
        database in a_database(), mutations in mutations(), scan in a_scan(),
    ) {
        let (rows, _) = scanned(&database, &written(&mutations), &scan).expect("nothing is stamped");
        prop_assert_eq!(rows, expected_rows(&executed(&database, &mutations, Version(8)), &scan));
    }

    #[test]
    fn a_key_shows_the_database_with_own_writes_on_top(
        database in a_database(), mutations in mutations(), key in a_key(),
    ) {
        let writes = written(&mutations);
        let value = match writes.local("", &key) {
            LocalValue::Known(value) => value,
            LocalValue::Unreadable => panic!("nothing is stamped"),
            LocalValue::Operations(operations) => atomic::apply_all(&operations, database.get(&key).cloned()),
        };
        let after = executed(&database, &mutations, Version(8));
        prop_assert_eq!(value.as_ref(), after.get(&key));
    }

    #[test]
    fn the_commit_has_the_same_effect_as_all_calls_in_order(
        database in a_database(), mutations in prop::collection::vec(a_mutation_maybe_stamped(), 0..12),
    ) {
        // The commit drops stamped values that were overwritten, which changes the counters of
        // later stamps. Use one stamp for all mutations, so that this does not matter.
        let same_stamp = |mutations: &[Mutation]| {
            let mut map = database.clone();
            mutations.iter().for_each(|mutation| execute(&mut map, mutation, &[9; VERSIONSTAMP_BYTES]));
            map
        };
        let writes = written(&mutations);
        prop_assert_eq!(same_stamp(&writes.mutations()), same_stamp(&mutations));
        let size: usize = writes.mutations().iter().map(|mutation| mutation.key.len() + mutation.value.len()).sum();
        prop_assert_eq!(writes.size_bytes(), size);
    }

    /// Every key at which a concurrent write would change the rows counts as read.
    #[test]
    fn every_key_on_which_the_rows_depend_counts_as_read(
        database in a_database(), mutations in mutations(), scan in a_scan(),
    ) {
        let writes = written(&mutations);
        let (rows, read) = scanned(&database, &writes, &scan).expect("nothing is stamped");
        for key in all_keys() {
            for changed in changes_of(&database, &key) {
                let (others, _) = scanned(&changed, &writes, &scan).expect("nothing is stamped");
                prop_assert!(
                    others == rows || read.containing(&key).is_some(),
                    "{:?} matters, but does not count as read: {:?}", key, read
                );
            }
        }
    }

    /// No key counts as read that the scan has not reached or whose value local writes determine.
    #[test]
    fn no_other_key_counts_as_read(database in a_database(), mutations in mutations(), scan in a_scan()) {
        let writes = written(&mutations);
        let (rows, read) = scanned(&database, &writes, &scan).expect("nothing is stamped");
        let last = rows.last().filter(|_| rows.len() == scan.limit).map(|row| &row.key);
        for key in all_keys() {
            let is_beyond = last.is_some_and(|last| if scan.reverse { key < *last } else { key > *last });
            let is_within = scan.begin <= key && key < scan.end && !is_beyond;
            let is_local = matches!(writes.local("", &key), LocalValue::Known(_));
            prop_assert_eq!(read.containing(&key).is_some(), is_within && !is_local, "{:?} {:?}", key, read);
        }
    }

    #[test]
    fn rows_reflect_own_writes_at_the_moment_in_which_they_are_returned(
        database in a_database(), before in mutations(), scan in a_scan(),
        between in prop::collection::vec(prop::collection::vec(a_mutation(), 0..3), 0..8),
    ) {
        let mut mutations = before;
        let mut writes = written(&mutations);
        let mut left = Scan { limit: 1, ..scan.clone() };
        let mut merger = Merger::new(scan.begin.clone(), scan.end.clone(), scan.reverse);
        for more in between {
            let row = next_row(&mut merger, &database, &writes, &scan, &mut Vec::new()).expect("nothing is stamped");
            let expected = expected_rows(&executed(&database, &mutations, Version(8)), &left);
            prop_assert_eq!(row.as_ref(), expected.first());
            let Some(row) = row else { break };
            if scan.reverse { left.end = row.key } else { left.begin = key_after(&row.key) }
            more.iter().for_each(|mutation| write(&mut writes, mutation));
            mutations.extend(more);
        }
    }

    /// A read that succeeds although there are stamped keys and values has a result that does not
    /// depend on the stamp.
    #[test]
    fn no_stamp_can_change_the_result_of_a_read(
        database in a_database(), scan in a_scan(), is_version_late in any::<bool>(),
        mutations in prop::collection::vec(a_mutation_maybe_stamped(), 0..8), version in 8..300u64,
    ) {
        let mut writes = Writes::new();
        if !is_version_late {
            writes.set_read_version(READ_VERSION);
        }
        mutations.iter().for_each(|mutation| write(&mut writes, mutation));
        if is_version_late {
            writes.set_read_version(READ_VERSION);
        }
        let after = executed(&database, &mutations, Version(version));
        if let Ok((rows, _)) = scanned(&database, &writes, &scan) {
            prop_assert_eq!(rows, expected_rows(&after, &scan));
        }
        for key in all_keys() {
            let value = match writes.local("", &key) {
                LocalValue::Known(value) => value,
                LocalValue::Unreadable => continue,
                LocalValue::Operations(operations) => atomic::apply_all(&operations, database.get(&key).cloned()),
            };
            prop_assert_eq!(value.as_ref(), after.get(&key), "{:?}", key);
        }
    }
}

#[test]
fn a_stamped_key_makes_only_those_positions_unreadable_at_which_it_may_end_up() {
    let mut writes = Writes::new();
    writes.set_read_version(READ_VERSION);
    let job = Stamped::after("jobs/");
    let earlier = job.with_stamp(&first_stamp_after(Version(3)));
    writes.set_stamped_key("", job, "mine".into());
    let database = Map::from([(earlier.clone(), "theirs".into()), ("other".into(), "".into())]);
    let scan = |begin: &Bytes, end: &'static str| Scan {
        begin: begin.clone(),
        end: end.into(),
        reverse: false,
        limit: usize::MAX,
        page_rows: 10,
    };
    // An older job can be read, but the queue cannot be read to its end.
    let first_only = Scan { limit: 1, ..scan(&"jobs/".into(), "jobs0") };
    assert_eq!(scanned(&database, &writes, &first_only).map(|(rows, _)| rows.len()), Ok(1));
    assert_eq!(scanned(&database, &writes, &scan(&"jobs/".into(), "jobs0")).err(), Some(Unreadable));
    assert_eq!(scanned(&database, &writes, &scan(&"jobs0".into(), "z")).map(|(rows, _)| rows.len()), Ok(1));
    assert_eq!(writes.local("", &earlier), LocalValue::Operations(Vec::new()));
    writes.clear_range("", "jobs/".into(), "jobs0".into());
    assert_eq!(scanned(&database, &writes, &scan(&"jobs/".into(), "z")).map(|(rows, _)| rows.len()), Ok(1));
}

#[test]
fn overwritten_mutations_are_not_sent() {
    let mut writes = Writes::new();
    writes.atomic("", MutationKind::Add, "k".into(), "\x01".into());
    writes.set("", "k".into(), "v".into());
    writes.set("other", "k".into(), "v".into());
    writes.delete("", "k".into());
    writes.clear_range("", "j".into(), "k\0\0".into());
    writes.clear_range("", "a".into(), "z".into());
    let kinds: Vec<MutationKind> = writes.mutations().iter().map(Mutation::kind).collect();
    assert_eq!(kinds, [MutationKind::Set, MutationKind::ClearRange]);
}
