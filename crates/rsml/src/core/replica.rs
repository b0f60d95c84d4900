//! The replica: all parts together, one input at a time.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::acceptor::Acceptor;
use super::catch_up::CatchUp;
use super::digests::{Digests, Divergence};
use super::epochs::Epochs;
use super::fitness::Fitness;
use super::freshness::Freshness;
use super::learner::Learner;
use super::lease::Leases;
use super::level::{HeardLevels, Raise};
use super::log::Log;
use super::membership::Membership;
use super::proposer::Proposer;
use super::reads::{Reader, Reads, first_round};
use super::reconfigure::Reconfiguration;
use super::requests::Requests;
use super::secondary::Answer;
use super::transfer::LeadershipTransfer;
use super::trimming::Retention;
use super::upkeep::Upkeep;
use super::view_manager::{Role, ViewManager};
use super::{CoreOptions, Input, LogRead, Outputs, ReadPurpose, Refusal};
use crate::configuration::Configuration;
use crate::message::Report;
use crate::value::{ReplicatedState, Sessions, Value};
use crate::{Boot, ClusterId, DiskId, Epoch, FeatureLevel, HardState, Instant, Recovered, ReplicaId, Sequence, View};

/// Everything that a replica starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The log found on the disk.
    pub recovered: Recovered,
    /// The entries after the last one that the database has applied; `None` for those that are
    /// lost. Empty if the log begins later: the database is then installed from a peer's snapshot.
    pub entries: Vec<Option<Bytes>>,
    /// The state that the executor stored; the default for an empty database.
    pub state: ReplicatedState,
    /// Random; used only if the disk is empty.
    pub new_disk_id: DiskId,
    /// Random; used only if this replica bootstraps a cluster.
    pub new_cluster_id: u128,
}

/// One replica's consensus core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub(super) options: CoreOptions,
    /// The time of the newest input.
    pub(super) now: Instant,
    pub(super) membership: Membership,

    // The parts of Paxos.
    pub(super) acceptor: Acceptor,
    pub(super) learner: Learner,
    pub(super) views: ViewManager,
    /// Exists exactly while this replica leads.
    pub(super) proposer: Option<Box<Proposer>>,
    /// The first and last of the entries that phase 1 needs and no replica can supply.
    pub(super) blocked: Option<(Sequence, Sequence)>,
    pub(super) replies: PendingReplies,

    // The callers of this replica.
    pub(super) requests: Requests,
    pub(super) reads: Reads,

    // The database and the log of this replica, and their transfer to peers.
    pub(super) applied: Applied,
    pub(super) stored: Stored,
    pub(super) retention: Retention,
    pub(super) catch_up: CatchUp,

    // The peers, and this replica's standing for election among them.
    pub(super) peers: PeerRecords,
    pub(super) digests: Digests,
    pub(super) fitness: Fitness,
    pub(super) leases: Leases,
    /// A transfer of this primary's leadership in progress.
    pub(super) transfer: Option<LeadershipTransfer>,
    pub(super) raise: Raise,
    pub(super) epochs: Epochs,
    pub(super) reconfiguration: Reconfiguration,
    pub(super) upkeep: Upkeep,
    pub(super) freshness: Freshness,
    pub(super) bootstrap: Bootstrap,

    pub(super) timers: Timers,
    pub(super) counters: Counters,
    pub(super) outputs: Outputs,
    /// Whether the last report was sent; that follows the verdict that the database has diverged.
    has_sent_last_report: bool,
}

/// Answers that wait until something is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PendingReplies {
    /// A promise, and the candidate that gets it.
    pub promise: Option<(View, ReplicaId)>,
    /// The next 2b.
    pub answer: Answer,
}

/// The replicated state as the last applied value left it. The other fields of [`ReplicatedState`]
/// are kept elsewhere: the configuration in the membership, the sequence in the learner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Applied {
    pub sessions: Sessions,
    pub time_us: u64,
    pub digest: u64,
    pub level: FeatureLevel,
}

