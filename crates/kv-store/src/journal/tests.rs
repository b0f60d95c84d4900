//! The journal against a plain list of versions: under cuts, faults of its files, and damage.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use kv_api::{Change, ChangeRange, ClearCause, Effect, FamilyEffect, Version};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::commit::known_keys;
use crate::key_codec;

fn options() -> JournalOptions {
    JournalOptions { retention: Duration::from_secs(3600), max_bytes: 1 << 30 }
}

fn read_all(journal: &Journal, after: u64, applied: u64) -> Result<Vec<Change>, kv_api::KvError> {
    let (mut changes, mut through) = (Vec::new(), after);
    loop {
        let page = journal.read(through, applied, ReadLimits::default(), &ChangeFilter::everything())?;
        changes.extend(page.changes);
        through = page.through.0;
        if !page.has_more {
            assert_eq!(through, applied.max(after));
            return Ok(changes);
        }
    }
}

/// One version that sets some keys to the version's number.
fn append(journal: &Journal, version: u64, time_us: u64, keys: &[&[u8]]) -> Change {
    let mut effects = Effects::new(true);
    let change = record(&mut effects, version, time_us, keys);
    journal.append(&effects.finish().expect("a version"));
    change
}

fn record(effects: &mut Effects, version: u64, time_us: u64, keys: &[&[u8]]) -> Change {
    effects.begin(version, time_us);
    let value = version.to_be_bytes();
    let of_key = |key: &&[u8]| {
        let prefix = key_codec::prefix("f", key);
        effects.write(&prefix, known_keys::hash(&prefix).short(), Some(&value));
        let effect = Effect::Set { key: key.to_vec().into(), value: value.to_vec().into() };
        FamilyEffect { column_family: "f".into(), effect }
    };
    Change { version: Version(version), time_us, effects: keys.iter().map(of_key).collect() }
}

fn new_journal(place: &Arc<MemoryJournal>, options: JournalOptions, version: u64) -> Journal {
    Journal::open(place.clone(), options, version)
}

#[test]
fn the_hash_of_a_key_is_that_of_the_table_of_known_keys() {
    assert_eq!(summary::hash_of(b"key"), known_keys::hash(b"key").short());
}

#[test]
fn versions_come_back_as_they_were_written_and_no_others() {
    let place = Arc::<MemoryJournal>::default();
    let journal = new_journal(&place, options(), 1);
    let written: Vec<Change> = (2..50).map(|version| append(&journal, version, 7 * version, &[b"a", b"b"])).collect();
    assert_eq!(read_all(&journal, 1, 49).unwrap(), written);
    assert_eq!(read_all(&journal, 20, 30).unwrap(), written[19..29]);
    assert_eq!(read_all(&journal, 49, 49).unwrap(), []);
    assert_eq!(read_all(&journal, 60, 49).unwrap(), []);
    let error = journal.read(0, 49, ReadLimits::default(), &ChangeFilter::everything()).unwrap_err();
    assert_eq!(error, kv_api::KvError::TransactionTooOld { read_version: 0, oldest: 1 });
}

#[test]
fn a_page_holds_whole_versions_and_at_least_one() {
    let place = Arc::<MemoryJournal>::default();
    let journal = new_journal(&place, options(), 1);
    let long = [0; 500];
    let mut effects = Effects::new(true);
    let written: Vec<Change> = (2..5).map(|version| record(&mut effects, version, 1, &[&long, &long[1..]])).collect();
    journal.append(&effects.finish().unwrap());
    let limits = ReadLimits { max_bytes: 1, ..ReadLimits::default() };
    let page = journal.read(1, 4, limits, &ChangeFilter::everything()).unwrap();
    assert_eq!((&page.changes[..], page.through, page.has_more), (&written[..1], Version(2), true));
    let limits = ReadLimits { max_versions: 2, ..ReadLimits::default() };
    let page = journal.read(1, 4, limits, &ChangeFilter::everything()).unwrap();
    assert_eq!((&page.changes[..], page.through, page.has_more), (&written[..2], Version(3), true));
    let limits = ReadLimits { with_values: false, ..ReadLimits::default() };
    let page = journal.read(3, 4, limits, &ChangeFilter::everything()).unwrap();
    assert!(matches!(&page.changes[0].effects[0].effect, Effect::Set { value, .. } if value.is_empty()));
}

