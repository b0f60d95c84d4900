//! The part of the log that is held in memory.
//!
//! It is contiguous from `first` to `last`; entries below `first` are on disk only. It is the end
//! of the log that storage will hold once every log write is done. Entries that the disk has lost
//! are *holes*: they count in the log's length, and nothing else is known of them until a peer
//! supplies them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::value::sealed_epoch;
use crate::{Epoch, Sequence};

/// The entries in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    first: Sequence,
    /// Empty where there is a hole.
    entries: VecDeque<Bytes>,
    holes: BTreeSet<Sequence>,
    /// The entries in memory that have the form of a seal, and the epoch that each would begin.
    seals: BTreeMap<Sequence, Epoch>,
    bytes: usize,
}

impl Log {
    /// A log whose entries in memory begin at `first`; `None` is a hole.
    pub fn new(first: Sequence, entries: Vec<Option<Bytes>>) -> Log {
        assert!(first >= Sequence::BIRTH, "the log starts at 1");
        let sequences = (first.0..).map(Sequence);
        let holes = sequences.zip(&entries).filter(|(_, entry)| entry.is_none()).map(|(s, _)| s).collect();
        let entries: VecDeque<Bytes> = entries.into_iter().map(Option::unwrap_or_default).collect();
        let bytes = entries.iter().map(Bytes::len).sum();
        let sequences = (first.0..).map(Sequence);
        let seals = sequences.zip(&entries).filter_map(|(s, entry)| Some((s, sealed_epoch(entry)?))).collect();
        Log { first, entries, holes, seals, bytes }
    }

    /// The first entry in memory, or the sequence of the next one when there is none.
    pub fn first(&self) -> Sequence {
        self.first
    }

    /// The last entry; `first.previous()` when there is none in memory.
    pub fn last(&self) -> Sequence {
        Sequence(self.first.0 + self.entries.len() as u64 - 1)
    }

    /// The bytes of the entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// One entry; `None` when it is not in memory, or lost.
    pub fn get(&self, sequence: Sequence) -> Option<&Bytes> {
        let entry = self.entries.get(sequence.0.checked_sub(self.first.0)? as usize);
        entry.filter(|_| !self.holes.contains(&sequence))
    }

    /// The first entry in memory that is lost.
    pub fn first_hole(&self) -> Option<Sequence> {
        self.holes.first().copied()
    }

    /// The last entry before the first hole; without holes, the last one.
    pub fn sound_last(&self) -> Sequence {
        self.first_hole().map_or(self.last(), Sequence::previous)
    }

    /// The holes as ascending ranges, both ends included.
    pub fn hole_ranges(&self) -> Vec<(Sequence, Sequence)> {
        let mut ranges: Vec<(Sequence, Sequence)> = Vec::new();
        for hole in &self.holes {
            match ranges.last_mut() {
                Some((_, to)) if to.next() == *hole => *to = *hole,
                _ => ranges.push((*hole, *hole)),
            }
        }
        ranges
    }

