//! A small database with garbage collection, compared with a model that keeps everything. Whatever
//! the order of commits, collection, compactions, flushes and crashes, reads stay the same, and in
//! the end no garbage is left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::engine::Durability;
use crate::engine::testing::{self, Place};
use crate::key_codec;

/// More entries than a run that is removed as a range needs.
const KEYS: u8 = 60;

/// Short enough that runs in these tests are long.
fn progress() -> GcProgress {
    GcProgress::new(32)
}

fn prefix(key: u8) -> Vec<u8> {
    key_codec::prefix("", &[key])
}

#[derive(Clone, Debug)]
enum Write {
    Set(u8),
    Delete(u8),
    Clear(Range<u8>),
}

#[derive(Clone, Debug)]
enum Action {
    /// The oldest readable version becomes this many versions older than the commit, if that
    /// advances it.
    Commit {
        writes: Vec<Write>,
        age: u64,
    },
    SetAll,
    SetOften(u8),
    Collect {
        budget: u64,
    },
    Flush,
    Compact(Range<u8>),
    Restart,
    Crash,
}

/// Counters that are stored in the meta table, and found again after a crash or restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    version: u64,
    oldest_readable: u64,
    rows: u64,
}

impl Counters {
    fn decode(stored: Option<Bytes>) -> Counters {
        let Some(stored) = stored else { return Counters { version: 1, oldest_readable: 1, rows: 0 } };
        let number = |place: usize| u64::from_be_bytes(stored[8 * place..8 * place + 8].try_into().unwrap());
        Counters { version: number(0), oldest_readable: number(1), rows: number(2) }
    }
}

struct World {
    place: Place,
    engine: Arc<dyn Engine>,
    counters: Counters,
    clears: Vec<RangeClear>,
    progress: GcProgress,
    /// Whether the collection learns of every batch.
    reports_all: bool,
    /// Every version of every key; range clears are in it as tombstones.
    everything: BTreeMap<u8, BTreeMap<u64, Option<u64>>>,
    /// The same without range clears.
    written: BTreeMap<u8, BTreeSet<u64>>,
}

impl World {
    fn new(place: Place) -> Self {
        let engine = place.engine();
        let (everything, written) = (BTreeMap::new(), BTreeMap::new());
        World {
            place,
            engine,
            counters: Counters::decode(None),
            clears: vec![],
            progress: progress(),
            reports_all: true,
            everything,
            written,
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Commit { writes, age } => self.commit(writes, *age),
            Action::SetAll => self.commit(&(0..KEYS).map(Write::Set).collect::<Vec<_>>(), u64::MAX),
            Action::SetOften(key) => (0..40).for_each(|_| self.commit(&[Write::Set(*key)], 20)),
            Action::Collect { budget } => drop(self.collect(*budget)),
            Action::Flush => self.engine.flush().unwrap(),
            Action::Compact(keys) => self.engine.compact_data(&prefix(keys.start), &prefix(keys.end)).unwrap(),
            Action::Restart => self.open_again(Place::restart),
            Action::Crash => self.open_again(Place::crash),
        }
    }

    fn model(&self, key: u8, version: u64) -> Option<u64> {
        *self.everything.get(&key)?.range(..=version).next_back()?.1
    }

    fn visible_rows(&self, version: u64) -> u64 {
        (0..KEYS).filter(|key| self.model(*key, version).is_some()).count() as u64
    }

    /// The newest version of a key in the engine, and its value.
    fn stored(&self, key: u8, version: u64) -> Option<(u64, Option<u64>)> {
        let (mut cursor, mut target) = (self.engine.key_cursor().unwrap(), Vec::new());
        let found = crate::read::scan::newest_at(cursor.as_mut(), &prefix(key), version, &mut target).unwrap()?;
        Some((found.version, found.value.map(|value| u64::from_be_bytes(value.try_into().unwrap()))))
    }

