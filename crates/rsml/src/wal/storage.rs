//! [`WalStorage`]: writes groups, reads entries back, and lets go of old segments.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile, FileDisk, failure};
use super::format::{
    BLOCK_BYTES, Change, EntryRecord, GroupHeader, GroupPlace, HeaderFault, OrderRecord, SECTOR_BYTES, Table,
    encode_group, group_bytes,
};
use super::index::{Bounds, Location, LogIndex};
use super::recovery;
use super::segment::{Preparer, SegmentFile, file_name};
use crate::{HardState, Persist, Recovered, Sequence, Storage, StorageError, StorageStatistics};

/// The write buffer is given back when a large group grew it beyond this.
const BUFFER_KEPT_BYTES: usize = 8 << 20;

#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size of a segment; a group that is larger gets a segment of its own size. Rounded up to 4 KiB, at least 8 KiB.
    pub segment_bytes: u64,
    /// Whether the next segment is prepared in a thread ahead of need; otherwise a writer waits for it.
    pub background_preparation: bool,
    /// Segment ids are drawn from this. Random by default, so that segments of another log are never taken for ours.
    pub segment_id_seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            segment_bytes: 64 << 20,
            background_preparation: true,
            segment_id_seed: RandomState::new().hash_one("segment id seed"),
        }
    }
}

/// A segment in use.
pub(super) struct Segment {
    pub number: u64,
    pub id: u64,
    pub bytes: u64,
    pub file: Box<dyn DiskFile>,
}

/// What [`recovery`] found, and all that writing goes on from.
pub(super) struct LogState {
    /// Oldest first; never empty. The newest one is written to.
    pub segments: VecDeque<Segment>,
    /// Lists the same segments in the same order.
    pub index: LogIndex,
    pub hard_state: Option<HardState>,
    /// Where the next group goes in the newest segment.
    pub write_offset: u64,
    pub next_group: u64,
    pub previous_lowest_changed: Sequence,
}

/// Group and table at one place, kept because a run of entries is often read in several steps.
struct CachedTable {
    segment_number: u64,
    block: u32,
    payload_offset: u64,
    table: Arc<Table>,
}

/// A write-ahead log over a [`Disk`]. See the module for the rules it keeps.
pub struct WalStorage {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    preparer: Preparer,
    /// `None` until recovered.
    state: Option<LogState>,
    buffer: Vec<u8>,
    cached_table: Option<CachedTable>,
    /// The first failure of a write; nothing is done after it.
    failure: Option<StorageError>,
    statistics: StorageStatistics,
}

impl WalStorage {
    /// Opens the log in a directory, which is created where it is missing. [`Storage::recover`] comes next.
    pub fn open(directory: impl AsRef<Path>, options: WalOptions) -> Result<Self, StorageError> {
        Ok(Self::over(Arc::new(FileDisk::open(directory.as_ref())?), options))
    }

    /// A log over any disk.
    pub fn over(disk: Arc<dyn Disk>, mut options: WalOptions) -> Self {
        options.segment_bytes = options.segment_bytes.max(2 * BLOCK_BYTES).next_multiple_of(BLOCK_BYTES);
        WalStorage {
            preparer: Preparer::new(disk.clone(), options.background_preparation),
            disk,
            options,
            state: None,
            buffer: Vec::new(),
            cached_table: None,
            failure: None,
            statistics: StorageStatistics::default(),
        }
    }

    fn state(&mut self) -> &mut LogState {
        self.state.as_mut().expect("recover() comes before any other use of a log")
    }

