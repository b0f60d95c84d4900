//! Readers, pins, copies and garbage collection against a writer, in every schedule with few
//! switches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kv_api::{
    AtomicCommit, KeyRef, KvError, LoggedWrite, Mutation, MutationKind, RangeQuery, Row, Rows, TimedWrite, Version,
};

use super::{StoreOptions, TransactionalKvDatabase};
use crate::sync::schedules::{Scene, every_schedule};
use crate::{DatabaseInstall, Durability, MemoryEngine, MemoryInstall, StateBlob};

const HOUR: Duration = Duration::from_secs(3600);
/// A version of which every row is deleted, cleared or overwritten later.
const OLD: Version = Version(2);
/// The newest version of [`filled`].
const NEW: Version = Version(4);
const TOO_OLD: KvError = KvError::TransactionTooOld { read_version: OLD.0, oldest: NEW.0 };

fn set(key: &'static str, value: &'static str) -> Mutation {
    Mutation::set(key, value)
}

fn clear(begin: &'static str, end: &'static str) -> Mutation {
    Mutation { kind: MutationKind::ClearRange as i32, ..Mutation::set(begin, end) }
}

fn write(time_ms: u64, write: LoggedWrite) -> TimedWrite {
    TimedWrite { time_us: time_ms * 1_000, write: write.within(10) }
}

fn commit(time_ms: u64, mutations: impl Into<Vec<Mutation>>) -> TimedWrite {
    write(time_ms, LoggedWrite::commit(AtomicCommit::of(mutations.into())))
}

/// A write far beyond the readable window of all earlier ones.
fn much_later() -> TimedWrite {
    write(2_000, LoggedWrite { passes_time: true, ..LoggedWrite::default() })
}

fn apply(database: &TransactionalKvDatabase, sequence: u64, writes: &[TimedWrite]) {
    let verdicts = database.prepare(writes).unwrap().commit(StateBlob { sequence, blob: Bytes::new() }).unwrap();
    verdicts.into_iter().for_each(|verdict| drop(verdict.unwrap()));
}

fn options() -> StoreOptions {
    let options = StoreOptions::replicated();
    StoreOptions { conflict_index_entries: 8, known_keys: 8, row_cache_bytes: 10_000, collect_every: None, ..options }
}

/// Of the rows of [`OLD`] one is deleted, one overwritten, and one cleared.
fn filled() -> Arc<TransactionalKvDatabase> {
    let engine = Arc::new(MemoryEngine::new(Durability::UntilFlush));
    let database = TransactionalKvDatabase::open(engine, options()).unwrap();
    apply(&database, 1, &[commit(1_000, [set("a", "old"), set("b", "old"), set("c", "old")])]);
    apply(&database, 2, &[commit(1_001, [Mutation::delete("a"), set("b", "new")]), commit(1_001, [clear("c", "d")])]);
    database
}

/// Lets the window pass, and removes everything that nobody can read then.
fn collect_all(database: &TransactionalKvDatabase) {
    apply(database, 3, &[much_later()]);
    while database.collect_garbage(100).unwrap().more {}
    database.flush().unwrap();
    database.collect_garbage(100).unwrap();
    database.core.engine.compact_data(&[], &[0xff]).unwrap();
}

fn rows(keys: &[(&'static str, &'static str)]) -> Vec<Row> {
    keys.iter().map(|(key, value)| Row { key: (*key).into(), value: (*value).into() }).collect()
}

fn old_rows() -> Vec<Row> {
    rows(&[("a", "old"), ("b", "old"), ("c", "old")])
}

fn everything() -> RangeQuery {
    RangeQuery::between(Bytes::new(), Bytes::from_static(&[0xff]))
}

fn all_rows(database: &TransactionalKvDatabase, version: Version) -> Result<Vec<Row>, KvError> {
    database.range_at(&everything(), version).map(|Rows { rows, .. }| rows)
}

