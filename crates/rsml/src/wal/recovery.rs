//! Reads a log back at start: finds its valid groups, its end, its lost entries, and a torn last
//! group.
//!
//! Only the last group can be torn, since each group is durable before the next one is written. If
//! the last group looks torn, it is removed. Any other damage was done by the device. Entries that
//! it may have hit are *lost*: known to have existed, but not readable. Recovery continues after
//! the damage:
//!
//! - A group with an intact header and a damaged table says in the header which sequences it
//!   changed.
//! - For groups without an intact header, the next intact header says where the log ended before
//!   it, where it begins, and which earlier groups were truncations. If that is not enough,
//!   everything stored before it counts as lost: an entry that was replaced is never mistaken for
//!   its replacement.
//! - The newest header has the hard state. Everything after the last group must be blank, or part
//!   of a torn group. Otherwise a later header may have been there, and with it a promise: that is
//!   an error ([`StorageError::Damaged`]). So is a newest segment that is too short or has no
//!   header.
//!
//! Losses are not recorded anywhere: while the damaged segment exists, each recovery comes to the
//! same conclusion, until the lost entries are replaced or trimmed.
//!
//! Recovery reads only the entries of the last group. All others are verified when they are read.
//!
//! # Writes during recovery
//! After a crash at any of these writes, the next recovery comes to the same result:
//!
//! 1. If the newest header is misplaced, the state is written again, in a group without writes, the
//!    *recovery marker*. The misplaced header stays until the marker is durable. Everything else
//!    after the groups is zeroed before the marker is written.
//! 2. Blank sectors in damaged parts of the last group are overwritten. If a later group, or a
//!    later segment, was begun, such a group is damaged and not torn; but that evidence disappears
//!    once the later group is zeroed or the later segment recreated.
//! 3. The last group is written again, because recovery may have read it from the page cache
//!    although it is not on the device. Steps 2 and 3 are synced before step 4.
//! 4. Everything after the last group is zeroed, so that it can never be mistaken for a group
//!    later.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;

use super::disk::{Disk, DiskFile, failure};
use super::format::{BLOCK_BYTES, ENTRY_BYTES, GroupHeader, GroupPosition, HeaderFault, is_blank};
use super::index::{Bounds, GroupRef, LogIndex};
use super::scan::{Group, Layout, scan};
use super::segment::{file_name, number_of};
use super::state::{LogState, LogTail, Segment};
use super::torn::{damaged_entries, looks_torn, overwrite_blank_damage, rewrite};
use super::window::Window;
use crate::{Sequence, StorageError};

/// The number of the first segment of every log.
pub(super) const FIRST_SEGMENT: u64 = 1;

/// A recovered log.
pub(super) struct Recovery {
    pub state: LogState,
    /// Set if the state must be written again before anything else, because only a misplaced group
    /// holds it.
    pub marker: Option<RecoveryMarker>,
}

/// Where to write a group without writes that repeats the state.
pub(super) struct RecoveryMarker {
    pub offset: u64,
    /// The end of the last valid group. Between it and the marker, one block is left for each
    /// missing group.
    pub groups_end: u64,
}

/// Recovers the log; `None` if the disk has none.
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
        marker: None,
    };
    let mut unused = None;
    match classify_newest(disk, &numbers)? {
        Newest::InUse => {}
        Newest::Unused => unused = numbers.pop(),
        Newest::HeaderDamaged => {
            replay.may_be_torn = false;
            numbers.pop();
        }
    }
    let newest = numbers.last().copied();
    for number in numbers {
        replay.read_segment(number, Some(number) == newest)?;
    }
    // Remove the unused segment only now: if recovery fails above, the next attempt must see the
    // same files.
    if let Some(number) = unused {
        remove_unused(disk, number)?;
    }
    if newest.is_none() {
        return Ok(None);
    }
    let Replay { segments, index, tail, write_offset, marker, .. } = replay;
    let tail = tail.expect("the newest segment has a header");
    Ok(Some(Recovery { state: LogState { segments, index, tail, write_offset }, marker }))
}

fn list_segments(disk: &dyn Disk) -> Result<Vec<u64>, StorageError> {
    let names = disk.list().map_err(|e| failure("listing the log", disk.describe(""), e))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The state of the newest segment file.
enum Newest {
    InUse,
    /// The segment was prepared but never used.
    Unused,
    /// The segment's header was written and is damaged, and nothing else was written to the
    /// segment. So nothing before it is torn, and the header only repeated the state before it. The
    /// file stays until it is recreated.
    HeaderDamaged,
}

fn classify_newest(disk: &dyn Disk, numbers: &[u64]) -> Result<Newest, StorageError> {
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
        return Ok(if has_header || numbers.len() == 1 { Newest::InUse } else { Newest::HeaderDamaged });
    }
    if number != FIRST_SEGMENT && numbers.len() == 1 {
        // Older segments are removed only after this one has a segment header.
        let reason = "the only segment is blank, though it is not the first one of its log".to_owned();
        return Err(StorageError::Damaged { path, reason });
    }
    Ok(Newest::Unused)
}

