//! The values that replicas agree on, and the state of RSML itself that follows from them.
//!
//! A [`Value`] is one entry of the log: the bootstrap record, a no-op, or requests of several
//! sessions. [`ReplicatedState`] is the fold of all values applied so far. The executor stores it
//! in the same atomic write as its own data, so that the two never disagree after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::{Boot, ClusterId, DiskId, Epoch, FeatureLevel, ReplicaId, Sequence};

/// A 128-bit id on the wire and on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Id128 {
    /// The upper 64 bits.
    #[prost(fixed64, tag = "1")]
    pub high: u64,
    /// The lower 64 bits.
    #[prost(fixed64, tag = "2")]
    pub low: u64,
}

impl From<u128> for Id128 {
    fn from(id: u128) -> Self {
        Id128 { high: (id >> 64) as u64, low: id as u64 }
    }
}

impl From<Id128> for u128 {
    fn from(id: Id128) -> Self {
        u128::from(id.high) << 64 | u128::from(id.low)
    }
}

/// A voter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Member {
    /// The id of the replica.
    #[prost(uint32, tag = "1")]
    pub replica: u32,
    /// The disk whose answers are votes.
    #[prost(message, required, tag = "2")]
    pub disk_id: Id128,
}

/// The first entry of every log: the cluster's id and its first voters.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct BirthRecord {
    /// The id of the cluster.
    #[prost(message, required, tag = "1")]
    pub cluster_id: Id128,
    /// The voters.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

impl BirthRecord {
    /// The record of a cluster with these voters.
    pub fn new(cluster_id: ClusterId, voters: &BTreeMap<ReplicaId, DiskId>) -> BirthRecord {
        BirthRecord { cluster_id: cluster_id.0.into(), members: members(voters) }
    }

    /// The id of the cluster.
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId(self.cluster_id.into())
    }

    /// The configuration with which the cluster begins: that of epoch 1.
    pub fn configuration(&self) -> Configuration {
        let disks = self.members.iter().map(|m| (ReplicaId(m.replica as u8), DiskId(m.disk_id.into()))).collect();
        Configuration { epoch: Epoch(1), disks }
    }
}

fn members(voters: &BTreeMap<ReplicaId, DiskId>) -> Vec<Member> {
    voters.iter().map(|(id, disk)| Member { replica: u32::from(id.0), disk_id: disk.0.into() }).collect()
}

/// The replicated part of a [`crate::Membership`]: the voters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Its number.
    pub epoch: Epoch,
    /// The voters, each with the disk whose answers are votes.
    pub disks: BTreeMap<ReplicaId, DiskId>,
}

/// Consecutive requests of one session.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RequestBatch {
    /// The disk of the session's replica.
    #[prost(message, required, tag = "1")]
    pub disk_id: Id128,
    /// The start of that replica.
    #[prost(uint64, tag = "2")]
    pub boot: u64,
    /// The number of `payloads[0]` in its session; the first of a session is 1.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// The requests to execute; opaque to RSML.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub payloads: Vec<Bytes>,
    /// The numbers of those among them that are *voids*, ascending: their callers gave up, and the
    /// void cancels the request that had the same number in the session. Their payloads are empty.
    #[prost(uint64, repeated, tag = "5")]
    pub voids: Vec<u64>,
}

impl RequestBatch {
    /// Advances `session`, which must be that of this batch, over the requests that come next in
    /// it, and passes those to `take` with their numbers; `None` for a void. Repetitions and
    /// requests after a gap are skipped.
    pub(crate) fn advance_session(self, session: &mut SessionState, mut take: impl FnMut(u64, Option<Bytes>)) {
        let boot = Boot(self.boot);
        for (number, payload) in self.into_requests() {
            if session.admit(boot, number) {
                take(number, payload);
            }
        }
    }

    /// Each request with its number; `None` for a void.
    pub fn into_requests(self) -> impl Iterator<Item = (u64, Option<Bytes>)> {
        let mut voids = self.voids.into_iter().peekable();
        (self.first..).zip(self.payloads).map(move |(number, payload)| {
            let is_void = voids.next_if_eq(&number).is_some();
            (number, (!is_void).then_some(payload))
        })
    }
}

