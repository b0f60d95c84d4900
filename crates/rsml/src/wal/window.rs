//! Reads a segment front to back in large pieces. Sectors that the device can't read count as
//! damaged; they are not an error.

use std::ops::Range;

use super::disk::{DiskFile, failure};
use super::format::{BLOCK_BYTES, EntryRecord, GroupHeader, HeaderFault, SECTOR_BYTES, VERSION, is_blank};
use crate::StorageError;

const WINDOW_BYTES: u64 = 1 << 20;
/// Replaces bytes that the device can't read. Sectors of it are neither blank nor part of anything
/// intact.
const UNREADABLE: u8 = 0xee;

/// A segment file, part of which is in memory.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    pub path: String,
    pub bytes: u64,
    start: u64,
    content: Vec<u8>,
}

impl<'a> Window<'a> {
    pub fn new(file: &'a dyn DiskFile, path: String) -> Result<Self, StorageError> {
        let bytes = file.size().map_err(|e| failure("opening a segment", path.clone(), e))?;
        Ok(Window { file, path, bytes, start: 0, content: Vec::new() })
    }

    /// The bytes at `offset`, which must lie within the file.
    pub fn get(&mut self, offset: u64, length: u64) -> &[u8] {
        assert!(offset + length <= self.bytes, "reading beyond the end of {}", self.path);
        let held = self.start..self.start + self.content.len() as u64;
        if offset < held.start || offset + length > held.end {
            self.start = offset;
            self.content.resize(length.max(WINDOW_BYTES).min(self.bytes - offset) as usize, 0);
            if self.file.read_at(&mut self.content, offset).is_err() {
                self.read_sectors();
            }
        }
        let at = (offset - self.start) as usize;
        &self.content[at..at + length as usize]
    }

    fn read_sectors(&mut self) {
        let mut at = self.start;
        for sector in self.content.chunks_mut(SECTOR_BYTES) {
            if let Err(error) = self.file.read_at(sector, at) {
                tracing::error!(path = self.path, offset = at, %error, "cannot read the log. Check the disk");
                sector.fill(UNREADABLE);
            }
            at += sector.len() as u64;
        }
    }

    /// The group header at `offset`. A rest of the file that is too short for one is blank or
    /// damaged.
    pub fn header(&mut self, offset: u64) -> Result<Result<GroupHeader, HeaderFault>, StorageError> {
        if offset + SECTOR_BYTES as u64 > self.bytes {
            let is_blank = offset >= self.bytes || self.is_blank(offset..self.bytes);
            return Ok(Err(if is_blank { HeaderFault::Blank } else { HeaderFault::Damaged }));
        }
        match GroupHeader::decode(self.get(offset, SECTOR_BYTES as u64)) {
            Err(HeaderFault::Version(found)) => {
                Err(StorageError::Version { path: self.path.clone(), found, known: VERSION })
            }
            header => Ok(header),
        }
    }

    /// All headers at or after `offset` that `accept` returns true for, with their offsets.
    pub fn headers(
        &mut self,
        offset: u64,
        accept: impl Fn(&GroupHeader) -> bool,
    ) -> Result<Vec<(u64, GroupHeader)>, StorageError> {
        let mut found = Vec::new();
        for at in (offset..self.bytes).step_by(BLOCK_BYTES as usize) {
            if let Ok(header) = self.header(at)?
                && accept(&header)
            {
                found.push((at, header));
            }
        }
        Ok(found)
    }

    /// Whether all bytes of this range are zero, as if nothing was ever written there. The range
    /// begins at a block.
    pub fn is_blank(&mut self, range: Range<u64>) -> bool {
        let mut blocks = range.clone().step_by(BLOCK_BYTES as usize);
        blocks.all(|at| is_blank(self.get(at, BLOCK_BYTES.min(range.end - at))))
    }

    /// Whether the bytes at `offset` match the entry's checksum.
    pub fn matches(&mut self, offset: u64, entry: &EntryRecord) -> bool {
        crc32c::crc32c(self.get(offset, u64::from(entry.length))) == entry.crc
    }
}
