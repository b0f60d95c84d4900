//! Files that this program never leaves behind.

use super::*;

const SEGMENT_BYTES: u64 = 1 << 14;
const FIRST: &str = "0000000000000001.wal";
const SECOND: &str = "0000000000000002.wal";

/// One group in the first segment; the second one is prepared and unused.
fn log() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 2, 100))]).expect("the disk is healthy");
    drop(storage);
    disk.put(SECOND, vec![0; SEGMENT_BYTES as usize]);
    disk
}

#[test]
fn a_log_that_was_refused_once_is_refused_again() {
    let disk = log();
    disk.put(FIRST, vec![0; SEGMENT_BYTES as usize]);
    recover(&disk, SEGMENT_BYTES).expect_err("the log is gone, and a segment after it shows that there was one");
    recover(&disk, SEGMENT_BYTES).expect_err("it must not be mistaken for an empty disk");
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_sector_is_recovered_and_continues() {
    let disk = log();
    let mut content = disk.contents(FIRST);
    content.resize(SEGMENT_BYTES as usize + 100, 0);
    disk.put(FIRST, content);
    for number in 2..6 {
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        storage.recover().expect("nothing is damaged");
        storage.persist(&[append(number, number + 1, &entries(number, 1, 100))]).expect("the disk is healthy");
    }
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("nothing is damaged").last, Sequence(6));
}

#[test]
fn a_header_that_implies_absurdly_many_lost_entries_is_refused() {
    let disk = log();
    let mut content = disk.contents(FIRST);
    // A second group without writes. Its number leaves room for a lost group, and its header says
    // that the log ended far away.
    let (last_before, last_after) = (64, 72);
    let mut header = content[4096..4096 + 512].to_vec();
    header[32..40].copy_from_slice(&4u64.to_le_bytes());
    header[40..48].copy_from_slice(&4096u64.to_le_bytes());
    header[48..56].fill(0);
    header[56..60].copy_from_slice(&crc32c::crc32c(&[]).to_le_bytes());
    header[64..72].fill(0);
    for at in [last_before + 8, last_after + 8] {
        header[at..at + 8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    }
    header[12..16].fill(0);
    let crc = crc32c::crc32c(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    content[3 * 4096..3 * 4096 + 512].copy_from_slice(&header);
    disk.put(FIRST, content);
    let error = recover(&disk, SEGMENT_BYTES).expect_err("there is no room for that");
    assert!(error.to_string().contains("more than its segments ever had room for"), "{error}");
}

#[test]
fn damage_directly_before_a_torn_group_is_not_removed_with_it() {
    let disk = log();
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("nothing is damaged");
    storage.persist(&[append(2, 3, &entries(3, 2, 1000))]).expect("the disk is healthy");
    drop(storage);
    // The second sector of the last group was never written, and the header of the group before it
    // is damaged.
    disk.overwrite(FIRST, 2 * 4096 + 512, &[0; 512]);
    recover(&disk.duplicate(), SEGMENT_BYTES).expect("a torn group is removed");
    disk.flip_bit(FIRST, 4096 + 20, 0);
    let found = recover(&disk, SEGMENT_BYTES).expect("the torn group has the promise");
    assert_eq!((found.hard_state, found.damaged()), (Some(hard_state(2)), vec![1, 2, 3, 4]));
}
