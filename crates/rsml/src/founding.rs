//! Founding a cluster on a database that already has a past.
//!
//! A cluster that is bootstrapped begins empty, and its log holds everything that ever happened. A
//! *founded* one begins with a database whose rows are in no log. Its first member, the only voter,
//! has both written before it starts: a log and the replicated state in the database.
//!
//! Invariant: nobody can come to such a database by applying the log. A new disk gets the bootstrap
//! record, takes it as entry 1, and asks for the entries that follow. So the log of a founded
//! cluster begins after entry [`Founding::SEQUENCE`], which is the second one and was never
//! written: whoever has less than the founder's database finds entry 2 trimmed, and fetches a copy.
//! As a second line of defence the running digest begins with the id of the cluster, where that of
//! a bootstrapped cluster begins with zero: a replica without the past is found to have diverged.

use xxhash_rust::xxh3::xxh3_64;

use crate::value::{BirthRecord, ReplicatedState};
use crate::{
    Boot, ClusterId, DiskId, Epoch, FeatureLevel, HardState, Persist, ReplicaId, SealedState, Sequence, Storage,
    StorageError, View, WriteId,
};

/// A cluster of one voter that takes over a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The id of the new cluster: random, and never used before.
    pub cluster_id: ClusterId,
    /// The replica that votes.
    pub voter: ReplicaId,
    /// The name of its disk: random, and never used before.
    pub disk_id: DiskId,
    /// Replicated time begins here: at least the newest time that the database has seen, so that
    /// nothing that lasts for a time in it lasts longer.
    pub time_us: u64,
    /// The feature level of the database.
    pub feature_level: FeatureLevel,
}

impl Founding {
    /// The database belongs to this sequence, and the log begins after it.
    pub const SEQUENCE: Sequence = Sequence(2);

    /// The state that the executor must store with the database, as if it had just applied everything through
    /// [`Founding::SEQUENCE`].
    pub fn state(&self) -> SealedState {
        let birth = BirthRecord::new(self.cluster_id, &[(self.voter, self.disk_id)].into());
        let mut state = ReplicatedState {
            sequence: Self::SEQUENCE,
            time_us: self.time_us,
            digest: xxh3_64(&self.cluster_id.0.to_le_bytes()),
            feature_level: self.feature_level,
            ..ReplicatedState::default()
        };
        state.be_born(&birth);
        SealedState { sequence: state.sequence, state: state.to_bytes() }
    }

    /// Writes the log into an empty `storage`, durably.
    ///
    /// # Errors
    /// Those of the storage.
    ///
    /// # Panics
    /// If the storage holds a log already.
    pub fn write_log(&self, storage: &mut impl Storage) -> Result<(), StorageError> {
        let found = storage.recover()?;
        assert!(found.hard_state.is_none(), "there is a log already: {found:?}");
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
                generation: 0,
                lease_us: 0,
                ended_view: View::BIRTH,
            },
            base: Some(Self::SEQUENCE),
            from: Self::SEQUENCE.next(),
            truncate: false,
            entries: Vec::new(),
        };
        match storage.persist(&[write])? {
            0 => Err(StorageError::Full { path: "the new log".to_string() }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{WalOptions, WalStorage};

    const FOUNDING: Founding = Founding {
        cluster_id: ClusterId(7 << 70),
        voter: ReplicaId(2),
        disk_id: DiskId(5 << 90),
        time_us: 1_234_567,
        feature_level: FeatureLevel(2),
    };

    #[test]
    fn the_log_begins_after_the_database_and_survives() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || WalStorage::open(folder.path(), WalOptions::default()).expect("opened");
        FOUNDING.write_log(&mut open()).expect("written");
        let found = open().recover().expect("recovered");
        assert_eq!((found.first, found.last), (Sequence(3), Sequence(2)));
        assert!(found.lost.is_empty(), "{found:?}");
        let hard = found.hard_state.expect("written");
        assert_eq!((hard.cluster_id, hard.disk_id), (FOUNDING.cluster_id, FOUNDING.disk_id));
        assert_eq!((hard.epoch, hard.generation), (Epoch::FIRST, 0));
    }

    #[test]
    fn the_state_is_that_of_a_cluster_with_one_voter() {
        let sealed = FOUNDING.state();
        assert_eq!(sealed.sequence, Founding::SEQUENCE);
        let state = ReplicatedState::from_bytes(&sealed.state).expect("a state");
        assert_eq!(state.sequence, Founding::SEQUENCE);
        assert_eq!((state.time_us, state.feature_level), (FOUNDING.time_us, FOUNDING.feature_level));
        assert_eq!(state.configuration.voters().collect::<Vec<_>>(), [(FOUNDING.voter, FOUNDING.disk_id)]);
        assert_eq!(state.configuration, state.birth().configuration(), "it is still in the first epoch");
        assert_ne!(state.digest, ReplicatedState::default().digest, "a replica without the past differs");
    }

    #[test]
    #[should_panic(expected = "there is a log already")]
    fn a_log_is_never_written_over_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || WalStorage::open(folder.path(), WalOptions::default()).expect("opened");
        FOUNDING.write_log(&mut open()).expect("written");
        let _ = FOUNDING.write_log(&mut open());
    }
}
