//! Damage is reported with what it hit, never taken for a torn tail, and nothing foreign is ever read as ours.

use super::*;
use crate::wal::Fault;

const SEGMENT_BYTES: u64 = 1 << 16;
const FIRST: &str = "0000000000000001.wal";
const SECOND: &str = "0000000000000002.wal";

/// Groups at blocks 1 (entries 1–3), 2 (entries 4–5, replacing none), 4 (entries 5–7, replacing 5).
fn three_groups() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 700))]).expect("the disk is healthy");
    storage.persist(&[append(2, 4, &entries(4, 2, 2500))]).expect("the disk is healthy");
    storage.persist(&[replace(3, 5, &entries(50, 3, 1000))]).expect("the disk is healthy");
    disk
}

const LAST_GROUP: u64 = 4 * 4096;
const LAST_CONTENT_BYTES: u64 = 512 + 16 + 3 * 8 + 3 * 1000;

fn corrupt_range(result: Result<Found, StorageError>, what: &str) -> (u64, u64) {
    match result {
        Err(StorageError::Corrupt { from, to, .. }) => (from.0, to.0),
        other => panic!("{what}: not reported as damage: {other:?}"),
    }
}

#[test]
fn a_torn_tail_of_every_length_is_cut_off() {
    let whole = three_groups();
    let before = recover(&cut_at(&whole, LAST_GROUP), SEGMENT_BYTES).expect("a clean end");
    assert_eq!((before.last, before.hard_state), (Sequence(5), Some(hard_state(2))));
    let complete = recover(&whole.duplicate(), SEGMENT_BYTES).expect("nothing is damaged");
    assert_eq!(complete.last, Sequence(7));
    for bytes in (0..=LAST_CONTENT_BYTES.next_multiple_of(512)).step_by(512) {
        let disk = cut_at(&whole, LAST_GROUP + bytes);
        let recovered = recover(&disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        let expected = if bytes >= LAST_CONTENT_BYTES { &complete } else { &before };
        assert_eq!(&recovered, expected, "{bytes} bytes of the group were written");
    }
}

/// The disk as if everything from `offset` on had not been written.
fn cut_at(disk: &SimulatedDisk, offset: u64) -> SimulatedDisk {
    let disk = disk.duplicate();
    disk.overwrite(FIRST, offset, &vec![0; (SEGMENT_BYTES - offset) as usize]);
    disk
}

#[test]
fn any_part_of_the_last_group_may_be_torn() {
    let whole = three_groups();
    for missing in 0..8u64 {
        let disk = whole.duplicate();
        disk.overwrite(FIRST, LAST_GROUP + missing * 512, &[0; 512]);
        let recovered = recover(&disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("sector {missing}: {error}"));
        let holds_content = missing * 512 < LAST_CONTENT_BYTES;
        assert_eq!(recovered.last, Sequence(if holds_content { 5 } else { 7 }), "sector {missing} is missing");
    }
}

#[test]
fn behind_a_torn_group_everything_is_zeroed() {
    let disk = three_groups();
    disk.overwrite(FIRST, LAST_GROUP, &[0; 512]);
    recover(&disk, SEGMENT_BYTES).expect("a torn tail is cut");
    disk.crash();
    assert!(disk.contents(FIRST)[LAST_GROUP as usize..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_flipped_bit_in_the_last_group_is_damage_and_no_torn_tail() {
    let whole = three_groups();
    for offset in 0..LAST_CONTENT_BYTES {
        let disk = whole.duplicate();
        disk.flip_bit(FIRST, LAST_GROUP + offset, (offset % 8) as u8);
        corrupt_range(recover(&disk, SEGMENT_BYTES), &format!("byte {offset} of the last group"));
    }
}

#[test]
fn a_flipped_bit_in_a_header_in_the_middle_is_reported_with_what_the_group_changed() {
    let whole = three_groups();
    for offset in 0..512 {
        let disk = whole.duplicate();
        disk.flip_bit(FIRST, 4096 + offset, (offset % 8) as u8);
        let range = corrupt_range(recover(&disk, SEGMENT_BYTES), &format!("byte {offset} of the header"));
        assert_eq!(range, (1, 3), "byte {offset} of the header");
    }
}

#[test]
fn a_flipped_bit_in_a_table_in_the_middle_is_reported_with_what_the_group_changed() {
    let whole = three_groups();
    for offset in 512..512 + 16 + 3 * 8 {
        let disk = whole.duplicate();
        disk.flip_bit(FIRST, 4096 + offset, (offset % 8) as u8);
        let range = corrupt_range(recover(&disk, SEGMENT_BYTES), &format!("byte {offset} of the group"));
        assert_eq!(range, (1, 3), "byte {offset} of the group");
    }
}

#[test]
fn a_flipped_bit_in_an_entry_in_the_middle_is_reported_with_its_sequence() {
    let whole = three_groups();
    for offset in 0..3 * 700 {
        let disk = whole.duplicate();
        disk.flip_bit(FIRST, 4096 + 512 + 16 + 3 * 8 + offset, (offset % 8) as u8);
        let sequence = 1 + offset / 700;
        let range = corrupt_range(recover(&disk, SEGMENT_BYTES), &format!("byte {offset} of the entries"));
        assert_eq!(range, (sequence, sequence), "byte {offset} of the entries");
    }
}

#[test]
fn a_damaged_entry_that_was_replaced_since_or_is_not_asked_for_does_no_harm() {
    let disk = three_groups();
    let replaced_entry = 2 * 4096 + 512 + 16 + 2 * 8 + 2500 + 10;
    disk.flip_bit(FIRST, replaced_entry, 0);
    recover(&disk, SEGMENT_BYTES).expect("entry 5 was replaced");
    disk.flip_bit(FIRST, 4096 + 512 + 16 + 3 * 8, 0);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    let recovered = storage.recover().expect("entries are not read");
    assert_eq!(recovered.first, Sequence(1));
    assert_eq!(storage.load(Sequence(2)).expect("entry 1 is not asked for").len(), 6);
    let error = storage.read(Sequence(1), Sequence(3), 10_000).expect_err("entry 1 is damaged");
    assert!(matches!(error, StorageError::Corrupt { from: Sequence(1), to: Sequence(1), .. }), "{error}");
}

#[test]
fn neighbouring_damaged_entries_are_named_as_one_range() {
    let disk = three_groups();
    disk.overwrite(FIRST, 4096 + 512 + 16 + 3 * 8 + 600, &[0; 300]);
    assert_eq!(corrupt_range(recover(&disk, SEGMENT_BYTES), "entries 1 and 2"), (1, 2));
}

#[test]
fn a_write_that_the_device_lost_in_the_middle_is_reported() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[replace(2, 3, &entries(30, 4, 100))]).expect("the device says so");
    storage.persist(&[append(3, 7, &entries(70, 1, 100))]).expect("the disk is healthy");
    assert_eq!(corrupt_range(recover(&disk, SEGMENT_BYTES), "a lost write"), (3, 6));
}

#[test]
fn a_write_that_went_to_another_place_is_not_accepted_there() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    disk.inject(Fault::MisdirectWrite { by: 8192 });
    storage.persist(&[append(2, 4, &entries(4, 1, 100))]).expect("the device says so");
    let recovered = recover(&disk, SEGMENT_BYTES).expect("it can't be told from a torn write");
    assert_eq!(recovered.last, Sequence(3));
}

/// Two segments; the first is full of groups with one entry each.
fn two_segments() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    for sequence in 1..=20 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
    }
    assert_eq!(disk.names(), [FIRST, SECOND]);
    disk
}