#[test]
fn a_clear_is_cut_to_what_was_asked_for() {
    let place = Arc::<MemoryJournal>::default();
    let journal = new_journal(&place, options(), 1);
    let mut effects = Effects::new(true);
    effects.begin(2, 0);
    let key = |key: &[u8]| key_codec::prefix("f", key);
    effects.clear_range(&key(b"c"), &key(b"x"), ClearCause::Transaction);
    effects.begin(3, 0);
    effects.clear_range(&key(b""), &key_codec::family_end("f"), ClearCause::FamilyDropped);
    journal.append(&effects.finish().unwrap());
    let range = |begin: &'static [u8], end: &'static [u8]| ChangeRange {
        column_family: "f".into(),
        begin: begin.into(),
        end: Some(end.into()),
    };
    let filter = ChangeFilter::of(&[range(b"a", b"d"), range(b"f", b"g"), range(b"w", b"z")]).unwrap();
    let page = journal.read(1, 3, ReadLimits::default(), &filter).unwrap();
    let clear = |begin: &'static [u8], end: &'static [u8], cause| FamilyEffect {
        column_family: "f".into(),
        effect: Effect::Clear { begin: begin.into(), end: Some(end.into()), cause },
    };
    let by = ClearCause::Transaction;
    assert_eq!(page.changes[0].effects, [clear(b"c", b"d", by), clear(b"f", b"g", by), clear(b"w", b"x", by)]);
    let by = ClearCause::FamilyDropped;
    assert_eq!(page.changes[1].effects, [clear(b"a", b"d", by), clear(b"f", b"g", by), clear(b"w", b"z", by)]);
    let page = journal.read(2, 3, ReadLimits::default(), &ChangeFilter::of(&[ChangeRange::family("f")]).unwrap());
    let whole = Effect::Clear { begin: b""[..].into(), end: None, cause: by };
    assert_eq!(page.unwrap().changes[0].effects[0].effect, whole);
    let other = ChangeFilter::of(&[ChangeRange::family(""), ChangeRange::family("g")]).unwrap();
    let page = journal.read(1, 3, ReadLimits::default(), &other).unwrap();
    assert_eq!((page.changes, page.through), (vec![], Version(3)));
}

#[test]
fn old_files_are_removed_by_time_and_by_size_and_what_they_held_is_too_old() {
    let by_time = JournalOptions { retention: Duration::from_secs(16), max_bytes: 1 << 30 };
    let by_size = JournalOptions { retention: Duration::from_secs(3600), max_bytes: 64 << 10 };
    for options in [by_time, by_size] {
        let place = Arc::<MemoryJournal>::default();
        let journal = new_journal(&place, options, 1);
        let value = [7; 300];
        let written: Vec<Change> =
            (2..1000).map(|version| append(&journal, version, version * 100_000, &[&value])).collect();
        let JournalStatistics { bytes, oldest, failure } = journal.statistics();
        let oldest = oldest.unwrap();
        assert!(oldest > 700 && oldest < 990, "{oldest}");
        assert!(bytes <= options.max_bytes && failure.is_none(), "{bytes}");
        assert_eq!(read_all(&journal, oldest, 999).unwrap(), written[oldest as usize - 1..]);
        let error = read_all(&journal, oldest - 1, 999).unwrap_err();
        assert_eq!(error, kv_api::KvError::TransactionTooOld { read_version: oldest - 1, oldest });
        let held: u64 = place.list().unwrap().iter().map(|name| place.open(*name).unwrap().length().unwrap()).sum();
        assert_eq!(held, bytes);
        if options == by_time {
            assert!(written[oldest as usize].time_us <= 999 * 100_000 - 16_000_000, "it is kept for its time");
        }
        let again = new_journal(&place, options, 999);
        assert_eq!(read_all(&again, oldest, 999).unwrap(), written[oldest as usize - 1..]);
        assert_eq!(again.statistics().bytes, bytes);
    }
}

