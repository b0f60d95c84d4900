//! Reads at a version, on every engine.

mod support;

use bytes::Bytes;
use kv_api::{KeyRef, KvError, RangeQuery, Version};
use kv_store::{Durability, TransactionalKvDatabase};
use support::{apply, apply_one, commit, delete, in_family, place, set};

fn on_every_engine(test: impl Fn(&TransactionalKvDatabase)) {
    for place in place::all(Durability::UntilFlush) {
        test(&place.open());
    }
}

fn range(begin: &str, end: &str) -> RangeQuery {
    RangeQuery { max_bytes: 1 << 20, ..RangeQuery::between(begin.to_owned(), end.to_owned()) }
}

fn keys(database: &TransactionalKvDatabase, query: &RangeQuery, version: u64) -> (Vec<Bytes>, bool) {
    let rows = database.range_at(query, Version(version)).unwrap();
    (rows.rows.into_iter().map(|row| row.key).collect(), rows.has_more)
}

#[test]
fn a_snapshot_read_ignores_later_commits() {
    on_every_engine(|database| {
        apply(database, &[commit([set("a", "old")]), commit([set("a", "new"), set("b", "1")]), commit([delete("a")])]);
        let read = |version| database.read_at(&KeyRef::new("a"), Version(version)).unwrap();
        assert_eq!([read(1), read(2), read(3), read(4)], [None, Some("old".into()), Some("new".into()), None]);
        assert_eq!(keys(database, &range("a", "z"), 2), (vec!["a".into()], false));
        assert_eq!(keys(database, &range("a", "z"), 3), (vec!["a".into(), "b".into()], false));
        assert_eq!(keys(database, &range("a", "z"), 4), (vec!["b".into()], false));
    });
}

#[test]
fn a_version_that_is_not_applied_yet_is_refused() {
    on_every_engine(|database| {
        let error = KvError::FutureVersion { read_version: 2, current: 1 };
        assert_eq!(database.read_at(&KeyRef::new("a"), Version(2)), Err(error.clone()));
        assert_eq!(database.range_at(&range("a", "b"), Version(2)), Err(error.clone()));
        assert_eq!(database.hash_rows("", b"", Version(2), 1), Err(error));
    });
}

#[test]
fn binary_keys_and_their_prefixes_come_in_byte_order() {
    on_every_engine(|database| {
        let mut all: Vec<Bytes> =
            [&b"\0"[..], b"\0\0", b"\0\x01", b"\0\xff", b"\x01", b"a", b"a\0", b"a\0\0", b"a\x01", b"\xff", b"\xff\0"]
                .iter()
                .map(|key| Bytes::copy_from_slice(key))
                .collect();
        all.reverse();
        let sets = all.iter().map(|key| kv_api::Mutation::set(key.clone(), "")).collect::<Vec<_>>();
        apply_one(database, commit(sets)).unwrap();
        all.reverse();
        let everything = RangeQuery { end: Bytes::from_static(&[0xff; 3]), ..range("", "") };
        assert_eq!(keys(database, &everything, 2).0, all);
        assert_eq!(
            keys(database, &RangeQuery { reverse: true, ..everything }, 2).0,
            all.into_iter().rev().collect::<Vec<_>>()
        );
    });
}

#[test]
fn has_more_is_true_exactly_when_another_row_exists() {
    on_every_engine(|database| {
        apply(database, &[commit([set("a", "1"), set("b", "1"), set("c", "1")]), commit([delete("c")])]);
        let limited = |limit| RangeQuery { limit: Some(limit), ..range("a", "z") };
        assert_eq!(keys(database, &limited(2), 3), (vec!["a".into(), "b".into()], false));
        assert_eq!(keys(database, &limited(2), 2), (vec!["a".into(), "b".into()], true));
        assert_eq!(keys(database, &limited(0), 3), (vec![], true));
        let reverse = RangeQuery { reverse: true, ..limited(1) };
        assert_eq!(keys(database, &reverse, 3), (vec!["b".into()], true));
        assert_eq!(keys(database, &RangeQuery { skip: 1, ..reverse }, 3), (vec!["a".into()], false));
    });
}

#[test]
fn an_inverted_range_is_empty() {
    on_every_engine(|database| {
        apply_one(database, commit([set("m", "1")])).unwrap();
        assert_eq!(keys(database, &range("z", "a"), 2), (vec![], false));
        assert_eq!(keys(database, &range("m", "m"), 2), (vec![], false));
    });
}

#[test]
fn a_reply_is_cut_by_bytes_only_for_a_caller_that_allows_it() {
    on_every_engine(|database| {
        apply_one(database, commit([set("a", "12345"), set("b", "12345"), set("c", "12345")])).unwrap();
        let too_small = RangeQuery { max_bytes: 50, ..range("a", "z") };
        assert_eq!(database.range_at(&too_small, Version(2)), Err(KvError::ResultTooLarge { limit: 50 }));
        let cut = RangeQuery { target_bytes: Some(7), ..range("a", "z") };
        assert_eq!(keys(database, &cut, 2), (vec!["a".into(), "b".into()], true));
        let cut_at_maximum = RangeQuery { target_bytes: Some(1000), ..too_small };
        assert_eq!(keys(database, &cut_at_maximum, 2), (vec!["a".into(), "b".into()], true));
    });
}

#[test]
fn a_key_with_very_many_versions_is_read_at_each_of_them() {
    on_every_engine(|database| {
        let commits: Vec<_> = (0..100).map(|i| commit([set("hot", &i.to_string())])).collect();
        apply_one(database, commit([set("before", ""), set("next", "")])).unwrap();
        apply(database, &commits);
        for version in [3, 20, 50, 102] {
            let value = Bytes::from((version - 3).to_string());
            assert_eq!(database.read_at(&KeyRef::new("hot"), Version(version)).unwrap(), Some(value.clone()));
            for reverse in [false, true] {
                let rows = database.range_at(&RangeQuery { reverse, ..range("a", "z") }, Version(version)).unwrap();
                assert_eq!(rows.rows.len(), 3);
                assert_eq!(rows.rows[1].value, value);
            }
        }
        assert_eq!(keys(database, &range("a", "z"), 2), (vec!["before".into(), "next".into()], false));
    });
}

#[test]
fn hashes_of_rows_in_pieces_cover_each_row_once_and_tell_differences() {
    on_every_engine(|database| {
        let sets = (0..10).map(|i| set(&format!("k{i}"), "v")).collect::<Vec<_>>();
        apply(database, &[commit(sets), commit([set("k5", "w"), in_family("k", set("k", "other family"))])]);
        let hash = |begin: &[u8], version, limit| database.hash_rows("", begin, Version(version), limit).unwrap();
        let (first, all) = (hash(b"", 3, 4), hash(b"", 3, 100));
        assert_eq!((first.count, first.next.as_deref()), (4, Some(&b"k4"[..])));
        assert_eq!((all.count, all.next.clone()), (10, None));
        let rest = hash(b"k4", 3, 6);
        assert_eq!((rest.count, rest.next), (6, None));
        assert_eq!(hash(b"", 2, 4), first);
        assert_ne!(hash(b"", 2, 100).hash, all.hash);
    });
}

#[test]
fn statistics_of_the_engine_are_figures_of_this_database() {
    on_every_engine(|database| {
        apply_one(database, commit([set("a", &"v".repeat(100_000))])).unwrap();
        assert!(database.unflushed_bytes() >= 100_000);
        assert!(database.statistics_now().total_size_bytes >= 100_000);
        database.flush().unwrap();
        assert!(database.unflushed_bytes() < 100_000, "{}", database.unflushed_bytes());
    });
}
