//! The replica: all parts together, one input at a time.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::acceptor::Acceptor;
use super::catch_up::CatchUp;
use super::digests::{Digests, Divergence, Stray};
use super::fitness::DiskWatch;
use super::learner::Learner;
use super::lease::Grant;
use super::log::Log;
use super::reads::{Reader, Reads};
use super::requests::Requests;
use super::transfer::Handover;
use super::view_manager::{Role, ViewManager};
use super::{CoreOptions, Input, LogRead, Outgoing, Outputs, ReadPurpose, Refusal};
use crate::message::Report;
use crate::transport::Sender;
use crate::value::{Configuration, DigestAt, ReplicatedState, Sessions, Value};
use crate::{Boot, ClusterId, DiskId, HardState, Instant, Message, Recovered, ReplicaId, Sequence, View};

/// What a replica starts from.
#[derive(Clone, Debug)]
pub struct Start {
    pub recovered: Recovered,
    /// The entries after what the database has applied, until the last; `None` for those that are lost. None at all where
    /// the log begins later: the database is then built anew from a peer's.
    pub entries: Vec<Option<Bytes>>,
    /// As the executor stored it; the default for an empty database.
    pub state: ReplicatedState,
    /// Random; used only if the disk is empty.
    pub new_disk_id: DiskId,
    /// Random; used only if this replica founds a cluster.
    pub new_cluster_id: u128,
}

/// A view from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub id: ReplicaId,
    pub role: &'static str,
    pub cluster_id: crate::ClusterId,
    pub epoch: crate::Epoch,
    pub disk_id: DiskId,
    pub boot: Boot,
    pub view: View,
    pub primary: Option<ReplicaId>,
    /// A primary that may serve reads: a quorum holds the first entry of its own view.
    pub established: bool,
    /// A primary that has applied everything chosen before its view.
    pub recovered: bool,
    /// To whom this primary is handing over.
    pub handing_over_to: Option<ReplicaId>,
    pub is_eligible: bool,
    pub storage_full: bool,
    pub last: Sequence,
    pub durable: Sequence,
    pub commit: Sequence,
    pub applied: Sequence,
    /// Microseconds since each peer was last heard; absent: never.
    pub heard_us: BTreeMap<ReplicaId, u64>,
    /// What each peer last told about itself, a few times a second.
    pub reports: BTreeMap<ReplicaId, Report>,
    /// The peers whose database a majority contradicts.
    pub strays: BTreeMap<ReplicaId, Stray>,
    /// False while unborn, and for a disk that does not belong.
    pub is_voter: bool,
    pub view_changes: u64,
    /// Waits for a copy of a peer's database.
    pub is_catching_up: bool,
    /// Copies of a peer's database that took the place of the own one since the start.
    pub snapshots_installed: u64,
    /// What the disk has lost of the log and this replica has not got from the others yet.
    pub lost: Vec<(Sequence, Sequence)>,
    /// Entries that may have been chosen, and that nobody has any more: as long as it is so, nobody can lead.
    pub blocked: Option<(Sequence, Sequence)>,
    /// Values proposed by this replica.
    pub proposals: u64,
    pub pending_request_bytes: usize,
    /// Messages dropped because they came from another cluster, a former start, or a disk that does not belong.
    pub foreign_messages: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub(super) options: CoreOptions,
    pub(super) now: Instant,
    pub(super) configuration: Configuration,
    pub(super) acceptor: Acceptor,
    pub(super) learner: Learner,
    pub(super) views: ViewManager,
    pub(super) requests: Requests,
    pub(super) reads: Reads,
    pub(super) outputs: Outputs,
    /// Per sender: its newest boot, and when it was heard.
    pub(super) boots: BTreeMap<(ReplicaId, bool), (DiskId, Boot)>,
    pub(super) heard: BTreeMap<ReplicaId, Instant>,
    /// Sessions and time as the last applied value left them.
    pub(super) applied_sessions: Sessions,
    pub(super) applied_time_us: u64,
    pub(super) applied_digest: u64,
    pub(super) reports: BTreeMap<ReplicaId, Report>,
    pub(super) digests: Digests,
    /// It has diverged, and told the others.
    has_left: bool,
    pub(super) next_report: Instant,
    /// The own database survives a crash through here.
    pub(super) persisted: Sequence,
    /// What the log takes on disk.
    pub(super) log_bytes: u64,
    pub(super) catch_up: CatchUp,
    /// Entries that phase 1 needs and nobody has.
    pub(super) blocked: Option<(Sequence, Sequence)>,
    /// The first entry that storage still holds.
    pub(super) first_stored: Sequence,
    /// A promise to send once it is durable.
    pub(super) owed_promise: Option<(View, ReplicaId)>,
    pub(super) answer: super::replication::Answer,
    pub(super) new_cluster_id: u128,
    /// Minted the cluster in this start and has not told the others yet.
    pub(super) is_founder: bool,
    pub(super) next_call: Instant,
    pub(super) disk: DiskWatch,
    pub(super) is_eligible: bool,
    pub(super) is_full: bool,
    pub(super) is_stopping: bool,
    /// A transfer of this primary's role, asked for or because it should not lead; and when to try the latter again.
    pub(super) handover: Option<Handover>,
    pub(super) next_handover: Instant,
    /// The lease that others may rely on.
    pub(super) granted: Option<Grant>,
    /// The last view in which this primary gave up its own lease.
    pub(super) voided: View,
    pub(super) counters: Counters,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Counters {
    pub view_changes: u64,
    pub proposals: u64,
    pub foreign: u64,
}

