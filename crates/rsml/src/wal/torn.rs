//! Torn groups: those whose write was interrupted, as far as that can be told from damage.

use std::ops::Range;

use super::disk::{DiskFile, failure};
use super::format::{SECTOR_BYTES, blank_sectors, is_blank};
use super::scan::Group;
use super::window::Window;
use crate::StorageError;

/// The byte that fills blank sectors of damaged entries.
const DAMAGE_FILL: u8 = 0xdd;

/// Whether the group may be the result of an interrupted write: a part of it is damaged, and a
/// sector of that part is still blank.
pub(super) fn looks_torn(window: &mut Window, group: &Group) -> bool {
    if unwritten(window, group).is_empty() {
        return false;
    }
    // Version 1 doesn't record the number of blank sectors, so an entry of zeros looks as if it was
    // never written.
    let Some(context) = group.header.context else { return true };
    let content = window.get(group.offset + SECTOR_BYTES as u64, group.header.group_bytes - SECTOR_BYTES as u64);
    blank_sectors(content) > context.blank_sectors
}

/// The blank sectors in damaged parts of a group, except for those that one flipped bit explains: a
/// sector in which one bit was set looks as if it was never written when that bit is lost.
fn unwritten(window: &mut Window, group: &Group) -> Vec<Range<u64>> {
    let payload = group.offset + group.header.payload_offset();
    let damaged: Vec<Range<u64>> = match &group.table {
        None if is_one_bit_off(window, group.offset + SECTOR_BYTES as u64..payload, group.header.table_crc) => {
            Vec::new()
        }
        None => std::iter::once(group.offset + SECTOR_BYTES as u64..payload + group.header.payload_bytes).collect(),
        Some(table) => {
            let mut damaged = damaged_entries(window, group);
            damaged.retain(|(ordinal, range)| !is_one_bit_off(window, range.clone(), table.entries[*ordinal].crc));
            damaged.into_iter().map(|(_, range)| range).collect()
        }
    };
    let mut unwritten = Vec::new();
    for range in damaged {
        let sectors = range.start / SECTOR_BYTES as u64..range.end.div_ceil(SECTOR_BYTES as u64);
        for start in sectors.map(|sector| sector * SECTOR_BYTES as u64) {
            if is_blank(window.get(start, SECTOR_BYTES as u64)) {
                unwritten.push(range.start.max(start)..range.end.min(start + SECTOR_BYTES as u64));
            }
        }
    }
    unwritten
}

/// The generator polynomial of CRC-32C, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Whether the bytes in this range have the checksum `expected` if one of their bits is flipped.
fn is_one_bit_off(window: &mut Window, range: Range<u64>, expected: u32) -> bool {
    let length = range.end - range.start;
    let difference = crc32c::crc32c(window.get(range.start, length)) ^ expected;
    // By how much each bit alone changes a checksum, from the last one to the first.
    let mut of_bit = POLYNOMIAL;
    for _ in 0..length * 8 {
        if of_bit == difference {
            return true;
        }
        of_bit = (of_bit >> 1) ^ if of_bit & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    false
}

/// The damaged entries of a group: the index of each in the group, and its range in the file.
pub(super) fn damaged_entries(window: &mut Window, group: &Group) -> Vec<(usize, Range<u64>)> {
    let mut offset = group.offset + group.header.payload_offset();
    let mut damaged = Vec::new();
    for (ordinal, entry) in group.table.iter().flat_map(|table| &table.entries).enumerate() {
        let end = offset + u64::from(entry.length);
        if !window.matches(offset, entry) {
            damaged.push((ordinal, offset..end));
        }
        offset = end;
    }
    damaged
}

/// Overwrites blank sectors of a damaged group, so that it never looks torn again.
pub(super) fn overwrite_blank_damage(
    file: &dyn DiskFile,
    window: &mut Window,
    group: &Group,
) -> Result<(), StorageError> {
    if !looks_torn(window, group) {
        return Ok(());
    }
    for range in unwritten(window, group) {
        let bytes = vec![DAMAGE_FILL; (range.end - range.start) as usize];
        let written = file.write_at(&bytes, range.start);
        written.map_err(|e| failure("marking damage in the log", window.path.clone(), e))?;
    }
    Ok(())
}

/// Writes a verified group again. Sectors that can't be read stay as they are.
pub(super) fn rewrite(file: &dyn DiskFile, window: &mut Window, group: &Group) -> Result<(), StorageError> {
    let mut bytes = vec![0; group.header.group_bytes as usize];
    let readable = file.read_at(&mut bytes, group.offset).is_ok();
    for (position, sector) in bytes.chunks_mut(if readable { usize::MAX } else { SECTOR_BYTES }).enumerate() {
        let offset = group.offset + (position * SECTOR_BYTES) as u64;
        if readable || file.read_at(sector, offset).is_ok() {
            file.write_at(sector, offset).map_err(|e| failure("writing the log", window.path.clone(), e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::disk::Disk;
    use crate::wal::simulated_disk::SimulatedDisk;

    #[test]
    fn each_flipped_bit_is_recognised_and_two_are_not() {
        let written: Vec<u8> = (0..700u32).map(|n| (n * 7 % 251) as u8).collect();
        let expected = crc32c::crc32c(&written);
        let is_one_off = |bytes: &[u8]| {
            let disk = SimulatedDisk::new(1);
            disk.put("f", bytes.to_vec());
            let file = disk.open("f").expect("it is there");
            let mut window = Window::new(&*file, "f".into()).expect("it is there");
            is_one_bit_off(&mut window, 0..bytes.len() as u64, expected)
        };
        assert!(!is_one_off(&written), "none");
        for bit in (0..written.len() * 8).step_by(61) {
            let mut flipped = written.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(is_one_off(&flipped), "bit {bit}");
            flipped[(bit / 8 + 5) % 700] ^= 4;
            assert!(!is_one_off(&flipped), "bit {bit} and another");
        }
    }
}
