//! A database keeps what it has to know when it is closed, or killed after all was persisted: each
//! kind of state by itself, and all of them against a database that is never closed.

mod support;

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitVerdict, FamilyChange, KeyRange, KeyRef, KvError, LoggedWrite, Mutation, MutationKind,
    RangeQuery, Rows, TimedWrite, Version,
};
use kv_store::{Durability, Engine, MAX_RECENT_CLEARS, StoreOptions, TransactionalKvDatabase};
use proptest::collection::vec;
use proptest::prelude::*;
use support::place::{self, Place};
use support::{
    apply_writes, block_on, commit, commit_having_read, conflict_of, creating, delete, in_family, of_kind, set,
};

const SECOND_US: u64 = 1_000_000;

/// A database that is opened many times.
struct Session {
    place: Place,
    options: StoreOptions,
    /// Whether the process is killed each time, after everything was persisted, instead of ended in
    /// order.
    is_killed: bool,
    open: Option<(Arc<dyn Engine>, Arc<TransactionalKvDatabase>)>,
}

impl Session {
    fn new(place: Place, options: StoreOptions, is_killed: bool) -> Self {
        let options = StoreOptions { collect_every: None, conflict_index_entries: 4, known_keys: 4, ..options };
        let mut session = Session { place, options, is_killed, open: None };
        session.open();
        session
    }

    fn open(&mut self) {
        let engine = self.place.engine();
        let database = TransactionalKvDatabase::open(engine.clone(), self.options).unwrap();
        self.open = Some((engine, database));
    }

    fn open_again(&mut self) {
        let (engine, database) = self.open.take().expect("it is open");
        drop(database);
        if self.is_killed {
            engine.flush().unwrap();
            self.place.crash_engine(engine);
        } else {
            drop(engine);
        }
        self.open();
    }

    fn write(&self, time_us: u64, write: LoggedWrite) -> CommitVerdict {
        apply_writes(self, &[TimedWrite { time_us, write }]).remove(0)
    }

    fn commit(&self, time_us: u64, commit: AtomicCommit) -> CommitVerdict {
        self.write(time_us, creating(commit))
    }

    /// Advances replicated time, with a readable window of a second.
    fn pass_time(&self, time_us: u64) {
        self.write(time_us, LoggedWrite::clock_tick().within(1_000)).unwrap();
    }

    fn read(&self, key: &'static str, version: u64) -> Result<Option<Bytes>, KvError> {
        self.read_at(&KeyRef::new(key), Version(version))
    }

    fn rows(&self, version: u64) -> Vec<Bytes> {
        let all = RangeQuery::between(Bytes::new(), Bytes::from_static(&[0xff; 20]));
        let Rows { rows, .. } = self.range_at(&all, Version(version)).unwrap();
        rows.into_iter().map(|row| row.key).collect()
    }

    fn collect_all(&self) {
        while self.collect_garbage(100).unwrap().more {}
    }

    fn compact(&self) {
        self.open.as_ref().expect("it is open").0.compact_data(&[], &[0xff]).unwrap();
    }
}

impl Deref for Session {
    type Target = TransactionalKvDatabase;

    fn deref(&self) -> &TransactionalKvDatabase {
        &self.open.as_ref().expect("it is open").1
    }
}

/// On every engine, with every kind of durability, closed in order and killed.
fn in_every_way(options: StoreOptions, test: impl Fn(&mut Session)) {
    for durability in [Durability::UntilFlush, Durability::EveryWrite] {
        for is_killed in [false, true] {
            for place in place::all(durability) {
                test(&mut Session::new(place, options, is_killed));
            }
        }
    }
}

fn of_replicas(test: impl Fn(&mut Session)) {
    in_every_way(StoreOptions::replicated(), test);
}

fn clear(begin: &str, end: &str) -> Mutation {
    of_kind(MutationKind::ClearRange, begin.as_bytes(), end.as_bytes())
}

fn with_id(id: &'static str, commit: AtomicCommit) -> AtomicCommit {
    AtomicCommit { idempotency_id: id.into(), ..commit }
}

fn too_old(read_version: u64, oldest: u64) -> KvError {
    KvError::TransactionTooOld { read_version, oldest }
}