impl From<ReplicatedState> for Applied {
    fn from(state: ReplicatedState) -> Applied {
        let ReplicatedState { sessions, time_us, digest, feature_level: level, .. } = state;
        Applied { sessions, time_us, digest, level }
    }
}

/// The extent of log and database on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stored {
    /// The first entry of the log.
    pub first: Sequence,
    /// The database survives a crash through here.
    pub persisted: Sequence,
    /// The bytes that the log takes on disk.
    pub log_bytes: u64,
    /// Bytes of the entries that were written to the log since the start.
    pub log_grown: u64,
}

/// Facts known about the peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PeerRecords {
    /// The newest incarnation of each peer, by its id and whether its disk votes.
    pub boots: BTreeMap<(ReplicaId, bool), (DiskId, Boot)>,
    /// When each peer was last heard from.
    pub heard: BTreeMap<ReplicaId, Instant>,
    /// The last report of each peer.
    pub reports: BTreeMap<ReplicaId, Report>,
    /// The disk from which each peer reported last, and whether that is a witness's.
    pub storage: BTreeMap<ReplicaId, (DiskId, bool)>,
    /// What the programs on the peers' disks execute, as far as they were heard from lately.
    pub levels: BTreeMap<(ReplicaId, DiskId), HeardLevels>,
}

/// The state of bootstrapping a cluster; see the module `birth`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bootstrap {
    pub new_cluster_id: u128,
    /// This replica minted the cluster in this start, and has not announced it yet.
    pub is_unannounced: bool,
}

/// When periodic work is due next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Timers {
    /// The next report to the peers.
    pub next_report: Instant,
    /// The next heartbeat of a primary, or the next `Hello` of a replica that belongs to no
    /// cluster.
    pub next_heartbeat: Instant,
    /// The next attempt of a primary that should not lead to transfer its leadership.
    pub next_transfer: Instant,
}

impl Timers {
    pub fn new(now: Instant) -> Timers {
        Timers { next_report: now, next_heartbeat: now, next_transfer: now }
    }
}

/// Counts since the start, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Counters {
    pub view_changes: u64,
    pub proposals: u64,
    /// Messages from another cluster, a former incarnation, or a disk that is no member.
    pub foreign: u64,
}

