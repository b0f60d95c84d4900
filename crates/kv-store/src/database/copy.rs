//! Copies of a database: what a replica that is far behind gets from another.

use bytes::Bytes;
use kv_api::KvError;

use crate::engine::EngineCopy;
use crate::meta::StateBlob;

/// A database as one batch left it. Dropping it lets go of the copy.
pub struct DatabaseCopy {
    state: StateBlob,
    copy: Box<dyn EngineCopy>,
}

impl DatabaseCopy {
    pub(crate) fn new(state: StateBlob, copy: Box<dyn EngineCopy>) -> Self {
        DatabaseCopy { state, copy }
    }

    /// The record sealed with the last batch that is in the copy.
    pub fn state(&self) -> &StateBlob {
        &self.state
    }

    pub fn total_bytes(&self) -> u64 {
        self.copy.total_bytes()
    }

    /// Exactly the bytes `offset..offset + length`; the same ones each time.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, KvError> {
        self.copy.read(offset, length)
    }
}