#[test]
fn versions_and_rows_continue_where_they_were() {
    of_replicas(|session| {
        session.commit(0, commit([set("a", "1"), set("b", "1")])).unwrap();
        session.open_again();
        assert_eq!((session.applied_version(), session.statistics_now().total_keys), (Version(2), 2));
        assert_eq!(session.commit(0, commit([delete("a"), set("c", "1")])).unwrap().version, 3);
        session.open_again();
        assert_eq!((session.applied_version(), session.statistics_now().total_keys), (Version(3), 2));
        assert_eq!((session.rows(2), session.rows(3)), (vec!["a".into(), "b".into()], vec!["b".into(), "c".into()]));
    });
}

#[test]
fn no_stamp_is_given_twice() {
    of_replicas(|session| {
        let stamp = |session: &Session| {
            let stamped = of_kind(MutationKind::SetVersionstampedKey, &[0; 10], b"");
            session.commit(0, commit([stamped.clone(), stamped])).unwrap().generated_keys
        };
        let mut stamps = stamp(session);
        for _ in 0..3 {
            session.open_again();
            let more = stamp(session);
            assert!(
                more.iter().all(|stamp| stamps.last().is_some_and(|last| last < stamp)),
                "{stamps:?}, then {more:?}"
            );
            stamps.extend(more);
        }
    });
}

#[test]
fn reads_conflict_with_writes_from_before_the_restart() {
    of_replicas(|session| {
        session.commit(0, commit([set("a", "1"), set("b", "1"), set("gone", "1")])).unwrap();
        session.commit(0, commit([set("a", "2"), delete("gone")])).unwrap();
        session.open_again();
        assert_eq!(session.commit(0, commit_having_read(&["a"], 2, [set("x", "1")])), Err(conflict_of(&["a"])));
        assert_eq!(session.commit(0, commit_having_read(&["gone"], 2, [set("x", "1")])), Err(conflict_of(&["gone"])));
        let range = KeyRange { begin: "a".into(), end: "z".into(), column_family: String::new() };
        let having_read =
            AtomicCommit { read_version: 2, read_conflict_ranges: vec![range], ..commit([set("x", "1")]) };
        assert_eq!(session.commit(0, having_read), Err(conflict_of(&["a", "gone"])));
        assert!(session.commit(0, commit_having_read(&["b"], 2, [set("x", "1")])).is_ok());
    });
}

#[test]
fn a_version_that_is_too_old_stays_too_old() {
    of_replicas(|session| {
        session.commit(SECOND_US, commit([set("a", "1")])).unwrap();
        session.commit(2 * SECOND_US, commit([set("a", "2")])).unwrap();
        session.pass_time(10 * SECOND_US);
        session.open_again();
        assert_eq!(session.oldest_readable(), Version(3));
        assert_eq!((session.read("a", 2), session.read("a", 3)), (Err(too_old(2, 3)), Ok(Some("2".into()))));
        let having_read = |version| commit_having_read(&["b"], version, [set("x", "1")]);
        assert_eq!(session.commit(10 * SECOND_US, having_read(2)), Err(too_old(2, 3)));
        assert!(session.commit(10 * SECOND_US, having_read(3)).is_ok());
        assert_eq!(session.pin(Version(2), Duration::from_secs(60)), Err(too_old(2, 3)));
    });
}

#[test]
fn versions_stay_readable_for_the_rest_of_their_window() {
    of_replicas(|session| {
        // One version every tenth of a second, in a window of a second.
        let at = |version: u64| version * SECOND_US / 10;
        for version in 2..=40 {
            let write = creating(commit([set("a", "1")])).within(1_000);
            session.write(at(version), write).unwrap();
            session.open_again();
            assert_eq!(session.oldest_readable().0, version.saturating_sub(11).max(1), "at {version}");
        }
    });
}

#[test]
fn replicated_time_does_not_go_back() {
    of_replicas(|session| {
        session.pass_time(1_000 * SECOND_US);
        session.open_again();
        // At a time in the past: the result is kept for its whole lifetime from now on.
        session.commit(0, with_id("id", commit([set("a", "1")]))).unwrap();
        session.open_again();
        session.pass_time(1_600 * SECOND_US - 1);
        assert_eq!(session.retention().remembered_ids, 1);
        session.open_again();
        session.pass_time(1_600 * SECOND_US);
        assert_eq!(session.retention().remembered_ids, 0);
    });
}

