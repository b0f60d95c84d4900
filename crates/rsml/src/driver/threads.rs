//! The three threads of a replica.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;

use super::network::NetworkManager;
use super::replica::{RoleChange, Shared};
use super::{Event, RequestError, Storage};
use crate::core::{Input, LogRead, Outputs, Refusal, Replica};
use crate::{Applier, ExecutionNotifier, Persist, Sequence};

/// How often time is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(10);

pub enum LogWork {
    Persist(Vec<Persist>),
    Read(LogRead),
}

pub type ApplyWork = Vec<(Sequence, Bytes)>;

pub fn spawn<S: Storage, E: ExecutionNotifier>(
    shared: &Arc<Shared>,
    network: &Arc<NetworkManager>,
    core: Replica,
    storage: S,
    applier: Applier<E>,
) -> Vec<JoinHandle<()>> {
    let id = core.id();
    let named = |what: &str| std::thread::Builder::new().name(format!("rsml-{what}-{id}"));
    let (a, b, c) = (shared.clone(), shared.clone(), shared.clone());
    let network = network.clone();
    [
        named("core").spawn(move || CoreThread::new(a, network, core).run()),
        named("log").spawn(move || run_log(&b, storage)),
        named("apply").spawn(move || run_apply(&c, applier)),
    ]
    .into_iter()
    .map(|thread| thread.expect("the system gives a thread"))
    .collect()
}

struct CoreThread {
    shared: Arc<Shared>,
    network: Arc<NetworkManager>,
    core: Replica,
    next_tick: Clock,
}

impl CoreThread {
    fn new(shared: Arc<Shared>, network: Arc<NetworkManager>, core: Replica) -> Self {
        CoreThread { shared, network, core, next_tick: Clock::now() }
    }

    fn run(mut self) {
        let reason = loop {
            let wait = self.next_tick.saturating_duration_since(Clock::now());
            let Some(events) = self.shared.inbox.drain(Some(wait)) else { break None };
            let now = self.shared.now();
            let mut failed = None;
            for event in events {
                match event {
                    Event::Input(input) => self.core.step(now, input),
                    Event::Failed(reason) => failed = Some(reason),
                }
            }
            if failed.is_some() {
                break failed;
            }
            let ticks = Clock::now() >= self.next_tick;
            if ticks {
                self.tick();
            }
            let outputs = self.core.ready(now);
            self.carry_out(outputs);
            self.publish(ticks);
        };
        self.end(reason);
    }

    fn tick(&mut self) {
        let now = Clock::now();
        self.next_tick = now + TICK;
        let expired = self.shared.requests().expired(now);
        for id in expired {
            self.core.step(self.shared.now(), Input::Cancel(id));
        }
        self.core.step(self.shared.now(), Input::Tick);
    }

    fn carry_out(&mut self, outputs: Outputs) {
        if !outputs.numbered.is_empty() || !outputs.refused.is_empty() {
            let mut waiters = self.shared.requests();
            for (id, number) in outputs.numbered {
                waiters.number(id, number);
            }
            for (id, refusal) in outputs.refused {
                let error = match refusal {
                    Refusal::Overloaded => RequestError::Overloaded,
                    Refusal::Cancelled => RequestError::NotExecuted("none was found in time".into()),
                };
                waiters.refuse(id, error);
            }
        }
        if !outputs.persist.is_empty() {
            self.shared.log.push(LogWork::Persist(outputs.persist));
        }
        let sender = self.core.sender();
        for outgoing in outputs.send {
            self.network.send(sender, outgoing);
        }
        for read in outputs.read_log {
            self.shared.log.push(LogWork::Read(read));
        }
        if !outputs.deliver.is_empty() {
            self.shared.apply.push(outputs.deliver);
        }
        if !outputs.read_ready.is_empty() {
            let mut reads = self.shared.reads();
            for (id, point) in outputs.read_ready {
                // Read under the lock, so that an apply that ends now cannot miss a reader put aside now.
                let applied = Sequence(self.shared.applied.load(Ordering::Acquire));
                reads.point(id, point, applied);
            }
        }
    }

