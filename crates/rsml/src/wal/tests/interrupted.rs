//! A recovery that is interrupted at any of its writes does not change the result of the next one.
//! Neither does one that is interrupted twice, nor a crash at any disk write of the first log write
//! after it.

use super::*;
use crate::wal::Fault;
use crate::wal::format::{BLOCK_BYTES, SECTOR_BYTES};

const SEGMENT_BYTES: u64 = 8 * BLOCK_BYTES;
const FIRST: &str = "0000000000000001.wal";
const SECOND: &str = "0000000000000002.wal";
const SECTOR: u64 = SECTOR_BYTES as u64;

/// Damage to a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Zeroed,
    Rotten,
}

/// Groups at blocks 1 (entries 1 and 2), 2 and 3 (entry 3), and 4 to 6 (entries 4 and 5).
fn one_segment() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    for write in [append(1, 1, &entries(1, 2, 900)), append(2, 3, &entries(3, 1, 5000))] {
        storage.persist(&[write]).expect("the disk is healthy");
    }
    storage.persist(&[append(3, 4, &entries(4, 2, 5000))]).expect("the disk is healthy");
    disk
}

/// The first segment is full to its last block. The second one has a segment header and nothing
/// else.
fn new_segment() -> SimulatedDisk {
    let disk = one_segment();
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(&[append(4, 6, &entries(6, 2, 900))]).expect("the disk is healthy");
    storage.persist(&[append(5, 8, &entries(8, 1, 900))]).expect("the disk is healthy");
    disk.overwrite(SECOND, BLOCK_BYTES, &vec![0; BLOCK_BYTES as usize]);
    disk
}

fn harm(disk: &SimulatedDisk, name: &str, sector: u64, harm: Harm) {
    match harm {
        Harm::Zeroed => disk.overwrite(name, sector * SECTOR, &vec![0; SECTOR_BYTES]),
        Harm::Rotten => disk.rot(name, sector * SECTOR..(sector + 1) * SECTOR),
    }
}

/// The sectors that are not blank.
fn written(disk: &SimulatedDisk, name: &str) -> Vec<u64> {
    let content = disk.contents(name);
    let sectors = content.chunks(SECTOR_BYTES).zip(0..);
    sectors.filter(|(sector, _)| sector.iter().any(|&byte| byte != 0)).map(|(_, number)| number).collect()
}