#[test]
fn a_repeat_gets_the_first_result_until_it_expires_or_is_finished() {
    of_replicas(|session| {
        let stamped = of_kind(MutationKind::SetVersionstampedValue, b"a", &[0; 10]);
        let once = || with_id("id", commit([stamped.clone()]));
        let first = session.commit(SECOND_US, once()).unwrap();
        session.commit(SECOND_US, with_id("done", commit([set("b", "1")]))).unwrap();
        session.open_again();
        assert_eq!(session.retention().remembered_ids, 2);
        assert_eq!(session.commit(600 * SECOND_US, once()), Ok(first.clone()));
        let another = session.commit(600 * SECOND_US, with_id("id", commit([set("a", "2")])));
        assert!(matches!(another, Err(KvError::InvalidOperation(_))), "{another:?}");
        let finished = AtomicCommit { finished_ids: vec!["done".into()], ..commit([set("c", "1")]) };
        assert_eq!(session.commit(600 * SECOND_US, finished).unwrap().version, 4);
        session.open_again();
        assert_eq!((session.retention().remembered_ids, session.applied_version()), (1, Version(4)));
        assert_eq!(session.commit(601 * SECOND_US - 1, once()), Ok(first));
        assert_eq!(session.commit(601 * SECOND_US, once()).unwrap().version, 5);
    });
}

#[test]
fn families_exist_or_are_dropped_as_before() {
    of_replicas(|session| {
        let drop_family = |name: &str| LoggedWrite::family(FamilyChange { name: name.into(), drop: true });
        session.commit(SECOND_US, commit([in_family("f", set("a", "1")), in_family("g", set("a", "1"))])).unwrap();
        session.write(2 * SECOND_US, drop_family("f")).unwrap();
        session.open_again();
        assert_eq!(session.column_families().as_slice(), ["g"]);
        let of_key = |family: &str| KeyRef { column_family: family.into(), ..KeyRef::new("a") };
        assert!(matches!(session.read_at(&of_key("f"), Version(3)), Err(KvError::UnknownColumnFamily { .. })));
        assert_eq!(session.read_at(&of_key("g"), Version(3)), Ok(Some("1".into())));
        // A conflict key without a family is checked in the dropped family, too, while somebody may
        // have read it there.
        let read_somewhere =
            || AtomicCommit { read_version: 2, read_conflict_keys: vec!["a".into()], ..commit([set("x", "1")]) };
        assert_eq!(session.commit(2 * SECOND_US, read_somewhere()), Err(KvError::Conflict { keys: vec![of_key("f")] }));
        session.pass_time(4 * SECOND_US);
        session.open_again();
        assert_eq!(session.column_families().as_slice(), ["g"]);
        assert_eq!(session.commit(4 * SECOND_US, read_somewhere()), Err(too_old(2, 3)));
        // Created again, it has no rows.
        session.commit(4 * SECOND_US, commit([in_family("f", set("b", "1"))])).unwrap();
        session.open_again();
        assert_eq!(session.column_families().as_slice(), ["f", "g"]);
        assert_eq!(session.read_at(&of_key("f"), session.applied_version()), Ok(None));
    });
}

#[test]
fn cleared_ranges_stay_cleared_whether_they_are_collected_or_not() {
    of_replicas(|session| {
        session.commit(SECOND_US, commit(["a", "b", "c", "d"].map(|key| set(key, "1")))).unwrap();
        session.commit(2 * SECOND_US, commit([clear("b", "d"), set("c", "2")])).unwrap();
        session.open_again();
        let check = |session: &Session| {
            assert_eq!(session.rows(3), ["a", "c", "d"].map(Bytes::from));
            assert_eq!(session.read("b", 3), Ok(None));
        };
        check(session);
        assert_eq!((session.pending_clears(), session.rows(2).len()), (1, 4));
        let cleared = commit_having_read(&["b"], 2, [set("x", "1")]);
        assert_eq!(session.commit(2 * SECOND_US, cleared), Err(conflict_of(&["b"])));
        session.pass_time(10 * SECOND_US);
        // Three steps, each in another process.
        for _ in 0..3 {
            session.open_again();
            session.collect_garbage(1).unwrap();
            check(session);
        }
        session.open_again();
        session.collect_all();
        session.open_again();
        check(session);
        let figures = (session.pending_clears(), session.statistics_now().total_keys);
        assert_eq!(figures, (0, 3));
    });
}

