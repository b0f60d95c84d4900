//! Format version 3 of a group, which one sync makes durable. All numbers are little-endian.
//!
//! ```text
//! header    512 bytes, one sector: written whole or not at all
//!   0  magic 8 | format version 4 | CRC32C 4 of the sector, this field taken as 0     (the same in every version)
//!  16  segment number 8 | segment id 8 | group number 8 | group bytes 8
//!  48  records 4 | entries 4 | CRC32C of the table 4 | flags 4 (1: there is a hard state, 2: an entry is a seal)
//!  64  payload bytes 8 | last sequence before 8 | last sequence after 8
//!  88  lowest sequence changed 8 (0: none) | the same of the group before 8
//! 104  hard state: cluster id 16 | epoch 8 | disk id 16 | boot 8 | promised 8 | accepted view 8
//! 168  generation 8 | first sequence stored after 8 | segment bytes 8
//! 192  number of sectors of the group that are zeros 8
//! 200  the newest truncations before this group, newest first, 8 times:
//!      group number 8 | lowest sequence removed 8 (zeros: none)
//! 328  longest lease that may run 8 (0: not known) | view in which the end of the epoch before was learned 8 (0: not
//!      known); both belong to the hard state | zeros
//! table     per record: from 8 | entries 4 | flags 4 (1: truncate, 2: base); then per entry: length 4 | CRC32C 4
//! payload   the entries, without gaps
//! padding   zeros up to a multiple of 4,096 bytes
//! ```
//! The "before" fields and the truncations describe what damaged groups before this one did, so
//! that the lost entries are known. A *truncation* is a group that removed entries of earlier
//! groups. All other groups only append.
//!
//! A write is one record, or two if it sets a base: the first one then has the base as `from`, and
//! nothing else. Programs that do not know the longest lease write zeros there, and ignore
//! everything after the truncations. In version 1 there are no bases, and only zeros from offset
//! 168 on. Groups of lower versions may precede groups of higher ones.
//!
//! Version 3 differs from version 2 only in its meaning: the group holds a seal, or the replica has
//! entered an epoch after the first one. Programs that do not know what they may no longer do then
//! must not start. All other groups are written as version 2.

use std::array;

use crate::value::sealed_epoch;
use crate::{Boot, ClusterId, DiskId, Epoch, HardState, Persist, Sequence, View};

pub(super) const VERSION: u32 = 3;
/// Written by a replica in the first epoch, as long as its log holds no seal.
const FIRST_EPOCH_VERSION: u32 = 2;
const OLDEST_VERSION: u32 = 1;
/// Groups start and end on multiples of this.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// A device writes a sector completely or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"RSML-WAL";
const ORDER_BYTES: usize = 16;
/// The bytes that an entry takes in the table.
pub(super) const ENTRY_BYTES: usize = 8;
/// Sequences, group numbers and lengths never exceed this; a header with a greater one is damaged.
pub(super) const GREATEST: u64 = 1 << 62;
const TRUNCATIONS_KEPT: usize = 8;
const FLAG_HARD_STATE: u32 = 1;
const FLAG_SEAL: u32 = 2;
const FLAG_TRUNCATE: u32 = 1;
const FLAG_BASE: u32 = 2;

/// Where a group belongs: it is read only where all three are as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupPosition {
    pub segment_number: u64,
    pub segment_id: u64,
    pub group_number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub position: GroupPosition,
    /// Header, table, payload and padding together.
    pub group_bytes: u64,
    pub record_count: u32,
    pub entry_count: u32,
    pub table_crc: u32,
    /// An entry of the group has the form of a seal.
    pub holds_seal: bool,
    pub payload_bytes: u64,
    pub last_before: Sequence,
    pub last_after: Sequence,
    /// [`Sequence::ZERO`] if the writes leave the entries as they are.
    pub lowest_changed: Sequence,
    pub previous_lowest_changed: Sequence,
    /// `None` before the first write to the log.
    pub hard_state: Option<HardState>,
    /// `None` in version 1.
    pub context: Option<Context>,
}

/// The state of the log around the group of a header, in case other groups are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// The first stored sequence after this group.
    pub first_after: Sequence,
    /// The length with which the file was created.
    pub segment_bytes: u64,
    /// The number of sectors of this group that are all zeros. If more of them read as zeros, some
    /// were never written.
    pub blank_sectors: u64,
    /// The newest truncations before this group.
    pub truncations: Truncations,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Truncation {
    /// 0: none.
    group_number: u64,
    from: Sequence,
}

