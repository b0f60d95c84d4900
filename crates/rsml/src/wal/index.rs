//! Where each entry of the log lies: what the orders so far made of it, without the entries themselves.
//!
//! An index costs 16 bytes for each *run*, entries that follow each other in the log and in one group. Every group
//! takes at least 4 KiB on disk, so that the index has at most 1/256 of the log's size.

use std::collections::VecDeque;

use super::format::{Change, OrderRecord};
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

    /// Why a record can't follow; one that can't is an error of whoever gave its order.
    pub fn objection(&self, record: &OrderRecord) -> Option<String> {
        let from = record.from;
        match record.change {
            Change::Append if record.count > 0 && from != self.last.next() => {
                Some(format!("an order appends at {from}, but the log ends at {}", self.last))
            }
            Change::Replace if from == Sequence::ZERO => {
                Some("an order begins at sequence 0, sequences count from 1".to_owned())
            }
            Change::Base if record.count > 0 => Some("a base with entries".to_owned()),
            Change::Append | Change::Replace | Change::Base => None,
        }
    }

    /// Carries out a record. A truncation beyond the end starts the log anew there: entries are stored without gaps.
    pub fn apply(&mut self, record: &OrderRecord) {
        match record.change {
            Change::Append => {}
            Change::Replace => {
                let starts_anew = record.from > self.last.next();
                self.first = if starts_anew { record.from } else { self.first.min(record.from) };
                self.last = record.from.previous();
            }
            Change::Base => {
                self.first = self.first.max(record.from.next());
                self.last = self.last.max(record.from);
            }
        }
        self.last.0 += u64::from(record.count);
    }
}

/// Entries that follow each other in the log and in one group; it ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Sequence,
    /// Offset of the group in its segment, in blocks.
    block: u32,
    /// Which entry of the group the first one is.
    ordinal: u32,
}

/// Where entries of one run lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Position of the segment among those indexed.
    pub segment: usize,
    pub block: u32,
    /// Which entry of the group the sought one is.
    pub ordinal: u32,
    pub run_first: Sequence,
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

    pub fn open_segment(&mut self) {
        self.segments.push_back(Vec::new());
    }

    /// Carries out a record whose entries lie in the newest segment, in the group at `block`, from entry `ordinal` on.
    pub fn apply(&mut self, record: &OrderRecord, block: u32, ordinal: u32) {
        match record.change {
            Change::Append => {}
            Change::Replace => {
                let starts_anew = record.from > self.bounds.last.next();
                self.cut(if starts_anew { Sequence::ZERO } else { record.from });
            }
            Change::Base => self.forget_through(record.from),
        }
        self.bounds.apply(record);
        if record.count == 0 {
            return;
        }
        let runs = self.segments.back_mut().expect("an order lies in a segment");
        let continues = runs.last().is_some_and(|run| {
            run.block == block && u64::from(run.ordinal) + (record.from.0 - run.first.0) == u64::from(ordinal)
        });
        if !continues {
            runs.push(Run { first: record.from, block, ordinal });
        }
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

    fn forget_through(&mut self, base: Sequence) {
        let first = base.next();
        let rest = self.locate(first);
        for runs in &mut self.segments {
            let forgotten = runs.partition_point(|run| run.first <= base);
            runs.drain(..forgotten);
        }
        if let Some(Location { segment, block, ordinal, run_first, .. }) = rest
            && run_first < first
        {
            self.segments[segment].insert(0, Run { first, block, ordinal });
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
        let run = runs[position];
        let next = runs.get(position + 1).map(|run| run.first);
        let run_end = next.unwrap_or_else(|| self.end_of(segment));
        Some(Location {
            segment,
            block: run.block,
            ordinal: run.ordinal + u32::try_from(sequence.0 - run.first.0).expect("a run lies in one group"),
            run_first: run.first,
            run_last: run_end.previous(),
        })
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
