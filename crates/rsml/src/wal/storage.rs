//! [`WalStorage`]: writes groups and lets go of old segments. See `reading` for how entries are read back.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, FileDisk, failure};
use super::format::{
    BLOCK_BYTES, Change, Context, GroupHeader, GroupPlace, SECTOR_BYTES, WriteRecord, encode_group, group_bytes,
};
use super::index::{Bounds, GroupSpot, LogIndex};
use super::reading::EntryReader;
use super::recovery::{self, Recovery, Seal};
use super::segment::{Preparer, SegmentFile, file_name};
use super::state::{LogState, LogTail, Segment};
use crate::{HardState, Persist, Recovered, Sequence, Storage, StorageError, StorageStatistics};

/// The write buffer is given back when a large group grew it beyond this.
const BUFFER_KEPT_BYTES: usize = 8 << 20;

const UNRECOVERED: &str = "recover() comes before any other use of a log";

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

/// A write-ahead log over a [`Disk`]. See the module for the rules it keeps.
pub struct WalStorage {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    preparer: Preparer,
    /// `None` until recovered.
    state: Option<LogState>,
    buffer: Vec<u8>,
    reader: EntryReader,
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
            reader: EntryReader::new(disk.clone()),
            disk,
            options,
            state: None,
            buffer: Vec::new(),
            failure: None,
            statistics: StorageStatistics::default(),
        }
    }

    fn state(&mut self) -> &mut LogState {
        self.state.as_mut().expect(UNRECOVERED)
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

    /// As many writes as fit into an empty segment, but at least one: a write is never divided.
    fn writes_for_one_group(&self, writes: &[Persist]) -> usize {
        let limit = self.options.segment_bytes - BLOCK_BYTES;
        if group_bytes(writes) <= limit {
            return writes.len();
        }
        let mut bytes = SECTOR_BYTES as u64;
        let fits = |write: &&Persist| {
            bytes += group_bytes(std::slice::from_ref(*write));
            bytes <= limit
        };
        writes.iter().take_while(fits).count().max(1)
    }

    /// Writes `writes` as one group, or only as many of the first ones as there is space for; returns how many.
    fn append_writes(&mut self, mut writes: &[Persist]) -> Result<usize, StorageError> {
        if !self.make_room(group_bytes(writes))? {
            writes = self.those_that_fit(writes);
            if writes.is_empty() {
                return Ok(0);
            }
        }
        let mut after = self.state().index.bounds();
        let mut lowest_changed = Sequence::ZERO;
        for record in writes.iter().flat_map(WriteRecord::of).filter(WriteRecord::changes_log) {
            let objection = after.objection(&record);
            assert!(objection.is_none(), "{}", objection.unwrap_or_default());
            after.apply(&record);
            if record.change != Change::Base {
                let lowest = if lowest_changed == Sequence::ZERO { record.from } else { lowest_changed };
                lowest_changed = lowest.min(record.from);
            }
        }
        let hard_state = writes.last().map(|write| write.hard_state);
        let spot = self.write_group(writes, hard_state, after, lowest_changed)?;
        self.index_writes(writes, spot);
        let state = self.state();
        assert_eq!(state.index.bounds(), after, "the index disagrees with what was written");
        self.statistics.entries_written += writes.iter().map(|write| write.entries.len() as u64).sum::<u64>();
        self.prepare_ahead();
        Ok(writes.len())
    }

    /// The first ones of `writes` for which the newest segment has room.
    fn those_that_fit<'a>(&mut self, writes: &'a [Persist]) -> &'a [Persist] {
        let state = self.state();
        let room = state.segments.back().expect("a log has a segment").bytes - state.write_offset;
        let (mut fits, mut too_many) = (0, writes.len() + 1);
        while too_many - fits > 1 {
            let middle = fits.midpoint(too_many);
            if group_bytes(&writes[..middle]) <= room { fits = middle } else { too_many = middle }
        }
        &writes[..fits]
    }

    fn index_writes(&mut self, writes: &[Persist], spot: GroupSpot) {
        let index = &mut self.state().index;
        let mut ordinal = 0;
        for record in writes.iter().flat_map(WriteRecord::of) {
            index.apply(&record, spot, ordinal);
            ordinal += record.count;
        }
    }

    /// Writes one group at the end of the newest segment and makes it durable; returns where it lies. A place for writes
    /// is never the first block.
    fn write_group(
        &mut self,
        writes: &[Persist],
        hard_state: Option<HardState>,
        after: Bounds,
        lowest_changed: Sequence,
    ) -> Result<GroupSpot, StorageError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let path = self.newest_path();
        let state = self.state();
        let segment = state.segments.back().expect("a log has a segment");
        let header = GroupHeader {
            place: GroupPlace {
                segment_number: segment.number,
                segment_id: segment.id,
                group_number: state.tail.next_group,
            },
            last_before: state.index.bounds().last,
            last_after: after.last,
            lowest_changed,
            previous_lowest_changed: state.tail.previous_lowest_changed,
            hard_state,
            context: Some(Context {
                first_after: after.first,
                segment_bytes: segment.bytes,
                blank_sectors: 0,
                cuts: state.tail.cuts,
            }),
            group_bytes: 0,
            record_count: 0,
            entry_count: 0,
            table_crc: 0,
            payload_bytes: 0,
        };
        let header = encode_group(header, writes, &mut buffer);
        let bytes = header.group_bytes;
        let offset = state.write_offset;
        assert!(offset + bytes <= segment.bytes, "a group doesn't fit into its segment");
        segment.file.write_at(&buffer, offset).map_err(|e| failure("writing the log", path.clone(), e))?;
        segment.file.sync_data().map_err(|e| failure("synchronising the log", path, e))?;
        state.write_offset += bytes;
        state.tail.pass(&header);
        self.statistics.fsyncs += 1;
        self.statistics.bytes_written += bytes;
        buffer.clear();
        buffer.shrink_to(BUFFER_KEPT_BYTES);
        self.buffer = buffer;
        let block = u32::try_from(offset / BLOCK_BYTES).expect("a segment is smaller than 16 TiB");
        Ok(GroupSpot { number: header.place.group_number, block: NonZeroU32::new(block).unwrap_or(NonZeroU32::MIN) })
    }

    fn newest_path(&mut self) -> String {
        let number = self.state().segments.back().expect("a log has a segment").number;
        self.disk.describe(&file_name(number))
    }

    /// Opens a new segment when `bytes` more don't fit into the newest one. False when there is no space for one.
    fn make_room(&mut self, bytes: u64) -> Result<bool, StorageError> {
        let state = self.state();
        let newest = state.segments.back().expect("a log has a segment");
        if state.write_offset + bytes <= newest.bytes {
            return Ok(true);
        }
        let number = newest.number + 1;
        let wanted = self.options.segment_bytes.max(BLOCK_BYTES + bytes);
        let Some(prepared) = self.preparer.take(number, wanted)? else { return Ok(false) };
        self.open_segment(prepared)?;
        Ok(true)
    }

    /// Begins a segment with its opening: the hard state as it stands, and no writes.
    fn open_segment(&mut self, prepared: SegmentFile) -> Result<(), StorageError> {
        let seed = self.options.segment_id_seed;
        let state = self.state();
        let id_source = [seed, prepared.number, state.tail.next_group].map(u64::to_le_bytes).concat();
        let SegmentFile { number, bytes, file } = prepared;
        state.segments.push_back(Segment { number, id: xxhash_rust::xxh3::xxh3_64(&id_source), bytes, file });
        state.index.open_segment();
        state.write_offset = 0;
        let (hard_state, bounds) = (state.tail.hard_state, state.index.bounds());
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

    fn remove_oldest_segment(&mut self) -> Result<(), StorageError> {
        let disk = self.disk.clone();
        let state = self.state();
        let name = file_name(state.segments.front().expect("a log has a segment").number);
        match disk.remove(&name) {
            // An earlier attempt removed it, and could not make that durable.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.map_err(|e| failure("removing a segment", disk.describe(&name), e))?,
        }
        disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))?;
        state.segments.pop_front();
        state.index.remove_oldest();
        Ok(())
    }

    fn recover_state(&mut self) -> Result<(), StorageError> {
        match recovery::recover(&*self.disk)? {
            Some(Recovery { state, seal }) => {
                self.state = Some(state);
                if let Some(seal) = seal {
                    self.write_seal(&seal)?;
                }
            }
            None => {
                self.state = Some(LogState {
                    segments: VecDeque::new(),
                    index: LogIndex::new(Bounds::empty_after(Sequence::ZERO)),
                    tail: LogTail { next_group: 1, ..LogTail::default() },
                    write_offset: 0,
                });
                let first = self.preparer.take(recovery::FIRST_SEGMENT, self.options.segment_bytes)?;
                self.open_segment(first.ok_or_else(|| self.full())?)?;
            }
        }
        self.prepare_ahead();
        Ok(())
    }

    /// Writes the state as recovery found it, before the header that told it is cleared. Where there is no room, the opening of a new
    /// segment says it all.
    fn write_seal(&mut self, seal: &Seal) -> Result<(), StorageError> {
        let segments = self.state().segments.len();
        self.state().write_offset = seal.offset;
        if !self.make_room(BLOCK_BYTES)? {
            return Err(self.full());
        }
        if self.state().segments.len() > segments {
            return Ok(());
        }
        let (hard_state, bounds) = (self.state().tail.hard_state, self.state().index.bounds());
        self.write_group(&[], hard_state, bounds, Sequence::ZERO)?;
        let disk = self.disk.clone();
        recovery::clear_around_seal(&*disk, self.state().segments.back().expect("a log has a segment"), seal)
    }

    fn full(&self) -> StorageError {
        let path = self.disk.describe("");
        match self.preparer.lacks_descriptors() {
            true => StorageError::NoDescriptors { path },
            false => StorageError::Full { path },
        }
    }
}