/// The outcomes that were seen in all runs.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<BTreeSet<&'static str>>>);

impl Outcomes {
    fn add(&self, outcome: &'static str) {
        self.0.lock().unwrap().insert(outcome);
    }

    /// Records whether a read was answered, which must be as `expected`, or came too late.
    fn add_read<T: PartialEq + std::fmt::Debug>(&self, read: Result<T, KvError>, expected: T) {
        match read {
            Ok(found) => {
                assert_eq!(found, expected);
                self.add("answered");
            }
            Err(error) => {
                assert_eq!(error, TOO_OLD);
                self.add("too old");
            }
        }
    }

    #[track_caller]
    fn assert_all(&self, all: &[&'static str]) {
        assert_eq!(*self.0.lock().unwrap(), all.iter().copied().collect());
    }
}

/// Tries a read of [`OLD`] while all that it looks for is removed.
fn collect_during(switches: usize, read: fn(&TransactionalKvDatabase, &Outcomes)) {
    let outcomes = Outcomes::default();
    every_schedule(switches, || {
        let (database, outcomes) = (filled(), outcomes.clone());
        let collector = database.clone();
        Scene::default().thread(move || read(&database, &outcomes)).thread(move || collect_all(&collector))
    });
    outcomes.assert_all(&["answered", "too old"]);
}

#[test]
fn a_range_read_during_collection_finds_all_of_its_version_or_is_too_old() {
    collect_during(2, |database, outcomes| outcomes.add_read(all_rows(database, OLD), old_rows()));
}

#[test]
fn a_backward_range_read_during_collection_finds_all_of_its_version_or_is_too_old() {
    collect_during(1, |database, outcomes| {
        let query = RangeQuery { reverse: true, ..everything() };
        let found = database.range_at(&query, OLD).map(|found| found.rows);
        outcomes.add_read(found, old_rows().into_iter().rev().collect());
    });
}

#[test]
fn rows_hashed_during_collection_are_all_of_their_version_or_too_old() {
    collect_during(1, |database, outcomes| {
        let hashed = database.hash_rows("", b"", OLD, 10);
        outcomes.add_read(hashed.map(|hash| hash.count), 3);
    });
}

#[test]
fn a_key_read_during_collection_is_that_of_its_version_or_too_old() {
    for key in ["a", "b", "c"] {
        let outcomes = Outcomes::default();
        every_schedule(1, || {
            let (database, outcomes) = (filled(), outcomes.clone());
            let collector = database.clone();
            let read = move || outcomes.add_read(database.read_at(&KeyRef::new(key), OLD), Some("old".into()));
            Scene::default().thread(read).thread(move || collect_all(&collector))
        });
        outcomes.assert_all(&["answered", "too old"]);
    }
}

/// The version after [`NEW`]. It brings a family, a clear, and a later oldest readable version.
const NEXT: Version = Version(NEW.0 + 1);

fn write_next(database: &TransactionalKvDatabase) {
    let in_family = Mutation { column_family: "f".into(), ..set("y", "1") };
    let commit = AtomicCommit::of(vec![clear("a", "d"), set("x", "1"), in_family]);
    let with_family = LoggedWrite { creates: vec!["f".into()], ..LoggedWrite::commit(commit) };
    apply(database, 3, &[write(2_000, with_family)]);
}

fn key_of_next() -> KeyRef {
    KeyRef { column_family: "f".into(), ..KeyRef::new("y") }
}

#[test]
fn a_reader_that_sees_a_version_sees_all_that_came_with_it() {
    let outcomes = Outcomes::default();
    every_schedule(2, || {
        let (database, outcomes) = (filled(), outcomes.clone());
        let writer = database.clone();
        let observe = move || match database.applied_version() {
            NEW => {
                assert_eq!(all_rows(&database, NEW), Ok(rows(&[("b", "new")])));
                outcomes.add("before");
            }
            version => {
                assert_eq!(version, NEXT);
                assert_eq!(database.oldest_readable(), NEW, "the oldest readable version came with it");
                assert_eq!(database.column_families().as_slice(), ["f"]);
                assert_eq!(all_rows(&database, NEXT), Ok(rows(&[("x", "1")])));
                assert_eq!(database.read_at(&key_of_next(), NEXT), Ok(Some("1".into())));
                assert_eq!(database.statistics_now().total_keys, 4, "two of them hidden by clears");
                outcomes.add("after");
            }
        };
        Scene::default().thread(observe).thread(move || write_next(&writer))
    });
    outcomes.assert_all(&["before", "after"]);
}

/// Whether a read at [`NEXT`] has the right answer.
type IsRight = fn(&TransactionalKvDatabase) -> Result<bool, KvError>;

#[test]
fn a_read_at_a_version_that_is_being_applied_finds_all_of_it_or_is_refused() {
    let reads: [IsRight; 4] = [
        |database| all_rows(database, NEXT).map(|found| found == rows(&[("x", "1")])),
        |database| database.read_at(&KeyRef::new("b"), NEXT).map(|found| found.is_none()),
        |database| database.read_at(&key_of_next(), NEXT).map(|found| found.is_some()),
        |database| database.hash_rows("", b"", NEXT, 10).map(|hash| hash.count == 1),
    ];
    for read in reads {
        let outcomes = Outcomes::default();
        every_schedule(2, || {
            let (database, outcomes) = (filled(), outcomes.clone());
            let writer = database.clone();
            let observe = move || match read(&database) {
                Ok(is_right) => {
                    assert!(is_right);
                    outcomes.add("applied");
                }
                Err(error) => {
                    assert_eq!(error, KvError::FutureVersion { read_version: NEXT.0, current: NEW.0 });
                    outcomes.add("to come");
                }
            };
            Scene::default().thread(observe).thread(move || write_next(&writer))
        });
        outcomes.assert_all(&["applied", "to come"]);
    }
}

#[test]
fn a_row_read_during_a_write_is_not_what_later_reads_are_answered_with() {
    let outcomes = Outcomes::default();
    every_schedule(2, || {
        let (database, outcomes) = (filled(), outcomes.clone());
        let (writer, reader, end) = (database.clone(), database.clone(), database.clone());
        let read_before = move || {
            let value = reader.read_at(&KeyRef::new("b"), NEW);
            assert_eq!(value, Ok(Some(Bytes::from_static(b"new"))));
        };
        let read_newest = move || {
            let newest = database.applied_version();
            let expected = (newest == NEW).then(|| Bytes::from_static(b"new"));
            assert_eq!(database.read_at(&KeyRef::new("b"), newest), Ok(expected));
            outcomes.add(if newest == NEW { "before" } else { "after" });
        };
        let check = move || assert_eq!(end.read_at(&KeyRef::new("b"), NEXT), Ok(None));
        Scene::default().thread(read_before).thread(read_newest).thread(move || write_next(&writer)).end(check)
    });
    outcomes.assert_all(&["before", "after"]);
}

/// A way to keep a version beyond the window.
type Keep = fn(&TransactionalKvDatabase) -> Result<(), KvError>;

const WAYS_TO_KEEP: [Keep; 2] = [|database| database.pin(OLD, HOUR), |database| database.hold(OLD, HOUR)];

#[test]
fn a_version_that_was_kept_in_time_stays_readable_and_another_is_refused() {
    for keep in WAYS_TO_KEEP {
        let outcomes = Outcomes::default();
        every_schedule(2, || {
            let (database, outcomes) = (filled(), outcomes.clone());
            let (collector, end) = (database.clone(), database.clone());
            let is_kept = Arc::new(Mutex::new(false));
            let is_kept_at_end = is_kept.clone();
            let keep = move || {
                let kept = keep(&database);
                *is_kept.lock().unwrap() = kept.is_ok();
                outcomes.add_read(kept, ());
            };
            let check = move || {
                let expected = if *is_kept_at_end.lock().unwrap() { Ok(old_rows()) } else { Err(TOO_OLD) };
                assert_eq!(all_rows(&end, OLD), expected);
            };
            Scene::default().thread(keep).thread(move || collect_all(&collector)).end(check)
        });
        outcomes.assert_all(&["answered", "too old"]);
    }
}

#[test]
fn a_refused_pin_makes_no_version_readable() {
    for (keep, other) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        every_schedule(1, || {
            let database = filled();
            collect_all(&database);
            let attempt = |keep: Keep| {
                let database = database.clone();
                move || assert_eq!(keep(&database), Err(TOO_OLD))
            };
            let (keeper, other) = (attempt(WAYS_TO_KEEP[keep]), attempt(WAYS_TO_KEEP[other]));
            let read = move || {
                assert_eq!(database.read_at(&KeyRef::new("a"), OLD), Err(TOO_OLD));
                assert_eq!(all_rows(&database, OLD), Err(TOO_OLD));
            };
            Scene::default().thread(keeper).thread(other).thread(read)
        });
    }
}

