//! The exchange of core and driver about snapshots: pieces for peers, and the steps of
//! building a database from a peer's pieces.

use bytes::Bytes;

use crate::{ReplicaId, Sequence};

/// A piece of this replica's database that a peer wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotRead {
    /// The peer.
    pub peer: ReplicaId,
    /// The snapshot; 0: any that is new enough.
    pub id: u64,
    /// The offset of the first byte.
    pub offset: u64,
    /// Maximum bytes wanted.
    pub max_bytes: usize,
    /// The snapshot must hold everything through this sequence.
    pub at_least: Sequence,
    /// Only the library's own state is wanted, without the data.
    pub state_only: bool,
}

/// A piece of this replica's database for a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotPiece {
    /// The peer.
    pub peer: ReplicaId,
    /// The snapshot, for further questions; 0: there is no such snapshot, and none can be made.
    pub id: u64,
    /// The offset of the first byte.
    pub offset: u64,
    /// The bytes of the whole snapshot.
    pub total_bytes: u64,
    /// The snapshot holds everything through this sequence.
    pub sequence: Sequence,
    /// The bytes.
    pub bytes: Bytes,
}

/// A step of building a database from a peer's snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InstallStep {
    /// Begins a database; another one that was begun is dropped.
    Begin {
        /// The number of the database, higher than that of any before.
        generation: u64,
    },
    /// The next bytes.
    Write(Bytes),
    /// There are no more bytes.
    Finish,
    /// The database is not wanted any more.
    Abort,
}

/// Progress of building a database from a peer's snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InstallEvent {
    /// Bytes were written.
    Written {
        /// The database.
        generation: u64,
        /// The bytes written so far.
        bytes: u64,
    },
    /// The database is complete and durable.
    Finished {
        /// The database.
        generation: u64,
        /// Its encoded [`ReplicatedState`](crate::ReplicatedState).
        state: Bytes,
    },
    /// The database could not be built.
    Failed {
        /// The database.
        generation: u64,
    },
}

/// A snapshot that is being fetched, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// The replica that sends it.
    pub source: ReplicaId,
    /// The number of the database that it becomes: differs for each attempt.
    pub generation: u64,
    /// It holds everything through this sequence; 0 before its first piece has come.
    pub sequence: Sequence,
    /// The bytes received so far.
    pub received: u64,
    /// The bytes of the whole snapshot; 0: not known yet.
    pub total: u64,
    /// Maximum bytes asked for per second; 0: no limit.
    pub bytes_per_second: u64,
}