    /// The entries from `from` on, until `to`, a hole or `max_bytes` is reached; at least one if
    /// there is one.
    pub fn read(&self, from: Sequence, to: Sequence, max_bytes: usize) -> Vec<Bytes> {
        assert!(from >= self.first, "entry {from} is not in memory, which starts at {}", self.first);
        let mut bytes = 0;
        let mut taken = Vec::new();
        let range = (from.0 - self.first.0) as usize..;
        let to = self.holes.range(from..).next().map_or(to, |hole| to.min(hole.previous()));
        let until = (to.0 + 1).saturating_sub(from.0) as usize;
        for entry in self.entries.range(range.start.min(self.entries.len())..).take(until) {
            bytes += entry.len();
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }

    /// The bytes of the entries after `sequence`; `None` if not all of them are in memory.
    pub fn bytes_behind(&self, sequence: Sequence) -> Option<usize> {
        let place = (sequence.0 + 1).checked_sub(self.first.0)? as usize;
        Some(self.entries.range(place.min(self.entries.len())..).map(Bytes::len).sum())
    }

    /// The first entry in memory that ends an epoch by beginning `next`. Entries that are lost may
    /// hide an earlier one.
    pub fn seal_before(&self, next: Epoch) -> Option<Sequence> {
        self.seals.iter().find(|(_, epoch)| **epoch == next).map(|(sequence, _)| *sequence)
    }

    /// Adds an entry at the end.
    pub fn append(&mut self, entry: Bytes) {
        self.note_seal(self.last().next(), &entry);
        self.bytes += entry.len();
        self.entries.push_back(entry);
    }

    /// Removes every entry at or above `from`.
    pub fn truncate(&mut self, from: Sequence) {
        assert!(from >= self.first, "cannot cut at {from}: memory starts at {}", self.first);
        while self.last() >= from && !self.entries.is_empty() {
            self.bytes -= self.entries.pop_back().map_or(0, |e| e.len());
        }
        self.holes.split_off(&from);
        self.seals.split_off(&from);
    }

    fn note_seal(&mut self, sequence: Sequence, entry: &Bytes) {
        if let Some(epoch) = sealed_epoch(entry) {
            self.seals.insert(sequence, epoch);
        }
    }

    /// Fills the hole at `sequence`; does nothing if there is none.
    pub fn fill(&mut self, sequence: Sequence, entry: Bytes) {
        if self.holes.remove(&sequence) {
            self.note_seal(sequence, &entry);
            self.bytes += entry.len();
            self.entries[(sequence.0 - self.first.0) as usize] = entry;
        }
    }

    /// Drops everything through `base`. A log that ended before that continues after it.
    pub fn rebase(&mut self, base: Sequence) {
        if self.last() <= base {
            *self = Log::new(base.next(), Vec::new());
            return;
        }
        while self.first <= base {
            let entry = self.entries.pop_front().expect("the log reaches beyond its new base");
            self.bytes -= entry.len();
            self.first = self.first.next();
        }
        self.holes = self.holes.split_off(&base.next());
        self.seals = self.seals.split_off(&base.next());
    }

    /// Drops entries through `upto` from memory, oldest first, until at most `keep_bytes` are held.
    pub fn evict(&mut self, upto: Sequence, keep_bytes: usize) {
        let upto = upto.min(self.sound_last());
        while self.bytes > keep_bytes && self.first <= upto {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= entry.len();
            self.first = self.first.next();
        }
        self.seals = self.seals.split_off(&self.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(first: u64, texts: &[&'static str]) -> Log {
        Log::new(Sequence(first), texts.iter().map(|t| (*t != "?").then(|| Bytes::from_static(t.as_bytes()))).collect())
    }

    #[test]
    fn a_read_ends_before_a_hole_until_it_is_filled() {
        let mut log = log(5, &["aa", "?", "?", "dd", "?"]);
        assert_eq!((log.last(), log.sound_last()), (Sequence(9), Sequence(5)));
        assert_eq!(log.hole_ranges(), [(Sequence(6), Sequence(7)), (Sequence(9), Sequence(9))]);
        assert_eq!(log.read(Sequence(5), Sequence(9), 100), ["aa"]);
        assert_eq!((log.get(Sequence(6)), log.get(Sequence(8))), (None, Some(&Bytes::from_static(b"dd"))));
        log.fill(Sequence(6), Bytes::from_static(b"bb"));
        log.fill(Sequence(8), Bytes::from_static(b"xx"));
        assert_eq!((log.sound_last(), log.bytes()), (Sequence(6), 6), "only holes are filled");
        log.truncate(Sequence(8));
        assert_eq!(log.hole_ranges(), [(Sequence(7), Sequence(7))]);
    }

    #[test]
    fn a_new_base_drops_what_lies_below_and_keeps_what_lies_above() {
        let mut kept = log(5, &["aa", "?", "cc", "?"]);
        kept.rebase(Sequence(6));
        assert_eq!((kept.first(), kept.last(), kept.bytes()), (Sequence(7), Sequence(8), 2));
        assert_eq!(kept.first_hole(), Some(Sequence(8)));
        kept.rebase(Sequence(20));
        assert_eq!((kept.first(), kept.last(), kept.bytes()), (Sequence(21), Sequence(20), 0));
        assert_eq!(kept.first_hole(), None);
    }

    #[test]
    fn a_read_ends_at_the_bound_but_returns_at_least_one() {
        let log = log(5, &["aa", "bb", "cc"]);
        assert_eq!(log.read(Sequence(5), Sequence(7), 4), ["aa", "bb"]);
        assert_eq!(log.read(Sequence(6), Sequence(7), 1), ["bb"]);
        assert_eq!(log.read(Sequence(5), Sequence(5), 100), ["aa"]);
        assert!(log.read(Sequence(8), Sequence(9), 100).is_empty());
    }

    #[test]
    fn cutting_and_evicting_keep_the_byte_count() {
        let mut log = log(5, &["aa", "bbb", "cccc"]);
        log.truncate(Sequence(7));
        assert_eq!((log.last(), log.bytes()), (Sequence(6), 5));
        log.evict(Sequence(5), 0);
        assert_eq!((log.first(), log.last(), log.bytes()), (Sequence(6), Sequence(6), 3));
        log.truncate(Sequence(6));
        assert_eq!((log.first(), log.last()), (Sequence(6), Sequence(5)));
    }

    #[test]
    fn seals_are_found_wherever_they_come_from_and_gone_with_their_entries() {
        let seal = |epoch| {
            let seal = crate::configuration::Reconfigure::new(Epoch(epoch), &Default::default());
            crate::value::Value { reconfigure: Some(seal), ..Default::default() }.to_bytes()
        };
        let no_op = crate::value::Value::default().to_bytes();
        let mut log = Log::new(Sequence(5), vec![Some(seal(2)), None, Some(no_op.clone())]);
        log.append(seal(3));
        log.append(no_op);
        log.append(seal(3));
        let found = |log: &Log| [2, 3, 4].map(|epoch| log.seal_before(Epoch(epoch)).map(|seal| seal.0));
        assert_eq!(found(&log), [Some(5), Some(8), None]);
        log.fill(Sequence(6), seal(4));
        assert_eq!(found(&log), [Some(5), Some(8), Some(6)]);
        log.evict(Sequence(5), 0);
        assert_eq!(found(&log), [None, Some(8), Some(6)]);
        log.rebase(Sequence(8));
        assert_eq!(found(&log), [None, Some(10), None]);
        log.truncate(Sequence(10));
        assert_eq!(found(&log), [None, None, None]);
    }

    #[test]
    fn entries_are_evicted_until_exactly_as_many_bytes_are_kept() {
        let mut log = log(5, &["aa", "bbb", "cccc"]);
        log.evict(Sequence(7), 7);
        assert_eq!((log.first(), log.bytes()), (Sequence(6), 7));
    }
}
