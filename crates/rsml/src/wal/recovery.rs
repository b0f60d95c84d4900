//! Reads a log back at start: which groups count, where the log ends, and whether damage is a torn tail or a loss.
//!
//! Only the last group can be torn, since each group is durable before the next one is written. Hence the last group is
//! cut off when it can be torn, and any other damage to headers and tables is [`StorageError::Corrupt`]. Entries in
//! the middle are not read here; whoever reads them checks them. Two things are done to the disk: what lies behind the
//! last group is zeroed, so that it can never be taken for a group later; and the last group is written once more and
//! synchronised, because it may have been seen in the page cache without being on the device.

use std::collections::VecDeque;
use std::ops::Range;

use super::disk::{Disk, DiskFile, failure};
use super::format::{BLOCK_BYTES, EntryRecord, GroupHeader, HeaderFault, SECTOR_BYTES, Table, VERSION, is_blank};
use super::index::{Bounds, LogIndex};
use super::segment::{file_name, number_of};
use super::storage::{LogState, Segment, block_of, read_exactly};
use crate::{Sequence, StorageError};

/// The number of a log's very first segment.
pub(super) const FIRST_SEGMENT: u64 = 1;
const WINDOW_BYTES: u64 = 1 << 20;

/// `None` when no log was begun here.
pub(super) fn recover(disk: &dyn Disk) -> Result<Option<LogState>, StorageError> {
    let mut numbers = list_segments(disk)?;
    if let Some(&newest) = numbers.last()
        && remove_if_unused(disk, newest)?
    {
        numbers.pop();
    }
    let Some(&newest) = numbers.last() else { return Ok(None) };
    let mut replay = Replay { disk, state: None, last_group: 0..0 };
    for number in numbers {
        replay.read_segment(number, number == newest)?;
    }
    let state = replay.state.expect("at least one segment was read");
    make_durable(disk, &state, replay.last_group)?;
    Ok(Some(state))
}

fn list_segments(disk: &dyn Disk) -> Result<Vec<u64>, StorageError> {
    let names = disk.list().map_err(|e| failure("listing the log", disk.describe(""), e))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes a segment that was prepared and never opened.
fn remove_if_unused(disk: &dyn Disk, number: u64) -> Result<bool, StorageError> {
    let name = file_name(number);
    let path = disk.describe(&name);
    let file = disk.open(&name).map_err(|e| failure("opening a segment", path.clone(), e))?;
    let mut window = Window::new(&*file, path.clone())?;
    if !window.is_blank_from(0)? {
        return Ok(false);
    }
    if number != FIRST_SEGMENT && list_segments(disk)?.len() == 1 {
        // Older segments go only after this one was opened.
        let reason = "the only segment is blank, though it is not the first one of its log".to_owned();
        return Err(StorageError::Corrupt { path, from: Sequence::BIRTH, to: Sequence(u64::MAX), reason });
    }
    disk.remove(&name).map_err(|e| failure("removing an unused segment", path, e))?;
    disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))?;
    Ok(true)
}

/// A group whose header and table are intact.
struct Group {
    offset: u64,
    header: GroupHeader,
    table: Table,
}

/// Why reading a segment ended where it did.
enum Ending {
    /// Nothing was written there, or the segment is full.
    Blank,
    Version(u32),
    /// Neither blank nor a group that belongs there.
    Foreign,
    /// The header belongs there, the table doesn't match it.
    Table(GroupHeader),
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    state: Option<LogState>,
    /// Where the last group that counts lies in its segment.
    last_group: Range<u64>,
}

