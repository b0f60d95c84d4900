//! Finds the groups in a segment, however damaged it is.
//!
//! Groups are adjacent, so each intact header says where the next group begins. Behind damage,
//! every block is checked for a header. A header found there may be misplaced, because the device
//! wrote it to the wrong offset. So the scan accepts the longest chain of headers that can have
//! been written in this order at these offsets: numbers ascend with offsets, consecutive groups are
//! adjacent, and each missing group takes at least one block. If a header outside the chain has a
//! higher number than all in it, that is a misplaced group: its entries are not used, but its hard
//! state is the newest.

use super::format::{BLOCK_BYTES, GroupHeader, GroupPosition, SECTOR_BYTES, Table};
use super::window::Window;
use crate::StorageError;

/// A group with an intact header, at its position.
pub(super) struct Group {
    pub offset: u64,
    pub header: GroupHeader,
    /// `None` if the table is damaged.
    pub table: Option<Table>,
}

impl Group {
    pub fn end(&self) -> u64 {
        self.offset + self.header.group_bytes
    }
}

pub(super) struct Layout {
    /// The position of the first group that was expected.
    pub position: GroupPosition,
    pub groups: Vec<Group>,
    /// The offset and header of the newest group, if it is misplaced.
    pub misplaced: Option<(u64, GroupHeader)>,
    /// A scan finds the same groups without the last one, if that and everything behind it is
    /// removed. Computed for the newest segment only.
    pub stays_without_last: bool,
}

/// Finds the groups of a segment from number `next_group` on, or from any number if that isn't
/// known. `None` if there is not a single header that belongs to the segment. The newest segment is
/// read completely.
pub(super) fn scan(
    window: &mut Window,
    segment_number: u64,
    next_group: Option<u64>,
    is_newest: bool,
) -> Result<Option<Layout>, StorageError> {
    let Some(segment_id) = identify(window, segment_number, next_group)? else { return Ok(None) };
    let belongs = |header: &GroupHeader| {
        (header.position.segment_number, header.position.segment_id) == (segment_number, segment_id)
            && next_group.is_none_or(|next| header.position.group_number >= next)
    };
    let mut groups = Vec::new();
    let mut offset = 0;
    // If groups at the end of older segments are missing, the number of the segment header is
    // higher than `next_group`.
    let segment_header = window.header(0)?.ok().filter(|header| belongs(header) && is_possible(0, header));
    let mut number = segment_header.map(|header| header.position.group_number);
    while let Some(group_number) = number {
        let position = GroupPosition { segment_number, segment_id, group_number };
        let Some(group) = group_at(window, offset, position)? else { break };
        offset = group.end();
        number = Some(group_number + 1);
        groups.push(group);
    }
    let start = if is_newest { 0 } else { offset };
    let mut headers = window.headers(start, belongs)?;
    headers.retain(|(at, header)| is_possible(*at, header));
    let (chain, misplaced) = arrange(&headers, offset, number);
    let stays_without_last = match (chain.last(), groups.last()) {
        (Some((last, _)), _) => {
            let rest = arrange(before(&headers, *last), offset, number);
            rest == (chain[..chain.len() - 1].to_vec(), None) && !(groups.is_empty() && chain.len() == 1)
        }
        (None, Some(last)) => {
            let number = last.header.position.group_number;
            arrange(before(&headers, last.offset), last.offset, Some(number)) == (Vec::new(), None) && groups.len() > 1
        }
        (None, None) => false,
    };
    for (offset, header) in chain {
        let table = table_of(window, offset, &header);
        groups.push(Group { offset, header, table });
    }
    let position = GroupPosition { segment_number, segment_id, group_number: next_group.unwrap_or_default() };
    Ok(Some(Layout { position, groups, misplaced, stays_without_last }))
}

type Located = (u64, GroupHeader);

/// The headers below `offset`.
fn before(headers: &[Located], offset: u64) -> &[Located] {
    &headers[..headers.partition_point(|(at, _)| *at < offset)]
}