    fn read(&self, key: u8, version: u64) -> Option<u64> {
        let prefix = prefix(key);
        let (written, value) = self.stored(key, version)?;
        let hides = |clear: &RangeClear| {
            let covers = clear.begin <= prefix && prefix < clear.end;
            covers && written < clear.version && clear.version <= version
        };
        value.filter(|_| !self.clears.iter().any(hides))
    }

    fn commit(&mut self, writes: &[Write], age: u64) {
        let (version, before) = (self.counters.version + 1, self.counters.version);
        let (mut last, mut cleared) = (BTreeMap::new(), Vec::new());
        for write in writes {
            match write {
                Write::Set(key) => drop(last.insert(*key, Some(version))),
                Write::Delete(key) => drop(last.insert(*key, None)),
                Write::Clear(keys) => {
                    last.retain(|key, _| !keys.contains(key));
                    cleared.push(keys.clone());
                }
            }
        }
        let mut batch = WriteBatch::new();
        for (number, keys) in (0..).zip(&cleared) {
            let (begin, end) = (prefix(keys.start), prefix(keys.end));
            entries::put_range_clear(&mut batch, version, number, &begin, &end);
            self.clears.push(RangeClear { version, number, begin: begin.into(), end: end.into() });
            for key in keys.clone() {
                if self.model(key, before).is_some() {
                    self.everything.entry(key).or_default().insert(version, None);
                }
            }
        }
        for (number, (key, value)) in (0..).zip(last) {
            let existed = self.model(key, version).is_some();
            self.counters.rows = self.counters.rows + u64::from(value.is_some()) - u64::from(existed);
            let mut encoded = Vec::new();
            key_codec::set_versioned(&mut encoded, &prefix(key), version);
            let stored = value.map(u64::to_be_bytes);
            let stored = key_codec::row_parts(stored.as_ref().map(|value| &value[..]));
            batch.put_parts(Table::Data, &[&encoded], &stored);
            if value.is_none() {
                entries::put_key_tombstone(&mut batch, version, number, &prefix(key));
            }
            // A write of the same version as the clear replaces the tombstone.
            self.everything.entry(key).or_default().insert(version, value);
            self.written.entry(key).or_default().insert(version);
        }
        self.counters.version = version;
        self.counters.oldest_readable = self.counters.oldest_readable.max(version.saturating_sub(age));
        self.write(batch);
    }

    fn write(&mut self, mut batch: WriteBatch) {
        let Counters { version, oldest_readable, rows } = self.counters;
        batch.put(Table::Meta, b"counters", &[version, oldest_readable, rows].map(u64::to_be_bytes).concat());
        self.engine.write(&batch).unwrap();
        if self.reports_all || batch.len().is_multiple_of(3) {
            self.progress.written(&batch);
        }
    }

    fn collect(&mut self, budget: u64) -> StepResult {
        self.engine.set_filter_watermark(filter_watermark(&*self.engine).unwrap());
        let mut batch = WriteBatch::new();
        let result =
            collect(&*self.engine, self.counters.oldest_readable, budget, &mut self.progress, &mut batch).unwrap();
        assert!(result.entries_read < budget + 80, "{result:?} with a budget of {budget}");
        self.counters.rows -= result.rows_cleared;
        self.clears.retain(|clear| !result.range_clears_done.contains(&(clear.version, clear.number)));
        self.write(batch);
        result
    }

    fn open_again(&mut self, how: impl Fn(&mut Place)) {
        // Nobody holds the engine meanwhile.
        self.engine = testing::memory(Durability::UntilFlush).engine();
        how(&mut self.place);
        self.engine = self.place.engine();
        self.counters = Counters::decode(self.engine.get(Table::Meta, b"counters").unwrap());
        let lost = self.counters.version + 1;
        self.everything.values_mut().for_each(|versions| drop(versions.split_off(&lost)));
        self.written.values_mut().for_each(|versions| drop(versions.split_off(&lost)));
        self.clears = entries::load_range_clears(&*self.engine).unwrap();
        let range_delete_entries = self.progress.range_delete_entries;
        self.progress = GcProgress::new(range_delete_entries);
    }

