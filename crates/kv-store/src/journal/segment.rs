//! One file of the journal, and the index of its content.
//!
//! ```text
//! file   "SYNOCHG1" (8) | the version before its first one (8) | checksum of both (8) | blocks
//! ```

use std::io;
use std::sync::Arc;

use kv_api::KvError;
use xxhash_rust::xxh3::xxh3_64;

use super::block::{RawEffect, ReadBlock};
use super::files::{JournalFile, JournalPlace};
use super::summary::{Summary, hash_of};

const MAGIC: &[u8; 8] = b"SYNOCHG1";
pub(super) const FILE_HEADER_BYTES: u64 = 24;

/// Blocks are summarised together up to this many bytes.
const CHUNK_BYTES: u64 = 64 << 10;

/// Adjacent blocks of a file.
pub(super) struct Chunk {
    pub offset: u64,
    pub end: u64,
    /// The last version in it.
    pub last: u64,
    pub summary: Summary,
}

pub(super) struct Segment {
    /// The version before the first one in it; also the name of the file.
    pub after: u64,
    /// The last version in it; `after` while it has none.
    pub last: u64,
    /// Replicated time of the first and of the last version.
    pub first_us: u64,
    pub last_us: u64,
    pub length: u64,
    pub file: Arc<dyn JournalFile>,
    pub chunks: Vec<Chunk>,
}

/// The content of a file.
pub(super) enum Found {
    /// Whole blocks that follow each other, up to the version that was asked for.
    Segment(Segment),
    /// Nothing that can be used.
    Nothing,
}

impl Segment {
    pub fn create(place: &dyn JournalPlace, after: u64) -> io::Result<Segment> {
        let file = place.create(after)?;
        file.append(0, &header(after))?;
        Ok(Segment::empty(after, file))
    }

    fn empty(after: u64, file: Arc<dyn JournalFile>) -> Segment {
        Segment { after, last: after, first_us: 0, last_us: 0, length: FILE_HEADER_BYTES, file, chunks: Vec::new() }
    }

    /// Reads a file up to its end, to the first block that is not sound, or to the end of version
    /// `upto`. The rest is cut off, durably: none of it may ever be read again.
    pub fn recover(place: &dyn JournalPlace, name: u64, upto: u64) -> io::Result<Found> {
        let file = place.open(name)?;
        let length = file.length()?;
        let content = file.read(0, usize::try_from(length).map_err(io::Error::other)?)?;
        if content.get(..FILE_HEADER_BYTES as usize) != Some(&header(name)) {
            return Ok(Found::Nothing);
        }
        let mut segment = Segment::empty(name, file);
        let mut rest = &content[FILE_HEADER_BYTES as usize..];
        while let Some(block) = ReadBlock::at_start_of(rest) {
            if block.first != segment.last + 1 || block.last > upto {
                break;
            }
            let Ok(summary) = summary_of(&block) else { break };
            segment.note(block.length as u64, block.last, block.time_us, &summary);
            rest = &rest[block.length..];
        }
        if segment.length < length {
            segment.file.truncate(segment.length)?;
            segment.file.sync()?;
        }
        Ok(Found::Segment(segment))
    }

    /// Notes a block at the end.
    pub fn note(&mut self, bytes: u64, last: u64, time_us: u64, summary: &Summary) {
        let (offset, end) = (self.length, self.length + bytes);
        if self.last == self.after {
            self.first_us = time_us;
        }
        (self.length, self.last, self.last_us) = (end, last, time_us);
        match self.chunks.last_mut().filter(|chunk| end - chunk.offset <= CHUNK_BYTES) {
            Some(chunk) => {
                (chunk.end, chunk.last) = (end, last);
                chunk.summary.merge(summary);
            }
            None => self.chunks.push(Chunk { offset, end, last, summary: summary.clone() }),
        }
    }
}

fn header(after: u64) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut header = [0; FILE_HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&after.to_le_bytes());
    let checksum = xxh3_64(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn summary_of(block: &ReadBlock<'_>) -> Result<Summary, KvError> {
    let mut summary = Summary::default();
    for version in block.versions() {
        for effect in version?.effects() {
            match effect? {
                RawEffect::Key { prefix, .. } => summary.add_key(prefix, hash_of(prefix)),
                RawEffect::Range { begin, end, .. } => summary.add_range(begin, end),
            }
        }
    }
    Ok(summary)
}
