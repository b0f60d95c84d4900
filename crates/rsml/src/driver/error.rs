//! The errors that callers of a replica get.

use crate::{ExecutionError, Sequence, StorageError};

/// Why a request has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Certainly not executed: the request could not be sent to a primary in time.
    #[error("no primary: {0}")]
    NotExecuted(String),
    /// Certainly not executed: too many requests are waiting already.
    #[error("too many bytes of requests wait for an outcome")]
    Overloaded,
    /// Certainly not executed: too few replicas have disk space left.
    #[error("too few replicas have disk space left: free some space, and writes will resume automatically")]
    StorageFull,
    /// Certainly not executed: the deadline passed before the request was appended to the log.
    #[error("the deadline passed before the request was appended to the log")]
    GivenUp,
    /// The request was sent, and may or may not be executed.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Why a witness refuses requests and reads.
pub(super) const WITHOUT_DATA: &str = "this replica is a witness, which has no data: ask another one";

/// Why a read has no read point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too many requests and reads are waiting already.
    #[error("too many requests and reads wait for an answer")]
    Overloaded,
    /// No primary confirmed a read point in time.
    #[error("no primary confirmed a read point within {waited_ms} ms")]
    NoPrimary {
        /// How long the read waited.
        waited_ms: u64,
    },
    /// The replica is a witness.
    #[error("{WITHOUT_DATA}")]
    Witness,
    /// The replica has stopped, for the reason given.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be recovered or read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database is not sound.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The log ends before the last sequence that the database has applied, so it is not this
    /// database's log, or part of it was lost.
    #[error(
        "{}, and the database has applied sequence {applied}: they do not belong together. Restore both as they were when \
         this replica last ran, or remove both: the replica then comes back as an observer, which follows and does not vote",
        held(*.first, *.last)
    )]
    LogApartFromDatabase {
        /// The first entry in the log.
        first: Sequence,
        /// The last entry in the log; less than `first` if the log is empty.
        last: Sequence,
        /// The last sequence that the database has applied.
        applied: Sequence,
    },
}

fn held(first: Sequence, last: Sequence) -> String {
    match last < first {
        true => "the log holds nothing".to_string(),
        false => format!("the log holds sequences {first} to {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_log_is_called_empty_and_the_error_says_what_to_do() {
        let lost = StartError::LogApartFromDatabase { first: Sequence(1), last: Sequence(0), applied: Sequence(7) };
        let text = lost.to_string();
        assert!(text.starts_with("the log holds nothing, and the database has applied sequence 7: "), "{text}");
        assert!(text.contains("Restore both"), "{text}");
    }
}
