//! The outputs of the core: everything that its driver must do.

use bytes::Bytes;

use super::digests::Divergence;
use super::ids::{RaiseId, ReadId, ReconfigureId, RequestId, TransferId};
use super::level::RaiseError;
use super::reconfigure::{Precondition, ReconfigureError};
use super::snapshot::{InstallStep, SnapshotRead};
use super::transfer::TransferError;
use crate::{Boot, Epoch, FeatureLevel, Message, Persist, ReplicaId, Sequence, View};

/// The receiver of entries that are read from storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadPurpose {
    /// A peer that follows this primary.
    Follow(ReplicaId),
    /// A candidate that adopts this replica's log.
    Fetch(ReplicaId),
    /// A replica of an earlier epoch, which asked for the entries that end that epoch.
    Committed(ReplicaId, Epoch),
    /// This replica, which has no entry in memory: the entries that follow the snapshot that it
    /// installs.
    Tail,
}

/// Entries wanted from storage, because they are no longer in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogRead {
    /// The receiver of the entries.
    pub purpose: ReadPurpose,
    /// The view promised when the entries were asked for.
    pub view: View,
    /// The first entry wanted.
    pub from: Sequence,
    /// The last entry wanted.
    pub to: Sequence,
    /// Maximum bytes wanted, but at least one entry.
    pub max_bytes: usize,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outgoing {
    /// The receiver.
    pub to: ReplicaId,
    /// Its body.
    pub message: Message,
    /// The entries or requests that travel with it.
    pub payload: Vec<Bytes>,
}

/// Why a request was refused. A refused request is never executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Too many bytes of requests wait for an outcome.
    Overloaded,
    /// Its caller took it back before it had a number.
    Cancelled,
    /// Too few replicas have space for more.
    StorageFull,
    /// This replica does not belong to the cluster any more.
    NotAMember,
}

/// Everything to be done now. Messages may be sent before the log writes are done: a message that
/// claims something durable is only made once it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outputs {
    /// Log writes, to be performed in this order.
    pub persist: Vec<Persist>,
    /// Messages, to be sent in this order.
    pub send: Vec<Outgoing>,
    /// Entries that are chosen, and durable here: to be executed in this order, without holes.
    pub deliver: Vec<(Sequence, Bytes)>,
    /// Entries to read from storage.
    pub read_log: Vec<LogRead>,
    /// Reads that may be served from a database that has applied this sequence.
    pub read_ready: Vec<(ReadId, Sequence)>,
    /// The number that each request got in this replica's session: it is executed under that number
    /// or never.
    pub numbered: Vec<(RequestId, u64)>,
    /// Requests of this replica's session that got a number and were never sent: they will not be
    /// executed. The voids that replace them are still applied later.
    pub withdrawn: Vec<u64>,
    /// Requests of this replica's session with a number and without an outcome, when the session
    /// ended: whether they were executed stays unknown.
    pub abandoned: Vec<u64>,
    /// Requests that get a number from now on are of this start of the disk, and numbered from 1.
    pub new_session: Option<Boot>,
    /// Entries below this are in this replica's database for good, and are no longer kept for
    /// others.
    pub trim: Option<Sequence>,
    /// Pieces of this replica's database to read for peers.
    pub read_snapshot: Vec<SnapshotRead>,
    /// Steps of building a database from a peer's snapshot, next to the present database, in this
    /// order.
    pub install: Vec<InstallStep>,
    /// The database of this generation replaces the present one, after everything delivered so far
    /// has been applied and before anything delivered later is.
    pub switch: Option<u64>,
    /// Requests that will not be executed, and why.
    pub refused: Vec<(RequestId, Refusal)>,
    /// Transfers asked for here that have ended: the replica that leads now, or why the primary is
    /// the same as before.
    pub transferred: Vec<(TransferId, Result<ReplicaId, TransferError>)>,
    /// Calls to raise the feature level that have ended: the level that is applied here now, or why
    /// it was not raised.
    pub raised: Vec<(RaiseId, Result<FeatureLevel, RaiseError>)>,
    /// Changes of the members that have ended: the epoch that has begun with the members asked for,
    /// or why it has not.
    pub reconfigured: Vec<(ReconfigureId, Result<Epoch, ReconfigureError>)>,
    /// The preconditions of changes of the members that callers asked about.
    pub checked: Vec<(ReconfigureId, Vec<Precondition>)>,
    /// A peer has applied a feature level that this program does not execute, so this replica cannot
    /// follow any further: it must stop.
    pub too_new: Option<FeatureLevel>,
    /// This replica's database is not what the log says, or it is unknown whose database is: the
    /// replica must stop serving, and does nothing any more.
    pub diverged: Option<Divergence>,
}