#[test]
fn a_segment_under_the_name_of_another_is_refused() {
    let disk = two_segments();
    disk.put(SECOND, disk.contents(FIRST));
    corrupt_range(recover(&disk, SEGMENT_BYTES), "the first segment in place of the second");
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let other = SimulatedDisk::new(2);
    let other_options = WalOptions { segment_id_seed: 8, ..options(SEGMENT_BYTES) };
    let mut storage = WalStorage::over(Arc::new(other.clone()), other_options);
    storage.recover().expect("the disk is healthy");
    for sequence in 1..=3 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
    }
    let disk = two_segments();
    let foreign_group = other.contents(FIRST)[3 * 4096..4 * 4096].to_vec();
    disk.overwrite(FIRST, 3 * 4096, &foreign_group);
    assert_eq!(corrupt_range(recover(&disk, SEGMENT_BYTES), "a foreign group"), (3, 3));
}

#[test]
fn a_group_of_another_log_is_no_end_of_ours_even_where_its_number_fits() {
    let [ours, other] = [(7, 2), (8, 3)].map(|(segment_id_seed, groups)| {
        let disk = SimulatedDisk::new(1);
        let options = WalOptions { segment_id_seed, ..options(SEGMENT_BYTES) };
        let mut storage = WalStorage::over(Arc::new(disk.clone()), options);
        storage.recover().expect("the disk is healthy");
        for sequence in 1..=groups {
            storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
        }
        disk
    });
    ours.overwrite(FIRST, 3 * 4096, &other.contents(FIRST)[3 * 4096..4 * 4096]);
    assert_eq!(corrupt_range(recover(&ours, SEGMENT_BYTES), "a foreign group at the end"), (3, 3));
}

