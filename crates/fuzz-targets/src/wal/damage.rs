//! Kinds of damage to the files of a log.
//!
//! This module knows enough of the format to make checksums right again: otherwise no damage would
//! get past them.

use rsml::wal::SimulatedDisk;

use super::script::Script;
use crate::Input;

pub const BLOCK_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;
const MAGIC: &[u8; 8] = b"RSML-WAL";
const CRC_AT: usize = 12;
const ORDER_COUNT_AT: usize = 48;
const ENTRY_COUNT_AT: usize = 52;
const TABLE_CRC_AT: usize = 56;
const ORDER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 8;
const MAX_FILE_BYTES: usize = 8 * BLOCK_BYTES;

fn file_name(number: u64) -> String {
    format!("{number:016x}.wal")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    FlippedBit,
    Other,
}

/// One piece of damage, in a file that the input chooses.
pub fn one(disk: &SimulatedDisk, input: &mut Input) -> Damage {
    let names = disk.names();
    let Some(name) = names.get(input.below(names.len())) else { return Damage::Other };
    let mut content = disk.contents(name);
    let blocks = content.len() / BLOCK_BYTES;
    let block = input.below(blocks) * BLOCK_BYTES;
    match input.byte() % 9 {
        0 => {
            let at = block + input.below(BLOCK_BYTES);
            if let Some(byte) = content.get_mut(at) {
                *byte ^= 1 << input.below(8);
            }
            disk.put(name, content);
            return Damage::FlippedBit;
        }
        1 => {
            // A field of the header, or of the table after it.
            let (at, number) = (block + input.below(80) * 8, input.number());
            if let Some(field) = content.get_mut(at..at + 8) {
                field.copy_from_slice(&number.to_le_bytes());
            }
        }
        2 => {
            let at = block + input.below(8) * SECTOR_BYTES;
            if let Some(sector) = content.get_mut(at..at + SECTOR_BYTES) {
                sector.fill(0);
            }
        }
        3 => {
            let other = names[input.below(names.len())].clone();
            let copied = disk.contents(&other);
            let from = input.below(copied.len() / BLOCK_BYTES) * BLOCK_BYTES;
            if let (Some(target), Some(source)) =
                (content.get_mut(block..block + BLOCK_BYTES), copied.get(from..from + BLOCK_BYTES))
            {
                target.copy_from_slice(source);
            }
        }
        4 => content.truncate(block + input.below(BLOCK_BYTES)),
        5 => {
            disk.put(&file_name(input.number()), content);
            return Damage::Other;
        }
        6 => content.resize(content.len().min(MAX_FILE_BYTES) + input.below(2 * BLOCK_BYTES), input.byte()),
        7 => {
            remove(disk, name);
            return Damage::Other;
        }
        _ => {
            let (at, number) = (block + input.below(BLOCK_BYTES), input.number());
            let end = content.len().min(at + input.below(BLOCK_BYTES));
            if let Some(bytes) = content.get_mut(at..end) {
                bytes.fill(number as u8);
            }
        }
    }
    disk.put(name, content);
    Damage::Other
}

/// The disk as it is but for one file.
fn remove(disk: &SimulatedDisk, name: &str) {
    let others: Vec<_> = disk.names().into_iter().filter(|other| other != name).collect();
    let contents: Vec<_> = others.iter().map(|other| disk.contents(other)).collect();
    disk.wipe();
    others.iter().zip(contents).for_each(|(name, content)| disk.put(name, content));
}

/// Corrects the checksums of everything that can be taken for the header of a group, and of the
/// table after it.
pub fn seal(disk: &SimulatedDisk) {
    for name in disk.names() {
        let mut content = disk.contents(&name);
        (0..content.len()).step_by(BLOCK_BYTES).for_each(|at| seal_group(&mut content[at..]));
        disk.put(&name, content);
    }
}

fn seal_group(group: &mut [u8]) {
    if group.len() < SECTOR_BYTES || !group.starts_with(MAGIC) {
        return;
    }
    let number = |at: usize| u32::from_le_bytes(group[at..at + 4].try_into().expect("four bytes")) as usize;
    let table_bytes = number(ORDER_COUNT_AT) * ORDER_BYTES + number(ENTRY_COUNT_AT) * ENTRY_BYTES;
    if let Some(table) = group.get(SECTOR_BYTES..SECTOR_BYTES + table_bytes) {
        let crc = crc32c::crc32c(table);
        group[TABLE_CRC_AT..TABLE_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
    group[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32c::crc32c(&group[..SECTOR_BYTES]);
    group[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A file that an input describes: number, blocks, and what each begins with.
pub fn any_file(input: &mut Input) -> (String, Vec<u8>) {
    let number = if input.byte().is_multiple_of(4) { input.number() } else { u64::from(input.byte() % 4) };
    let (blocks, surplus) = (input.below(6), input.below(4));
    let mut content = Vec::new();
    for _ in 0..blocks {
        let length = input.below(BLOCK_BYTES + 1);
        content.extend_from_slice(input.take(length));
        content.resize(content.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    content.truncate(content.len().saturating_sub(surplus));
    (file_name(number), content)
}

/// The files of real logs, as [`any_file`] reads them.
pub fn file_seeds(scripts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    scripts.iter().map(|script| describe(&Script::play(&mut Input::new(script)).disk)).collect()
}

fn describe(disk: &SimulatedDisk) -> Vec<u8> {
    let names: Vec<_> = disk.names().into_iter().take(3).collect();
    let mut seed = vec![1, names.len() as u8, 0];
    for (number, name) in (1u8..).zip(&names) {
        let content = disk.contents(name);
        let blocks: Vec<_> = content.chunks(BLOCK_BYTES).take(5).collect();
        seed.extend([1, number, blocks.len() as u8, 0, 0, 0]);
        for block in blocks {
            let length = block.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            seed.extend((length as u16).to_le_bytes());
            seed.extend_from_slice(&block[..length]);
        }
    }
    seed
}

/// As [`one`] reads it, preceded by how many there are.
pub fn sample_damages() -> Vec<Vec<u8>> {
    let one = |kind: u8, rest: &[u8]| [&[1, 0, 0, 0, 1, 0, kind][..], rest].concat();
    let mut damages: Vec<Vec<u8>> = (0..9).map(|kind| one(kind, &[2, 0, 3, 0, 5])).collect();
    damages.extend((0..20).map(|field| one(1, &[field, 0, 1, field])));
    // A blank sector in any block, as a write leaves one that is torn.
    damages.extend((0..6).flat_map(|block| (1..3).map(move |sector| vec![1, 0, 0, 0, block, 0, 2, sector, 0])));
    damages.push(vec![0, 0]);
    damages
}

#[cfg(test)]
mod tests {
    use super::super::script::sample_scripts;
    use super::*;

    #[test]
    fn sealing_leaves_a_sound_log_as_it_is() {
        for script in sample_scripts() {
            let disk = Script::play(&mut Input::new(&script)).disk;
            let contents = || disk.names().iter().map(|name| disk.contents(name)).collect::<Vec<_>>();
            let before = contents();
            assert!(before.iter().flatten().any(|&byte| byte != 0), "nothing was written");
            seal(&disk);
            assert_eq!(contents(), before);
        }
    }
}
