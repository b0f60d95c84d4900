//! The meta table: records about the database itself.
//!
//! | key | value |
//! |---|---|
//! | `format` | number of this layout (u32, big-endian) |
//! | `level` | the feature level (u32, big-endian); absent: the first |
//! | `state` | newest commit version, number of rows, replicated time in µs, oldest readable version (u64 each, big-endian); format 1: the first two |
//! | `policy` | users, roles and tokens, in the encoding of [`Policy`]; absent: none |
//! | `marks` | the time samples of the readable window |
//! | `blob` | sequence (u64, big-endian), then the state of the replication layer |
//! | `family/NAME` | empty: the family NAME exists; a version (u64, big-endian): it was dropped then |
//! | `once/ID` | the idempotency record of the commit with this id |
//!
//! Each is written in the batch of the data that it describes.
//!
//! On a replica, `level` repeats what the state of the replication layer says: the two are written
//! together, and compared when the replica starts. With the first level above 1 the format becomes
//! 3, so that programs which know of no levels refuse the database.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::{Buf, Bytes};
use kv_api::access::Policy;
use kv_api::{KvError, Version};

use crate::engine::{Engine, EngineCopy, StoppedMeta, Table, WriteBatch};
use crate::gc::window::Window;

const FORMAT_KEY: &[u8] = b"format";
const LEVEL_KEY: &[u8] = b"level";
const STATE_KEY: &[u8] = b"state";
const POLICY_KEY: &[u8] = b"policy";
const SAMPLES_KEY: &[u8] = b"marks";
const BLOB_KEY: &[u8] = b"blob";
const IDEMPOTENCY_PREFIX: &[u8] = b"once/";
/// Sorts after every key with [`IDEMPOTENCY_PREFIX`].
const IDEMPOTENCY_END: &[u8] = b"once0";
const FAMILY_PREFIX: &[u8] = b"family/";
/// Sorts after every key with [`FAMILY_PREFIX`].
const FAMILY_END: &[u8] = b"family0";

/// The layout that this code writes. It also reads the one before.
const FORMAT: u32 = 2;
const OLDEST_FORMAT: u32 = 1;
/// The same layout at a feature level above the first.
const LEVELLED_FORMAT: u32 = 3;

/// The level of a database without a record of it.
pub(crate) const FIRST_LEVEL: u32 = 1;

/// Counters of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Version of the newest commit.
    pub version: u64,
    /// Rows visible at that version, plus those that a range clear hides and the garbage collector
    /// has not removed yet.
    pub rows: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { version: Version::EMPTY.0, rows: 0 }
    }
}

/// The record that the replication layer stores with the data: how far the log is applied, and its own
/// state at that point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateBlob {
    /// The last applied sequence.
    pub sequence: u64,
    /// The replication layer's state, in its own encoding.
    pub blob: Bytes,
}

/// The records of a database that no process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecords {
    /// The feature level.
    pub level: u32,
    /// Version of the newest commit.
    pub version: Version,
    /// The oldest version that can be read.
    pub oldest_readable: Version,
    /// Rows, including those that a range clear hides and that are not collected yet.
    pub rows: u64,
    /// Replicated time of the last write, in microseconds.
    pub time_us: u64,
    /// The record of the replication layer; `None` before its first batch.
    pub state: Option<StateBlob>,
}

impl StoredRecords {
    /// Reads the records of the database in the folder `path`, and changes nothing there. A record
    /// that is missing has its first value.
    ///
    /// # Errors
    /// [`KvError::Corruption`] if it is damaged, or there is none; [`KvError::NotSupported`] in a
    /// build without RocksDB; else those of the storage.
    pub fn read(path: &Path) -> Result<StoredRecords, KvError> {
        let meta = StoppedMeta::open(path)?;
        let get = |key| meta.get(key);
        let (counters, time_us, oldest_readable) =
            get(STATE_KEY)?.map_or(Ok((Counters::default(), 0, 0)), decode_state)?;
        Ok(StoredRecords {
            level: get(LEVEL_KEY)?.map_or(Ok(FIRST_LEVEL), decode_level)?,
            version: Version(counters.version),
            oldest_readable: Version(oldest_readable),
            rows: counters.rows,
            time_us,
            state: get(BLOB_KEY)?.map(decode_blob).transpose()?,
        })
    }
}