impl Replica {
    /// # Panics
    /// When the log ends before what the database has applied: the two do not belong together.
    pub fn new(options: CoreOptions, start: Start, now: Instant) -> Replica {
        let Start { recovered, entries, state, new_disk_id, new_cluster_id } = start;
        let found = recovered.hard_state.unwrap_or_default();
        let is_born = found.cluster_id != ClusterId::NONE;
        // The log does not go on where the database ends, or has lost the birth record: who votes is not known here.
        let knows_nobody = is_born && state.sequence == Sequence::ZERO && matches!(entries.first(), None | Some(None));
        let needs_database = recovered.first > state.sequence.next() || knows_nobody;
        // What was not read can't be vouched for.
        let read = Sequence(recovered.last.0 - entries.len() as u64);
        let mut lost = Log::new(read.next(), entries.clone()).hole_ranges();
        if needs_database && recovered.first <= read {
            lost.insert(0, (recovered.first, read));
        }
        let (state, entries) = if needs_database { Default::default() } else { (state, entries) };
        let applied = state.sequence;
        assert!(recovered.last >= applied, "the database has applied {applied}, the log ends at {}", recovered.last);
        let known = if needs_database { recovered.last } else { Sequence(recovered.last.0 - entries.len() as u64) };
        assert!(needs_database || known <= applied, "entries between {applied} and {known} are missing");
        let log = Log::new(known.next(), entries);
        let mut configuration = state.configuration.clone();
        if let Some(birth) = log.get(Sequence::BIRTH) {
            let birth = Value::from_bytes(birth.clone()).birth.expect("the first entry is the birth record");
            configuration = birth.configuration();
        }
        let role = if is_born { Role::Secondary } else { Role::Unborn { empty_peers: BTreeMap::new() } };
        let boot = Boot(found.boot.0 + 1);
        let views = ViewManager::new(
            role,
            now,
            options.election_min_us,
            options.election_max_us,
            options.seed ^ boot.0,
            boot.0 << 32,
        );
        let granted = Grant::at_start(found.promised, now, options.lease_us);
        let log_holds_birth = applied >= Sequence::BIRTH || log.get(Sequence::BIRTH).is_some();
        let mut acceptor = Acceptor::new(found, found, log, lost);
        acceptor.identify(|hard| {
            if hard.boot == Boot(0) {
                hard.disk_id = new_disk_id;
            }
            hard.boot = boot;
        });
        let mut learner = Learner::new(applied, found.promised);
        if is_born && log_holds_birth {
            learner.install(Sequence::BIRTH.max(applied), found.promised);
        }
        // Entries that are lost are gone for peers; what the database has not applied of them is a hole of the log.
        let lost_below = recovered.lost.iter().filter(|(from, _)| *from <= applied);
        let first_stored = lost_below.map(|(_, to)| to.next().min(applied.next())).max().unwrap_or(recovered.first);
        let mut catch_up = CatchUp::default();
        if needs_database {
            coverage!("snapshot.needs_database");
            catch_up.want(recovered.first.previous().max(Sequence::BIRTH));
        }
        // What came after the copy that was installed once is not told from it any more.
        let inherited = if found.generation > 0 { applied } else { Sequence::ZERO };
        Replica {
            now,
            configuration,
            acceptor,
            learner,
            views,
            requests: Requests::new(now),
            reads: Reads::new(boot.0 << 32),
            outputs: Outputs::default(),
            boots: BTreeMap::new(),
            heard: BTreeMap::new(),
            applied_sessions: state.sessions,
            applied_time_us: state.time_us,
            applied_digest: state.digest,
            reports: BTreeMap::new(),
            digests: Digests::new(&options, &state.recorded, inherited, now),
            has_left: false,
            next_report: now,
            persisted: applied,
            log_bytes: 0,
            catch_up,
            blocked: None,
            first_stored: first_stored.max(recovered.first).max(Sequence::BIRTH),
            owed_promise: None,
            answer: Default::default(),
            new_cluster_id,
            is_founder: false,
            next_call: now,
            disk: DiskWatch::new(now),
            is_eligible: true,
            is_full: false,
            is_stopping: false,
            handover: None,
            next_handover: now,
            granted,
            voided: View::BIRTH,
            counters: Counters::default(),
            options,
        }
    }

