//! The change journal against the rows: applied to the rows of one version, the changes after it
//! give the rows of every later one, whatever the history, the crashes and the engine.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kv_api::{
    AtomicCommit, Change, ChangeRange, Changes, Effect, FamilyChange, KvError, LoggedWrite, Mutation, MutationKind,
    RangeQuery, TimedWrite, Version,
};
use kv_store::{
    ChangeFilter, Durability, JournalOptions, JournalPlace, MemoryJournal, ReadLimits, StateBlob, StoreOptions,
    TransactionalKvDatabase,
};
use proptest::collection::vec;
use proptest::prelude::*;
use support::place::{self, Place};
use support::{apply, apply_writes, commit, creating, set};

fn options() -> StoreOptions {
    StoreOptions { journal: Some(JournalOptions::default()), collect_every: None, ..StoreOptions::replicated() }
}

/// A database on a place, with a journal that survives as the place does.
struct Session {
    place: Place,
    journal: Arc<MemoryJournal>,
}

impl Session {
    fn new(place: Place) -> Self {
        Session { place, journal: Arc::default() }
    }

    fn open(&self) -> Arc<TransactionalKvDatabase> {
        let engine = self.place.engine();
        match engine.folder().is_some() {
            true => TransactionalKvDatabase::open(engine, options()).unwrap(),
            false => {
                let place: Arc<dyn JournalPlace> = self.journal.clone();
                TransactionalKvDatabase::open_with_journal(engine, options(), place).unwrap()
            }
        }
    }
}

fn read_page(database: &TransactionalKvDatabase, after: u64, filter: &ChangeFilter) -> Result<Changes, KvError> {
    database.read_changes(Version(after), ReadLimits { max_bytes: 100, ..ReadLimits::default() }, filter)
}

fn read_all(database: &TransactionalKvDatabase, after: u64, filter: &ChangeFilter) -> Vec<Change> {
    let (mut changes, mut through) = (Vec::new(), after);
    loop {
        let page = read_page(database, through, filter).unwrap();
        changes.extend(page.changes);
        through = page.through.0;
        if !page.has_more {
            assert_eq!(through, database.applied_version().0);
            return changes;
        }
    }
}

type Rows = BTreeMap<(String, Bytes), Bytes>;

const FAMILIES: [&str; 3] = ["", "f", "fg"];

fn rows_of(database: &TransactionalKvDatabase, version: u64) -> Rows {
    let mut rows = Rows::new();
    for family in FAMILIES.into_iter().filter(|family| database.has_family(family)) {
        let query = RangeQuery {
            column_family: family.to_owned(),
            ..RangeQuery::between(Bytes::new(), Bytes::from_static(&[0xff; 20]))
        };
        let found = database.range_at(&query, Version(version)).unwrap().rows;
        rows.extend(found.into_iter().map(|row| ((family.to_owned(), row.key), row.value)));
    }
    rows
}

fn apply_change(rows: &mut Rows, change: &Change) {
    for effect in &change.effects {
        let family = &effect.column_family;
        match &effect.effect {
            Effect::Set { key, value } => drop(rows.insert((family.clone(), key.clone()), value.clone())),
            Effect::Delete { key } => drop(rows.remove(&(family.clone(), key.clone()))),
            Effect::Clear { begin, end, .. } => {
                rows.retain(|(of, key), _| of != family || key < begin || end.as_ref().is_some_and(|end| key >= end))
            }
        }
    }
}

/// Few short keys, rich in special bytes.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0x00), Just(0xff), Just(b'a')], 1..4)
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let kinds = prop_oneof![
        6 => Just(MutationKind::Set),
        2 => Just(MutationKind::Delete),
        1 => Just(MutationKind::SetVersionstampedKey),
        1 => Just(MutationKind::SetVersionstampedValue),
        3 => Just(MutationKind::ClearRange),
        2 => Just(MutationKind::Add),
        1 => Just(MutationKind::ByteMax),
        1 => Just(MutationKind::AppendIfFits),
        1 => Just(MutationKind::CompareAndClear),
    ];
    (kinds, key(), key(), 0..3usize).prop_map(|(kind, key, value, family)| {
        let (key, value) = match kind {
            MutationKind::ClearRange if key > value => (value, key),
            MutationKind::SetVersionstampedKey => ([&key[..], &[0; 10]].concat(), value),
            MutationKind::SetVersionstampedValue => (key, [&value[..], &[0; 10]].concat()),
            _ => (key, value),
        };
        Mutation { kind: kind as i32, column_family: FAMILIES[family].into(), ..Mutation::set(key, value) }
    })
}