impl Replica {
    /// A replica that starts now from what its disk holds.
    ///
    /// # Panics
    /// When the log ends before what the database has applied: the two do not belong together.
    pub fn new(options: CoreOptions, start: Start, now: Instant) -> Replica {
        let Start { recovered, entries, state, new_disk_id, new_cluster_id } = start;
        let found = recovered.hard_state.unwrap_or_default();
        let is_born = found.cluster_id != ClusterId::NONE;
        // The database has applied nothing, and the first entry of the log is not the bootstrap
        // record (trimmed or lost), so this replica does not know the voters.
        let knows_no_voters =
            is_born && state.sequence == Sequence::ZERO && matches!(entries.first(), None | Some(None));
        let needs_database = recovered.first > state.sequence.next() || knows_no_voters;
        // The epoch of the hard state is the truth: the database may lag behind it, and is brought
        // there by the seals of the log. If one of them can't be read, this replica does not know
        // the members of its epoch, and needs a copy of a database as well.
        let begin = Sequence(recovered.last.0 + 1 - entries.len() as u64);
        let configuration = if needs_database { None } else { configuration_at(found.epoch, &state, begin, &entries) };
        let knows_no_members = is_born && configuration.is_none();
        // Entries between the start of the log and the ones that were read count as lost.
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
        let mut membership = options.membership.clone();
        membership.announce_me(&options.announced);
        if let Some((first_voters, configuration)) = configuration {
            membership.adopt(&configuration);
            membership.set_first_voters(&first_voters);
        }
        let since = membership.since();
        let role = if is_born { Role::Secondary } else { Role::Unborn { empty_peers: BTreeMap::new() } };
        let boot = Boot(found.boot.0 + 1);
        let disk_id = if found.boot == Boot(0) { new_disk_id } else { found.disk_id };
        let first_round = first_round(disk_id, boot);
        let mut views = ViewManager::new(
            role,
            now,
            options.election_min_us,
            options.election_max_us,
            options.seed ^ boot.0,
            first_round,
        );
        views.start_in(found.epoch);
        let lease_us = found.lease_us.max(options.lease_us);
        let log_holds_birth = applied >= Sequence::BIRTH || log.get(Sequence::BIRTH).is_some();
        let mut acceptor = Acceptor::new(found, found, log, lost);
        acceptor.identify(|hard| {
            hard.disk_id = disk_id;
            hard.boot = boot;
            hard.lease_us = lease_us;
        });
        let mut learner = Learner::new(applied, found.promised);
        if is_born && log_holds_birth {
            // Everything through the seal before this epoch is chosen, as far as it is not lost.
            let chosen = since.min(acceptor.log().sound_last());
            learner.install(chosen.max(Sequence::BIRTH).max(applied), found.promised);
        }
        // The log that peers can get begins after every lost entry that the database has applied.
        // Lost entries beyond that are holes, which log repair fills.
        let lost_below = recovered.lost.iter().filter(|(from, _)| *from <= applied);
        let first_stored = lost_below.map(|(_, to)| to.next().min(applied.next())).max().unwrap_or(recovered.first);
        let first = first_stored.max(recovered.first).max(Sequence::BIRTH);
        let mut catch_up = CatchUp::default();
        if needs_database {
            coverage!("snapshot.needs_database");
            catch_up.want(recovered.first.previous().max(Sequence::BIRTH));
        } else if knows_no_members {
            coverage!("epochs.seal_lost");
            catch_up.want(learner.commit().next());
        }
        // The disk does not record which digests came with a snapshot and which were computed after
        // its installation, so all of them count as inherited.
        let inherited = if found.generation > 0 { applied } else { Sequence::ZERO };
        Replica {
            now,
            membership,
            acceptor,
            learner,
            views,
            proposer: None,
            blocked: None,
            replies: PendingReplies::default(),
            requests: Requests::new(now),
            reads: Reads::new(first_round),
            digests: Digests::new(&options, &state.recorded, inherited, now),
            applied: state.into(),
            stored: Stored { first, persisted: applied, log_bytes: 0, log_grown: 0 },
            retention: Retention::new(),
            catch_up,
            peers: PeerRecords::default(),
            fitness: Fitness::new(now),
            leases: Leases::at_start(found.promised, found.epoch, now, lease_us, options.lease_us),
            transfer: None,
            raise: Raise::default(),
            epochs: Epochs::default(),
            reconfiguration: Reconfiguration::default(),
            upkeep: Upkeep::default(),
            freshness: Freshness::default(),
            bootstrap: Bootstrap { new_cluster_id, is_unannounced: false },
            timers: Timers::new(now),
            counters: Counters::default(),
            outputs: Outputs::default(),
            has_sent_last_report: false,
            options,
        }
    }

    /// The id of this replica.
    pub fn id(&self) -> ReplicaId {
        self.options.me
    }

    /// The hard state that the disk will hold once every log write is done.
    pub fn hard_state(&self) -> &HardState {
        self.acceptor.hard()
    }

