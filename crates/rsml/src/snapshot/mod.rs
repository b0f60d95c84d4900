//! Snapshots: a replica whose missing entries were trimmed from all logs copies the database of a
//! peer.
//!
//! The database is the snapshot. A copy is made only if a peer needs one. It is sent in pieces, and
//! becomes a new database next to the present one. One record in the log then switches to it
//! (safety rule 10).

mod installer;
mod server;

use bytes::Bytes;

pub use installer::SnapshotInstaller;
pub use server::SnapshotServer;

use crate::ExecutionError;

/// Makes copies of the present database, and new databases from copies. Called on a thread of its
/// own while batches are applied.
pub trait Snapshots: Send + Sync + 'static {
    /// Makes a consistent copy of the database as of some recent batch. May take long, but must not
    /// delay the application of batches.
    ///
    /// # Errors
    /// The peer asks again.
    fn take(&self) -> Result<Snapshot, ExecutionError>;

    /// [`crate::ExecutionNotifier::sealed_state`] of the database as of some recent batch: all that
    /// a witness needs.
    ///
    /// # Errors
    /// The peer asks again.
    fn take_state(&self) -> Result<Bytes, ExecutionError> {
        Ok(self.take()?.state)
    }

    /// Begins to build the database of `generation` next to the present one. Removes the rest of an
    /// earlier attempt with that number.
    ///
    /// # Errors
    /// The replica fetches another copy.
    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError>;
}

/// A copy of a database.
pub struct Snapshot {
    /// [`crate::ExecutionNotifier::sealed_state`] of the copied database.
    pub state: Bytes,
    /// The bytes of the copy.
    pub source: Box<dyn SnapshotSource>,
}

/// The bytes of a copy. Dropping this releases the copy.
pub trait SnapshotSource: Send {
    /// The length of the copy.
    fn total_bytes(&self) -> u64;

    /// Reads exactly the bytes `offset..offset + length`, which lie within
    /// [`SnapshotSource::total_bytes`].
    ///
    /// # Errors
    /// The peer asks again.
    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, ExecutionError>;
}

/// A database that is being built from a copy. Dropping it before [`SnapshotSink::finish`] discards
/// it.
pub trait SnapshotSink: Send {
    /// Writes the next bytes of the copy. There are no gaps.
    ///
    /// # Errors
    /// The replica fetches another copy.
    fn write(&mut self, bytes: Bytes) -> Result<(), ExecutionError>;

    /// After all bytes were written: checks that they are a sound database, makes it durable, and
    /// returns its sealed state.
    ///
    /// # Errors
    /// The replica fetches another copy.
    fn finish(self: Box<Self>) -> Result<Bytes, ExecutionError>;
}
