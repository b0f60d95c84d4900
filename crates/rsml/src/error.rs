//! The errors of the state machine.

/// The state of the database after an error of the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionErrorKind {
    /// An operation failed; the database is as sound as before.
    Failed,
    /// The process lacks a resource that may be available again later, such as file descriptors.
    /// The database is sound, and a restart helps.
    Starved,
    /// The log or the database is of a feature level that this program does not execute. The
    /// database is sound, and another release continues with it.
    TooNew,
    /// The database holds data that was never written to it. It is useless, and is rebuilt from a
    /// peer.
    Corrupt,
}

/// Execution failed, and this replica cannot continue: it stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", .kind.words())]
pub struct ExecutionError {
    /// The state of the database.
    pub kind: ExecutionErrorKind,
    /// The cause, for people.
    pub reason: String,
}

impl ExecutionErrorKind {
    fn words(self) -> &'static str {
        match self {
            ExecutionErrorKind::Failed => "execution failed",
            ExecutionErrorKind::Starved => "execution lacks a resource",
            ExecutionErrorKind::TooNew => "this program does not execute the feature level",
            ExecutionErrorKind::Corrupt => "the database is damaged",
        }
    }
}

impl ExecutionError {
    /// An error of kind [`ExecutionErrorKind::Failed`].
    pub fn failed(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::Failed, reason: reason.into() }
    }

    /// An error of kind [`ExecutionErrorKind::Starved`].
    pub fn starved(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::Starved, reason: reason.into() }
    }

    /// An error of kind [`ExecutionErrorKind::TooNew`].
    pub fn too_new(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::TooNew, reason: reason.into() }
    }

    /// An error of kind [`ExecutionErrorKind::Corrupt`].
    pub fn corrupt(reason: impl Into<String>) -> Self {
        ExecutionError { kind: ExecutionErrorKind::Corrupt, reason: reason.into() }
    }
}
