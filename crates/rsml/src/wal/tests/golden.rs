//! Files of every released format version stay readable, and this version's bytes never change
//! unnoticed.

use super::*;
use crate::configuration::{Members, Reconfigure};
use crate::value::Value;
use crate::wal::format::GroupHeader;

const VERSION_1: &str = include_str!("../fixtures/version_1.hex");
const VERSION_2: &str = include_str!("../fixtures/version_2.hex");
const SEGMENT_BYTES: u64 = 20480;
const FILE: &str = "0000000000000001.wal";
const BLOCK: usize = 4096;

fn writes() -> [Persist; 3] {
    [
        append(1, 1, &entries(1, 3, 20)),
        Persist { entries: Vec::new(), ..append(2, 0, &[]) },
        Persist { base: Some(Sequence(1)), ..replace(3, 3, &entries(30, 2, 33)) },
    ]
    .map(without_lease)
}

/// The write as a program performs it that grants no leases, or does not know them.
fn without_lease(mut write: Persist) -> Persist {
    write.hard_state.lease_us = 0;
    write
}

fn write() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    let [first, second, third] = writes();
    storage.persist(&[first]).expect("the disk is healthy");
    storage.persist(&[second, third]).expect("the disk is healthy");
    disk
}

/// Rows of offset and 16 bytes; rows of zeros are left out.
fn to_hex(bytes: &[u8]) -> String {
    let rows = bytes.chunks(16).enumerate().filter(|(_, row)| row.iter().any(|&byte| byte != 0));
    let row = |(position, row): (usize, &[u8])| {
        let digits: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:06x}: {}\n", position * 16, digits.join(" "))
    };
    rows.map(row).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; SEGMENT_BYTES as usize];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (offset, row) = line.split_once(": ").expect("offset: bytes");
        let offset = usize::from_str_radix(offset, 16).expect("a hexadecimal offset");
        for (position, byte) in row.split(' ').enumerate() {
            bytes[offset + position] = u8::from_str_radix(byte, 16).expect("a hexadecimal byte");
        }
    }
    bytes
}

fn check(file: &str, writes: &[Persist]) {
    let disk = SimulatedDisk::new(1);
    disk.put(FILE, from_hex(file));
    let recovered = recover(&disk, SEGMENT_BYTES).expect("a released version is readable");
    let mut model = Model::default();
    writes.iter().for_each(|write| model.apply(write));
    assert!(model.matches(&recovered, 0), "{recovered:?}");
}

#[test]
fn a_file_of_version_1_is_read() {
    let mut writes = writes();
    writes[2].base = None;
    writes.iter_mut().for_each(|write| write.hard_state.generation = 0);
    check(VERSION_1, &writes);
}

#[test]
fn headers_from_version_2_on_describe_the_log_around_their_group() {
    let header = |file| GroupHeader::decode(&from_hex(file)[BLOCK..]).expect("it is intact");
    assert!(header(VERSION_1).context.is_none() && header(VERSION_2).context.is_some());
}

#[test]
fn a_file_of_version_2_is_read() {
    check(VERSION_2, &writes());
}

/// The length of leases replaced zeros that older programs ignore.
#[test]
fn the_length_of_leases_changes_nothing_else() {
    let [mut changed, ..] = writes();
    changed.hard_state.lease_us = 0x1234;
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(std::slice::from_ref(&changed)).expect("the disk is healthy");
    let (with, without) = (disk.contents(FILE), write().contents(FILE));
    let group = BLOCK..2 * BLOCK;
    let differing: Vec<usize> = group.filter(|at| with[*at] != without[*at]).map(|at| at - BLOCK).collect();
    assert!(differing.iter().all(|at| (12..16).contains(at) || (328..336).contains(at)), "{differing:?}");
    assert_eq!(recover(&disk, SEGMENT_BYTES).expect("it is sound").hard_state, Some(changed.hard_state));
}

/// The format version of the group that this write makes, once it was found that it can be read.
fn version_of(write: Persist) -> u8 {
    let disk = SimulatedDisk::new(1);
    let mut storage = wal_over(&disk, SEGMENT_BYTES);
    storage.recover().expect("the disk is healthy");
    storage.persist(std::slice::from_ref(&write)).expect("the disk is healthy");
    let found = recover(&disk, SEGMENT_BYTES).expect("it is sound");
    assert_eq!((found.hard_state, found.last), (Some(write.hard_state), Sequence(write.entries.len() as u64)));
    disk.contents(FILE)[BLOCK + 8]
}

/// Programs that know nothing of seals must not start over them.
#[test]
fn what_follows_the_first_epoch_is_of_version_3() {
    let seal = Value { reconfigure: Some(Reconfigure::new(Epoch(2), &Members::new())), ..Value::default() };
    let first = append(1, 1, &entries(1, 3, 20));
    let sealing = append(1, 1, &[entries(1, 1, 20)[0].clone(), seal.to_bytes()]);
    let later = HardState { epoch: Epoch(2), ended_view: View(257), ..first.hard_state };
    assert_eq!(version_of(first.clone()), 2);
    assert_eq!(version_of(sealing), 3);
    assert_eq!(version_of(Persist { hard_state: later, ..first }), 3);
}

#[test]
fn version_2_is_written_byte_by_byte_as_it_was_released() {
    let written = to_hex(&write().contents(FILE));
    let released: String =
        VERSION_2.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert_eq!(written, released, "a change of the format needs a new version number and a new fixture");
}
