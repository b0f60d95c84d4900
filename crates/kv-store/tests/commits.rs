//! Commits and conflict checks, on every engine.

mod support;

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitResult, KeyRef, KvError, MutationKind, Version};
use kv_store::{Durability, MAX_REPORTED_CONFLICTS, StoreOptions, TransactionalKvDatabase};
use stage_times::{Stage, Worker};
use support::{
    apply, apply_one, block_on, commit, commit_having_read, commit_having_read_range, conflict_of, creating, delete,
    in_family, of_kind, place, set,
};

fn on_every_engine(test: impl Fn(&TransactionalKvDatabase)) {
    for place in place::all(Durability::UntilFlush) {
        test(&place.open());
    }
}

fn committed_at(version: u64) -> Result<CommitResult, KvError> {
    Ok(CommitResult { version, ..CommitResult::default() })
}

#[test]
fn an_empty_database_is_at_version_1_and_the_first_commit_gets_2() {
    on_every_engine(|database| {
        assert_eq!(database.applied_version(), Version::EMPTY);
        assert_eq!(apply_one(database, commit([set("a", "1")])), committed_at(2));
        assert_eq!(database.applied_version(), Version(2));
    });
}

#[test]
fn of_two_conflicting_commits_in_one_batch_exactly_one_wins() {
    on_every_engine(|database| {
        apply_one(database, commit([set("balance", "10")])).unwrap();
        let take = |left: &str| commit_having_read(&["balance"], 2, [set("balance", left)]);
        let verdicts = apply(database, &[take("7"), take("4")]);
        assert_eq!(verdicts, [committed_at(3), Err(conflict_of(&["balance"]))]);
        let now = database.read_at(&KeyRef::new("balance"), Version(3)).unwrap();
        assert_eq!(now.as_deref(), Some(&b"7"[..]));
    });
}

#[test]
fn a_refused_commit_takes_no_version_and_writes_nothing() {
    on_every_engine(|database| {
        let refused = commit_having_read(&["a"], 1, [set("b", "2")]);
        let verdicts = apply(database, &[commit([set("a", "1")]), refused, commit([set("c", "3")])]);
        assert_eq!(verdicts, [committed_at(2), Err(conflict_of(&["a"])), committed_at(3)]);
        assert_eq!(database.read_at(&KeyRef::new("b"), Version(3)).unwrap(), None);
        let statistics = database.statistics_now();
        assert_eq!((statistics.committed_transactions, statistics.aborted_transactions), (2, 1));
    });
}

#[test]
fn a_deletion_conflicts_like_a_write_even_of_a_missing_key() {
    on_every_engine(|database| {
        assert_eq!(apply_one(database, commit([delete("never")])), committed_at(2));
        let verdict = apply_one(database, commit_having_read(&["never"], 1, [set("x", "1")]));
        assert_eq!(verdict, Err(conflict_of(&["never"])));
        let verdict = apply_one(database, commit_having_read_range(("m", "o"), 1, [set("x", "1")]));
        assert_eq!(verdict, Err(conflict_of(&["never"])));
    });
}

#[test]
fn a_commit_without_conflict_keys_never_conflicts_whatever_its_read_version() {
    on_every_engine(|database| {
        let blind = AtomicCommit { read_version: 1_000, ..commit([set("a", "1")]) };
        assert_eq!(apply_one(database, blind), committed_at(2));
    });
}

#[test]
fn a_future_read_version_is_refused_when_something_was_read() {
    on_every_engine(|database| {
        let verdict = apply_one(database, commit_having_read(&["a"], 2, [set("a", "1")]));
        assert_eq!(verdict, Err(KvError::FutureVersion { read_version: 2, current: 1 }));
    });
}

#[test]
fn writes_at_the_read_version_itself_do_not_conflict() {
    on_every_engine(|database| {
        apply_one(database, commit([set("a", "1")])).unwrap();
        assert_eq!(apply_one(database, commit_having_read(&["a"], 2, [set("a", "2")])), committed_at(3));
    });
}

#[test]
fn an_empty_commit_succeeds_at_its_read_version_and_changes_nothing() {
    on_every_engine(|database| {
        apply_one(database, commit([set("a", "1")])).unwrap();
        let empty = AtomicCommit { read_version: 1, read_conflicts: vec![KeyRef::new("a")], ..AtomicCommit::default() };
        assert_eq!(apply_one(database, empty), committed_at(1));
        assert_eq!(database.applied_version(), Version(2));
    });
}