proptest! {
    /// Histories of batches, restarts at any earlier version (the versions after it are written
    /// again, and may differ), and restarts at a later one.
    #[test]
    fn what_is_read_is_what_the_database_wrote(
        steps in vec((0u8..10, 1u64..6, any::<u64>()), 1..60),
        max_bytes in prop_oneof![Just(1u64 << 30), Just(6 << 10)],
    ) {
        let options = JournalOptions { max_bytes, ..options() };
        let place = Arc::<MemoryJournal>::default();
        let (mut version, mut time_us) = (1, 0);
        let mut journal = new_journal(&place, options, version);
        let mut model: BTreeMap<u64, Change> = BTreeMap::new();
        for (step, count, seed) in steps {
            match step {
                0 => {
                    // The machine lost the newest versions of the database, or none.
                    let oldest = journal.statistics().oldest.unwrap();
                    version = (oldest + seed % (version - oldest + 1)).max(1);
                    // Not within a block: the database's batches are whole.
                    if let Some(change) = model.get(&version) {
                        version = model.range(version..).take_while(|(_, next)| next.time_us == change.time_us)
                            .last().map_or(version, |(last, _)| *last);
                    }
                    drop(model.split_off(&(version + 1)));
                    journal = new_journal(&place, options, version);
                }
                1 => {
                    // The database is ahead.
                    version += count;
                    journal = new_journal(&place, options, version);
                    prop_assert_eq!(journal.statistics().oldest, Some(version));
                    model.clear();
                }
                _ => {
                    time_us += 1;
                    let mut effects = Effects::new(true);
                    for number in 0..count {
                        version += 1;
                        let key = [&(seed.wrapping_add(number) % 50).to_be_bytes()[..], &[0; 100]].concat();
                        model.insert(version, record(&mut effects, version, time_us, &[&key]));
                    }
                    journal.append(&effects.finish().unwrap());
                }
            }
            let oldest = journal.statistics().oldest.unwrap();
            let expected: Vec<Change> = model.range(oldest + 1..).map(|(_, change)| change.clone()).collect();
            prop_assert_eq!(expected.len() as u64, version - oldest, "no hole");
            prop_assert_eq!(read_all(&journal, oldest, version).unwrap(), expected);
        }
    }

    #[test]
    fn damage_anywhere_is_noticed_and_never_answered_across(
        file in any::<prop::sample::Index>(),
        place_in_file in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<bool>(),
        restarts in any::<bool>(),
    ) {
        let place = Arc::<MemoryJournal>::default();
        let options = JournalOptions { max_bytes: 64 << 10, ..options() };
        let mut journal = new_journal(&place, options, 1);
        let written: Vec<Change> = (2..400).map(|version| append(&journal, version, version, &[b"a", b"bc"])).collect();
        let names = place.list().unwrap();
        prop_assert!(names.len() > 3);
        let harmed = place.open(*file.get(&names)).unwrap();
        let length = harmed.length().unwrap();
        let at = place_in_file.index(length as usize) as u64;
        let mut content = harmed.read(0, length as usize).unwrap();
        content[at as usize] ^= 1 << bit;
        harmed.truncate(0).unwrap();
        harmed.append(0, if cut { &content[..at as usize] } else { &content }).unwrap();
        if restarts {
            journal = new_journal(&place, options, 399);
        }
        // Reads until the damage was noticed, or is harmless.
        for _ in 0..10 {
            let oldest = journal.statistics().oldest.unwrap_or(u64::MAX);
            if let Ok(read) = read_all(&journal, oldest, 399.max(oldest)) {
                prop_assert_eq!(&read[..], &written[oldest as usize - 1..]);
            }
        }
        if restarts {
            let oldest = journal.statistics().oldest.unwrap();
            prop_assert_eq!(&read_all(&journal, oldest, 399).unwrap()[..], &written[oldest as usize - 1..]);
            let next = append(&journal, 400, 400, &[b"k"]);
            prop_assert_eq!(read_all(&journal, 399, 400).unwrap(), [next]);
        }
    }
}

/// Asked before each operation that changes a file whether it fails: after a part of a write.
type Fault = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

struct Failing {
    files: Arc<MemoryJournal>,
    fault: Fault,
}

struct FailingFile(Arc<dyn JournalFile>, Fault);

/// Each operation fails once so many have succeeded.
fn after(left: &Arc<AtomicI64>) -> Fault {
    let left = left.clone();
    Arc::new(move || match left.fetch_sub(1, Ordering::Relaxed) > 0 {
        true => Ok(()),
        false => Err(io::ErrorKind::StorageFull.into()),
    })
}

impl JournalPlace for Failing {
    fn list(&self) -> io::Result<Vec<u64>> {
        self.files.list()
    }

    fn create(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        (self.fault)()?;
        Ok(Arc::new(FailingFile(self.files.create(name)?, self.fault.clone())))
    }

    fn open(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        Ok(Arc::new(FailingFile(self.files.open(name)?, self.fault.clone())))
    }

    fn remove(&self, name: u64) -> io::Result<()> {
        (self.fault)()?;
        self.files.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        (self.fault)()
    }
}

impl JournalFile for FailingFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.0.read(offset, length)
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.1)().inspect_err(|_| {
            let _ = self.0.append(offset, &bytes[..bytes.len() / 2]);
        })?;
        self.0.append(offset, bytes)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        (self.1)()?;
        self.0.truncate(length)
    }

    fn sync(&self) -> io::Result<()> {
        (self.1)()
    }
}

