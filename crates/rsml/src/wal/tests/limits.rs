//! Numbers and sizes at their very limits.

use super::*;
use crate::wal::format::{GREATEST, GroupHeader, GroupPosition, HeaderFault, SECTOR_BYTES, Table, encode_group};
use crate::wal::segment::{file_name, number_of};

const FIRST: &str = "0000000000000001.wal";
/// The segment header, and two blocks for groups.
const SEGMENT_BYTES: u64 = 3 * 4096;
/// The bytes of the only entry of a write whose group is one block long.
const FILLS_A_BLOCK: usize = 4096 - 512 - 16 - 8;

fn log() -> (SimulatedDisk, WalStorage) {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    (disk, storage)
}

/// A group with this write behind a log that ends with `last`.
fn group(last: u64, write: &Persist) -> (Vec<u8>, GroupHeader) {
    let header = GroupHeader {
        position: GroupPosition { segment_number: 1, segment_id: 2, group_number: 3 },
        group_bytes: 0,
        record_count: 0,
        entry_count: 0,
        table_crc: 0,
        holds_seal: false,
        payload_bytes: 0,
        last_before: Sequence(last),
        last_after: Sequence(last),
        lowest_changed: Sequence::ZERO,
        previous_lowest_changed: Sequence::ZERO,
        hard_state: None,
        context: None,
    };
    let mut buffer = Vec::new();
    let header = encode_group(header, std::slice::from_ref(write), &mut buffer);
    (buffer, header)
}

#[test]
fn the_greatest_sequence_is_intact_and_a_greater_one_damage() {
    let write = append(1, 1, &[]);
    assert!(GroupHeader::decode(&group(GREATEST, &write).0).is_ok());
    assert_eq!(GroupHeader::decode(&group(GREATEST + 1, &write).0), Err(HeaderFault::Damaged));
    let is_intact = |from| {
        let (bytes, header) = group(1, &append(1, from, &[]));
        Table::decode(&header, &bytes[SECTOR_BYTES..SECTOR_BYTES + header.table_bytes()]).is_some()
    };
    assert!(is_intact(GREATEST) && !is_intact(GREATEST + 1));
}

#[test]
fn a_write_that_no_reader_would_accept_is_refused_and_changes_nothing() {
    let (disk, mut storage) = log();
    let base = Some(Sequence(GREATEST - 1));
    let write = Persist { base, ..append(1, GREATEST, &entries(1, 1, 10)) };
    assert_eq!(storage.persist(&[write]).expect("the disk is healthy"), 1);
    for beyond in [entries(2, 1, 10), Vec::new()] {
        let refused = storage.persist(&[append(2, GREATEST + 1, &beyond)]);
        assert!(matches!(refused, Err(StorageError::Exhausted { .. })), "{refused:?}");
        disk.crash();
        storage = wal_over(&disk, SEGMENT_BYTES);
        let recovered = storage.recover().expect("only the write was refused");
        assert_eq!((recovered.first, recovered.last), (Sequence(GREATEST), Sequence(GREATEST)));
    }
}

#[test]
fn the_greatest_number_of_a_segment_is_one_and_a_greater_one_is_none() {
    assert_eq!(number_of(&file_name(GREATEST)), Some(GREATEST));
    assert_eq!(number_of(&file_name(GREATEST + 1)), None);
}

#[test]
fn writes_that_fill_an_empty_segment_to_its_last_byte_are_one_group() {
    let (_, mut storage) = log();
    let before = storage.statistics();
    // Another record and another entry in the table.
    let writes = [append(1, 1, &entries(1, 1, FILLS_A_BLOCK)), append(2, 2, &entries(2, 1, 4096 - 16 - 8))];
    assert_eq!(storage.persist(&writes).expect("the disk is healthy"), 2);
    let after = storage.statistics();
    assert_eq!((after.fsyncs - before.fsyncs, after.files), (1, 1));
}

#[test]
fn writes_that_fill_the_rest_of_a_segment_to_its_last_byte_need_no_other_one() {
    let (disk, mut storage) = log();
    disk.set_capacity_bytes(Some(SEGMENT_BYTES));
    let writes = [1, 2, 3].map(|number| append(number, number, &entries(number, 1, FILLS_A_BLOCK)));
    assert_eq!(storage.persist(&writes[..1]).expect("there is space"), 1);
    assert_eq!(storage.persist(&writes[1..]).expect("a full disk is no failure"), 1, "the second fits");
}

#[test]
fn a_read_is_filled_to_its_last_byte_and_takes_empty_entries_besides() {
    let (_, mut storage) = log();
    storage.persist(&[append(1, 1, &entries(1, 3, 10))]).expect("the disk is healthy");
    storage.persist(&[append(2, 4, &[Bytes::new()])]).expect("the disk is healthy");
    let mut count = |max_bytes| storage.read(Sequence(1), Sequence(4), max_bytes).expect("it is stored").len();
    assert_eq!((count(19), count(20), count(29), count(30)), (1, 2, 2, 4));
}

#[test]
fn a_write_without_entries_changes_none_wherever_it_begins() {
    let (disk, mut storage) = log();
    storage.persist(&[append(1, 1, &entries(1, 3, 10))]).expect("the disk is healthy");
    storage.persist(&[append(2, 2, &[])]).expect("the disk is healthy");
    // The table of its group is lost.
    disk.flip_bit(FIRST, 2 * 4096 + 512, 0);
    let found = recover(&disk, SEGMENT_BYTES).expect("the header is intact");
    assert_eq!((found.last, found.damaged()), (Sequence(3), vec![]));
}

#[test]
fn a_segment_is_removed_once_its_entries_are_replaced_from_the_very_first_one_on() {
    let (_, mut storage) = log();
    storage.persist(&[base(1, 4, append(1, 5, &entries(5, 1, 7000)))]).expect("the disk is healthy");
    storage.persist(&[replace(2, 5, &entries(50, 1, 7000))]).expect("the disk is healthy");
    assert_eq!(storage.statistics().files, 2);
    storage.trim(Sequence(1)).expect("the disk is healthy");
    assert_eq!(storage.statistics().files, 1, "the first one holds no entry of the log");
}