    pub fn id(&self) -> ReplicaId {
        self.options.me
    }

    pub fn hard_state(&self) -> &HardState {
        self.acceptor.hard()
    }

    /// Takes one input. What follows from it is handed out by the next [`Replica::ready`], so that a driver that drains
    /// its queue lets many inputs share one batch, one disk write and one message.
    pub fn step(&mut self, now: Instant, input: Input) {
        self.now = self.now.max(now);
        if self.digests.verdict().is_some() {
            return;
        }
        match input {
            Input::Tick => self.tick(),
            Input::Receive { sender, message, payload } => self.receive(sender, message, payload),
            Input::Disconnected(peer) => self.lost_connection(peer),
            Input::Propose { id, payload } => self.propose(id, payload),
            Input::Cancel(id) => {
                if self.requests.cancel(id) {
                    coverage!("requests.cancelled");
                    self.outputs.refused.push((id, Refusal::Cancelled));
                }
            }
            Input::Read(id) => self.reads.push(Reader::Local(id)),
            Input::GiveUp(number) => {
                if self.requests.give_up(number) {
                    coverage!("requests.withdrawn");
                    self.outputs.withdrawn.push(number);
                }
            }
            Input::CancelRead(id) => self.reads.cancel(id),
            Input::Transfer { id, to, deadline } => self.transfer(id, to, deadline),
            Input::Eligible(is_eligible) => self.set_eligible(is_eligible),
            Input::Space(has_space) => self.set_space(has_space),
            Input::Stopping => self.stop_leading(),
            Input::Durable(ticket) => {
                self.acceptor.complete(ticket);
                self.switch_database(ticket);
                self.after_durable();
            }
            Input::Applied { sequence, sessions, time_us, digest } => {
                // The former database may still tell what it applied before a snapshot took its place.
                if sequence >= self.learner.applied() {
                    self.applied(sequence, sessions);
                    self.applied_time_us = time_us;
                    self.applied_digest = digest;
                }
            }
            Input::Digests(recorded) => self.digests.record(&recorded),
            Input::Persisted { sequence, log_bytes } => self.note_persisted(sequence, log_bytes),
            Input::SnapshotRead(piece) => self.snapshot_read(piece),
            Input::Installed(event) => self.installed(event),
            Input::LogRead { read, entries } => self.log_read(read, entries),
        }
    }

    /// Everything to be done after the inputs taken since the last call.
    pub fn ready(&mut self, now: Instant) -> Outputs {
        self.now = self.now.max(now);
        if let Some(divergence) = self.digests.verdict().cloned() {
            return self.farewell(divergence);
        }
        self.forward_requests();
        self.choose();
        self.advance_handover();
        self.pack_values();
        self.run_reads();
        self.replicate();
        self.pay_promise();
        self.answer_primary();
        self.learner.advance(&self.acceptor);
        self.deliver();
        self.acceptor.evict(self.learner.applied(), self.options.log_cache_bytes);
        self.outputs.persist = self.acceptor.take_orders();
        std::mem::take(&mut self.outputs)
    }