    /// Takes one input. Its effects are returned by the next [`Replica::ready`]. A driver that
    /// drains its queue before that call lets many inputs share one batch, one disk write and one
    /// message.
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
            Input::Raise { id, to, force, deadline } => self.raise_level(id, to, force, deadline),
            Input::Reconfigure { id, change, deadline } => self.reconfigure(id, change, deadline),
            Input::CheckChange { id, change } => {
                let preconditions = self.preconditions(&change);
                self.outputs.checked.push((id, preconditions));
            }
            Input::Eligible(is_eligible) => self.set_eligible(is_eligible),
            Input::Space(has_space) => self.set_space(has_space),
            Input::AmpleSpace(has_ample_space) => self.retention.has_ample_space = has_ample_space,
            Input::Stopping => self.stop_leading(),
            Input::Durable(write_id) => {
                self.acceptor.complete(write_id);
                self.switch_database(write_id);
                self.after_durable();
            }
            Input::Applied { sequence, sessions, time_us, digest, feature_level } => {
                // The former database may still report what it applied before a snapshot replaced
                // it.
                if sequence >= self.learner.applied() {
                    self.learner.apply(sequence);
                    self.finish_requests(&sessions);
                    let before = self.applied.level;
                    assert!(feature_level >= before, "the feature level went from {before} to {feature_level}");
                    self.applied = Applied { sessions, time_us, digest, level: feature_level };
                    self.finish_raises();
                }
            }
            Input::Digests(recorded) => self.digests.record(&recorded, &self.membership),
            Input::Persisted { sequence, log_bytes } => self.note_persisted(sequence, log_bytes),
            Input::SnapshotRead(piece) => self.snapshot_read(piece),
            Input::Installed(event) => self.installed(event),
            Input::LogRead { read, entries } => self.log_read(read, entries),
        }
    }

    /// Everything to be done after the inputs taken since the last call. The driver must perform
    /// all of it.
    pub fn ready(&mut self, now: Instant) -> Outputs {
        self.now = self.now.max(now);
        if let Some(divergence) = self.digests.verdict().cloned() {
            return self.farewell(divergence);
        }
        self.forward_requests();
        self.choose();
        self.enter_epochs();
        self.advance_transfer();
        self.propose_raise();
        self.pack_values();
        self.run_reads();
        self.replicate();
        self.send_pending_promise();
        self.answer_primary();
        self.learner.advance(&self.acceptor);
        self.deliver();
        self.advance_freshness();
        self.acceptor.evict(self.learner.applied(), self.options.log_cache_bytes);
        self.outputs.persist = self.acceptor.take_writes();
        let entries = self.outputs.persist.iter().flat_map(|write| &write.entries);
        self.stored.log_grown += entries.map(|entry| entry.len() as u64).sum::<u64>();
        std::mem::take(&mut self.outputs)
    }

    /// The last thing that a diverged replica does: it reports its digests, so that the others can
    /// name it.
    fn farewell(&mut self, divergence: Divergence) -> Outputs {
        self.outputs = Outputs::default();
        if !std::mem::replace(&mut self.has_sent_last_report, true) {
            self.send_report();
        }
        let send = std::mem::take(&mut self.outputs.send);
        Outputs { send, diverged: Some(divergence), ..Outputs::default() }
    }

    fn tick(&mut self) {
        self.forget_former_leases();
        self.digests.tick(self.now, self.options.heartbeat_us, &self.membership);
        self.report();
        self.watch_disk();
        self.tick_transfer();
        self.tick_level();
        self.tick_reconfiguration();
        self.tick_upkeep();
        self.tick_epochs();
        self.tick_catch_up();
        self.requests.retry(self.now, self.options.retry_us);
        self.retry_reads();
        let timed_out = self.views.election_timed_out(self.now);
        match self.views.role() {
            Role::Unborn { .. } => self.call_unborn_peers(),
            Role::Primary => self.tick_primary(),
            Role::Secondary => {
                if timed_out {
                    self.forget_what_nobody_has();
                    self.restore_lost_past();
                }
                // A replica that waits for a snapshot could not lead, and would only keep others
                // from leading.
                if timed_out && !self.is_catching_up() {
                    self.start_pre_vote();
                }
            }
            Role::PreVoting { .. } | Role::Preparing(_) => {
                if timed_out {
                    coverage!("liveness.campaign_given_up");
                    self.become_secondary(None);
                    self.start_pre_vote();
                } else {
                    self.retry_fetch();
                }
            }
        }
    }

    /// Whether this replica is a voter: its disk is in the configuration. Otherwise it is an
    /// observer.
    pub(super) fn is_voter(&self) -> bool {
        self.membership.is_voter(self.options.me, self.acceptor.hard().disk_id)
    }

    fn after_durable(&mut self) {
        self.announce_birth();
        self.say_farewell();
        self.ask_for_promises();
    }

    fn deliver(&mut self) {
        if self.is_switching() {
            return;
        }
        let Some((from, to)) = self.learner.deliverable(&self.acceptor) else { return };
        // The database never gets ahead of the durable epoch.
        let to = match self.acceptor.sealed() {
            Some(seal) => to.min(seal.previous()),
            None if self.acceptor.durable().epoch < self.epoch() => to.min(self.membership.since().previous()),
            None => to,
        };
        if to < from {
            return;
        }
        for sequence in from.0..=to.0 {
            let sequence = Sequence(sequence);
            let entry = self.acceptor.log().get(sequence).expect("what is not applied is in memory");
            self.outputs.deliver.push((sequence, entry.clone()));
        }
        self.learner.deliver(to, self.acceptor.durable().accepted_view);
    }

    /// Finishes the requests of this replica's own session that `sessions` report as executed.
    pub(super) fn finish_requests(&mut self, sessions: &Sessions) {
        let hard = self.acceptor.hard();
        if let Some(own) = sessions.get(&hard.disk_id).filter(|session| session.boot == hard.boot) {
            self.requests.executed(own.last, self.now);
        }
    }

    fn log_read(&mut self, read: LogRead, entries: Vec<Bytes>) {
        match read.purpose {
            ReadPurpose::Fetch(peer) => self.fetch_read(peer, read, entries),
            ReadPurpose::Follow(peer) => self.replicate_read(peer, read, entries),
            ReadPurpose::Committed(peer, epoch) => self.committed_read(peer, epoch, &read, entries),
            ReadPurpose::Tail => self.tail_read(&read, entries),
        }
    }

    /// The primary, as far as this replica knows.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.views.primary()
    }

    /// The members of the cluster as this replica knows them.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Asserts relations that hold after every step; tests and simulations call this each time.
    pub fn check_invariants(&self) {
        self.acceptor.check_invariants(self.learner.commit());
        assert!(self.learner.delivered() <= self.learner.commit());
        let (known, promised) = (self.learner.commit_view(), self.acceptor.promised());
        assert!(known <= promised, "knows entries as chosen in view {known}, but has promised only {promised}");
        assert!(self.learner.delivered() <= self.acceptor.stable(), "delivered what is not durable");
        assert_eq!(self.proposer.is_some(), self.views.is_primary(), "leads without a proposer, or the reverse");
        if let Some(proposer) = &self.proposer {
            assert_eq!(proposer.view, self.acceptor.promised(), "leads a view that is not the promised one");
            assert_eq!(proposer.view, self.acceptor.accepted_view(), "leads without holding the view's log");
            assert_eq!(proposer.view.owner(), Some(self.options.me), "leads a view that another replica owns");
            assert!(!self.fitness.is_stopping, "leads though it is about to stop");
            let (end, applied) = (proposer.level, self.applied.level);
            assert!(end >= applied, "the log of a primary ends at feature level {end}, and {applied} is applied");
            for (peer, progress) in &proposer.peers {
                assert!(progress.matched <= self.acceptor.log().last(), "peer {peer} holds more than its primary");
            }
        }
    }
}

/// The voters with which the cluster began, and the members in `epoch`: those of the database's
/// state, brought there by the seals in the entries that it has not applied; the first entry is at
/// `begin`. `None` if one of those
/// is missing.
pub(crate) fn configuration_at(
    epoch: Epoch,
    state: &ReplicatedState,
    begin: Sequence,
    entries: &[Option<Bytes>],
) -> Option<(BTreeMap<ReplicaId, DiskId>, Configuration)> {
    let mut state = state.clone();
    assert!(state.configuration.epoch <= epoch, "the database is of a later epoch than the log, which is of {epoch}");
    let applied = state.sequence;
    let numbered = (begin.0..).map(Sequence).zip(entries).filter(|(sequence, _)| *sequence > applied);
    for (sequence, entry) in numbered {
        if state.configuration.epoch == epoch {
            break;
        }
        // One that is lost was no seal, or the epochs found here do not follow each other.
        let Some(entry) = entry else { continue };
        let value = Value::from_bytes(entry.clone());
        if let Some(birth) = &value.birth {
            state.be_born(birth);
        }
        if let Some(seal) = &value.reconfigure {
            state.reconfigure(seal, sequence);
        }
    }
    (state.configuration.epoch == epoch).then_some((state.first_voters, state.configuration))
}
