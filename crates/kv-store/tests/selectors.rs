//! Ranges between key selectors, on every engine.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use kv_api::{KeySelector, KvError, Mutation, MutationKind, RangeQuery, Row, Version};
use kv_store::{Durability, TransactionalKvDatabase};
use proptest::collection::vec;
use proptest::prelude::*;
use support::model::{self, FAMILIES, range_query};
use support::place::{self, Place};
use support::{apply, apply_one, commit, create_family, delete, in_family, of_kind, set};

fn on_every_engine(test: impl Fn(&TransactionalKvDatabase)) {
    for place in place::all(Durability::UntilFlush) {
        test(&place.open());
    }
}

fn between(begin: KeySelector, end: KeySelector) -> RangeQuery {
    RangeQuery { begin_selector: Some(begin), end_selector: Some(end), ..RangeQuery::between("", "") }
}

fn keys(database: &TransactionalKvDatabase, query: &RangeQuery) -> (String, bool) {
    let rows = database.range_at(query, database.applied_version()).unwrap();
    let keys: Vec<u8> = rows.rows.iter().flat_map(|row| row.key.to_vec()).collect();
    (String::from_utf8(keys).unwrap(), rows.has_more)
}

/// Rows b, d, f and h in the default family, between rows of two other families.
fn four_keys(database: &TransactionalKvDatabase) {
    let sets = ["b", "d", "f", "h"].map(|key| set(key, "v"));
    let others = ["a", "z"].map(|family| in_family(family, set("other", "v")));
    apply_one(database, commit([sets.as_slice(), &others].concat())).unwrap();
}

#[test]
fn a_selector_counts_keys_from_its_own_and_stops_at_the_ends_of_the_family() {
    on_every_engine(|database| {
        four_keys(database);
        // The first row of a range that begins at the selector and ends with the family.
        let table = [
            ("c", false, 1, "dfh"),
            ("d", false, 1, "dfh"),
            ("d", true, 1, "fh"),
            ("d", false, 0, "bdfh"),
            ("d", true, 0, "dfh"),
            ("e", false, 0, "dfh"),
            ("e", false, 3, ""),
            ("e", false, 2, "h"),
            ("h", true, -1, "fh"),
            ("z", false, -2, "dfh"),
            ("b", false, 0, "bdfh"),
            ("", false, 1, "bdfh"),
            ("", false, -100_000, "bdfh"),
            ("", true, 100_000, ""),
            ("z", true, 1, ""),
        ];
        let end = KeySelector::first_greater_than("\x7f");
        for (key, or_equal, offset, expected) in table {
            let selector = KeySelector { key: key.into(), or_equal, offset };
            assert_eq!(keys(database, &between(selector.clone(), end.clone())).0, expected, "from {selector:?}");
            let begin = KeySelector::first_greater_or_equal("");
            let before = "bdfh".strip_suffix(expected).unwrap();
            assert_eq!(keys(database, &between(begin, selector.clone())).0, before, "up to {selector:?}");
        }
    });
}

#[test]
fn a_bound_with_a_selector_combines_with_one_without() {
    on_every_engine(|database| {
        four_keys(database);
        let from = RangeQuery {
            begin_selector: Some(KeySelector::last_less_than("d")),
            ..RangeQuery::between("not looked at", "f")
        };
        assert_eq!(keys(database, &from), ("bd".into(), false));
        let until =
            RangeQuery { end_selector: Some(KeySelector::last_less_or_equal("h")), ..RangeQuery::between("c", "") };
        assert_eq!(keys(database, &until), ("df".into(), false));
        let inverted = between(KeySelector::first_greater_than("f"), KeySelector::first_greater_or_equal("b"));
        assert_eq!(keys(database, &inverted), (String::new(), false));
    });
}

#[test]
fn has_more_is_exact_between_selectors() {
    on_every_engine(|database| {
        four_keys(database);
        let all = between(KeySelector::first_greater_or_equal("b"), KeySelector::first_greater_than("h"));
        let limited = |limit| RangeQuery { limit: Some(limit), ..all.clone() };
        assert_eq!(keys(database, &limited(4)), ("bdfh".into(), false));
        assert_eq!(keys(database, &limited(3)), ("bdf".into(), true));
        assert_eq!(keys(database, &RangeQuery { reverse: true, ..limited(3) }), ("hfd".into(), true));
        assert_eq!(keys(database, &RangeQuery { skip: 1, reverse: true, ..limited(3) }), ("fdb".into(), false));
        assert_eq!(keys(database, &RangeQuery { skip: 4, ..limited(3) }), (String::new(), false));
        assert_eq!(keys(database, &RangeQuery { target_bytes: Some(3), ..all }), ("bd".into(), true));
    });
}