/// The newest truncations of a log, newest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Truncations([Truncation; TRUNCATIONS_KEPT]);

impl Truncations {
    pub fn push(&mut self, group_number: u64, from: Sequence) {
        self.0.rotate_right(1);
        self.0[0] = Truncation { group_number, from };
    }

    /// The lowest sequence removed by truncations from group `group_number` on; `u64::MAX` if there
    /// were none. `None` if there may have been more truncations than are known.
    pub fn lowest_since(&self, group_number: u64) -> Option<Sequence> {
        let oldest = self.0[TRUNCATIONS_KEPT - 1].group_number;
        let since = self.0.iter().filter(|truncation| truncation.group_number >= group_number);
        let lowest = || since.map(|truncation| truncation.from).min().unwrap_or(Sequence(u64::MAX));
        (oldest < group_number).then(lowest)
    }
}

/// Why a sector is not a group header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// All zeros: nothing was written here.
    Blank,
    /// An intact header of another format version.
    Version(u32),
    Damaged,
}

impl GroupHeader {
    /// If this group is a truncation: the lowest sequence of an earlier group's entry that it
    /// removed.
    pub fn truncated_from(&self) -> Option<Sequence> {
        Some(self.lowest_changed).filter(|&lowest| lowest != Sequence::ZERO && lowest <= self.last_before)
    }

    pub fn table_bytes(&self) -> usize {
        self.record_count as usize * ORDER_BYTES + self.entry_count as usize * ENTRY_BYTES
    }

    /// The offset of the first entry within the group.
    pub fn payload_offset(&self) -> u64 {
        (SECTOR_BYTES + self.table_bytes()) as u64
    }

    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let hard_state = self.hard_state.unwrap_or_default();
        let is_of_first_epoch = hard_state.epoch <= Epoch::FIRST && !self.holds_seal;
        let version = if is_of_first_epoch { FIRST_EPOCH_VERSION } else { VERSION };
        let flags =
            if self.hard_state.is_some() { FLAG_HARD_STATE } else { 0 } | if self.holds_seal { FLAG_SEAL } else { 0 };
        let mut sector = [0; SECTOR_BYTES];
        let mut out = FieldWriter { bytes: &mut sector, at: 0 };
        out.put(&MAGIC);
        out.put(&version.to_le_bytes());
        out.put(&[0; 4]);
        out.put_u64s(&[
            self.position.segment_number,
            self.position.segment_id,
            self.position.group_number,
            self.group_bytes,
        ]);
        out.put(&self.record_count.to_le_bytes());
        out.put(&self.entry_count.to_le_bytes());
        out.put(&self.table_crc.to_le_bytes());
        out.put(&flags.to_le_bytes());
        out.put_u64s(&[self.payload_bytes, self.last_before.0, self.last_after.0]);
        out.put_u64s(&[self.lowest_changed.0, self.previous_lowest_changed.0]);
        out.put(&hard_state.cluster_id.0.to_le_bytes());
        out.put_u64s(&[hard_state.epoch.0]);
        out.put(&hard_state.disk_id.0.to_le_bytes());
        out.put_u64s(&[hard_state.boot.0, hard_state.promised.0, hard_state.accepted_view.0]);
        out.put_u64s(&[hard_state.generation]);
        if let Some(context) = &self.context {
            out.put_u64s(&[context.first_after.0, context.segment_bytes, context.blank_sectors]);
            context
                .truncations
                .0
                .iter()
                .for_each(|truncation| out.put_u64s(&[truncation.group_number, truncation.from.0]));
            out.put_u64s(&[hard_state.lease_us, hard_state.ended_view.0]);
        }
        let crc = crc32c::crc32c(&sector);
        sector[12..16].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// Decodes the header in the first sector of `bytes`, which must not be shorter.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let sector = &bytes[..SECTOR_BYTES];
        if is_blank(sector) {
            return Err(HeaderFault::Blank);
        }
        let mut input = FieldReader { bytes: sector };
        let magic = input.take::<8>();
        let version = input.u32();
        let crc = input.u32();
        let computed =
            crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&sector[..12]), &[0; 4]), &sector[16..]);
        if magic != MAGIC || crc != computed {
            return Err(HeaderFault::Damaged);
        }
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(HeaderFault::Version(version));
        }
        let header = Self::decode_fields(&mut input, version);
        if header.is_coherent() { Ok(header) } else { Err(HeaderFault::Damaged) }
    }

    fn decode_fields(input: &mut FieldReader, version: u32) -> Self {
        let position =
            GroupPosition { segment_number: input.u64(), segment_id: input.u64(), group_number: input.u64() };
        let group_bytes = input.u64();
        let (record_count, entry_count, table_crc) = (input.u32(), input.u32(), input.u32());
        let flags = input.u32();
        let mut header = GroupHeader {
            position,
            group_bytes,
            record_count,
            entry_count,
            table_crc,
            holds_seal: flags & FLAG_SEAL != 0,
            payload_bytes: input.u64(),
            last_before: Sequence(input.u64()),
            last_after: Sequence(input.u64()),
            lowest_changed: Sequence(input.u64()),
            previous_lowest_changed: Sequence(input.u64()),
            hard_state: Some(HardState {
                cluster_id: ClusterId(input.u128()),
                epoch: Epoch(input.u64()),
                disk_id: DiskId(input.u128()),
                boot: Boot(input.u64()),
                promised: View(input.u64()),
                accepted_view: View(input.u64()),
                generation: input.u64(),
                lease_us: 0,
                ended_view: View::BIRTH,
            })
            .filter(|_| flags & FLAG_HARD_STATE != 0),
            context: Some(Context {
                first_after: Sequence(input.u64()),
                segment_bytes: input.u64(),
                blank_sectors: input.u64(),
                truncations: Truncations(array::from_fn(|_| Truncation {
                    group_number: input.u64(),
                    from: Sequence(input.u64()),
                })),
            })
            .filter(|_| version > 1),
        };
        let (lease_us, ended_view) = (input.u64(), View(input.u64()));
        header.hard_state = header.hard_state.map(|found| HardState { lease_us, ended_view, ..found });
        header
    }

    /// Whether a group with this header and these writes can be read back.
    pub fn is_readable(&self, writes: &[Persist]) -> bool {
        let is_numbered = |record: WriteRecord| record.from.0 <= GREATEST;
        self.position.segment_number <= GREATEST
            && self.is_coherent()
            && writes.iter().flat_map(WriteRecord::of).all(is_numbered)
    }

    /// Whether the lengths agree, and no number is so great that sums could overflow.
    fn is_coherent(&self) -> bool {
        let sequences = [self.last_before, self.last_after, self.lowest_changed, self.previous_lowest_changed];
        let first_after = self.context.map_or(0, |context| context.first_after.0);
        let numbers = [first_after, self.position.group_number, self.payload_bytes];
        let content = self.payload_offset().saturating_add(self.payload_bytes);
        sequences.into_iter().map(|sequence| sequence.0).chain(numbers).all(|number| number <= GREATEST)
            && content.checked_next_multiple_of(BLOCK_BYTES) == Some(self.group_bytes)
    }
}

