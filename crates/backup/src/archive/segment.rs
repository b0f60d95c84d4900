//! A segment as bytes.
//!
//! ```text
//! object  = SKVBSEG1 | bytes of the header (u32) | header (JSON) | frame…
//! frame   = stored bytes (u32) | bytes (u32) | stored
//! stored  = zstd(changes), or with encryption AES-256-GCM(zstd(changes)), bound to the header
//! change  = version (u64) | replicated time in µs (u64) | time of day in ms (i64) | effects (u32) | effect…
//! effect  = kind (u8) | family (u32, bytes) | a (u32, bytes) | b (u32, bytes)
//! kind      1: a set to b, 2: a deleted, 3: a up to, not including, b cleared, 4: a up to the end of the family cleared;
//!           5 and 6: as 3 and 4, because the family was dropped
//! ```
//! Numbers are little-endian. The header holds no key and no name of a family.

use bytes::{Buf, Bytes};
use kv_api::{Change, ClearCause, Effect, FamilyEffect, Version};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::manifest::{Encryption, rfc3339};
use crate::seal::{DataKey, Keys};
use crate::{BackupError, FORMAT};

const MAGIC: &[u8; 8] = b"SKVBSEG1";
const ZSTD_LEVEL: i32 = 3;
/// Changes of a frame have about this many bytes, unless one version has more.
pub(super) const FRAME_BYTES: usize = 4 << 20;
/// A header is some hundred bytes, and more with many `age` recipients.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// No transaction has more.
const MAX_FRAME_BYTES: usize = 1 << 30;
/// The number of the only object under the key of a segment.
const OBJECT: u32 = 1;

const SET: u8 = 1;
const DELETE: u8 = 2;
const CLEAR: u8 = 3;
const CLEAR_TO_END: u8 = 4;
const DROP: u8 = 5;
const DROP_TO_END: u8 = 6;

/// The public part of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// The number of the format.
    pub format: u32,
    /// The id of the segment.
    pub segment: String,
    /// The version of the program that made it.
    pub program: String,
    /// The cluster; `None`: a standalone server.
    pub cluster_id: Option<String>,
    /// The first version.
    pub first: u64,
    /// The last version.
    pub last: u64,
    /// The BLAKE3 hash of the segment before, in hexadecimal; `None`: it begins a chain.
    pub previous: Option<String>,
    /// The number of the archiver's claim.
    pub epoch: u64,
    /// The archiver.
    pub archiver: String,
    /// Versions that changed something.
    pub changes: u64,
    /// When the first of them was committed, by the clock of the archiver's machine.
    #[serde(with = "rfc3339")]
    pub begin_time: OffsetDateTime,
    /// When the last version was committed, or was seen if it changed nothing.
    #[serde(with = "rfc3339")]
    pub end_time: OffsetDateTime,
    /// Replicated time of the newest change so far, in microseconds.
    pub log_time_us: u64,
    /// Frames in the object.
    pub frames: u32,
    /// Bytes of the changes.
    pub change_bytes: u64,
    /// The key, if it is encrypted.
    pub encryption: Option<Encryption>,
}

/// Appends a change.
pub(super) fn encode(change: &Change, time: OffsetDateTime, into: &mut Vec<u8>) {
    let length =
        |length: usize| u32::try_from(length).expect("servers keep transactions far below 4 GiB").to_le_bytes();
    into.extend_from_slice(&change.version.0.to_le_bytes());
    into.extend_from_slice(&change.time_us.to_le_bytes());
    into.extend_from_slice(&unix_ms(time).to_le_bytes());
    into.extend_from_slice(&length(change.effects.len()));
    for FamilyEffect { column_family, effect } in &change.effects {
        let (kind, a, b): (u8, &[u8], &[u8]) = match effect {
            Effect::Set { key, value } => (SET, key, value),
            Effect::Delete { key } => (DELETE, key, &[]),
            Effect::Clear { begin, end, cause } => {
                let kind = match (cause, end) {
                    (ClearCause::Transaction, Some(_)) => CLEAR,
                    (ClearCause::Transaction, None) => CLEAR_TO_END,
                    (ClearCause::FamilyDropped, Some(_)) => DROP,
                    (ClearCause::FamilyDropped, None) => DROP_TO_END,
                };
                (kind, begin, end.as_deref().unwrap_or_default())
            }
        };
        into.push(kind);
        for part in [column_family.as_bytes(), a, b] {
            into.extend_from_slice(&length(part.len()));
            into.extend_from_slice(part);
        }
    }
}

/// Takes a change off the beginning of `rest`, with its time of day.
fn decode(rest: &mut Bytes) -> Option<(Change, OffsetDateTime)> {
    if rest.len() < 28 {
        return None;
    }
    let (version, time_us, time_ms, count) =
        (rest.get_u64_le(), rest.get_u64_le(), rest.get_i64_le(), rest.get_u32_le());
    let mut effects = Vec::with_capacity((count as usize).min(1024));
    for _ in 0..count {
        if rest.is_empty() {
            return None;
        }
        let kind = rest.get_u8();
        let mut part = || {
            let length = rest.get(..4)?.try_into().ok().map(u32::from_le_bytes)? as usize;
            rest.advance(4);
            (length <= rest.len()).then(|| rest.split_to(length))
        };
        let (family, a, b) = (part()?, part()?, part()?);
        let clear = |begin, end, cause| Effect::Clear { begin, end, cause };
        let effect = match kind {
            SET => Effect::Set { key: a, value: b },
            DELETE => Effect::Delete { key: a },
            CLEAR => clear(a, Some(b), ClearCause::Transaction),
            CLEAR_TO_END => clear(a, None, ClearCause::Transaction),
            DROP => clear(a, Some(b), ClearCause::FamilyDropped),
            DROP_TO_END => clear(a, None, ClearCause::FamilyDropped),
            _ => return None,
        };
        effects.push(FamilyEffect { column_family: String::from_utf8(family.to_vec()).ok()?, effect });
    }
    Some((Change { version: Version(version), time_us, effects }, from_unix_ms(time_ms)?))
}