    fn check_usable(&self) -> Result<(), StorageError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Remembers a failure: what is on the disk is unknown from here on.
    fn poison<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }

    fn write_groups(&mut self, mut orders: &[Persist]) -> Result<(), StorageError> {
        while !orders.is_empty() {
            let (group, rest) = orders.split_at(self.orders_for_one_group(orders));
            self.write_orders(group)?;
            orders = rest;
        }
        Ok(())
    }

    /// As many orders as fit into an empty segment, but at least one: an order is never divided.
    fn orders_for_one_group(&self, orders: &[Persist]) -> usize {
        let limit = self.options.segment_bytes - BLOCK_BYTES;
        if group_bytes(orders) <= limit {
            return orders.len();
        }
        let mut bytes = SECTOR_BYTES as u64;
        let fits = |order: &&Persist| {
            bytes += group_bytes(std::slice::from_ref(*order));
            bytes <= limit
        };
        orders.iter().take_while(fits).count().max(1)
    }

    fn write_orders(&mut self, orders: &[Persist]) -> Result<(), StorageError> {
        let mut after = self.state().index.bounds();
        let mut lowest_changed = Sequence::ZERO;
        for record in orders.iter().flat_map(OrderRecord::of).filter(OrderRecord::changes_log) {
            let objection = after.objection(&record);
            assert!(objection.is_none(), "{}", objection.unwrap_or_default());
            after.apply(&record);
            if record.change != Change::Base {
                let lowest = if lowest_changed == Sequence::ZERO { record.from } else { lowest_changed };
                lowest_changed = lowest.min(record.from);
            }
        }
        self.make_room(group_bytes(orders))?;
        let hard_state = orders.last().map(|order| order.hard_state);
        let offset = self.write_group(orders, hard_state, after, lowest_changed)?;
        self.index_orders(orders, offset);
        let state = self.state();
        assert_eq!(state.index.bounds(), after, "the index disagrees with what was written");
        self.statistics.entries_written += orders.iter().map(|order| order.entries.len() as u64).sum::<u64>();
        self.prepare_ahead();
        Ok(())
    }

    fn index_orders(&mut self, orders: &[Persist], offset: u64) {
        let index = &mut self.state().index;
        let mut ordinal = 0;
        for record in orders.iter().flat_map(OrderRecord::of) {
            index.apply(&record, block_of(offset), ordinal);
            ordinal += record.count;
        }
    }

    /// Writes one group at the end of the newest segment and makes it durable; returns where it lies.
    fn write_group(
        &mut self,
        orders: &[Persist],
        hard_state: Option<HardState>,
        after: Bounds,
        lowest_changed: Sequence,
    ) -> Result<u64, StorageError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let path = self.newest_path();
        let state = self.state();
        let segment = state.segments.back().expect("a log has a segment");
        let header = GroupHeader {
            place: GroupPlace {
                segment_number: segment.number,
                segment_id: segment.id,
                group_number: state.next_group,
            },
            last_before: state.index.bounds().last,
            last_after: after.last,
            lowest_changed,
            previous_lowest_changed: state.previous_lowest_changed,
            hard_state,
            first_after: after.first,
            group_bytes: 0,
            record_count: 0,
            entry_count: 0,
            table_crc: 0,
            payload_bytes: 0,
        };
        let bytes = encode_group(header, orders, &mut buffer).group_bytes;
        let offset = state.write_offset;
        assert!(offset + bytes <= segment.bytes, "a group doesn't fit into its segment");
        segment.file.write_at(&buffer, offset).map_err(|e| failure("writing the log", path.clone(), e))?;
        segment.file.sync_data().map_err(|e| failure("synchronising the log", path, e))?;
        state.write_offset += bytes;
        state.next_group += 1;
        state.previous_lowest_changed = lowest_changed;
        state.hard_state = hard_state;
        self.statistics.fsyncs += 1;
        self.statistics.bytes_written += bytes;
        buffer.clear();
        buffer.shrink_to(BUFFER_KEPT_BYTES);
        self.buffer = buffer;
        Ok(offset)
    }

    fn newest_path(&mut self) -> String {
        let number = self.state().segments.back().expect("a log has a segment").number;
        self.disk.describe(&file_name(number))
    }

    /// Opens a new segment when `bytes` more don't fit into the newest one.
    fn make_room(&mut self, bytes: u64) -> Result<(), StorageError> {
        let state = self.state();
        let newest = state.segments.back().expect("a log has a segment");
        if state.write_offset + bytes <= newest.bytes {
            return Ok(());
        }
        let number = newest.number + 1;
        let wanted = self.options.segment_bytes.max(BLOCK_BYTES + bytes);
        let prepared = self.preparer.take(number, wanted)?;
        self.open_segment(prepared)
    }

    /// Begins a segment with its opening: the hard state as it stands, and no orders.
    pub(super) fn open_segment(&mut self, prepared: SegmentFile) -> Result<(), StorageError> {
        let seed = self.options.segment_id_seed;
        let state = self.state();
        let id_source = [seed, prepared.number, state.next_group].map(u64::to_le_bytes).concat();
        let SegmentFile { number, bytes, file } = prepared;
        state.segments.push_back(Segment { number, id: xxhash_rust::xxh3::xxh3_64(&id_source), bytes, file });
        state.index.open_segment();
        state.write_offset = 0;
        let (hard_state, bounds) = (state.hard_state, state.index.bounds());
        self.write_group(&[], hard_state, bounds, Sequence::ZERO)?;
        Ok(())
    }

    /// Lets the next segment be prepared once the newest one is half full.
    fn prepare_ahead(&mut self) {
        let bytes = self.options.segment_bytes;
        let state = self.state();
        let newest = state.segments.back().expect("a log has a segment");
        if state.write_offset * 2 >= newest.bytes {
            let number = newest.number + 1;
            self.preparer.start(number, bytes);
        }
    }

    fn table(&mut self, location: &Location) -> Result<(u64, Arc<Table>), StorageError> {
        let segment = &self.state().segments[location.segment];
        let number = segment.number;
        if let Some(cached) = &self.cached_table
            && (cached.segment_number, cached.block) == (number, location.block)
        {
            return Ok((cached.payload_offset, cached.table.clone()));
        }
        let (payload_offset, table) = self.read_table(location)?;
        let table = Arc::new(table);
        let block = location.block;
        self.cached_table = Some(CachedTable { segment_number: number, block, payload_offset, table: table.clone() });
        Ok((payload_offset, table))
    }

    /// Offset of the group's payload in the file, and the group's table.
    fn read_table(&mut self, location: &Location) -> Result<(u64, Table), StorageError> {
        let disk = self.disk.clone();
        let segment = &self.state().segments[location.segment];
        let path = disk.describe(&file_name(segment.number));
        let offset = u64::from(location.block) * BLOCK_BYTES;
        let damaged = |reason: &str| StorageError::Corrupt {
            path: path.clone(),
            from: location.run_first,
            to: location.run_last,
            reason: format!("the {reason} of the group at offset {offset} is damaged"),
        };
        let mut sector = [0; SECTOR_BYTES];
        read_exactly(&*segment.file, &mut sector, offset, &path)?;
        let header = match GroupHeader::decode(&sector) {
            Ok(header) if (header.place.segment_number, header.place.segment_id) == (segment.number, segment.id) => {
                header
            }
            Ok(_) | Err(HeaderFault::Blank | HeaderFault::Version(_) | HeaderFault::Damaged) => {
                return Err(damaged("header"));
            }
        };
        let mut bytes = vec![0; header.table_bytes()];
        read_exactly(&*segment.file, &mut bytes, offset + SECTOR_BYTES as u64, &path)?;
        let table = Table::decode(&header, &bytes).ok_or_else(|| damaged("table"))?;
        Ok((offset + header.payload_offset(), table))
    }

    /// Appends entries of one run, `from` and what follows it while it fits into `max_bytes`; returns their bytes.
    fn read_run(
        &mut self,
        from: Sequence,
        to: Sequence,
        max_bytes: usize,
        entries: &mut Vec<Bytes>,
    ) -> Result<usize, StorageError> {
        let location = self.state().index.locate(from).expect("the caller checked that the entry is stored");
        let (payload_offset, table) = self.table(&location)?;
        let (skipped, records) = table.entries.split_at(location.ordinal as usize);
        let available = (location.run_last.min(to).0 - from.0 + 1) as usize;
        let (count, bytes) = how_many_fit(&records[..available], max_bytes, entries.is_empty());
        let skipped: u64 = skipped.iter().map(|record| u64::from(record.length)).sum();
        let segment = &self.state().segments[location.segment];
        let number = segment.number;
        let mut payload = vec![0; bytes];
        let read = segment.file.read_at(&mut payload, payload_offset + skipped);
        let path = self.disk.describe(&file_name(number));
        read.map_err(|e| failure("reading the log", path.clone(), e))?;
        entries.extend(check_entries(payload.into(), &records[..count], from, &path)?);
        Ok(bytes)
    }

    fn read_entries(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        let bounds = self.state().index.bounds();
        let to = to.min(bounds.last);
        let mut entries = Vec::new();
        if from < bounds.first {
            return Ok(entries);
        }
        let mut bytes_left = max_bytes;
        let mut next = from;
        while next <= to {
            let before = entries.len();
            let bytes = self.read_run(next, to, bytes_left, &mut entries)?;
            let read = entries.len() - before;
            if read == 0 || bytes > bytes_left {
                break;
            }
            next = Sequence(next.0 + read as u64);
            bytes_left -= bytes;
        }
        Ok(entries)
    }

    fn remove_oldest_segment(&mut self) -> Result<(), StorageError> {
        let disk = self.disk.clone();
        let state = self.state();
        let name = file_name(state.segments.front().expect("a log has a segment").number);
        disk.remove(&name).map_err(|e| failure("removing a segment", disk.describe(&name), e))?;
        disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))?;
        state.segments.pop_front();
        state.index.remove_oldest();
        Ok(())
    }

    fn recover_state(&mut self) -> Result<(), StorageError> {
        match recovery::recover(&*self.disk)? {
            Some(state) => self.state = Some(state),
            None => {
                let bounds = Bounds::empty_after(Sequence::ZERO);
                self.state = Some(LogState {
                    segments: VecDeque::new(),
                    index: LogIndex::new(bounds),
                    hard_state: None,
                    write_offset: 0,
                    next_group: 1,
                    previous_lowest_changed: Sequence::ZERO,
                });
                let first = self.preparer.take(recovery::FIRST_SEGMENT, self.options.segment_bytes)?;
                self.open_segment(first)?;
            }
        }
        self.prepare_ahead();
        Ok(())
    }
}

