//! Catching up with a snapshot of a peer's database, when the entries that a replica needs are gone
//! from the logs (rule 10).
//!
//! A lagging replica finds out from the primary ([`Behind`]), during its own phase 1, or at its
//! start, when its database is gone and its log does not reach back to the beginning. It picks a
//! peer whose database is new enough, a secondary if possible, and asks it for one piece after the
//! other. The pieces become a new database next to the present one. When the new database is
//! complete and durable, one record of the log switches to it: the record names the database's
//! directory, drops the log through the sequence that the database holds, and raises the promise to
//! the view in which the sender knew all of that as committed. The accepted view and the log's tail
//! stay as they are, so no vote changes.
//!
//! Invariants: a snapshot only takes a replica forward, beyond its commit point; the new database
//! is used, and the former one removed, only after the record is durable.
//!
//! A witness has no database. It fetches the library's own state alone, and serves nobody.
//!
//! The serving side keeps no state here: the driver holds the snapshot, and makes a new one when it
//! has to.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::digests::RefusedCopy;
use super::replica::Replica;
use super::snapshot::{CopyStatus, InstallEvent, InstallStep, SnapshotPiece, SnapshotRead};
use super::{LogRead, ReadPurpose};
use crate::message::{Behind, Message, Report, SnapshotChunk, SnapshotRequest};
use crate::value::ReplicatedState;
use crate::{Instant, ReplicaId, Sequence, View, WriteId};

/// Maximum number of pieces in flight at a time, counting those that were received and are not
/// written yet.
const PIECES_UNDER_WAY: u64 = 4;

/// How often the pace of a snapshot is compared with that of the log, in `retry_us`.
const PACE_INTERVAL: u64 = 5;

/// How often the rate is doubled at most: after that it is no limit any more.
const MAX_DOUBLINGS: u32 = 16;

/// A source is abandoned after this many retry intervals without progress. Making the snapshot may
/// take a while.
const PATIENCE: u64 = 50;

/// How far a snapshot and the log had come when they were last compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pace {
    at: Instant,
    generation: u64,
    /// The bytes of the snapshot received by then.
    received: u64,
    /// The replica whose log was compared, and by how many bytes that log had grown.
    of: ReplicaId,
    log_grown: u64,
}

/// A snapshot that is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SnapshotFetch {
    /// The replica that sends it.
    source: ReplicaId,
    /// The number of the database that it becomes.
    generation: u64,
    /// The source's name for it; 0 until the first piece has come.
    id: u64,
    /// It holds everything through this sequence.
    sequence: Sequence,
    /// All of that was chosen in this view or a lower one.
    view: View,
    /// The bytes of the whole snapshot.
    total_bytes: u64,
    /// How many bytes come at a time: the smaller limit of both sides.
    piece_bytes: u64,
    /// Bytes asked for, received, and written to the new database.
    asked: u64,
    received: u64,
    written: u64,
    /// When a piece was last received, or asked for again.
    last_progress: Instant,
    /// Repetitions since the last piece.
    repeated: u64,
    /// The next piece is asked for no earlier, to keep to the rate.
    ask_at: Instant,
    /// Set when the database is complete, while a lease forbids to promise its view.
    held_back: Option<Box<ReplicatedState>>,
    /// Set when the database is complete, while the log's tail is being read.
    state: Option<Box<ReplicatedState>>,
}

/// The state of a lagging replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CatchUp {
    /// A snapshot must reach at least here, whoever leads: this replica's log begins only after it.
    required: Sequence,
    /// A snapshot must reach at least here, since the others can supply entries only after it.
    /// `None`: none is needed.
    wanted: Option<Sequence>,
    fetch: Option<Box<SnapshotFetch>>,
    /// The replica to ask first, if it has a snapshot.
    preferred: Option<ReplicaId>,
    /// Replicas that have failed to supply a snapshot since all were last tried.
    shunned: BTreeSet<ReplicaId>,
    /// The number of the last database that was begun.
    last_generation: u64,
    pace: Option<Pace>,
    /// How often the rate was doubled since the replica was last up to date.
    doublings: u32,
    /// The sequence of the last snapshot that was installed.
    last_installed: Sequence,
    /// All replicas were tried without success: none is asked again before this.
    rest_until: Instant,
    /// The log write that switches to a new database, and the number of that database.
    switch: Option<(WriteId, u64)>,
    /// Snapshots installed since the start.
    pub installed: u64,
}

