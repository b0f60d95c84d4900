//! Records about the database itself, in the meta table.
//!
//! | key | value |
//! |---|---|
//! | `format` | number of this layout (u32, big-endian) |
//! | `state` | newest commit version, number of visible rows (u64 each, big-endian) |
//! | `blob` | sequence (u64, big-endian), then what the replication layer keeps beside the data |
//! | `family/NAME` | empty: the family NAME has been written to |
//!
//! All of them are written in the batch of the data they describe.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};
use kv_api::{KvError, Version};

use crate::engine::{Engine, EngineCopy, Table, WriteBatch};

const FORMAT_KEY: &[u8] = b"format";
const STATE_KEY: &[u8] = b"state";
const BLOB_KEY: &[u8] = b"blob";
const FAMILY_PREFIX: &[u8] = b"family/";
/// Sorts behind every key with [`FAMILY_PREFIX`].
const FAMILY_END: &[u8] = b"family0";

/// The layout of both tables that this code reads and writes.
const FORMAT: u32 = 1;

/// What the state machine counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Version of the newest commit.
    pub version: u64,
    /// Rows visible at that version.
    pub rows: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters { version: Version::EMPTY.0, rows: 0 }
    }
}

/// What the replication layer stores with the data: how far the log is applied, and its own state at that point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateBlob {
    /// The log is applied up to and including this.
    pub sequence: u64,
    pub blob: Bytes,
}

/// Marks an empty database with the layout's number; refuses one with another number.
pub(crate) fn claim_format(engine: &dyn Engine) -> Result<(), KvError> {
    let Some(stored) = engine.get(Table::Meta, FORMAT_KEY)? else {
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, FORMAT_KEY, &FORMAT.to_be_bytes());
        return engine.write(&batch);
    };
    match <[u8; 4]>::try_from(stored.as_ref()).map(u32::from_be_bytes) {
        Ok(FORMAT) => Ok(()),
        Ok(other) => Err(KvError::Storage(format!(
            "the database has format {other}; this version of the program reads format {FORMAT}"
        ))),
        Err(_) => Err(damaged("format", stored.len())),
    }
}

pub(crate) fn load_counters(engine: &dyn Engine) -> Result<Counters, KvError> {
    let Some(mut stored) = engine.get(Table::Meta, STATE_KEY)? else {
        return Ok(Counters::default());
    };
    if stored.len() != 16 {
        return Err(damaged("state", stored.len()));
    }
    Ok(Counters { version: stored.get_u64(), rows: stored.get_u64() })
}

pub(crate) fn put_counters(batch: &mut WriteBatch, counters: Counters) {
    let (version, rows) = (counters.version.to_be_bytes(), counters.rows.to_be_bytes());
    batch.put_parts(Table::Meta, &[STATE_KEY], &[&version, &rows]);
}

pub(crate) fn put_blob(batch: &mut WriteBatch, state: &StateBlob) {
    batch.put_parts(Table::Meta, &[BLOB_KEY], &[&state.sequence.to_be_bytes(), &state.blob]);
}

pub(crate) fn load_blob(engine: &dyn Engine) -> Result<Option<StateBlob>, KvError> {
    engine.get(Table::Meta, BLOB_KEY)?.map(decode_blob).transpose()
}

pub(crate) fn load_copied_blob(copy: &dyn EngineCopy) -> Result<Option<StateBlob>, KvError> {
    copy.get(Table::Meta, BLOB_KEY)?.map(decode_blob).transpose()
}

/// The blob as a crash now would leave it.
pub(crate) fn load_persisted_blob(engine: &dyn Engine) -> Result<Option<StateBlob>, KvError> {
    engine.persisted_get(Table::Meta, BLOB_KEY)?.map(decode_blob).transpose()
}

fn decode_blob(mut stored: Bytes) -> Result<StateBlob, KvError> {
    if stored.len() < 8 {
        return Err(damaged("blob", stored.len()));
    }
    Ok(StateBlob { sequence: stored.get_u64(), blob: stored })
}

pub(crate) fn put_family(batch: &mut WriteBatch, family: &str) {
    batch.put_parts(Table::Meta, &[FAMILY_PREFIX, family.as_bytes()], &[]);
}

pub(crate) fn load_families(engine: &dyn Engine) -> Result<BTreeSet<String>, KvError> {
    let mut families = BTreeSet::new();
    let mut cursor = engine.cursor(Table::Meta, FAMILY_PREFIX, FAMILY_END)?;
    cursor.seek(FAMILY_PREFIX)?;
    while let Some((key, _)) = cursor.entry() {
        let name = key.strip_prefix(FAMILY_PREFIX).and_then(|name| std::str::from_utf8(name).ok());
        families.insert(name.ok_or_else(|| damaged("family", key.len()))?.to_owned());
        cursor.next()?;
    }
    Ok(families)
}

fn damaged(record: &str, length: usize) -> KvError {
    KvError::Corruption(format!("its {record} record of {length} bytes cannot be read"))
}
