//! A database as one row of bytes: how a replica that is behind the trimmed log gets the state of another.
//!
//! The database is the snapshot. A copy is made only when a peer needs one, travels in chunks, and becomes a fresh
//! database beside the present one; one record of the log then switches to it (safety rule 10).

mod installer;
mod server;

use bytes::Bytes;

pub use installer::SnapshotInstaller;
pub use server::SnapshotServer;

use crate::ExecutionError;

/// Makes copies of the present database, and new databases from copies. Called from a thread of its own while batches
/// are applied.
pub trait Snapshots: Send + Sync + 'static {
    /// A consistent copy of the database as some recent batch left it. May take long; must not hold up applying.
    fn take(&self) -> Result<Snapshot, ExecutionError>;

    /// Begins the database of `generation`, beside the present one. What an earlier attempt left under that number goes.
    fn begin_install(&self, generation: u64) -> Result<Box<dyn SnapshotSink>, ExecutionError>;
}

/// A copy, and the replicated state that is sealed in it.
pub struct Snapshot {
    /// As [`crate::ExecutionNotifier::sealed_state`] of the copied database.
    pub state: Bytes,
    pub source: Box<dyn SnapshotSource>,
}

/// The bytes of a copy. Dropping it lets go of the copy.
pub trait SnapshotSource: Send {
    fn total_bytes(&self) -> u64;

    /// Exactly the bytes `offset..offset + length`, which lie within [`SnapshotSource::total_bytes`].
    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, ExecutionError>;
}

/// A database that is being built from a copy. Dropping it before [`SnapshotSink::finish`] lets go of what was written.
pub trait SnapshotSink: Send {
    /// The next bytes of the row, in order and without holes.
    fn write(&mut self, bytes: Bytes) -> Result<(), ExecutionError>;

    /// All bytes were written: checks that they are a sound database, makes it survive a crash, and returns the
    /// replicated state sealed in it.
    fn finish(self: Box<Self>) -> Result<Bytes, ExecutionError>;
}
