//! Reads a log back at start: which groups count, where the log ends, what is lost, and what was only torn.
//!
//! Only the last group can be torn, since each group is durable before the next one is written. So the last group is cut
//! off when it can be torn. Any other damage was made by the device; what it may have hit is *lost*: known to have been
//! there, and not readable. Recovery goes on behind it:
//!
//! - A group whose header is intact says itself which sequences it changed.
//! - For groups without a header the next intact one tells: where the log ended before it, where it begins, and which of
//!   the groups before it cut something off. Where that says nothing, all that is stored before it counts as lost: an
//!   entry that was replaced is never taken for its replacement.
//! - The hard state is that of the newest header. What lies behind the last group must be blank or torn; otherwise a
//!   later header may have been there, and with it a promise. That is an error ([`StorageError::Damaged`]), and so is a
//!   newest segment that is too short or holds no header.
//!
//! Nothing is recorded of losses: as long as the damaged place is among the segments, each recovery comes to the same
//! conclusion, until the lost entries are replaced or trimmed.
//!
//! Entries in the middle are not read here; whoever reads them checks them.
//!
//! # What recovery writes
//! A crash at any of these writes leaves a log from which the next recovery reads the same:
//!
//! 1. When the newest header lies in a foreign place, the state is written once more, in a group without writes, the
//!    *seal*. That header stays until the seal is durable; all else behind the groups is zeroed before.
//! 2. Blank sectors in damaged parts of the last group are overwritten. That a later group was begun tells that such a
//!    group is damaged, not torn; once the later one is zeroed, or the segment behind is made anew, nothing else would.
//! 3. The last group is written again, because it may have been seen in the page cache without being on the device. 2 and
//!    3 are synchronised before
//! 4. what lies behind the last group is zeroed, so that it can never be taken for a group later.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;

use super::disk::{Disk, DiskFile, failure};
use super::format::{
    BLOCK_BYTES, ENTRY_BYTES, GroupHeader, GroupPlace, HeaderFault, SECTOR_BYTES, blank_sectors, is_blank,
};
use super::index::{Bounds, GroupSpot, LogIndex};
use super::scan::{Group, Layout, scan};
use super::segment::{file_name, number_of};
use super::state::{LogState, LogTail, Segment};
use super::window::Window;
use crate::{Sequence, StorageError};

/// The number of a log's very first segment.
pub(super) const FIRST_SEGMENT: u64 = 1;
/// What blank sectors of damaged entries are filled with.
const DEFACED: u8 = 0xdd;

pub(super) struct Recovery {
    pub state: LogState,
    /// The state must be written once more before anything else, because it stands only where it can't stay.
    pub seal: Option<Seal>,
}

/// Where a group without writes is to repeat the state.
pub(super) struct Seal {
    pub offset: u64,
    /// Where the last group that counts ends: between it and the seal each group that is missing has a block, as if it
    /// had been there.
    pub groups_end: u64,
}

/// `None` when no log was begun here.
pub(super) fn recover(disk: &dyn Disk) -> Result<Option<Recovery>, StorageError> {
    let mut numbers = list_segments(disk)?;
    let mut replay = Replay {
        disk,
        segments: VecDeque::new(),
        index: LogIndex::new(Bounds::empty_after(Sequence::ZERO)),
        tail: None,
        misses_beginning: false,
        may_be_torn: true,
        write_offset: 0,
        seal: None,
    };
    let mut unused = None;
    match judge_newest(disk, &numbers)? {
        Newest::InUse => {}
        Newest::Unused => unused = numbers.pop(),
        Newest::OpeningDamaged => {
            replay.may_be_torn = false;
            numbers.pop();
        }
    }
    let newest = numbers.last().copied();
    for number in numbers {
        replay.read_segment(number, Some(number) == newest)?;
    }
    // Not before: a log that is refused must look the same the next time.
    if let Some(number) = unused {
        remove_unused(disk, number)?;
    }
    if newest.is_none() {
        return Ok(None);
    }
    let Replay { segments, index, tail, write_offset, seal, .. } = replay;
    let tail = tail.expect("the newest segment has a header");
    Ok(Some(Recovery { state: LogState { segments, index, tail, write_offset }, seal }))
}

