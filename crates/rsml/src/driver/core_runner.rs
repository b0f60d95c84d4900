//! Runs the core: feeds it events, and dispatches its outputs to the threads and the network.
//!
//! See [`core_lock`](super::core_lock) for which thread does that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as StdInstant};

use super::copy_log::CopyLog;
use super::error::RequestError;
use super::failure::Failure;
use super::leadership::Leadership;
use super::logged::Logged;
use super::network::NetworkManager;
use super::shared::ReplicaShared;
use super::status::RoleChange;
use super::sync;
use super::sync::atomic::Ordering;
use super::work::{Event, LogWork, Milestones, SnapshotWork, received_bytes};
use crate::core::{Input, Outputs, Refusal, Replica};
use crate::{ClusterId, DivergedPeer, Message, ReplicaId, Sequence};

/// How often the core handles the passage of time when nothing else happens.
pub const TICK: Duration = Duration::from_millis(10);

/// How often the log repeats a state that needs an operator.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The core, and what it needs to act.
pub struct CoreRunner {
    core: Replica,
    network: NetworkManager,
    /// The revision of the members that the network connects.
    connected: u64,
    next_tick: StdInstant,
    next_warning: StdInstant,
    /// The diverged peers that were logged.
    diverged_peers: BTreeMap<ReplicaId, DivergedPeer>,
    copies: CopyLog,
    leadership: Leadership,
    logged: Logged,
}

impl CoreRunner {
    pub fn new(core: Replica, network: NetworkManager) -> Self {
        let now = sync::now();
        network.set_peers(core.membership());
        CoreRunner {
            connected: core.membership().revision(),
            core,
            network,
            next_tick: now,
            next_warning: now + WARNING_INTERVAL,
            diverged_peers: BTreeMap::new(),
            copies: CopyLog::default(),
            leadership: Leadership::new(),
            logged: Logged::default(),
        }
    }

    pub fn id(&self) -> ReplicaId {
        self.core.id()
    }

    /// One round: steps the core with all events, and then dispatches its outputs. The core judges
    /// timeouts only after it has seen all events, so that a replica that was stalled does not
    /// blame its peers.
    ///
    /// # Errors
    /// Why the replica must stop.
    pub fn run_round(&mut self, shared: &ReplicaShared, events: Vec<Event>) -> Result<(), Failure> {
        let begun = sync::now();
        let now = shared.at(begun);
        for event in events {
            match event {
                Event::Input(input) => {
                    shared.waiting_bytes.fetch_sub(received_bytes(&input), Ordering::Relaxed);
                    self.core.step(now, input);
                }
                Event::Failed(reason) => return Err(reason),
            }
        }
        let ticks = sync::now() >= self.next_tick;
        if ticks {
            self.tick(shared);
        }
        let mut outputs = self.core.ready(now);
        let diverged = outputs.diverged.take();
        let too_new = outputs.too_new.take();
        self.follow_membership(shared);
        self.dispatch(shared, outputs, begun);
        if ticks {
            shared.apply.tick();
        }
        if let Some(divergence) = diverged {
            return Err(divergence.into());
        }
        if let Some(level) = too_new {
            return Err(Failure::too_new(level, self.core.status().levels));
        }
        self.publish(shared, ticks);
        Ok(())
    }

    /// Has the network connect the members of the present configuration, and shows them to the
    /// handle.
    fn follow_membership(&mut self, shared: &ReplicaShared) {
        let membership = self.core.membership();
        if membership.revision() != self.connected {
            self.connected = membership.revision();
            self.network.set_peers(membership);
            shared.set_membership(membership.clone());
        }
    }

    fn tick(&mut self, shared: &ReplicaShared) {
        let now = sync::now();
        self.next_tick = now + TICK;
        let expired = shared.requests().expired(now);
        for id in expired {
            self.core.step(shared.now(), Input::Cancel(id));
        }
        let overdue = shared.requests().overdue(now);
        for number in overdue {
            self.core.step(shared.now(), Input::GiveUp(number));
        }
        self.core.step(shared.now(), Input::Tick);
        if now >= self.next_warning {
            self.next_warning = now + WARNING_INTERVAL;
            self.warn_operator();
        }
    }

    /// Logs states in which the replica cannot make progress by itself.
    fn warn_operator(&self) {
        let (replica, status) = (self.core.id().0, self.core.status());
        if let Some(refused) = &status.refused_copy {
            tracing::error!(
                replica,
                "the databases of the other replicas have diverged, so none of them can be copied here: {refused}. \
                 Start all replicas. If they still disagree then, choose which database to keep"
            );
        }
        if let Some((from, to)) = status.blocked {
            tracing::error!(
                replica,
                from = from.0,
                to = to.0,
                "no replica can lead: these entries may have been acknowledged, and so many disks have lost them that \
                 no replica has them any more. Bring back a disk that has them, or restore a backup on all replicas"
            );
        }
        if self.core.hard_state().cluster_id == ClusterId::NONE {
            tracing::warn!(
                replica,
                "this replica belongs to no cluster yet: a new cluster starts once all configured replicas run and all \
                 their disks are empty. If the other replicas already form a cluster, this replica follows it without \
                 a vote as soon as one of them answers"
            );
        }
    }

    /// Whether entries must be applied as soon as they come: a caller here may wait for one of them,
    /// or this replica begins to lead and serves only once it has applied them.
    fn applies_at_once(&self, shared: &ReplicaShared) -> bool {
        shared.unfinished.load(Ordering::Relaxed) > 0 || !self.core.is_ready_to_read()
    }

