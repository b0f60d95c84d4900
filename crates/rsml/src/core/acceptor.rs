//! The acceptor: the promise and the log of this replica, in memory and on disk.
//!
//! Invariants, asserted in the mutators:
//! - `promised` never goes back, and `accepted_view <= promised` (rule 3).
//! - `accepted_view` is raised to v only by [`Acceptor::adopt`], whose single durable write leaves
//!   the log holding v's entries through at least `max(L_v, commit)`, and nothing of the old log
//!   beyond (rule 2).
//! - Entries at or below the commit point are never cut (rule 2).
//! - The epoch never goes back. It is raised in one durable write, after which the log holds all of
//!   the epochs before, and nothing else if its accepted view is of one of them (rule M3).
//! - Nothing is appended behind the seal of the present epoch (rule M2).
//! - `stable` is the prefix of the log in memory that is durable; `durable`, `durable_last` and
//!   `durable_lost` are what recovery would find. They differ while a replacement is on its way to
//!   the disk.
//! - Entries that the disk has lost count in the log's length. Neither they nor the entries after
//!   them are votes until all of them are repaired and written (rule 7). Until then nothing is
//!   appended either.
//!
//! Entries of a view whose log is not adopted yet are *staged*: they are kept apart, for one view,
//! and do not touch the log that a promise would report meanwhile.

use std::collections::VecDeque;

use bytes::Bytes;

use super::log::Log;
use crate::{ClusterId, Epoch, HardState, Persist, Sequence, View, WriteId};

/// Entries of a view's log that do not yet reach the length with which that log may be adopted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Staging {
    /// The view.
    pub view: View,
    /// L_v: the length of the log that the view's primary adopted.
    pub adopted: Sequence,
    /// The sequence of `entries[0]`.
    pub from: Sequence,
    /// The entries, without holes.
    pub entries: Vec<Bytes>,
    /// The bytes of the entries.
    pub bytes: usize,
}

impl Staging {
    /// The last staged entry; the one before `from` when there is none.
    pub fn last(&self) -> Sequence {
        Sequence(self.from.0 + self.entries.len() as u64 - 1)
    }
}

/// A log write on its way to the disk, and what is durable once it is done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    write_id: WriteId,
    hard: HardState,
    last: Sequence,
    /// The prefix of the log in memory that is then durable: lowered when entries of this write are
    /// replaced.
    stable: Sequence,
    /// The entries that are lost on disk even then.
    lost: Vec<Range>,
}

/// Sequences, both ends included.
type Range = (Sequence, Sequence);

/// The promise and the log of this replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    /// The hard state once every log write is done.
    hard: HardState,
    /// The log once every log write is done.
    log: Log,
    /// The hard state on disk.
    durable: HardState,
    /// The last entry on disk.
    durable_last: Sequence,
    /// The entries of the log on disk that are lost.
    durable_lost: Vec<Range>,
    /// The entries that are lost on disk once every log write is done.
    lost: Vec<Range>,
    /// Entries of the log in memory through here are durable.
    stable: Sequence,
    /// The log writes on their way to the disk, oldest first.
    pending: VecDeque<Pending>,
    next_write_id: WriteId,
    staging: Option<Staging>,
    /// Those log writes that were not handed out yet.
    writes: Vec<Persist>,
}

impl Acceptor {
    /// From what was found on disk. `log`: the part of the log that is in memory. `lost`: the
    /// entries that count as lost, at least the holes of `log`.
    pub fn new(hard: HardState, durable: HardState, log: Log, lost: Vec<(Sequence, Sequence)>) -> Acceptor {
        let last = log.last();
        let stable = lost.first().map_or(last, |(from, _)| from.previous());
        Acceptor {
            hard,
            log,
            durable,
            durable_last: last,
            durable_lost: lost.clone(),
            lost,
            stable,
            pending: VecDeque::new(),
            next_write_id: WriteId(1),
            staging: None,
            writes: Vec::new(),
        }
    }

    /// The hard state once every log write is done.
    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    /// The promised view, which may not be durable yet.
    pub fn promised(&self) -> View {
        self.hard.promised
    }

