//! The messages between the threads of a replica.

use std::time::Instant as StdInstant;

use bytes::Bytes;

use super::failure::Failure;
use crate::core::{Input, InstallStep, LogRead, SnapshotRead};
use crate::{Persist, Sequence};

/// For the core.
#[allow(clippy::large_enum_variant)] // Nearly all events are inputs.
pub enum Event {
    /// The core steps with this input.
    Input(Input),
    /// The storage or the executor has failed: the replica stops.
    Failed(Failure),
}

/// For the log thread.
pub enum LogWork {
    Persist(Vec<Persist>),
    Read(LogRead),
    Trim(Sequence),
}

/// When entries that are delivered together got where they are, by the clock of this replica.
#[derive(Clone, Copy, Debug)]
pub struct Milestones {
    /// When the first of them went to the log.
    pub logged: StdInstant,
    /// When they were known to be committed.
    pub delivered: StdInstant,
}

/// For the apply thread.
pub enum ApplyWork {
    Entries(Vec<(Sequence, Bytes)>, Milestones),
    /// Continue with the database of this generation.
    Switch(u64),
}

/// For the snapshot thread.
pub enum SnapshotWork {
    /// Read a piece of a copy of this replica's database.
    Read(SnapshotRead),
    /// A step of building a database from a peer's copy.
    Install(InstallStep),
}

/// How many of [`max_waiting_bytes`](super::ReplicaOptions::max_waiting_bytes) an input takes until
/// the core has processed it.
pub fn received_bytes(input: &Input) -> usize {
    match input {
        Input::Receive { payload, .. } => payload.iter().map(Bytes::len).sum(),
        _ => 0,
    }
}
