//! Work on the log of a replica that does not run: surveys it, tells whether survivors could elect a
//! primary, and founds a new cluster of one member on top of a database that exists already.
//!
//! A cluster that is founded here begins like one whose log was trimmed: its log is empty and
//! continues behind the database, and the replicated state in the database holds the bootstrap
//! record. So nothing else has to know how a cluster came into being.
//!
//! Invariant: nobody can come to such a database by applying the log. A new disk gets the bootstrap
//! record, takes it as entry 1, and asks for the entries that follow. So the log of a founded
//! cluster begins after entry 2 at the earliest: whoever has less than the founder's database finds
//! entry 2 trimmed, and fetches a copy. As a second line of defence the id of the cluster goes into
//! the running digest: a replica without the past is found to have diverged.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::configuration::Configuration;
use crate::core::choice::{Choice, Promised, choose_log};
use crate::core::configuration_at;
use crate::value::{BirthRecord, ReplicatedState, Value};
use crate::{
    Boot, ClusterId, DiskId, Epoch, HardState, Persist, ReplicaId, Sequence, Storage, StorageError, View, WriteId,
};

/// The earliest sequence that the database of a founded cluster has.
pub const EARLIEST: Sequence = Sequence(2);

/// The first member of a new cluster, whose ids must never have been used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The new cluster.
    pub cluster_id: ClusterId,
    /// Its only member.
    pub replica: ReplicaId,
    /// The name of that member's disk.
    pub disk_id: DiskId,
    /// The generation of the database on top of which the cluster begins.
    pub generation: u64,
}

/// Founds a cluster of one member on top of a database with the state `kept`: writes its log to
/// `storage`, which must be empty, and returns the state that belongs into the database instead of
/// `kept`.
///
/// Neither is of use without the other, and both must be durable before the replica starts. The
/// state continues with the sequence of `kept` (at least 2), its time, digest and feature level. For
/// a database that was never part of a cluster, `kept` is the default with its own time and feature
/// level.
///
/// # Errors
/// Those of the storage, which has to be emptied then.
///
/// # Panics
/// If the storage holds a log.
pub fn found_cluster<S: Storage>(
    storage: &mut S,
    founding: &Founding,
    kept: &ReplicatedState,
) -> Result<ReplicatedState, StorageError> {
    let state = founding.state_after(kept);
    founding.write_log(storage, state.sequence)?;
    Ok(state)
}

impl Founding {
    /// The first half of [`found_cluster`]: the state that takes the place of `kept`.
    pub fn state_after(&self, kept: &ReplicatedState) -> ReplicatedState {
        let voters = [(self.replica, self.disk_id)].into();
        let mut state = ReplicatedState {
            sequence: kept.sequence.max(EARLIEST),
            time_us: kept.time_us,
            digest: xxh3_64_with_seed(&self.cluster_id.0.to_le_bytes(), kept.digest),
            feature_level: kept.feature_level,
            ..ReplicatedState::default()
        };
        state.be_born(&BirthRecord::new(self.cluster_id, &voters));
        state
    }

    /// Like [`Self::state_after`], for a cluster with several first members. Each of them has the
    /// same state on top of the same database, and a log of its own ([`Self::write_log`]).
    ///
    /// # Panics
    /// If the replica and its disk are not among `voters`.
    pub fn state_with(&self, voters: &BTreeMap<ReplicaId, DiskId>, kept: &ReplicatedState) -> ReplicatedState {
        assert_eq!(voters.get(&self.replica), Some(&self.disk_id), "a founder is one of the first voters");
        let mut state = self.state_after(kept);
        state.be_born(&BirthRecord::new(self.cluster_id, voters));
        state
    }

    /// The second half of [`found_cluster`]: the log that continues behind a database with a state
    /// of this `sequence`.
    ///
    /// # Errors
    /// As for [`found_cluster`].
    ///
    /// # Panics
    /// If the storage holds a log.
    pub fn write_log<S: Storage>(&self, storage: &mut S, sequence: Sequence) -> Result<(), StorageError> {
        let found = storage.recover()?;
        assert!(found.hard_state.is_none() && found.last == Sequence::ZERO, "a cluster is founded where no log is");
        let write = Persist {
            write_id: WriteId(1),
            hard_state: HardState {
                cluster_id: self.cluster_id,
                epoch: Epoch::FIRST,
                disk_id: self.disk_id,
                // A disk that was never started gets another name at its first start.
                boot: Boot(1),
                promised: View::BIRTH,
                accepted_view: View::BIRTH,
                generation: self.generation,
                lease_us: 0,
                ended_view: View::BIRTH,
            },
            base: Some(sequence),
            from: sequence.next(),
            truncate: false,
            entries: Vec::new(),
        };
        match storage.persist(&[write])? {
            0 => Err(StorageError::Full { path: "the new log".to_owned() }),
            _ => Ok(()),
        }
    }
}