impl Storage for WalStorage {
    fn recover(&mut self) -> Result<Recovered, StorageError> {
        assert!(self.state.is_none() && self.failure.is_none(), "a log is recovered once, before any other use");
        let recovered = self.recover_state();
        self.poison(recovered)?;
        let state = self.state();
        let Bounds { first, last } = state.index.bounds();
        Ok(Recovered { hard_state: state.tail.hard_state, first, last, lost: state.index.lost() })
    }

    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError> {
        self.check_usable()?;
        let log = self.state.as_mut().expect(UNRECOVERED);
        Ok(self.reader.load(log, from))
    }

    /// # Panics
    /// When a write without `truncate` doesn't begin at the end of the log.
    fn persist(&mut self, writes: &[Persist]) -> Result<usize, StorageError> {
        self.check_usable()?;
        let mut durable = 0;
        while durable < writes.len() {
            let rest = &writes[durable..];
            let written = self.append_writes(&rest[..self.writes_for_one_group(rest)]);
            match self.poison(written)? {
                0 => break,
                count => durable += count,
            }
        }
        Ok(durable)
    }

    /// Nothing when `from` is no longer, or not yet, stored.
    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        self.check_usable()?;
        let log = self.state.as_mut().expect(UNRECOVERED);
        Ok(self.reader.read(log, from, to, max_bytes))
    }

    /// Removes whole segments only.
    fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        self.check_usable()?;
        while self.state().index.oldest_may_go(below) {
            match self.remove_oldest_segment() {
                // Some file systems need space to remove a file. It goes with the next call.
                Err(StorageError::Full { .. } | StorageError::NoDescriptors { .. }) => break,
                removed => self.poison(removed)?,
            }
        }
        Ok(())
    }

    fn has_space(&self) -> bool {
        self.preparer.has_space()
    }

    fn lacks_descriptors(&self) -> bool {
        self.preparer.lacks_descriptors()
    }

    fn statistics(&self) -> StorageStatistics {
        let segments = self.state.iter().flat_map(|state| &state.segments);
        let (files, bytes_on_disk) =
            segments.fold((0, 0), |(files, bytes), segment| (files + 1, bytes + segment.bytes));
        StorageStatistics { files, bytes_on_disk, ..self.statistics }
    }
}
