//! Reads entries back. An entry that can't be read, or doesn't match its checksum, is lost from
//! then on: the index remembers that, and the entry is never returned, even if the device should
//! deliver it later.

use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::format::{BLOCK_BYTES, EntryRecord, GroupHeader, SECTOR_BYTES, Table};
use super::index::{GroupRef, Location};
use super::segment::file_name;
use super::state::LogState;
use crate::Sequence;

/// Reads entries of a log.
pub(super) struct EntryReader {
    disk: Arc<dyn Disk>,
    /// The table read last: a run of entries is often read in several steps.
    cached_table: Option<CachedTable>,
}

struct CachedTable {
    group_number: u64,
    payload_offset: u64,
    table: Arc<Table>,
}

impl EntryReader {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        EntryReader { disk, cached_table: None }
    }

    /// The stored entries from `from` on, until `to`, `max_bytes` or a lost entry. At least one
    /// entry, if `from` is stored.
    pub fn read(&mut self, log: &mut LogState, from: Sequence, to: Sequence, max_bytes: usize) -> Vec<Bytes> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next <= to && bytes <= max_bytes {
            let Some(location) = log.index.locate(next) else { break };
            let run = self.read_run(log, &location, next, to, max_bytes - bytes, entries.is_empty());
            if run.is_empty() {
                break;
            }
            for entry in run {
                let Some(entry) = entry else { return entries };
                bytes += entry.len();
                entries.push(entry);
                next = next.next();
            }
        }
        entries
    }

    /// All stored entries from `from` on; `None` for lost ones.
    pub fn load(&mut self, log: &mut LogState, from: Sequence) -> Vec<Option<Bytes>> {
        let bounds = log.index.bounds();
        let mut entries = Vec::new();
        let mut next = from.max(bounds.first);
        while let Some(location) = log.index.locate(next) {
            let run = self.read_run(log, &location, next, bounds.last, usize::MAX, true);
            next = Sequence(next.0 + run.len() as u64);
            entries.extend(run);
        }
        entries
    }

    /// Entries of one run from `from` on, as many as fit into `max_bytes`. If `at_least_one`, the
    /// first one is returned whatever its length.
    fn read_run(
        &mut self,
        log: &mut LogState,
        location: &Location,
        from: Sequence,
        to: Sequence,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Vec<Option<Bytes>> {
        let available = (location.run_last.min(to).0 - from.0 + 1) as usize;
        let Some(group) = location.group else { return vec![None; available] };
        let first = location.ordinal as usize;
        let table = self.table(log, location, group).filter(|(_, table)| table.sequence_of(first) == Some(from));
        let Some((payload_offset, table)) = table.filter(|(_, table)| table.entries.len() >= first + available) else {
            self.note_lost(log, location.segment, from, location.run_last);
            return vec![None; available];
        };
        let (skipped, records) = table.entries.split_at(first);
        let count = how_many_fit(&records[..available], max_bytes, at_least_one);
        let offset = payload_offset + bytes_of(skipped);
        let entries = read_payload(log, location.segment, offset, &records[..count]);
        for (sequence, _) in (from.0..).zip(&entries).filter(|(_, entry)| entry.is_none()) {
            self.note_lost(log, location.segment, Sequence(sequence), Sequence(sequence));
        }
        entries
    }

    fn note_lost(&self, log: &mut LogState, segment: usize, from: Sequence, to: Sequence) {
        let path = self.disk.describe(&file_name(log.segments[segment].number));
        tracing::error!(
            path,
            from = from.0,
            to = to.0,
            "entries of the log are damaged or cannot be read; they are fetched from the other replicas. Check the disk"
        );
        log.index.mark_lost(from, to);
    }

    /// The offset of the group's payload in the file, and the group's table; `None` if that place
    /// holds no intact header and table of this group.
    fn table(&mut self, log: &LogState, location: &Location, group: GroupRef) -> Option<(u64, Arc<Table>)> {
        if let Some(cached) = self.cached_table.as_ref().filter(|cached| cached.group_number == group.number) {
            return Some((cached.payload_offset, cached.table.clone()));
        }
        let segment = &log.segments[location.segment];
        let offset = u64::from(group.block.get()) * BLOCK_BYTES;
        let mut sector = [0; SECTOR_BYTES];
        segment.file.read_at(&mut sector, offset).ok()?;
        let header = GroupHeader::decode(&sector).ok()?;
        let position = (header.position.segment_number, header.position.segment_id, header.position.group_number);
        if position != (segment.number, segment.id, group.number) {
            return None;
        }
        let mut bytes = vec![0; header.table_bytes()];
        segment.file.read_at(&mut bytes, offset + SECTOR_BYTES as u64).ok()?;
        let table = Arc::new(Table::decode(&header, &bytes)?);
        let payload_offset = offset + header.payload_offset();
        self.cached_table = Some(CachedTable { group_number: group.number, payload_offset, table: table.clone() });
        Some((payload_offset, table))
    }
}

/// Reads consecutive entries from `offset` on; `None` for those that don't match their checksum.
fn read_payload(log: &LogState, segment: usize, offset: u64, records: &[EntryRecord]) -> Vec<Option<Bytes>> {
    let file = &log.segments[segment].file;
    let mut payload = vec![0; bytes_of(records) as usize];
    let all = file.read_at(&mut payload, offset).is_ok();
    let payload = Bytes::from(payload);
    let mut at = 0;
    let entry = |record: &EntryRecord| {
        let length = record.length as usize;
        let start = at;
        at += length;
        let bytes = if all {
            payload.slice(start..start + length)
        } else {
            // Part of the payload can't be read: only the entries there are lost.
            let mut bytes = vec![0; length];
            file.read_at(&mut bytes, offset + start as u64).ok()?;
            bytes.into()
        };
        (crc32c::crc32c(&bytes) == record.crc).then_some(bytes)
    };
    records.iter().map(entry).collect()
}

fn bytes_of(records: &[EntryRecord]) -> u64 {
    records.iter().map(|record| u64::from(record.length)).sum()
}

/// How many of the entries fit into `max_bytes`; at least 1 if `at_least_one`.
fn how_many_fit(records: &[EntryRecord], max_bytes: usize, at_least_one: bool) -> usize {
    let mut bytes = 0;
    let fits = |record: &&EntryRecord| {
        bytes += record.length as usize;
        bytes <= max_bytes
    };
    let count = records.iter().take_while(fits).count();
    if at_least_one { count.max(1) } else { count }
}