/// The contents of a replica's log and database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Everything durable besides log and database.
    pub hard_state: HardState,
    /// The first entry that the log holds.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
    /// Entries between them that are damaged: ranges, ends included. All entries that the database
    /// has not applied were read.
    pub lost: Vec<(Sequence, Sequence)>,
    /// The state in the database.
    pub state: ReplicatedState,
    /// The members of the epoch in which the replica acts; `None` if neither database nor log say
    /// who they are.
    pub configuration: Option<Configuration>,
    /// The members that a seal at the end of the log names.
    pub next_configuration: Option<Configuration>,
    /// At least so far entries are known as chosen.
    pub committed: Sequence,
}

impl Survey {
    /// Looks at a log. `state_of` returns the state that the database of a generation holds.
    /// Returns `None` if the disk is empty or belongs to no cluster yet.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn of<S: Storage>(
        storage: &mut S,
        state_of: impl FnOnce(u64) -> ReplicatedState,
    ) -> Result<Option<Survey>, StorageError> {
        let found = storage.recover()?;
        let Some(hard_state) = found.hard_state.filter(|hard| hard.cluster_id != ClusterId::NONE) else {
            return Ok(None);
        };
        let state = state_of(hard_state.generation);
        let from = state.sequence.next().max(found.first);
        let entries = storage.load(from)?;
        let is_joined = found.first <= state.sequence.next() && found.last >= state.sequence;
        let configuration = if is_joined { members_at(hard_state.epoch, &state, &entries) } else { None };
        let next_configuration = configuration.as_ref().and_then(|now| sealed(now, from, &entries));
        let since = configuration.as_ref().map_or(Sequence::ZERO, |configuration| configuration.since);
        let committed = state.sequence.max(since).max(found.first.previous()).min(found.last);
        let lost = lost_ranges(&found.lost, from, &entries);
        let (first, last) = (found.first, found.last);
        Ok(Some(Survey { hard_state, first, last, lost, state, configuration, next_configuration, committed }))
    }

    /// Whether the log continues where the database ends.
    pub fn is_joined(&self) -> bool {
        self.first <= self.state.sequence.next() && self.last >= self.state.sequence
    }
}

fn members_at(epoch: Epoch, state: &ReplicatedState, entries: &[Option<Bytes>]) -> Option<Configuration> {
    if state.configuration.epoch > epoch {
        return None;
    }
    configuration_at(epoch, state, state.sequence.next(), entries).map(|(_, configuration)| configuration)
}

/// The configuration that the first seal behind `now` names.
fn sealed(now: &Configuration, from: Sequence, entries: &[Option<Bytes>]) -> Option<Configuration> {
    let behind = (from.0..).map(Sequence).zip(entries).filter(|(sequence, _)| *sequence > now.since);
    let mut seals = behind.filter_map(|(sequence, entry)| {
        let seal = Value::from_bytes(entry.clone()?).reconfigure?;
        now.after(&seal, sequence)
    });
    seals.next()
}

/// The known ranges, and those that turned out to be unreadable among the entries from `from` on.
fn lost_ranges(known: &[(Sequence, Sequence)], from: Sequence, entries: &[Option<Bytes>]) -> Vec<(Sequence, Sequence)> {
    let unreadable = (from.0..).zip(entries).filter(|(_, entry)| entry.is_none()).map(|(sequence, _)| sequence);
    let below = known.iter().flat_map(|(first, last)| first.0..=last.0.min(from.0.saturating_sub(1)));
    let mut ranges: Vec<(Sequence, Sequence)> = Vec::new();
    for sequence in below.chain(unreadable).map(Sequence) {
        match ranges.last_mut() {
            Some((_, last)) if last.next() == sequence => *last = sequence,
            _ => ranges.push((sequence, sequence)),
        }
    }
    ranges
}

/// The promise that a surviving voter would make in phase 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The number under which its disk votes.
    pub replica: ReplicaId,
    /// The view that its log belongs to.
    pub accepted_view: View,
    /// The first entry that its log holds.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
    /// At least so far it knows entries as chosen.
    pub committed: Sequence,
    /// Entries that it has lost.
    pub lost: Vec<(Sequence, Sequence)>,
}