fn write() -> impl Strategy<Value = LoggedWrite> {
    let dropped = (1..3usize).prop_map(|family| FamilyChange { name: FAMILIES[family].into(), drop: true });
    prop_oneof![
        12 => vec(mutation(), 0..5).prop_map(|mutations| creating(AtomicCommit::of(mutations))),
        1 => dropped.prop_map(LoggedWrite::family),
        1 => Just(LoggedWrite::clock_tick()),
    ]
}

/// Applies the writes from `sequence` on: each is an entry of the log of its own.
fn apply_log(database: &TransactionalKvDatabase, log: &[TimedWrite], batch: usize) {
    let done = database.state_blob().unwrap().map_or(0, |(sequence, _)| sequence) as usize;
    for (number, writes) in log[done..].chunks(batch).enumerate() {
        let sequence = (done + number * batch + writes.len()) as u64;
        let blob = StateBlob { sequence, blob: Bytes::new() };
        let _ = database.prepare(writes).unwrap().commit(blob).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn changes_turn_the_rows_of_a_version_into_those_of_the_next_and_a_replay_makes_the_same(
        writes in vec(write(), 1..60),
        batches in (1..7usize, 1..7usize),
        flushed_at in any::<prop::sample::Index>(),
    ) {
        let log: Vec<TimedWrite> =
            writes.into_iter().zip(1..).map(|(write, time_us)| TimedWrite { time_us, write }).collect();
        let flushed = flushed_at.index(log.len());
        let mut known: Option<Vec<Change>> = None;
        for place in place::all(Durability::UntilFlush) {
            let mut session = Session::new(place);
            let database = session.open();
            apply_log(&database, &log[..flushed], batches.0);
            database.flush().unwrap();
            apply_log(&database, &log, batches.0);
            let newest = database.applied_version().0;
            let everything = ChangeFilter::everything();
            let changes = read_all(&database, 1, &everything);
            prop_assert_eq!(&*known.get_or_insert_with(|| changes.clone()), &changes, "the engines differ");
            let mut rows = Rows::new();
            let mut next = changes.iter().peekable();
            let families: Vec<&str> = FAMILIES.into_iter().filter(|family| database.has_family(family)).collect();
            for version in 2..=newest {
                if let Some(change) = next.next_if(|change| change.version.0 == version) {
                    apply_change(&mut rows, change);
                }
                let mut visible = rows.clone();
                visible.retain(|(family, _), _| families.contains(&family.as_str()));
                prop_assert_eq!(visible, rows_of(&database, version), "at version {}", version);
            }
            // Each range alone gives its part of the same changes.
            for family in FAMILIES {
                let filter = ChangeFilter::of(&[ChangeRange::family(family)]).unwrap();
                let expected: Vec<Change> = changes.iter().map(|change| {
                    let effects = change.effects.iter().filter(|effect| effect.column_family == family);
                    Change { effects: effects.cloned().collect(), ..change.clone() }
                }).filter(|change| !change.effects.is_empty()).collect();
                prop_assert_eq!(read_all(&database, 1, &filter), expected);
            }
            session.place.crash(database);
            let again = session.open();
            let restored = again.applied_version().0;
            prop_assert!(restored <= newest);
            let before: Vec<Change> = changes.iter().filter(|change| change.version.0 <= restored).cloned().collect();
            prop_assert_eq!(again.journal_statistics().unwrap().oldest, Some(1), "the journal survives");
            prop_assert_eq!(read_all(&again, 1, &everything), before, "nothing is ahead of the database");
            apply_log(&again, &log, batches.1);
            prop_assert_eq!(read_all(&again, 1, &everything), changes, "the replay differs");
        }
    }
}

#[test]
fn a_journal_without_its_end_begins_again_and_says_so() {
    for place in place::all(Durability::EveryWrite) {
        let session = Session::new(place);
        let database = session.open();
        apply(&database, &[commit([set("a", "1")]), commit([set("b", "2")])]);
        drop(database);
        // Opened by a program that keeps no journal.
        let database = session.place.open_with(StoreOptions { journal: None, ..options() });
        assert!(matches!(read_page(&database, 1, &ChangeFilter::everything()), Err(KvError::NotSupported(_))));
        apply(&database, &[commit([set("c", "3")])]);
        drop(database);
        let database = session.open();
        let error = read_page(&database, 3, &ChangeFilter::everything()).unwrap_err();
        assert_eq!(error, KvError::TransactionTooOld { read_version: 3, oldest: 4 });
        apply(&database, &[commit([set("d", "4")])]);
        assert_eq!(read_all(&database, 4, &ChangeFilter::everything())[0].version, Version(5));
    }
}

#[test]
fn a_copy_begins_its_journal_at_its_own_version() {
    for home in place::homes() {
        let donor = home.open();
        apply(&donor, &[commit([set("a", "1")]), commit([set("b", "2")])]);
        let mut copy = donor.copy().unwrap();
        let other = home.another();
        let mut install = other.begin_install_with(options());
        let bytes = copy.read(0, copy.total_bytes() as usize).unwrap();
        install.write(&bytes).unwrap();
        let (installed, _) = install.finish().unwrap();
        let error = read_page(&installed, 2, &ChangeFilter::everything()).unwrap_err();
        assert_eq!(error, KvError::TransactionTooOld { read_version: 2, oldest: 3 });
        apply(&installed, &[commit([set("c", "3")])]);
        assert_eq!(read_all(&installed, 3, &ChangeFilter::everything()).len(), 1);
    }
}

#[test]
fn a_new_history_has_no_changes_from_before() {
    for place in place::all(Durability::UntilFlush) {
        let session = Session::new(place);
        let database = session.open();
        apply(&database, &[commit([set("a", "1")])]);
        let begin = database.begin_new_history(1000, StateBlob { sequence: 5, blob: Bytes::new() }).unwrap();
        for after in [1, 2, 500] {
            let error = read_page(&database, after, &ChangeFilter::everything()).unwrap_err();
            assert_eq!(error, KvError::TransactionTooOld { read_version: after, oldest: begin.0 });
        }
        apply_writes(&database, &[TimedWrite { time_us: 0, write: LoggedWrite::commit(commit([set("b", "2")])) }]);
        let changes = read_all(&database, begin.0, &ChangeFilter::everything());
        assert_eq!(changes.iter().map(|change| change.version.0).collect::<Vec<_>>(), [begin.0 + 1]);
    }
}

/// The processor time of this thread.
fn thread_time() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    std::time::Duration::from_nanos(nanoseconds.expect("a number"))
}