fn list_segments(disk: &dyn Disk) -> Result<Vec<u64>, StorageError> {
    let names = disk.list().map_err(|e| failure("listing the log", disk.describe(""), e))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// What the newest segment file is to recovery.
enum Newest {
    InUse,
    /// It was prepared and never opened.
    Unused,
    /// It was opened, so that nothing before it is torn. Nothing else was written there, and its opening only repeats
    /// what stands before. The file stays until it is made anew.
    OpeningDamaged,
}

fn judge_newest(disk: &dyn Disk, numbers: &[u64]) -> Result<Newest, StorageError> {
    let Some(&number) = numbers.last() else { return Ok(Newest::InUse) };
    let name = file_name(number);
    let path = disk.describe(&name);
    let file = disk.open(&name).map_err(|e| failure("opening a segment", path.clone(), e))?;
    let mut window = Window::new(&*file, path.clone())?;
    if !window.is_blank(BLOCK_BYTES.min(window.bytes)..window.bytes) {
        return Ok(Newest::InUse);
    }
    if !window.is_blank(0..window.bytes) {
        let has_header = window.header(0)?.is_ok();
        return Ok(if has_header || numbers.len() == 1 { Newest::InUse } else { Newest::OpeningDamaged });
    }
    if number != FIRST_SEGMENT && numbers.len() == 1 {
        // Older segments go only after this one was opened.
        let reason = "the only segment is blank, though it is not the first one of its log".to_owned();
        return Err(StorageError::Damaged { path, reason });
    }
    Ok(Newest::Unused)
}

fn remove_unused(disk: &dyn Disk, number: u64) -> Result<(), StorageError> {
    let name = file_name(number);
    disk.remove(&name).map_err(|e| failure("removing an unused segment", disk.describe(&name), e))?;
    disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    segments: VecDeque<Segment>,
    index: LogIndex,
    /// `None` until there was a header.
    tail: Option<LogTail>,
    /// Older segments are there, but not one header in them.
    misses_beginning: bool,
    /// Whether the last group of the newest segment may be torn.
    may_be_torn: bool,
    /// Where the last group of the segment ends.
    write_offset: u64,
    seal: Option<Seal>,
}

impl Replay<'_> {
    fn read_segment(&mut self, number: u64, is_newest: bool) -> Result<(), StorageError> {
        let name = file_name(number);
        let path = self.disk.describe(&name);
        let file = self.disk.open(&name).map_err(|e| failure("opening a segment", path.clone(), e))?;
        let mut window = Window::new(&*file, path)?;
        let layout = scan(&mut window, number, self.next_group(), is_newest)?;
        self.index.open_segment();
        let mut segment_id = 0;
        match layout {
            Some(mut layout) => {
                segment_id = layout.place.segment_id;
                let end = if is_newest { self.judge_end(&mut window, &mut layout)? } else { window.bytes };
                self.apply_layout(&mut window, &layout)?;
                if is_newest && layout.stray.is_none() {
                    layout.groups.last().into_iter().for_each(|group| self.mark_damaged(&mut window, group));
                }
                if is_newest {
                    self.check_plausible(&window)?;
                    self.finish(&*file, &mut window, &layout, end)?;
                }
            }
            None if is_newest => return Err(damaged(&window, "there is not one group in its newest part")),
            None => {
                tracing::error!(path = window.path, "a segment of the log is damaged as a whole");
                self.misses_beginning |= self.tail.is_none();
            }
        }
        let bytes = window.bytes;
        self.segments.push_back(Segment { number, id: segment_id, bytes, file });
        Ok(())
    }

    fn next_group(&self) -> Option<u64> {
        self.tail.as_ref().map(|tail| tail.next_group)
    }

    /// Takes the last group out of the layout of the newest segment if it is torn, and returns where the groups end.
    fn judge_end(&mut self, window: &mut Window, layout: &mut Layout) -> Result<u64, StorageError> {
        let made_bytes = |header: &GroupHeader| header.context.map_or(0, |context| context.segment_bytes);
        let is_cut_short = |group: &Group| group.end().max(made_bytes(&group.header)) > window.bytes;
        if layout.groups.iter().any(is_cut_short) {
            return Err(damaged(window, "the file is shorter than it was made"));
        }
        let end = layout.groups.last().map_or(0, Group::end);
        self.judge_behind(window, layout, end)?;
        let Some(last) = layout.groups.last().filter(|_| layout.stray.is_none()) else { return Ok(end) };
        let (number, offset) = (last.header.place.group_number, last.offset);
        let before = layout.groups.iter().rev().nth(1).map(|group| group.header.place.group_number + 1);
        // Otherwise the group before it is damaged, and this one's header is the newest that tells what was promised.
        let follows = before.or(self.next_group()) == Some(number);
        // What was begun behind a group shows that it was durable.
        let is_last = self.may_be_torn && window.is_blank(end..window.bytes);
        if follows && is_last && looks_torn(window, last) {
            layout.groups.pop();
            tracing::info!(
                path = window.path,
                offset,
                "cut off the last group of the log, which was not written completely"
            );
            return Ok(offset);
        }
        Ok(end)
    }

    /// What lies behind the last group must not have been a later one.
    fn judge_behind(&self, window: &mut Window, layout: &Layout, end: u64) -> Result<(), StorageError> {
        if end >= window.bytes {
            return Ok(());
        }
        // An earlier group, missing in its place, was written here instead; the one that belongs here never was.
        let is_misplaced = |header: &GroupHeader| {
            let number = header.place.group_number;
            let numbers = || layout.groups.iter().map(|group| group.header.place.group_number);
            header.place == GroupPlace { group_number: number, ..layout.place }
                && numbers().max() > Some(number)
                && numbers().all(|other| other != number)
        };
        if let Some((offset, header)) = layout.stray {
            // A later one may have been damaged.
            let start = offset.max(end);
            let stop = (offset + header.group_bytes).clamp(start, window.bytes);
            let is_alone = window.is_blank(end..start) && window.is_blank(stop..window.bytes);
            let reason = "a group in a foreign place may not be the last one";
            return if is_alone { Ok(()) } else { Err(damaged(window, reason)) };
        }
        match window.header(end)? {
            Err(HeaderFault::Blank) if self.may_be_torn => Ok(()),
            Err(HeaderFault::Blank) if holds_only(window, end..window.bytes, is_misplaced)? => Ok(()),
            Ok(header) if is_misplaced(&header) => Ok(()),
            _ => Err(damaged(
                window,
                &format!("what lies at offset {end} is neither blank nor a group that belongs there"),
            )),
        }
    }

    /// Carries out what was found in a segment.
    fn apply_layout(&mut self, window: &mut Window, layout: &Layout) -> Result<(), StorageError> {
        for (position, group) in layout.groups.iter().enumerate() {
            self.arrive(window, group.offset, &group.header, position == 0)?;
            self.apply(window, group)?;
        }
        if let Some((offset, header)) = &layout.stray {
            tracing::error!(
                path = window.path,
                offset,
                group = header.place.group_number,
                "a group of the log is in the wrong place; its entries are lost"
            );
            self.arrive(window, *offset, header, false)?;
            self.lose_content(header);
        }
        Ok(())
    }

    /// Of the last group the entries are read: those of them that are damaged, and not replaced within the group.
    fn mark_damaged(&mut self, window: &mut Window, group: &Group) {
        for (ordinal, _) in damaged_entries(window, group) {
            let sequence = group.table.as_ref().and_then(|table| table.sequence_of(ordinal));
            let Some(sequence) = sequence else { continue };
            let location = self.index.locate(sequence);
            if location.is_some_and(|location| location.spot.is_some() && location.ordinal as usize == ordinal) {
                self.index.mark_lost(sequence, sequence);
            }
        }
    }

    /// Brings the log to where it stood before the group with this header, whatever is missing before it. `is_first`:
    /// there is no other before it in its segment.
    fn arrive(
        &mut self,
        window: &Window,
        offset: u64,
        header: &GroupHeader,
        is_first: bool,
    ) -> Result<(), StorageError> {
        let found = header.place.group_number;
        match self.tail.as_mut().map(|tail| tail.next_group) {
            None => self.begin(window, offset, header),
            Some(next) if next < found => self.close_gap(window, next, header, is_first),
            Some(_) => {}
        }
        let last = self.index.bounds().last;
        if last != header.last_before {
            let before = header.last_before;
            let reason = format!("group {found} was written when the log ended at {before}, but it ends at {last}");
            return Err(damaged(window, &reason));
        }
        Ok(())
    }

    /// The first header of all. The opening says where the log begins; behind it something may be missing.
    fn begin(&mut self, window: &Window, offset: u64, header: &GroupHeader) {
        self.tail = Some(LogTail::default());
        let last = header.last_before;
        if !self.misses_beginning && offset <= BLOCK_BYTES {
            self.index.start_after(last);
            return;
        }
        let first = header.context.map_or(Sequence::BIRTH, |context| context.first_after).max(Sequence::BIRTH);
        let first = first.min(last.next());
        tracing::error!(path = window.path, from = first.0, to = last.0, "the oldest entries of the log are lost");
        self.index.start_after(first.previous());
        self.index.lose(first, last, true);
    }

    /// Groups from number `next` on are missing in front of `header`.
    fn close_gap(&mut self, window: &Window, next: u64, header: &GroupHeader, is_first: bool) {
        let found = header.place.group_number;
        let Bounds { first, last } = self.index.bounds();
        let cut = match &header.context {
            Some(context) => context.cuts.lowest_since(next),
            // Version 1 knows of the group before only.
            None => Some(header.previous_lowest_changed).filter(|_| found == next + 1),
        };
        let cut = cut.map(|cut| if cut == Sequence::ZERO { Sequence(u64::MAX) } else { cut });
        let to = header.last_before;
        let from = match cut.map(|cut| cut.min(last.next())) {
            Some(from) if from <= to.next() => from,
            // Nothing tells what was cut off: it may have been anything.
            Some(_) | None => first.min(to.next()).max(Sequence::BIRTH),
        };
        if header.context.is_none() && from <= last {
            let tail = self.tail.as_mut().expect("there was a header");
            tail.cuts.push(found - 1, from);
        }
        self.index.lose(from, to, is_first);
        tracing::error!(path = window.path, groups = %format!("{next} to {}", found - 1),
            entries = %if from > to { "none".to_owned() } else { format!("{from} to {to}") },
            "groups of the log are damaged or missing");
    }

    fn apply(&mut self, window: &Window, group: &Group) -> Result<(), StorageError> {
        let Some(table) = &group.table else {
            tracing::error!(path = window.path, offset = group.offset, "a group of the log is damaged");
            self.lose_content(&group.header);
            return Ok(());
        };
        let number = group.header.place.group_number;
        let block = u32::try_from(group.offset / BLOCK_BYTES).ok().and_then(NonZeroU32::new);
        let mut ordinal = 0;
        for record in &table.records {
            let bounds = self.index.bounds();
            let (Some(block), None) = (block, bounds.objection(record)) else {
                let reason = bounds.objection(record).unwrap_or_else(|| "it lies nowhere".to_owned());
                return Err(damaged(window, &format!("group {number} at offset {}: {reason}", group.offset)));
            };
            self.index.apply(record, GroupSpot { number, block }, ordinal);
            ordinal += record.count;
        }
        self.pass(&group.header);
        Ok(())
    }

    /// Of a group only the header is known.
    fn lose_content(&mut self, header: &GroupHeader) {
        if header.lowest_changed != Sequence::ZERO {
            self.index.lose(header.lowest_changed, header.last_after, false);
        } else if header.last_after > self.index.bounds().last {
            // Without entries only a base can move the end.
            self.index.forget_through(header.last_after);
        }
        self.pass(header);
    }

    fn pass(&mut self, header: &GroupHeader) {
        let Bounds { first, last } = self.index.bounds();
        if let Some(context) = &header.context
            && context.first_after > first
        {
            self.index.forget_through(context.first_after.previous().min(last));
        }
        self.tail.as_mut().expect("there was a header").pass(header);
    }

    /// Each entry takes eight bytes at least, so that a log that is only said to be long is none.
    fn check_plausible(&self, window: &Window) -> Result<(), StorageError> {
        let segment_bytes = self.segments.iter().map(|segment| segment.bytes).chain([window.bytes]).max();
        // There may be a segment missing for each that is there, and a few more.
        let segments = 2 * self.segments.len() as u64 + 16;
        let Bounds { first, last } = self.index.bounds();
        if last.0 - first.previous().0 > segment_bytes.unwrap_or(0).saturating_mul(segments) / ENTRY_BYTES as u64 {
            let reason = format!("it is said to hold entries {first} to {last}, for which there never was room");
            return Err(damaged(window, &reason));
        }
        Ok(())
    }

    /// Makes all of the newest segment durable, and what lies behind its groups blank, unless that needs a seal.
    fn finish(
        &mut self,
        file: &dyn DiskFile,
        window: &mut Window,
        layout: &Layout,
        end: u64,
    ) -> Result<(), StorageError> {
        self.write_offset = end.min(window.bytes);
        if let Some((stray_at, stray)) = &layout.stray {
            let last = layout.groups.last().map_or(0, |group| group.header.place.group_number);
            let missing = stray.place.group_number - last;
            let offset = end.saturating_add(missing.saturating_mul(BLOCK_BYTES)).min(window.bytes);
            let seal = Seal { offset, groups_end: end };
            // Part of what the stray group wrote may lie behind the seal, where it would pass for damage.
            clear_around(file, window, &seal, &[*stray_at])?;
            self.seal = Some(seal);
            return Ok(());
        }
        if let Some(group) = layout.groups.last() {
            deface(file, window, group)?;
            rewrite(file, window, group)?;
        }
        synchronise(file, window)?;
        if clear(file, window, end..window.bytes)? {
            synchronise(file, window)?;
        }
        self.disk.sync_dir().map_err(|e| failure("synchronising the directory", self.disk.describe(""), e))
    }
}