impl Replay<'_> {
    fn read_segment(&mut self, number: u64, newest: bool) -> Result<(), StorageError> {
        let name = file_name(number);
        let path = self.disk.describe(&name);
        let file = self.disk.open(&name).map_err(|e| failure("opening a segment", path.clone(), e))?;
        let bytes = file.size().map_err(|e| failure("opening a segment", path.clone(), e))?;
        let mut window = Window::new(&*file, path.clone())?;
        let opening = self.read_opening(&mut window, number)?;
        let (mut groups, mut end, ending) = read_groups(&mut window, &opening)?;
        let last = groups.pop();
        for group in groups {
            self.apply(&group, &path)?;
        }
        if !newest {
            // The next segment's opening tells whether something is missing here.
            if let Some(group) = last {
                self.apply(&group, &path)?;
            }
            self.refuse_later_group(&mut window, &opening, end, &ending)?;
        } else {
            if let Some(group) = last {
                // The one before a group that was begun is durable; it is torn only if it is the last.
                if matches!(ending, Ending::Blank) && !self.is_complete(&mut window, &group)? {
                    end = group.offset;
                } else {
                    self.apply(&group, &path)?;
                }
            }
            self.refuse_later_group(&mut window, &opening, end, &ending)?;
            self.judge_tail(&mut window, end, &ending)?;
            clear_tail(&*file, &mut window, end)?;
        }
        let state = self.state.as_mut().expect("the opening was applied");
        state.write_offset = end;
        state.segments.push_back(Segment { number, id: opening.place.segment_id, bytes, file });
        Ok(())
    }

    /// Reads the group that opens a segment and checks that it continues the log.
    fn read_opening(&mut self, window: &mut Window, number: u64) -> Result<GroupHeader, StorageError> {
        let opening = match window.header(0)? {
            Ok(header) if header.place.segment_number == number && header.record_count == 0 => header,
            Err(HeaderFault::Version(found)) => return Err(window.version_error(found)),
            _ => {
                let found = window.find_header(0, |header| header.place.segment_number == number)?;
                let from = self.end();
                let to = found.map_or(from, |header| header.last_before.max(from));
                return Err(window.corrupt(from, to, "the opening of the segment is damaged"));
            }
        };
        let state = self.state.get_or_insert_with(|| LogState {
            segments: VecDeque::new(),
            index: LogIndex::new(Bounds::empty_after(opening.last_before)),
            hard_state: None,
            write_offset: 0,
            next_group: opening.place.group_number,
            previous_lowest_changed: Sequence::ZERO,
        });
        if state.next_group != opening.place.group_number || state.index.bounds().last != opening.last_before {
            return Err(self.missing_groups(window, &opening));
        }
        if state.segments.back().is_some_and(|previous| previous.number + 1 != number) {
            return Err(window.corrupt(opening.last_before, opening.last_before, "the segment before it is missing"));
        }
        state.index.open_segment();
        Ok(self.advance(0, opening))
    }

    /// The sequence at which the log goes on.
    fn end(&self) -> Sequence {
        self.state.as_ref().map_or(Sequence::BIRTH, |state| state.index.bounds().last.next())
    }

    fn advance(&mut self, offset: u64, header: GroupHeader) -> GroupHeader {
        self.last_group = offset..offset + header.group_bytes;
        let state = self.state.as_mut().expect("the opening was read");
        state.next_group = header.place.group_number + 1;
        state.previous_lowest_changed = header.lowest_changed;
        state.hard_state = header.hard_state;
        header
    }

    fn apply(&mut self, group: &Group, path: &str) -> Result<(), StorageError> {
        let state = self.state.as_mut().expect("the opening was read");
        let mut ordinal = 0;
        let mut objection = (state.index.bounds().last != group.header.last_before)
            .then(|| "the group doesn't continue the log".to_owned());
        for record in &group.table.records {
            objection = objection.or(state.index.bounds().objection(record));
            if objection.is_none() {
                state.index.apply(record, block_of(group.offset), ordinal);
                ordinal += record.count;
            }
        }
        if let Some(objection) = objection {
            return Err(StorageError::Corrupt {
                path: path.to_owned(),
                from: group.header.lowest_changed,
                to: group.header.last_after,
                reason: format!("group {} at offset {}: {objection}", group.header.place.group_number, group.offset),
            });
        }
        self.advance(group.offset, group.header);
        Ok(())
    }

    /// Whether every entry of the last group is intact; `false` when it can be torn.
    fn is_complete(&self, window: &mut Window, group: &Group) -> Result<bool, StorageError> {
        let mut offset = group.offset + group.header.payload_offset();
        let mut complete = true;
        for (position, entry) in group.table.entries.iter().enumerate() {
            let length = u64::from(entry.length);
            if !window.matches(offset, entry)? {
                if !window.overlaps_blank_sector(offset, length)? {
                    let sequence = sequence_of(&group.table, position);
                    return Err(window.corrupt(
                        sequence,
                        sequence,
                        "an entry of the last group is damaged, and not torn",
                    ));
                }
                complete = false;
            }
            offset += length;
        }
        Ok(complete)
    }

    /// Damage that a later group follows lies in the middle of the log.
    fn refuse_later_group(
        &self,
        window: &mut Window,
        opening: &GroupHeader,
        end: u64,
        ending: &Ending,
    ) -> Result<(), StorageError> {
        let next = self.state.as_ref().expect("the opening was read").next_group;
        let belongs = |header: &GroupHeader| {
            header.place.segment_number == opening.place.segment_number
                && header.place.segment_id == opening.place.segment_id
                && header.place.group_number > next
        };
        let Some(later) = window.find_header(end, belongs)? else { return Ok(()) };
        match ending {
            Ending::Table(header) => Err(damaged_table(window, header)),
            Ending::Version(found) => Err(window.version_error(*found)),
            Ending::Blank | Ending::Foreign => Err(self.missing_groups(window, &later)),
        }
    }

    /// Decides about what follows the last intact group, when no later group does.
    fn judge_tail(&self, window: &mut Window, end: u64, ending: &Ending) -> Result<(), StorageError> {
        match ending {
            Ending::Blank => Ok(()),
            Ending::Version(found) => Err(window.version_error(*found)),
            Ending::Foreign => {
                let reason = format!("what lies at offset {end} is neither blank nor a group that belongs there");
                Err(window.corrupt(self.end(), self.end(), &reason))
            }
            Ending::Table(header) => {
                let table_bytes = header.table_bytes() as u64;
                let torn = window.overlaps_blank_sector(end + SECTOR_BYTES as u64, table_bytes)?;
                if torn { Ok(()) } else { Err(damaged_table(window, header)) }
            }
        }
    }

    /// The error for groups lost in front of `found`, naming what they held as exactly as can be known.
    fn missing_groups(&self, window: &Window, found: &GroupHeader) -> StorageError {
        let state = self.state.as_ref().expect("the opening was read");
        let expected = state.next_group;
        let end = self.end();
        let lowest = Some(found.previous_lowest_changed).filter(|&lowest| lowest != Sequence::ZERO);
        let only_one = found.place.group_number == expected + 1;
        let from = if only_one { lowest.unwrap_or(end) } else { lowest.map_or(end, |lowest| lowest.min(end)) };
        let found_number = found.place.group_number;
        let reason = if from > found.last_before {
            format!("group {expected} is damaged or missing before group {found_number}; it held no entries")
        } else {
            format!("group {expected} is damaged or missing before group {found_number}")
        };
        window.corrupt(from, found.last_before, &reason)
    }
}