/// The log on a disk; `None` if it is refused.
fn look(disk: &SimulatedDisk) -> Option<Found> {
    let copy = disk.duplicate();
    match recover(&copy, SEGMENT_BYTES) {
        Ok(found) => Some(found),
        Err(StorageError::Damaged { .. }) => {
            assert_eq!(copy.operations(), disk.operations(), "the refused log was changed");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The disks after `work` was stopped at each of its writes, by a loss of power or by the death of
/// the process.
fn stopped(disk: &SimulatedDisk, seeds: u64, work: impl Fn(&SimulatedDisk)) -> Vec<SimulatedDisk> {
    let mut outcomes = Vec::new();
    let whole = disk.duplicate();
    work(&whole);
    for operations in 0..=whole.operations() - disk.operations() {
        for seed in 0..seeds {
            let copy = disk.duplicate();
            copy.reseed(seed * 1000 + operations);
            copy.stop_after(operations);
            work(&copy);
            if seed % 4 == 3 {
                copy.kill()
            } else {
                copy.crash()
            }
            outcomes.push(copy);
        }
    }
    outcomes
}

fn recover_or_stop(disk: &SimulatedDisk) {
    let _stopped = recover(disk, SEGMENT_BYTES);
}

/// `again`: how many consecutive recoveries are interrupted.
fn check(disk: &SimulatedDisk, seeds: u64, again: u32, what: &str) {
    let Some(expected) = look(disk) else { return };
    check_recovery(disk, &expected, seeds, again, what);
    let recovered = disk.duplicate();
    recover_or_stop(&recovered);
    recovered.crash();
    let next = append(90, expected.last.0 + 1, &entries(90, 1, 5000));
    let write = |disk: &SimulatedDisk| {
        let mut storage = wal_over(disk, SEGMENT_BYTES);
        if storage.recover().is_ok() {
            let _stopped = storage.persist(std::slice::from_ref(&next));
        }
    };
    let mut longer = Found { hard_state: Some(next.hard_state), last: next.from, ..expected.clone() };
    longer.entries.extend(intact(&next.entries));
    for outcome in stopped(&recovered, seeds, write) {
        let found = look(&outcome);
        assert!(
            [&expected, &longer].contains(&found.as_ref().unwrap_or_else(|| panic!("{what}: refused"))),
            "{what}, first write: {found:?}\ninstead of {expected:?}"
        );
    }
}

fn check_recovery(disk: &SimulatedDisk, expected: &Found, seeds: u64, again: u32, what: &str) {
    for outcome in stopped(disk, seeds, recover_or_stop) {
        assert_eq!(look(&outcome).as_ref(), Some(expected), "{what}");
        if again > 0 {
            check_recovery(&outcome, expected, seeds, again - 1, what);
        }
    }
}

#[test]
fn after_damage_of_any_sector() {
    for disk in [one_segment(), new_segment()] {
        for name in disk.names() {
            for sector in written(&disk, &name) {
                for kind in [Harm::Zeroed, Harm::Rotten] {
                    let disk = disk.duplicate();
                    harm(&disk, &name, sector, kind);
                    check(&disk, 2, 1, &format!("sector {sector} of {name} {kind:?}"));
                }
            }
        }
    }
}

/// The last group is torn, and the one before it damaged: once the torn group is removed, the
/// damaged one is the last.
#[test]
fn after_damage_of_any_sector_before_a_torn_group() {
    let whole = one_segment();
    let sectors = written(&whole, FIRST);
    let last_group = 4 * BLOCK_BYTES / SECTOR;
    let in_front = || sectors.iter().copied().filter(|&sector| sector < last_group);
    for missing in sectors.iter().copied().filter(|&sector| sector >= last_group) {
        for sector in in_front() {
            for kind in [Harm::Zeroed, Harm::Rotten] {
                let disk = whole.duplicate();
                harm(&disk, FIRST, missing, Harm::Zeroed);
                harm(&disk, FIRST, sector, kind);
                check(&disk, 2, 0, &format!("sector {missing} missing, {sector} {kind:?}"));
            }
        }
    }
}

#[test]
fn after_damage_of_a_segment_header_and_of_any_sector_before_it() {
    let whole = new_segment();
    for sector in written(&whole, FIRST) {
        for kind in [Harm::Zeroed, Harm::Rotten] {
            let disk = whole.duplicate();
            harm(&disk, SECOND, 0, Harm::Rotten);
            harm(&disk, FIRST, sector, kind);
            check(&disk, 3, 0, &format!("the segment header and sector {sector} {kind:?}"));
        }
    }
}

/// The last group lies anywhere but at its position, with damage before it.
#[test]
fn after_the_last_group_was_misplaced() {
    for (blocks, kept) in [(1, 4), (3, 4), (3, 2)] {
        for block in 1..8 - blocks {
            let disk = SimulatedDisk::new(1);
            let mut storage = wal_over(&disk, SEGMENT_BYTES);
            storage.recover().expect("the disk is healthy");
            for number in 1..kept {
                storage.persist(&[append(number, number, &entries(number, 1, 900))]).expect("the disk is healthy");
            }
            let write = append(kept, kept, &entries(kept, 1, (blocks as usize - 1) * 4096 + 900));
            storage.persist(&[write]).expect("the disk is healthy");
            drop(storage);
            let (from, bytes) = ((kept * BLOCK_BYTES) as usize, (blocks * BLOCK_BYTES) as usize);
            let group = disk.contents(FIRST)[from..from + bytes].to_vec();
            disk.overwrite(FIRST, from as u64, &vec![0; bytes]);
            disk.overwrite(FIRST, block * BLOCK_BYTES, &group);
            check(&disk, 4, 1, &format!("{blocks} blocks at {block} instead of {kept}"));
            for sector in written(&disk, FIRST) {
                let disk = disk.duplicate();
                harm(&disk, FIRST, sector, Harm::Zeroed);
                check(&disk, 2, 0, &format!("{blocks} blocks at {block} instead of {kept}, sector {sector} zeroed"));
            }
        }
    }
}

/// The blocks behind a recovery marker are blank again, so a group there that was not written
/// completely is torn, whichever of its blocks is missing, and costs nothing.
#[test]
fn the_first_group_behind_a_recovery_marker_may_be_torn() {
    for misplaced_at in 4..8 {
        let disk = SimulatedDisk::new(1);
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        storage.recover().expect("the disk is healthy");
        storage.persist(&[append(1, 1, &entries(1, 1, 900))]).expect("the disk is healthy");
        disk.inject(Fault::MisdirectWrite { by: (misplaced_at - 2) * BLOCK_BYTES });
        storage.persist(&[append(2, 2, &entries(2, 1, 3500))]).expect("the device acknowledges it");
        drop(storage);
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        let before = open(&mut storage).expect("the header is there");
        assert_eq!((before.last, before.damaged(), before.hard_state), (Sequence(2), vec![2], Some(hard_state(2))));
        let blank = disk.contents(FIRST);
        // Blocks 4 to 7: the marker lies in block 3.
        storage.persist(&[append(3, 3, &entries(3, 1, 15_000))]).expect("the disk is healthy");
        for missing in 4..8 {
            let disk = disk.duplicate();
            let range = (missing * BLOCK_BYTES) as usize..((missing + 1) * BLOCK_BYTES) as usize;
            disk.overwrite(FIRST, missing * BLOCK_BYTES, &blank[range]);
            let what = format!("misplaced at {misplaced_at}, block {missing} is missing");
            assert_eq!(look(&disk).as_ref(), Some(&before), "{what}");
        }
    }
}
