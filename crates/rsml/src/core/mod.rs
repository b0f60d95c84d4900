//! The consensus core: one deterministic state machine without I/O, clock, threads or randomness of its own.
//!
//! The protocol is Multi-Paxos (Lamport, *Paxos Made Simple*) in the form that Omni-Paxos (Ng, Haridi, Carbone, EuroSys
//! 2023) calls sequence consensus. A replica that wants to lead picks a *view* (ballot) that only it may use, and asks all
//! for a *promise* (1a, 1b). From a quorum of promises it takes the log with the greatest (accepted view, length): it
//! holds everything that may have been chosen before. From then on it alone extends that log; each entry goes to all in
//! an *accept* (2a), is answered when durable (2b), and is *chosen* once a quorum holds it in the current view. Votes are
//! cumulative, so any number of entries may be under way, and losing a message loses nothing but time.
//!
//! The parts are plain state with the rules that guard it: [`Acceptor`] (promise, log), [`Learner`] (commit point),
//! [`Proposer`] (what a primary knows), [`ViewManager`] (who leads, when to stand), `Requests` (this replica's session),
//! `Reads` (linearizable read points), `Digests` (whether all execute alike). [`Replica`] is the only place where they
//! meet; its `impl` is spread over the files `birth`, `election`, `replication`, `catch_up`, `trimming`, `forwarding`,
//! `transfer`, `fitness` and `lease` by subject.

mod acceptor;
mod birth;
mod canonical;
mod catch_up;
mod choice;
mod digests;
mod dispatch;
mod election;
mod fitness;
mod forwarding;
mod learner;
mod lease;
mod log;
mod proposer;
mod reads;
mod replica;
mod replication;
mod requests;
mod status;
mod transfer;
mod trimming;
mod view_manager;

use bytes::Bytes;

pub use acceptor::Acceptor;
pub use catch_up::{CopyStatus, InstallEvent, InstallStep, SnapshotPiece, SnapshotRead};
pub use digests::{Divergence, DivergenceKind, RefusedCopy, Stray};
pub use learner::Learner;
pub use proposer::Proposer;
pub use replica::{Replica, Start};
pub use status::ReplicaStatus;
pub use transfer::TransferError;
pub use view_manager::{Role, ViewManager};

use crate::message::MessageHeader;
use crate::{Instant, Message, Persist, ReplicaId, Sequence, Sessions, View, WriteId};

/// Names a request of a local caller; chosen by the driver, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names a read of a local caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// Names a transfer asked for by a local caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub u64);

/// Times and sizes. All times are in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CoreOptions {
    pub me: ReplicaId,
    /// Every replica of the cluster, this one included: 1 to 7.
    pub replicas: Vec<ReplicaId>,
    pub heartbeat_us: u64,
    /// A secondary that hears nothing for a random time between these two stands for election.
    pub election_min_us: u64,
    pub election_max_us: u64,
    /// After this long without progress, requests, reads and entries are sent again.
    pub retry_us: u64,
    /// Most payload bytes in one value.
    pub max_batch_bytes: usize,
    /// Most values proposed and not yet committed.
    pub max_in_flight_values: u64,
    /// Most bytes sent to one peer and not yet settled there.
    pub window_bytes: usize,
    /// Most payload bytes in one message.
    pub max_message_bytes: usize,
    /// Entries of a log that is not held yet are kept aside up to about this many bytes.
    pub stage_bytes: usize,
    /// Applied entries are kept in memory, for peers that lag, up to this many bytes.
    pub log_cache_bytes: usize,
    /// While a replica lags or is away, the others keep entries for it in the log on disk up to about this many bytes;
    /// what it needs beyond comes as a snapshot. What it needs behind a snapshot under way is kept beyond this.
    pub log_keep_bytes: u64,
    /// Most bytes in one piece of a snapshot.
    pub snapshot_chunk_bytes: usize,
    /// How fast a snapshot is asked for at first; 0: as fast as it comes. Where the log grows faster than that, the rate is
    /// doubled until the snapshot gains on it.
    pub snapshot_bytes_per_second: u64,
    /// Most bytes of requests without an outcome; more are refused.
    pub max_request_bytes: usize,
    /// Most bytes of entries that are not applied yet; a primary proposes no more beyond.
    pub max_unapplied_bytes: usize,
    /// For how long secondaries let nobody else lead after they heard the primary, which meanwhile serves reads without
    /// asking them. 0: no leases. Shorter than `election_min_us`, and the same on all replicas.
    pub lease_us: u64,
    /// The running digest is recorded at every multiple of this sequence, and compared with that of the others. The same
    /// on all replicas; the driver hands it to the [`crate::Applier`].
    pub digest_interval: u64,
    /// Differs per replica; only timing depends on it.
    pub seed: u64,
}

impl CoreOptions {
    /// The defaults for a cluster of `replicas`.
    pub fn new(me: ReplicaId, replicas: Vec<ReplicaId>, seed: u64) -> CoreOptions {
        CoreOptions {
            me,
            replicas,
            heartbeat_us: 50_000,
            election_min_us: 300_000,
            election_max_us: 600_000,
            retry_us: 200_000,
            max_batch_bytes: 1 << 20,
            max_in_flight_values: 4,
            window_bytes: 16 << 20,
            max_message_bytes: 4 << 20,
            stage_bytes: 8 << 20,
            log_cache_bytes: 64 << 20,
            log_keep_bytes: 1 << 30,
            snapshot_chunk_bytes: 1 << 20,
            snapshot_bytes_per_second: 100 << 20,
            max_request_bytes: 256 << 20,
            max_unapplied_bytes: 128 << 20,
            lease_us: 0,
            digest_interval: crate::DIGEST_INTERVAL,
            seed,
        }
    }
}

