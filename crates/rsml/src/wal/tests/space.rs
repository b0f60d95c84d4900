//! A full disk: durable writes stay, writes without space can be passed again, and nothing half
//! done remains.

use super::*;
use crate::wal::Fault;

const SEGMENT_BYTES: u64 = 16384;

/// A log with space for `segments` segments.
fn log_with_space_for(segments: u64) -> (SimulatedDisk, WalStorage) {
    let disk = SimulatedDisk::new(9);
    disk.set_capacity_bytes(Some(segments * SEGMENT_BYTES + SEGMENT_BYTES / 2));
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the first segment fits");
    (disk, storage)
}

fn writes(range: std::ops::RangeInclusive<u64>, length: usize) -> Vec<Persist> {
    range.map(|number| append(number, number, &entries(number, 1, length))).collect()
}

#[test]
fn writes_without_space_are_left_out_and_can_be_passed_again() {
    let (disk, mut storage) = log_with_space_for(2);
    let writes = writes(1..=20, 3000);
    let mut durable = 0;
    for _ in 0..3 {
        durable += storage.persist(&writes[durable..]).expect("a full disk is no failure");
        assert!(durable < writes.len() && !storage.has_space());
        assert_eq!(disk.names().len(), 2, "half a segment is removed");
        let found = recover(&disk.duplicate(), SEGMENT_BYTES).expect("the log is intact");
        assert_eq!(found.entries, intact(&entries(1, durable as u64, 3000)));
    }
    disk.set_capacity_bytes(None);
    assert!(storage.has_space());
    assert_eq!(storage.persist(&writes[durable..]).expect("there is space"), writes.len() - durable);
    drop(storage);
    disk.crash();
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("the log is intact").entries, intact(&entries(1, 20, 3000)));
}

#[test]
fn writes_that_fit_into_the_newest_segment_are_performed_although_there_is_no_space_for_another() {
    let (_, mut storage) = log_with_space_for(1);
    assert_eq!(storage.persist(&writes(1..=1, 3000)).expect("there is space"), 1);
    let rest = [writes(2..=4, 1000), writes(5..=5, 9000), writes(6..=6, 10)].concat();
    assert_eq!(storage.persist(&rest).expect("a full disk is no failure"), 3);
    assert_eq!(storage.persist(&rest[3..]).expect("a full disk is no failure"), 0);
}

#[test]
fn trimming_makes_space() {
    let (_, mut storage) = log_with_space_for(2);
    let writes = writes(1..=8, 3000);
    let durable = storage.persist(&writes).expect("a full disk is no failure");
    assert!(durable < writes.len());
    storage.trim(Sequence(durable as u64)).expect("the disk works");
    assert!(storage.persist(&writes[durable..]).expect("the disk works") > 0);
}

#[test]
fn a_segment_that_cannot_be_made_larger_is_removed() {
    let (disk, mut storage) = log_with_space_for(2);
    assert_eq!(storage.persist(&writes(1..=2, 3000)).expect("there is space"), 2);
    assert_eq!(storage.persist(&writes(3..=3, 40_000)).expect("a full disk is no failure"), 0);
    assert_eq!(disk.names().len(), 1);
    disk.set_capacity_bytes(None);
    assert_eq!(storage.persist(&writes(3..=3, 40_000)).expect("there is space"), 1);
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("the log is intact").last, Sequence(3));
}

#[test]
fn a_full_disk_in_the_middle_of_a_prepared_segment_is_a_failure() {
    let (disk, mut storage) = log_with_space_for(2);
    disk.inject(Fault::DiskFull);
    let error = storage.persist(&writes(1..=1, 100)).expect_err("the promised space is not there");
    assert!(matches!(error, StorageError::Full { .. }), "{error}");
    storage.persist(&writes(1..=1, 100)).expect_err("the log is unusable");
}

#[test]
fn a_log_cannot_begin_on_a_full_disk_but_can_continue_there() {
    let disk = SimulatedDisk::new(1);
    disk.set_capacity_bytes(Some(1000));
    assert!(matches!(recover(&disk, SEGMENT_BYTES), Err(StorageError::Full { .. })));
    disk.set_capacity_bytes(Some(SEGMENT_BYTES));
    recover(&disk, SEGMENT_BYTES).expect("there is space now");
    disk.set_capacity_bytes(Some(0));
    recover(&disk, SEGMENT_BYTES).expect("it needs no more space");
}

#[test]
fn the_preparing_thread_reports_a_lack_of_space_and_continues_when_there_is_some() {
    let disk = SimulatedDisk::new(9);
    disk.set_capacity_bytes(Some(3 * SEGMENT_BYTES / 2));
    let options = WalOptions { background_preparation: true, ..options(SEGMENT_BYTES) };
    let mut storage = WalStorage::over(Arc::new(disk.clone()), options);
    storage.recover().expect("the first segment fits");
    assert_eq!(storage.persist(&writes(1..=2, 3000)).expect("there is space"), 2);
    let wait_for_space = |storage: &WalStorage, wanted: bool| {
        while storage.has_space() != wanted {
            std::thread::yield_now();
        }
    };
    wait_for_space(&storage, false);
    assert_eq!(storage.persist(&writes(3..=4, 3000)).expect("a full disk is no failure"), 1);
    disk.set_capacity_bytes(None);
    wait_for_space(&storage, true);
    assert_eq!(storage.persist(&writes(4..=4, 3000)).expect("there is space"), 1);
}