/// The groups at their positions from `offset` on, where group `next` was to be if that is known,
/// and the newest of all groups if it is misplaced.
fn arrange(headers: &[Located], offset: u64, next: Option<u64>) -> (Vec<Located>, Option<Located>) {
    let chain = longest_chain(&headers[before(headers, offset).len()..], offset, next);
    let newest = chain.last().map(|(_, header)| header.position.group_number);
    let newest = newest.or(next.map(|next| next.saturating_sub(1)));
    let is_later = |(_, header): &&Located| newest.is_none_or(|newest| header.position.group_number > newest);
    let misplaced = headers.iter().filter(is_later).max_by_key(|(_, header)| header.position.group_number);
    (chain, misplaced.copied())
}

/// The segment's id: from its segment header, or else from all other headers, which must agree.
fn identify(window: &mut Window, number: u64, next_group: Option<u64>) -> Result<Option<u64>, StorageError> {
    let belongs = |header: &GroupHeader| {
        header.position.segment_number == number && next_group.is_none_or(|next| header.position.group_number >= next)
    };
    if let Some(segment_header) = window.header(0)?.ok().filter(|header| belongs(header) && header.record_count == 0) {
        return Ok(Some(segment_header.position.segment_id));
    }
    let ids = window.headers(BLOCK_BYTES, belongs)?.into_iter().map(|(_, header)| header.position.segment_id);
    let mut ids: Vec<u64> = ids.collect();
    ids.dedup();
    if ids.len() > 1 {
        let reason = "its beginning is damaged, and the rest belongs to several logs".to_owned();
        return Err(StorageError::Damaged { path: window.path.clone(), reason });
    }
    Ok(ids.pop())
}

fn group_at(window: &mut Window, offset: u64, position: GroupPosition) -> Result<Option<Group>, StorageError> {
    if offset >= window.bytes {
        return Ok(None);
    }
    let header = window.header(offset)?.ok().filter(|header| header.position == position);
    let header = header.filter(|header| is_possible(offset, header));
    Ok(header.map(|header| Group { offset, table: table_of(window, offset, &header), header }))
}

/// Whether a group may begin at `offset`: the first block of a segment holds no writes.
fn is_possible(offset: u64, header: &GroupHeader) -> bool {
    offset > 0 || header.record_count == 0
}

fn table_of(window: &mut Window, offset: u64, header: &GroupHeader) -> Option<Table> {
    let fits = header.group_bytes <= window.bytes - offset;
    let bytes = header.table_bytes() as u64;
    fits.then(|| Table::decode(header, window.get(offset + SECTOR_BYTES as u64, bytes))).flatten()
}

/// The longest chain of headers that can have been written in this order from `offset` on. The
/// first group there was to be `next`, if that is known.
fn longest_chain(headers: &[(u64, GroupHeader)], offset: u64, next: Option<u64>) -> Vec<(u64, GroupHeader)> {
    // For each header: the length of the longest chain that begins with it, and the second header
    // of that chain.
    let mut chains: Vec<(usize, Option<usize>)> = vec![(1, None); headers.len()];
    for index in (0..headers.len()).rev() {
        let (offset, header) = &headers[index];
        let end = offset + header.group_bytes;
        let second = longest(headers, &chains, index + 1, end, Some(header.position.group_number + 1));
        chains[index] = (1 + second.map_or(0, |second| chains[second].0), second);
    }
    let first = longest(headers, &chains, 0, offset, next);
    std::iter::successors(first, |index| chains[*index].1).map(|index| headers[index]).collect()
}

/// The header that begins the longest chain, among those from index `from` on that can follow a
/// group that ends at `end`. The first of several.
fn longest(
    headers: &[(u64, GroupHeader)],
    chains: &[(usize, Option<usize>)],
    from: usize,
    end: u64,
    next: Option<u64>,
) -> Option<usize> {
    let follows = |index: &usize| {
        let (offset, header) = &headers[*index];
        let Some(free_blocks) = offset.checked_sub(end).map(|bytes| bytes / BLOCK_BYTES) else { return false };
        match next.map(|next| header.position.group_number.checked_sub(next)) {
            None => true,
            Some(None) => false,
            Some(Some(missing)) => missing <= free_blocks && (missing > 0) == (free_blocks > 0),
        }
    };
    (from..headers.len()).filter(follows).max_by_key(|index| (chains[*index].0, usize::MAX - index))
}
