//! The expected contents of a log on a disk: every write that was reported as done, as hashes.

use std::collections::{BTreeSet, VecDeque};

use rsml::{HardState, Persist, Sequence, View};

use super::claims::hash_of;
use crate::checkers::chosen::DurableLog;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedLog {
    pub hard_state: Option<HardState>,
    /// The sequence of the first entry that must still be there.
    first: u64,
    /// `None`: not known, but there.
    hashes: VecDeque<Option<u64>>,
    /// Where the log ended when a write was last done that promised no view above the log's own:
    /// what was written under a higher promise is no vote.
    voted: Sequence,
    /// Entries that the replica knows as lost, and has not replaced since.
    lost: BTreeSet<Sequence>,
    /// Nothing of the log was read at the start: nothing is vouched for until another base is set.
    unread: bool,
    /// A copied database became the live one, with everything through here; nobody has looked at
    /// that yet.
    installed: Option<Sequence>,
}

impl ExpectedLog {
    pub fn new() -> ExpectedLog {
        ExpectedLog {
            hard_state: None,
            first: 1,
            hashes: VecDeque::new(),
            voted: Sequence::ZERO,
            lost: BTreeSet::new(),
            unread: false,
            installed: None,
        }
    }

    pub fn first(&self) -> Sequence {
        Sequence(self.first)
    }

    pub fn last(&self) -> Sequence {
        Sequence(self.first + self.hashes.len() as u64 - 1)
    }

    pub fn promised(&self) -> HardState {
        self.hard_state.unwrap_or_default()
    }

    pub fn apply(&mut self, write: &Persist) {
        let generation = self.promised().generation;
        self.hard_state = Some(write.hard_state);
        if let Some(base) = write.base {
            self.installed = Some(base).filter(|_| write.hard_state.generation > generation).or(self.installed);
            self.trim(base.next());
            self.lost = self.lost.split_off(&base.next());
            self.unread = false;
        }
        if write.truncate || !write.entries.is_empty() {
            let keep = write.from.0.checked_sub(self.first).expect("what is trimmed is never replaced");
            assert!(keep <= self.hashes.len() as u64, "a write would leave a hole before {}", write.from);
            self.hashes.truncate(keep as usize);
            self.lost.split_off(&write.from);
            self.hashes.extend(write.entries.iter().map(|entry| Some(hash_of(entry))));
        }
        if write.hard_state.promised == write.hard_state.accepted_view {
            self.voted = self.last();
        }
    }

    pub fn trim(&mut self, below: Sequence) {
        while self.first < below.0 && self.hashes.pop_front().is_some() {
            self.first += 1;
        }
        self.first = self.first.max(below.0);
    }

    /// At a start: the log begins at `first`, which may be before what was trimmed; nothing of it
    /// is read yet.
    pub fn recovered(&mut self, first: Sequence) {
        self.lost.clear();
        self.unread = true;
        self.trim(first);
        while self.first > first.0 {
            self.first -= 1;
            self.hashes.push_front(None);
        }
    }

    /// The log was read, but for these.
    pub fn loaded(&mut self, lost: BTreeSet<Sequence>) {
        (self.lost, self.unread) = (lost, false);
    }

    /// The tail after a snapshot was read, except for these. Entries before it count as before,
    /// until the snapshot's record.
    pub fn tail_lost(&mut self, lost: BTreeSet<Sequence>) {
        self.lost.extend(lost);
    }

    /// Where the entries end that follow each other without a loss: as far as the log counts as a
    /// vote.
    pub fn sound_last(&self) -> Sequence {
        if self.unread {
            return Sequence(self.first - 1);
        }
        self.lost.first().map_or(self.last(), |lost| lost.previous().min(self.last()))
    }

    /// Whether the log may hold this entry there: it is the one that was ordered, or nothing is
    /// expected any more.
    pub fn allows(&self, sequence: Sequence, entry: &[u8]) -> bool {
        self.hash(sequence).is_none_or(|hash| hash == hash_of(entry))
    }

    /// The sequence of the last copied database; returned once.
    pub fn take_installed(&mut self) -> Option<Sequence> {
        self.installed.take()
    }

    /// The entries that the replica knows as lost.
    pub fn lost(&self) -> &BTreeSet<Sequence> {
        &self.lost
    }
}

impl DurableLog for ExpectedLog {
    fn accepted_view(&self) -> View {
        self.promised().accepted_view
    }

    fn first(&self) -> Sequence {
        ExpectedLog::first(self)
    }

    fn last(&self) -> Sequence {
        ExpectedLog::last(self)
    }

    fn voted_last(&self) -> Sequence {
        self.sound_last().min(self.voted)
    }

    fn hash(&self, sequence: Sequence) -> Option<u64> {
        let place = sequence.0.checked_sub(self.first)?;
        self.hashes.get(place as usize).copied().flatten()
    }
}
