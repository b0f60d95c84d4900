//! RSML, a replicated state machine library: Multi-Paxos over opaque values, for clusters of 1 to 7
//! replicas.
//!
//! The user implements the state machine ([`ExecutionNotifier`], with [`Snapshots`] for copies of
//! it). A replica is started in three steps, between which the user opens the database and the
//! network:
//!
//! 1. [`ConsensusReplica::recover`] reads the log from a [`Storage`], usually a
//!    [`wal::WalStorage`], and names the database that belongs to it.
//! 2. [`RecoveredReplica::with_database`] joins the log and the opened database.
//! 3. [`ReadyReplica::start`] connects the replica to its peers through a [`transport::Transport`].
//!
//! [`ConsensusReplica::execute_request_async`] has a request executed on all replicas, each request
//! at most once and in the same order everywhere. [`ConsensusReplica::read_barrier`] returns a
//! point from which a read of the local database is linearizable.
//!
//! The protocol itself is in [`core`]: one deterministic state machine without I/O, clock or
//! threads.

#![warn(missing_docs)]

#[macro_use]
pub mod coverage;

mod address;
mod applier;
mod configuration;
pub mod core;
mod driver;
mod error;
mod executor;
#[cfg(test)]
mod fixtures;
mod log_throttle;
mod message;
pub mod offline;
mod snapshot;
mod storage;
pub mod transport;
mod types;
mod value;
pub mod wal;

pub use address::PeerAddress;
pub use applier::{Applied, Applier};
pub use configuration::{Addresses, Configuration, ConfiguredMember, Member, MemberRole, Members, Reconfigure};
pub use core::{
    Acceptor, DivergedPeer, Divergence, DivergenceKind, Learner, MemberChange, Membership, Proposer, RaiseError,
    ReconfigureError, RefusedCopy, TransferError, ViewManager,
};
pub use driver::{
    ConsensusReplica, CopySent, DriverStatus, Failure, FailureKind, NetworkManager, ReadError, ReadyReplica,
    RecoveredReplica, ReplicaOptions, RequestError, RoleChange, StalledThread, StartError, ThreadKind,
};
pub use error::{ExecutionError, ExecutionErrorKind};
pub use executor::{CommittedRequest, CommittedValue, ExecutedBatch, ExecutionNotifier, SealedState};
pub use message::{Message, MessageHeader, Report};
pub use snapshot::{Snapshot, SnapshotInstaller, SnapshotServer, SnapshotSink, SnapshotSource, Snapshots};
pub use storage::{HardState, Persist, Recovered, Storage, StorageError, StorageStatistics, WriteId};
pub use types::{Boot, ClusterId, DiskId, Epoch, FeatureLevel, Instant, LevelRange, ReplicaId, Sequence, View};
pub use value::{BirthRecord, DigestAt, ReplicatedState, RequestBatch, SessionState, Sessions, Value};

/// The default interval at which the running digest is recorded: at every multiple of this sequence
/// number. It must be the same on all replicas.
pub const DIGEST_INTERVAL: u64 = 1024;
