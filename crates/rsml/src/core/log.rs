//! The part of the log that is held in memory.
//!
//! Contiguous from `first` to `last`; entries below `first` are on disk only. Holds what storage will hold once every
//! order given to it is done.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::Sequence;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    first: Sequence,
    entries: VecDeque<Bytes>,
    bytes: usize,
}

impl Log {
    pub fn new(first: Sequence, entries: Vec<Bytes>) -> Log {
        assert!(first >= Sequence::BIRTH, "the log starts at 1");
        let bytes = entries.iter().map(Bytes::len).sum();
        Log { first, entries: entries.into(), bytes }
    }

    /// The first entry in memory, or the place of the next one when there is none.
    pub fn first(&self) -> Sequence {
        self.first
    }

    pub fn last(&self) -> Sequence {
        Sequence(self.first.0 + self.entries.len() as u64 - 1)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `None` when the entry is not in memory.
    pub fn get(&self, sequence: Sequence) -> Option<&Bytes> {
        self.entries.get(sequence.0.checked_sub(self.first.0)? as usize)
    }

    /// Entries from `from` on, until `to` or `max_bytes` is reached; at least one if there is one.
    pub fn read(&self, from: Sequence, to: Sequence, max_bytes: usize) -> Vec<Bytes> {
        assert!(from >= self.first, "entry {from} is not in memory, which starts at {}", self.first);
        let mut bytes = 0;
        let mut taken = Vec::new();
        let range = (from.0 - self.first.0) as usize..;
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

    pub fn append(&mut self, entry: Bytes) {
        self.bytes += entry.len();
        self.entries.push_back(entry);
    }

    /// Removes every entry at or above `from`.
    pub fn truncate(&mut self, from: Sequence) {
        assert!(from >= self.first, "cannot cut at {from}: memory starts at {}", self.first);
        while self.last() >= from && !self.entries.is_empty() {
            self.bytes -= self.entries.pop_back().map_or(0, |e| e.len());
        }
    }

    /// Lets go of entries up to `upto` until at most `keep_bytes` are held.
    pub fn evict(&mut self, upto: Sequence, keep_bytes: usize) {
        while self.bytes > keep_bytes && self.first <= upto {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.len();
            self.first = self.first.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(first: u64, texts: &[&'static str]) -> Log {
        Log::new(Sequence(first), texts.iter().map(|t| Bytes::from_static(t.as_bytes())).collect())
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
}