#[test]
fn the_last_write_of_a_key_within_a_commit_wins() {
    on_every_engine(|database| {
        let verdict = apply_one(database, commit([set("a", "1"), set("b", "1"), set("a", "2"), delete("b")]));
        assert_eq!(verdict, committed_at(2));
        assert_eq!(database.read_at(&KeyRef::new("a"), Version(2)).unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(database.read_at(&KeyRef::new("b"), Version(2)).unwrap(), None);
        assert_eq!(database.statistics_now().total_keys, 1);
    });
}

#[test]
fn conflict_keys_without_a_family_are_checked_in_every_family() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open();
        apply_one(&database, commit([in_family("orders", set("k", "1"))])).unwrap();
        let read = |key: &'static str| AtomicCommit {
            read_version: 1,
            read_conflict_keys: vec![Bytes::from(key)],
            ..commit([set("x", "1")])
        };
        let conflict =
            Err(KvError::Conflict { keys: vec![KeyRef { key: "k".into(), column_family: "orders".into() }] });
        assert_eq!(apply_one(&database, read("k")), conflict);
        drop(database);
        let database = place.open();
        assert_eq!(apply_one(&database, read("k")), conflict, "after a restart");
        assert_eq!(apply_one(&database, read("other")), committed_at(3));
    }
}

#[test]
fn a_key_of_one_family_is_not_a_key_of_another() {
    on_every_engine(|database| {
        apply_one(database, commit([in_family("f", set("k", "1"))])).unwrap();
        assert_eq!(database.read_at(&KeyRef::new("k"), Version(2)).unwrap(), None);
        assert_eq!(apply_one(database, commit_having_read(&["k"], 1, [set("k", "2")])), committed_at(3));
        let in_f = KeyRef { key: "k".into(), column_family: "f".into() };
        assert_eq!(database.read_at(&in_f, Version(3)).unwrap().as_deref(), Some(&b"1"[..]));
    });
}

#[test]
fn a_conflict_names_the_first_hundred_keys_whether_from_the_index_or_the_engine() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open();
        let keys: Vec<String> = (0..300).map(|i| format!("k{i:03}")).collect();
        apply_one(&database, commit(keys.iter().map(|key| set(key, "1")).collect::<Vec<_>>())).unwrap();
        let first: Vec<&str> = keys.iter().take(MAX_REPORTED_CONFLICTS).map(String::as_str).collect();
        let range = commit_having_read_range(("k", "l"), 1, [set("x", "1")]);
        assert_eq!(apply_one(&database, range.clone()), Err(conflict_of(&first)));
        drop(database);
        let database = place.open_with_index(0);
        assert_eq!(apply_one(&database, range), Err(conflict_of(&first)));
    }
}

#[test]
fn stamps_carry_the_commit_version_and_count_within_the_commit() {
    on_every_engine(|database| {
        let stamped_key = of_kind(MutationKind::SetVersionstampedKey, b"log/__________", b"entry");
        let mut stamped_value = of_kind(MutationKind::SetVersionstampedValue, b"last", b"__________ was the stamp");
        stamped_value.stamp_offset = Some(0);
        let result = apply_one(database, commit([stamped_key, stamped_value])).unwrap();
        let key = Bytes::from_static(b"log/\0\0\0\0\0\0\0\x02\0\0");
        let value = Bytes::from_static(b"\0\0\0\0\0\0\0\x02\0\x01 was the stamp");
        assert_eq!(result.generated_keys, std::slice::from_ref(&key));
        assert_eq!(result.generated_values, std::slice::from_ref(&value));
        assert_eq!(database.read_at(&KeyRef::new(key), Version(2)).unwrap().as_deref(), Some(&b"entry"[..]));
        assert_eq!(database.read_at(&KeyRef::new("last"), Version(2)).unwrap(), Some(value));
    });
}

#[test]
fn a_stamp_without_room_is_an_invalid_operation() {
    on_every_engine(|database| {
        let short = of_kind(MutationKind::SetVersionstampedKey, b"123456789", b"");
        let mut beyond = of_kind(MutationKind::SetVersionstampedValue, b"k", b"0123456789");
        beyond.stamp_offset = Some(1);
        let mut far_beyond = beyond.clone();
        far_beyond.stamp_offset = Some(u32::MAX);
        for mutation in [short, beyond, far_beyond] {
            let verdict = apply_one(database, commit([set("a", "1"), mutation]));
            assert!(matches!(verdict, Err(KvError::InvalidOperation(_))), "{verdict:?}");
        }
        assert_eq!(database.applied_version(), Version::EMPTY);
    });
}