    /// `now` is when the round began.
    fn dispatch(&mut self, shared: &ReplicaShared, mut outputs: Outputs, now: StdInstant) {
        answer_requests(shared, &mut outputs, now);
        for (id, result) in outputs.transferred {
            shared.transfers().end(id, result);
        }
        for (id, result) in outputs.raised {
            shared.raises().end(id, result);
        }
        for (id, result) in outputs.reconfigured {
            shared.reconfigurations().end(id, result);
        }
        for (id, preconditions) in outputs.checked {
            shared.checks().end(id, preconditions);
        }
        if !outputs.persist.is_empty() {
            self.logged.add(&outputs.persist, now);
            shared.log.push(LogWork::Persist(outputs.persist));
        }
        let sender = self.core.sender();
        for outgoing in outputs.send {
            self.network.send(sender, outgoing);
        }
        for read in outputs.read_log {
            shared.log.push(LogWork::Read(read));
        }
        if let Some(below) = outputs.trim {
            shared.log.push(LogWork::Trim(below));
        }
        if let Some(generation) = outputs.switch {
            shared.apply.switch_to(generation);
        }
        if !outputs.deliver.is_empty() {
            let logged = self.logged.take(&outputs.deliver).unwrap_or(now);
            let times = Milestones { logged, delivered: now };
            shared.apply.deliver(outputs.deliver, times, self.applies_at_once(shared));
        }
        for step in outputs.install {
            shared.snapshots.push(SnapshotWork::Install(step));
        }
        for read in outputs.read_snapshot {
            shared.snapshots.push(SnapshotWork::Read(read));
        }
        if !outputs.read_ready.is_empty() {
            let mut reads = shared.reads();
            for (id, point) in outputs.read_ready {
                // Load this while holding the lock: otherwise an apply that ends now could miss a
                // reader that starts to wait now.
                let applied = Sequence(shared.applied.load(Ordering::Acquire));
                reads.point(id, point, applied);
            }
            if reads.wait_for_entries() {
                shared.apply.hurry();
            }
        }
    }

    /// Ends the core: announces that this replica no longer leads, and closes the connections.
    /// `is_sound` is false if the core panicked; it is not used again then.
    pub fn stop(&mut self, shared: &ReplicaShared, is_sound: bool) {
        if is_sound {
            self.resign(shared);
        }
        self.network.shutdown();
    }

    /// Sends the resignation of a primary, and drops all other outputs.
    fn resign(&mut self, shared: &ReplicaShared) {
        self.core.step(shared.now(), Input::Stopping);
        let sender = self.core.sender();
        for outgoing in self.core.ready(shared.now()).send {
            if matches!(outgoing.message, Message::Resign(_)) {
                self.network.send(sender, outgoing);
            }
        }
    }

    /// Updates what watchers and operators see.
    fn publish(&mut self, shared: &ReplicaShared, ticks: bool) {
        let role = RoleChange {
            view: self.core.hard_state().promised,
            primary: self.core.primary(),
            is_primary: self.core.primary() == Some(self.core.id()),
            established: self.core.is_ready_to_read(),
            recovered: self.core.is_recovered(),
            failed: None,
        };
        shared.up_to_date_at.store(self.core.up_to_date_at().map_or(0, |at| at.0 + 1), Ordering::Relaxed);
        let changed = shared.watch.send_if_modified(|published| {
            let changed = *published != role;
            if changed {
                *published = role.clone();
            }
            changed
        });
        // Before the cluster exists, `warn_operator` says so.
        if (changed || ticks)
            && self.core.hard_state().cluster_id != ClusterId::NONE
            && let Some(news) = self.leadership.observe(&role, sync::now())
        {
            news.log(self.core.id());
        }
        if changed || ticks {
            let core = self.core.status();
            self.log_diverged_peers(&core.diverged_peers);
            let copy_bytes_per_second = self.copies.observe(&core, sync::now());
            let mut status = shared.status();
            status.core = core;
            status.copy_bytes_per_second = copy_bytes_per_second;
            status.network = self.network.statistics();
            status.troubles = self.network.troubles();
        }
    }

    /// Logs each diverged peer once.
    fn log_diverged_peers(&mut self, peers: &BTreeMap<ReplicaId, DivergedPeer>) {
        for (peer, diverged) in peers.iter().filter(|(peer, diverged)| self.diverged_peers.get(peer) != Some(diverged))
        {
            let DivergedPeer { sequence, expected, found } = diverged;
            tracing::error!(
                replica = self.core.id().0,
                "the database of replica {peer} has diverged: its digest at \
                sequence {sequence} is {found:016x}; a majority, this replica among it, has {expected:016x}"
            );
        }
        if self.diverged_peers != *peers {
            self.diverged_peers.clone_from(peers);
        }
    }
}

/// Reports the progress of local requests to their callers.
fn answer_requests(shared: &ReplicaShared, outputs: &mut Outputs, now: StdInstant) {
    let is_quiet = outputs.numbered.is_empty() && outputs.refused.is_empty() && outputs.withdrawn.is_empty();
    if is_quiet && outputs.new_session.is_none() {
        return;
    }
    let mut waiters = shared.requests();
    for (id, number) in outputs.numbered.drain(..) {
        waiters.number(id, number, now);
    }
    for number in outputs.withdrawn.drain(..) {
        waiters.withdraw(number);
    }
    for (id, refusal) in outputs.refused.drain(..) {
        let error = match refusal {
            Refusal::Overloaded => RequestError::Overloaded,
            Refusal::StorageFull => RequestError::StorageFull,
            Refusal::NotAMember => RequestError::NotExecuted("this replica was removed from the cluster".into()),
            Refusal::Cancelled => RequestError::NotExecuted("none was found in time".into()),
        };
        waiters.refuse(id, error);
    }
    // Requests that got a number in the same round are of the former session.
    if let Some(boot) = outputs.new_session {
        waiters.begin_session(boot);
    }
}