#[test]
fn rows_written_during_collection_stay_and_count() {
    every_schedule(2, || {
        let database = filled();
        apply(&database, 3, &[much_later()]);
        let (writer, collector) = (database.clone(), database.clone());
        let write = move || {
            apply(&writer, 4, &[commit(2_001, [set("a", "again"), set("c", "again")])]);
            apply(&writer, 5, &[commit(2_002, [clear("b", "c")])]);
        };
        let collect = move || while collector.collect_garbage(2).unwrap().more {};
        let check = move || {
            let left = rows(&[("a", "again"), ("c", "again")]);
            let newest = database.applied_version();
            assert_eq!(all_rows(&database, newest), Ok(left.clone()));
            apply(&database, 6, &[TimedWrite { time_us: 3_000_000, ..much_later() }]);
            while database.collect_garbage(100).unwrap().more {}
            assert_eq!(all_rows(&database, newest), Ok(left));
            assert_eq!((database.statistics_now().total_keys, database.retention().stored_versions), (2, Some(2)));
        };
        Scene::default().thread(write).thread(collect).end(check)
    });
}

#[test]
fn a_copy_made_during_writes_and_collection_is_of_one_moment() {
    let outcomes = Outcomes::default();
    every_schedule(1, || {
        let (database, outcomes) = (filled(), outcomes.clone());
        let writer = database.clone();
        let copy = move || {
            let mut copy = database.copy().unwrap();
            let bytes = copy.read(0, copy.total_bytes() as usize).unwrap();
            let install = Box::new(MemoryInstall::new(Durability::UntilFlush));
            let mut install = DatabaseInstall::new(install, options());
            install.write(&bytes).unwrap();
            let (copied, state) = install.finish().unwrap();
            assert_eq!(*copy.state(), state, "the copy is labelled with its state");
            let before = rows(&[("b", "new")]);
            let (outcome, version, expected) = match state.sequence {
                2 => ("before", NEW, before),
                3 => ("collected", NEW, before),
                _ => ("written", Version(NEW.0 + 1), rows(&[("b", "new"), ("c", "again")])),
            };
            assert_eq!(copied.applied_version(), version);
            assert_eq!(all_rows(&copied, version), Ok(expected.clone()));
            while copied.collect_garbage(100).unwrap().more {}
            assert_eq!(all_rows(&copied, version), Ok(expected));
            outcomes.add(outcome);
        };
        let write = move || {
            collect_all(&writer);
            apply(&writer, 4, &[commit(2_001, [set("c", "again")])]);
        };
        Scene::default().thread(copy).thread(write)
    });
    outcomes.assert_all(&["before", "collected", "written"]);
}
