//! The values that replicas agree on, and the state of RSML itself that follows from them.
//!
//! A [`Value`] is one entry of the log: the bootstrap record, a no-op, or requests of several
//! sessions. [`ReplicatedState`] is the fold of all values applied so far. The executor stores it
//! in the same atomic write as its own data, so that the two never disagree after a crash.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::configuration::{Configuration, ConfiguredMember, Id128, Member, Reconfigure, from_stored, to_stored};
use crate::{Boot, ClusterId, DiskId, Epoch, FeatureLevel, ReplicaId, Sequence};

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
        let members = voters.iter().map(|(id, disk)| ConfiguredMember::voter(*disk).to_stored(*id)).collect();
        BirthRecord { cluster_id: cluster_id.0.into(), members }
    }

    /// The id of the cluster.
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId(self.cluster_id.into())
    }

    /// The configuration with which the cluster begins: that of epoch 1.
    pub fn configuration(&self) -> Configuration {
        Configuration { epoch: Epoch::FIRST, since: Sequence::BIRTH, members: from_stored(&self.members) }
    }
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

/// One entry of the log. Without a bootstrap record, batches, a level and a seal it is a no-op.
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
    /// A seal. Such an entry holds nothing else.
    #[prost(message, optional, tag = "6")]
    pub reconfigure: Option<Reconfigure>,
}

/// The key with which [`Value::reconfigure`] begins in an encoded value: number 6, a length.
const SEAL_KEY: u8 = 6 << 3 | 2;

/// The epoch that begins after this entry, if it is a seal. Cheap for all other entries, since a
/// seal holds nothing but what comes before that field.
pub(crate) fn sealed_epoch(entry: &Bytes) -> Option<Epoch> {
    let mut rest = &entry[..];
    while let [key, fields @ ..] = rest {
        match *key {
            // `proposed_view` and `time_us`: variable-length numbers.
            0x08 | 0x10 => {
                let end = fields.iter().position(|byte| byte & 0x80 == 0)?;
                rest = &fields[end + 1..];
            }
            SEAL_KEY => {
                return Some(Epoch(Value::decode(entry.clone()).ok()?.reconfigure?.epoch));
            }
            _ => return None,
        }
    }
    None
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
    /// The members.
    pub configuration: Configuration,
    /// The voters with which the cluster began.
    pub first_voters: BTreeMap<ReplicaId, DiskId>,
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
    /// Of the configuration; 0: the bootstrap record.
    #[prost(uint64, tag = "10")]
    since: u64,
    /// The voters with which the cluster began, if they are others than now.
    #[prost(message, repeated, tag = "11")]
    first_voters: Vec<Member>,
}

impl ReplicatedState {
    /// The encoded state.
    pub fn to_bytes(&self) -> Bytes {
        let stored = StoredState {
            cluster_id: self.cluster_id.0.into(),
            sequence: self.sequence.0,
            epoch: self.configuration.epoch.0,
            members: to_stored(&self.configuration.members),
            sessions: self
                .sessions
                .iter()
                .map(|(d, s)| StoredSession { disk_id: d.0.into(), boot: s.boot.0, last: s.last })
                .collect(),
            time_us: self.time_us,
            digest: self.digest,
            recorded: self.recorded.iter().copied().map(DigestAt::from).collect(),
            feature_level: self.feature_level.to_field(),
            since: match self.configuration {
                Configuration { epoch, since, .. } if epoch > Epoch(0) && since == Sequence::BIRTH => 0,
                Configuration { since, .. } => since.0,
            },
            first_voters: if self.configuration.epoch == Epoch::FIRST { Vec::new() } else { self.birth().members },
        };
        stored.encode_to_vec().into()
    }

