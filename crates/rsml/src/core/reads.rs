//! Linearizable read points (Ongaro's thesis, section 6.4): before the primary names its commit
//! point as one, a quorum confirms that it still leads.
//!
//! A round that began before a read came may not serve it, so a read joins the next round (rule 8).
//! One round is in flight, and the next one serves all reads that wait. A secondary asks the
//! primary, in rounds of the same kind. The invariant: a read's point was the commit point of the
//! confirmed view at some moment after the read came.

use super::ReadId;
use crate::{Boot, DiskId, Instant, ReplicaId, Sequence};

/// Where the numbers of rounds begin: above those of former starts of the disk, and away from those
/// of any other disk. A replaced disk counts its starts from 1 again, and an answer meant for the
/// former disk must not be taken for one to this.
pub fn first_round(disk: DiskId, boot: Boot) -> u64 {
    let bits = |from: u32| (disk.0 >> from) as u64 & 0x7fff;
    (bits(0) << 48) + (boot.0 << 32) + (bits(15) << 16)
}

/// A caller that waits for a read point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    /// A caller of this replica.
    Local(ReadId),
    /// Another replica.
    Remote {
        /// Its number.
        replica: ReplicaId,
        /// The number of its round, for the answer.
        round: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    number: u64,
    readers: Vec<Reader>,
    /// The commit point when the round began; unused when the primary is asked.
    point: Sequence,
    started: Instant,
}

/// Reads that wait for a read point.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Reads {
    /// They join the next round.
    waiting: Vec<Reader>,
    in_flight: Option<Round>,
    /// The number of the last round.
    round: u64,
}

impl Reads {
    /// No reads. `round`: the last number that a former start of this replica may have used.
    pub fn new(round: u64) -> Reads {
        Reads { round, ..Reads::default() }
    }

    /// Takes a read.
    pub fn push(&mut self, reader: Reader) {
        self.waiting.push(reader);
    }

    /// Takes a round of another replica. A replica has one round at a time, and asks again until it
    /// has an answer: a newer question replaces the older one.
    pub fn push_remote(&mut self, replica: ReplicaId, round: u64) {
        let is_older = |reader: &&mut Reader| matches!(reader, Reader::Remote { replica: r, .. } if *r == replica);
        match self.waiting.iter_mut().find(is_older) {
            Some(older) => *older = Reader::Remote { replica, round },
            None => self.waiting.push(Reader::Remote { replica, round }),
        }
    }

    /// The caller of the read gave up.
    pub fn cancel(&mut self, id: ReadId) {
        let gone = Reader::Local(id);
        self.waiting.retain(|reader| *reader != gone);
        if let Some(round) = &mut self.in_flight {
            round.readers.retain(|reader| *reader != gone);
        }
    }

    /// The number of the last round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Starts the next round, if none is in flight and some read waits. Returns its number.
    pub fn start(&mut self, point: Sequence, now: Instant) -> Option<u64> {
        if self.in_flight.is_some() && !self.waiting.is_empty() {
            coverage!("rule8.round_joined_later");
        }
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.round += 1;
        let readers = std::mem::take(&mut self.waiting);
        self.in_flight = Some(Round { number: self.round, readers, point, started: now });
        Some(self.round)
    }

    /// The number of the round in flight.
    pub fn awaited(&self) -> Option<u64> {
        self.in_flight.as_ref().map(|round| round.number)
    }

    /// The round with this number is confirmed: returns its readers, and the commit point when it
    /// began.
    pub fn finish(&mut self, round: u64) -> Option<(Vec<Reader>, Sequence)> {
        if self.awaited() != Some(round) {
            return None;
        }
        self.in_flight.take().map(|round| (round.readers, round.point))
    }

    /// The round in flight will get no answer: its local readers wait for the next one. Rounds of
    /// other replicas are dropped, since those ask again.
    pub fn restart(&mut self) {
        if self.in_flight.is_some() {
            coverage!("rule8.rounds_restarted");
        }
        let again = self.in_flight.take().map(|round| round.readers).unwrap_or_default();
        self.waiting.extend(again);
        self.waiting.retain(|reader| matches!(reader, Reader::Local(_)));
    }

    /// As if the round in flight had begun at `at`.
    pub fn restart_clock(&mut self, at: Instant) {
        if let Some(round) = &mut self.in_flight {
            round.started = at;
        }
    }

    /// The round to ask the primary for again, once it has had no answer for `retry_us`. It keeps
    /// its number: an answer to the first question serves its readers as well, however long it
    /// takes.
    pub fn retry(&mut self, now: Instant, retry_us: u64) -> Option<u64> {
        let round = self.in_flight.as_mut().filter(|round| now.since_us(round.started) >= retry_us)?;
        coverage!("rule8.round_repeated");
        round.started = now;
        Some(round.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_comes_during_a_round_waits_for_the_next() {
        let mut reads = Reads::default();
        reads.push(Reader::Local(ReadId(1)));
        let first = reads.start(Sequence(5), Instant(0)).expect("someone waits");
        reads.push(Reader::Local(ReadId(2)));
        assert_eq!(reads.start(Sequence(9), Instant(0)), None, "one round at a time");
        assert_eq!(reads.finish(first), Some((vec![Reader::Local(ReadId(1))], Sequence(5))));
        let second = reads.start(Sequence(9), Instant(0)).expect("the second waits");
        assert!(second > first);
        assert_eq!(reads.finish(first), None, "an old number confirms nothing");
        assert_eq!(reads.finish(second), Some((vec![Reader::Local(ReadId(2))], Sequence(9))));
    }

    #[test]
    fn rounds_of_later_starts_are_later_and_those_of_another_disk_are_others() {
        let disk = DiskId(0x1234_5678_9abc_def0);
        let of_start = |boot: u64| first_round(disk, Boot(boot));
        assert!((1..100).all(|boot| of_start(boot + 1) > of_start(boot) + (1 << 31)));
        for other in [DiskId(disk.0 ^ 1), DiskId(disk.0 ^ 1 << 29), DiskId(0)] {
            assert!(first_round(other, Boot(1)).abs_diff(of_start(1)) >= 1 << 16, "{other:?}");
        }
    }

    #[test]
    fn a_late_answer_serves_a_round_that_was_asked_for_again() {
        let mut reads = Reads::default();
        reads.push(Reader::Local(ReadId(1)));
        let round = reads.start(Sequence::ZERO, Instant(0)).expect("someone waits");
        assert_eq!(reads.retry(Instant(199), 200), None);
        assert_eq!(reads.retry(Instant(200), 200), Some(round));
        assert_eq!(reads.retry(Instant(201), 200), None);
        assert!(reads.finish(round).is_some());
    }
}