/// Whether a family exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FamilyState {
    /// It can be used.
    Exists,
    /// Dropped by the commit of this version.
    Dropped(u64),
}

/// Writes the number of the layout into an empty database or one of the older layout; refuses any
/// other number.
pub(crate) fn claim_format(engine: &dyn Engine) -> Result<(), KvError> {
    let claim = || {
        let mut batch = WriteBatch::new();
        put_format(&mut batch);
        engine.write(&batch)
    };
    let Some(stored) = engine.get(Table::Meta, FORMAT_KEY)? else {
        return claim();
    };
    match <[u8; 4]>::try_from(stored.as_ref()).map(u32::from_be_bytes) {
        Ok(FORMAT | LEVELLED_FORMAT) => Ok(()),
        // The new layout only adds records, and their absence has the meaning it had in the old
        // one.
        Ok(OLDEST_FORMAT) => claim(),
        Ok(other) => Err(KvError::Storage(format!(
            "the database has format {other}; this version of the program reads formats {OLDEST_FORMAT} to {LEVELLED_FORMAT}"
        ))),
        Err(_) => Err(damaged("format", stored.len())),
    }
}

/// Records the layout of a database at the first feature level.
pub(crate) fn put_format(batch: &mut WriteBatch) {
    batch.put(Table::Meta, FORMAT_KEY, &FORMAT.to_be_bytes());
}

/// The feature level, which must be at most `highest`: the records of a higher one may mean
/// something else.
pub(crate) fn load_level(engine: &dyn Engine, highest: u32) -> Result<u32, KvError> {
    let level = match engine.get(Table::Meta, LEVEL_KEY)? {
        None => FIRST_LEVEL,
        Some(stored) => decode_level(stored)?,
    };
    let format = engine.get(Table::Meta, FORMAT_KEY)?;
    let is_levelled = format.as_deref() == Some(&LEVELLED_FORMAT.to_be_bytes());
    if is_levelled != (level > FIRST_LEVEL) {
        return Err(KvError::Corruption(format!(
            "its records contradict each other: feature level {level}, format {format:?}"
        )));
    }
    if level > highest {
        return Err(KvError::Storage(format!(
            "its data is at feature level {level}, and this program executes levels {FIRST_LEVEL} to {highest}: start a \
             release that executes level {level}"
        )));
    }
    Ok(level)
}

fn decode_level(stored: Bytes) -> Result<u32, KvError> {
    let level = stored.as_ref().try_into().map_err(|_| damaged("level", stored.len()))?;
    Ok(u32::from_be_bytes(level))
}

/// Records a level above the first.
pub(crate) fn put_level(batch: &mut WriteBatch, level: u32) {
    batch.put(Table::Meta, LEVEL_KEY, &level.to_be_bytes());
    batch.put(Table::Meta, FORMAT_KEY, &LEVELLED_FORMAT.to_be_bytes());
}

/// Users, roles and tokens.
pub(crate) fn load_policy(engine: &dyn Engine) -> Result<Policy, KvError> {
    let Some(stored) = engine.get(Table::Meta, POLICY_KEY)? else { return Ok(Policy::default()) };
    let length = stored.len();
    Policy::from_bytes(stored).map_err(|_| damaged("policy", length))
}

pub(crate) fn put_policy(batch: &mut WriteBatch, policy: &Policy) {
    batch.put(Table::Meta, POLICY_KEY, &policy.to_bytes());
}

pub(crate) fn load_counters(engine: &dyn Engine) -> Result<(Counters, Window), KvError> {
    let Some(stored) = engine.get(Table::Meta, STATE_KEY)? else {
        return Ok((Counters::default(), Window::default()));
    };
    let (counters, time_us, oldest_readable) = decode_state(stored)?;
    let samples = engine.get(Table::Meta, SAMPLES_KEY)?.unwrap_or_default();
    let window = Window::new(time_us, oldest_readable, &samples).ok_or_else(|| damaged("marks", samples.len()))?;
    Ok((counters, window))
}

fn decode_state(mut stored: Bytes) -> Result<(Counters, u64, u64), KvError> {
    if !matches!(stored.len(), 16 | 32) {
        return Err(damaged("state", stored.len()));
    }
    let counters = Counters { version: stored.get_u64(), rows: stored.get_u64() };
    match stored.has_remaining() {
        true => Ok((counters, stored.get_u64(), stored.get_u64())),
        false => Ok((counters, 0, 0)),
    }
}