impl CatchUp {
    /// Whether a database is complete whose view is above `promised`: this replica will soon
    /// promise it, and may grant no lease any more.
    pub fn will_promise_above(&self, promised: View) -> bool {
        let complete = self.fetch.as_ref().filter(|t| t.held_back.is_some() || t.state.is_some());
        complete.is_some_and(|fetch| fetch.view > promised)
    }

    /// From the start on, a snapshot is needed that reaches at least to `through`.
    pub fn want(&mut self, through: Sequence) {
        self.required = through;
        self.wanted = Some(through);
    }

    /// The sequence of the snapshot that is being fetched; 0 if there is none.
    pub fn installing(&self) -> Sequence {
        self.fetch.as_ref().map_or(Sequence::ZERO, |fetch| fetch.sequence)
    }
}

impl Replica {
    /// Whether the record that switches to another database is on its way to the disk. Until it is
    /// durable, nothing is delivered to the present database.
    pub(super) fn is_switching(&self) -> bool {
        self.catch_up.switch.is_some()
    }

    /// Whether this replica needs a snapshot.
    pub(super) fn is_catching_up(&self) -> bool {
        self.catch_up.wanted.is_some()
    }

    /// Only a snapshot can supply the entries through `through`.
    pub(super) fn want_snapshot(&mut self, through: Sequence, preferred: Option<ReplicaId>) {
        if through <= self.learner.commit() {
            return;
        }
        let was_content = self.catch_up.wanted.is_none();
        // The newest answer counts: the replica that required more may be gone, and with it all
        // that have so much.
        let wanted = self.catch_up.required.max(through);
        self.catch_up.wanted = Some(wanted);
        self.catch_up.preferred = preferred;
        // Entries that a primary has trimmed meanwhile are no reason to start over: if the log is
        // trimmed faster than a snapshot is fetched, no snapshot would ever be finished, and each
        // one that is takes this replica forward. In phase 1 nobody trims.
        let is_outdated = self.catch_up.fetch.as_ref().is_some_and(|t| t.id != 0 && t.sequence < wanted);
        let came_in_vain =
            was_content && self.catch_up.installed > 0 && self.catch_up.last_installed == self.learner.commit();
        if is_outdated && preferred.is_some() {
            self.drop_fetch(None);
        }
        if is_outdated || came_in_vain {
            coverage!("snapshot.came_too_late");
            self.double_rate();
        }
        self.begin_fetch();
    }

    /// The primary no longer has the entries that this replica needs.
    pub(super) fn on_behind(&mut self, message: &Behind) {
        let is_leading = self.views.is_primary();
        if View(message.view) == self.acceptor.promised() && !is_leading {
            coverage!("snapshot.behind");
            self.want_snapshot(Sequence(message.first).previous(), None);
        }
    }

    fn rate(&self) -> u64 {
        self.options.snapshot_bytes_per_second.saturating_mul(1 << self.catch_up.doublings)
    }

    /// Doubles the rate at which snapshots are fetched.
    fn double_rate(&mut self) {
        self.catch_up.doublings = (self.catch_up.doublings + 1).min(MAX_DOUBLINGS);
    }

    /// A snapshot must outrun the log: entries written meanwhile have to be fetched after it, and
    /// kept for that long.
    fn keep_pace(&mut self) {
        let Some(fetch) = self.catch_up.fetch.as_ref().filter(|t| t.id != 0 && t.received < t.total_bytes) else {
            return;
        };
        let of = self.views.primary().filter(|id| self.peers.reports.contains_key(id)).unwrap_or(fetch.source);
        let Some(log_grown) = self.peers.reports.get(&of).map(|report| report.log_grown) else { return };
        let (generation, received) = (fetch.generation, fetch.received);
        if let Some(pace) = self.catch_up.pace.as_ref().filter(|p| p.generation == generation && p.of == of) {
            if self.now.since_us(pace.at) < PACE_INTERVAL * self.options.retry_us {
                return;
            }
            let grew = log_grown.saturating_sub(pace.log_grown);
            if grew > 0 && grew >= received - pace.received {
                coverage!("snapshot.rate_doubled");
                self.double_rate();
            }
        }
        self.catch_up.pace = Some(Pace { at: self.now, generation, received, of, log_grown });
    }

