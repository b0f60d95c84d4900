//! Runs the core on the thread that delivers an input, under a try-lock.
//!
//! The core is pure computation, so the thread that completes a disk write, or reads a message from
//! a socket, can run it in place instead of waking another thread: the outputs (messages, writes,
//! entries to apply) leave at once. Only one thread runs the core at a time. If another one is
//! running it, a thread leaves its input in the inbox, and the running thread processes that, too.
//! The core thread handles the passage of time, and takes over if another thread would have to run
//! the core for too long.
//!
//! Invariant: no input stays in the inbox unnoticed. The thread that runs the core looks into the
//! inbox again after it has released the lock, or wakes the core thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, TryLockError};

use super::core_runner::{CoreRunner, TICK};
use super::failure::Failure;
use super::heartbeat::ThreadKind;
use super::shared::ReplicaShared;
use super::sync::{Mutex, MutexGuard};
use super::work::Event;
use crate::core::{RaiseError, ReconfigureError};

/// How many rounds a thread that delivers an input runs the core before it leaves the rest to the
/// core thread.
const MAX_ROUNDS: usize = 2;

/// The core runner under its lock, and what the threads share.
pub struct CoreLock {
    /// `None` until the replica is started, and again once it has stopped.
    runner: Mutex<Option<CoreRunner>>,
    shared: Arc<ReplicaShared>,
}

impl CoreLock {
    pub fn new(shared: Arc<ReplicaShared>) -> Self {
        CoreLock { runner: Mutex::new(None), shared }
    }

    pub fn shared(&self) -> &ReplicaShared {
        &self.shared
    }

    /// Inputs are processed from now on.
    pub fn start(&self, runner: CoreRunner) {
        *self.runner.lock().expect("no thread runs yet") = Some(runner);
    }

    /// Delivers an event, and runs the core in place if no other thread is running it.
    pub fn submit(&self, event: Event) {
        self.shared.inbox.push_without_waking(event);
        for _ in 0..MAX_ROUNDS {
            {
                let Some(mut guard) = self.try_lock() else { return };
                let Some(runner) = guard.as_mut() else { return };
                let events = self.shared.inbox.take();
                if !events.is_empty() && !self.run_round(runner, events) {
                    return;
                }
            }
            // A thread that found the lock taken has left its event, and relies on this second
            // look.
            if self.shared.inbox.is_empty() {
                return;
            }
        }
        self.shared.inbox.wake();
    }

    /// `None`: another thread runs the core, and will look into the inbox afterwards.
    fn try_lock(&self) -> Option<MutexGuard<'_, Option<CoreRunner>>> {
        match self.runner.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => {
                self.shared.inbox.wake();
                None
            }
        }
    }

    /// Returns false if the replica has failed. The inbox is then closed, so that the core thread
    /// stops the replica.
    fn run_round(&self, runner: &mut CoreRunner, events: Vec<Event>) -> bool {
        match runner.run_round(&self.shared, events) {
            Ok(()) => true,
            Err(reason) => {
                self.shared.status().failed.get_or_insert(reason);
                self.shared.inbox.close();
                false
            }
        }
    }

    /// The core thread: handles the passage of time, and runs the core when it is woken, until the
    /// inbox is closed. Then stops the replica.
    pub fn run(&self) {
        // A panic of the core, here or on another thread, poisons the lock, and ends the replica
        // like a failure.
        let _ = catch_unwind(AssertUnwindSafe(|| self.run_until_closed()));
        self.stop();
        self.shared.beats.has_ended(ThreadKind::Core);
    }

    fn run_until_closed(&self) {
        while self.shared.inbox.wait(TICK) {
            // Before the lock: if another thread hangs while it runs the core, this one counts as
            // stalled.
            self.shared.beats.works(ThreadKind::Core);
            let Ok(mut guard) = self.runner.lock() else { break };
            let Some(runner) = guard.as_mut() else { break };
            // Under the lock: events must reach the core in the order in which they were submitted.
            let events = self.shared.inbox.take();
            if !self.run_round(runner, events) {
                break;
            }
            drop(guard);
            self.shared.beats.waits(ThreadKind::Core);
        }
    }

    /// Stops everything: the core and its transport first, so that no more events arrive.
    fn stop(&self) {
        let shared = &self.shared;
        let (runner, is_sound) = match self.runner.lock() {
            Ok(mut guard) => (guard.take(), true),
            Err(poisoned) => {
                shared.status().failed.get_or_insert_with(Failure::invariant);
                (poisoned.into_inner().take(), false)
            }
        };
        let failed = shared.status().failed.clone();
        let failure = failed.clone().unwrap_or_else(Failure::shut_down);
        if let Some(failed) = &failed {
            let replica = runner.as_ref().map(|runner| runner.id().0);
            tracing::error!(replica, "the replica stops: {failed}");
        }
        shared.inbox.close();
        if let Some(mut runner) = runner {
            runner.stop(shared, is_sound);
        }
        shared.log.close();
        shared.apply.close();
        shared.snapshots.close();
        shared.status().failed = Some(failure.clone());
        shared.watch.send_modify(|role| {
            role.failed = Some(failure.clone());
            role.primary = None;
            role.is_primary = false;
            role.established = false;
            role.recovered = false;
        });
        shared.raises().abandon(|| Err(RaiseError::Stopped(failure.reason.clone())));
        shared.reconfigurations().abandon(|| Err(ReconfigureError::Stopped(failure.reason.clone())));
        shared.checks().drop_all();
        shared.transfers().abandon(&failure.reason);
        shared.requests().abandon(&failure.reason);
        shared.reads().abandon(&failure.reason);
    }
}
