//! Damage costs exactly the entries that it hit, is never mistaken for a torn group, and data of
//! another log is never read.

use super::*;
use crate::wal::Fault;

const SEGMENT_BYTES: u64 = 1 << 16;
const FIRST: &str = "0000000000000001.wal";
const SECOND: &str = "0000000000000002.wal";
const THIRD: &str = "0000000000000003.wal";

/// Groups at blocks 1 (entries 1–3), 2 (entries 4–5), and 4 (entries 5–7, replacing 5).
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

/// Checks that recovery finds the whole log, except for the damaged entries.
fn check(disk: &SimulatedDisk, whole: &Found, damaged: &[u64], what: &str) {
    let found = recover(disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut expected = whole.clone();
    for sequence in damaged {
        expected.entries[(sequence - whole.first.0) as usize] = None;
    }
    assert_eq!(found, expected, "{what}");
}

fn refused(disk: &SimulatedDisk, what: &str) -> String {
    match recover(disk, SEGMENT_BYTES) {
        Err(error @ StorageError::Damaged { .. }) => error.to_string(),
        other => panic!("{what}: not refused: {other:?}"),
    }
}

#[test]
fn a_torn_group_of_every_length_is_removed() {
    let whole = three_groups();
    let before = recover(&truncated_at(&whole, LAST_GROUP), SEGMENT_BYTES).expect("a clean end");
    assert_eq!((before.last, before.hard_state), (Sequence(5), Some(hard_state(2))));
    let complete = recover(&whole.duplicate(), SEGMENT_BYTES).expect("nothing is damaged");
    assert_eq!(complete.last, Sequence(7));
    for bytes in (0..=LAST_CONTENT_BYTES.next_multiple_of(512)).step_by(512) {
        let disk = truncated_at(&whole, LAST_GROUP + bytes);
        let recovered = recover(&disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        let expected = if bytes >= LAST_CONTENT_BYTES { &complete } else { &before };
        assert_eq!(&recovered, expected, "{bytes} bytes of the group were written");
    }
}

/// The device wrote the last group a second time, to the place of the first one.
#[test]
fn a_group_of_which_a_copy_is_elsewhere_is_not_removed_as_torn() {
    let whole = three_groups();
    let mut content = whole.contents(FIRST);
    let last = LAST_GROUP as usize..LAST_GROUP as usize + 4096;
    content.copy_within(last.clone(), 4096);
    // A sector of its content is blank, as that of a torn group.
    content[last.start + 1024..last.start + 1536].fill(0);
    let disk = SimulatedDisk::new(1);
    disk.put(FIRST, content);
    let found = recover(&disk, SEGMENT_BYTES).expect("its header says how far the log goes");
    assert_eq!((found.last, found.hard_state), (Sequence(7), Some(hard_state(3))));
    disk.crash();
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("as before"), found, "after a crash");
}

/// The disk as if nothing had been written from `offset` on.
fn truncated_at(disk: &SimulatedDisk, offset: u64) -> SimulatedDisk {
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
fn everything_behind_a_torn_group_is_zeroed() {
    let disk = three_groups();
    disk.overwrite(FIRST, LAST_GROUP, &[0; 512]);
    recover(&disk, SEGMENT_BYTES).expect("a torn group is removed");
    disk.crash();
    assert!(disk.contents(FIRST)[LAST_GROUP as usize..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_flipped_bit_in_the_last_header_may_have_hit_a_promise_and_is_refused() {
    let whole = three_groups();
    for offset in 0..512 {
        let disk = whole.duplicate();
        disk.flip_bit(FIRST, LAST_GROUP + offset, (offset % 8) as u8);
        let text = refused(&disk, &format!("byte {offset} of the last header"));
        assert!(text.contains("must not vote") && text.contains("observer"), "{text}");
    }
}

#[test]
fn a_flipped_bit_in_the_last_group_loses_its_entries_and_nothing_else() {
    let disk = three_groups();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    let table_end = 512 + 16 + 3 * 8;
    for offset in 512..LAST_CONTENT_BYTES {
        let disk = disk.duplicate();
        disk.flip_bit(FIRST, LAST_GROUP + offset, (offset % 8) as u8);
        let entry = offset.checked_sub(table_end).map(|offset| 5 + offset / 1000);
        let damaged = entry.map_or(vec![5, 6, 7], |entry| vec![entry]);
        check(&disk, &whole, &damaged, &format!("byte {offset} of the last group"));
    }
}

#[test]
fn damage_of_an_entry_that_holds_zeros_is_not_mistaken_for_a_torn_group() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    let mut zeros = vec![0; 3000];
    zeros[10] = 1;
    storage.persist(&[append(1, 1, &[zeros.into()])]).expect("the disk is healthy");
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.flip_bit(FIRST, 4096 + 512 + 16 + 8 + 10, 3);
    check(&disk, &whole, &[1], "an entry of zeros");
    disk.overwrite(FIRST, 4096 + 512, &[0; 512]);
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("a torn group is removed").last, Sequence(0));
}

#[test]
fn a_flipped_bit_in_a_header_or_table_in_the_middle_loses_the_entries_of_that_group() {
    let disk = three_groups();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    for offset in 0..512 + 16 + 3 * 8 {
        let disk = disk.duplicate();
        disk.flip_bit(FIRST, 4096 + offset, (offset % 8) as u8);
        check(&disk, &whole, &[1, 2, 3], &format!("byte {offset} of the group"));
    }
}

#[test]
fn a_flipped_bit_in_an_entry_in_the_middle_loses_that_entry() {
    let disk = three_groups();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    for offset in 0..3 * 700 {
        let disk = disk.duplicate();
        disk.flip_bit(FIRST, 4096 + 512 + 16 + 3 * 8 + offset, (offset % 8) as u8);
        check(&disk, &whole, &[1 + offset / 700], &format!("byte {offset} of the entries"));
    }
}

#[test]
fn a_damaged_entry_that_was_replaced_or_is_not_read_does_no_harm() {
    let disk = three_groups();
    let replaced_entry = 2 * 4096 + 512 + 16 + 2 * 8 + 2500 + 10;
    disk.flip_bit(FIRST, replaced_entry, 0);
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("entry 5 was replaced").damaged(), []);
    disk.flip_bit(FIRST, 4096 + 512 + 16 + 3 * 8, 0);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    assert_eq!(storage.recover().expect("entries are not read").lost, []);
    assert!(storage.load(Sequence(2)).expect("the log is usable").iter().all(Option::is_some));
    assert_eq!(storage.read(Sequence(1), Sequence(3), 10_000).expect("the log is usable"), Vec::<Bytes>::new());
    assert_eq!(storage.read(Sequence(2), Sequence(3), 10_000).expect("the log is usable"), entries(2, 2, 700));
}

#[test]
fn a_read_ends_before_a_damaged_entry_which_is_never_returned_again() {
    let disk = three_groups();
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("nothing is damaged");
    let inside_entry_2 = 4096 + 512 + 16 + 3 * 8 + 800;
    disk.flip_bit(FIRST, inside_entry_2, 0);
    assert_eq!(storage.read(Sequence(1), Sequence(7), 10_000).expect("the log is usable"), entries(1, 1, 700));
    disk.flip_bit(FIRST, inside_entry_2, 0);
    assert_eq!(storage.read(Sequence(2), Sequence(7), 10_000).expect("the log is usable"), Vec::<Bytes>::new());
    assert_eq!(storage.read(Sequence(3), Sequence(3), 10_000).expect("the log is usable"), entries(3, 1, 700));
}

#[test]
fn entries_that_the_device_cannot_read_are_lost_and_all_others_are_not() {
    let disk = three_groups();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.make_unreadable(FIRST, 4096 + 2048..4096 + 2049);
    check(&disk, &whole, &[3], "a sector within entry 3");
    disk.make_unreadable(FIRST, 8192..8193);
    check(&disk, &whole, &[3, 4], "the header of the second group, whose entry 5 was replaced");
    disk.make_unreadable(FIRST, LAST_GROUP + 1024..LAST_GROUP + 1025);
    check(&disk, &whole, &[3, 4, 5], "a sector within the last group's entry 5");
    disk.make_unreadable(FIRST, LAST_GROUP..LAST_GROUP + 1);
    refused(&disk, "the last header");
}

#[test]
fn entries_that_a_lost_group_replaced_do_not_reappear() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[replace(2, 2, &[])]).expect("the device acknowledges it");
    storage.persist(&[append(3, 2, &entries(20, 1, 100))]).expect("the disk is healthy");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[replace(4, 2, &entries(21, 3, 100))]).expect("the device acknowledges it");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[append(5, 5, &entries(5, 1, 100))]).expect("the device acknowledges it");
    storage.persist(&[append(6, 6, &entries(6, 1, 100))]).expect("the disk is healthy");
    let found = recover(&disk, SEGMENT_BYTES).expect("the damage is not at the end");
    assert_eq!((found.last, found.damaged()), (Sequence(6), vec![2, 3, 4, 5]));
    assert_eq!((&found.entries[0], &found.entries[5]), (&Some(entry(1, 100)), &Some(entry(6, 100))));
}

