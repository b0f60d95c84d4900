//! Who runs the core: whoever brings it something, if nobody else does.
//!
//! The core is pure computation, so the thread that completes a disk write, or reads a message from a socket, can run it
//! in place instead of waking another thread: what follows (messages, writes, entries to apply) leaves at once. Only one
//! thread runs it at a time; the others leave their input in the inbox and go on, and the one that runs takes it along.
//! A thread of its own looks after time, and takes over where another would have to stay too long.
//!
//! Invariant: an input left in the inbox is taken by the thread that runs, which looks again after it has let go, or by
//! the core thread, which is woken.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::TryLockError;
use std::time::{Duration, Instant as Clock};

use super::copy_log::CopyLog;
use super::heartbeat::ThreadKind;
use super::leadership::Leadership;
use super::network::{NetworkManager, received_bytes};
use super::replica::{RoleChange, Shared};
use super::snapshots::SnapshotWork;
use super::sync::atomic::Ordering;
use super::sync::{Mutex, MutexGuard};
use super::threads::{ApplyWork, LogWork};
use super::{Event, Failure, RequestError, sync};
use crate::core::{Input, Outputs, Refusal, Replica};
use crate::{ClusterId, DivergedPeer, Message, ReplicaId, Sequence};

/// How often time is looked at when nothing happens.
pub const TICK: Duration = Duration::from_millis(10);

/// How long a replica waits for its cluster before it says so, and says so again.
const UNBORN_PATIENCE: Duration = Duration::from_secs(10);

/// How many rounds a thread that came with an input runs the core before it leaves the rest to the core thread.
const MAX_ROUNDS: usize = 2;

/// The core, and what it needs to act.
pub struct Seat {
    core: Replica,
    network: NetworkManager,
    next_tick: Clock,
    /// When to say again that this replica belongs to no cluster.
    next_warning: Clock,
    /// The diverged peers that were named in the log.
    diverged_peers: BTreeMap<ReplicaId, DivergedPeer>,
    copies: CopyLog,
    leadership: Leadership,
}

/// Empty until the replica is started, and again once it has stopped.
pub type SeatLock = Mutex<Option<Seat>>;

impl Seat {
    pub fn new(core: Replica, network: NetworkManager) -> Self {
        let now = sync::now();
        let (diverged_peers, copies, leadership) = (BTreeMap::new(), CopyLog::default(), Leadership::new());
        Seat { core, network, next_tick: now, next_warning: now + UNBORN_PATIENCE, diverged_peers, copies, leadership }
    }

    pub fn network(&self) -> &NetworkManager {
        &self.network
    }

    /// One round: everything that waits, then what follows from it. Time is judged only after all inputs, so that a
    /// replica that was stalled does not accuse its peers. Returns why the replica must stop, if it must.
    fn round(&mut self, shared: &Shared, events: Vec<Event>) -> Result<(), Failure> {
        let now = shared.now();
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
        self.carry_out(shared, outputs);
        if let Some(divergence) = diverged {
            return Err(divergence.into());
        }
        self.publish(shared, ticks);
        Ok(())
    }

    fn tick(&mut self, shared: &Shared) {
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
            self.next_warning = now + UNBORN_PATIENCE;
            let status = self.core.status();
            if let Some(refused) = &status.refused_copy {
                tracing::error!(
                    replica = self.core.id().0,
                    "the databases of the others have diverged, so that none can be copied here: {refused}. Start all \
                     replicas; if they do not agree then, choose which database to keep"
                );
            }
            if let Some((from, to)) = status.blocked {
                tracing::error!(
                    replica = self.core.id().0,
                    from = from.0,
                    to = to.0,
                    "nobody can lead: these entries may have been \
                    acknowledged, and so many disks have lost them that no replica has them any more. Bring back a disk \
                    that has them, or restore a backup of all replicas"
                );
            }
            if self.core.hard_state().cluster_id == ClusterId::NONE {
                tracing::warn!(
                    replica = self.core.id().0,
                    "this replica belongs to no cluster yet: one is founded when all \
                    configured replicas run and all their disks are empty. If the others have a cluster already, this \
                    replica follows it without a vote as soon as one of them answers"
                );
            }
        }
    }

    fn carry_out(&mut self, shared: &Shared, outputs: Outputs) {
        if !outputs.numbered.is_empty() || !outputs.refused.is_empty() || !outputs.withdrawn.is_empty() {
            let mut waiters = shared.requests();
            for (id, number) in outputs.numbered {
                waiters.number(id, number);
            }
            for number in outputs.withdrawn {
                waiters.withdraw(number);
            }
            for (id, refusal) in outputs.refused {
                let error = match refusal {
                    Refusal::Overloaded => RequestError::Overloaded,
                    Refusal::StorageFull => RequestError::StorageFull,
                    Refusal::Cancelled => RequestError::NotExecuted("none was found in time".into()),
                };
                waiters.refuse(id, error);
            }
        }
        for (id, result) in outputs.transferred {
            shared.transfers().end(id, result);
        }
        if !outputs.persist.is_empty() {
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
            shared.apply.push(ApplyWork::Switch(generation));
        }
        if !outputs.deliver.is_empty() {
            shared.apply.push(ApplyWork::Entries(outputs.deliver));
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
                // Read under the lock, so that an apply that ends now cannot miss a reader put aside now.
                let applied = Sequence(shared.applied.load(Ordering::Acquire));
                reads.point(id, point, applied);
            }
        }
    }

    /// The last words of a replica that stops, for whatever reason: it leads no more. What else would follow is left.
    fn take_leave(&mut self, shared: &Shared) {
        self.core.step(shared.now(), Input::Stopping);
        let sender = self.core.sender();
        for outgoing in self.core.ready(shared.now()).send {
            if matches!(outgoing.message, Message::Resign(_)) {
                self.network.send(sender, outgoing);
            }
        }
    }

    fn publish(&mut self, shared: &Shared, ticks: bool) {
        let role = RoleChange {
            view: self.core.hard_state().promised,
            primary: self.core.primary(),
            is_primary: self.core.primary() == Some(self.core.id()),
            established: self.core.is_ready_to_read(),
            recovered: self.core.is_recovered(),
            failed: None,
        };
        let changed = shared.watch.send_if_modified(|told| {
            let changed = *told != role;
            if changed {
                *told = role.clone();
            }
            changed
        });
        // Those that wait for their cluster to be founded are told of elsewhere.
        if (changed || ticks)
            && self.core.hard_state().cluster_id != ClusterId::NONE
            && let Some(news) = self.leadership.observe(&role, sync::now())
        {
            news.log(self.core.id());
        }
        if changed || ticks {
            let core = self.core.status();
            self.name_diverged_peers(&core.diverged_peers);
            let copy_bytes_per_second = self.copies.look(&core, sync::now());
            let mut status = shared.status();
            status.core = core;
            status.copy_bytes_per_second = copy_bytes_per_second;
            status.network = self.network.statistics();
            status.troubles = self.network.troubles();
        }
    }

    /// Says once of each peer whose database has diverged that it has.
    fn name_diverged_peers(&mut self, diverged_peers: &BTreeMap<ReplicaId, DivergedPeer>) {
        for (peer, diverged) in
            diverged_peers.iter().filter(|(peer, diverged)| self.diverged_peers.get(peer) != Some(diverged))
        {
            let DivergedPeer { sequence, expected, found } = diverged;
            tracing::error!(
                replica = self.core.id().0,
                "the database of replica {peer} has diverged: its digest at \
                sequence {sequence} is {found:016x}; a majority, this replica among it, has {expected:016x}"
            );
        }
        if self.diverged_peers != *diverged_peers {
            self.diverged_peers.clone_from(diverged_peers);
        }
    }
}

