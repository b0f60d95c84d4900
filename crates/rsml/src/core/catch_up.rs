//! Catching up by a copy of a peer's database, when the entries that are needed are gone from the logs (rule 10).
//!
//! Who lags learns it from the primary ([`Behind`]), in its own phase 1, or at its start, when its database is gone and
//! its log does not reach back to the beginning. It picks a peer whose database is new enough, a secondary if there is
//! one, and asks it for one piece after the other; the pieces become a database beside the present one. When that is
//! complete and durable, one record of the log switches to it: the record names the database's directory, drops the log
//! up to the sequence that the database holds, and raises the promise to the view in which the sender knew all of that
//! as committed. Accepted view and the log's tail stay as they are, so no vote changes.
//!
//! Invariants: a snapshot only ever takes a replica forward, beyond its commit point; the new database is used, and what
//! was before removed, only after the record is durable.
//!
//! The serving side keeps nothing here: the driver holds the copy, and makes a new one when it has to.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::digests::RefusedCopy;
use super::replica::Replica;
use super::view_manager::Role;
use super::{LogRead, ReadPurpose};
use crate::message::{Behind, Message, SnapshotChunk, SnapshotRequest};
use crate::value::ReplicatedState;
use crate::{Instant, ReplicaId, Sequence, View, WriteId};

/// So many pieces may be on their way at a time, received and not yet written included.
const PIECES_UNDER_WAY: u64 = 4;

/// After so many `retry_us` the pace of a snapshot is compared with that of the log.
const PACE_INTERVAL: u64 = 5;

/// The rate is doubled so many times at most: by then it is no limit any more.
const MOST_DOUBLINGS: u32 = 16;

/// A source that brought nothing for so many `retry_us` is given up: making the copy takes a while.
const PATIENCE: u64 = 50;

/// A piece of this replica's database, wanted by a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotRead {
    pub peer: ReplicaId,
    /// 0: of any copy that is new enough.
    pub id: u64,
    pub offset: u64,
    pub max_bytes: usize,
    /// The copy must hold everything through this sequence.
    pub at_least: Sequence,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotPiece {
    pub peer: ReplicaId,
    /// 0: there is no such copy, and none can be made.
    pub id: u64,
    pub offset: u64,
    pub total_bytes: u64,
    pub sequence: Sequence,
    pub bytes: Bytes,
}

/// Building a database from a peer's copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InstallStep {
    /// Begins the database of that generation; another one that was begun is dropped.
    Begin { generation: u64 },
    /// The next bytes.
    Write(Bytes),
    /// All bytes were given.
    Finish,
    /// It is not wanted any more.
    Abort,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InstallEvent {
    /// So many bytes were written.
    Written { generation: u64, bytes: u64 },
    /// The database is complete and durable; its replicated state.
    Finished { generation: u64, state: Bytes },
    /// It came to nothing.
    Failed { generation: u64 },
}

/// A snapshot under way, for those who watch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    pub source: ReplicaId,
    /// Of the database that it becomes: differs for each attempt.
    pub generation: u64,
    /// What it holds everything through; 0 before its first piece has come.
    pub sequence: Sequence,
    pub received: u64,
    /// 0: not known yet.
    pub total: u64,
    /// How fast it is asked for at most; 0: as fast as it comes.
    pub bytes_per_second: u64,
}

/// How a snapshot and the log went along since they were compared last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pace {
    at: Instant,
    generation: u64,
    received: u64,
    /// Whose log, and what it had taken in.
    of: ReplicaId,
    log_grown: u64,
}

/// A snapshot under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Transfer {
    source: ReplicaId,
    generation: u64,
    /// The source's name for its copy; 0 until its first piece has come.
    id: u64,
    sequence: Sequence,
    /// All of it was chosen in this view or before.
    view: View,
    total_bytes: u64,
    /// How many bytes come at a time: what both sides allow.
    piece_bytes: u64,
    asked: u64,
    received: u64,
    written: u64,
    last_progress: Instant,
    /// Repetitions without any progress.
    repeated: u64,
    /// Not before this, for the rate.
    ask_at: Instant,
    /// The database is complete; a lease forbids to promise its view for now.
    held_back: Option<Box<ReplicatedState>>,
    /// The database is complete, and the log's tail is being read.
    state: Option<Box<ReplicatedState>>,
}

