//! The driver: a [`ConsensusReplica`] runs the core on real threads, storage, network and clock.
//!
//! Four threads per replica. The *log* thread makes all writes that queued up durable with one synchronisation; the
//! *apply* thread applies all entries that queued up in one atomic write and wakes whoever waits for an outcome; the
//! *core* thread looks after time. The core itself is run by whichever thread brings it something (see `seat`): it takes
//! all inputs that wait, judges timeouts only after them (a replica that was stalled must not accuse its peers), and
//! hands writes to the log thread and messages to the network at the same time.
//!
//! A fault of the storage or of the executor stops the replica: nothing is retried.

mod copy_log;
mod failure;
mod heartbeat;
mod inbox;
#[cfg(test)]
mod interleavings;
mod leadership;
mod network;
mod replica;
mod seat;
mod snapshots;
mod sync;
mod threads;
mod waiters;

use crate::core::Input;
use crate::{Sequence, Storage, StorageError};

pub use copy_log::CopySent;
pub use failure::{Failure, FailureKind};
pub use heartbeat::{StalledThread, ThreadKind};
pub use network::NetworkManager;
pub use replica::{ConsensusReplica, DriverStatus, ReplicaOptions, RoleChange};

/// Why a request has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Surely not executed: there was no primary to send it to in time.
    #[error("no primary: {0}")]
    NotExecuted(String),
    /// Surely not executed: too much is waiting already.
    #[error("too many bytes of requests wait for an outcome")]
    Overloaded,
    /// Surely not executed: too few replicas have space on their disks.
    #[error("too few replicas have space left on their disks: make space, and writes go on by themselves")]
    StorageFull,
    /// Surely not executed: its time was over before it took its place in the log.
    #[error("its time was over before it took its place in the log")]
    GivenUp,
    /// It was sent, and may or may not be executed.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// Why a read has no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("too many requests and reads wait for an answer")]
    Overloaded,
    #[error("no primary confirmed a read point within {waited_ms} ms")]
    NoPrimary { waited_ms: u64 },
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Execution(#[from] crate::ExecutionError),
    #[error("cannot start the network: {0}")]
    Network(#[from] std::io::Error),
    #[error(
        "{}, and the database has applied sequence {applied}: they do not belong together. Restore both as they were when \
         this replica last ran, or remove both: the replica then comes back as an observer, which follows and does not vote",
        held(*.first, *.last)
    )]
    LogApartFromDatabase { first: Sequence, last: Sequence, applied: Sequence },
}

fn held(first: Sequence, last: Sequence) -> String {
    match last < first {
        true => "the log holds nothing".to_string(),
        false => format!("the log holds sequences {first} to {last}"),
    }
}

/// What the core thread is told.
enum Event {
    Input(Input),
    /// The storage or the executor failed.
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_lost_is_called_empty_and_the_next_step_is_named() {
        let lost = StartError::LogApartFromDatabase { first: Sequence(1), last: Sequence(0), applied: Sequence(7) };
        let text = lost.to_string();
        assert!(text.starts_with("the log holds nothing, and the database has applied sequence 7: "), "{text}");
        assert!(text.contains("Restore both"), "{text}");
    }
}