    /// The last that this replica does: it tells the others what it found, so that they can name it.
    fn farewell(&mut self, divergence: Divergence) -> Outputs {
        self.outputs = Outputs::default();
        if !std::mem::replace(&mut self.has_left, true) {
            self.send_report();
        }
        let send = std::mem::take(&mut self.outputs.send);
        Outputs { send, diverged: Some(divergence), ..Outputs::default() }
    }

    fn tick(&mut self) {
        self.digests.tick(self.now, self.options.heartbeat_us);
        self.report();
        self.watch_disk();
        self.tick_handover();
        self.tick_catch_up();
        self.requests.retry(self.now, self.options.retry_us);
        self.retry_reads();
        match &self.views.role {
            Role::Unborn { .. } => self.call_founders(),
            Role::Primary(_) => self.tick_primary(),
            Role::Secondary => {
                // Who waits for a snapshot could not lead, and would only keep others from it.
                if self.now >= self.views.deadline && !self.is_catching_up() {
                    self.start_pre_vote();
                }
            }
            Role::PreVoting { .. } | Role::Preparing(_) => {
                if self.now >= self.views.deadline {
                    coverage!("liveness.campaign_given_up");
                    self.become_secondary(None);
                    self.start_pre_vote();
                } else {
                    self.retry_fetch();
                }
            }
        }
    }

    /// Tells the peers how this replica is, a few times a second.
    fn report(&mut self) {
        if self.is_unborn() || self.now < self.next_report {
            return;
        }
        self.next_report = self.now.plus_us(4 * self.options.heartbeat_us);
        self.trim();
        self.send_report();
    }

    fn send_report(&mut self) {
        let report = Report {
            view: self.acceptor.promised().0,
            last: self.acceptor.log().last().0,
            commit: self.learner.commit().0,
            applied: self.learner.applied().0,
            digest: self.applied_digest,
            is_primary: matches!(self.views.role, Role::Primary(_)),
            is_candidate: matches!(self.views.role, Role::PreVoting { .. } | Role::Preparing(_)),
            persisted: self.persisted.0,
            storage_full: self.is_full,
            is_ineligible: !self.is_eligible,
            first: self.first_stored.0,
            is_learner: !self.is_voter(),
            installing: self.catch_up.installing().0,
            inherited: self.digests.inherited().0,
            digests: self.digests.publish().into_iter().map(DigestAt::from).collect(),
        };
        self.send_all(Message::Report(report));
    }

    fn receive(&mut self, sender: Sender, message: Message, payload: Vec<Bytes>) {
        if !self.admits(&sender, &message) {
            coverage!("foreign.not_of_this_cluster");
            self.counters.foreign += 1;
            return;
        }
        let from = sender.replica;
        if !matches!(message, Message::Hello(_)) {
            self.heard.insert(from, self.now);
            self.meet(&sender);
        }
        match message {
            Message::Hello(_) => self.on_hello(sender),
            Message::Born(m) => self.on_born(m),
            Message::PreVote(m) => self.on_pre_vote(from, m),
            Message::PreVoteReply(m) => self.on_pre_vote_reply(from, m),
            Message::Prepare(m) => self.on_prepare(from, m),
            Message::Promise(m) => self.on_promise(from, m),
            Message::Fetch(m) => self.on_fetch(from, m),
            Message::Fetched(m) => self.on_fetched(from, m, payload),
            Message::Refuse(m) => self.on_refuse(View(m.promised)),
            Message::Accept(m) => self.on_accept(from, m, payload),
            Message::Accepted(m) => self.on_accepted(&sender, m),
            Message::Requests(m) => self.on_requests(sender, m, payload),
            Message::RequestsGap(m) => self.requests.fill_gap(m.expected, self.now, self.options.heartbeat_us),
            Message::ReadPoint(m) => self.on_read_point(from, m.round),
            Message::ReadPointReply(m) => self.on_read_point_reply(m),
            Message::Transfer(m) => self.on_transfer(from, m),
            Message::Resign(m) => self.on_resign(from, m),
            Message::Report(m) => self.on_report(&sender, m),
            Message::Behind(m) => self.on_behind(&m),
            Message::SnapshotRequest(m) => self.on_snapshot_request(from, &m),
            Message::SnapshotChunk(m) => self.on_snapshot_chunk(from, &m, payload),
        }
    }

