//! Why a replica stopped.

use std::fmt;

use crate::{Divergence, DivergenceKind, ExecutionError, ExecutionErrorKind, StorageError};

/// What kind of trouble stopped a replica: what has to be done about it depends on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The log could not be written or read.
    Storage,
    /// The executor could not go on.
    Execution,
    /// The executor lacked something that others may give back, such as file descriptors: starting again gets over it.
    Starved,
    /// The database holds what was never written to it: it must be rebuilt from a peer.
    Damaged,
    /// A majority of the replicas agrees on another state than this one's: its database must be rebuilt from a peer.
    Diverged,
    /// The replicas' states differ and no majority agrees: nobody knows which database is right, so none may be thrown
    /// away.
    DivergedWithoutMajority,
    /// A fault of the program.
    Invariant,
    /// It was asked to stop.
    ShutDown,
}

/// Why a replica stopped, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub reason: String,
}

impl Failure {
    pub(super) fn invariant() -> Failure {
        Failure { kind: FailureKind::Invariant, reason: "an invariant was violated; the log says which".into() }
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