/// One entry of the log. Without a bootstrap record, batches and a level it is a no-op.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Value {
    /// The view in which it was first proposed. Informative only.
    #[prost(uint64, tag = "1")]
    pub proposed_view: u64,
    /// Replicated time in microseconds, given by the primary; see [`ReplicatedState::time_us`].
    #[prost(uint64, tag = "2")]
    pub time_us: u64,
    /// Set in the first entry of the log only.
    #[prost(message, optional, tag = "3")]
    pub birth: Option<BirthRecord>,
    /// Requests to execute, in this order.
    #[prost(message, repeated, tag = "4")]
    pub batches: Vec<RequestBatch>,
    /// The feature level that the cluster has from this entry on, its requests included; 0: the one
    /// that it has. An entry that raises the level holds nothing else.
    #[prost(uint32, tag = "5")]
    pub raise_feature_level: u32,
}

impl Value {
    /// The feature level after this entry, given the one before it. It never goes down.
    pub fn level_after(&self, before: FeatureLevel) -> FeatureLevel {
        before.max(FeatureLevel::from_field(self.raise_feature_level))
    }

    /// The encoded value.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Advances `sessions` over the requests of this value, and passes those that are to be
    /// executed, and the voids among them, to `take`: disk and boot of the session, number,
    /// payload. The executor, and a primary that works out how the end of its log leaves the
    /// sessions, agree because both use this.
    pub(crate) fn advance_sessions(
        self,
        sessions: &mut Sessions,
        mut take: impl FnMut(DiskId, Boot, u64, Option<Bytes>),
    ) {
        for batch in self.batches {
            let (disk, boot) = (DiskId(batch.disk_id.into()), Boot(batch.boot));
            let session = sessions.entry(disk).or_default();
            batch.advance_session(session, |number, payload| take(disk, boot, number, payload));
        }
    }

    /// Decodes a value.
    ///
    /// # Panics
    /// When the bytes are no value. Only bytes that a replica encoded, and that a checksum
    /// confirmed, get here.
    pub fn from_bytes(bytes: Bytes) -> Value {
        Value::decode(bytes).expect("a log entry is an encoded value")
    }
}

/// How far the requests of one session have been executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SessionState {
    /// The start of the replica whose session it is.
    pub boot: Boot,
    /// The last request executed of that boot.
    pub last: u64,
}

impl SessionState {
    /// Whether request `number` of `boot` is the next one of the session; if so, it counts as
    /// executed. Requests with lower numbers are duplicates, and those with higher numbers will be
    /// repeated.
    pub fn admit(&mut self, boot: Boot, number: u64) -> bool {
        let next = if boot > self.boot { SessionState { boot, last: 0 } } else { *self };
        if boot < self.boot || number != next.last + 1 {
            return false;
        }
        *self = SessionState { boot, last: number };
        true
    }
}

/// The sessions, by the disk of their replica. A disk has one session at a time.
pub type Sessions = BTreeMap<DiskId, SessionState>;

/// RSML's own part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReplicatedState {
    /// The cluster that this is the state of.
    pub cluster_id: ClusterId,
    /// The last value applied.
    pub sequence: Sequence,
    /// The voters.
    pub configuration: Configuration,
    /// How far the requests of each session have been executed.
    pub sessions: Sessions,
    /// Replicated time: microseconds since the cluster's birth, as counted by the monotonic clocks
    /// of its primaries.
    pub time_us: u64,
    /// A fold over every request executed and its outcome: equal on all replicas at equal
    /// sequences.
    pub digest: u64,
    /// The newest digests at multiples of the digest interval, ascending: a replica that starts
    /// again reports them to the others.
    pub recorded: Vec<(Sequence, u64)>,
    /// The kinds of entries that the log may hold from here on. This is the one place where the
    /// level of a cluster is kept; everything else that tells it was computed from here.
    pub feature_level: FeatureLevel,
}

/// How many recorded digests are stored with the state.
const RECORDED: usize = 4;

/// The running digest at one sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct DigestAt {
    /// The sequence.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// The digest.
    #[prost(fixed64, tag = "2")]
    pub digest: u64,
}

impl From<(Sequence, u64)> for DigestAt {
    fn from((sequence, digest): (Sequence, u64)) -> Self {
        DigestAt { sequence: sequence.0, digest }
    }
}

impl From<DigestAt> for (Sequence, u64) {
    fn from(at: DigestAt) -> Self {
        (Sequence(at.sequence), at.digest)
    }
}

