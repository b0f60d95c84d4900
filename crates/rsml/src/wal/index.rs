//! Where each entry of the log lies: what the writes so far made of it, without the entries themselves.
//!
//! An index costs 24 bytes for each *run*, entries that follow each other in the log and in one group. Every group
//! takes at least 4 KiB on disk, so that the index has at most 1/170 of the log's size. Entries that are lost (there
//! were some, and nobody can say what they were) are runs too, without a place.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use super::format::{Change, WriteRecord};
use crate::Sequence;

/// The ends of the log. Entries `first..=last` are stored, none when `last` is `first.previous()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub first: Sequence,
    pub last: Sequence,
}

impl Bounds {
    /// A log that holds nothing and goes on after `last`.
    pub fn empty_after(last: Sequence) -> Self {
        Bounds { first: last.next(), last }
    }

    /// Why a record can't follow; one that can't is an error of whoever gave its write.
    pub fn objection(&self, record: &WriteRecord) -> Option<String> {
        let from = record.from;
        match record.change {
            Change::Append if record.count > 0 && from != self.last.next() => {
                Some(format!("a write appends at {from}, but the log ends at {}", self.last))
            }
            Change::Replace if from == Sequence::ZERO => {
                Some("a write begins at sequence 0, sequences count from 1".to_owned())
            }
            Change::Base if record.count > 0 => Some("a base with entries".to_owned()),
            Change::Append | Change::Replace | Change::Base => None,
        }
    }

    /// Carries out a record. A truncation beyond the end starts the log anew there: entries are stored without gaps.
    pub fn apply(&mut self, record: &WriteRecord) {
        self.change(record.change, record.from, u64::from(record.count));
    }

    fn change(&mut self, change: Change, from: Sequence, count: u64) {
        match change {
            Change::Append => {}
            Change::Replace => {
                let starts_anew = from > self.last.next();
                self.first = if starts_anew { from } else { self.first.min(from) };
                self.last = from.previous();
            }
            Change::Base => {
                self.first = self.first.max(from.next());
                self.last = self.last.max(from);
            }
        }
        self.last.0 += count;
    }
}

/// A group that holds entries. Its number is checked whenever it is read, so that none is ever taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupSpot {
    pub number: u64,
    /// Offset in its segment, in blocks; the first block belongs to the opening.
    pub block: NonZeroU32,
}

/// Entries that follow each other in the log and in one group; it ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Sequence,
    group_number: u64,
    /// `None`: these entries are lost.
    block: Option<NonZeroU32>,
    /// Which entry of the group the first one is.
    ordinal: u32,
}

impl Run {
    fn lost(first: Sequence) -> Self {
        Run { first, group_number: 0, block: None, ordinal: 0 }
    }

    /// The part of the run that begins at `first`.
    fn rest_from(&self, first: Sequence) -> Self {
        match self.block {
            None => Run::lost(first),
            Some(_) => {
                let skipped = u32::try_from(first.0 - self.first.0).expect("a run lies in one group");
                Run { first, ordinal: self.ordinal + skipped, ..*self }
            }
        }
    }
}

/// Where entries of one run lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Position of the segment among those indexed.
    pub segment: usize,
    /// `None`: the entry is lost.
    pub spot: Option<GroupSpot>,
    /// Which entry of the group the sought one is.
    pub ordinal: u32,
    pub run_last: Sequence,
}

/// Invariants: runs are strictly ascending through all segments, begin at `bounds.first` and end at `bounds.last`;
/// there are none when the log holds nothing.
#[derive(Debug)]
pub(super) struct LogIndex {
    bounds: Bounds,
    /// One list of runs for each segment, oldest first.
    segments: VecDeque<Vec<Run>>,
}

impl LogIndex {
    pub fn new(bounds: Bounds) -> Self {
        LogIndex { bounds, segments: VecDeque::new() }
    }

    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Lets go of everything; the log goes on after `last`.
    pub fn start_after(&mut self, last: Sequence) {
        self.cut(Sequence::ZERO);
        self.bounds = Bounds::empty_after(last);
    }

    pub fn open_segment(&mut self) {
        self.segments.push_back(Vec::new());
    }

    /// Carries out a record whose entries lie in the newest segment, in the given group, from entry `ordinal` on.
    pub fn apply(&mut self, record: &WriteRecord, spot: GroupSpot, ordinal: u32) {
        self.change(record.change, record.from, u64::from(record.count));
        if record.count == 0 {
            return;
        }
        let runs = self.segments.back_mut().expect("a write lies in a segment");
        let continues = runs.last().is_some_and(|run| {
            run.block == Some(spot.block)
                && u64::from(run.ordinal) + (record.from.0 - run.first.0) == u64::from(ordinal)
        });
        if !continues {
            runs.push(Run { first: record.from, group_number: spot.number, block: Some(spot.block), ordinal });
        }
    }