impl Storage for WalStorage {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        assert!(self.state.is_none() && self.failure.is_none(), "a log is recovered once, before any other use");
        let recovered = self.recover_state();
        self.poison(recovered)?;
        let hard_state = self.state().hard_state;
        let Bounds { first, last } = self.state().index.bounds();
        Ok(Recovered { hard_state, first, last, lost: Vec::new() })
    }

    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError> {
        let Bounds { first, last } = self.state().index.bounds();
        let entries = self.read_entries(from.max(first), last, usize::MAX);
        Ok(self.poison(entries)?.into_iter().map(Some).collect())
    }

    /// # Panics
    /// When an order without `truncate` doesn't begin at the end of the log.
    fn persist(&mut self, orders: &[Persist]) -> Result<usize, StorageError> {
        self.check_usable()?;
        let written = self.write_groups(orders);
        self.poison(written)?;
        Ok(orders.len())
    }

    /// Nothing when `from` is no longer, or not yet, stored.
    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        self.check_usable()?;
        self.read_entries(from, to, max_bytes)
    }

    /// Removes whole segments only.
    fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        self.check_usable()?;
        while self.state().index.oldest_may_go(below) {
            let removed = self.remove_oldest_segment();
            self.poison(removed)?;
        }
        Ok(())
    }

    fn has_space(&self) -> bool {
        true
    }

    fn statistics(&self) -> StorageStatistics {
        let segments = self.state.iter().flat_map(|state| &state.segments);
        StorageStatistics { bytes_on_disk: segments.map(|segment| segment.bytes).sum(), ..self.statistics }
    }
}