    /// The view whose log this is, which may not be durable yet.
    pub fn accepted_view(&self) -> View {
        self.hard.accepted_view
    }

    /// The hard state on disk.
    pub fn durable(&self) -> &HardState {
        &self.durable
    }

    /// The last entry on disk.
    pub fn durable_last(&self) -> Sequence {
        self.durable_last
    }

    /// Entries of the log in memory through here are durable.
    pub fn stable(&self) -> Sequence {
        self.stable
    }

    /// The part of the log that is in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The staged entries.
    pub fn staging(&self) -> Option<&Staging> {
        self.staging.as_ref()
    }

    /// The entries of the log on disk that are lost. They count in its length.
    pub fn durable_lost(&self) -> &[(Sequence, Sequence)] {
        &self.durable_lost
    }

    /// The entry of the log in memory that ends the present epoch, chosen or not.
    pub fn sealed(&self) -> Option<Sequence> {
        self.log.seal_before(self.hard.epoch.next())
    }

    /// Whether the disk, or a log write on its way to it, has lost an entry at or below `through`.
    pub fn has_lost_through(&self, through: Sequence) -> bool {
        let first = |lost: &[Range]| lost.first().is_some_and(|(from, _)| *from <= through);
        first(&self.lost) || first(&self.durable_lost) || self.pending.iter().any(|pending| first(&pending.lost))
    }

    /// Enters `epoch`, which begins after the seal at `since`, in one durable write. All through
    /// the seal is chosen: in `ended_view` or before, as far as that is known ([`View::BIRTH`]: not).
    /// Everything behind the seal is of the epoch that is over, and removed (rule M3).
    /// `new_session`: as if the disk had been started again, so that its requests are numbered from
    /// 1.
    pub fn enter(&mut self, epoch: Epoch, since: Sequence, ended_view: View, new_session: bool) {
        assert_eq!(epoch, self.hard.epoch.next(), "epochs are entered one after the other");
        assert!(self.hard.accepted_view.epoch() < epoch, "the log is of a view of epoch {epoch} already");
        assert!(self.log.sound_last() >= since, "the log lacks entries through the seal at {since}");
        self.hard.epoch = epoch;
        self.hard.ended_view = ended_view;
        self.hard.boot.0 += u64::from(new_session);
        self.staging = None;
        self.replace(since.next(), since, Vec::new());
    }

    /// Whether the log is being repaired: lost entries come from peers, and are written once none
    /// is missing.
    pub fn is_repairing(&self) -> bool {
        !self.lost.is_empty()
    }

    /// The last durable entry before the first lost one: no vote reaches further (rule 7).
    pub fn durable_sound_last(&self) -> Sequence {
        self.durable_lost.first().map_or(self.durable_last, |(from, _)| from.previous())
    }

    /// The last entry that is durable in `view`, if this replica's vote counts in it.
    pub fn vote(&self, view: View) -> Option<Sequence> {
        (self.durable.accepted_view == view).then(|| self.durable_sound_last())
    }

    /// The oldest log write on its way to the disk, and where the log will end once it is done.
    pub fn oldest_pending(&self) -> Option<(WriteId, Sequence)> {
        self.pending.front().map(|p| (p.write_id, p.last))
    }

    /// The log writes since the last call.
    pub fn take_writes(&mut self) -> Vec<Persist> {
        std::mem::take(&mut self.writes)
    }

    /// Changes the identity: a new disk, a new boot.
    pub fn identify(&mut self, change: impl FnOnce(&mut HardState)) {
        let views = (self.hard.promised, self.hard.accepted_view);
        change(&mut self.hard);
        assert_eq!(views, (self.hard.promised, self.hard.accepted_view), "identity carries no promise");
        self.write(self.log.last().next(), false, Vec::new());
    }

    /// From now on no lease granted by this replica is longer; durable with the next log write.
    pub fn grants_leases_of(&mut self, lease_us: u64) {
        self.hard.lease_us = lease_us;
    }