#[test]
fn the_next_process_collects_what_was_deleted_and_nothing_else() {
    of_replicas(|session| {
        session.commit(SECOND_US, commit([set("a", "1"), set("b", "1"), set("c", "1")])).unwrap();
        session.commit(SECOND_US, commit([delete("a"), delete("c")])).unwrap();
        session.commit(SECOND_US, commit([set("c", "2")])).unwrap();
        session.pass_time(10 * SECOND_US);
        session.open_again();
        session.collect_garbage(1).unwrap();
        session.open_again();
        session.collect_all();
        assert_eq!(session.rows(4), ["b", "c"].map(Bytes::from));
        assert_eq!(session.statistics_now().total_keys, 2);
        session.open_again();
        assert_eq!(session.rows(4), ["b", "c"].map(Bytes::from));
        assert_eq!(session.collect_garbage(100).unwrap().removed_versions, 0);
    });
}

#[test]
fn versions_that_compactions_dropped_are_too_old_for_the_next_process() {
    of_replicas(|session| {
        session.commit(SECOND_US, commit([set("a", "1")])).unwrap();
        session.commit(2 * SECOND_US, commit([set("a", "2")])).unwrap();
        session.pass_time(10 * SECOND_US);
        session.collect_all();
        session.flush().unwrap();
        session.open_again();
        session.collect_all();
        session.compact();
        session.open_again();
        assert_eq!((session.read("a", 2), session.read("a", 3)), (Err(too_old(2, 3)), Ok(Some("2".into()))));
    });
}

#[test]
fn the_limit_of_clears_within_the_window_counts_those_from_before_the_restart() {
    let session = &mut Session::new(place::all(Durability::UntilFlush).remove(0), StoreOptions::replicated(), false);
    // A key between them keeps them apart.
    let one = |number: usize| clear(&format!("{number:06}"), &format!("{number:06}x"));
    let clears = |count: usize| commit((0..count).map(one).collect::<Vec<_>>());
    session.commit(SECOND_US, clears(MAX_RECENT_CLEARS)).unwrap();
    session.open_again();
    let refused = session.commit(SECOND_US, clears(1));
    assert!(matches!(refused, Err(KvError::Overloaded(_))), "{refused:?}");
    session.pass_time(10 * SECOND_US);
    session.open_again();
    assert!(session.commit(10 * SECOND_US, clears(1)).is_ok());
}

/// The time of a database that has run for days.
const DAYS_US: u64 = 1_000_000 * SECOND_US;

#[test]
fn the_time_of_a_standalone_database_continues_where_it_was() {
    in_every_way(StoreOptions::standalone(), |session| {
        session.pass_time(DAYS_US);
        let once = with_id("id", commit([set("a", "1")]));
        let first = block_on(session.submit(LoggedWrite::commit(once.clone())).unwrap()).unwrap();
        for _ in 0..2 {
            session.open_again();
            assert_eq!(block_on(session.submit(LoggedWrite::commit(once.clone())).unwrap()), Ok(first.clone()));
            // The window advances only with time.
            let written = block_on(session.submit(LoggedWrite::commit(commit([set("a", "2")]))).unwrap()).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while session.oldest_readable() < written.version() {
                assert!(Instant::now() < deadline, "time stands still");
                block_on(session.submit(LoggedWrite::clock_tick().within(1)).unwrap()).unwrap();
            }
        }
    });
}

fn key() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("d"), Just("e")]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let family = prop_oneof![2 => Just(""), 1 => Just("f"), 1 => Just("g")];
    let any = prop_oneof![
        4 => (key(), "[xy]").prop_map(|(key, value)| set(key, &value)),
        2 => key().prop_map(delete),
        2 => (key(), key()).prop_map(|(one, other)| clear(one.min(other), one.max(other))),
        1 => Just(of_kind(MutationKind::SetVersionstampedKey, &[0; 10], b"v")),
        1 => key().prop_map(|key| of_kind(MutationKind::Add, key.as_bytes(), &[1])),
    ];
    (family, any).prop_map(|(family, mutation)| in_family(family, mutation))
}