#[test]
fn a_base_in_a_lost_group_is_known_from_the_next_header() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 5, 100))]).expect("the disk is healthy");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[base(2, 3, append(2, 6, &entries(6, 1, 100)))]).expect("the device acknowledges it");
    storage.persist(&[append(3, 7, &entries(7, 1, 100))]).expect("the disk is healthy");
    let found = recover(&disk, SEGMENT_BYTES).expect("the damage is not at the end");
    assert_eq!((found.first, found.last, found.damaged()), (Sequence(4), Sequence(7), vec![6]));
    drop(storage);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the damage is not at the end");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[base(4, 20, append(4, 21, &[]))]).expect("the device acknowledges it");
    storage.persist(&[append(5, 21, &entries(21, 1, 100))]).expect("the disk is healthy");
    let found = recover(&disk, SEGMENT_BYTES).expect("the damage is not at the end");
    assert_eq!((found.first, found.last, found.damaged()), (Sequence(21), Sequence(21), vec![]));
}

#[test]
fn if_more_truncations_are_lost_than_headers_record_everything_before_counts_as_lost() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    for number in 2..=10 {
        storage.persist(&[replace(number, 3, &entries(number * 10, 1, 100))]).expect("the disk is healthy");
    }
    storage.persist(&[append(11, 4, &entries(4, 1, 100))]).expect("the disk is healthy");
    let [seven, eight] = [7, 8].map(|lost| {
        let disk = disk.duplicate();
        disk.overwrite(FIRST, (11 - lost) * 4096, &vec![0xff; lost as usize * 4096]);
        recover(&disk, SEGMENT_BYTES).expect("the damage is not at the end").damaged()
    });
    assert_eq!((seven, eight), (vec![3], vec![1, 2, 3]));
}

