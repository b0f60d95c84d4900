//! Copies of a database, which a replica that is far behind fetches from another.

use bytes::Bytes;
use kv_api::KvError;

use crate::engine::EngineCopy;
use crate::meta::StateBlob;

/// The content of a database after one batch. Dropping the copy releases what the engine holds for
/// it.
pub struct DatabaseCopy {
    state: StateBlob,
    copy: Box<dyn EngineCopy>,
}

impl DatabaseCopy {
    pub(crate) fn new(state: StateBlob, copy: Box<dyn EngineCopy>) -> Self {
        DatabaseCopy { state, copy }
    }

    /// The state blob that was committed with the last batch in the copy.
    pub fn state(&self) -> &StateBlob {
        &self.state
    }

    /// Length of the copy in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.copy.total_bytes()
    }

    /// The bytes `offset..offset + length`, which must lie within the copy. A range may be read
    /// more than once, and is the same each time.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, KvError> {
        self.copy.read(offset, length)
    }
}