    /// The snapshot that is being fetched, for operators.
    pub(super) fn copy_status(&self) -> Option<CopyStatus> {
        let fetch = self.catch_up.fetch.as_ref()?;
        Some(CopyStatus {
            source: fetch.source,
            generation: fetch.generation,
            sequence: fetch.sequence,
            received: fetch.received,
            total: fetch.total_bytes,
            bytes_per_second: self.rate(),
        })
    }

    /// Picks the replica to ask: a voter if possible, a secondary, and the one that has applied
    /// most. One without a vote has what was chosen as well; after a change of the members it may
    /// be the only one.
    fn begin_fetch(&mut self) {
        if self.catch_up.fetch.is_some() || self.catch_up.switch.is_some() || self.now < self.catch_up.rest_until {
            return;
        }
        let Some(wanted) = self.catch_up.wanted else { return };
        let rank = |id: &ReplicaId, report: &Report| {
            let is_preferred = self.catch_up.preferred == Some(*id);
            (is_preferred, !report.is_observer, self.views.primary() != Some(*id), report.applied)
        };
        let untried = self.sources(wanted).filter(|(id, _)| {
            !self.catch_up.shunned.contains(id) && self.digests.refused(**id, &self.membership).is_none()
        });
        let Some((source, _)) = untried.max_by_key(|(id, report)| rank(id, report)) else {
            if !std::mem::take(&mut self.catch_up.shunned).is_empty() {
                self.catch_up.rest_until = self.now.plus_us(self.options.retry_us);
            }
            return;
        };
        let source = *source;
        self.catch_up.last_generation = self.catch_up.last_generation.max(self.acceptor.hard().generation) + 1;
        let generation = self.catch_up.last_generation;
        self.catch_up.fetch = Some(Box::new(SnapshotFetch {
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

    /// The replicas whose database holds everything through `wanted`, as far as is known now. A
    /// witness has none.
    fn sources(&self, wanted: Sequence) -> impl Iterator<Item = (&ReplicaId, &Report)> {
        let is_fresh = |id: &ReplicaId| {
            self.peers.heard.get(id).is_some_and(|at| self.now.since_us(*at) < self.options.election_max_us)
        };
        let is_able = move |(id, report): &(&ReplicaId, &Report)| {
            report.applied >= wanted.0 && !report.is_witness && is_fresh(id)
        };
        self.peers.reports.iter().filter(is_able)
    }

    /// Nobody has led for an election timeout. A primary that had no older entries may be gone with
    /// all that reached so far. What no replica has is wanted no more: otherwise this replica would
    /// neither stand for election nor give its database to one that needs it, and two replicas that
    /// hold everything could wait for ever.
    pub(super) fn forget_what_nobody_has(&mut self) {
        let required = self.catch_up.required;
        let Some(wanted) = self.catch_up.wanted.filter(|wanted| *wanted > required) else { return };
        if self.catch_up.fetch.is_some() || self.is_switching() || self.sources(wanted).next().is_some() {
            return;
        }
        coverage!("snapshot.nobody_has_it");
        self.catch_up.wanted = Some(required).filter(|required| *required > self.learner.commit());
    }

    fn ask_for_snapshot(&mut self, id: u64, offset: u64) {
        let (wanted, rate) = (self.catch_up.wanted.unwrap_or_default(), self.rate());
        let Some(fetch) = &mut self.catch_up.fetch else { return };
        // The rest of a snapshot that was begun is wanted as it is.
        let at_least = if id == 0 { wanted.0 } else { fetch.sequence.0 };
        let length = fetch.piece_bytes;
        let takes_us = length.saturating_mul(1_000_000).checked_div(rate);
        fetch.ask_at = fetch.ask_at.max(self.now).plus_us(takes_us.unwrap_or(0));
        fetch.asked = offset + length;
        let source = fetch.source;
        let state_only = self.options.is_witness;
        let request = SnapshotRequest { id, offset, length, at_least, state_only };
        self.send(source, Message::SnapshotRequest(request), Vec::new());
    }

    /// Ends the fetch in progress. `shun`: a source that is not asked again before all others.
    fn drop_fetch(&mut self, shun: Option<ReplicaId>) {
        if self.catch_up.fetch.take().is_some() {
            coverage!("snapshot.dropped");
            self.outputs.install.push(InstallStep::Abort);
        }
        self.catch_up.shunned.extend(shun);
    }

    /// Each tick: retries, changes the source, or notices that no snapshot is needed any more.
    pub(super) fn tick_catch_up(&mut self) {
        if self.catch_up.wanted.is_some_and(|wanted| wanted <= self.learner.commit()) {
            // The entries came after all, or the snapshot did.
            self.catch_up.wanted = None;
            self.catch_up.shunned.clear();
            self.digests.forget_refusals();
            self.drop_fetch(None);
        }
        if self.catch_up.wanted.is_none() && self.learner.commit() > self.catch_up.last_installed {
            self.catch_up.doublings = 0;
        }
        self.keep_pace();
        self.resume_held_back();
        let Some(fetch) = &mut self.catch_up.fetch else { return self.begin_fetch() };
        let is_all_received = fetch.id != 0 && fetch.received == fetch.total_bytes;
        if !is_all_received && self.now.since_us(fetch.last_progress) >= self.options.retry_us {
            fetch.last_progress = self.now;
            fetch.repeated += 1;
            coverage!("snapshot.repeated");
            let (source, id, received) = (fetch.source, fetch.id, fetch.received);
            // The pieces received are worth some patience with their source. Without any, another
            // source will do.
            let silent_us = self.peers.heard.get(&source).map_or(u64::MAX, |at| self.now.since_us(*at));
            let is_pointless = id == 0 && silent_us >= self.options.election_max_us;
            if fetch.repeated > PATIENCE || is_pointless {
                self.drop_fetch(Some(source));
                self.begin_fetch();
            } else {
                self.ask_for_snapshot(id, received);
            }
        }
        self.ask_for_more();
    }

    /// Asks for the next pieces, as far as window and rate allow.
    pub(super) fn ask_for_more(&mut self) {
        while let Some(fetch) = &self.catch_up.fetch {
            let window = PIECES_UNDER_WAY * fetch.piece_bytes;
            let has_room = fetch.asked < fetch.written + window;
            if fetch.id == 0 || fetch.asked >= fetch.total_bytes || !has_room || self.now < fetch.ask_at {
                return;
            }
            self.ask_for_snapshot(fetch.id, fetch.asked);
        }
    }

    /// A peer asks for a piece of a snapshot.
    pub(super) fn on_snapshot_request(&mut self, peer: ReplicaId, message: &SnapshotRequest) {
        if self.is_catching_up() || self.options.is_witness {
            return self.send(peer, Message::SnapshotChunk(SnapshotChunk::default()), Vec::new());
        }
        self.outputs.read_snapshot.push(SnapshotRead {
            peer,
            id: message.id,
            offset: message.offset,
            max_bytes: self.options.snapshot_chunk_bytes.min(message.length as usize),
            state_only: message.state_only,
            at_least: match message.id {
                // Not from before this epoch, whose members the receiver would not learn.
                0 => Sequence(message.at_least).max(self.membership.since()),
                _ => Sequence(message.at_least),
            },
        });
    }

    /// A piece of a snapshot was read, for a peer.
    pub(super) fn snapshot_read(&mut self, piece: SnapshotPiece) {
        assert!(piece.sequence <= self.learner.commit(), "a snapshot holds {}, which is not chosen", piece.sequence);
        // A copy that was begun in an earlier epoch must not promise a view of this one.
        let is_of_this_epoch = piece.sequence >= self.membership.since();
        let view = if is_of_this_epoch { self.learner.commit_view() } else { self.acceptor.hard().ended_view };
        if !is_of_this_epoch && view == View::BIRTH {
            return self.send(piece.peer, Message::SnapshotChunk(SnapshotChunk::default()), Vec::new());
        }
        let chunk = SnapshotChunk {
            id: piece.id,
            offset: piece.offset,
            total_bytes: piece.total_bytes,
            sequence: piece.sequence.0,
            view: view.0,
            crc: crc32c::crc32c(&piece.bytes),
        };
        self.send(piece.peer, Message::SnapshotChunk(chunk), vec![piece.bytes]);
    }

    /// A piece of the snapshot that is being fetched arrived.
    pub(super) fn on_snapshot_chunk(&mut self, from: ReplicaId, message: &SnapshotChunk, payload: Vec<Bytes>) {
        let commit = self.learner.commit();
        let wanted = self.catch_up.wanted.unwrap_or_default();
        let Some(fetch) = self.catch_up.fetch.as_mut().filter(|t| t.source == from) else { return };
        let is_other = fetch.id != 0 && fetch.id != message.id;
        // The rest of a snapshot that was begun is wanted even if a newer one is wanted by now.
        let least = if fetch.id == 0 { wanted.max(commit.next()) } else { commit.next() };
        let is_useful = Sequence(message.sequence) >= least;
        if message.id == 0 || is_other || !is_useful {
            // The pieces received belong to a snapshot that is gone.
            let shun = (!is_other).then_some(from);
            self.drop_fetch(shun);
            return self.begin_fetch();
        }
        let bytes = payload.into_iter().next().unwrap_or_default();
        if message.offset != fetch.received || bytes.is_empty() || crc32c::crc32c(&bytes) != message.crc {
            return;
        }
        if fetch.id == 0 {
            fetch.piece_bytes = bytes.len() as u64;
            fetch.asked = bytes.len() as u64;
        }
        fetch.id = message.id;
        fetch.sequence = Sequence(message.sequence);
        fetch.view = fetch.view.max(View(message.view));
        fetch.total_bytes = message.total_bytes;
        fetch.received += bytes.len() as u64;
        fetch.asked = fetch.asked.max(fetch.received);
        fetch.last_progress = self.now;
        fetch.repeated = 0;
        let is_complete = fetch.received >= fetch.total_bytes;
        self.outputs.install.push(InstallStep::Write(bytes));
        if is_complete {
            self.outputs.install.push(InstallStep::Finish);
        }
        self.ask_for_more();
    }

    /// The new database has grown, is complete, or could not be built.
    pub(super) fn installed(&mut self, event: InstallEvent) {
        let (InstallEvent::Written { generation, .. }
        | InstallEvent::Finished { generation, .. }
        | InstallEvent::Failed { generation }) = &event;
        let Some(fetch) = self.catch_up.fetch.as_mut().filter(|t| t.generation == *generation) else { return };
        let source = fetch.source;
        match event {
            InstallEvent::Written { bytes, .. } => {
                fetch.written = bytes;
                self.ask_for_more();
            }
            InstallEvent::Failed { .. } => self.drop_fetch(Some(source)),
            InstallEvent::Finished { state, .. } => match ReplicatedState::from_bytes(&state) {
                Some(state) if self.fits(&state) => self.finish_when_free(state),
                _ => self.drop_fetch(Some(source)),
            },
        }
    }

    /// Installing a snapshot may promise a view for which no candidate has a quorum of promises,
    /// since a source that has started again knows no better view than the one it promised. So it
    /// waits for the end of a lease like any other promise.
    fn finish_when_free(&mut self, state: ReplicatedState) {
        if self.lease_forbids_install() {
            coverage!("snapshot.waits_for_lease");
            self.catch_up.fetch.as_mut().expect("it is being finished").held_back = Some(Box::new(state));
        } else {
            self.finish_catch_up(state);
        }
    }

    fn lease_forbids_install(&self) -> bool {
        self.catch_up.fetch.as_ref().is_some_and(|fetch| self.lease_forbids_install_of(fetch.view))
    }

    fn lease_forbids_install_of(&self, view: View) -> bool {
        let raised = Some(view).filter(|view| *view > self.acceptor.promised());
        raised.and_then(View::owner).is_some_and(|owner| self.lease_forbids(owner, View::BIRTH))
    }

    fn resume_held_back(&mut self) {
        if self.lease_forbids_install() {
            return;
        }
        let Some(fetch) = &mut self.catch_up.fetch else { return };
        let Some(state) = fetch.held_back.take() else { return };
        match self.fits(&state) {
            true => self.finish_catch_up(*state),
            false => self.drop_fetch(None),
        }
    }

    /// The snapshot that this replica needs, and did not install because digests contradict it.
    pub(super) fn refused_copy(&self) -> Option<RefusedCopy> {
        self.catch_up.wanted?;
        if self.catch_up.fetch.is_some() {
            // A snapshot of another replica is being fetched.
            return None;
        }
        self.peers.reports.keys().find_map(|id| self.digests.refused(*id, &self.membership))
    }

    /// Whether a database with this state is the one that was announced, and takes this replica
    /// forward.
    fn fits(&mut self, state: &ReplicatedState) -> bool {
        let Some(fetch) = &self.catch_up.fetch else { return false };
        let source = fetch.source;
        state.cluster_id == self.acceptor.hard().cluster_id
            && state.sequence == fetch.sequence
            && state.sequence > self.learner.commit()
            && state.configuration.epoch >= self.epoch()
            && fetch.view.epoch() <= state.configuration.epoch
            && !self.views.is_primary()
            && state.feature_level >= self.applied.level
            && !self.digests.refuse(source, &state.recorded, &self.membership)
    }

    /// The database is complete. If no entry of the log is in memory, the log's tail is read first.
    fn finish_catch_up(&mut self, state: ReplicatedState) {
        let log = self.acceptor.log();
        let (base, last) = (state.sequence, log.last());
        let is_of_this_epoch = state.configuration.epoch == self.epoch();
        if log.first() > base.next() && last > base && is_of_this_epoch {
            let (from, view) = (base.next(), self.acceptor.promised());
            let max_bytes = usize::MAX;
            self.outputs.read_log.push(LogRead { purpose: ReadPurpose::Tail, view, from, to: last, max_bytes });
            let fetch = self.catch_up.fetch.as_mut().expect("it is being finished");
            fetch.state = Some(Box::new(state));
        } else {
            self.install(state, None);
        }
    }

    /// The log's tail was read; entries that could not be read are lost.
    pub(super) fn tail_read(&mut self, read: &LogRead, entries: Vec<Bytes>) {
        let Some(fetch) = &mut self.catch_up.fetch else { return };
        let Some(state) = fetch.state.take_if(|state| state.sequence.next() == read.from) else { return };
        if self.fits(&state) {
            self.install(*state, Some((read.to, entries)));
        } else {
            self.drop_fetch(None);
        }
    }

    /// One record of the log makes the new database the live one.
    fn install(&mut self, state: ReplicatedState, tail: Option<(Sequence, Vec<Bytes>)>) {
        let fetch = self.catch_up.fetch.take().expect("it is being finished");
        if self.views.is_candidate() {
            self.become_secondary(None);
        }
        let (base, view) = (state.sequence, fetch.view);
        let is_raised = view > self.acceptor.promised();
        assert!(!self.lease_forbids_install_of(view), "a copy raises the promise to {view} under a lease");
        let epoch = state.configuration.epoch;
        let enters = epoch > self.epoch();
        let has_session = state.sessions.contains_key(&self.acceptor.hard().disk_id);
        let ends_session = enters && !has_session && self.requests.has_numbered();
        let write_id = self.acceptor.install_snapshot(fetch.generation, base, view, epoch, ends_session, tail);
        self.learner.install_snapshot(base, view);
        if is_raised {
            self.leases.granted = None;
            self.become_secondary(None);
        }
        match enters {
            true => self.entered(&state.configuration, ends_session),
            false => self.membership.adopt(&state.configuration),
        }
        self.views.observe_view(view);
        self.membership.set_first_voters(&state.first_voters);
        self.finish_requests(&state.sessions);
        self.digests.replace(base, &state.recorded, &self.membership);
        self.applied = state.into();
        self.stored.first = base.next();
        self.replies.answer.due = true;
        self.catch_up.wanted = None;
        self.catch_up.shunned.clear();
        self.catch_up.installed += 1;
        self.catch_up.last_installed = base;
        coverage!("snapshot.installed");
        if self.options.is_witness {
            coverage!("witness.state_installed");
        }
        self.catch_up.switch = Some((write_id, fetch.generation));
        if enters {
            self.begin_epoch();
        }
    }

    /// Log writes through `durable` are done: switches the database if its record is among them.
    pub(super) fn switch_database(&mut self, durable: WriteId) {
        if let Some((_, generation)) = self.catch_up.switch.take_if(|(write_id, _)| *write_id <= durable) {
            self.stored.persisted = self.stored.persisted.max(self.learner.applied());
            self.outputs.switch = Some(generation);
        }
    }
}
