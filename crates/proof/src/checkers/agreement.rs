//! Agreement: one value per sequence, whoever delivers it and however often; and no replica
//! delivers with holes.
//!
//! Source: Lamport, *Paxos Made Simple* ("only a single value is chosen"), for every instance of
//! Multi-Paxos. Deliveries of a replica start after the contents of its database at its start, and
//! continue one by one; a snapshot that it installs moves it ahead. A value delivered again after a
//! restart must be the same.
//!
//! O(log n) per delivery; values are kept for the whole run. The effect of a value does not matter.

use std::collections::BTreeMap;

use bytes::Bytes;
use rsml::{ReplicaId, Sequence};

use super::{Verdict, Violation};

#[derive(Debug, Default)]
pub struct Agreement {
    chosen: BTreeMap<Sequence, (ReplicaId, Bytes)>,
    /// The last sequence that each replica delivered since it started or installed a snapshot.
    delivered: BTreeMap<ReplicaId, Sequence>,
}

impl Agreement {
    /// The replica starts over a database that has applied everything through `applied`.
    pub fn started(&mut self, replica: ReplicaId, applied: Sequence) {
        self.delivered.insert(replica, applied);
    }

    /// The replica now has a database that holds everything through `sequence`, and no less than
    /// before.
    pub fn installed(&mut self, replica: ReplicaId, sequence: Sequence) -> Verdict {
        let before = self.delivered.insert(replica, sequence).unwrap_or_default();
        if sequence < before {
            let story = format!("replica {replica} installs a snapshot of {sequence} after it delivered {before}");
            return Err(Violation::new("agreement", "went back", story));
        }
        Ok(())
    }

    pub fn delivered(&mut self, replica: ReplicaId, sequence: Sequence, value: &Bytes) -> Verdict {
        let (first, chosen) = self.chosen.entry(sequence).or_insert_with(|| (replica, value.clone()));
        if chosen != value {
            let story = format!(
                "at {sequence}, replica {first} delivered {} and replica {replica} {}",
                excerpt(chosen),
                excerpt(value)
            );
            return Err(Violation::new("agreement", "two values at one sequence", story));
        }
        let before = self.delivered.insert(replica, sequence);
        match before {
            Some(before) if before.next() != sequence => {
                let story = format!("replica {replica} delivers {sequence} after {before}");
                Err(Violation::new("agreement", "not in sequence", story))
            }
            _ => Ok(()),
        }
    }

    /// The highest sequence that any replica has delivered: what a read that begins now must cover.
    pub fn highest(&self) -> Sequence {
        self.chosen.last_key_value().map_or(Sequence::ZERO, |(sequence, _)| *sequence)
    }

    /// The chosen values, by sequence.
    pub fn chosen(&self) -> impl Iterator<Item = (Sequence, &Bytes)> {
        self.chosen.iter().map(|(sequence, (_, value))| (*sequence, value))
    }
}

fn excerpt(value: &Bytes) -> String {
    format!("{} bytes ({:02x?}…)", value.len(), &value[..value.len().min(12)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId(0);
    const B: ReplicaId = ReplicaId(1);

    fn deliver(agreement: &mut Agreement, replica: ReplicaId, sequence: u64, value: &'static str) -> Verdict {
        agreement.delivered(replica, Sequence(sequence), &Bytes::from_static(value.as_bytes()))
    }

    #[test]
    fn the_same_values_everywhere_and_again_after_a_restart_are_agreement() {
        let mut agreement = Agreement::default();
        for replica in [A, B, A] {
            agreement.started(replica, Sequence(1));
            deliver(&mut agreement, replica, 2, "x").expect("agreed");
            deliver(&mut agreement, replica, 3, "y").expect("agreed");
        }
        assert_eq!(agreement.highest(), Sequence(3));
    }

    #[test]
    fn two_values_at_one_sequence_are_rejected() {
        let mut agreement = Agreement::default();
        deliver(&mut agreement, A, 2, "x").expect("agreed");
        let violation = deliver(&mut agreement, B, 2, "y").expect_err("diverged");
        assert_eq!(violation.anomaly, "two values at one sequence");
    }

    #[test]
    fn a_hole_is_rejected() {
        let mut agreement = Agreement::default();
        deliver(&mut agreement, A, 2, "x").expect("agreed");
        assert_eq!(deliver(&mut agreement, A, 4, "z").expect_err("hole").anomaly, "not in sequence");
    }

    #[test]
    fn delivering_twice_without_a_restart_is_rejected() {
        let mut agreement = Agreement::default();
        deliver(&mut agreement, A, 2, "x").expect("agreed");
        assert_eq!(deliver(&mut agreement, A, 2, "x").expect_err("twice").anomaly, "not in sequence");
    }

    #[test]
    fn a_snapshot_moves_a_replica_ahead_but_never_back() {
        let mut agreement = Agreement::default();
        deliver(&mut agreement, A, 2, "x").expect("agreed");
        agreement.installed(A, Sequence(9)).expect("ahead");
        deliver(&mut agreement, A, 10, "y").expect("agreed");
        assert_eq!(agreement.installed(A, Sequence(9)).expect_err("back").anomaly, "went back");
    }
}