/// What a replica that lags does about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CatchUp {
    /// A snapshot must reach at least there, whoever leads: the own log begins only behind it.
    required: Sequence,
    /// A snapshot must reach at least there, as far as the others can supply entries now.
    wanted: Option<Sequence>,
    transfer: Option<Box<Transfer>>,
    /// Whom to ask first, if it can be.
    preferred: Option<ReplicaId>,
    /// Did not bring what was asked of them since everybody was asked last.
    shunned: BTreeSet<ReplicaId>,
    last_generation: u64,
    pace: Option<Pace>,
    /// How many times the rate was doubled, since the replica was last up to date.
    doublings: u32,
    /// What the last snapshot that was installed held everything through.
    last_installed: Sequence,
    /// Everybody was asked, to no avail: not before this again.
    rest_until: Instant,
    /// Switches to the database once this write is durable.
    switch: Option<(WriteId, u64)>,
    /// Snapshots that took the place of the database since the start.
    pub installed: u64,
}

impl CatchUp {
    /// Whether a database is complete whose view is above `promised`: it will be promised soon, so that no lease may be
    /// granted any more.
    pub fn will_promise_above(&self, promised: View) -> bool {
        let complete = self.transfer.as_ref().filter(|t| t.held_back.is_some() || t.state.is_some());
        complete.is_some_and(|transfer| transfer.view > promised)
    }

    /// From the start on a snapshot is needed that reaches at least there.
    pub fn want(&mut self, through: Sequence) {
        self.required = through;
        self.wanted = Some(through);
    }

    /// What the snapshot under way holds everything through.
    pub fn installing(&self) -> Sequence {
        self.transfer.as_ref().map_or(Sequence::ZERO, |transfer| transfer.sequence)
    }
}

impl Replica {
    /// The record that makes another database the live one is on its way to the disk: until it is there, nothing is
    /// given to the present one.
    pub(super) fn is_switching(&self) -> bool {
        self.catch_up.switch.is_some()
    }