/// What a lost group removed is known from the header behind it, and must still be known when that
/// header is lost, too.
#[test]
fn a_lost_truncation_that_one_header_tells_of_is_passed_on_after_a_restart() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    disk.inject(Fault::LoseWrite);
    storage.persist(&[replace(2, 2, &entries(20, 2, 100))]).expect("the device acknowledges it");
    storage.persist(&[append(3, 4, &entries(4, 1, 100))]).expect("the disk is healthy");
    drop(storage);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    assert_eq!(storage.recover().expect("there is a header behind it").lost, [(Sequence(2), Sequence(3))]);
    storage.persist(&[append(4, 5, &entries(5, 1, 100))]).expect("the disk is healthy");
    disk.overwrite(FIRST, 3 * 4096, &[0xff; 512]);
    let found = recover(&disk, SEGMENT_BYTES).expect("the damage is not at the end");
    assert_eq!((found.last, found.damaged()), (Sequence(5), vec![2, 3, 4]));
}

/// One group of several writes replaces entries 2 and 3, and its header says so.
#[test]
fn a_group_of_several_writes_loses_all_that_any_of_them_changed() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    let writes =
        [replace(2, 3, &entries(30, 1, 100)), replace(3, 2, &entries(20, 2, 100)), append(4, 4, &entries(40, 1, 100))];
    storage.persist(&writes).expect("the disk is healthy");
    storage.persist(&[append(5, 5, &entries(5, 1, 100))]).expect("the disk is healthy");
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    for (offset, part) in [(100, "header"), (512 + 3, "table")] {
        let disk = disk.duplicate();
        disk.flip_bit(FIRST, 2 * 4096 + offset, 0);
        check(&disk, &whole, &[2, 3, 4], part);
    }
}