pub(crate) fn put_counters(batch: &mut WriteBatch, counters: Counters, window: &Window) {
    let numbers = [counters.version, counters.rows, window.time_us(), window.oldest_readable()].map(u64::to_be_bytes);
    batch.put(Table::Meta, STATE_KEY, numbers.as_flattened());
}

pub(crate) fn put_samples(batch: &mut WriteBatch, window: &Window) {
    batch.put(Table::Meta, SAMPLES_KEY, &window.encoded_samples());
}

pub(crate) fn put_blob(batch: &mut WriteBatch, state: &StateBlob) {
    batch.put_parts(Table::Meta, &[BLOB_KEY], &[&state.sequence.to_be_bytes(), &state.blob]);
}

pub(crate) fn delete_blob(batch: &mut WriteBatch) {
    batch.delete(Table::Meta, BLOB_KEY);
}

pub(crate) fn load_blob(engine: &dyn Engine) -> Result<Option<StateBlob>, KvError> {
    engine.get(Table::Meta, BLOB_KEY)?.map(decode_blob).transpose()
}

pub(crate) fn load_copied_blob(copy: &dyn EngineCopy) -> Result<Option<StateBlob>, KvError> {
    copy.get(Table::Meta, BLOB_KEY)?.map(decode_blob).transpose()
}

/// The blob that would survive a crash now.
pub(crate) fn load_persisted_blob(engine: &dyn Engine) -> Result<Option<StateBlob>, KvError> {
    engine.persisted_get(Table::Meta, BLOB_KEY)?.map(decode_blob).transpose()
}

fn decode_blob(mut stored: Bytes) -> Result<StateBlob, KvError> {
    if stored.len() < 8 {
        return Err(damaged("blob", stored.len()));
    }
    Ok(StateBlob { sequence: stored.get_u64(), blob: stored })
}

pub(crate) fn put_family(batch: &mut WriteBatch, family: &str, state: FamilyState) {
    let key: [&[u8]; 2] = [FAMILY_PREFIX, family.as_bytes()];
    match state {
        FamilyState::Exists => batch.put_parts(Table::Meta, &key, &[]),
        FamilyState::Dropped(version) => batch.put_parts(Table::Meta, &key, &[&version.to_be_bytes()]),
    };
}

pub(crate) fn delete_family(batch: &mut WriteBatch, family: &str) {
    batch.delete(Table::Meta, &[FAMILY_PREFIX, family.as_bytes()].concat());
}

pub(crate) fn load_families(engine: &dyn Engine) -> Result<BTreeMap<String, FamilyState>, KvError> {
    let mut families = BTreeMap::new();
    each_with(engine, FAMILY_PREFIX, FAMILY_END, |name, value| {
        let name = std::str::from_utf8(name).map_err(|_| damaged("family", name.len()))?;
        let state = match value.len() {
            0 => FamilyState::Exists,
            8 => FamilyState::Dropped((&*value).get_u64()),
            length => return Err(damaged("family", length)),
        };
        // An older layout recorded the default family, too.
        if !name.is_empty() {
            families.insert(name.to_owned(), state);
        }
        Ok(())
    })?;
    Ok(families)
}

pub(crate) fn record_key(id: &[u8]) -> Vec<u8> {
    [IDEMPOTENCY_PREFIX, id].concat()
}

/// Visits every idempotency record.
pub(crate) fn each_idempotency_record(
    engine: &dyn Engine,
    mut visit: impl FnMut(Bytes, &[u8]) -> Result<(), KvError>,
) -> Result<(), KvError> {
    each_with(engine, IDEMPOTENCY_PREFIX, IDEMPOTENCY_END, |id, value| visit(Bytes::copy_from_slice(id), value))
}

/// Visits every record whose key begins with `prefix`, passing the rest of the key.
fn each_with(
    engine: &dyn Engine,
    prefix: &[u8],
    end: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let mut cursor = engine.cursor(Table::Meta, prefix, end)?;
    cursor.seek(prefix)?;
    while let Some((key, value)) = cursor.entry() {
        visit(key.strip_prefix(prefix).ok_or_else(|| damaged("meta", key.len()))?, value)?;
        cursor.next()?;
    }
    Ok(())
}

fn damaged(record: &str, length: usize) -> KvError {
    KvError::Corruption(format!("its {record} record of {length} bytes cannot be read"))
}