    /// Whether this replica waits for a snapshot, without which it can't go on.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catch_up.wanted.is_some()
    }

    /// Entries through `through` are to be had only as a snapshot.
    pub(super) fn want_snapshot(&mut self, through: Sequence, preferred: Option<ReplicaId>) {
        if through <= self.learner.commit() {
            return;
        }
        let was_content = self.catch_up.wanted.is_none();
        // The newest word counts: who asked for more may be gone, and with it everybody who has so much.
        let wanted = self.catch_up.required.max(through);
        self.catch_up.wanted = Some(wanted);
        self.catch_up.preferred = preferred;
        // What a primary has trimmed meanwhile is no reason to begin anew: where the log is trimmed faster than a copy
        // comes, no copy would ever be finished, and each that is takes this replica forward. In phase 1 nobody trims.
        let is_outdated = self.catch_up.transfer.as_ref().is_some_and(|t| t.id != 0 && t.sequence < wanted);
        let came_in_vain =
            was_content && self.catch_up.installed > 0 && self.catch_up.last_installed == self.learner.commit();
        if is_outdated && preferred.is_some() {
            self.drop_transfer(None);
        }
        if is_outdated || came_in_vain {
            coverage!("snapshot.came_too_late");
            self.hurry();
        }
        self.begin_transfer();
    }

    pub(super) fn on_behind(&mut self, message: &Behind) {
        let is_leading = matches!(self.views.role, Role::Primary(_));
        if View(message.view) == self.acceptor.promised() && !is_leading {
            coverage!("snapshot.behind");
            self.want_snapshot(Sequence(message.first).previous(), None);
        }
    }

    fn rate(&self) -> u64 {
        self.options.snapshot_bytes_per_second.saturating_mul(1 << self.catch_up.doublings)
    }

    /// Asks for snapshots twice as fast from now on.
    fn hurry(&mut self) {
        self.catch_up.doublings = (self.catch_up.doublings + 1).min(MOST_DOUBLINGS);
    }

    /// A snapshot must outrun the log: what is written meanwhile has to be fetched after it, and kept for that long.
    fn keep_pace(&mut self) {
        let Some(transfer) = self.catch_up.transfer.as_ref().filter(|t| t.id != 0 && t.received < t.total_bytes) else {
            return;
        };
        let of = self.views.primary.filter(|id| self.reports.contains_key(id)).unwrap_or(transfer.source);
        let Some(log_grown) = self.reports.get(&of).map(|report| report.log_grown) else { return };
        let (generation, received) = (transfer.generation, transfer.received);
        if let Some(pace) = self.catch_up.pace.as_ref().filter(|p| p.generation == generation && p.of == of) {
            if self.now.since_us(pace.at) < PACE_INTERVAL * self.options.retry_us {
                return;
            }
            let grew = log_grown.saturating_sub(pace.log_grown);
            if grew > 0 && grew >= received - pace.received {
                coverage!("snapshot.hurries");
                self.hurry();
            }
        }
        self.catch_up.pace = Some(Pace { at: self.now, generation, received, of, log_grown });
    }

    pub(super) fn copy_status(&self) -> Option<CopyStatus> {
        let transfer = self.catch_up.transfer.as_ref()?;
        Some(CopyStatus {
            source: transfer.source,
            generation: transfer.generation,
            sequence: transfer.sequence,
            received: transfer.received,
            total: transfer.total_bytes,
            bytes_per_second: self.rate(),
        })
    }

    /// Picks whom to ask: a secondary if possible, and whoever has applied most.
    fn begin_transfer(&mut self) {
        if self.catch_up.transfer.is_some() || self.catch_up.switch.is_some() || self.now < self.catch_up.rest_until {
            return;
        }
        let Some(wanted) = self.catch_up.wanted else { return };
        let is_fresh =
            |id: &ReplicaId| self.heard.get(id).is_some_and(|at| self.now.since_us(*at) < self.options.election_max_us);
        let rank = |id: &ReplicaId, applied: u64| {
            (self.catch_up.preferred == Some(*id), self.views.primary != Some(*id), applied)
        };
        let able = self.reports.iter().filter(|(id, r)| r.applied >= wanted.0 && !r.is_observer && is_fresh(id));
        let untried =
            able.filter(|(id, _)| !self.catch_up.shunned.contains(id) && self.digests.refused(**id).is_none());
        let Some((source, _)) = untried.max_by_key(|(id, report)| rank(id, report.applied)) else {
            if !std::mem::take(&mut self.catch_up.shunned).is_empty() {
                self.catch_up.rest_until = self.now.plus_us(self.options.retry_us);
            }
            return;
        };
        let source = *source;
        self.catch_up.last_generation = self.catch_up.last_generation.max(self.acceptor.hard().generation) + 1;
        let generation = self.catch_up.last_generation;
        self.catch_up.transfer = Some(Box::new(Transfer {
            source,
            generation,
            id: 0,
            sequence: Sequence::ZERO,
            view: View::BIRTH,
            total_bytes: 0,
            piece_bytes: self.options.snapshot_chunk_bytes as u64,
            asked: 0,
            received: 0,
            written: 0,
            last_progress: self.now,
            repeated: 0,
            ask_at: self.now,
            held_back: None,
            state: None,
        }));
        self.outputs.install.push(InstallStep::Begin { generation });
        self.ask_for_snapshot(0, 0);
    }

    fn ask_for_snapshot(&mut self, id: u64, offset: u64) {
        let (wanted, rate) = (self.catch_up.wanted.unwrap_or_default(), self.rate());
        let Some(transfer) = &mut self.catch_up.transfer else { return };
        // The rest of a copy that was begun is wanted as it is.
        let at_least = if id == 0 { wanted.0 } else { transfer.sequence.0 };
        let length = transfer.piece_bytes;
        let takes_us = length.saturating_mul(1_000_000).checked_div(rate);
        transfer.ask_at = transfer.ask_at.max(self.now).plus_us(takes_us.unwrap_or(0));
        transfer.asked = offset + length;
        let source = transfer.source;
        self.send(source, Message::SnapshotRequest(SnapshotRequest { id, offset, length, at_least }), Vec::new());
    }

    /// Ends the transfer under way. `shun`: its source is not asked again before all others.
    fn drop_transfer(&mut self, shun: Option<ReplicaId>) {
        if self.catch_up.transfer.take().is_some() {
            coverage!("snapshot.dropped");
            self.outputs.install.push(InstallStep::Abort);
        }
        self.catch_up.shunned.extend(shun);
    }

    pub(super) fn tick_catch_up(&mut self) {
        if self.catch_up.wanted.is_some_and(|wanted| wanted <= self.learner.commit()) {
            // It came as entries after all, or as the snapshot.
            self.catch_up.wanted = None;
            self.catch_up.shunned.clear();
            self.digests.forget_refusals();
            self.drop_transfer(None);
        }
        if self.catch_up.wanted.is_none() && self.learner.commit() > self.catch_up.last_installed {
            self.catch_up.doublings = 0;
        }
        self.keep_pace();
        self.resume_held_back();
        let Some(transfer) = &mut self.catch_up.transfer else { return self.begin_transfer() };
        let is_all_received = transfer.id != 0 && transfer.received == transfer.total_bytes;
        if !is_all_received && self.now.since_us(transfer.last_progress) >= self.options.retry_us {
            transfer.last_progress = self.now;
            transfer.repeated += 1;
            coverage!("snapshot.repeated");
            let (source, id, received) = (transfer.source, transfer.id, transfer.received);
            // What was received is worth some patience with its source; where there is nothing yet, another one will do.
            let silent_us = self.heard.get(&source).map_or(u64::MAX, |at| self.now.since_us(*at));
            let is_pointless = id == 0 && silent_us >= self.options.election_max_us;
            if transfer.repeated > PATIENCE || is_pointless {
                self.drop_transfer(Some(source));
                self.begin_transfer();
            } else {
                self.ask_for_snapshot(id, received);
            }
        }
        self.ask_for_more();
    }

    /// Asks for the next pieces, as far as window and rate allow.
    pub(super) fn ask_for_more(&mut self) {
        while let Some(transfer) = &self.catch_up.transfer {
            let window = PIECES_UNDER_WAY * transfer.piece_bytes;
            let has_room = transfer.asked < transfer.written + window;
            if transfer.id == 0 || transfer.asked >= transfer.total_bytes || !has_room || self.now < transfer.ask_at {
                return;
            }
            self.ask_for_snapshot(transfer.id, transfer.asked);
        }
    }

    pub(super) fn on_snapshot_request(&mut self, peer: ReplicaId, message: &SnapshotRequest) {
        if self.is_catching_up() {
            return self.send(peer, Message::SnapshotChunk(SnapshotChunk::default()), Vec::new());
        }
        self.outputs.read_snapshot.push(SnapshotRead {
            peer,
            id: message.id,
            offset: message.offset,
            max_bytes: self.options.snapshot_chunk_bytes.min(message.length as usize),
            at_least: Sequence(message.at_least),
        });
    }

    pub(super) fn snapshot_read(&mut self, piece: SnapshotPiece) {
        assert!(piece.sequence <= self.learner.commit(), "a snapshot holds {}, which is not chosen", piece.sequence);
        let chunk = SnapshotChunk {
            id: piece.id,
            offset: piece.offset,
            total_bytes: piece.total_bytes,
            sequence: piece.sequence.0,
            view: self.learner.commit_view().0,
            crc: crc32c::crc32c(&piece.bytes),
        };
        self.send(piece.peer, Message::SnapshotChunk(chunk), vec![piece.bytes]);
    }

    pub(super) fn on_snapshot_chunk(&mut self, from: ReplicaId, message: &SnapshotChunk, payload: Vec<Bytes>) {
        let commit = self.learner.commit();
        let wanted = self.catch_up.wanted.unwrap_or_default();
        let Some(transfer) = self.catch_up.transfer.as_mut().filter(|t| t.source == from) else { return };
        let is_other = transfer.id != 0 && transfer.id != message.id;
        // Of a copy that was begun the rest is wanted, too, though more is wanted by now.
        let least = if transfer.id == 0 { wanted.max(commit.next()) } else { commit.next() };
        let is_useful = Sequence(message.sequence) >= least;
        if message.id == 0 || is_other || !is_useful {
            // What was received is of a copy that is gone.
            let shun = (!is_other).then_some(from);
            self.drop_transfer(shun);
            return self.begin_transfer();
        }
        let bytes = payload.into_iter().next().unwrap_or_default();
        if message.offset != transfer.received || bytes.is_empty() || crc32c::crc32c(&bytes) != message.crc {
            return;
        }
        if transfer.id == 0 {
            transfer.piece_bytes = bytes.len() as u64;
            transfer.asked = bytes.len() as u64;
        }
        transfer.id = message.id;
        transfer.sequence = Sequence(message.sequence);
        transfer.view = transfer.view.max(View(message.view));
        transfer.total_bytes = message.total_bytes;
        transfer.received += bytes.len() as u64;
        transfer.asked = transfer.asked.max(transfer.received);
        transfer.last_progress = self.now;
        transfer.repeated = 0;
        let is_complete = transfer.received >= transfer.total_bytes;
        self.outputs.install.push(InstallStep::Write(bytes));
        if is_complete {
            self.outputs.install.push(InstallStep::Finish);
        }
        self.ask_for_more();
    }

    pub(super) fn installed(&mut self, event: InstallEvent) {
        let (InstallEvent::Written { generation, .. }
        | InstallEvent::Finished { generation, .. }
        | InstallEvent::Failed { generation }) = &event;
        let Some(transfer) = self.catch_up.transfer.as_mut().filter(|t| t.generation == *generation) else { return };
        let source = transfer.source;
        match event {
            InstallEvent::Written { bytes, .. } => {
                transfer.written = bytes;
                self.ask_for_more();
            }
            InstallEvent::Failed { .. } => self.drop_transfer(Some(source)),
            InstallEvent::Finished { state, .. } => match ReplicatedState::from_bytes(&state) {
                Some(state) if self.fits(&state) => self.finish_when_free(state),
                _ => self.drop_transfer(Some(source)),
            },
        }
    }

    /// Installing may promise a view that nobody has a quorum's promises for: a source that has started again knows no
    /// better than its own promise. So it waits for the end of a lease like any other promise.
    fn finish_when_free(&mut self, state: ReplicatedState) {
        if self.lease_forbids_install() {
            coverage!("snapshot.waits_for_lease");
            self.catch_up.transfer.as_mut().expect("it is being finished").held_back = Some(Box::new(state));
        } else {
            self.finish_catch_up(state);
        }
    }

    fn lease_forbids_install(&self) -> bool {
        self.catch_up.transfer.as_ref().is_some_and(|transfer| self.lease_forbids_install_of(transfer.view))
    }

    fn lease_forbids_install_of(&self, view: View) -> bool {
        let raised = Some(view).filter(|view| *view > self.acceptor.promised());
        raised.and_then(View::owner).is_some_and(|owner| self.lease_forbids(owner, View::BIRTH))
    }

    fn resume_held_back(&mut self) {
        if self.lease_forbids_install() {
            return;
        }
        let Some(transfer) = &mut self.catch_up.transfer else { return };
        let Some(state) = transfer.held_back.take() else { return };
        match self.fits(&state) {
            true => self.finish_catch_up(*state),
            false => self.drop_transfer(None),
        }
    }

    /// The copy that this replica needs, and that nobody can vouch for.
    pub(super) fn refused_copy(&self) -> Option<RefusedCopy> {
        self.catch_up.wanted?;
        if self.catch_up.transfer.is_some() {
            // Somebody else's is on its way.
            return None;
        }
        self.reports.keys().find_map(|id| self.digests.refused(*id))
    }

    /// Whether a database with this state is what was promised, and takes this replica forward.
    fn fits(&mut self, state: &ReplicatedState) -> bool {
        let Some(transfer) = &self.catch_up.transfer else { return false };
        let source = transfer.source;
        state.cluster_id == self.acceptor.hard().cluster_id
            && state.sequence == transfer.sequence
            && state.sequence > self.learner.commit()
            && !matches!(self.views.role, Role::Primary(_))
            && !self.digests.refuse(source, &state.recorded)
    }

    /// The database is complete. Where nothing of the log is in memory, its tail is read first.
    fn finish_catch_up(&mut self, state: ReplicatedState) {
        let log = self.acceptor.log();
        let (base, last) = (state.sequence, log.last());
        if log.first() > base.next() && last > base {
            let (from, view) = (base.next(), self.acceptor.promised());
            let max_bytes = usize::MAX;
            self.outputs.read_log.push(LogRead { purpose: ReadPurpose::Tail, view, from, to: last, max_bytes });
            let transfer = self.catch_up.transfer.as_mut().expect("it is being finished");
            transfer.state = Some(Box::new(state));
        } else {
            self.install(state, None);
        }
    }

    /// The log's tail was read: what of it can't be is lost.
    pub(super) fn tail_read(&mut self, read: &LogRead, entries: Vec<Bytes>) {
        let Some(transfer) = &mut self.catch_up.transfer else { return };
        let Some(state) = transfer.state.take_if(|state| state.sequence.next() == read.from) else { return };
        if self.fits(&state) {
            self.install(*state, Some((read.to, entries)));
        } else {
            self.drop_transfer(None);
        }
    }

    /// One record of the log makes the new database the live one.
    fn install(&mut self, state: ReplicatedState, tail: Option<(Sequence, Vec<Bytes>)>) {
        let transfer = self.catch_up.transfer.take().expect("it is being finished");
        if matches!(self.views.role, Role::PreVoting { .. } | Role::Preparing(_)) {
            self.become_secondary(None);
        }
        let (base, view) = (state.sequence, transfer.view);
        let is_raised = view > self.acceptor.promised();
        assert!(!self.lease_forbids_install_of(view), "a copy raises the promise to {view} under a lease");
        let write_id = self.acceptor.install_snapshot(transfer.generation, base, view, tail);
        self.learner.install_snapshot(base, view);
        if is_raised {
            self.granted = None;
            self.become_secondary(None);
        }
        self.views.see(view);
        self.configuration = state.configuration;
        let hard = self.acceptor.hard();
        if let Some(own) = state.sessions.get(&hard.disk_id).filter(|session| session.boot == hard.boot) {
            self.requests.executed(own.last, self.now);
        }
        self.digests.replace(base, &state.recorded);
        self.applied_sessions = state.sessions;
        self.applied_time_us = state.time_us;
        self.applied_digest = state.digest;
        self.first_stored = base.next();
        self.answer.due = true;
        self.catch_up.wanted = None;
        self.catch_up.shunned.clear();
        self.catch_up.installed += 1;
        self.catch_up.last_installed = base;
        coverage!("snapshot.installed");
        self.catch_up.switch = Some((write_id, transfer.generation));
    }

    /// Writes through `write_id` are durable: the database is switched if the record of it is among them.
    pub(super) fn switch_database(&mut self, durable: WriteId) {
        if let Some((_, generation)) = self.catch_up.switch.take_if(|(write_id, _)| *write_id <= durable) {
            self.persisted = self.persisted.max(self.learner.applied());
            self.outputs.switch = Some(generation);
        }
    }
}