/// How many of the entries, and bytes, are within `max_bytes`; the very first entry of a read always is.
fn how_many_fit(records: &[EntryRecord], max_bytes: usize, first_always: bool) -> (usize, usize) {
    let mut bytes = 0;
    for (position, record) in records.iter().enumerate() {
        let with_this = bytes + record.length as usize;
        if with_this > max_bytes {
            return if first_always && position == 0 { (1, with_this) } else { (position, bytes) };
        }
        bytes = with_this;
    }
    (records.len(), bytes)
}

/// Divides `payload` into the entries from `from` on, and checks each of them.
fn check_entries(
    payload: Bytes,
    records: &[EntryRecord],
    from: Sequence,
    path: &str,
) -> Result<Vec<Bytes>, StorageError> {
    let mut at = 0;
    let slices = records.iter().map(|record| {
        let slice = payload.slice(at..at + record.length as usize);
        at += record.length as usize;
        slice
    });
    let slices: Vec<Bytes> = slices.collect();
    let is_intact = |position: &usize| crc32c::crc32c(&slices[*position]) == records[*position].crc;
    let Some(damaged) = (0..records.len()).find(|position| !is_intact(position)) else { return Ok(slices) };
    let intact_again = (damaged..records.len()).find(is_intact).unwrap_or(records.len());
    Err(StorageError::Corrupt {
        path: path.to_owned(),
        from: Sequence(from.0 + damaged as u64),
        to: Sequence(from.0 + intact_again as u64 - 1),
        reason: "an entry doesn't match its checksum".to_owned(),
    })
}

pub(super) fn block_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK_BYTES).expect("a segment is smaller than 16 TiB")
}

pub(super) fn read_exactly(file: &dyn DiskFile, bytes: &mut [u8], offset: u64, path: &str) -> Result<(), StorageError> {
    file.read_at(bytes, offset).map_err(|e| failure("reading the log", path.to_owned(), e))
}
