//! The inputs of the core: messages, calls of local users, completions of its driver, and the
//! passing of time.

use bytes::Bytes;

use super::ids::{RaiseId, ReadId, ReconfigureId, RequestId, TransferId};
use super::output::LogRead;
use super::reconfigure::MemberChange;
use super::snapshot::{InstallEvent, SnapshotPiece};
use crate::message::MessageHeader;
use crate::{FeatureLevel, Instant, Message, ReplicaId, ReplicatedState, Sequence, Sessions, WriteId};

/// One event; see [`super::Replica::step`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time passed. At least one per fifth of a heartbeat is expected.
    Tick,
    /// A message arrived.
    Receive {
        /// Its header: the replica that sent it.
        sender: MessageHeader,
        /// Its body.
        message: Message,
        /// The entries or requests that travel with it.
        payload: Vec<Bytes>,
    },
    /// The connection to that peer ended: a hint that it may be dead.
    Disconnected(ReplicaId),
    /// A local caller wants `payload` executed.
    Propose {
        /// The name of the request in the outputs.
        id: RequestId,
        /// The request to execute; opaque to the core.
        payload: Bytes,
    },
    /// The caller of the request gave up: a request that has no number yet is taken back.
    Cancel(RequestId),
    /// The caller of the request with this number in the replica's own session gave up: the request
    /// is replaced by a void, as far as that is still possible.
    GiveUp(u64),
    /// A local caller wants a linearizable read point.
    Read(ReadId),
    /// The caller of the read gave up.
    CancelRead(ReadId),
    /// A local caller wants another replica to lead: `to`, or the one that is furthest along.
    Transfer {
        /// The name of the transfer in the outputs.
        id: TransferId,
        /// The replica that shall lead.
        to: Option<ReplicaId>,
        /// When the caller gives up waiting.
        deadline: Instant,
    },
    /// A local caller wants the feature level raised.
    Raise {
        /// The name of the call in the outputs.
        id: RaiseId,
        /// The level; `None`: the highest that all members execute.
        to: Option<FeatureLevel>,
        /// Passes over members whose voting disk is silent.
        force: bool,
        /// When the caller gives up waiting.
        deadline: Instant,
    },
    /// A local caller wants other members.
    Reconfigure {
        /// The name of the call in the outputs.
        id: ReconfigureId,
        /// The change.
        change: MemberChange,
        /// When the caller gives up waiting.
        deadline: Instant,
    },
    /// A local caller asks what a change of the members needs, and changes nothing.
    CheckChange {
        /// The name of the call in the outputs.
        id: ReconfigureId,
        /// The change.
        change: MemberChange,
    },
    /// Whether this replica may lead. At start it may. A replica that may not lead still votes.
    Eligible(bool),
    /// Whether storage has space for more writes. At start it has.
    Space(bool),
    /// Whether storage has far more space than it needs: enough to keep the log for a peer that
    /// installs a snapshot, however much is written meanwhile. At start it has.
    AmpleSpace(bool),
    /// This replica is about to stop: it stops leading.
    Stopping,
    /// Storage completed every log write up to and including this one.
    Durable(WriteId),
    /// The executor applied everything through `sequence`, which left these sessions, time, digest
    /// and feature level.
    Applied {
        /// The last value applied.
        sequence: Sequence,
        /// The sessions after it.
        sessions: Sessions,
        /// Replicated time after it, in microseconds.
        time_us: u64,
        /// The running digest after it.
        digest: u64,
        /// The feature level after it.
        feature_level: FeatureLevel,
    },
    /// The running digest at each multiple of the digest interval that the executor reached.
    Digests(Vec<(Sequence, u64)>),
    /// The database has reached the disk.
    Persisted {
        /// It would survive a crash through this sequence.
        sequence: Sequence,
        /// The bytes that the log takes on disk.
        log_bytes: u64,
    },
    /// The result of an [`Outputs::read_snapshot`](super::Outputs::read_snapshot).
    SnapshotRead(SnapshotPiece),
    /// The result of steps in [`Outputs::install`](super::Outputs::install).
    Installed(InstallEvent),
    /// Entries read from storage, as asked for by [`Outputs::read_log`](super::Outputs::read_log).
    LogRead {
        /// The question.
        read: LogRead,
        /// The entries from `read.from` on; none if the first is trimmed or damaged.
        entries: Vec<Bytes>,
    },
}

impl Input {
    /// The executor applied what led to this state.
    pub fn applied(state: &ReplicatedState) -> Input {
        Input::Applied {
            sequence: state.sequence,
            sessions: state.sessions.clone(),
            time_us: state.time_us,
            digest: state.digest,
            feature_level: state.feature_level,
        }
    }
}