#[test]
fn a_commit_holds_at_most_65536_stamps() {
    on_every_engine(|database| {
        let stamped = of_kind(MutationKind::SetVersionstampedKey, b"__________", b"");
        let verdict = apply_one(database, commit(vec![stamped.clone(); 65_537]));
        assert!(matches!(verdict, Err(KvError::InvalidOperation(_))), "{verdict:?}");
        let result = apply_one(database, commit(vec![stamped; 65_536])).unwrap();
        assert_eq!(result.generated_keys.last().unwrap().as_ref(), b"\0\0\0\0\0\0\0\x02\xff\xff");
        assert_eq!(database.statistics_now().total_keys, 65_536);
    });
}

#[test]
fn an_unknown_kind_of_mutation_is_refused() {
    on_every_engine(|database| {
        let unknown = kv_api::Mutation { kind: 99, ..set("a", "1") };
        assert!(matches!(apply_one(database, commit([unknown])), Err(KvError::InvalidOperation(_))));
        assert_eq!(database.applied_version(), Version::EMPTY);
    });
}

#[test]
fn a_family_name_that_is_too_long_is_refused_everywhere() {
    on_every_engine(|database| {
        let name = "f".repeat(256);
        let verdict = apply_one(database, commit([in_family(&name, set("a", "1"))]));
        assert!(matches!(verdict, Err(KvError::InvalidOperation(_))), "{verdict:?}");
        let key = KeyRef { key: "a".into(), column_family: name };
        assert!(matches!(database.read_at(&key, Version(1)), Err(KvError::UnknownColumnFamily { .. })));
        let having_read = AtomicCommit { read_version: 1, read_conflicts: vec![key], ..commit([set("a", "1")]) };
        assert!(matches!(apply_one(database, having_read), Err(KvError::InvalidOperation(_))));
    });
}

#[test]
fn the_row_count_is_exact_through_deletes_and_restarts() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open_with_index(1);
        apply(&database, &[commit([set("a", "1"), set("b", "1")]), commit([delete("a"), delete("missing")])]);
        assert_eq!(database.statistics_now().total_keys, 1);
        drop(database);
        let database = place.open_with_index(1);
        assert_eq!(database.statistics_now().total_keys, 1);
        apply(&database, &[commit([set("b", "2")]), commit([set("a", "2")]), commit([delete("b")])]);
        assert_eq!(database.statistics_now().total_keys, 1);
    }
}

#[test]
fn an_empty_range_conflicts_with_nothing() {
    on_every_engine(|database| {
        apply_one(database, commit([set("a", "1"), set("b", "1"), set("c", "1")])).unwrap();
        apply_one(database, commit([of_kind(MutationKind::ClearRange, b"a", b"c"), set("b", "2")])).unwrap();
        for empty in [("b", "b"), ("c", "a"), ("aa", "aa")] {
            assert!(apply_one(database, commit_having_read_range(empty, 2, [set("x", "1")])).is_ok(), "{empty:?}");
        }
        let found = |range| apply_one(database, commit_having_read_range(range, 2, [set("x", "1")]));
        assert_eq!(found(("aa", "ab")), Err(conflict_of(&["aa"])));
        assert!(found(("c", "d")).is_ok(), "a range ends before its end");
    });
}

#[test]
fn each_write_of_a_group_commit_passes_each_stage_once_and_in_no_more_than_its_time() {
    for place in place::all(Durability::EveryWrite) {
        let database = place.open_with(StoreOptions::standalone());
        let begun = std::time::Instant::now();
        let pending: Vec<_> =
            (0..5).map(|_| database.submit(creating(commit([set("k", "v")]))).expect("there is room")).collect();
        for write in pending {
            block_on(write).expect("no conflict");
        }
        let most = begun.elapsed() * 5;
        let seen = database.stages().expect("it is standalone").snapshot(std::time::Instant::now());
        let stages = [Stage::Queue, Stage::Apply, Stage::LogSync, Stage::Reply];
        assert_eq!(stages.map(|stage| seen.stage(stage).count()), [5; 4]);
        let sum: u64 = stages.iter().map(|stage| seen.stage(*stage).sum_ns).sum();
        assert!(u128::from(sum) <= most.as_nanos(), "{sum} ns in stages, in {most:?}");
        assert_eq!(seen.stage(Stage::Quorum).count(), 0);
        assert!(Worker::ALL.iter().all(|worker| !seen.busy(*worker).is_zero()));
    }
}
