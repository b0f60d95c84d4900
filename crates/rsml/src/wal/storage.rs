//! [`WalStorage`]: writes groups and removes old segments. The module `reading` reads entries back.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, failure};
use super::file_disk::FileDisk;
use super::format::{
    BLOCK_BYTES, Change, Context, GroupHeader, GroupPosition, SECTOR_BYTES, WriteRecord, encode_group, group_bytes,
};
use super::index::{Bounds, GroupRef, LogIndex};
use super::log_file::DirectBuffer;
use super::reading::EntryReader;
use super::recovery::{self, Recovery, RecoveryMarker};
use super::segment::{Preparer, SegmentFile, file_name};
use super::state::{LogState, LogTail, Segment};
use crate::{HardState, Persist, Recovered, Sequence, Storage, StorageError, StorageStatistics};

/// If a large group made the write buffer larger than this, it is shrunk afterwards.
const BUFFER_KEPT_BYTES: usize = 8 << 20;

const UNRECOVERED: &str = "recover() comes before any other use of a log";

/// The settings of a [`WalStorage`].
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The length of a segment, rounded up to 4 KiB; at least 8 KiB. A larger group gets a segment
    /// of its own length.
    pub segment_bytes: u64,
    /// Whether a thread prepares the next segment ahead of need. Otherwise a write waits for it.
    pub background_preparation: bool,
    /// Whether groups are written past the page cache where the file system allows it.
    pub direct_writes: bool,
    /// The seed of the segments' ids. Random by default, so that segments of another log are never
    /// mistaken for this log's.
    pub segment_id_seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            segment_bytes: 64 << 20,
            background_preparation: true,
            direct_writes: true,
            segment_id_seed: RandomState::new().hash_one("segment id seed"),
        }
    }
}

/// A write-ahead log on a [`Disk`]. The module's documentation lists the rules that it keeps.
pub struct WalStorage {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    preparer: Preparer,
    /// `None` until recovered.
    state: Option<LogState>,
    buffer: DirectBuffer,
    reader: EntryReader,
    /// The first failure. After it, every call fails.
    failure: Option<StorageError>,
    statistics: StorageStatistics,
}

impl WalStorage {
    /// Opens the log in a directory, which is created if it does not exist. [`Storage::recover`]
    /// must be called next.
    ///
    /// # Errors
    /// Those of [`FileDisk::open`].
    pub fn open(directory: impl AsRef<Path>, options: WalOptions) -> Result<Self, StorageError> {
        Ok(Self::over(Arc::new(FileDisk::open(directory.as_ref(), options.direct_writes)?), options))
    }

    /// A log on any disk. [`Storage::recover`] must be called next.
    pub fn over(disk: Arc<dyn Disk>, mut options: WalOptions) -> Self {
        options.segment_bytes = options.segment_bytes.max(2 * BLOCK_BYTES).next_multiple_of(BLOCK_BYTES);
        WalStorage {
            preparer: Preparer::new(disk.clone(), options.background_preparation),
            reader: EntryReader::new(disk.clone()),
            disk,
            options,
            state: None,
            buffer: DirectBuffer::default(),
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

    /// Remembers a failure: after it, the contents of the disk are unknown.
    fn poison<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }

    /// How many writes fit into an empty segment; at least 1, since a write is never divided.
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

    /// Writes `writes` as one group, or only the first ones if there is no space for all. Returns
    /// how many.
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
        let group = self.write_group(writes, hard_state, after, lowest_changed)?;
        self.index_writes(writes, group);
        let state = self.state();
        assert_eq!(state.index.bounds(), after, "the index disagrees with what was written");
        self.statistics.entries_written += writes.iter().map(|write| write.entries.len() as u64).sum::<u64>();
        self.prepare_ahead();
        Ok(writes.len())
    }

    /// The first writes, as many as the newest segment has room for.
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

    fn index_writes(&mut self, writes: &[Persist], group: GroupRef) {
        let index = &mut self.state().index;
        let mut ordinal = 0;
        for record in writes.iter().flat_map(WriteRecord::of) {
            index.apply(&record, group, ordinal);
            ordinal += record.count;
        }
    }