/// What happens to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time passed: at least every fifth of a heartbeat.
    Tick,
    Receive {
        sender: MessageHeader,
        message: Message,
        payload: Vec<Bytes>,
    },
    /// The connection to that peer ended: a hint that it may be dead.
    Disconnected(ReplicaId),
    /// A local caller wants `payload` executed.
    Propose {
        id: RequestId,
        payload: Bytes,
    },
    /// The caller gave up: if the request has not been sent, it is taken back.
    Cancel(RequestId),
    /// The caller of the request with this number in the own session gave up: a void takes its place, as far as that is
    /// still possible.
    GiveUp(u64),
    /// A local caller wants a linearizable read point.
    Read(ReadId),
    CancelRead(ReadId),
    /// A local caller wants another replica to lead: `to`, or whichever is best.
    Transfer {
        id: TransferId,
        to: Option<ReplicaId>,
        deadline: Instant,
    },
    /// Whether this replica may lead; at start it may. One that may not still votes.
    Eligible(bool),
    /// Whether storage has space for more; at start it has.
    Space(bool),
    /// Whether it has far more space than it must: enough to keep as much of the log as a peer needs that gets a copy of the
    /// database. At start it has.
    Room(bool),
    /// This replica is about to stop: it leads no more.
    Stopping,
    /// Storage completed every write up to this one.
    Durable(WriteId),
    /// The executor applied everything through `sequence`, which left these sessions, time and digest.
    Applied {
        sequence: Sequence,
        sessions: Sessions,
        time_us: u64,
        digest: u64,
    },
    /// The running digest at each multiple of the digest interval that the executor reached.
    Digests(Vec<(Sequence, u64)>),
    /// The database would survive a crash through this sequence; the log takes so many bytes on disk.
    Persisted {
        sequence: Sequence,
        log_bytes: u64,
    },
    /// What became of a piece of a snapshot that was asked for with [`Outputs::read_snapshot`].
    SnapshotRead(SnapshotPiece),
    /// What became of the steps in [`Outputs::install`].
    Installed(InstallEvent),
    /// Entries read from storage, as asked for by [`Outputs::read_log`].
    LogRead {
        read: LogRead,
        entries: Vec<Bytes>,
    },
}

/// Whom entries from storage are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadPurpose {
    /// A peer that follows.
    Follow(ReplicaId),
    /// A candidate that adopts this log.
    Fetch(ReplicaId),
    /// This replica, which holds no entries in memory: what lies beyond the snapshot that it installs.
    Tail,
}

/// Entries wanted from storage, because memory holds them no longer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogRead {
    pub purpose: ReadPurpose,
    pub view: View,
    pub from: Sequence,
    pub to: Sequence,
    pub max_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outgoing {
    pub to: ReplicaId,
    pub message: Message,
    pub payload: Vec<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Too many bytes of requests wait for an outcome.
    Overloaded,
    /// Taken back before it was sent.
    Cancelled,
    /// Too few replicas have space for more.
    StorageFull,
}

/// What is to be done now. Messages and writes may be carried out at the same time: a message that claims something
/// durable is only made once it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outputs {
    pub persist: Vec<Persist>,
    pub send: Vec<Outgoing>,
    /// Chosen and durable here: to be executed in this order, without holes.
    pub deliver: Vec<(Sequence, Bytes)>,
    pub read_log: Vec<LogRead>,
    /// The read may be served from a database that has applied this sequence.
    pub read_ready: Vec<(ReadId, Sequence)>,
    /// The number that each request got in this replica's session: it will be executed under it or never.
    pub numbered: Vec<(RequestId, u64)>,
    /// Requests of the own session that had a number and were never sent: they are surely not executed. The voids in their
    /// places still come as applied.
    pub withdrawn: Vec<u64>,
    /// Entries below this are in this replica's database for good, and are not kept for others any more.
    pub trim: Option<Sequence>,
    /// Pieces of this replica's database, for peers.
    pub read_snapshot: Vec<SnapshotRead>,
    /// What is to be done with the database that is being built beside the present one, in this order.
    pub install: Vec<InstallStep>,
    /// The database of this generation takes the place of the present one, after what was delivered before and ahead of
    /// what is delivered from now on.
    pub switch: Option<u64>,
    /// Surely not executed.
    pub refused: Vec<(RequestId, Refusal)>,
    /// How transfers asked for here ended: who leads now, or why it is as before.
    pub transferred: Vec<(TransferId, Result<ReplicaId, TransferError>)>,
    /// This replica's database is not what the log says, or nobody knows which one is: it must stop serving, and does
    /// nothing any more.
    pub diverged: Option<Divergence>,
}

/// A small deterministic generator (SplitMix64, Steele et al. 2014) that can be cloned, compared and hashed with the
/// replica that owns it; used for timing only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Jitter(u64);

impl Jitter {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