    /// Decodes a state; `None` when the bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<ReplicatedState> {
        let stored = StoredState::decode(bytes).ok()?;
        let since = match (stored.epoch, stored.since) {
            (0, 0) => Sequence::ZERO,
            (_, 0) => Sequence::BIRTH,
            (_, since) => Sequence(since),
        };
        let members = from_stored(&stored.members);
        let configuration = Configuration { epoch: Epoch(stored.epoch), since, members };
        let first_voters = match stored.epoch {
            0 | 1 => configuration.voters().collect(),
            _ => Configuration { members: from_stored(&stored.first_voters), ..Configuration::default() }
                .voters()
                .collect(),
        };
        let session = |s: &StoredSession| (DiskId(s.disk_id.into()), SessionState { boot: Boot(s.boot), last: s.last });
        Some(ReplicatedState {
            cluster_id: ClusterId(stored.cluster_id.into()),
            sequence: Sequence(stored.sequence),
            configuration,
            first_voters,
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
        BirthRecord::new(self.cluster_id, &self.first_voters)
    }

    /// Takes over the members with which the cluster begins.
    pub(crate) fn be_born(&mut self, birth: &BirthRecord) {
        self.cluster_id = birth.cluster_id();
        self.configuration = birth.configuration();
        self.first_voters = self.configuration.voters().collect();
    }

    /// Begins the epoch that the seal at `sequence` names, and ends the sessions of disks that
    /// voted and do not belong to it any more. Does nothing where the log is in another epoch.
    pub(crate) fn reconfigure(&mut self, seal: &Reconfigure, sequence: Sequence) {
        let Some(next) = self.configuration.after(seal, sequence) else { return };
        coverage!("epochs.seal_applied");
        let before = std::mem::replace(&mut self.configuration, next);
        for (_, disk) in before.voters().filter(|(id, disk)| !self.configuration.may_use(*id, *disk)) {
            self.sessions.remove(&disk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Addresses;

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
            configuration: Configuration {
                epoch: Epoch::FIRST,
                since: Sequence::BIRTH,
                members: [(ReplicaId(2), ConfiguredMember::voter(disk))].into(),
            },
            first_voters: [(ReplicaId(2), disk)].into(),
            sessions: [(disk, SessionState { boot: Boot(3), last: 12 })].into(),
            time_us: 55,
            digest: u64::MAX,
            recorded: vec![(Sequence(4), 1 << 60), (Sequence(8), 3)],
            feature_level: FeatureLevel(7),
        };
        assert_eq!(ReplicatedState::from_bytes(&state.to_bytes()), Some(state.clone()));
        let first = ReplicatedState { feature_level: FeatureLevel::FIRST, ..state.clone() };
        assert_eq!(ReplicatedState::from_bytes(&first.to_bytes()), Some(first));
        let addresses = Addresses { peer: "b:1".into(), clients: vec!["b:2".into()] };
        let members = [
            (ReplicaId(2), ConfiguredMember::voter(DiskId(9))),
            (ReplicaId(5), ConfiguredMember::Observer { addresses }),
        ];
        let configuration = Configuration { epoch: Epoch(3), since: Sequence(8), members: members.into() };
        let later = ReplicatedState { configuration, ..state };
        assert_eq!(ReplicatedState::from_bytes(&later.to_bytes()), Some(later));
    }

    fn state_of(voters: &[u8]) -> ReplicatedState {
        let voters = voters.iter().map(|id| (ReplicaId(*id), DiskId(u128::from(*id) + 100))).collect();
        let mut state = ReplicatedState::default();
        state.be_born(&BirthRecord::new(ClusterId(7), &voters));
        state
    }

    fn seal(epoch: u64, members: &[(u8, u128)]) -> Reconfigure {
        let members =
            members.iter().map(|(id, disk)| (ReplicaId(*id), ConfiguredMember::voter(DiskId(*disk)))).collect();
        Reconfigure::new(Epoch(epoch), &members)
    }

    #[test]
    fn a_seal_counts_only_in_the_epoch_that_it_ends() {
        let mut state = state_of(&[0, 1, 2]);
        for other in [1, 3, 0] {
            state.reconfigure(&seal(other, &[(0, 100)]), Sequence(5));
            assert_eq!(state.configuration, state_of(&[0, 1, 2]).configuration, "a seal of {other}");
        }
        state.reconfigure(&seal(2, &[(0, 100), (4, 104)]), Sequence(6));
        assert_eq!((state.configuration.epoch, state.configuration.since), (Epoch(2), Sequence(6)));
        assert_eq!(
            state.configuration.voters().collect::<Vec<_>>(),
            [(ReplicaId(0), DiskId(100)), (ReplicaId(4), DiskId(104))]
        );
        assert_eq!(state.birth(), state_of(&[0, 1, 2]).birth(), "the record of the birth stays");
        let unborn = ReplicatedState::default();
        assert_eq!(unborn.configuration.after(&seal(1, &[(0, 100)]), Sequence(1)), None);
    }

    #[test]
    fn sessions_end_with_the_disks_that_a_seal_removes() {
        let mut state = state_of(&[0, 1, 2]);
        for disk in [100, 101, 102, 103] {
            state.sessions.insert(DiskId(disk), SessionState { boot: Boot(1), last: 4 });
        }
        // 0 stays, 1 gets another disk, 2 leaves; 103 is an observer's.
        state.reconfigure(&seal(2, &[(0, 100), (1, 201)]), Sequence(9));
        assert_eq!(state.sessions.keys().copied().collect::<Vec<_>>(), [DiskId(100), DiskId(103)]);
    }

    #[test]
    fn a_seal_is_known_by_its_first_bytes() {
        let seal = Value { reconfigure: Some(seal(7, &[(0, 100)])), ..Value::default() };
        for value in [seal.clone(), Value { proposed_view: 1 << 41 | 257, time_us: u64::MAX, ..seal }] {
            assert_eq!(sealed_epoch(&value.to_bytes()), Some(Epoch(7)));
        }
        let batch = RequestBatch { disk_id: 1.into(), boot: 1, first: 1, payloads: vec![], voids: vec![] };
        let others = [
            Value::default(),
            Value { proposed_view: 257, time_us: 300, ..Value::default() },
            Value { proposed_view: 257, batches: vec![batch], ..Value::default() },
            Value { raise_feature_level: 2, ..Value::default() },
            Value { birth: Some(state_of(&[0]).birth()), ..Value::default() },
        ];
        for value in others {
            assert_eq!(sealed_epoch(&value.to_bytes()), None, "{value:?}");
        }
    }
}