#[derive(Clone, PartialEq, Message)]
struct StoredSession {
    #[prost(message, required, tag = "1")]
    disk_id: Id128,
    #[prost(uint64, tag = "2")]
    boot: u64,
    #[prost(uint64, tag = "3")]
    last: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredState {
    #[prost(message, required, tag = "1")]
    cluster_id: Id128,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(message, repeated, tag = "4")]
    members: Vec<Member>,
    #[prost(message, repeated, tag = "5")]
    sessions: Vec<StoredSession>,
    #[prost(uint64, tag = "6")]
    time_us: u64,
    #[prost(fixed64, tag = "7")]
    digest: u64,
    #[prost(message, repeated, tag = "8")]
    recorded: Vec<DigestAt>,
    #[prost(uint32, tag = "9")]
    feature_level: u32,
}

impl ReplicatedState {
    /// The encoded state.
    pub fn to_bytes(&self) -> Bytes {
        let stored = StoredState {
            cluster_id: self.cluster_id.0.into(),
            sequence: self.sequence.0,
            epoch: self.configuration.epoch.0,
            members: members(&self.configuration.disks),
            sessions: self
                .sessions
                .iter()
                .map(|(d, s)| StoredSession { disk_id: d.0.into(), boot: s.boot.0, last: s.last })
                .collect(),
            time_us: self.time_us,
            digest: self.digest,
            recorded: self.recorded.iter().copied().map(DigestAt::from).collect(),
            feature_level: self.feature_level.to_field(),
        };
        stored.encode_to_vec().into()
    }

    /// Decodes a state; `None` when the bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<ReplicatedState> {
        let stored = StoredState::decode(bytes).ok()?;
        let disks = stored.members.iter().map(|m| (ReplicaId(m.replica as u8), DiskId(m.disk_id.into()))).collect();
        let session = |s: &StoredSession| (DiskId(s.disk_id.into()), SessionState { boot: Boot(s.boot), last: s.last });
        Some(ReplicatedState {
            cluster_id: ClusterId(stored.cluster_id.into()),
            sequence: Sequence(stored.sequence),
            configuration: Configuration { epoch: Epoch(stored.epoch), disks },
            sessions: stored.sessions.iter().map(session).collect(),
            time_us: stored.time_us,
            digest: stored.digest,
            recorded: stored.recorded.into_iter().map(From::from).collect(),
            feature_level: FeatureLevel::from_field(stored.feature_level),
        })
    }

    /// Records the present digest as that of `sequence`.
    pub(crate) fn record_digest(&mut self, sequence: Sequence) {
        self.recorded.push((sequence, self.digest));
        let surplus = self.recorded.len().saturating_sub(RECORDED);
        self.recorded.drain(..surplus);
    }

    /// The bootstrap record with which this state began.
    pub fn birth(&self) -> BirthRecord {
        BirthRecord::new(self.cluster_id, &self.configuration.disks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_executes_each_number_once_and_in_order() {
        let mut session = SessionState::default();
        assert!(session.admit(Boot(1), 1));
        assert!(!session.admit(Boot(1), 1), "a duplicate");
        assert!(!session.admit(Boot(1), 3), "a gap");
        assert!(session.admit(Boot(1), 2));
        assert!(!session.admit(Boot(2), 2), "a new boot starts at 1");
        assert!(session.admit(Boot(2), 1));
        assert!(!session.admit(Boot(1), 3), "an old boot is over");
        assert!(!session.admit(Boot(1), 1), "nor does it begin again");
    }

    #[test]
    fn the_level_never_goes_down() {
        let raises = |to| Value { raise_feature_level: to, ..Value::default() };
        let levels = [(1, 0, 1), (1, 2, 2), (2, 0, 2), (2, 2, 2), (3, 2, 3)];
        for (before, raise, after) in levels {
            assert_eq!(
                raises(raise).level_after(FeatureLevel(before)),
                FeatureLevel(after),
                "{before}, raised to {raise}"
            );
        }
    }

    #[test]
    fn the_state_survives_its_encoding() {
        let disk = DiskId(u128::MAX - 5);
        let state = ReplicatedState {
            cluster_id: ClusterId(7 << 80),
            sequence: Sequence(9),
            configuration: Configuration { epoch: Epoch(1), disks: [(ReplicaId(2), disk)].into() },
            sessions: [(disk, SessionState { boot: Boot(3), last: 12 })].into(),
            time_us: 55,
            digest: u64::MAX,
            recorded: vec![(Sequence(4), 1 << 60), (Sequence(8), 3)],
            feature_level: FeatureLevel(7),
        };
        assert_eq!(ReplicatedState::from_bytes(&state.to_bytes()), Some(state.clone()));
        let first = ReplicatedState { feature_level: FeatureLevel::FIRST, ..state };
        assert_eq!(ReplicatedState::from_bytes(&first.to_bytes()), Some(first));
    }
}