    /// Takes the bootstrap record as the first entry, in the log write that makes the cluster's id
    /// durable.
    pub fn be_born(&mut self, cluster_id: ClusterId, epoch: Epoch, birth: Bytes) {
        assert_eq!(self.log.last(), Sequence::ZERO, "born twice");
        self.hard.cluster_id = cluster_id;
        self.hard.epoch = epoch;
        self.log.append(birth.clone());
        self.write(Sequence::BIRTH, false, vec![birth]);
    }

    /// Promises `view`. Staged entries of lower views are dropped.
    pub fn promise(&mut self, view: View) {
        assert!(view > self.hard.promised, "promise went back: {} -> {view}", self.hard.promised);
        self.raise_promise(view);
        self.write(self.log.last().next(), false, Vec::new());
    }

    fn raise_promise(&mut self, view: View) {
        assert!(view >= self.hard.promised, "promise went back: {} -> {view}", self.hard.promised);
        self.hard.promised = view;
        if self.staging.as_ref().is_some_and(|s| s.view < view) {
            coverage!("rule2.staged_and_higher_view");
            self.staging = None;
        }
    }

    /// Adds entries of the accepted view at the end of the log (rule 1: only where the one before
    /// is held).
    pub fn append(&mut self, view: View, entries: Vec<Bytes>) {
        assert_eq!(view, self.hard.accepted_view, "an entry of another view than the log's");
        assert_eq!(view, self.hard.promised, "an entry of a view below the promise");
        assert_eq!(self.log.first_hole(), None, "nothing is appended after lost entries");
        assert_eq!(self.sealed(), None, "nothing is appended behind the seal of an epoch");
        let from = self.log.last().next();
        for entry in &entries {
            self.log.append(entry.clone());
        }
        self.write(from, false, entries);
    }

    /// Makes this the log of `view` in one durable write: everything at or above `from` is replaced
    /// by `entries` (rule 2).
    pub fn adopt(&mut self, view: View, adopted: Sequence, commit: Sequence, from: Sequence, entries: Vec<Bytes>) {
        assert!(view > self.hard.accepted_view, "view {view} is held already");
        assert_eq!(view, self.hard.promised, "adopting a view that is not promised");
        let last = Sequence(from.0 + entries.len() as u64 - 1);
        assert!(last >= adopted.max(commit), "the log of view {view} ends at {last} before {adopted} or {commit}");
        self.hard.accepted_view = view;
        self.staging = None;
        self.replace(from, commit, entries);
    }

    /// Takes entries of the accepted view where the log has lost them (rule 7). They are written
    /// once none is missing, in one log write from the first lost one on, so that the intact
    /// entries after them are never removed.
    pub fn repair(&mut self, view: View, from: Sequence, entries: Vec<Bytes>) {
        assert_eq!(view, self.hard.accepted_view, "an entry of another view than the log's");
        for (sequence, entry) in (from.0..).map(Sequence).zip(entries) {
            self.log.fill(sequence, entry);
        }
        self.write_repaired();
    }

    /// Writes the entries that are lost on disk, once all of them are in memory again.
    fn write_repaired(&mut self) {
        let Some((first, _)) = self.lost.first().copied().filter(|_| self.log.first_hole().is_none()) else { return };
        coverage!("rule7.repaired");
        let entries = self.log.read(first, self.log.last(), usize::MAX);
        self.write_replacement(first, true, entries);
    }

