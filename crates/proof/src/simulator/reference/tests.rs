use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitVerdict, FamilyChange, KeyRange, KeyRef, KeySelector, KvError, LoggedWrite, Mutation,
    MutationKind, RangeQuery,
};

use super::Reference;

const SECOND_US: u64 = 1_000_000;

fn clear(begin: &'static str, end: &'static str) -> Mutation {
    Mutation { kind: MutationKind::ClearRange as i32, ..Mutation::set(begin, end) }
}

fn add(key: &'static str, operand: u8) -> Mutation {
    Mutation { kind: MutationKind::Add as i32, ..Mutation::set(key, vec![operand]) }
}

/// A commit at once, with a window of a second.
fn commit(reference: &mut Reference, commit: AtomicCommit) -> CommitVerdict {
    commit_at(reference, 0, commit)
}

fn commit_at(reference: &mut Reference, time_us: u64, commit: AtomicCommit) -> CommitVerdict {
    reference.decide(time_us, &LoggedWrite::commit(commit).within(1_000))
}

fn get(reference: &Reference, key: &str, version: u64) -> Option<Bytes> {
    reference.history.get("", key.as_bytes(), version).cloned()
}

fn reading(read_version: u64, range: (&'static str, &'static str)) -> AtomicCommit {
    let range = KeyRange { begin: range.0.into(), end: range.1.into(), column_family: String::new() };
    let commit = AtomicCommit::of(vec![Mutation::set("other", "")]);
    AtomicCommit { read_version, read_conflict_ranges: vec![range], ..commit }
}

