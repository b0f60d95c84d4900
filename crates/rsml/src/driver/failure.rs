//! Why a replica stopped.

use std::fmt;

use crate::{Divergence, DivergenceKind, ExecutionError, ExecutionErrorKind, FeatureLevel, LevelRange, StorageError};

/// The kind of failure that stopped a replica. It determines what has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The log could not be written or read.
    Storage,
    /// The executor could not continue.
    Execution,
    /// The executor lacked a resource that may be available again later, such as file descriptors.
    /// A restart helps.
    Starved,
    /// The log or the database is of a feature level that this program does not execute: another
    /// release must be started.
    TooNew,
    /// The database holds data that was never written to it: it must be rebuilt from a peer.
    Damaged,
    /// A majority of the replicas agrees on a state that differs from this one's: its database must
    /// be rebuilt from a peer.
    Diverged,
    /// The replicas' states differ, and no majority agrees. It is unknown which database is right,
    /// so none may be discarded.
    DivergedWithoutMajority,
    /// A bug in this program.
    Invariant,
    /// The replica was asked to stop.
    ShutDown,
}

/// Why a replica stopped, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The cause, for people.
    pub reason: String,
}

impl Failure {
    pub(super) fn invariant() -> Failure {
        Failure { kind: FailureKind::Invariant, reason: "an invariant was violated; the log says which".into() }
    }

    pub(super) fn too_new(level: FeatureLevel, levels: LevelRange) -> Failure {
        let reason = format!(
            "the cluster is at feature level {level}, and this program executes {levels}: start a release that executes \
             level {level}"
        );
        Failure { kind: FailureKind::TooNew, reason }
    }

    pub(super) fn shut_down() -> Failure {
        Failure { kind: FailureKind::ShutDown, reason: "it was shut down".into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Failure { kind: FailureKind::Storage, reason: error.to_string() }
    }
}

impl From<ExecutionError> for Failure {
    fn from(error: ExecutionError) -> Self {
        let kind = match error.kind {
            ExecutionErrorKind::Failed => FailureKind::Execution,
            ExecutionErrorKind::Starved => FailureKind::Starved,
            ExecutionErrorKind::TooNew => FailureKind::TooNew,
            ExecutionErrorKind::Corrupt => FailureKind::Damaged,
        };
        Failure { kind, reason: error.to_string() }
    }
}

impl From<Divergence> for Failure {
    fn from(divergence: Divergence) -> Self {
        let kind = match divergence.kind {
            DivergenceKind::Minority { .. } => FailureKind::Diverged,
            DivergenceKind::NoMajority => FailureKind::DivergedWithoutMajority,
        };
        Failure { kind, reason: divergence.to_string() }
    }
}
