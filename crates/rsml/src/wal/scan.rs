//! Which groups lie in a segment, and where, however damaged it is.
//!
//! Groups lie one behind the other, so as long as nothing is damaged each one says where the next begins. Behind damage
//! every block is looked at. A header that is found there may lie in a foreign place, because the device put the write
//! there; so the most headers are believed that can have been written in this order at these places: numbers ascend with
//! offsets, successive groups touch each other, and each group that is missing takes a block at least. A later header
//! in a foreign place is told apart from those: its entries are not used, but its hard state is the newest.

use super::format::{BLOCK_BYTES, GroupHeader, GroupPlace, SECTOR_BYTES, Table};
use super::window::Window;
use crate::StorageError;

/// A group whose header is intact, at its place.
pub(super) struct Group {
    pub offset: u64,
    pub header: GroupHeader,
    /// `None`: it is damaged.
    pub table: Option<Table>,
}

impl Group {
    pub fn end(&self) -> u64 {
        self.offset + self.header.group_bytes
    }
}

pub(super) struct Layout {
    /// Of the group that was to come first.
    pub place: GroupPlace,
    pub groups: Vec<Group>,
    /// The newest header, if it lies in a foreign place.
    pub stray: Option<(u64, GroupHeader)>,
}

/// Looks for the groups of a segment from number `next_group` on, or any if that isn't known. `None`: there is not one
/// header that belongs there. The newest segment is read completely.
pub(super) fn scan(
    window: &mut Window,
    segment_number: u64,
    next_group: Option<u64>,
    is_newest: bool,
) -> Result<Option<Layout>, StorageError> {
    let Some(segment_id) = identify(window, segment_number, next_group)? else { return Ok(None) };
    let belongs = |header: &GroupHeader| {
        (header.place.segment_number, header.place.segment_id) == (segment_number, segment_id)
            && next_group.is_none_or(|next| header.place.group_number >= next)
    };
    let mut groups = Vec::new();
    let mut offset = 0;
    // Where groups are missing at the end of older segments, the opening has a later number than the next one.
    let opening = window.header(0)?.ok().filter(|header| belongs(header) && is_possible(0, header));
    let mut number = opening.map(|opening| opening.place.group_number);
    while let Some(group_number) = number {
        let place = GroupPlace { segment_number, segment_id, group_number };
        let Some(group) = group_at(window, offset, place)? else { break };
        offset = group.end();
        number = Some(group_number + 1);
        groups.push(group);
    }
    let start = if is_newest { 0 } else { offset };
    let mut headers = window.headers(start, belongs)?;
    headers.retain(|(at, header)| is_possible(*at, header));
    let behind = headers.partition_point(|(at, _)| *at < offset);
    for (offset, header) in longest_row(&headers[behind..], offset, number) {
        let table = table_of(window, offset, &header);
        groups.push(Group { offset, header, table });
    }
    let newest_in_place = groups.last().map(|group| group.header.place.group_number);
    let is_later = |(_, header): &(u64, GroupHeader)| newest_in_place.is_none_or(|n| header.place.group_number > n);
    let stray = headers.into_iter().filter(is_later).max_by_key(|(_, header)| header.place.group_number);
    let place = GroupPlace { segment_number, segment_id, group_number: next_group.unwrap_or_default() };
    Ok(Some(Layout { place, groups, stray }))
}

/// The segment's id, from its opening, or else from any other header, which must agree with each other.
fn identify(window: &mut Window, number: u64, next_group: Option<u64>) -> Result<Option<u64>, StorageError> {
    let belongs = |header: &GroupHeader| {
        header.place.segment_number == number && next_group.is_none_or(|next| header.place.group_number >= next)
    };
    if let Some(opening) = window.header(0)?.ok().filter(|header| belongs(header) && header.record_count == 0) {
        return Ok(Some(opening.place.segment_id));
    }
    let ids = window.headers(BLOCK_BYTES, belongs)?.into_iter().map(|(_, header)| header.place.segment_id);
    let mut ids: Vec<u64> = ids.collect();
    ids.dedup();
    if ids.len() > 1 {
        let reason = "its beginning is damaged, and the rest is of several logs".to_owned();
        return Err(StorageError::Damaged { path: window.path.clone(), reason });
    }
    Ok(ids.pop())
}

fn group_at(window: &mut Window, offset: u64, place: GroupPlace) -> Result<Option<Group>, StorageError> {
    if offset >= window.bytes {
        return Ok(None);
    }
    let header = window.header(offset)?.ok().filter(|header| header.place == place);
    let header = header.filter(|header| is_possible(offset, header));
    Ok(header.map(|header| Group { offset, table: table_of(window, offset, &header), header }))
}

/// The first block of a segment never holds writes.
fn is_possible(offset: u64, header: &GroupHeader) -> bool {
    offset > 0 || header.record_count == 0
}

fn table_of(window: &mut Window, offset: u64, header: &GroupHeader) -> Option<Table> {
    let fits = header.group_bytes <= window.bytes - offset;
    let bytes = header.table_bytes() as u64;
    fits.then(|| Table::decode(header, window.get(offset + SECTOR_BYTES as u64, bytes))).flatten()
}

/// The longest row of headers that can have been written in this order behind `offset`, where group `next` was to come,
/// if that is known.
fn longest_row(headers: &[(u64, GroupHeader)], offset: u64, next: Option<u64>) -> Vec<(u64, GroupHeader)> {
    // For each header the length of the longest row that begins with it, and what comes second there.
    let mut rows: Vec<(usize, Option<usize>)> = vec![(1, None); headers.len()];
    for position in (0..headers.len()).rev() {
        let (offset, header) = &headers[position];
        let end = offset + header.group_bytes;
        let second = longest(headers, &rows, position + 1, end, Some(header.place.group_number + 1));
        rows[position] = (1 + second.map_or(0, |second| rows[second].0), second);
    }
    let first = longest(headers, &rows, 0, offset, next);
    std::iter::successors(first, |position| rows[*position].1).map(|position| headers[position]).collect()
}

/// Which header, of those from `position` on that can follow, begins the longest row; the foremost of several.
fn longest(
    headers: &[(u64, GroupHeader)],
    rows: &[(usize, Option<usize>)],
    position: usize,
    end: u64,
    next: Option<u64>,
) -> Option<usize> {
    let follows = |position: &usize| {
        let (offset, header) = &headers[*position];
        let Some(free_blocks) = offset.checked_sub(end).map(|bytes| bytes / BLOCK_BYTES) else { return false };
        match next.map(|next| header.place.group_number.checked_sub(next)) {
            None => true,
            Some(None) => false,
            Some(Some(missing)) => missing <= free_blocks && (missing > 0) == (free_blocks > 0),
        }
    };
    (position..headers.len()).filter(follows).max_by_key(|position| (rows[*position].0, usize::MAX - position))
}