    /// From the oldest readable version on, every read finds what it would if nothing had been
    /// removed, and every conflict is found.
    fn check(&self) {
        let Counters { version, oldest_readable, .. } = self.counters;
        let between = oldest_readable + (version - oldest_readable) / 2;
        for at in [oldest_readable, between, version] {
            for key in 0..KEYS {
                assert_eq!(
                    self.read(key, at),
                    self.model(key, at),
                    "key {key} at {at} of {oldest_readable}..={version}"
                );
                let written_after = self.stored(key, version).is_some_and(|(written, _)| written > at);
                let expected = self.written.get(&key).is_some_and(|versions| versions.range(at + 1..).next().is_some());
                assert_eq!(written_after, expected, "a write to key {key} after {at}");
            }
        }
    }

    fn gc_entries(&self) -> usize {
        self.entries(Table::Garbage) - usize::from(entries::load_collected_up_to(&*self.engine).unwrap() > 0)
    }

    fn entries(&self, table: Table) -> usize {
        let mut cursor = self.engine.cursor(table, &[], &[0xff; 20]).unwrap();
        cursor.seek(&[]).unwrap();
        let mut entries = 0;
        while cursor.entry().is_some() {
            entries += 1;
            cursor.next().unwrap();
        }
        entries
    }

    /// When only the newest version is readable, nothing else is left.
    fn finish(&mut self, budget: u64) {
        self.commit(&[], 0);
        while self.collect(budget).more {
            self.check();
        }
        self.engine.flush().unwrap();
        self.collect(budget);
        self.engine.compact_data(&[], &[0xff]).unwrap();
        self.check();
        let rows = self.visible_rows(self.counters.version);
        assert_eq!((self.clears.len(), self.gc_entries()), (0, 0));
        assert_eq!((self.counters.rows, self.entries(Table::Data) as u64), (rows, rows));
    }
}

fn keys() -> impl Strategy<Value = Range<u8>> {
    let some = (0..KEYS, 1..=KEYS).prop_map(|(begin, length)| begin..(begin + length).min(KEYS));
    prop_oneof![3 => some, 1 => Just(0..KEYS)]
}

fn action() -> impl Strategy<Value = Action> {
    let key = || prop_oneof![0..4_u8, 0..KEYS];
    let write = prop_oneof![
        4 => key().prop_map(Write::Set),
        2 => key().prop_map(Write::Delete),
        1 => keys().prop_map(Write::Clear),
    ];
    let age = prop_oneof![0..10_u64, Just(u64::MAX)];
    prop_oneof![
        12 => (vec(write, 1..5), age).prop_map(|(writes, age)| Action::Commit { writes, age }),
        2 => Just(Action::SetAll),
        1 => key().prop_map(Action::SetOften),
        8 => (1..60_u64).prop_map(|budget| Action::Collect { budget }),
        3 => Just(Action::Flush),
        1 => keys().prop_map(Action::Compact),
        1 => Just(Action::Restart),
        1 => Just(Action::Crash),
    ]
}