fn damaged_table(window: &Window, header: &GroupHeader) -> StorageError {
    let reason = format!("the table of group {} is damaged", header.place.group_number);
    window.corrupt(header.lowest_changed, header.last_after, &reason)
}

/// The intact groups that follow the opening, where they end, and why.
fn read_groups(window: &mut Window, opening: &GroupHeader) -> Result<(Vec<Group>, u64, Ending), StorageError> {
    let mut groups = Vec::new();
    let mut offset = BLOCK_BYTES;
    let mut place = opening.place;
    loop {
        place.group_number += 1;
        if offset >= window.bytes {
            return Ok((groups, offset, Ending::Blank));
        }
        let header = match window.header(offset)? {
            Ok(header) if header.place == place && header.group_bytes <= window.bytes - offset => header,
            Err(HeaderFault::Blank) => return Ok((groups, offset, Ending::Blank)),
            Err(HeaderFault::Version(found)) => return Ok((groups, offset, Ending::Version(found))),
            Ok(_) | Err(HeaderFault::Damaged) => return Ok((groups, offset, Ending::Foreign)),
        };
        let table = window.get(offset + SECTOR_BYTES as u64, header.table_bytes() as u64)?;
        let Some(table) = Table::decode(&header, table) else {
            return Ok((groups, offset, Ending::Table(header)));
        };
        groups.push(Group { offset, header, table });
        offset += header.group_bytes;
    }
}

fn sequence_of(table: &Table, mut position: usize) -> Sequence {
    for record in &table.records {
        let count = record.count as usize;
        if position < count {
            return Sequence(record.from.0 + position as u64);
        }
        position -= count;
    }
    unreachable!("every entry of a table belongs to an order")
}