    /// Writes that are lost replaced what was at or above `from` by entries through `to`, if any. They count as part of
    /// the segment before the newest if nothing of the newest is indexed yet: that one must stay as long as they do.
    pub fn lose(&mut self, from: Sequence, to: Sequence, before_newest: bool) {
        let from = from.min(to.next());
        self.change(Change::Replace, from, to.next().0 - from.0);
        if from <= to {
            let newest = self.segments.len() - 1;
            let segment = if before_newest { newest.saturating_sub(1) } else { newest };
            self.segments[segment].push(Run::lost(from));
        }
    }

    /// Entries of one run turn out to be damaged.
    pub fn mark_lost(&mut self, from: Sequence, to: Sequence) {
        let Some(location) = self.locate(from) else { return };
        let to = to.min(location.run_last);
        let runs = &mut self.segments[location.segment];
        let position = runs.partition_point(|run| run.first <= from) - 1;
        let run = runs[position];
        let before = (run.first < from).then_some(run);
        let after = (to < location.run_last).then(|| run.rest_from(to.next()));
        runs.splice(position..=position, before.into_iter().chain([Run::lost(from)]).chain(after));
    }

    /// Lets go of everything at or below `base`; where the log ended before, it goes on after it.
    pub fn forget_through(&mut self, base: Sequence) {
        self.change(Change::Base, base, 0);
    }

    fn change(&mut self, change: Change, from: Sequence, count: u64) {
        match change {
            Change::Append => {}
            Change::Replace if from > self.bounds.last.next() => self.cut(Sequence::ZERO),
            Change::Replace => self.cut(from),
            Change::Base => self.cut_through(from),
        }
        self.bounds.change(change, from, count);
    }

    fn cut(&mut self, from: Sequence) {
        for runs in self.segments.iter_mut().rev() {
            let kept = runs.partition_point(|run| run.first < from);
            runs.truncate(kept);
            if kept > 0 {
                return;
            }
        }
    }

    fn cut_through(&mut self, base: Sequence) {
        let first = base.next();
        let kept = self.locate(first).map(|location| location.segment);
        for (segment, runs) in self.segments.iter_mut().enumerate() {
            let cut = runs.partition_point(|run| run.first <= base);
            let rest = runs[..cut].last().map(|run| run.rest_from(first)).filter(|_| kept == Some(segment));
            // The run that holds `first` may begin there, or be the rest of one that begins before.
            let begins_there = runs.get(cut).is_some_and(|run| run.first == first);
            runs.splice(..cut, rest.filter(|_| !begins_there));
        }
    }

    pub fn locate(&self, sequence: Sequence) -> Option<Location> {
        if sequence < self.bounds.first || sequence > self.bounds.last {
            return None;
        }
        let holds = |runs: &Vec<Run>| runs.first().is_some_and(|run| run.first <= sequence);
        let segment = self.segments.iter().rposition(holds).expect("every stored entry has a run");
        let runs = &self.segments[segment];
        let position = runs.partition_point(|run| run.first <= sequence) - 1;
        let run = runs[position].rest_from(sequence);
        let next = runs.get(position + 1).map(|run| run.first);
        let run_end = next.unwrap_or_else(|| self.end_of(segment));
        Some(Location {
            segment,
            spot: run.block.map(|block| GroupSpot { number: run.group_number, block }),
            ordinal: run.ordinal,
            run_last: run_end.previous(),
        })
    }

    /// The ranges of lost entries, ascending and apart.
    pub fn lost(&self) -> Vec<(Sequence, Sequence)> {
        let mut lost: Vec<(Sequence, Sequence)> = Vec::new();
        let mut runs = self.segments.iter().flatten().peekable();
        while let Some(run) = runs.next() {
            if run.block.is_some() {
                continue;
            }
            let to = runs.peek().map_or(self.bounds.last, |next| next.first.previous());
            match lost.last_mut() {
                Some((_, before)) if before.next() == run.first => *before = to,
                _ => lost.push((run.first, to)),
            }
        }
        lost
    }

    /// The sequence after the last entry of a segment that has any.
    fn end_of(&self, segment: usize) -> Sequence {
        let later = self.segments.iter().skip(segment + 1).find_map(|runs| runs.first());
        later.map_or(self.bounds.last.next(), |run| run.first)
    }

    /// True when the oldest segment isn't the newest too, and holds no entry at or above `below`.
    pub fn oldest_may_go(&self, below: Sequence) -> bool {
        self.segments.len() > 1 && (self.segments[0].is_empty() || self.end_of(0) <= below)
    }

    pub fn remove_oldest(&mut self) {
        if !self.segments[0].is_empty() {
            self.bounds.first = self.end_of(0);
        }
        self.segments.pop_front();
    }
}
