//! Digests: equal at equal sequences, on all replicas, after every restart and every snapshot.
//!
//! The digest folds every operation and its outcome, so that two that differ show replicas that
//! executed one log differently, or lost part of what they had executed. O(log n) per event.

use std::collections::BTreeMap;

use rsml::{ReplicaId, Sequence};

use super::{Verdict, Violation};

#[derive(Debug, Default)]
pub struct Digests {
    known: BTreeMap<Sequence, (ReplicaId, u64)>,
}

impl Digests {
    /// The replica's database stands at `sequence` with this digest: after an apply, a start or an
    /// installed snapshot.
    pub fn applied(&mut self, replica: ReplicaId, sequence: Sequence, digest: u64) -> Verdict {
        let (first, known) = *self.known.entry(sequence).or_insert((replica, digest));
        if known != digest {
            let story =
                format!("at {sequence}, replica {first} had {known:016x} and replica {replica} has {digest:016x}");
            return Err(Violation::new("digests", "databases diverged", story));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_digests_at_equal_sequences_are_accepted() {
        let mut digests = Digests::default();
        for (replica, sequence, digest) in [(0, 1, 7), (1, 1, 7), (0, 2, 9), (0, 1, 7), (1, 2, 9)] {
            digests.applied(ReplicaId(replica), Sequence(sequence), digest).expect("equal");
        }
    }

    #[test]
    fn different_digests_at_one_sequence_are_rejected() {
        let mut digests = Digests::default();
        digests.applied(ReplicaId(0), Sequence(5), 7).expect("the first");
        let violation = digests.applied(ReplicaId(1), Sequence(5), 8).expect_err("diverged");
        assert_eq!(violation.anomaly, "databases diverged");
    }

    #[test]
    fn a_replica_that_comes_back_with_another_digest_is_rejected() {
        let mut digests = Digests::default();
        digests.applied(ReplicaId(0), Sequence(5), 7).expect("the first");
        digests.applied(ReplicaId(0), Sequence(5), 8).expect_err("changed over a restart");
    }
}
