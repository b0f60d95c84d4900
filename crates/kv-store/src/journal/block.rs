//! Blocks: the effects of the versions of one batch, as bytes.
//!
//! ```text
//! block    checksum of the rest (8) | bytes after this header (4) | versions (4) | first version (8) | time of the last (8)
//!          | the versions
//! version  replicated time in µs (8) | bytes of its effects (4) | its effects
//! effect   kind (1) | length of a (4) | length of b (4) | a | b
//! kind     1: a key set to a value, 2: a key deleted, 3: a range cleared, 4: a range cleared with its family
//! ```
//! Numbers are little-endian. Keys and the ends of ranges are encoded as in the data table, without
//! a version. The bytes of a version depend on the log alone, and are the same on all replicas;
//! which versions share a block is not.

use bytes::Bytes;
use kv_api::{ClearCause, Effect, FamilyEffect, KvError};
use xxhash_rust::xxh3::xxh3_64;

use super::summary::Summary;
use crate::key_codec;

pub(super) const HEADER_BYTES: usize = 32;
const VERSION_HEADER_BYTES: usize = 12;

const SET: u8 = 1;
const DELETE: u8 = 2;
const CLEAR: u8 = 3;
const DROP: u8 = 4;

/// The effects of the batch that is being decided. Its memory is used again for the next batch.
pub(crate) struct Effects {
    is_recorded: bool,
    /// Room for the header, then the versions so far.
    bytes: Vec<u8>,
    first: u64,
    versions: u32,
    /// Where the newest version begins.
    newest_at: usize,
    time_us: u64,
    summary: Summary,
}

/// A larger buffer is freed instead of kept.
const MAX_KEPT_BYTES: usize = 16 << 20;

impl Effects {
    /// `is_recorded`: whether there is a journal to write them to.
    pub fn new(is_recorded: bool) -> Self {
        Effects {
            is_recorded,
            bytes: Vec::new(),
            first: 0,
            versions: 0,
            newest_at: 0,
            time_us: 0,
            summary: Summary::default(),
        }
    }

    /// Forgets everything: a new batch begins.
    pub fn clear(&mut self) {
        if self.versions == 0 {
            return;
        }
        if self.bytes.capacity() > MAX_KEPT_BYTES {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.versions = 0;
        self.summary.clear();
    }

    /// Begins the next version. Its effects follow.
    pub fn begin(&mut self, version: u64, time_us: u64) {
        if !self.is_recorded {
            return;
        }
        if self.versions == 0 {
            self.bytes.resize(HEADER_BYTES, 0);
            self.first = version;
        } else {
            self.end_version();
        }
        assert_eq!(version, self.first + u64::from(self.versions), "a version was left out of the journal");
        self.versions += 1;
        self.time_us = time_us;
        self.newest_at = self.bytes.len();
        self.bytes.extend_from_slice(&time_us.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    /// The key with this prefix gets a value, or loses it. `hash`: of the prefix.
    pub fn write(&mut self, prefix: &[u8], hash: u64, value: Option<&[u8]>) {
        if self.is_recorded {
            self.push(if value.is_some() { SET } else { DELETE }, prefix, value.unwrap_or_default());
            self.summary.add_key(prefix, hash);
        }
    }

    /// The prefixes `begin <= prefix < end` are cleared.
    pub fn clear_range(&mut self, begin: &[u8], end: &[u8], cause: ClearCause) {
        if self.is_recorded {
            let kind = match cause {
                ClearCause::Transaction => CLEAR,
                ClearCause::FamilyDropped => DROP,
            };
            self.push(kind, begin, end);
            self.summary.add_range(begin, end);
        }
    }

    fn push(&mut self, kind: u8, a: &[u8], b: &[u8]) {
        assert!(self.versions > 0, "an effect belongs to a version");
        let length =
            |part: &[u8]| u32::try_from(part.len()).expect("limits keep keys and values shorter").to_le_bytes();
        self.bytes.reserve(9 + a.len() + b.len());
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&length(a));
        self.bytes.extend_from_slice(&length(b));
        self.bytes.extend_from_slice(a);
        self.bytes.extend_from_slice(b);
    }

    fn end_version(&mut self) {
        let effects = self.bytes.len() - self.newest_at - VERSION_HEADER_BYTES;
        let length = u32::try_from(effects).expect("limits keep transactions shorter").to_le_bytes();
        self.bytes[self.newest_at + 8..self.newest_at + VERSION_HEADER_BYTES].copy_from_slice(&length);
    }

    /// The block of the batch; `None` if it has no versions.
    pub fn finish(&mut self) -> Option<Block<'_>> {
        if self.versions == 0 {
            return None;
        }
        self.end_version();
        let payload = u32::try_from(self.bytes.len() - HEADER_BYTES).expect("limits keep batches shorter");
        self.bytes[8..12].copy_from_slice(&payload.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&self.versions.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&self.time_us.to_le_bytes());
        let checksum = xxh3_64(&self.bytes[8..]).to_le_bytes();
        self.bytes[..8].copy_from_slice(&checksum);
        Some(Block {
            bytes: &self.bytes,
            first: self.first,
            last: self.first + u64::from(self.versions) - 1,
            time_us: self.time_us,
            summary: &self.summary,
        })
    }
}

/// A complete block that is about to be written.
pub(crate) struct Block<'e> {
    pub bytes: &'e [u8],
    pub first: u64,
    pub last: u64,
    pub time_us: u64,
    pub summary: &'e Summary,
}