#[test]
fn a_misplaced_group_loses_its_entries_but_its_promise_counts() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
    disk.inject(Fault::MisdirectWrite { by: 8192 });
    storage.persist(&[append(2, 4, &entries(4, 1, 100))]).expect("the device acknowledges it");
    let found = recover(&disk, SEGMENT_BYTES).expect("the header is there");
    assert_eq!((found.last, found.damaged(), found.hard_state), (Sequence(4), vec![4], Some(hard_state(2))));
    disk.crash();
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("the state was written again"), found);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the state was written again");
    storage.persist(&[append(3, 5, &entries(5, 1, 100))]).expect("the disk is healthy");
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("the log continues").damaged(), [4]);
}

#[test]
fn if_the_newest_group_was_written_over_an_older_one_its_promise_counts_and_the_log_continues() {
    let disk = three_groups();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    let newest = disk.contents(FIRST)[LAST_GROUP as usize..LAST_GROUP as usize + 4096].to_vec();
    disk.overwrite(FIRST, LAST_GROUP, &[0; 4096]);
    disk.overwrite(FIRST, 4096, &newest);
    for _ in 0..2 {
        check(&disk, &whole, &[1, 2, 3, 5, 6, 7], "the last group over the first");
    }
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the header is there");
    storage.persist(&[append(4, 8, &entries(8, 1, 100))]).expect("the disk is healthy");
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("the log continues").damaged(), [1, 2, 3, 5, 6, 7]);
}

#[test]
fn a_torn_group_behind_a_damaged_header_has_the_newest_promise() {
    let disk = three_groups();
    disk.overwrite(FIRST, 2 * 4096, &[0xff; 512]);
    disk.overwrite(FIRST, LAST_GROUP + 1024, &[0; 512]);
    for _ in 0..2 {
        let found = recover(&disk, SEGMENT_BYTES).expect("there is a header");
        assert_eq!((found.hard_state, found.last, found.damaged()), (Some(hard_state(3)), Sequence(7), vec![4, 5]));
    }
}

#[test]
fn a_misplaced_earlier_group_is_damage_wherever_the_log_ends() {
    for later in 0..9 {
        let disk = SimulatedDisk::new(1);
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        storage.recover().expect("the disk is healthy");
        storage.persist(&[append(1, 1, &entries(1, 3, 100))]).expect("the disk is healthy");
        disk.inject(Fault::MisdirectWrite { by: 4 * 4096 });
        storage.persist(&[append(2, 4, &entries(4, 1, 100))]).expect("the device acknowledges it");
        for number in 5..5 + later {
            storage.persist(&[append(number, number, &entries(number, 1, 100))]).expect("the disk is healthy");
        }
        let found = recover(&disk, SEGMENT_BYTES).unwrap_or_else(|error| panic!("{later} groups later: {error}"));
        assert_eq!((found.last.0, found.damaged()), (4 + later, vec![4]), "{later} groups later");
    }
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
    refused(&disk, "the first segment in place of the second");
}

#[test]
fn a_group_of_another_log_is_damage_in_the_middle_and_refused_at_the_end() {
    let [ours, other] = [(7, 5), (8, 6)].map(|(segment_id_seed, groups)| {
        let disk = SimulatedDisk::new(1);
        let options = WalOptions { segment_id_seed, ..options(SEGMENT_BYTES) };
        let mut storage = WalStorage::over(Arc::new(disk.clone()), options);
        storage.recover().expect("the disk is healthy");
        for sequence in 1..=groups {
            storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
        }
        disk
    });
    let copy = |block: usize| {
        let disk = ours.duplicate();
        disk.overwrite(FIRST, block as u64 * 4096, &other.contents(FIRST)[block * 4096..(block + 1) * 4096]);
        disk
    };
    assert_eq!(recover(&copy(3), SEGMENT_BYTES).expect("the damage is not at the end").damaged(), [3]);
    refused(&copy(6), "a group of another log at the end, although its number fits");
}

#[test]
fn a_copy_of_a_group_directly_behind_the_end_is_refused() {
    let disk = two_segments();
    let stale = disk.contents(SECOND)[4096..8192].to_vec();
    let end = 4096 * 6;
    assert!(disk.contents(SECOND)[end..].iter().all(|&byte| byte == 0), "the segment ends here");
    disk.overwrite(SECOND, end as u64, &stale);
    refused(&disk, "a copy of a group");
}