fn run(place: Place, actions: &[Action], budget: u64, long_run: u64, reports_all: bool) {
    let mut world = World { reports_all, ..World::new(place) };
    world.progress.range_delete_entries = long_run;
    for action in actions {
        world.act(action);
        world.check();
    }
    world.finish(budget);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn collection_changes_no_read_and_leaves_no_garbage(
        actions in vec(action(), 1..40), budget in 1..200_u64, long_run in 2..40_u64, reports_all: bool,
    ) {
        run(testing::memory(Durability::UntilFlush), &actions, budget, long_run, reports_all);
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_same_on_rocksdb(
        actions in vec(action(), 1..40), budget in 1..200_u64, long_run in 2..40_u64, reports_all: bool,
    ) {
        run(testing::all(Durability::UntilFlush).remove(1), &actions, budget, long_run, reports_all);
    }
}

/// A database of `KEYS` rows that are all cleared at version 3.
fn cleared(place: Place) -> World {
    let mut world = World::new(place);
    world.act(&Action::SetAll);
    world.commit(&[Write::Clear(0..KEYS)], 0);
    world
}

#[test]
fn a_large_clear_continues_where_it_stopped_and_its_entry_is_removed_last() {
    for place in testing::all(Durability::UntilFlush) {
        let mut world = cleared(place);
        let mut steps = Vec::new();
        loop {
            assert_eq!(world.gc_entries(), 1);
            steps.push(world.collect(10));
            world.check();
            if !steps[steps.len() - 1].more {
                break;
            }
            assert_eq!(world.clears.len(), 1);
        }
        // The first entry of each step is the GC entry.
        assert_eq!(steps.iter().map(|step| step.rows_cleared).collect::<Vec<_>>(), [9, 9, 9, 9, 9, 9, 6]);
        assert_eq!(steps[6].range_clears_done, [(3, 0)]);
        assert_eq!((world.gc_entries(), world.entries(Table::Data), world.counters.rows), (0, 0, 0));
    }
}

#[test]
fn collection_that_a_crash_interrupts_begins_again_and_counts_no_row_twice() {
    for place in testing::all(Durability::UntilFlush) {
        let mut world = cleared(place);
        world.collect(10);
        world.engine.flush().unwrap();
        world.collect(20);
        world.act(&Action::Crash);
        assert_eq!(world.counters.rows, u64::from(KEYS) - 9);
        world.check();
        world.finish(10);
    }
}

/// Deletes of single rows, and of ranges.
fn deletes(batch: &WriteBatch) -> [usize; 2] {
    let ranges = |entry: &BatchEntry<'_>| matches!(entry, BatchEntry::DeleteRange { table: Table::Data, .. });
    let single = |entry: &BatchEntry<'_>| matches!(entry, BatchEntry::Delete { table: Table::Data, .. });
    [batch.iter().filter(single).count(), batch.iter().filter(ranges).count()]
}

impl World {
    /// One step, and the deletes in its batch.
    fn step(&mut self, budget: u64) -> (StepResult, [usize; 2]) {
        let mut batch = WriteBatch::new();
        let result =
            collect(&*self.engine, self.counters.oldest_readable, budget, &mut self.progress, &mut batch).unwrap();
        let deletes = deletes(&batch);
        self.counters.rows -= result.rows_cleared;
        self.clears.retain(|clear| !result.range_clears_done.contains(&(clear.version, clear.number)));
        self.write(batch);
        self.check();
        (result, deletes)
    }
}

#[test]
fn many_adjacent_entries_are_removed_as_a_range_and_few_one_by_one() {
    let mut world = cleared(testing::memory(Durability::UntilFlush));
    let (result, deletes) = world.step(1_000);
    assert_eq!((result.rows_cleared, result.removed_versions, result.more), (u64::from(KEYS), u64::from(KEYS), false));
    assert_eq!(deletes, [0, 1]);
    let mut world = cleared(testing::memory(Durability::UntilFlush));
    world.commit(&[Write::Set(30)], 0);
    let (result, deletes) = world.step(1_000);
    // 30 keys before the later write; the old version of its key, with the 29 keys after it.
    assert_eq!((result.removed_versions, deletes), (u64::from(KEYS), [60, 0]));
}

#[test]
fn a_long_run_is_removed_in_one_delete_though_walking_it_takes_several_steps() {
    let mut world = cleared(testing::memory(Durability::UntilFlush));
    world.collect(1);
    assert_eq!(world.counters.rows, u64::from(KEYS) - 1);
    // Others write elsewhere between the steps.
    let step = |world: &mut World| {
        let (result, deletes) = world.step(34);
        world.commit(&[Write::Set(0)], 1);
        (result.rows_cleared, deletes)
    };
    assert_eq!(step(&mut world), (0, [0, 0]));
    assert_eq!(step(&mut world), (u64::from(KEYS) - 1, [0, 1]));
    world.finish(100);
}

#[test]
fn a_run_that_is_written_into_is_walked_again_and_removed_in_pieces() {
    for is_reported in [true, false] {
        let mut world = cleared(testing::memory(Durability::UntilFlush));
        let (result, deletes) = world.step(41);
        assert_eq!((result.rows_cleared, deletes), (0, [0, 0]));
        world.reports_all = is_reported;
        world.commit(&[Write::Set(39), Write::Delete(5), Write::Set(41)], 2);
        world.reports_all = true;
        // 0 to 4; 5 to 38 as a range; 39 and 40; 41. The later writes are passed.
        let (result, deletes) = world.step(46);
        assert_eq!((result.rows_cleared, deletes), (42, [5 + 2 + 1, 1]), "{result:?}");
        world.finish(100);
    }
}

#[test]
fn deleted_neighbours_are_removed_whatever_order_they_were_deleted_in() {
    for place in testing::all(Durability::UntilFlush) {
        let mut world = World::new(place);
        world.act(&Action::SetAll);
        (10..50).rev().for_each(|key| world.commit(&[Write::Delete(key)], 0));
        (0..20).for_each(|_| world.commit(&[Write::Set(12), Write::Set(45)], 0));
        world.commit(&[Write::Delete(3), Write::Delete(12)], 0);
        let (result, deletes) = world.step(1_000);
        // 41 keys of two versions; the key 12 and its later write.
        assert_eq!((result.removed_versions, result.rows_cleared, result.more), (82 + 21, 0, false));
        assert_eq!(deletes, [82 + 21, 0]);
        assert_eq!((world.gc_entries(), world.entries(Table::Data)), (0, usize::from(KEYS) - 41 + 20));
        world.finish(100);
    }
}

#[test]
fn entries_that_exceed_the_budget_are_left_for_the_next_step() {
    let mut world = World::new(testing::memory(Durability::UntilFlush));
    (0..10).for_each(|key| (0..40).for_each(|_| world.commit(&[Write::Set(key)], 0)));
    (0..10).rev().for_each(|key| world.commit(&[Write::Delete(key)], 0));
    world.commit(&[], 0);
    let mut steps = 0;
    while world.step(60).0.more {
        steps += 1;
        assert!(world.gc_entries() > 0);
    }
    assert!((3..=9).contains(&steps), "{steps}");
    world.finish(100);
}

#[test]
fn a_deleted_key_of_many_versions_is_removed_in_one_step_with_its_entry() {
    for place in testing::all(Durability::UntilFlush) {
        let mut world = World::new(place);
        world.act(&Action::SetOften(1));
        world.commit(&[Write::Set(0), Write::Set(2)], 0);
        world.commit(&[Write::Delete(1)], 0);
        let (result, deletes) = world.step(1);
        assert_eq!((result.entries_read, result.rows_cleared, result.more), (33, 0, false));
        assert_eq!(deletes, [32, 1]);
        assert_eq!((world.entries(Table::Data), world.gc_entries()), (2, 0));
        world.check();
    }
}

#[test]
fn nothing_above_the_watermark_is_collected() {
    let mut world = cleared(testing::memory(Durability::UntilFlush));
    world.commit(&[Write::Set(1)], u64::MAX);
    world.commit(&[Write::Delete(1)], u64::MAX);
    let mut batch = WriteBatch::new();
    for (watermark, entries_done) in [(2, 0), (3, 1), (4, 1), (5, 2)] {
        batch.clear();
        let mut progress = GcProgress::new(RANGE_DELETE_ENTRIES);
        assert!(!collect(&*world.engine, watermark, 1_000, &mut progress, &mut batch).unwrap().more);
        let is_gc_entry = |entry: &BatchEntry<'_>| matches!(entry, BatchEntry::Delete { table: Table::Garbage, .. });
        assert_eq!(batch.iter().filter(is_gc_entry).count(), entries_done, "at {watermark}");
    }
}

#[test]
fn an_entry_without_its_tombstone_removes_no_value() {
    let engine = testing::memory(Durability::UntilFlush).engine();
    let step = |fill: &dyn Fn(&mut WriteBatch)| {
        let mut batch = WriteBatch::new();
        fill(&mut batch);
        engine.write(&batch).unwrap();
        batch.clear();
        let result = collect(&*engine, 9, 100, &mut GcProgress::new(RANGE_DELETE_ENTRIES), &mut batch)?;
        engine.write(&batch).unwrap();
        Ok(result)
    };
    // A key without any version is no damage.
    let result = step(&|batch| entries::put_key_tombstone(batch, 5, 0, &prefix(1))).unwrap();
    assert_eq!((result.entries_read, result.more), (1, false));
    let error: KvError = step(&|batch| {
        entries::put_key_tombstone(batch, 7, 0, &prefix(2));
        for version in [6, 7] {
            let key = [&prefix(2)[..], &key_codec::version_suffix(version)].concat();
            batch.put_parts(Table::Data, &[&key], &key_codec::row_parts(Some(b"value")));
        }
    })
    .unwrap_err();
    assert!(matches!(&error, KvError::Corruption(text) if text.contains("a value of version 7")), "{error}");
}

#[test]
fn values_are_dropped_only_below_every_clear_that_is_not_collected_in_the_persisted_state() {
    let mut world = cleared(testing::memory(Durability::UntilFlush));
    let watermark = |world: &World| filter_watermark(&*world.engine).unwrap();
    world.collect(10);
    assert_eq!(watermark(&world), 0);
    world.engine.flush().unwrap();
    assert_eq!(watermark(&world), 2, "the clear of version 3 is under way");
    while world.collect(10).more {}
    assert_eq!(watermark(&world), 2);
    world.engine.flush().unwrap();
    assert_eq!(watermark(&world), 3);
    world.commit(&[Write::Clear(0..1)], 1);
    world.collect(10);
    world.engine.flush().unwrap();
    assert_eq!(watermark(&world), 3, "the oldest readable version is still there");
}

#[test]
fn a_run_is_removed_as_a_range_from_exactly_the_configured_length_on() {
    for (keys, expected) in [(31, [31, 0]), (32, [0, 1]), (33, [0, 1])] {
        let mut world = World::new(testing::memory(Durability::UntilFlush));
        world.act(&Action::SetAll);
        world.commit(&[Write::Clear(0..keys)], 0);
        let (result, deletes) = world.step(1_000);
        assert_eq!((result.removed_versions, deletes), (u64::from(keys), expected));
    }
}

#[test]
fn a_step_of_deleted_keys_takes_as_many_as_its_budget_allows() {
    let mut world = World::new(testing::memory(Durability::UntilFlush));
    world.act(&Action::SetAll);
    world.commit(&(0..10).map(Write::Delete).collect::<Vec<_>>(), 0);
    // Each costs its GC entry, its tombstone and the value before it.
    let mut step = |budget: u64| {
        let (result, deletes) = world.step(budget);
        (result.entries_read, result.removed_versions, deletes, result.more)
    };
    assert_eq!(step(12), (12, 8, [8, 0], true));
    assert_eq!(step(11), (9 + 3, 6 + 2, [8, 0], true));
    assert_eq!(step(1), (3, 2, [2, 0], true));
    assert_eq!(step(100), (3, 2, [2, 0], false));
    assert_eq!(step(100), (0, 0, [0, 0], false));
}

#[test]
fn a_step_that_finds_nothing_writes_nothing() {
    let mut world = cleared(testing::memory(Durability::UntilFlush));
    while world.collect(10).more {}
    for progress in [&mut world.progress, &mut progress()] {
        let mut batch = WriteBatch::new();
        assert!(!collect(&*world.engine, world.counters.oldest_readable, 10, progress, &mut batch).unwrap().more);
        assert!(batch.is_empty());
    }
}

#[test]
fn adjacent_ranges_are_collected_in_one_step_and_overlapping_ones_in_two() {
    for (second, steps) in [(20..30, 1), (19..30, 2), (0..10, 1), (0..11, 2), (12..13, 2)] {
        let mut world = World::new(testing::memory(Durability::UntilFlush));
        world.act(&Action::SetAll);
        world.commit(&[Write::Clear(10..20)], 0);
        world.commit(&[Write::Clear(second.clone())], 0);
        let steps_made = 1 + (0..9).take_while(|_| world.step(1_000).0.more).count();
        assert_eq!(steps_made, steps, "{second:?}");
    }
}