#[test]
fn selectors_see_their_version_and_neither_cleared_nor_deleted_keys() {
    on_every_engine(|database| {
        four_keys(database);
        let clear = of_kind(MutationKind::ClearRange, b"c", b"g");
        apply(database, &[commit([clear]), commit([set("e", "v")]), commit([delete("b")])]);
        let second_before_h = between(
            KeySelector { key: "h".into(), or_equal: false, offset: -1 },
            KeySelector::first_greater_or_equal("h"),
        );
        let at = |version| {
            let rows = database.range_at(&second_before_h, Version(version)).unwrap().rows;
            rows.into_iter().map(|row| row.key).collect::<Vec<Bytes>>()
        };
        assert_eq!(at(2), ["d", "f"]);
        assert_eq!(at(3), ["b"]);
        assert_eq!(at(4), ["b", "e"]);
        assert_eq!(at(5), ["e"]);
        assert_eq!(at(1), Vec::<Bytes>::new());
    });
}

#[test]
fn a_read_that_nobody_waits_for_ends() {
    on_every_engine(|database| {
        let sets: Vec<_> = (0..5000).map(|n| set(&format!("{n:04}"), "")).collect();
        let clear = of_kind(MutationKind::ClearRange, b"", b"\xff");
        apply(database, &[commit(sets), commit([clear]), commit([set("2500", "again")])]);
        let nobody_waits = |query: &RangeQuery, version| database.range_at_while(query, Version(version), &|| false);
        let long = RangeQuery::between("", "\x7f");
        assert!(matches!(nobody_waits(&long, 2), Err(KvError::Timeout(_))));
        assert!(matches!(nobody_waits(&long, 4), Err(KvError::Timeout(_))), "also where it finds next to nothing");
        let backward = RangeQuery { reverse: true, ..long.clone() };
        assert!(matches!(nobody_waits(&backward, 4), Err(KvError::Timeout(_))));
        for query in [&long, &backward] {
            let rows = nobody_waits(query, 3).expect("nothing was written after the clear: it is skipped");
            assert_eq!(rows.rows, []);
        }
        let far = KeySelector { key: "".into(), or_equal: false, offset: 4000 };
        let from_far = RangeQuery { begin_selector: Some(far), limit: Some(1), ..long };
        assert!(matches!(nobody_waits(&from_far, 2), Err(KvError::Timeout(_))));
        assert_eq!(keys(database, &RangeQuery { limit: Some(1), ..RangeQuery::between("", "\x7f") }).0, "2500");
        assert!(nobody_waits(&RangeQuery { limit: Some(1), ..RangeQuery::between("", "\x7f") }, 2).is_ok());
    });
}

/// Sets, deletes and range clears in the default family, one commit each.
fn changes() -> impl Strategy<Value = Vec<Mutation>> {
    let set = (model::key(), vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Mutation::set(key, value));
    let delete = model::key().prop_map(Mutation::delete);
    let clear = (model::key(), model::key())
        .prop_map(|(a, b)| of_kind(MutationKind::ClearRange, a.as_ref().min(&b), a.as_ref().max(&b)));
    vec(prop_oneof![6 => set, 2 => delete, 2 => clear], 1..40)
}

/// The rows after each change, beginning with none.
fn states(changes: &[Mutation]) -> Vec<Vec<Row>> {
    let mut rows: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut states = vec![Vec::new()];
    for change in changes {
        match change.kind() {
            MutationKind::Set => drop(rows.insert(change.key.clone(), change.value.clone())),
            MutationKind::Delete => drop(rows.remove(&change.key)),
            _ => rows.retain(|key, _| *key < change.key || *key >= change.value),
        }
        let state = rows.iter().map(|(key, value)| Row { key: key.clone(), value: value.clone() });
        states.push(state.collect());
    }
    states
}

fn check(place: &Place, changes: &[Mutation], queries: &[RangeQuery]) {
    let database = place.open();
    FAMILIES.iter().filter(|name| !name.is_empty()).for_each(|name| create_family(&database, name));
    apply(&database, &changes.iter().map(|change| commit([change.clone()])).collect::<Vec<_>>());
    for (version, state) in (1..).zip(states(changes)) {
        for query in queries {
            let rows = if query.column_family.is_empty() { state.as_slice() } else { &[] };
            let answer = model::answer(rows, query);
            assert_eq!(database.range_at(query, Version(version)), answer, "{query:?} at {version}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn ranges_among_range_clears_agree_with_the_model(changes in changes(), queries in vec(range_query(), 12)) {
        check(&place::all(Durability::UntilFlush).remove(0), &changes, &queries);
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn ranges_among_range_clears_agree_with_the_model_on_rocksdb(
        changes in changes(), queries in vec(range_query(), 12),
    ) {
        check(&place::all(Durability::UntilFlush).remove(1), &changes, &queries);
    }
}