impl Shared {
    /// Brings an event, and runs the core in place if nobody runs it.
    pub fn bring(&self, event: Event) {
        self.inbox.push_quietly(event);
        for _ in 0..MAX_ROUNDS {
            {
                let Some(mut seat) = self.try_seat() else { return };
                let Some(sitting) = seat.as_mut() else { return };
                let events = self.inbox.take();
                if !events.is_empty() && !self.run_round(sitting, events) {
                    return;
                }
            }
            // Whoever brought something meanwhile, and found the seat taken, relies on this look.
            if self.inbox.is_empty() {
                return;
            }
        }
        self.inbox.wake();
    }

    /// `None`: another thread runs the core, and will look into the inbox after.
    fn try_seat(&self) -> Option<MutexGuard<'_, Option<Seat>>> {
        match self.seat.try_lock() {
            Ok(seat) => Some(seat),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => {
                self.inbox.wake();
                None
            }
        }
    }

    /// False when the replica has failed: the core thread is told, and ends it.
    fn run_round(&self, seat: &mut Seat, events: Vec<Event>) -> bool {
        match seat.round(self, events) {
            Ok(()) => true,
            Err(reason) => {
                self.status().failed.get_or_insert(reason);
                self.inbox.close();
                false
            }
        }
    }

    /// The core thread: looks after time, and runs the core when it is woken, until the inbox is closed.
    pub fn run_core(&self) {
        // A panic of the core, here or in another thread, leaves the seat poisoned, and ends the replica like a failure.
        let _ = catch_unwind(AssertUnwindSafe(|| self.run_until_closed()));
        self.end();
        self.beats.has_ended(ThreadKind::Core);
    }

    fn run_until_closed(&self) {
        while self.inbox.wait(TICK) {
            // Whoever runs the core and hangs keeps this thread from it.
            self.beats.works(ThreadKind::Core);
            let Ok(mut seat) = self.seat.lock() else { break };
            let Some(sitting) = seat.as_mut() else { break };
            // Taken only now: inputs must reach the core in the order in which they came.
            let events = self.inbox.take();
            if !self.run_round(sitting, events) {
                break;
            }
            drop(seat);
            self.beats.waits(ThreadKind::Core);
        }
    }

    /// Closes everything. The transport first, so that nothing is brought any more.
    fn end(&self) {
        let (seat, is_sound) = match self.seat.lock() {
            Ok(mut seat) => (seat.take(), true),
            Err(poisoned) => {
                self.status().failed.get_or_insert_with(Failure::invariant);
                (poisoned.into_inner().take(), false)
            }
        };
        let failed = self.status().failed.clone();
        let failure = failed.clone().unwrap_or_else(Failure::shut_down);
        if let Some(failed) = &failed {
            let replica = seat.as_ref().map(|seat| seat.core.id().0);
            tracing::error!(replica, "the replica stops: {failed}");
        }
        self.inbox.close();
        if let Some(mut seat) = seat {
            if is_sound {
                seat.take_leave(self);
            }
            seat.network().shutdown();
        }
        self.log.close();
        self.apply.close();
        self.snapshots.close();
        self.status().failed = Some(failure.clone());
        self.watch.send_modify(|role| {
            role.failed = Some(failure.clone());
            role.primary = None;
            role.is_primary = false;
            role.established = false;
            role.recovered = false;
        });
        self.transfers().abandon(&failure.reason);
        self.requests().abandon(&failure.reason);
        self.reads().abandon(&failure.reason);
    }
}
