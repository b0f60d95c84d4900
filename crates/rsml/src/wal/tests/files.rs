//! The log in real files, and how it uses its segments.

use tempfile::tempdir;

use super::*;
use crate::wal::InMemoryStorage;

fn segment_count(directory: &std::path::Path) -> usize {
    let names = std::fs::read_dir(directory).expect("the directory exists").map(|entry| entry.expect("readable"));
    names.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "wal")).count()
}

#[test]
fn entries_in_files_are_read_back_after_a_restart() {
    let directory = tempdir().expect("a temporary directory");
    let path = directory.path().join("log");
    let mut model = Model::default();
    for (round, direct_writes) in (0..6).zip([true, true, false, false, true, false]) {
        let options = WalOptions { segment_bytes: 1 << 18, direct_writes, ..WalOptions::default() };
        let mut storage = WalStorage::open(&path, options.clone()).expect("the directory can be created");
        let recovered = open(&mut storage).expect("the log is intact");
        assert!(model.matches(&recovered, 0), "round {round}");
        for number in 1..40 {
            let write = append(round * 100 + number, model.last + 1, &entries(number, 3, 3000));
            storage.persist(std::slice::from_ref(&write)).expect("the disk is healthy");
            model.apply(&write);
        }
        let middle = storage.read(Sequence(5), Sequence(9), 1 << 20).expect("the entries are stored");
        assert_eq!(middle, model.entries.range(5..=9).map(|(_, entry)| entry.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn a_log_in_use_is_not_opened_a_second_time() {
    let directory = tempdir().expect("a temporary directory");
    let first = WalStorage::open(directory.path(), WalOptions::default()).expect("the directory exists");
    let Err(error) = WalStorage::open(directory.path(), WalOptions::default()) else {
        panic!("the log was opened twice")
    };
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    WalStorage::open(directory.path(), WalOptions::default()).expect("the lock was released");
}

#[test]
fn trimming_removes_whole_segments_and_keeps_the_newest() {
    let directory = tempdir().expect("a temporary directory");
    let options = WalOptions { background_preparation: false, segment_bytes: 32768, ..WalOptions::default() };
    let mut storage = WalStorage::open(directory.path(), options.clone()).expect("the directory exists");
    storage.recover().expect("the log is empty");
    for sequence in 1..=30 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
    }
    assert_eq!(segment_count(directory.path()), 5);
    storage.trim(Sequence(15)).expect("the disk is healthy");
    assert_eq!(segment_count(directory.path()), 3);
    assert_eq!(storage.read(Sequence(14), Sequence(30), 1 << 20).expect("trimmed"), Vec::<Bytes>::new());
    assert_eq!(storage.read(Sequence(15), Sequence(30), 1 << 20).expect("stored").len(), 16);
    storage.trim(Sequence(31)).expect("the disk is healthy");
    assert_eq!(segment_count(directory.path()), 1);
    assert_eq!(storage.statistics().bytes_on_disk, 32768);
    drop(storage);
    let mut storage = WalStorage::open(directory.path(), options).expect("the directory exists");
    let recovered = storage.recover().expect("the log is intact");
    assert_eq!((recovered.hard_state, recovered.last), (Some(hard_state(30)), Sequence(30)));
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_own_size() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 16384);
    storage.recover().expect("the disk is healthy");
    let large = entries(1, 3, 40_000);
    storage.persist(&[append(1, 1, &large)]).expect("the disk is healthy");
    storage.persist(&[append(2, 4, &entries(4, 1, 10))]).expect("the disk is healthy");
    assert_eq!(storage.statistics().bytes_on_disk, 16384 + (4096 + 122_880) + 16384);
    let recovered = recover(&disk, 16384).expect("the log is intact");
    assert_eq!((&recovered.entries[..3], recovered.last), (&intact(&large)[..], Sequence(4)));
}

#[test]
fn a_prepared_segment_that_is_too_small_is_extended() {
    let directory = tempdir().expect("a temporary directory");
    let options = WalOptions { segment_bytes: 16384, ..WalOptions::default() };
    let mut storage = WalStorage::open(directory.path(), options.clone()).expect("the directory exists");
    storage.recover().expect("the log is empty");
    storage.persist(&[append(1, 1, &entries(1, 1, 5000))]).expect("the disk is healthy");
    storage.persist(&[append(2, 2, &entries(2, 1, 100_000))]).expect("the disk is healthy");
    drop(storage);
    let mut storage = WalStorage::open(directory.path(), options).expect("the directory exists");
    storage.recover().expect("the log is intact");
    assert_eq!(storage.load(Sequence(2)).expect("the log is intact"), intact(&entries(2, 1, 100_000)));
}

#[test]
fn one_call_whose_writes_fill_more_than_a_segment_writes_several_groups() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 65536);
    storage.recover().expect("the disk is healthy");
    let writes: Vec<Persist> = (1..=40).map(|n| append(n, n, &entries(n, 1, 6000))).collect();
    storage.persist(&writes).expect("the disk is healthy");
    assert!(storage.statistics().fsyncs > 4);
    let recovered = recover(&disk, 65536).expect("the log is intact");
    assert_eq!(recovered.entries, intact(&entries(1, 40, 6000)));
}

#[test]
fn one_call_costs_one_sync() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 65536);
    storage.recover().expect("the disk is healthy");
    let before = storage.statistics().fsyncs;
    let writes: Vec<Persist> = (1..=40).map(|n| append(n, n, &entries(n, 2, 60))).enumerate_from();
    storage.persist(&writes).expect("the disk is healthy");
    assert_eq!(storage.statistics().fsyncs, before + 1);
}

/// Gives writes of two entries each consecutive sequences.
trait EnumerateFrom {
    fn enumerate_from(self) -> Vec<Persist>;
}

impl<I: Iterator<Item = Persist>> EnumerateFrom for I {
    fn enumerate_from(self) -> Vec<Persist> {
        self.enumerate().map(|(position, write)| Persist { from: Sequence(position as u64 * 2 + 1), ..write }).collect()
    }
}

#[test]
#[should_panic(expected = "a write appends at 5, but the log ends at 1")]
fn a_gap_in_the_log_is_refused() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 65536);
    storage.recover().expect("the disk is healthy");
    let _refused = storage.persist(&[append(1, 1, &entries(1, 1, 1)), append(2, 5, &entries(5, 1, 1))]);
}

#[test]
fn a_log_in_memory_is_shared_by_its_clones() {
    let mut storage = InMemoryStorage::new();
    storage.persist(&[append(1, 1, &entries(1, 2, 8))]).expect("memory is healthy");
    let mut clone = storage.clone();
    assert_eq!(clone.recover().expect("memory is healthy").last, Sequence(2));
    assert_eq!(clone.load(Sequence(2)).expect("memory is healthy"), intact(&entries(2, 1, 8)));
}
