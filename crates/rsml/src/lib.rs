//! RSML: a replicated state machine library. Multi-Paxos over opaque values, for clusters of 1 to 7 replicas.

#[macro_use]
pub mod coverage;

pub mod core;
mod driver;
mod executor;
#[cfg(test)]
mod fixtures;
mod message;
mod seldom;
mod snapshot;
mod storage;
pub mod transport;
mod types;
mod value;
pub mod wal;

pub use core::{
    Acceptor, Divergence, DivergenceKind, Learner, Proposer, RefusedCopy, Stray, TransferError, ViewManager,
};
pub use driver::{
    ConsensusReplica, CopySent, DriverStatus, Failure, FailureKind, NetworkManager, ReadError, ReplicaOptions,
    RequestError, RoleChange, StalledThread, StartError, ThreadKind,
};
pub use executor::{
    Applied, Applier, CommittedRequest, CommittedValue, DIGEST_INTERVAL, ExecutedBatch, ExecutionError,
    ExecutionErrorKind, ExecutionNotifier, SealedState,
};
pub use message::{Message, MessageHeader, Report};
pub use snapshot::{Snapshot, SnapshotInstaller, SnapshotServer, SnapshotSink, SnapshotSource, Snapshots};
pub use storage::{HardState, Persist, Recovered, Storage, StorageError, StorageStatistics, WriteId};
pub use types::{Boot, ClusterId, DiskId, Epoch, Instant, ReplicaId, Sequence, View};
pub use value::{BirthRecord, Configuration, DigestAt, ReplicatedState, RequestBatch, SessionState, Sessions, Value};