/// A commit, and how many versions before the newest one its read version is.
fn any_commit() -> impl Strategy<Value = (AtomicCommit, u64)> {
    let id = prop_oneof![3 => Just(""), 1 => Just("i"), 1 => Just("j")];
    let finished = prop_oneof![6 => Just(vec![]), 1 => Just(vec![Bytes::from("i")])];
    let range = (key(), key()).prop_map(|(begin, end)| KeyRange {
        begin: begin.into(),
        end: end.into(),
        column_family: String::new(),
    });
    (vec(mutation(), 0..4), id, finished, vec(key(), 0..2), vec(range, 0..2), 0..6_u64).prop_map(
        |(mutations, id, finished_ids, keys, read_conflict_ranges, age)| {
            let read_conflict_keys = keys.into_iter().map(Bytes::from).collect();
            let commit = AtomicCommit { finished_ids, read_conflict_keys, read_conflict_ranges, ..commit(mutations) };
            (with_id(id, commit), age)
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Commit(AtomicCommit, u64),
    DropFamily(&'static str),
    PassTime,
    Collect,
    OpenAgain,
}

/// Each step with the time since the one before.
fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let pause = prop_oneof![2 => Just(0), 2 => 0..100_000_u64, 1 => Just(SECOND_US), 1 => Just(300 * SECOND_US)];
    let step = prop_oneof![
        10 => any_commit().prop_map(|(commit, age)| Step::Commit(commit, age)),
        1 => prop_oneof![Just("f"), Just("g")].prop_map(Step::DropFamily),
        1 => Just(Step::PassTime),
        1 => Just(Step::Collect),
        4 => Just(Step::OpenAgain),
    ];
    vec((pause, step), 1..60)
}

/// All that can be read of a database.
fn answers(session: &Session) -> impl PartialEq + std::fmt::Debug + use<> {
    let (oldest, newest) = (session.oldest_readable(), session.applied_version());
    let families = session.column_families();
    let of = |family: &String| {
        let all = RangeQuery::between(Bytes::new(), Bytes::from_static(&[0xff; 20]));
        let all = RangeQuery { column_family: family.clone(), ..all };
        [oldest, newest].map(|version| session.range_at(&all, version).unwrap().rows)
    };
    let rows: Vec<_> = families.iter().chain([&String::new()]).map(of).collect();
    let figures = (session.retention().remembered_ids, session.statistics_now().total_keys, session.pending_clears());
    (oldest, newest, families, rows, figures)
}

fn compare(place: Place, is_killed: bool, steps: &[(u64, Step)]) {
    let lasting = Session::new(place::all(Durability::UntilFlush).remove(0), StoreOptions::replicated(), false);
    let mut session = Session::new(place, StoreOptions::replicated(), is_killed);
    let mut time_us = 5;
    for (pause_us, step) in steps {
        time_us += pause_us;
        let write = match step {
            Step::Commit(commit, age) => {
                let read_version = lasting.applied_version().0.saturating_sub(*age).max(1);
                creating(AtomicCommit { read_version, ..commit.clone() })
            }
            Step::DropFamily(name) => LoggedWrite::family(FamilyChange { name: (*name).into(), drop: true }),
            Step::PassTime => LoggedWrite::clock_tick(),
            Step::Collect => {
                lasting.collect_all();
                session.collect_all();
                continue;
            }
            Step::OpenAgain => {
                session.open_again();
                continue;
            }
        };
        let write = write.within(100);
        assert_eq!(session.write(time_us, write.clone()), lasting.write(time_us, write));
        assert_eq!(answers(&session), answers(&lasting));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_database_that_restarts_often_behaves_like_one_that_never_does(steps in steps(), is_killed: bool) {
        compare(place::all(Durability::UntilFlush).remove(0), is_killed, &steps);
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn on_rocksdb_too(steps in steps(), is_killed: bool) {
        compare(place::all(Durability::UntilFlush).remove(1), is_killed, &steps);
    }
}