/// Whether these survivors, out of `voters` voters, could elect a primary among them once they are
/// started.
pub fn can_elect(survivors: &[Survivor], voters: usize) -> bool {
    let promise = |survivor: &Survivor| Promised {
        accepted_view: survivor.accepted_view,
        last: survivor.last,
        commit: survivor.committed,
        first: survivor.first,
        lost: survivor.lost.clone(),
    };
    let promises: BTreeMap<_, _> = survivors.iter().map(|survivor| (survivor.replica, promise(survivor))).collect();
    let commits = survivors.iter().map(|survivor| survivor.committed);
    let mut choices = commits.map(|commit| choose_log(&promises, commit, voters));
    choices.any(|choice| matches!(choice, Choice::Adopt(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FeatureLevel;
    use crate::configuration::{ConfiguredMember, Reconfigure};
    use crate::core::{CoreOptions, Replica, Start};
    use crate::value::SessionState;
    use crate::wal::InMemoryStorage;

    const FOUNDING: Founding =
        Founding { cluster_id: ClusterId(77), replica: ReplicaId(2), disk_id: DiskId(88), generation: 0 };

    fn former() -> ReplicatedState {
        let voters = (0..3).map(|id| (ReplicaId(id), DiskId(u128::from(id) + 100))).collect();
        let mut state = ReplicatedState {
            sequence: Sequence(40),
            time_us: 5_000,
            digest: 9,
            recorded: vec![(Sequence(32), 4)],
            sessions: [(DiskId(101), SessionState { boot: Boot(3), last: 12 })].into(),
            feature_level: FeatureLevel(2),
            ..ReplicatedState::default()
        };
        state.be_born(&BirthRecord::new(ClusterId(7), &voters));
        state
    }

    #[test]
    fn a_founded_cluster_keeps_what_was_applied_and_nothing_of_the_members() {
        let mut storage = InMemoryStorage::new();
        let state = found_cluster(&mut storage, &FOUNDING, &former()).unwrap();
        assert_eq!(state.cluster_id, ClusterId(77));
        assert_eq!(state.configuration.voters().collect::<Vec<_>>(), [(ReplicaId(2), DiskId(88))]);
        assert_eq!((state.configuration.epoch, state.configuration.since), (Epoch::FIRST, Sequence::BIRTH));
        assert_eq!((state.sequence, state.time_us, state.feature_level), (Sequence(40), 5_000, FeatureLevel(2)));
        assert_ne!(state.digest, former().digest, "a replica without the past differs");
        assert!(state.sessions.is_empty(), "requests of former members would count as executed");
        let recovered = storage.recover().unwrap();
        assert_eq!((recovered.first, recovered.last), (Sequence(41), Sequence(40)));
        assert_eq!(ReplicatedState::from_bytes(&state.to_bytes()), Some(state));
    }

    #[test]
    fn a_new_disk_cannot_come_to_the_database_of_a_founder_by_its_log() {
        let mut storage = InMemoryStorage::new();
        let state = found_cluster(&mut storage, &FOUNDING, &ReplicatedState::default()).unwrap();
        assert_eq!(state.sequence, Sequence(2), "it has entry 1, the bootstrap record, and asks for entry 2");
        assert_eq!(storage.recover().unwrap().first, Sequence(3));
    }

    #[test]
    fn the_founder_starts_as_the_only_voter() {
        let mut storage = InMemoryStorage::new();
        let state = found_cluster(&mut storage, &FOUNDING, &former()).unwrap();
        let start = Start {
            recovered: storage.recover().unwrap(),
            entries: Vec::new(),
            state,
            new_disk_id: DiskId(1),
            new_cluster_id: 1,
        };
        let options = CoreOptions::new(ReplicaId(2), vec![ReplicaId(2)], 1);
        let replica = Replica::new(options, start, crate::Instant(0));
        let status = replica.status();
        assert!(status.is_voter && status.role != "unborn", "{status:?}");
        assert_eq!((status.cluster_id, status.disk_id, status.boot), (ClusterId(77), DiskId(88), Boot(2)));
        assert_eq!((status.last, status.commit, status.applied), (Sequence(40), Sequence(40), Sequence(40)));
    }

    #[test]
    fn several_founders_begin_with_the_same_state_and_disks_of_their_own() {
        let disks = [1, 2, 3].map(|id| (ReplicaId(id), DiskId(u128::from(id) + 500)));
        let founder = |(replica, disk_id)| Founding { replica, disk_id, ..FOUNDING };
        let states = disks.map(|disk| founder(disk).state_with(&disks.into(), &ReplicatedState::default()));
        assert!(states.iter().all(|state| *state == states[0]), "replicas would be found to have diverged");
        assert_eq!(states[0].configuration.voters().collect::<Vec<_>>(), disks);
        assert_eq!(states[0].sequence, EARLIEST);
        for (disk, state) in disks.into_iter().zip(states) {
            let mut storage = InMemoryStorage::new();
            founder(disk).write_log(&mut storage, state.sequence).unwrap();
            let recovered = storage.recover().unwrap();
            let start = Start { recovered, entries: Vec::new(), state, new_disk_id: DiskId(1), new_cluster_id: 1 };
            let options = CoreOptions::new(disk.0, disks.map(|(id, _)| id).to_vec(), 1);
            let status = Replica::new(options, start, crate::Instant(0)).status();
            assert!(status.is_voter && status.role != "unborn", "{status:?}");
            assert_eq!((status.disk_id, status.last), (disk.1, EARLIEST));
        }
    }

    #[test]
    #[should_panic(expected = "where no log is")]
    fn a_cluster_is_not_founded_over_a_log() {
        let mut storage = InMemoryStorage::new();
        found_cluster(&mut storage, &FOUNDING, &former()).unwrap();
        found_cluster(&mut storage, &FOUNDING, &former()).unwrap();
    }

    fn log(entries: Vec<Value>, from: u64, epoch: Epoch) -> InMemoryStorage {
        let mut storage = InMemoryStorage::new();
        let hard_state = HardState {
            cluster_id: ClusterId(7),
            epoch,
            disk_id: DiskId(100),
            boot: Boot(4),
            promised: View(513),
            accepted_view: View(257),
            ..HardState::default()
        };
        let entries = entries.iter().map(Value::to_bytes).collect();
        let base = Some(Sequence(from - 1)).filter(|base| *base > Sequence::ZERO);
        let write = Persist { write_id: WriteId(1), hard_state, base, from: Sequence(from), truncate: false, entries };
        storage.persist(&[write]).unwrap();
        storage
    }

    fn seal(epoch: u64) -> Value {
        let members = [(ReplicaId(5), ConfiguredMember::voter(DiskId(105)))].into();
        Value { reconfigure: Some(Reconfigure::new(Epoch(epoch), &members)), ..Value::default() }
    }

    #[test]
    fn a_survey_reads_what_the_database_lacks_and_finds_the_lost_entries() {
        let mut storage = log(vec![Value::default(); 10], 36, Epoch::FIRST);
        storage.damage(Sequence(37), Sequence(37));
        storage.damage(Sequence(43), Sequence(44));
        let survey = Survey::of(&mut storage, |_| former()).unwrap().unwrap();
        assert_eq!((survey.first, survey.last, survey.committed), (Sequence(36), Sequence(45), Sequence(40)));
        assert_eq!(survey.lost, [(Sequence(37), Sequence(37)), (Sequence(43), Sequence(44))]);
        assert_eq!(survey.configuration.unwrap().members.len(), 3);
        assert_eq!(survey.next_configuration, None);
    }

    #[test]
    fn a_seal_in_the_log_names_the_members_that_follow() {
        let mut storage = log(vec![Value::default(), seal(2)], 41, Epoch::FIRST);
        let survey = Survey::of(&mut storage, |_| former()).unwrap().unwrap();
        assert_eq!(survey.configuration.unwrap().epoch, Epoch(1));
        let next = survey.next_configuration.unwrap();
        assert_eq!((next.epoch, next.since), (Epoch(2), Sequence(42)));
        // The same log of a replica that has entered: everything through the seal is chosen.
        let mut storage = log(vec![Value::default(), seal(2), Value::default()], 41, Epoch(2));
        let survey = Survey::of(&mut storage, |_| former()).unwrap().unwrap();
        assert_eq!(survey.configuration.unwrap().epoch, Epoch(2));
        assert_eq!((survey.next_configuration, survey.committed), (None, Sequence(42)));
    }

    #[test]
    fn a_log_that_does_not_continue_the_database_says_nothing_about_the_members() {
        let mut storage = log(vec![Value::default()], 50, Epoch::FIRST);
        let survey = Survey::of(&mut storage, |_| former()).unwrap().unwrap();
        assert!(!survey.is_joined());
        assert_eq!((survey.configuration, survey.committed), (None, Sequence(49)));
        assert_eq!(Survey::of(&mut InMemoryStorage::new(), |_| former()).unwrap(), None);
    }

    fn survivor(replica: u8, last: u64, lost: &[(u64, u64)]) -> Survivor {
        let lost = lost.iter().map(|(from, to)| (Sequence(*from), Sequence(*to))).collect();
        Survivor {
            replica: ReplicaId(replica),
            accepted_view: View(257),
            first: Sequence(1),
            last: Sequence(last),
            committed: Sequence(3),
            lost,
        }
    }

    #[test]
    fn a_majority_can_elect_unless_the_entries_that_it_needs_are_lost() {
        assert!(!can_elect(&[survivor(0, 9, &[])], 3));
        assert!(can_elect(&[survivor(0, 9, &[]), survivor(1, 7, &[])], 3));
        assert!(can_elect(&[survivor(0, 9, &[(4, 5)]), survivor(1, 9, &[])], 3));
        assert!(can_elect(&[survivor(0, 9, &[(2, 3)]), survivor(1, 9, &[(1, 3)])], 3), "they are in the database");
        assert!(!can_elect(&[survivor(0, 9, &[(4, 5)]), survivor(1, 9, &[(4, 5)])], 3));
    }
}