/// Whether all blocks are blank but for some that begin with a header that `accept` takes.
fn holds_only(
    window: &mut Window,
    range: Range<u64>,
    accept: impl Fn(&GroupHeader) -> bool,
) -> Result<bool, StorageError> {
    for offset in range.clone().step_by(BLOCK_BYTES as usize) {
        let block = offset..range.end.min(offset + BLOCK_BYTES);
        if !window.is_blank(block) && !window.header(offset)?.is_ok_and(|header| accept(&header)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn damaged(window: &Window, reason: &str) -> StorageError {
    StorageError::Damaged { path: window.path.clone(), reason: reason.to_owned() }
}

/// Whether the group may be the remains of a write that was interrupted: something doesn't match, and a sector of it is
/// as it was before.
fn looks_torn(window: &mut Window, group: &Group) -> bool {
    if unwritten(window, group).is_empty() {
        return false;
    }
    // Version 1 doesn't tell: it takes zeros in an entry for a sector that was never written.
    let Some(context) = group.header.context else { return true };
    let content = window.get(group.offset + SECTOR_BYTES as u64, group.header.group_bytes - SECTOR_BYTES as u64);
    blank_sectors(content) > context.blank_sectors
}

/// Where the damaged parts of a group lie in blank sectors.
fn unwritten(window: &mut Window, group: &Group) -> Vec<Range<u64>> {
    let payload = group.offset + group.header.payload_offset();
    let damaged: Vec<Range<u64>> = match &group.table {
        None => std::iter::once(group.offset + SECTOR_BYTES as u64..payload + group.header.payload_bytes).collect(),
        Some(_) => damaged_entries(window, group).into_iter().map(|(_, range)| range).collect(),
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

/// The entries of the group that are damaged: which ones of the group, and where they lie.
fn damaged_entries(window: &mut Window, group: &Group) -> Vec<(usize, Range<u64>)> {
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

/// Zeroes what lies outside of all groups, wherever it isn't zero already; whether there was anything.
fn clear(file: &dyn DiskFile, window: &mut Window, range: Range<u64>) -> Result<bool, StorageError> {
    let mut cleared = 0;
    for offset in range.clone().step_by(BLOCK_BYTES as usize) {
        let length = BLOCK_BYTES.min(window.bytes - offset);
        if !is_blank(window.get(offset, length)) {
            let written = file.write_at(&vec![0; length as usize], offset);
            written.map_err(|e| failure("clearing what lies behind the log", window.path.clone(), e))?;
            cleared += length;
        }
    }
    if cleared > 0 {
        let offset = range.start;
        tracing::info!(path = window.path, offset, cleared_bytes = cleared, "cleared what followed the end of the log");
    }
    Ok(cleared > 0)
}

/// Clears what lies behind the groups but for the blocks at `kept`, and makes that durable.
fn clear_around(file: &dyn DiskFile, window: &mut Window, seal: &Seal, kept: &[u64]) -> Result<(), StorageError> {
    for block in (seal.groups_end..window.bytes).step_by(BLOCK_BYTES as usize) {
        if !kept.contains(&block) {
            clear(file, window, block..window.bytes.min(block + BLOCK_BYTES))?;
        }
    }
    synchronise(file, window)
}

/// Clears what lies around a seal, once that is durable.
pub(super) fn clear_around_seal(disk: &dyn Disk, segment: &Segment, seal: &Seal) -> Result<(), StorageError> {
    let mut window = Window::new(&*segment.file, disk.describe(&file_name(segment.number)))?;
    clear_around(&*segment.file, &mut window, seal, &[seal.offset])
}

fn synchronise(file: &dyn DiskFile, window: &Window) -> Result<(), StorageError> {
    file.sync_data().map_err(|e| failure("synchronising the log", window.path.clone(), e))
}

/// Makes of a damaged group that looks torn one that doesn't, whatever lies behind it.
fn deface(file: &dyn DiskFile, window: &mut Window, group: &Group) -> Result<(), StorageError> {
    if !looks_torn(window, group) {
        return Ok(());
    }
    for range in unwritten(window, group) {
        let bytes = vec![DEFACED; (range.end - range.start) as usize];
        let written = file.write_at(&bytes, range.start);
        written.map_err(|e| failure("marking damage in the log", window.path.clone(), e))?;
    }
    Ok(())
}

/// Writes a group, which was checked, once more; what of it can't be read stays as it is.
fn rewrite(file: &dyn DiskFile, window: &mut Window, group: &Group) -> Result<(), StorageError> {
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