pub(super) fn unix_ms(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).expect("the years of this type fit")
}

pub(super) fn from_unix_ms(ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
}

/// The bytes of a segment. Takes its time: not for the thread of an event loop.
pub(super) fn build(info: &SegmentInfo, frames: &[Vec<u8>], key: Option<&DataKey>) -> Bytes {
    let length = |length: usize| u32::try_from(length).expect("it is far below 4 GiB").to_le_bytes();
    let header = serde_json::to_vec(info).expect("plain fields always serialize");
    let mut object = MAGIC.to_vec();
    object.extend_from_slice(&length(header.len()));
    object.extend_from_slice(&header);
    for (number, frame) in (0..).zip(frames) {
        let mut stored = zstd::bulk::compress(frame, ZSTD_LEVEL).expect("bytes in memory can be compressed");
        if let Some(key) = key {
            key.seal(OBJECT, number, &header, &mut stored);
        }
        object.extend_from_slice(&length(stored.len()));
        object.extend_from_slice(&length(frame.len()));
        object.extend_from_slice(&stored);
    }
    object.into()
}

/// Takes the header off a segment; its bytes come with it.
pub(super) fn header(name: &str, object: &mut Bytes) -> Result<(SegmentInfo, Bytes), BackupError> {
    let damaged = |reason: &str| BackupError::damaged(name, reason);
    if !object.starts_with(MAGIC) || object.len() < MAGIC.len() + 4 {
        return Err(damaged("it does not begin as a segment does"));
    }
    object.advance(MAGIC.len());
    let length = object.get_u32_le() as usize;
    if length > MAX_HEADER_BYTES || length > object.len() {
        return Err(damaged("it ends before its header does"));
    }
    let text = object.split_to(length);
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |error: serde_json::Error| BackupError::damaged(name, format!("its header: {error}"));
    // The format first: a newer one may have other fields.
    let Format { format } = serde_json::from_slice(&text).map_err(unreadable)?;
    if format != FORMAT {
        return Err(BackupError::Refused(format!(
            "{name} has format {format}, and this program reads format {FORMAT}: use a newer program"
        )));
    }
    Ok((serde_json::from_slice(&text).map_err(unreadable)?, text))
}

/// The key of a segment, if it has one.
pub(super) fn unlock(info: &SegmentInfo, keys: &Keys) -> Result<Option<DataKey>, BackupError> {
    let open = |encryption: &Encryption| DataKey::open(&encryption.key, keys, &info.segment);
    info.encryption.as_ref().map(open).transpose()
}

/// Visits the changes of a segment whose header was taken off. Blocks.
pub(super) fn changes<E: From<BackupError>>(
    name: &str,
    (info, header): &(SegmentInfo, Bytes),
    mut rest: Bytes,
    key: Option<&DataKey>,
    mut visit: impl FnMut(Change, OffsetDateTime) -> Result<(), E>,
) -> Result<(), E> {
    let damaged = |reason: String| BackupError::damaged(name, reason);
    let (mut count, mut bytes, mut last) = (0, 0, None);
    for frame in 0..info.frames {
        let mut frame_changes = read_frame(&mut rest, frame, header, key).map_err(damaged)?;
        bytes += frame_changes.len() as u64;
        while !frame_changes.is_empty() {
            let (change, time) =
                decode(&mut frame_changes).ok_or_else(|| damaged(format!("frame {frame} ends within a change")))?;
            let version = change.version.0;
            if !(info.first..=info.last).contains(&version) || last.is_some_and(|last| last >= version) {
                return Err(damaged(format!("version {version} is not in its place")).into());
            }
            last = Some(version);
            count += 1;
            visit(change, time)?;
        }
    }
    if (count, bytes, rest.len()) != (info.changes, info.change_bytes, 0) {
        return Err(damaged(format!(
            "it holds {count} changes in {bytes} bytes and {} more bytes, instead of {} changes in {} bytes",
            rest.len(),
            info.changes,
            info.change_bytes
        ))
        .into());
    }
    Ok(())
}

fn read_frame(rest: &mut Bytes, frame: u32, header: &[u8], key: Option<&DataKey>) -> Result<Bytes, String> {
    let cut = || format!("it ends before frame {frame}");
    if rest.len() < 8 {
        return Err(cut());
    }
    let (stored, bytes) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
    if rest.len() < stored {
        return Err(cut());
    }
    if bytes > MAX_FRAME_BYTES {
        return Err(format!("frame {frame} claims {bytes} bytes"));
    }
    let stored = rest.split_to(stored);
    let opened = match key {
        Some(key) => key
            .unseal(OBJECT, frame, header, &stored)
            .ok_or_else(|| format!("frame {frame} cannot be decrypted: it was changed, or is not that frame"))?,
        None => stored.to_vec(),
    };
    let changes = zstd::bulk::decompress(&opened, bytes)
        .map_err(|error| format!("frame {frame} cannot be decompressed: {error}"))?;
    if changes.len() != bytes {
        return Err(format!("frame {frame} has {} bytes, and claims {bytes}", changes.len()));
    }
    Ok(changes.into())
}