/// Zeroes what lies behind the last group, wherever it isn't zero already.
fn clear_tail(file: &dyn DiskFile, window: &mut Window, end: u64) -> Result<(), StorageError> {
    let mut offset = end;
    let mut cleared = 0;
    while offset < window.bytes {
        let length = BLOCK_BYTES.min(window.bytes - offset);
        if !is_blank(window.get(offset, length)?) {
            let written = file.write_at(&vec![0; length as usize], offset);
            written.map_err(|e| failure("clearing a torn group", window.path.clone(), e))?;
            cleared += length;
        }
        offset += length;
    }
    if cleared > 0 {
        tracing::info!(path = window.path, offset = end, cleared_bytes = cleared, "cut off a torn group of the log");
    }
    Ok(())
}

/// Writes the last group, which was checked, once more, and synchronises everything that counts.
fn make_durable(disk: &dyn Disk, state: &LogState, last_group: Range<u64>) -> Result<(), StorageError> {
    let segment = state.segments.back().expect("a log has a segment");
    let path = disk.describe(&file_name(segment.number));
    let mut bytes = vec![0; (last_group.end - last_group.start) as usize];
    read_exactly(&*segment.file, &mut bytes, last_group.start, &path)?;
    segment.file.write_at(&bytes, last_group.start).map_err(|e| failure("writing the log", path.clone(), e))?;
    segment.file.sync_data().map_err(|e| failure("synchronising the log", path, e))?;
    disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))
}

/// Reads a file front to back in large pieces.
struct Window<'a> {
    file: &'a dyn DiskFile,
    path: String,
    bytes: u64,
    start: u64,
    content: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn DiskFile, path: String) -> Result<Self, StorageError> {
        let bytes = file.size().map_err(|e| failure("opening a segment", path.clone(), e))?;
        Ok(Window { file, path, bytes, start: 0, content: Vec::new() })
    }

    /// The bytes at `offset`, which must lie within the file.
    fn get(&mut self, offset: u64, length: u64) -> Result<&[u8], StorageError> {
        assert!(offset + length <= self.bytes, "reading beyond the end of {}", self.path);
        let held = self.start..self.start + self.content.len() as u64;
        if offset < held.start || offset + length > held.end {
            let wanted = length.max(WINDOW_BYTES).min(self.bytes - offset);
            self.content.resize(wanted as usize, 0);
            self.start = offset;
            read_exactly(self.file, &mut self.content, offset, &self.path)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.content[at..at + length as usize])
    }

    /// The header at `offset`; what is too short for one counts as damaged.
    fn header(&mut self, offset: u64) -> Result<Result<GroupHeader, HeaderFault>, StorageError> {
        if offset + SECTOR_BYTES as u64 > self.bytes {
            return Ok(Err(HeaderFault::Damaged));
        }
        Ok(GroupHeader::decode(self.get(offset, SECTOR_BYTES as u64)?))
    }

    /// The first header at or after `offset` that `accept` takes.
    fn find_header(
        &mut self,
        offset: u64,
        accept: impl Fn(&GroupHeader) -> bool,
    ) -> Result<Option<GroupHeader>, StorageError> {
        let mut at = offset;
        while at < self.bytes {
            if let Ok(header) = self.header(at)?
                && accept(&header)
            {
                return Ok(Some(header));
            }
            at += BLOCK_BYTES;
        }
        Ok(None)
    }

    fn is_blank_from(&mut self, offset: u64) -> Result<bool, StorageError> {
        let mut at = offset;
        while at < self.bytes {
            let length = BLOCK_BYTES.min(self.bytes - at);
            if !is_blank(self.get(at, length)?) {
                return Ok(false);
            }
            at += length;
        }
        Ok(true)
    }

    fn matches(&mut self, offset: u64, entry: &EntryRecord) -> Result<bool, StorageError> {
        Ok(crc32c::crc32c(self.get(offset, u64::from(entry.length))?) == entry.crc)
    }

    /// Whether a sector that these bytes lie in is still as it was before anything was written there.
    fn overlaps_blank_sector(&mut self, offset: u64, length: u64) -> Result<bool, StorageError> {
        let sector = SECTOR_BYTES as u64;
        let mut at = offset / sector * sector;
        while at < offset + length {
            if is_blank(self.get(at, sector)?) {
                return Ok(true);
            }
            at += sector;
        }
        Ok(false)
    }

    fn corrupt(&self, from: Sequence, to: Sequence, reason: &str) -> StorageError {
        StorageError::Corrupt { path: self.path.clone(), from, to, reason: reason.to_owned() }
    }

    fn version_error(&self, found: u32) -> StorageError {
        StorageError::Version { path: self.path.clone(), found, known: VERSION }
    }
}
