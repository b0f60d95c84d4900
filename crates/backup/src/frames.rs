//! The objects that hold rows.
//!
//! ```text
//! object = SKVBCHK1 | frame…
//! frame  = stored bytes (u32) | row bytes (u32) | stored
//! stored = zstd(rows), or with encryption AES-256-GCM(zstd(rows))
//! row    = key bytes (u32) | key | value bytes (u32) | value
//! ```
//! Numbers are little-endian. Rows ascend by key, within a frame and over all frames of an object.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::Xxh3;

use crate::BackupError;
use crate::manifest::ChunkInfo;
use crate::seal::DataKey;

/// Rows of a frame have at most this many bytes, unless one row is larger.
pub const MAX_FRAME_BYTES: usize = 8 << 20;
/// An object has at most this many bytes, unless one row is larger.
pub const MAX_OBJECT_BYTES: usize = 64 << 20;
/// Rows of an object have at most about this many bytes, so that whoever reads it knows what it
/// needs, however well they were compressed.
pub(crate) const MAX_CHUNK_ROW_BYTES: u64 = 256 << 20;
/// No row has more: servers allow keys and values of some megabytes.
const MAX_ROW_BYTES: usize = 1 << 30;

const MAGIC: &[u8; 8] = b"SKVBCHK1";
/// A good ratio at a speed above that of most disks and networks.
const ZSTD_LEVEL: i32 = 3;

/// An object under construction, from rows of one family.
pub(crate) struct ChunkBuilder {
    object: Vec<u8>,
    info: ChunkInfo,
    hash: Box<Xxh3>,
    /// Rows of the frame that is not compressed yet.
    rows: Vec<u8>,
}

impl ChunkBuilder {
    pub fn new(object: u32, family: &str) -> ChunkBuilder {
        ChunkBuilder {
            object: MAGIC.to_vec(),
            info: ChunkInfo { object, family: family.to_string(), ..ChunkInfo::default() },
            hash: Box::new(Xxh3::new()),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Returns whether the frame is full, and [`Self::end_frame`] due.
    ///
    /// # Panics
    /// If the key does not ascend.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.info.rows == 0 {
            self.info.first_key = Bytes::copy_from_slice(key);
        } else {
            assert!(self.info.last_key < key, "rows of a backup ascend by their keys");
        }
        // Once a frame would do; but the key is short.
        self.info.last_key = Bytes::copy_from_slice(key);
        self.info.rows += 1;
        self.info.row_bytes += (key.len() + value.len()) as u64;
        for part in [key, value] {
            let length = u32::try_from(part.len()).expect("servers refuse keys and values of 4 GiB");
            self.hash.update(&u64::from(length).to_le_bytes());
            self.hash.update(part);
            self.rows.extend_from_slice(&length.to_le_bytes());
            self.rows.extend_from_slice(part);
        }
        // The next row must fit, too; only one that is large by itself does not.
        self.rows.len() >= MAX_FRAME_BYTES - MAX_FRAME_BYTES / 8
    }

    /// Compresses and seals the frame. Takes its time: not for the thread of an event loop.
    pub fn end_frame(&mut self, key: Option<&Arc<DataKey>>) {
        if self.rows.is_empty() {
            return;
        }
        let mut stored = zstd::bulk::compress(&self.rows, ZSTD_LEVEL).expect("rows in memory can be compressed");
        if let Some(key) = key {
            key.seal(self.info.object, self.info.frames, b"", &mut stored);
        }
        let length = |length: usize| u32::try_from(length).expect("a frame is far below 4 GiB").to_le_bytes();
        self.object.extend_from_slice(&length(stored.len()));
        self.object.extend_from_slice(&length(self.rows.len()));
        self.object.extend_from_slice(&stored);
        self.info.frames += 1;
        self.rows.clear();
    }

    /// Whether the object has room for no further frame.
    pub fn is_full(&self) -> bool {
        self.object.len() + MAX_FRAME_BYTES + MAX_FRAME_BYTES / 8 > MAX_OBJECT_BYTES
            || self.info.row_bytes >= MAX_CHUNK_ROW_BYTES
    }

    /// The object and its description, once its last frame has ended.
    pub fn finish(mut self) -> (Bytes, ChunkInfo) {
        assert!(self.rows.is_empty(), "the last frame of an object has ended");
        self.info.hash = self.hash.digest();
        (self.object.into(), self.info)
    }
}

/// Reads the rows of an object, and compares them with their description. `visit` returns whether
/// it wants more. Blocks.
pub(crate) fn read_rows<E: From<BackupError>>(
    name: &str,
    object: Bytes,
    info: &ChunkInfo,
    key: Option<&DataKey>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let damaged = |reason: String| BackupError::damaged(name, reason);
    let mut rest = object;
    if !rest.starts_with(MAGIC) {
        return Err(damaged("it does not begin as an object of rows does".to_string()).into());
    }
    rest.advance(MAGIC.len());
    let mut hash = Xxh3::new();
    let (mut rows, mut last) = (0_u64, Vec::new());
    for frame in 0..info.frames {
        let frame_rows = read_frame(&mut rest, frame, info, key).map_err(damaged)?;
        let mut row = &frame_rows[..];
        while !row.is_empty() {
            let (key, value) = read_row(&mut row).ok_or_else(|| damaged(format!("frame {frame} ends within a row")))?;
            if (rows > 0 && key <= last.as_slice()) || (rows == 0 && key != info.first_key) {
                return Err(damaged(format!("row {rows} is not in its place")).into());
            }
            for part in [key, value] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            last.clear();
            last.extend_from_slice(key);
            rows += 1;
            visit(key, value)?;
        }
    }
    let found = (rows, hash.digest(), rest.len());
    if found != (info.rows, info.hash, 0) || (rows > 0 && last != info.last_key) {
        return Err(damaged(format!(
            "it holds {} rows of hash {:016x} and {} more bytes, instead of {} rows of hash {:016x}",
            found.0, found.1, found.2, info.rows, info.hash
        ))
        .into());
    }
    Ok(())
}

fn read_frame(rest: &mut Bytes, frame: u32, info: &ChunkInfo, key: Option<&DataKey>) -> Result<Vec<u8>, String> {
    let cut = || format!("it ends before frame {frame}");
    if rest.len() < 8 {
        return Err(cut());
    }
    let (stored, row_bytes) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
    if rest.len() < stored {
        return Err(cut());
    }
    if row_bytes > MAX_ROW_BYTES {
        return Err(format!("frame {frame} claims {row_bytes} bytes of rows"));
    }
    let stored = rest.split_to(stored);
    let opened = match key {
        Some(key) => key
            .unseal(info.object, frame, b"", &stored)
            .ok_or_else(|| format!("frame {frame} cannot be decrypted: it was changed, or is not that frame"))?,
        None => stored.to_vec(),
    };
    let rows = zstd::bulk::decompress(&opened, row_bytes)
        .map_err(|error| format!("frame {frame} cannot be decompressed: {error}"))?;
    if rows.len() != row_bytes {
        return Err(format!("frame {frame} has {} bytes of rows, and claims {row_bytes}", rows.len()));
    }
    Ok(rows)
}

/// Takes a row off the beginning of `rest`.
fn read_row<'r>(rest: &mut &'r [u8]) -> Option<(&'r [u8], &'r [u8])> {
    let mut part = || {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (part, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *rest = behind;
        Some(part)
    };
    Some((part()?, part()?))
}