#[test]
fn a_copy_of_a_group_further_behind_the_end_is_never_read_later() {
    let disk = two_segments();
    let group = disk.contents(SECOND)[5 * 4096..6 * 4096].to_vec();
    disk.overwrite(SECOND, 7 * 4096, &group);
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("it lies after a blank end").last, Sequence(20));
    assert!(disk.contents(SECOND)[6 * 4096..].iter().all(|&byte| byte == 0), "it was zeroed");
}

/// Three segments with groups of one entry each: 1 to 3, 4 to 6, 7 to 9.
fn three_segments() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 16384);
    storage.recover().expect("the disk is healthy");
    for sequence in 1..=9 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
    }
    assert_eq!(disk.names(), [FIRST, SECOND, THIRD]);
    disk
}

#[test]
fn the_entries_of_missing_or_unreadable_segments_are_lost() {
    let disk = three_segments();
    let whole = recover(&disk, 16384).expect("nothing is damaged");
    for (name, damaged) in [(FIRST, [1, 2, 3]), (SECOND, [4, 5, 6])] {
        let missing = disk.duplicate();
        crate::wal::Disk::remove(&missing, name).expect("it exists");
        let garbage = disk.duplicate();
        garbage.overwrite(name, 0, &[0xff; 16384]);
        if name != FIRST {
            check(&missing, &whole, &damaged, "the second segment is missing");
        }
        check(&garbage, &whole, &damaged, &format!("garbage in {name}"));
    }
    disk.overwrite(THIRD, 0, &[0xff; 16384]);
    refused(&disk, "garbage in the newest segment");
}

#[test]
fn a_segment_that_cannot_be_read_is_removed_when_its_entries_are_trimmed() {
    let disk = three_segments();
    disk.overwrite(FIRST, 0, &[0xff; 16384]);
    let mut storage = wal_over(&disk, 16384);
    storage.recover().expect("the damage is not at the end");
    storage.trim(Sequence(5)).expect("the disk is healthy");
    assert_eq!(disk.names(), [SECOND, THIRD]);
}

#[test]
fn the_last_group_of_a_full_segment_cannot_be_torn() {
    let disk = two_segments();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.overwrite(FIRST, SEGMENT_BYTES - 4096, &[0; 4096]);
    check(&disk, &whole, &[15], "the last group of the first segment");
}

#[test]
fn damage_of_a_group_without_entries_loses_none() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(1, 1, &[])]).expect("the disk is healthy");
    storage.persist(&[append(2, 1, &entries(1, 1, 100))]).expect("the disk is healthy");
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.flip_bit(FIRST, 4096 + 100, 0);
    check(&disk, &whole, &[], "a group without entries");
}

#[test]
fn the_headers_behind_a_damaged_segment_header_make_up_for_it() {
    for name in [FIRST, SECOND] {
        for sector in [[0; 512], [0xff; 512]] {
            let disk = two_segments();
            let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
            disk.overwrite(name, 0, &sector);
            check(&disk, &whole, &[], name);
        }
    }
}

#[test]
fn the_first_group_of_the_oldest_segment_says_where_a_trimmed_log_begins() {
    let disk = two_segments();
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("nothing is damaged");
    storage.trim(Sequence(20)).expect("the disk is healthy");
    assert_eq!(disk.names(), [SECOND]);
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.overwrite(SECOND, 0, &[0xff; 512]);
    check(&disk, &whole, &[], "the header of the oldest segment");
}

#[test]
fn a_group_with_writes_in_place_of_the_segment_header_is_damage() {
    let disk = three_groups();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.overwrite(FIRST, 0, &disk.contents(FIRST)[4096..8192]);
    check(&disk, &whole, &[], "a copy of the first group");
}