/// The effect of a record on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Append,
    /// First removes the entries at or above `from`.
    Replace,
    /// Only removes the entries at or below `from`.
    Base,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteRecord {
    pub from: Sequence,
    pub count: u32,
    pub change: Change,
}

impl WriteRecord {
    /// The records of a write, in the order in which they apply.
    pub fn of(write: &Persist) -> impl Iterator<Item = Self> {
        let base = write.base.map(|base| WriteRecord { from: base, count: 0, change: Change::Base });
        let count = u32::try_from(write.entries.len()).expect("a write has fewer than 2^32 entries");
        let change = if write.truncate { Change::Replace } else { Change::Append };
        base.into_iter().chain([WriteRecord { from: write.from, count, change }])
    }

    pub fn changes_log(&self) -> bool {
        self.change != Change::Append || self.count > 0
    }

    fn flags(&self) -> u32 {
        match self.change {
            Change::Append => 0,
            Change::Replace => FLAG_TRUNCATE,
            Change::Base => FLAG_BASE,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryRecord {
    pub length: u32,
    pub crc: u32,
}

/// The table of a group: the records of its writes, and the entries of all of them in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub records: Vec<WriteRecord>,
    pub entries: Vec<EntryRecord>,
}

impl Table {
    /// The sequence of the group's entry with this index.
    pub fn sequence_of(&self, ordinal: usize) -> Option<Sequence> {
        let mut ordinal = ordinal as u64;
        for record in &self.records {
            if ordinal < u64::from(record.count) {
                return Some(Sequence(record.from.0 + ordinal));
            }
            ordinal -= u64::from(record.count);
        }
        None
    }

    /// `None` if the bytes don't match the header.
    pub fn decode(header: &GroupHeader, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != header.table_bytes() || crc32c::crc32c(bytes) != header.table_crc {
            return None;
        }
        let mut input = FieldReader { bytes };
        let records = (0..header.record_count).map(|_| WriteRecord {
            from: Sequence(input.u64()),
            count: input.u32(),
            change: match input.u32() {
                flags if flags & FLAG_BASE != 0 => Change::Base,
                flags if flags & FLAG_TRUNCATE != 0 => Change::Replace,
                _ => Change::Append,
            },
        });
        let records: Vec<_> = records.collect();
        let entries = (0..header.entry_count).map(|_| EntryRecord { length: input.u32(), crc: input.u32() });
        let table = Table { entries: entries.collect(), records };
        let entry_count: u64 = table.records.iter().map(|record| u64::from(record.count)).sum();
        let payload_bytes: u64 = table.entries.iter().map(|entry| u64::from(entry.length)).sum();
        let is_coherent = entry_count == u64::from(header.entry_count) && payload_bytes == header.payload_bytes;
        (is_coherent && table.records.iter().all(|record| record.from.0 <= GREATEST)).then_some(table)
    }
}

/// The length of a group that holds these writes.
pub(super) fn group_bytes(writes: &[Persist]) -> u64 {
    let entries = writes.iter().map(|write| write.entries.len()).sum::<usize>();
    let payload = writes.iter().flat_map(|write| &write.entries).map(|entry| entry.len() as u64).sum::<u64>();
    let records = writes.iter().flat_map(WriteRecord::of).count();
    let content = (SECTOR_BYTES + records * ORDER_BYTES + entries * ENTRY_BYTES) as u64 + payload;
    content.next_multiple_of(BLOCK_BYTES)
}

/// Appends a group with these writes to `buffer`. The caller fills in the
/// position, the hard state, the sequences and the context of `header`; the rest is filled in here,
/// and the complete header returned.
pub(super) fn encode_group(mut header: GroupHeader, writes: &[Persist], buffer: &mut Vec<u8>) -> GroupHeader {
    let start = buffer.len();
    buffer.resize(start + SECTOR_BYTES, 0);
    let mut records = 0;
    for record in writes.iter().flat_map(WriteRecord::of) {
        buffer.extend_from_slice(&record.from.0.to_le_bytes());
        buffer.extend_from_slice(&record.count.to_le_bytes());
        buffer.extend_from_slice(&record.flags().to_le_bytes());
        records += 1;
    }
    let entries = || writes.iter().flat_map(|write| &write.entries);
    for entry in entries() {
        let length = u32::try_from(entry.len()).expect("an entry is shorter than 4 GiB");
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&crc32c::crc32c(entry).to_le_bytes());
    }
    header.record_count = records;
    header.entry_count = u32::try_from(entries().count()).expect("a group has fewer than 2^32 entries");
    header.table_crc = crc32c::crc32c(&buffer[start + SECTOR_BYTES..]);
    header.holds_seal = entries().any(|entry| sealed_epoch(entry).is_some());
    let payload_offset = buffer.len();
    for entry in entries() {
        buffer.extend_from_slice(entry);
    }
    header.payload_bytes = (buffer.len() - payload_offset) as u64;
    let bytes = (buffer.len() - start).next_multiple_of(BLOCK_BYTES as usize);
    buffer.resize(start + bytes, 0);
    header.group_bytes = bytes as u64;
    if let Some(context) = &mut header.context {
        context.blank_sectors = blank_sectors(&buffer[start + SECTOR_BYTES..]);
    }
    buffer[start..start + SECTOR_BYTES].copy_from_slice(&header.encode());
    header
}

pub(super) fn is_blank(bytes: &[u8]) -> bool {
    // The compiler vectorises the comparison of chunks. It matters: most of a small group is blank.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|&byte| byte == 0)
}

/// The number of sectors of `bytes` that are all zeros.
pub(super) fn blank_sectors(bytes: &[u8]) -> u64 {
    bytes.chunks(SECTOR_BYTES).filter(|sector| is_blank(sector)).count() as u64
}

struct FieldWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl FieldWriter<'_> {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    fn put_u64s(&mut self, fields: &[u64]) {
        for field in fields {
            self.put(&field.to_le_bytes());
        }
    }
}

struct FieldReader<'a> {
    bytes: &'a [u8],
}

impl FieldReader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.bytes.split_first_chunk::<N>().expect("the caller checked the length");
        self.bytes = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.take())
    }
}