    /// Writes one group at the end of the newest segment and makes it durable, unless recovery would
    /// take it for damage. Returns where it
    /// lies. For a segment header, which holds no writes, the returned block is meaningless.
    fn write_group(
        &mut self,
        writes: &[Persist],
        hard_state: Option<HardState>,
        after: Bounds,
        lowest_changed: Sequence,
    ) -> Result<GroupRef, StorageError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let disk = self.disk.clone();
        let state = self.state();
        let segment = state.segments.back().expect("a log has a segment");
        let header = GroupHeader {
            position: GroupPosition {
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
                truncations: state.tail.truncations,
            }),
            group_bytes: 0,
            record_count: 0,
            entry_count: 0,
            table_crc: 0,
            holds_seal: false,
            payload_bytes: 0,
        };
        let path = || disk.describe(&file_name(segment.number));
        let length = usize::try_from(group_bytes(writes)).expect("a group is shorter than the address space");
        let header = buffer.refill(length, |bytes| encode_group(header, writes, bytes));
        if !header.is_readable(writes) {
            return Err(StorageError::Exhausted { path: path() });
        }
        let bytes = header.group_bytes;
        let offset = state.write_offset;
        assert!(offset + bytes <= segment.bytes, "a group doesn't fit into its segment");
        segment.file.write_durably(buffer.bytes(), offset).map_err(|e| failure("writing the log", path(), e))?;
        state.write_offset += bytes;
        state.tail.advance_past(&header);
        self.statistics.fsyncs += 1;
        self.statistics.bytes_written += bytes;
        buffer.shrink_to(BUFFER_KEPT_BYTES);
        self.buffer = buffer;
        let block = u32::try_from(offset / BLOCK_BYTES).expect("a segment is smaller than 16 TiB");
        Ok(GroupRef { number: header.position.group_number, block: NonZeroU32::new(block).unwrap_or(NonZeroU32::MIN) })
    }

    /// Opens a new segment if `bytes` more don't fit into the newest one. Returns false if there is
    /// no space for a new one.
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

    /// Starts a new segment with its segment header.
    fn open_segment(&mut self, prepared: SegmentFile) -> Result<(), StorageError> {
        let seed = self.options.segment_id_seed;
        let state = self.state();
        let id_source = [seed, prepared.number, state.tail.next_group].map(u64::to_le_bytes).concat();
        let SegmentFile { number, bytes, file } = prepared;
        if let Some(full) = state.segments.back() {
            full.file.end_writing();
        }
        state.segments.push_back(Segment { number, id: xxhash_rust::xxh3::xxh3_64(&id_source), bytes, file });
        state.index.open_segment();
        state.write_offset = 0;
        let (hard_state, bounds) = (state.tail.hard_state, state.index.bounds());
        self.write_group(&[], hard_state, bounds, Sequence::ZERO)?;
        Ok(())
    }

    /// Starts to prepare the next segment once the newest one is half full.
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
            // An earlier attempt removed the file but could not make that durable.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.map_err(|e| failure("removing a segment", disk.describe(&name), e))?,
        }
        disk.sync_dir().map_err(|e| failure("syncing the directory", disk.describe(""), e))?;
        state.segments.pop_front();
        state.index.remove_oldest();
        Ok(())
    }

    fn recover_state(&mut self) -> Result<(), StorageError> {
        match recovery::recover(&*self.disk)? {
            Some(Recovery { state, marker }) => {
                self.state = Some(state);
                if let Some(marker) = marker {
                    self.write_marker(&marker)?;
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

    /// Writes the recovered state before the misplaced header that holds it is cleared. If there is
    /// no room for that, the header of a new segment holds the state.
    fn write_marker(&mut self, marker: &RecoveryMarker) -> Result<(), StorageError> {
        let segments = self.state().segments.len();
        self.state().write_offset = marker.offset;
        if !self.make_room(BLOCK_BYTES)? {
            return Err(self.full());
        }
        if self.state().segments.len() > segments {
            return Ok(());
        }
        let (hard_state, bounds) = (self.state().tail.hard_state, self.state().index.bounds());
        self.write_group(&[], hard_state, bounds, Sequence::ZERO)?;
        let disk = self.disk.clone();
        recovery::clear_around_marker(&*disk, self.state().segments.back().expect("a log has a segment"), marker)
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
    /// If a write without `truncate` doesn't begin at the end of the log.
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

    /// Returns nothing if `from` is no longer stored, or not yet.
    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError> {
        self.check_usable()?;
        let log = self.state.as_mut().expect(UNRECOVERED);
        Ok(self.reader.read(log, from, to, max_bytes))
    }

    /// Removes only whole segments.
    fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        self.check_usable()?;
        while self.state().index.can_remove_oldest(below) {
            match self.remove_oldest_segment() {
                // Some file systems need space to remove a file. The next call tries again.
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
