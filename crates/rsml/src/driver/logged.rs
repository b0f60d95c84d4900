//! When entries went to the log of this replica, until they are delivered.

use std::collections::VecDeque;
use std::time::Instant as StdInstant;

use bytes::Bytes;

use crate::{Persist, Sequence};

/// Older ones are forgotten: a replica that cannot commit must not collect them.
const MAX_KEPT: usize = 4096;

/// The last sequence of each write to the log that is not delivered yet, in order, and the time at
/// which the log thread got it.
#[derive(Default)]
pub struct Logged(VecDeque<(Sequence, StdInstant)>);

impl Logged {
    /// These writes go to the log.
    pub fn add(&mut self, writes: &[Persist], now: StdInstant) {
        for write in writes.iter().filter(|write| !write.entries.is_empty()) {
            // Entries at or above `from` are replaced.
            while self.0.back().is_some_and(|(last, _)| *last >= write.from) {
                self.0.pop_back();
            }
            self.0.push_back((Sequence(write.from.0 + write.entries.len() as u64 - 1), now));
        }
        while self.0.len() > MAX_KEPT {
            self.0.pop_front();
        }
    }

    /// These entries are delivered: when the first of them went to the log, if that is known.
    pub fn take(&mut self, delivered: &[(Sequence, Bytes)]) -> Option<StdInstant> {
        let (first, last) = (delivered.first()?.0, delivered.last()?.0);
        while self.0.front().is_some_and(|(through, _)| *through < first) {
            self.0.pop_front();
        }
        let logged = self.0.front().map(|(_, at)| *at);
        // A write of which only a part is delivered stays for the rest.
        while self.0.front().is_some_and(|(through, _)| *through <= last) {
            self.0.pop_front();
        }
        logged
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{HardState, WriteId};

    fn write(from: u64, entries: usize) -> Persist {
        Persist {
            write_id: WriteId(from),
            hard_state: HardState::default(),
            base: None,
            from: Sequence(from),
            truncate: false,
            entries: vec![Bytes::new(); entries],
        }
    }

    fn entries(sequences: std::ops::RangeInclusive<u64>) -> Vec<(Sequence, Bytes)> {
        sequences.map(|sequence| (Sequence(sequence), Bytes::new())).collect()
    }

    #[test]
    fn delivered_entries_have_the_time_at_which_the_first_of_them_was_written() {
        let start = StdInstant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut logged = Logged::default();
        logged.add(&[write(1, 2), write(3, 0)], at(1));
        logged.add(&[write(3, 3)], at(2));
        assert_eq!(logged.take(&entries(1..=3)), Some(at(1)));
        assert_eq!(logged.take(&entries(4..=4)), Some(at(2)), "a part of a write");
        // Another primary replaces the entry 5.
        logged.add(&[write(5, 1)], at(3));
        assert_eq!(logged.take(&entries(5..=5)), Some(at(3)));
        assert_eq!(logged.take(&entries(6..=6)), None, "fetched, and never written here");
        assert_eq!(logged.take(&[]), None);
        assert!(logged.0.is_empty());
    }

    #[test]
    fn a_replica_that_commits_nothing_keeps_few() {
        let mut logged = Logged::default();
        for sequence in 1..=2 * MAX_KEPT as u64 {
            logged.add(&[write(sequence, 1)], StdInstant::now());
        }
        assert_eq!(logged.0.len(), MAX_KEPT);
    }
}