    fn on_report(&mut self, sender: &Sender, mut report: Report) {
        let digests = std::mem::take(&mut report.digests).into_iter().map(From::from);
        self.digests.hear(sender, Sequence(report.inherited), digests);
        self.reports.insert(sender.replica, report);
    }

    /// Whether a message is of this cluster, of a disk that belongs, and not of a former start of it. Of a disk that does
    /// not belong, a learner's, only what helps it to follow.
    fn admits(&mut self, sender: &Sender, message: &Message) -> bool {
        let me = self.options.me;
        if sender.replica == me || !self.options.replicas.contains(&sender.replica) {
            return false;
        }
        let mine = self.acceptor.hard();
        let is_of_cluster = match message {
            Message::Hello(_) => true,
            Message::Born(m) => self.is_unborn() && m.birth.is_some(),
            _ => !self.is_unborn() && sender.cluster_id == mine.cluster_id && sender.epoch == mine.epoch,
        };
        if !is_of_cluster || !self.admits_disk(sender, message) {
            return false;
        }
        let is_voter = self.configuration.is_voter(sender.replica, sender.disk_id);
        let (disk, newest) = self.boots.entry((sender.replica, is_voter)).or_insert((sender.disk_id, sender.boot));
        if *disk != sender.disk_id {
            (*disk, *newest) = (sender.disk_id, sender.boot);
        }
        let is_newest = sender.boot >= *newest;
        *newest = sender.boot.max(*newest);
        if !is_newest {
            coverage!("foreign.former_boot");
        }
        is_newest
    }

    fn admits_disk(&self, sender: &Sender, message: &Message) -> bool {
        match message {
            Message::Hello(_) | Message::Born(_) => true,
            // Without its database a replica does not know who votes; all it does is to get a copy of another's.
            _ if self.configuration.disks.is_empty() => {
                matches!(message, Message::Report(_) | Message::SnapshotChunk(_) | Message::SnapshotRequest(_))
            }
            _ if self.configuration.is_voter(sender.replica, sender.disk_id) => true,
            Message::Accepted(_) | Message::Report(_) | Message::SnapshotRequest(_) => true,
            Message::Requests(_) | Message::ReadPoint(_) => true,
            _ => false,
        }
    }

    /// A primary follows whichever disk speaks under an id; the votes of one that does not belong don't count.
    fn meet(&mut self, sender: &Sender) {
        let is_voter = self.configuration.is_voter(sender.replica, sender.disk_id);
        let now = self.now;
        if let Some(proposer) = self.views.proposer_mut() {
            proposer.meet(sender.replica, sender.disk_id, is_voter, now);
        }
    }

    /// Sends, unless this start of the replica is not durable yet: its messages could be taken for those of the former.
    pub(super) fn send(&mut self, to: ReplicaId, message: Message, payload: Vec<Bytes>) {
        let hard = self.acceptor.hard();
        let durable = self.acceptor.durable();
        if (durable.boot, durable.disk_id) == (hard.boot, hard.disk_id) {
            self.outputs.send.push(Outgoing { to, message, payload });
        }
    }

    pub(super) fn send_all(&mut self, message: Message) {
        for to in self.peers() {
            self.send(to, message.clone(), Vec::new());
        }
    }

    pub(super) fn peers(&self) -> Vec<ReplicaId> {
        self.options.replicas.iter().copied().filter(|r| *r != self.options.me).collect()
    }

    pub(super) fn is_unborn(&self) -> bool {
        matches!(self.views.role, Role::Unborn { .. })
    }

    pub(super) fn quorum(&self) -> usize {
        self.configuration.quorum()
    }

    /// Whether this replica may vote: a disk that is not in the configuration only watches.
    pub(super) fn is_voter(&self) -> bool {
        self.configuration.is_voter(self.options.me, self.acceptor.hard().disk_id)
    }