fn remove_unused(disk: &dyn Disk, number: u64) -> Result<(), StorageError> {
    let name = file_name(number);
    disk.remove(&name).map_err(|e| failure("removing an unused segment", disk.describe(&name), e))?;
    disk.sync_dir().map_err(|e| failure("syncing the directory", disk.describe(""), e))
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    segments: VecDeque<Segment>,
    index: LogIndex,
    /// `None` until a header was found.
    tail: Option<LogTail>,
    /// There are older segments, but no header in them.
    misses_beginning: bool,
    /// Whether the last group of the newest segment may be torn.
    may_be_torn: bool,
    /// The end of the segment's last group.
    write_offset: u64,
    marker: Option<RecoveryMarker>,
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
                segment_id = layout.position.segment_id;
                let end = if is_newest { self.find_end(&mut window, &mut layout)? } else { window.bytes };
                self.apply_layout(&mut window, &layout)?;
                if is_newest && layout.misplaced.is_none() {
                    layout.groups.last().into_iter().for_each(|group| self.mark_damaged(&mut window, group));
                }
                if is_newest {
                    self.check_plausible(&window)?;
                    self.finish(&*file, &mut window, &layout, end)?;
                }
            }
            None if is_newest => return Err(damaged(&window, "its newest segment holds no intact group")),
            None => {
                tracing::error!(path = window.path, "a segment of the log is completely damaged");
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

    /// Removes the last group from the layout of the newest segment if it is torn. Returns the end
    /// of the groups.
    fn find_end(&mut self, window: &mut Window, layout: &mut Layout) -> Result<u64, StorageError> {
        let created_bytes = |header: &GroupHeader| header.context.map_or(0, |context| context.segment_bytes);
        let is_too_short = |group: &Group| group.end().max(created_bytes(&group.header)) > window.bytes;
        if layout.groups.iter().any(is_too_short) {
            return Err(damaged(window, "the file is shorter than it was when created"));
        }
        let end = layout.groups.last().map_or(0, Group::end);
        self.check_remains(window, layout, end)?;
        let Some(last) = layout.groups.last().filter(|_| layout.misplaced.is_none()) else { return Ok(end) };
        let (number, offset) = (last.header.position.group_number, last.offset);
        let before = layout.groups.iter().rev().nth(1).map(|group| group.header.position.group_number + 1);
        // If this group does not follow its predecessor, the group in between is damaged, and this
        // header is the newest one with a promise.
        let follows = before.or(self.next_group()) == Some(number);
        // If anything was written after this group, the group was durable.
        let is_last = self.may_be_torn && window.is_blank(end..window.bytes);
        // A group of which there are traces elsewhere, or without which the rest means something else,
        // was hit by damage as well, and is kept as a damaged one.
        if follows && is_last && layout.stays_without_last && looks_torn(window, last) {
            layout.groups.pop();
            tracing::info!(
                path = window.path,
                offset,
                "removed the last group of the log, which was not written completely"
            );
            return Ok(offset);
        }
        Ok(end)
    }

    /// Refuses a log in which remains of a possibly later group follow the last group.
    fn check_remains(&self, window: &mut Window, layout: &Layout, end: u64) -> Result<(), StorageError> {
        if end >= window.bytes {
            return Ok(());
        }
        // An earlier group, which is missing at its position, was written here instead. The group
        // that belongs here was never written.
        let is_misplaced = |header: &GroupHeader| {
            let number = header.position.group_number;
            let numbers = || layout.groups.iter().map(|group| group.header.position.group_number);
            header.position == GroupPosition { group_number: number, ..layout.position }
                && numbers().max() > Some(number)
                && numbers().all(|other| other != number)
        };
        if let Some((offset, header)) = layout.misplaced {
            // Other remains may be those of a damaged later group.
            let start = offset.max(end);
            let stop = (offset + header.group_bytes).clamp(start, window.bytes);
            let is_alone = window.is_blank(end..start) && window.is_blank(stop..window.bytes);
            let reason = "a misplaced group may not be the last one";
            return if is_alone { Ok(()) } else { Err(damaged(window, reason)) };
        }
        match window.header(end)? {
            Err(HeaderFault::Blank) if self.may_be_torn => Ok(()),
            Err(HeaderFault::Blank) if holds_only(window, end..window.bytes, is_misplaced)? => Ok(()),
            Ok(header) if is_misplaced(&header) => Ok(()),
            _ => Err(damaged(
                window,
                &format!("the data at offset {end} is neither blank nor a group that belongs there"),
            )),
        }
    }

    /// Applies all groups that were found in a segment.
    fn apply_layout(&mut self, window: &mut Window, layout: &Layout) -> Result<(), StorageError> {
        for (index, group) in layout.groups.iter().enumerate() {
            self.advance_to(window, group.offset, &group.header, index == 0)?;
            self.apply(window, group)?;
        }
        if let Some((offset, header)) = &layout.misplaced {
            tracing::error!(
                path = window.path,
                offset,
                group = header.position.group_number,
                "a group of the log is misplaced; its entries are lost"
            );
            self.advance_to(window, *offset, header, false)?;
            self.lose_content(header);
        }
        Ok(())
    }

    /// Reads the entries of the last group, and marks the damaged ones as lost, unless the group
    /// replaces them itself.
    fn mark_damaged(&mut self, window: &mut Window, group: &Group) {
        for (ordinal, _) in damaged_entries(window, group) {
            let sequence = group.table.as_ref().and_then(|table| table.sequence_of(ordinal));
            let Some(sequence) = sequence else { continue };
            let location = self.index.locate(sequence);
            if location.is_some_and(|location| location.group.is_some() && location.ordinal as usize == ordinal) {
                self.index.mark_lost(sequence, sequence);
            }
        }
    }

    /// Advances the log to the state before the group with this header, whatever groups are missing
    /// before it. `is_first`: the group is the first one found in its segment.
    fn advance_to(
        &mut self,
        window: &Window,
        offset: u64,
        header: &GroupHeader,
        is_first: bool,
    ) -> Result<(), StorageError> {
        let found = header.position.group_number;
        match self.tail.as_mut().map(|tail| tail.next_group) {
            None => self.begin(window, offset, header),
            Some(next) if next < found => self.close_gap(window, next, header, is_first)?,
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

    /// The first header of the log. A segment header says where the log begins. If the first header
    /// is another one, groups before it may be missing.
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

    /// Groups from number `next` on are missing before `header`.
    fn close_gap(
        &mut self,
        window: &Window,
        next: u64,
        header: &GroupHeader,
        is_first: bool,
    ) -> Result<(), StorageError> {
        let found = header.position.group_number;
        let Bounds { first, last } = self.index.bounds();
        let lowest = match &header.context {
            Some(context) => context.truncations.lowest_since(next),
            // Version 1 describes only the previous group.
            None => Some(header.previous_lowest_changed).filter(|_| found == next + 1),
        };
        let lowest = lowest.map(|lowest| if lowest == Sequence::ZERO { Sequence(u64::MAX) } else { lowest });
        let to = header.last_before;
        let from = match lowest.map(|lowest| lowest.min(last.next())) {
            Some(from) if from <= to.next() => from,
            Some(_) => {
                let reason =
                    format!("group {found} knows of no truncation between {to} and {last}, yet begins at {to}");
                return Err(damaged(window, &reason));
            }
            // No record says what was removed, so any entry may be gone.
            None => first.min(to.next()).max(Sequence::BIRTH),
        };
        if header.context.is_none() && from <= last {
            let tail = self.tail.as_mut().expect("there was a header");
            tail.truncations.push(found - 1, from);
        }
        self.index.lose(from, to, is_first);
        tracing::error!(path = window.path, groups = %format!("{next} to {}", found - 1),
            entries = %if from > to { "none".to_owned() } else { format!("{from} to {to}") },
            "groups of the log are damaged or missing");
        Ok(())
    }

    fn apply(&mut self, window: &Window, group: &Group) -> Result<(), StorageError> {
        let Some(table) = &group.table else {
            tracing::error!(path = window.path, offset = group.offset, "a group of the log is damaged");
            self.lose_content(&group.header);
            return Ok(());
        };
        let number = group.header.position.group_number;
        let block = u32::try_from(group.offset / BLOCK_BYTES).ok().and_then(NonZeroU32::new);
        let mut ordinal = 0;
        for record in &table.records {
            let bounds = self.index.bounds();
            let (Some(block), None) = (block, bounds.objection(record)) else {
                let reason =
                    bounds.objection(record).unwrap_or_else(|| "its offset is no block of a segment".to_owned());
                return Err(damaged(window, &format!("group {number} at offset {}: {reason}", group.offset)));
            };
            self.index.apply(record, GroupRef { number, block }, ordinal);
            ordinal += record.count;
        }
        self.advance_past(&group.header);
        Ok(())
    }

    /// Applies a group of which only the header is known.
    fn lose_content(&mut self, header: &GroupHeader) {
        if header.lowest_changed != Sequence::ZERO {
            self.index.lose(header.lowest_changed, header.last_after, false);
        } else if header.last_after > self.index.bounds().last {
            // A group without entries can move the end of the log only by a base.
            self.index.discard_through(header.last_after);
        }
        self.advance_past(header);
    }

    fn advance_past(&mut self, header: &GroupHeader) {
        let Bounds { first, last } = self.index.bounds();
        if let Some(context) = &header.context
            && context.first_after > first
        {
            self.index.discard_through(context.first_after.previous().min(last));
        }
        self.tail.as_mut().expect("there was a header").advance_past(header);
    }

    /// Refuses a log whose headers claim more entries than fit. Each entry takes at least eight
    /// bytes.
    fn check_plausible(&self, window: &Window) -> Result<(), StorageError> {
        let segment_bytes = self.segments.iter().map(|segment| segment.bytes).chain([window.bytes]).max();
        // Allows for as many missing segments as there are files, and a few more.
        let segments = 2 * self.segments.len() as u64 + 16;
        let Bounds { first, last } = self.index.bounds();
        if last.0 - first.previous().0 > segment_bytes.unwrap_or(0).saturating_mul(segments) / ENTRY_BYTES as u64 {
            let reason =
                format!("it claims to hold entries {first} to {last}, more than its segments ever had room for");
            return Err(damaged(window, &reason));
        }
        Ok(())
    }

    /// Makes the newest segment durable, and zeroes everything after its groups. If the newest
    /// group is misplaced, a recovery marker must be written first.
    fn finish(
        &mut self,
        file: &dyn DiskFile,
        window: &mut Window,
        layout: &Layout,
        end: u64,
    ) -> Result<(), StorageError> {
        self.write_offset = end.min(window.bytes);
        if let Some((misplaced_at, misplaced)) = &layout.misplaced {
            let last = layout.groups.last().map_or(0, |group| group.header.position.group_number);
            let missing = misplaced.position.group_number - last;
            let offset = end.saturating_add(missing.saturating_mul(BLOCK_BYTES)).min(window.bytes);
            let marker = RecoveryMarker { offset, groups_end: end };
            // Part of the misplaced group may lie after the marker, where it would look like
            // damage.
            clear_around(file, window, &marker, &[*misplaced_at])?;
            self.marker = Some(marker);
            return Ok(());
        }
        if let Some(group) = layout.groups.last() {
            overwrite_blank_damage(file, window, group)?;
            rewrite(file, window, group)?;
        }
        sync(file, window)?;
        if clear(file, window, end..window.bytes)? {
            sync(file, window)?;
        }
        self.disk.sync_dir().map_err(|e| failure("syncing the directory", self.disk.describe(""), e))
    }
}

/// Whether every block is blank, or begins with a header that `accept` returns true for.
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

/// Zeroes a range outside of all groups where it isn't zero already. Returns whether anything was
/// written.
fn clear(file: &dyn DiskFile, window: &mut Window, range: Range<u64>) -> Result<bool, StorageError> {
    let mut cleared = 0;
    for offset in range.clone().step_by(BLOCK_BYTES as usize) {
        let length = BLOCK_BYTES.min(window.bytes - offset);
        if !is_blank(window.get(offset, length)) {
            let written = file.write_at(&vec![0; length as usize], offset);
            written.map_err(|e| failure("clearing data after the log", window.path.clone(), e))?;
            cleared += length;
        }
    }
    if cleared > 0 {
        let offset = range.start;
        tracing::info!(
            path = window.path,
            offset,
            cleared_bytes = cleared,
            "cleared everything after the end of the log"
        );
    }
    Ok(cleared > 0)
}

/// Zeroes everything after the groups except for the blocks at `kept`, and makes that durable.
fn clear_around(
    file: &dyn DiskFile,
    window: &mut Window,
    marker: &RecoveryMarker,
    kept: &[u64],
) -> Result<(), StorageError> {
    for block in (marker.groups_end..window.bytes).step_by(BLOCK_BYTES as usize) {
        if !kept.contains(&block) {
            clear(file, window, block..window.bytes.min(block + BLOCK_BYTES))?;
        }
    }
    sync(file, window)
}

/// Zeroes everything around a recovery marker, once the marker is durable.
pub(super) fn clear_around_marker(
    disk: &dyn Disk,
    segment: &Segment,
    marker: &RecoveryMarker,
) -> Result<(), StorageError> {
    let mut window = Window::new(&*segment.file, disk.describe(&file_name(segment.number)))?;
    clear_around(&*segment.file, &mut window, marker, &[marker.offset])
}

fn sync(file: &dyn DiskFile, window: &Window) -> Result<(), StorageError> {
    file.sync_data().map_err(|e| failure("syncing the log", window.path.clone(), e))
}