    fn publish(&mut self, ticks: bool) {
        let status = || self.core.status();
        let role = RoleChange {
            view: self.core.hard_state().promised,
            primary: self.core.primary(),
            is_primary: self.core.primary() == Some(self.core.id()),
            established: self.core.is_ready_to_read(),
            failed: None,
        };
        let changed = self.shared.watch.send_if_modified(|told| {
            let changed = *told != role;
            if changed {
                *told = role.clone();
            }
            changed
        });
        if changed {
            tracing::info!(replica = %self.core.id(), view = %role.view, primary = ?role.primary.map(|p| p.0),
                established = role.established, "view or role changed");
        }
        if changed || ticks {
            self.shared.status().core = status();
        }
    }

    fn end(self, failed: Option<String>) {
        let reason = failed.clone().unwrap_or_else(|| "it was shut down".into());
        if let Some(failed) = &failed {
            tracing::error!(replica = %self.core.id(), "replica stops: {failed}");
            self.network.shutdown();
        }
        self.shared.inbox.close();
        self.shared.log.close();
        self.shared.apply.close();
        self.shared.status().failed = Some(reason.clone());
        self.shared.watch.send_modify(|role| {
            role.failed = Some(reason.clone());
            role.primary = None;
            role.is_primary = false;
            role.established = false;
        });
        self.shared.requests().abandon(&reason);
        self.shared.reads().abandon(&reason);
    }
}

/// Makes everything that queued up durable with one synchronisation.
fn run_log(shared: &Shared, mut storage: impl Storage) {
    while let Some(work) = shared.log.drain(None) {
        let mut orders = Vec::new();
        let mut reads = Vec::new();
        for item in work {
            match item {
                LogWork::Persist(more) if orders.is_empty() => orders = more,
                LogWork::Persist(more) => orders.extend(more),
                LogWork::Read(read) => reads.push(read),
            }
        }
        let result = persist(shared, &mut storage, &orders).and_then(|()| {
            for read in reads {
                let entries = storage.read(read.from, read.to, read.max_bytes)?;
                shared.inbox.push(Event::Input(Input::LogRead { read, entries }));
            }
            Ok(())
        });
        if let Err(error) = result {
            shared.inbox.push(Event::Failed(error.to_string()));
            return;
        }
    }
}

fn persist(shared: &Shared, storage: &mut impl Storage, orders: &[Persist]) -> Result<(), crate::StorageError> {
    let Some(last) = orders.last() else { return Ok(()) };
    storage.persist(orders)?;
    shared.inbox.push(Event::Input(Input::Durable(last.ticket)));
    shared.status().storage = storage.statistics();
    Ok(())
}

/// Applies everything that queued up in one atomic write.
fn run_apply<E: ExecutionNotifier>(shared: &Shared, mut applier: Applier<E>) {
    let own = shared.status().core.clone();
    while let Some(work) = shared.apply.drain(None) {
        let entries: Vec<(Sequence, Bytes)> = work.into_iter().flatten().collect();
        let applied = match applier.apply(entries) {
            Ok(applied) => applied,
            Err(error) => {
                shared.inbox.push(Event::Failed(error.to_string()));
                return;
            }
        };
        let state = applier.state();
        shared.applied.store(state.sequence.0, Ordering::Release);
        let executed = applied.outcomes.len() as u64;
        let mine = applied.outcomes.into_iter().filter(|(d, b, ..)| (*d, *b) == (own.disk_id, own.boot));
        {
            let mut waiters = shared.requests();
            for (_, _, number, outcome) in mine {
                waiters.finish(number, outcome);
            }
        }
        shared.reads().applied(state.sequence);
        let (sequence, sessions, time_us, digest) =
            (state.sequence, state.sessions.clone(), state.time_us, state.digest);
        shared.inbox.push(Event::Input(Input::Applied { sequence, sessions, time_us, digest }));
        let mut status = shared.status();
        status.digest = state.digest;
        status.digest_sequence = state.sequence;
        status.requests_executed += executed;
        for size in applied.batch_sizes {
            let bucket = (usize::BITS - size.leading_zeros()) as usize;
            let last = status.batch_sizes.len() - 1;
            status.batch_sizes[bucket.min(last)] += 1;
        }
    }
}
