//! The location of each entry of the log, but not the entries themselves.
//!
//! An index takes 24 bytes for each *run* of consecutive entries in one group. Since every group
//! takes at least 4 KiB on disk, the index has at most 1/170 of the log's size. Lost entries form
//! runs, too, without a location.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use super::format::{Change, WriteRecord};
use crate::Sequence;

/// The ends of the log. Entries `first..=last` are stored; none if `last` is `first.previous()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub first: Sequence,
    pub last: Sequence,
}

impl Bounds {
    /// An empty log that continues after `last`.
    pub fn empty_after(last: Sequence) -> Self {
        Bounds { first: last.next(), last }
    }

    /// Why a record can't be applied; `None` if it can. A record that can't is a bug in the caller
    /// that passed the write.
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

    /// Applies a record. If a truncation lies beyond the end, the log restarts there, since it has
    /// no gaps.
    pub fn apply(&mut self, record: &WriteRecord) {
        self.change(record.change, record.from, u64::from(record.count));
    }

    fn change(&mut self, change: Change, from: Sequence, count: u64) {
        match change {
            Change::Append => {}
            Change::Replace => {
                let restarts = from > self.last.next();
                self.first = if restarts { from } else { self.first.min(from) };
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

/// Where a group lies. Its number is compared with the header whenever it is read, so that another
/// group is never mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupRef {
    pub number: u64,
    /// The offset in its segment, in blocks. The first block belongs to the segment header.
    pub block: NonZeroU32,
}

/// Consecutive entries in one group. A run ends where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Sequence,
    group_number: u64,
    /// `None` if these entries are lost.
    block: Option<NonZeroU32>,
    /// The index of the first entry in its group.
    ordinal: u32,
}

impl Run {
    fn lost(first: Sequence) -> Self {
        Run { first, group_number: 0, block: None, ordinal: 0 }
    }

    /// The part of the run from `first` on. No group has so many entries that their number
    /// overflows: a run that does is longer than its group only by what a damaged header claims,
    /// and that part is lost.
    fn rest_from(&self, first: Sequence) -> Self {
        let skipped = u32::try_from(first.0 - self.first.0).ok();
        match skipped.and_then(|skipped| self.ordinal.checked_add(skipped)).filter(|_| self.block.is_some()) {
            Some(ordinal) => Run { first, ordinal, ..*self },
            None => Run::lost(first),
        }
    }
}

/// Where an entry lies, and where its run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// The index of the segment among all segments.
    pub segment: usize,
    /// `None` if the entry is lost.
    pub group: Option<GroupRef>,
    /// The index of the entry in its group.
    pub ordinal: u32,
    /// The last entry of the run.
    pub run_last: Sequence,
}

/// The location of every entry. Invariant: the runs of all segments are strictly ascending, begin
/// at `bounds.first` and end at `bounds.last`. An empty log has no runs.
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

    /// Removes everything. The log continues after `last`.
    pub fn start_after(&mut self, last: Sequence) {
        self.truncate(Sequence::ZERO);
        self.bounds = Bounds::empty_after(last);
    }

    pub fn open_segment(&mut self) {
        self.segments.push_back(Vec::new());
    }

    /// Applies a record. Its entries lie in the newest segment, in the given group, from index
    /// `ordinal` on.
    pub fn apply(&mut self, record: &WriteRecord, group: GroupRef, ordinal: u32) {
        self.change(record.change, record.from, u64::from(record.count));
        if record.count == 0 {
            return;
        }
        let runs = self.segments.back_mut().expect("a write lies in a segment");
        let continues = runs.last().is_some_and(|run| {
            run.block == Some(group.block)
                && u64::from(run.ordinal) + (record.from.0 - run.first.0) == u64::from(ordinal)
        });
        if !continues {
            runs.push(Run { first: record.from, group_number: group.number, block: Some(group.block), ordinal });
        }
    }

    /// Lost groups replaced the entries at or above `from` by entries through `to`, if any, which
    /// are lost. With `before_newest`, the lost entries count as part of the segment before the
    /// newest one, which must then stay as long as they do.
    pub fn lose(&mut self, from: Sequence, to: Sequence, before_newest: bool) {
        let from = from.min(to.next());
        self.change(Change::Replace, from, to.next().0 - from.0);
        if from <= to {
            let newest = self.segments.len() - 1;
            let segment = if before_newest { newest.saturating_sub(1) } else { newest };
            self.segments[segment].push(Run::lost(from));
        }
    }

    /// Marks entries of one run as lost.
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

    /// Removes all entries at or below `base`. If the log ended before `base`, it continues after
    /// it.
    pub fn discard_through(&mut self, base: Sequence) {
        self.change(Change::Base, base, 0);
    }

    fn change(&mut self, change: Change, from: Sequence, count: u64) {
        match change {
            Change::Append => {}
            Change::Replace if from > self.bounds.last.next() => self.truncate(Sequence::ZERO),
            Change::Replace => self.truncate(from),
            Change::Base => self.discard_runs_through(from),
        }
        self.bounds.change(change, from, count);
    }

    fn truncate(&mut self, from: Sequence) {
        for runs in self.segments.iter_mut().rev() {
            let kept = runs.partition_point(|run| run.first < from);
            runs.truncate(kept);
            if kept > 0 {
                return;
            }
        }
    }

    fn discard_runs_through(&mut self, base: Sequence) {
        let first = base.next();
        let kept = self.locate(first).map(|location| location.segment);
        for (segment, runs) in self.segments.iter_mut().enumerate() {
            let cut = runs.partition_point(|run| run.first <= base);
            let rest = runs[..cut].last().map(|run| run.rest_from(first)).filter(|_| kept == Some(segment));
            // The run that contains `first` either begins there, or is the rest of an earlier one.
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
            group: run.block.map(|block| GroupRef { number: run.group_number, block }),
            ordinal: run.ordinal,
            run_last: run_end.previous(),
        })
    }

    /// The ranges of lost entries, ascending and not adjacent.
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

    /// The sequence after the last entry of a segment that has entries.
    fn end_of(&self, segment: usize) -> Sequence {
        let later = self.segments.iter().skip(segment + 1).find_map(|runs| runs.first());
        later.map_or(self.bounds.last.next(), |run| run.first)
    }

    /// Whether the oldest segment can be removed: it isn't the newest, and has no entry at or above
    /// `below`.
    pub fn can_remove_oldest(&self, below: Sequence) -> bool {
        self.segments.len() > 1 && (self.segments[0].is_empty() || self.end_of(0) <= below)
    }

    pub fn remove_oldest(&mut self) {
        if !self.segments[0].is_empty() {
            self.bounds.first = self.end_of(0);
        }
        self.segments.pop_front();
    }
}