/// Measures the work of the writing thread per put, with and without the journal, for batches of
/// several sizes. A server does as much again for each put elsewhere, so the journal's share is
/// smaller there. Run it with
/// `cargo test --release -p kv-store --test changes -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_put_costs_with_and_without_the_journal() {
    const PUTS: u64 = 100_000;
    for batch in [1, 10, 100] {
        let mut costs = [0.0f64; 2];
        for round in 0..6 {
            let journal = (round % 2 == 1).then(JournalOptions::default);
            let place = place::all(Durability::UntilFlush).pop().expect("an engine");
            let database = place.open_with(StoreOptions { journal, ..options() });
            let value = "v".repeat(100);
            let writes: Vec<Vec<TimedWrite>> = (0..PUTS / batch)
                .map(|number| {
                    let put = |place: u64| {
                        commit([set(&format!("user{:012}", (number * batch + place) * 7919 % PUTS), &value)])
                    };
                    (0..batch)
                        .map(|place| TimedWrite { time_us: number, write: LoggedWrite::commit(put(place)) })
                        .collect()
                })
                .collect();
            let began = thread_time();
            for (number, writes) in writes.iter().enumerate() {
                let blob = StateBlob { sequence: number as u64 + 1, blob: Bytes::new() };
                let _ = database.prepare(writes).unwrap().commit(blob).unwrap();
            }
            let cost = (thread_time() - began).as_secs_f64() * 1e6 / PUTS as f64;
            let least = &mut costs[round % 2];
            *least = if *least == 0.0 { cost } else { least.min(cost) };
        }
        let [without, with] = costs;
        println!("batches of {batch}: {without:.2} µs per put without, {with:.2} µs with: {:+.2} µs", with - without);
    }
}