    /// The database of `generation` replaces the present one. It holds everything through `base`,
    /// known to be committed in `view`: the log continues after it, and keeps its accepted view and
    /// the entries that it holds beyond (rule 10). `tail`: if no entry of the log is in memory,
    /// where the log ends, and the entries beyond `base` that storage still has.
    ///
    /// `new_session`: see [`Acceptor::enter`].
    ///
    /// The database is of `epoch`. If that is a later one than the log's, the same write enters it,
    /// and the log keeps nothing beyond `base` (rule M3).
    pub fn install_snapshot(
        &mut self,
        generation: u64,
        base: Sequence,
        view: View,
        epoch: Epoch,
        new_session: bool,
        tail: Option<(Sequence, Vec<Bytes>)>,
    ) -> WriteId {
        assert!(epoch >= self.hard.epoch, "a copy of epoch {epoch} takes a replica back from {}", self.hard.epoch);
        assert!(
            generation > self.hard.generation,
            "the generation went back: {} -> {generation}",
            self.hard.generation
        );
        self.hard.generation = generation;
        self.hard.boot.0 += u64::from(new_session);
        self.raise_promise(self.hard.promised.max(view));
        self.staging = None;
        let last_stored = self.log.last();
        self.log.rebase(base);
        if let Some((last, entries)) = tail {
            let missing = (last.0 - base.0) as usize - entries.len();
            let lost = std::iter::repeat_n(None, missing);
            self.log = Log::new(base.next(), entries.into_iter().map(Some).chain(lost).collect());
            self.lost = self.log.hole_ranges();
            if missing > 0 {
                coverage!("rule7.lost_tail_behind_snapshot");
            }
        }
        self.lost.retain(|(_, to)| *to > base);
        self.lost.iter_mut().for_each(|(from, _)| *from = base.next().max(*from));
        let mut truncate = false;
        if epoch > self.hard.epoch {
            coverage!("epochs.entered_by_a_copy");
            self.hard.epoch = epoch;
            self.hard.ended_view = if view.epoch() < epoch { view } else { View::BIRTH };
            truncate = self.log.last() > base || last_stored > base;
            self.log = Log::new(base.next(), Vec::new());
            self.lost.clear();
            self.pending.iter_mut().for_each(|pending| pending.stable = pending.stable.min(base));
        }
        self.stable = if truncate { base } else { self.stable.max(base) };
        let write_id = self.write(base.next(), truncate, Vec::new());
        let write = self.writes.last_mut().expect("it was given just now");
        write.base = Some(base);
        self.write_repaired();
        write_id
    }

    /// Promises `view` with the next log write, which installs what was committed in it (rule 10).
    pub fn promise_with_next_write(&mut self, view: View) {
        self.raise_promise(self.hard.promised.max(view));
    }

    /// Writes committed entries over the log, which keeps its tail and its accepted view (rule 10).
    pub fn install_committed(&mut self, commit: Sequence, from: Sequence, mut entries: Vec<Bytes>) {
        assert!(from <= commit.next(), "a hole between the commit point {commit} and {from}");
        let end = Sequence(from.0 + entries.len() as u64);
        if self.log.last() >= end {
            entries.extend(self.log.read(end, self.log.last(), usize::MAX));
        }
        self.replace(from, commit, entries);
    }

    fn replace(&mut self, from: Sequence, commit: Sequence, entries: Vec<Bytes>) {
        assert!(from > commit, "cutting at {from} would cut committed entries through {commit}");
        assert!(from <= self.log.last().next(), "a hole between {} and {from}", self.log.last());
        assert!(
            self.log.first_hole().is_none_or(|hole| from <= hole),
            "entries that are lost before {from} are not replaced"
        );
        let truncate = from <= self.log.last();
        if truncate {
            coverage!("rule2.tail_cut");
        }
        self.log.truncate(from);
        for entry in &entries {
            self.log.append(entry.clone());
        }
        match self.lost.first().copied().filter(|(lost, _)| *lost < from) {
            // Repaired in memory, and not written yet.
            Some((lost, _)) => {
                let entries = self.log.read(lost, self.log.last(), usize::MAX);
                self.write_replacement(lost, true, entries);
            }
            None => self.write_replacement(from, truncate, entries),
        }
    }

    fn write_replacement(&mut self, from: Sequence, truncate: bool, entries: Vec<Bytes>) {
        self.lost.clear();
        self.stable = self.stable.min(from.previous());
        for pending in &mut self.pending {
            pending.stable = pending.stable.min(from.previous());
        }
        self.write(from, truncate, entries);
    }

    /// Starts or continues staging. Returns false when `from` does not follow the staged entries.
    pub fn stage(&mut self, view: View, adopted: Sequence, from: Sequence, entries: Vec<Bytes>) -> bool {
        assert_eq!(view, self.hard.promised, "staging a view that is not promised");
        let staging = match &mut self.staging {
            Some(staging) if staging.view == view => staging,
            other => other.insert(Staging { view, adopted, from, entries: Vec::new(), bytes: 0 }),
        };
        if from > staging.last().next() {
            return false;
        }
        let known = (staging.last().next().0 - from.0) as usize;
        for entry in entries.into_iter().skip(known) {
            staging.bytes += entry.len();
            staging.entries.push(entry);
        }
        true
    }