#[test]
fn a_crash_or_a_full_disk_at_every_operation_leaves_a_sound_journal() {
    let options = JournalOptions { max_bytes: 32 << 10, ..options() };
    let mut failures = 0;
    for operations in 0..400 {
        let files = Arc::<MemoryJournal>::default();
        let left = Arc::new(AtomicI64::new(operations));
        let place = Arc::new(Failing { files: files.clone(), fault: after(&left) });
        let journal = Journal::open(place.clone(), options, 1);
        let long = [1; 200];
        let mut written: Vec<Change> = (2..200).map(|version| append(&journal, version, version, &[&long])).collect();
        let has_failed = journal.statistics().failure.is_some();
        failures += u64::from(has_failed);
        if has_failed {
            let error = read_all(&journal, 150, 199).unwrap_err();
            assert!(matches!(&error, kv_api::KvError::StorageFull(_)), "{error}");
        } else {
            let oldest = journal.statistics().oldest.unwrap();
            assert_eq!(read_all(&journal, oldest, 199).unwrap(), written[oldest as usize - 1..]);
        }
        // The process ends here; the database has 199, or only 120 of the versions.
        for version in [199, 120] {
            left.store(i64::MAX, Ordering::Relaxed);
            let again = Journal::open(place.clone(), options, version);
            let oldest = again.statistics().oldest.unwrap();
            let read = read_all(&again, oldest, version).unwrap();
            assert_eq!(read, written[oldest as usize - 1..version as usize - 1], "{operations}");
            written.truncate(version as usize - 1);
            written.push(append(&again, version + 1, version + 1, &[b"new"]));
            assert_eq!(read_all(&again, version, version + 1).unwrap(), written[version as usize - 1..]);
        }
    }
    assert!(failures > 50, "{failures}");
}

#[test]
fn no_file_is_touched_while_figures_and_reads_would_wait_for_it() {
    let journal = Arc::new(OnceLock::<Journal>::new());
    let (left, touched) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicI64::new(0)));
    let fault = {
        let (journal, touched, fault) = (journal.clone(), touched.clone(), after(&left));
        Arc::new(move || {
            if let Some(journal) = journal.get() {
                assert!(journal.state.try_lock().is_ok(), "a file is touched under the lock that everybody needs");
                touched.fetch_add(1, Ordering::Relaxed);
            }
            fault()
        })
    };
    let place = Arc::new(Failing { files: Arc::default(), fault });
    let options = JournalOptions { max_bytes: 32 << 10, ..options() };
    let journal = journal.get_or_init(|| Journal::open(place.clone(), options, 1));
    (2..200).for_each(|version| drop(append(journal, version, version, &[&[1; 200]])));
    assert!(journal.statistics().oldest > Some(1), "old files were removed");
    journal.sync();
    journal.begin_again(300);
    append(journal, 301, 301, &[b"k"]);
    left.store(0, Ordering::Relaxed);
    append(journal, 302, 302, &[b"k"]);
    assert!(journal.statistics().failure.is_some());
    assert!(touched.load(Ordering::Relaxed) > 200);
}

#[test]
fn a_read_of_few_keys_passes_over_what_does_not_touch_them() {
    let place = Arc::<MemoryJournal>::default();
    let journal = new_journal(&place, options(), 1);
    let value = [3; 2000];
    (2..1000u64)
        .for_each(|version| drop(append(&journal, version, 1, &[&[&version.to_be_bytes()[..], &value].concat()])));
    let key = |version: u64| [&version.to_be_bytes()[..], &value].concat();
    let size = |filter: &ChangeFilter| journal.size_of_read(1, 999, filter).unwrap().0;
    let all = size(&ChangeFilter::everything());
    let filter = ChangeFilter::of(&[ChangeRange::key("f", &key(500))]).unwrap();
    assert!(size(&filter) <= all / 10, "{} of {all}", size(&filter));
    let page = journal.read(1, 999, ReadLimits::default(), &filter).unwrap();
    assert_eq!(page.changes.iter().map(|change| change.version.0).collect::<Vec<_>>(), [500]);
    let end = Some(key(510).into());
    let range = ChangeRange { column_family: "f".into(), begin: key(500).into(), end };
    assert!(size(&ChangeFilter::of(&[range]).unwrap()) <= all / 10);
    assert_eq!(size(&ChangeFilter::of(&[ChangeRange::family("other")]).unwrap()), 0);
}