fn conflict(keys: &[&'static str]) -> CommitVerdict {
    Err(KvError::Conflict { keys: keys.iter().map(|key| KeyRef::new(*key)).collect() })
}

#[test]
fn mutations_of_one_commit_see_those_before_them_and_readers_see_them_all_or_none() {
    let mut reference = Reference::default();
    commit(&mut reference, AtomicCommit::of(vec![Mutation::set("a", vec![1]), Mutation::set("b", vec![1])])).unwrap();
    commit(&mut reference, AtomicCommit::of(vec![add("a", 1), clear("a", "c"), add("b", 5), add("b", 5)])).unwrap();
    assert_eq!((get(&reference, "a", 2), get(&reference, "b", 2)), (Some(vec![1].into()), Some(vec![1].into())));
    assert_eq!((get(&reference, "a", 3), get(&reference, "b", 3)), (None, Some(vec![10].into())));
}

#[test]
fn ranges_conflict_with_writes_deletes_and_clears_of_keys_that_never_were() {
    let mut reference = Reference::default();
    commit(&mut reference, AtomicCommit::of(vec![Mutation::delete("c")])).unwrap();
    assert_eq!(commit(&mut reference, reading(1, ("a", "d"))), conflict(&["c"]));
    commit(&mut reference, AtomicCommit::of(vec![clear("a", "b"), clear("b", "f")])).unwrap();
    assert_eq!(commit(&mut reference, reading(2, ("c", "d"))), conflict(&["c"]), "where the clear begins in the range");
    assert_eq!(commit(&mut reference, reading(2, ("0", "z"))), conflict(&["a"]), "clears that touch are one");
    commit(&mut reference, reading(2, ("f", "z"))).expect("the end is not cleared");
    commit(&mut reference, reading(3, ("a", "d"))).expect("nothing came after version 3 but another key");
}

#[test]
fn what_was_newest_a_window_ago_can_be_read_and_nothing_older() {
    let mut reference = Reference::default();
    (1..=5).for_each(|second| {
        let write = AtomicCommit::of(vec![Mutation::set("k", "v")]);
        commit_at(&mut reference, second * SECOND_US, write).unwrap();
    });
    // When the write of the fifth second came, version 5 was the newest.
    let late = commit_at(&mut reference, 6 * SECOND_US, reading(4, ("a", "b")));
    assert_eq!(late, Err(KvError::TransactionTooOld { read_version: 4, oldest: 5 }));
    commit_at(&mut reference, 6 * SECOND_US, reading(5, ("a", "b"))).expect("at the very start of the window");
}

#[test]
fn a_repeat_gets_the_first_result_until_it_is_finished_or_expired() {
    let mut reference = Reference::default();
    let once = AtomicCommit { idempotency_id: "id".into(), ..AtomicCommit::of(vec![add("k", 1)]) };
    let first = commit(&mut reference, once.clone()).unwrap();
    assert_eq!(commit_at(&mut reference, 599 * SECOND_US, once.clone()), Ok(first.clone()));
    assert_eq!(commit_at(&mut reference, 600 * SECOND_US, once.clone()).unwrap().version, first.version + 1);
    let finishing = AtomicCommit { finished_ids: vec!["id".into()], ..AtomicCommit::default() };
    commit_at(&mut reference, 600 * SECOND_US, finishing).unwrap();
    assert_eq!(commit_at(&mut reference, 600 * SECOND_US, once).unwrap().version, first.version + 2);
}

#[test]
fn a_family_that_comes_back_is_empty_and_its_drop_a_conflict() {
    let mut reference = Reference::default();
    let change = |reference: &mut Reference, drop| {
        reference.decide(0, &LoggedWrite::family(FamilyChange { name: "f".into(), drop }))
    };
    let unknown = KvError::UnknownColumnFamily { name: "f".into(), existing: Vec::new() };
    assert_eq!(change(&mut reference, true), Err(unknown.clone()));
    change(&mut reference, false).unwrap();
    let write = AtomicCommit::of(vec![Mutation { column_family: "f".into(), ..Mutation::set("k", "v") }]);
    let written = commit(&mut reference, write.clone()).unwrap().version;
    change(&mut reference, true).unwrap();
    assert_eq!(commit(&mut reference, write), Err(unknown));
    change(&mut reference, false).unwrap();
    assert_eq!(reference.history.get("f", b"k", reference.version), None);
    let read = AtomicCommit { read_conflict_keys: vec!["absent".into()], ..reading(written, ("a", "a")) };
    let key = KeyRef { key: "absent".into(), column_family: "f".into() };
    assert_eq!(commit(&mut reference, read), Err(KvError::Conflict { keys: vec![key] }));
}

#[test]
fn selectors_count_the_keys_that_are_visible_and_stop_at_the_ends() {
    let mut reference = Reference::default();
    let keys = ["a", "b", "c", "d"].map(|key| Mutation::set(key, ""));
    commit(&mut reference, AtomicCommit::of(keys.to_vec())).unwrap();
    commit(&mut reference, AtomicCommit::of(vec![Mutation::delete("b")])).unwrap();
    let selector = |key: &'static str, or_equal, offset| Some(KeySelector { key: key.into(), or_equal, offset });
    let found = |begin_selector, end_selector, version| {
        let query = RangeQuery { begin_selector, end_selector, ..RangeQuery::between("", "\u{7f}") };
        let rows = reference.history.range(&query, version).expect("it is small").rows;
        rows.iter().map(|row| String::from_utf8(row.key.to_vec()).expect("a letter")).collect::<Vec<String>>()
    };
    assert_eq!(found(selector("b", true, 0), None, 2), ["b", "c", "d"], "last less or equal");
    assert_eq!(found(selector("b", true, 0), None, 3), ["a", "c", "d"], "the key before one that is deleted");
    assert_eq!(found(selector("b", false, 1), selector("c", true, 1), 3), ["c"]);
    assert_eq!(found(selector("a", false, 3), selector("x", false, 1), 3), ["d"]);
    assert_eq!(found(selector("a", false, -5), selector("a", false, 9), 3), ["a", "c", "d"], "beyond the ends");
    assert!(found(selector("d", false, 1), selector("a", false, 1), 3).is_empty(), "swapped ends");
}
