//! The replica: all parts together, one input at a time.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::acceptor::Acceptor;
use super::catch_up::CatchUp;
use super::digests::{Digests, Divergence};
use super::fitness::DiskWatch;
use super::learner::Learner;
use super::lease::Grant;
use super::log::Log;
use super::reads::{Reader, Reads, first_round};
use super::requests::Requests;
use super::transfer::Handover;
use super::trimming::Retention;
use super::view_manager::{Role, ViewManager};
use super::{CoreOptions, Input, LogRead, Outputs, ReadPurpose, Refusal};
use crate::message::Report;
use crate::value::{Configuration, ReplicatedState, Sessions, Value};
use crate::{Boot, ClusterId, DiskId, HardState, Instant, Recovered, ReplicaId, Sequence, View};

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
    /// Bytes of entries that the log was given since the start.
    pub(super) log_grown: u64,
    pub(super) retention: Retention,
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
    /// Until then a former start's leases may run that are longer than those granted now.
    pub(super) former_leases_until: Option<Instant>,
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
        let disk_id = if found.boot == Boot(0) { new_disk_id } else { found.disk_id };
        let first_round = first_round(disk_id, boot);
        let views = ViewManager::new(
            role,
            now,
            options.election_min_us,
            options.election_max_us,
            options.seed ^ boot.0,
            first_round,
        );
        let lease_us = found.lease_us.max(options.lease_us);
        let granted = Grant::at_start(found.promised, now, lease_us);
        let former_leases_until = (lease_us > options.lease_us).then(|| now.plus_us(lease_us));
        let log_holds_birth = applied >= Sequence::BIRTH || log.get(Sequence::BIRTH).is_some();
        let mut acceptor = Acceptor::new(found, found, log, lost);
        acceptor.identify(|hard| {
            hard.disk_id = disk_id;
            hard.boot = boot;
            hard.lease_us = lease_us;
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
            reads: Reads::new(first_round),
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
            log_grown: 0,
            retention: Retention::new(),
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
            former_leases_until,
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
            Input::Room(is_roomy) => self.retention.is_roomy = is_roomy,
            Input::Stopping => self.stop_leading(),
            Input::Durable(write_id) => {
                self.acceptor.complete(write_id);
                self.switch_database(write_id);
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
        self.outputs.persist = self.acceptor.take_writes();
        let entries = self.outputs.persist.iter().flat_map(|write| &write.entries);
        self.log_grown += entries.map(|entry| entry.len() as u64).sum::<u64>();
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
        self.forget_former_leases();
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

    /// Who leads, as far as this replica knows.
    pub fn primary(&self) -> Option<ReplicaId> {
        match self.views.role {
            Role::Primary(_) => Some(self.options.me),
            _ => self.views.primary,
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