    fn after_durable(&mut self) {
        self.announce_birth();
        self.ask_for_promises();
    }

    fn deliver(&mut self) {
        if self.is_switching() {
            return;
        }
        let Some((from, to)) = self.learner.deliverable(&self.acceptor) else { return };
        for sequence in from.0..=to.0 {
            let sequence = Sequence(sequence);
            let entry = self.acceptor.log().get(sequence).expect("what is not applied is in memory");
            self.outputs.deliver.push((sequence, entry.clone()));
        }
        self.learner.deliver(to, self.acceptor.durable().accepted_view);
    }

    fn applied(&mut self, sequence: Sequence, sessions: Sessions) {
        self.learner.apply(sequence);
        let hard = self.acceptor.hard();
        if let Some(own) = sessions.get(&hard.disk_id).filter(|session| session.boot == hard.boot) {
            self.requests.executed(own.last, self.now);
        }
        self.applied_sessions = sessions;
    }

    fn log_read(&mut self, read: LogRead, entries: Vec<Bytes>) {
        match read.purpose {
            ReadPurpose::Fetch(peer) => self.fetch_read(peer, read, entries),
            ReadPurpose::Follow(peer) => self.replicate_read(peer, read, entries),
            ReadPurpose::Tail => self.tail_read(&read, entries),
        }
    }

    pub fn status(&self) -> ReplicaStatus {
        let hard = self.acceptor.hard();
        ReplicaStatus {
            id: self.options.me,
            role: self.views.role_name(),
            cluster_id: hard.cluster_id,
            epoch: hard.epoch,
            disk_id: hard.disk_id,
            boot: hard.boot,
            view: hard.promised,
            primary: self.primary(),
            established: self.is_established(),
            recovered: self.is_recovered(),
            handing_over_to: self.handover_target(),
            is_eligible: self.is_eligible,
            storage_full: self.is_full,
            last: self.acceptor.log().last(),
            durable: self.acceptor.durable_last(),
            commit: self.learner.commit(),
            applied: self.learner.applied(),
            reports: self.reports.clone(),
            strays: self.digests.strays(),
            is_voter: self.is_voter(),
            heard_us: self.heard.iter().map(|(id, at)| (*id, self.now.since_us(*at))).collect(),
            view_changes: self.counters.view_changes,
            is_catching_up: self.is_catching_up(),
            snapshots_installed: self.catch_up.installed,
            lost: self.acceptor.log().hole_ranges(),
            blocked: self.blocked,
            proposals: self.counters.proposals,
            pending_request_bytes: self.requests.bytes(),
            foreign_messages: self.counters.foreign,
        }
    }

    /// Who leads, as far as this replica knows.
    pub fn primary(&self) -> Option<ReplicaId> {
        match self.views.role {
            Role::Primary(_) => Some(self.options.me),
            _ => self.views.primary,
        }
    }

    /// The envelope's sender for everything this replica sends.
    pub fn sender(&self) -> Sender {
        let hard = self.acceptor.hard();
        Sender {
            replica: self.options.me,
            cluster_id: hard.cluster_id,
            epoch: hard.epoch,
            disk_id: hard.disk_id,
            boot: hard.boot,
        }
    }

    /// State relations that hold after every step; tests and simulations call this each time.
    pub fn check_invariants(&self) {
        self.acceptor.check_invariants(self.learner.commit());
        assert!(self.learner.delivered() <= self.learner.commit());
        let (known, promised) = (self.learner.commit_view(), self.acceptor.promised());
        assert!(known <= promised, "knows what was chosen in {known}, and has promised no more than {promised}");
        assert!(self.learner.delivered() <= self.acceptor.stable(), "delivered what is not durable");
        if let Some(proposer) = self.views.proposer() {
            assert_eq!(proposer.view, self.acceptor.promised(), "leads a view that is not the promised one");
            assert_eq!(proposer.view, self.acceptor.accepted_view(), "leads without holding the view's log");
            assert_eq!(proposer.view.owner(), Some(self.options.me), "leads a view of another");
            assert!(!self.is_stopping, "leads though it is about to stop");
            for (peer, progress) in &proposer.peers {
                assert!(progress.matched <= self.acceptor.log().last(), "peer {peer} holds more than its primary");
            }
        }
    }
}
