//! A copy of an engine as one row of bytes: named parts behind a header that lists them.
//!
//! What the parts are is the engine's affair (RocksDB: its files; the memory engine: its tables). That they arrive whole
//! and unchanged is checked here, for every engine: [`header`] says what is to come, [`receiver`] compares.

mod header;
mod receiver;

use bytes::Bytes;
use kv_api::KvError;
use xxhash_rust::xxh3::Xxh3Default;

pub(super) use header::{Header, Kind, Part};
pub(super) use receiver::{PartsTarget, Receiver};

use super::Table;

/// A consistent copy of an engine: what it held at one moment. Dropping it lets go of it.
pub trait EngineCopy: Send {
    /// What the copy holds under `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, KvError>;

    fn total_bytes(&self) -> u64;

    /// Exactly the bytes `offset..offset + length`; the same ones each time.
    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, KvError>;
}

/// An engine that is being built from the bytes of a copy. Dropping it unfinished removes what was written.
pub trait EngineInstall: Send {
    /// The next bytes. After an error every further call fails, too.
    ///
    /// # Errors
    /// [`KvError::Corruption`] when the bytes are those of no sound copy.
    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError>;

    /// All bytes were written: opens the engine, which survives a crash from here on.
    fn finish(self: Box<Self>) -> Result<std::sync::Arc<dyn super::Engine>, KvError>;
}

fn damaged(reason: impl std::fmt::Display) -> KvError {
    KvError::Corruption(format!("the copy of a database: {reason}"))
}

/// The checksum of a part while its bytes pass by. Boxed: it keeps half a kilobyte.
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