#[test]
fn a_damaged_segment_header_with_nothing_behind_it_proves_that_nothing_before_it_is_torn() {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, 16384);
    storage.recover().expect("the disk is healthy");
    for sequence in 1..=3 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 3000))]).expect("the disk is healthy");
    }
    let whole = recover(&disk, 16384).expect("nothing is damaged");
    disk.stop_after(4);
    storage.persist(&[append(4, 4, &entries(4, 1, 100))]).expect_err("the machine stops");
    disk.kill();
    let has_header = |disk: &SimulatedDisk| disk.names().len() == 2 && disk.contents(SECOND)[..512] != [0; 512];
    if !has_header(&disk) {
        let mut content = disk.contents(FIRST)[..4096].to_vec();
        content.resize(16384, 0);
        disk.put(SECOND, content);
    }
    disk.overwrite(SECOND, 0, &[0xff; 512]);
    disk.overwrite(FIRST, 3 * 4096 + 1024, &[0; 512]);
    for round in 0..2 {
        let found = recover(&disk, 16384).expect("the hard state is known");
        assert_eq!((found.last, found.damaged(), found.hard_state), (whole.last, vec![3], whole.hard_state), "{round}");
    }
}

#[test]
fn a_blank_segment_that_is_not_the_first_one_is_not_mistaken_for_an_empty_disk() {
    let disk = SimulatedDisk::new(1);
    disk.put(SECOND, vec![0; SEGMENT_BYTES as usize]);
    refused(&disk, "the log's only segment is blank");
}

#[test]
fn a_shortened_file_is_refused_if_it_is_the_newest() {
    let disk = three_groups();
    for bytes in [SEGMENT_BYTES as usize - 4096, LAST_GROUP as usize, LAST_GROUP as usize - 4096, 4096, 100] {
        let disk = disk.duplicate();
        disk.put(FIRST, disk.contents(FIRST)[..bytes].to_vec());
        refused(&disk, &format!("{bytes} bytes are left"));
    }
    let disk = two_segments();
    let whole = recover(&disk, SEGMENT_BYTES).expect("nothing is damaged");
    disk.put(FIRST, disk.contents(FIRST)[..14 * 4096 + 100].to_vec());
    check(&disk, &whole, &[14, 15], "the older segment was shortened");
}

#[test]
fn a_log_with_a_damaged_middle_continues_and_is_repaired_and_trimmed() {
    let disk = two_segments();
    disk.overwrite(FIRST, 5 * 4096, &[0xff; 3 * 4096]);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    assert_eq!(storage.recover().expect("the damage is not at the end").lost, [(Sequence(5), Sequence(7))]);
    for sequence in 21..=40 {
        storage.persist(&[append(sequence, sequence, &entries(sequence, 1, 100))]).expect("the disk is healthy");
    }
    assert_eq!(storage.read(Sequence(1), Sequence(40), 1 << 20).expect("usable"), entries(1, 4, 100));
    let found = recover(&disk, SEGMENT_BYTES).expect("the damage is not at the end");
    assert_eq!((found.last, found.damaged()), (Sequence(40), vec![5, 6, 7]));

    let mut repaired = wal_over(&disk.duplicate(), SEGMENT_BYTES);
    repaired.recover().expect("the damage is not at the end");
    repaired.persist(&[replace(41, 6, &entries(6, 35, 100))]).expect("the disk is healthy");
    assert_eq!(repaired.read(Sequence(6), Sequence(40), 1 << 20).expect("usable"), entries(6, 35, 100));

    let repaired = disk.duplicate();
    let mut storage = wal_over(&repaired, SEGMENT_BYTES);
    storage.recover().expect("the damage is not at the end");
    storage.persist(&[replace(41, 5, &entries(5, 36, 100))]).expect("the disk is healthy");
    let found = recover(&repaired, SEGMENT_BYTES).expect("the damage is not at the end");
    assert_eq!((found.last, found.damaged()), (Sequence(40), vec![]));

    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the damage is not at the end");
    storage.trim(Sequence(16)).expect("the disk is healthy");
    let found = recover(&disk, SEGMENT_BYTES).expect("the damage is gone");
    assert_eq!((found.first, found.last, found.damaged()), (Sequence(16), Sequence(40), vec![]));
}

#[test]
fn another_format_version_is_reported_as_such() {
    let disk = three_groups();
    let mut sector = disk.contents(FIRST)[..512].to_vec();
    sector[8] = 4;
    sector[12..16].fill(0);
    let crc = crc32c::crc32c(&sector);
    sector[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(FIRST, 0, &sector);
    let error = recover(&disk, SEGMENT_BYTES).expect_err("version 4 is unknown");
    assert!(matches!(error, StorageError::Version { found: 4, known: 3, .. }), "{error}");
}