#[test]
fn a_stale_group_behind_the_end_is_refused() {
    let disk = two_segments();
    let stale = disk.contents(FIRST)[4096..8192].to_vec();
    let end = 4096 * 6;
    assert!(disk.contents(SECOND)[end..].iter().all(|&byte| byte == 0), "the segment ends here");
    disk.overwrite(SECOND, end as u64, &stale);
    corrupt_range(recover(&disk, SEGMENT_BYTES), "a stale group");
}

#[test]
fn a_stale_group_beyond_the_end_is_never_read_later() {
    let disk = two_segments();
    let group = disk.contents(SECOND)[5 * 4096..6 * 4096].to_vec();
    disk.overwrite(SECOND, 7 * 4096, &group);
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("it lies behind a blank end").last, Sequence(20));
    assert!(disk.contents(SECOND)[6 * 4096..].iter().all(|&byte| byte == 0), "it was zeroed");
}

#[test]
fn a_missing_segment_in_the_middle_is_reported() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 16384);
    storage.recover().expect("the disk is healthy");
    for sequence in 1..=9 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
    }
    crate::wal::Disk::remove(&disk, SECOND).expect("it exists");
    assert_eq!(corrupt_range(recover(&disk, 16384), "a missing segment"), (4, 6));
}

#[test]
fn the_end_of_a_full_segment_can_not_be_torn() {
    let disk = two_segments();
    disk.overwrite(FIRST, SEGMENT_BYTES - 4096, &[0; 4096]);
    assert_eq!(corrupt_range(recover(&disk, SEGMENT_BYTES), "the last group of the first segment"), (15, 15));
}

#[test]
fn damage_where_there_are_no_entries_names_no_sequences() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &[])]).expect("the disk is healthy");
    storage.persist(&[append(2, 1, &entries(1, 1, 100))]).expect("the disk is healthy");
    disk.flip_bit(FIRST, 4096 + 100, 0);
    let error = recover(&disk, SEGMENT_BYTES).expect_err("a group without entries is damaged");
    let text = error.to_string();
    assert!(text.contains("damaged between its entries") && text.contains("it held no entries"), "{text}");
    assert!(text.contains("Restore this replica"), "{text}");
}

#[test]
fn a_damaged_opening_is_reported() {
    let disk = two_segments();
    disk.flip_bit(SECOND, 30, 1);
    corrupt_range(recover(&disk, SEGMENT_BYTES), "a damaged opening");
    let disk = two_segments();
    disk.overwrite(SECOND, 0, &[0; 512]);
    corrupt_range(recover(&disk, SEGMENT_BYTES), "a lost opening");
}

#[test]
fn a_blank_segment_that_is_not_the_first_of_its_log_is_no_empty_disk() {
    let disk = SimulatedDisk::new(1);
    disk.put(SECOND, vec![0; SEGMENT_BYTES as usize]);
    corrupt_range(recover(&disk, SEGMENT_BYTES), "the log's only segment is blank");
}

#[test]
fn a_truncated_file_is_reported() {
    let disk = three_groups();
    let content = disk.contents(FIRST);
    disk.put(FIRST, content[..LAST_GROUP as usize - 4096].to_vec());
    let range = corrupt_range(recover(&disk, SEGMENT_BYTES), "the file ends within the second group");
    assert_eq!(range.0, 4);
}

#[test]
fn another_format_version_is_told_as_such() {
    let disk = three_groups();
    let mut sector = disk.contents(FIRST)[..512].to_vec();
    sector[8] = 3;
    sector[12..16].fill(0);
    let crc = crc32c::crc32c(&sector);
    sector[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(FIRST, 0, &sector);
    let error = recover(&disk, SEGMENT_BYTES).expect_err("version 3 is unknown");
    assert!(matches!(error, StorageError::Version { found: 3, known: 2, .. }), "{error}");
}
