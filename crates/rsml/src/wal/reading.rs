//! Reading entries back. What can't be read, or isn't what was written, is lost: it is remembered as such, and never
//! served, even if the device should give it out at another time.

use std::sync::Arc;

use bytes::Bytes;

use super::format::{BLOCK_BYTES, EntryRecord, GroupHeader, SECTOR_BYTES, Table};
use super::index::{GroupSpot, Location};
use super::segment::file_name;
use super::storage::WalStorage;
use crate::Sequence;

/// A group's table, kept because a run of entries is often read in several steps.
pub(super) struct CachedTable {
    group_number: u64,
    payload_offset: u64,
    table: Arc<Table>,
}

impl WalStorage {
    /// What is stored from `from` on, until `to`, `max_bytes` or a lost entry; at least one entry, if that is stored.
    pub(super) fn read_entries(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Vec<Bytes> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        while next <= to && bytes <= max_bytes {
            let Some(location) = self.state().index.locate(next) else { break };
            let run = self.read_run(&location, next, to, max_bytes - bytes, entries.is_empty());
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

    /// Everything that is stored from `from` on; `None` for what is lost.
    pub(super) fn load_entries(&mut self, from: Sequence) -> Vec<Option<Bytes>> {
        let bounds = self.state().index.bounds();
        let mut entries = Vec::new();
        let mut next = from.max(bounds.first);
        while let Some(location) = self.state().index.locate(next) {
            let run = self.read_run(&location, next, bounds.last, usize::MAX, true);
            next = Sequence(next.0 + run.len() as u64);
            entries.extend(run);
        }
        entries
    }

    /// Entries of one run, `from` and what follows it while it fits into `max_bytes`; the first one always if
    /// `at_least_one`.
    fn read_run(
        &mut self,
        location: &Location,
        from: Sequence,
        to: Sequence,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Vec<Option<Bytes>> {
        let available = (location.run_last.min(to).0 - from.0 + 1) as usize;
        let Some(spot) = location.spot else { return vec![None; available] };
        let first = location.ordinal as usize;
        let table = self.table(location, spot).filter(|(_, table)| table.sequence_of(first) == Some(from));
        let Some((payload_offset, table)) = table.filter(|(_, table)| table.entries.len() >= first + available) else {
            self.note_lost(location.segment, from, location.run_last);
            return vec![None; available];
        };
        let (skipped, records) = table.entries.split_at(first);
        let count = how_many_fit(&records[..available], max_bytes, at_least_one);
        let offset = payload_offset + bytes_of(skipped);
        let entries = self.read_payload(location.segment, offset, &records[..count]);
        for (sequence, _) in (from.0..).zip(&entries).filter(|(_, entry)| entry.is_none()) {
            self.note_lost(location.segment, Sequence(sequence), Sequence(sequence));
        }
        entries
    }

    /// The entries from `offset` on, each checked.
    fn read_payload(&mut self, segment: usize, offset: u64, records: &[EntryRecord]) -> Vec<Option<Bytes>> {
        let file = &self.state().segments[segment].file;
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
                // Some of it can't be read: only what lies there is lost.
                let mut bytes = vec![0; length];
                file.read_at(&mut bytes, offset + start as u64).ok()?;
                bytes.into()
            };
            (crc32c::crc32c(&bytes) == record.crc).then_some(bytes)
        };
        records.iter().map(entry).collect()
    }

    fn note_lost(&mut self, segment: usize, from: Sequence, to: Sequence) {
        let number = self.state().segments[segment].number;
        let path = self.disk.describe(&file_name(number));
        tracing::error!(
            path,
            from = from.0,
            to = to.0,
            "entries of the log are damaged or cannot be read; they are fetched from the other replicas. Check the disk"
        );
        self.state().index.mark_lost(from, to);
    }

    /// The offset in the file of the group's payload, and the group's table, if that is the group.
    fn table(&mut self, location: &Location, spot: GroupSpot) -> Option<(u64, Arc<Table>)> {
        if let Some(cached) = self.cached_table.as_ref().filter(|cached| cached.group_number == spot.number) {
            return Some((cached.payload_offset, cached.table.clone()));
        }
        let segment = &self.state().segments[location.segment];
        let offset = u64::from(spot.block.get()) * BLOCK_BYTES;
        let mut sector = [0; SECTOR_BYTES];
        segment.file.read_at(&mut sector, offset).ok()?;
        let header = GroupHeader::decode(&sector).ok()?;
        let place = (header.place.segment_number, header.place.segment_id, header.place.group_number);
        if place != (segment.number, segment.id, spot.number) {
            return None;
        }
        let mut bytes = vec![0; header.table_bytes()];
        segment.file.read_at(&mut bytes, offset + SECTOR_BYTES as u64).ok()?;
        let table = Arc::new(Table::decode(&header, &bytes)?);
        let payload_offset = offset + header.payload_offset();
        self.cached_table = Some(CachedTable { group_number: spot.number, payload_offset, table: table.clone() });
        Some((payload_offset, table))
    }
}

fn bytes_of(records: &[EntryRecord]) -> u64 {
    records.iter().map(|record| u64::from(record.length)).sum()
}

/// How many of the entries are within `max_bytes`; the first one always if `at_least_one`.
fn how_many_fit(records: &[EntryRecord], max_bytes: usize, at_least_one: bool) -> usize {
    let mut bytes = 0;
    let fits = |record: &&EntryRecord| {
        bytes += record.length as usize;
        bytes <= max_bytes
    };
    let count = records.iter().take_while(fits).count();
    if at_least_one { count.max(1) } else { count }
}
