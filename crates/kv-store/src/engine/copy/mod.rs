//! A copy of an engine as one stream of bytes: named parts after a header that lists them.
//!
//! The engine decides what the parts are (RocksDB: its files; the memory engine: its tables). This
//! module checks for every engine that they arrive whole and unchanged: [`header`] describes them,
//! [`receiver`] compares.

mod header;
mod receiver;

use bytes::Bytes;
use kv_api::KvError;
use xxhash_rust::xxh3::Xxh3Default;

pub(super) use header::{Header, Kind, Part};
pub(super) use receiver::{PartsTarget, Receiver};

use super::Table;

/// A consistent copy: what an engine held at one moment. Dropping it releases what the engine holds
/// for it.
pub trait EngineCopy: Send {
    /// The value of `key` in the copy.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    /// Length of the copy in bytes.
    fn total_bytes(&self) -> u64;

    /// The bytes `offset..offset + length`, which must lie within the copy. The same each time.
    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, KvError>;
}

/// An engine that is being built from the bytes of a copy. Dropping it before [`Self::finish`]
/// removes what was written.
pub trait EngineInstall: Send {
    /// Takes the next bytes. After an error every further call fails, too.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when the bytes are not those of a sound copy.
    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError>;

    /// Ends the copy, and opens the engine. From here on it survives a crash.
    fn finish(self: Box<Self>) -> Result<std::sync::Arc<dyn super::Engine>, KvError>;
}

fn damaged(reason: impl std::fmt::Display) -> KvError {
    KvError::Corruption(format!("the copy of a database: {reason}"))
}

/// Computes the checksum of a part as its bytes arrive. Boxed, because the state takes half a
/// kilobyte.
#[derive(Default)]
pub(super) struct PartHash(Box<Xxh3Default>);

impl PartHash {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u64 {
        self.0.digest()
    }

    pub fn of(bytes: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64(bytes)
    }
}