    /// Takes the staged entries out.
    pub fn take_staging(&mut self) -> Option<Staging> {
        self.staging.take()
    }

    /// Puts back entries that [`Acceptor::take_staging`] took out.
    pub fn restore_staging(&mut self, staging: Staging) {
        assert_eq!(staging.view, self.hard.promised, "staging a view that is not promised");
        self.staging = Some(staging);
    }

    /// Drops durable entries through `upto` from memory, until at most `keep_bytes` are held.
    pub fn evict(&mut self, upto: Sequence, keep_bytes: usize) {
        self.log.evict(upto.min(self.stable), keep_bytes);
    }

    fn write(&mut self, from: Sequence, truncate: bool, entries: Vec<Bytes>) -> WriteId {
        let write_id = self.next_write_id;
        self.next_write_id = WriteId(write_id.0 + 1);
        let last = self.log.last();
        let lost = self.lost.clone();
        let stable = lost.first().map_or(last, |(from, _)| from.previous());
        self.pending.push_back(Pending { write_id, hard: self.hard, last, stable, lost });
        self.writes.push(Persist { write_id, hard_state: self.hard, base: None, from, truncate, entries });
        write_id
    }

    /// Numbers the log writes on their way to the disk from 1.
    pub fn renumber_writes(&mut self) {
        for (write_id, pending) in (1..).zip(&mut self.pending) {
            pending.write_id = WriteId(write_id);
        }
        let given_out = self.pending.len() - self.writes.len();
        for (write_id, write) in (given_out as u64 + 1..).zip(&mut self.writes) {
            write.write_id = WriteId(write_id);
        }
        self.next_write_id = WriteId(self.pending.len() as u64 + 1);
    }

    /// Storage has completed every log write through `write_id`.
    pub fn complete(&mut self, write_id: WriteId) {
        while self.pending.front().is_some_and(|p| p.write_id <= write_id) {
            let done = self.pending.pop_front().expect("front was there");
            assert!(done.hard.promised >= self.durable.promised, "a durable promise went back");
            if done.stable < done.last {
                coverage!("rule3.completion_of_replaced");
            }
            self.durable = done.hard;
            self.durable_last = done.last;
            self.durable_lost = done.lost;
            self.stable = self.stable.max(done.stable);
        }
    }

    /// Asserts the invariants of this module. `commit`: the commit point.
    pub fn check_invariants(&self, commit: Sequence) {
        assert!(self.hard.accepted_view <= self.hard.promised, "accepted beyond the promise");
        assert!(self.hard.accepted_view.epoch() <= self.hard.epoch.max(Epoch::FIRST), "a log of a later epoch");
        assert!(self.durable.epoch <= self.hard.epoch, "the epoch went back");
        if let Some(seal) = self.sealed() {
            // Where the seal came as committed, the tail goes as this replica enters the next epoch.
            let is_last = self.log.last() == seal || commit >= seal;
            assert!(is_last || self.hard.accepted_view.epoch() < self.hard.epoch, "entries behind the seal at {seal}");
        }
        assert!(self.durable.accepted_view <= self.durable.promised, "durably accepted beyond the promise");
        assert!(self.stable <= self.log.last(), "more is durable than there is");
        let sound = self.log.sound_last();
        assert!(commit <= sound, "commit point {commit} lies beyond the log's end, or what is lost of it, {sound}");
        assert!(self.stable <= self.log.sound_last(), "lost entries count as durable");
        assert!(self.log.first_hole().is_none() || !self.lost.is_empty(), "a hole that no write left");
        if let Some(staging) = &self.staging {
            assert_eq!(staging.view, self.hard.promised, "staged for another view than the promised one");
            assert!(staging.view > self.hard.accepted_view, "staged for a view that is held");
        }
    }
}