/// A block that was read and whose checksum is right.
pub(super) struct ReadBlock<'b> {
    /// Its whole length, with its header.
    pub length: usize,
    pub first: u64,
    pub last: u64,
    pub time_us: u64,
    payload: &'b [u8],
}

impl<'b> ReadBlock<'b> {
    /// The block at the beginning of `bytes`; `None` if there is no whole and sound one.
    pub fn at_start_of(bytes: &'b [u8]) -> Option<ReadBlock<'b>> {
        let header = bytes.get(..HEADER_BYTES)?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let (sizes, first) = (number(8), number(16));
        let length = HEADER_BYTES + (sizes & u64::from(u32::MAX)) as usize;
        let versions = sizes >> 32;
        let block = bytes.get(..length)?;
        if versions == 0 || xxh3_64(&block[8..]) != number(0) {
            return None;
        }
        let last = first.checked_add(versions - 1)?;
        Some(ReadBlock { length, first, last, time_us: number(24), payload: &block[HEADER_BYTES..] })
    }

    /// Its versions, in order.
    pub fn versions(&self) -> impl Iterator<Item = Result<ReadVersion<'b>, KvError>> + use<'b> {
        let (mut version, mut rest) = (self.first, self.payload);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut take = || {
                let (time_us, after) = rest.split_first_chunk::<8>()?;
                let (length, after) = after.split_first_chunk::<4>()?;
                let (effects, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                rest = after;
                version += 1;
                Some(ReadVersion { version: version - 1, time_us: u64::from_le_bytes(*time_us), effects })
            };
            let taken = take().ok_or_else(unreadable);
            if taken.is_err() {
                rest = &[];
            }
            Some(taken)
        })
    }
}

/// A version as it stands in a block.
pub(super) struct ReadVersion<'b> {
    pub version: u64,
    pub time_us: u64,
    effects: &'b [u8],
}

/// An effect as it stands in a block.
#[derive(Clone, Copy)]
pub(super) enum RawEffect<'b> {
    Key { prefix: &'b [u8], value: Option<&'b [u8]> },
    Range { begin: &'b [u8], end: &'b [u8], cause: ClearCause },
}

impl<'b> ReadVersion<'b> {
    /// Its effects, in order.
    pub fn effects(&self) -> impl Iterator<Item = Result<RawEffect<'b>, KvError>> + use<'b> {
        let mut rest = self.effects;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut take = || {
                let (kind, after) = rest.split_first()?;
                let (a_bytes, after) = after.split_first_chunk::<4>()?;
                let (b_bytes, after) = after.split_first_chunk::<4>()?;
                let (a, after) = after.split_at_checked(u32::from_le_bytes(*a_bytes) as usize)?;
                let (b, after) = after.split_at_checked(u32::from_le_bytes(*b_bytes) as usize)?;
                rest = after;
                match *kind {
                    SET => Some(RawEffect::Key { prefix: a, value: Some(b) }),
                    DELETE => Some(RawEffect::Key { prefix: a, value: None }),
                    CLEAR => Some(RawEffect::Range { begin: a, end: b, cause: ClearCause::Transaction }),
                    DROP => Some(RawEffect::Range { begin: a, end: b, cause: ClearCause::FamilyDropped }),
                    _ => None,
                }
            };
            let taken = take().ok_or_else(unreadable);
            if taken.is_err() {
                rest = &[];
            }
            Some(taken)
        })
    }
}

impl RawEffect<'_> {
    /// The bytes that it takes in a reply, about.
    pub fn size_bytes(&self) -> u64 {
        let bytes = match self {
            RawEffect::Key { prefix, value } => prefix.len() + value.map_or(0, <[u8]>::len),
            RawEffect::Range { begin, end, .. } => begin.len() + end.len(),
        };
        bytes as u64 + 16
    }

    /// The effect with its key and family decoded. `with_value`: otherwise values are left empty.
    pub fn decode(&self, with_value: bool) -> Result<FamilyEffect, KvError> {
        let (family, effect) = match *self {
            RawEffect::Key { prefix, value } => {
                let key = key_codec::user_key(prefix)?;
                let effect = match value {
                    Some(value) if with_value => Effect::Set { key, value: Bytes::copy_from_slice(value) },
                    Some(_) => Effect::Set { key, value: Bytes::new() },
                    None => Effect::Delete { key },
                };
                (key_codec::family(prefix)?, effect)
            }
            RawEffect::Range { begin, end, cause } => {
                let family = key_codec::family(begin)?;
                let end = (end != key_codec::family_end(family)).then(|| key_codec::user_key(end)).transpose()?;
                (family, Effect::Clear { begin: key_codec::user_key(begin)?, end, cause })
            }
        };
        Ok(FamilyEffect { column_family: family.to_owned(), effect })
    }
}

fn unreadable() -> KvError {
    KvError::Corruption("the change journal: a block with the right checksum cannot be read".into())
}
