//! The threads of a replica: core, log and apply.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;

use super::heartbeat::ThreadKind;
use super::replica::{ReplicaOptions, Shared};
use super::snapshots::run_snapshots;
use super::sync::atomic::Ordering;
use super::sync::thread::{self, JoinHandle};
use super::{Event, Failure, Storage, sync};
use crate::core::{Input, LogRead};
use crate::{Applier, Boot, DiskId, ExecutionError, ExecutionNotifier, Persist, Sequence, StorageError};

pub enum LogWork {
    Persist(Vec<Persist>),
    Read(LogRead),
    Trim(Sequence),
}

pub enum ApplyWork {
    Entries(Vec<(Sequence, Bytes)>),
    /// Goes on with the database of this generation.
    Switch(u64),
}

pub fn spawn<S: Storage, E: ExecutionNotifier>(
    shared: &Arc<Shared>,
    options: &ReplicaOptions,
    storage: S,
    applier: Applier<E>,
) -> Vec<JoinHandle<()>> {
    let id = options.core.me;
    let disks = DiskQuestions { has_space: options.has_space.clone(), is_roomy: options.is_roomy.clone() };
    let flush_after_bytes = options.flush_after_log_bytes;
    let named = |what: &str| thread::Builder::new().name(format!("rsml-{what}-{id}"));
    let (a, b, c, d) = (shared.clone(), shared.clone(), shared.clone(), shared.clone());
    let snapshots = applier.executor().snapshots();
    [
        named("core").spawn(move || a.run_core()),
        named("log").spawn(move || guard(&b, ThreadKind::Log, || run_log(&b, storage, &disks))),
        named("apply").spawn(move || guard(&c, ThreadKind::Apply, || run_apply(&c, applier, flush_after_bytes))),
        named("snapshot").spawn(move || guard(&d, ThreadKind::Snapshot, || run_snapshots(&d, snapshots))),
    ]
    .into_iter()
    .map(|thread| thread.expect("the system gives a thread"))
    .collect()
}

/// A panic in a thread ends the replica: without that thread it would wait for ever.
fn guard(shared: &Shared, thread: ThreadKind, run: impl FnOnce()) {
    let ended = catch_unwind(AssertUnwindSafe(run));
    shared.beats.has_ended(thread);
    if ended.is_err() {
        shared.bring(Event::Failed(Failure::invariant()));
    }
}

/// When writes that found no space are tried again.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is looked whether there is space.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Makes everything that queued up durable with one synchronisation.
fn run_log(shared: &Shared, storage: impl Storage, disks: &DiskQuestions) {
    let now = sync::now();
    let (waiting, had_space, was_roomy) = (Vec::new(), true, true);
    let mut log = LogThread { shared, storage, waiting, try_at: now, disks, look_at: now, had_space, was_roomy };
    loop {
        let until = if log.waiting.is_empty() { log.look_at } else { log.look_at.min(log.try_at) };
        let Some(work) = shared.log.drain_within(until.saturating_duration_since(sync::now())) else { return };
        shared.beats.works(ThreadKind::Log);
        if let Err(error) = log.carry_out(work) {
            shared.bring(Event::Failed(error.into()));
            return;
        }
        log.look_for_space();
        shared.beats.waits(ThreadKind::Log);
    }
}

/// What the user knows about the disks.
struct DiskQuestions {
    has_space: Arc<dyn Fn() -> bool + Send + Sync>,
    is_roomy: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Each file of the log takes a descriptor as long as it is kept, and a process has few: with more files than these the log
/// is kept for no copy any more.
const MOST_FILES_KEPT: u64 = 256;

struct LogThread<'a, S> {
    shared: &'a Shared,
    storage: S,
    /// Writes that are not durable yet: those just given, behind those that found no space.
    waiting: Vec<Persist>,
    /// When to try again what found no space.
    try_at: Clock,
    disks: &'a DiskQuestions,
    /// When to ask again, and what the core was told last.
    look_at: Clock,
    had_space: bool,
    was_roomy: bool,
}

impl<S: Storage> LogThread<'_, S> {
    fn carry_out(&mut self, work: Vec<LogWork>) -> Result<(), StorageError> {
        let found_no_space = !self.waiting.is_empty();
        let mut reads = Vec::new();
        let mut trim = None;
        for item in work {
            match item {
                LogWork::Persist(more) if self.waiting.is_empty() => self.waiting = more,
                LogWork::Persist(more) => self.waiting.extend(more),
                LogWork::Read(read) => reads.push(read),
                LogWork::Trim(below) => trim = Some(below),
            }
        }
        if !found_no_space || sync::now() >= self.try_at {
            self.persist()?;
        }
        for read in reads {
            let entries = self.storage.read(read.from, read.to, read.max_bytes)?;
            self.shared.bring(Event::Input(Input::LogRead { read, entries }));
        }
        if let Some(below) = trim {
            self.storage.trim(below)?;
            self.shared.status().storage = self.storage.statistics();
            // That may have made space.
            self.try_at = sync::now();
        }
        Ok(())
    }

    /// Tells the core when space runs out, at once where writes wait for it, and when there is some again.
    fn look_for_space(&mut self) {
        let is_blocked = !self.waiting.is_empty();
        let now = sync::now();
        if now < self.look_at && !(is_blocked && self.had_space) {
            return;
        }
        self.look_at = now + LOOK_INTERVAL;
        let has_space = !is_blocked && self.storage.has_space() && (self.disks.has_space)();
        let is_roomy = has_space && self.storage.statistics().files < MOST_FILES_KEPT && (self.disks.is_roomy)();
        self.shared.status().lacks_descriptors = self.storage.lacks_descriptors();
        if is_roomy != self.was_roomy {
            self.was_roomy = is_roomy;
            self.shared.bring(Event::Input(Input::Room(is_roomy)));
        }
        if has_space != self.had_space {
            self.had_space = has_space;
            self.shared.bring(Event::Input(Input::Space(has_space)));
        }
    }

    fn persist(&mut self) -> Result<(), StorageError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let durable = self.storage.persist(&self.waiting)?;
        self.try_at = sync::now() + SPACE_INTERVAL;
        if let Some(last) = self.waiting.drain(..durable).next_back() {
            self.shared.bring(Event::Input(Input::Durable(last.write_id)));
            self.shared.status().storage = self.storage.statistics();
        }
        Ok(())
    }
}

/// How often, at most, the database is asked what it has persisted.
const PERSISTED_INTERVAL: Duration = Duration::from_secs(1);

/// Applies everything that queued up, between two switches of the database in one atomic write.
fn run_apply<E: ExecutionNotifier>(shared: &Shared, applier: Applier<E>, flush_after_bytes: u64) {
    let own = shared.status().core.clone();
    let (persisted_at, own) = (sync::now(), (own.disk_id, own.boot));
    let mut apply = ApplyThread { shared, applier, own, persisted_at, flush_after_bytes, flushed_at_bytes: 0 };
    while let Some(work) = shared.apply.drain() {
        shared.beats.works(ThreadKind::Apply);
        if let Err(error) = apply.carry_out(work) {
            shared.bring(Event::Failed(error.into()));
            return;
        }
        shared.beats.waits(ThreadKind::Apply);
    }
}

struct ApplyThread<'a, E> {
    shared: &'a Shared,
    applier: Applier<E>,
    /// The session of this start.
    own: (DiskId, Boot),
    persisted_at: Clock,
    flush_after_bytes: u64,
    flushed_at_bytes: u64,
}

impl<E: ExecutionNotifier> ApplyThread<'_, E> {
    fn carry_out(&mut self, work: Vec<ApplyWork>) -> Result<(), ExecutionError> {
        let mut entries = Vec::new();
        for item in work {
            match item {
                ApplyWork::Entries(more) if entries.is_empty() => entries = more,
                ApplyWork::Entries(more) => entries.extend(more),
                ApplyWork::Switch(generation) => {
                    self.apply(std::mem::take(&mut entries))?;
                    self.switch_to(generation)?;
                }
            }
        }
        self.apply(entries)?;
        self.look_after_persistence()
    }

    fn apply(&mut self, entries: Vec<(Sequence, Bytes)>) -> Result<(), ExecutionError> {
        if entries.is_empty() {
            return Ok(());
        }
        let applied = self.applier.apply(entries)?;
        let state = self.applier.state();
        self.shared.applied.store(state.sequence.0, Ordering::Release);
        let executed = applied.outcomes.len() as u64;
        self.finish_own(applied.outcomes, applied.voided);
        let mut status = self.shared.status();
        status.requests_executed += executed;
        for size in applied.batch_sizes {
            let bucket = (usize::BITS - size.leading_zeros()) as usize;
            let last = status.batch_sizes.len() - 1;
            status.batch_sizes[bucket.min(last)] += 1;
        }
        drop(status);
        self.tell_applied();
        if !applied.digests.is_empty() {
            self.shared.bring(Event::Input(Input::Digests(applied.digests)));
        }
        Ok(())
    }

    /// Answers who waits here. Executed requests and voids end in the order of their numbers.
    fn finish_own(&self, outcomes: Vec<(DiskId, Boot, u64, Bytes)>, voided: Vec<(DiskId, Boot, u64)>) {
        let executed = outcomes.into_iter().map(|(disk, boot, number, outcome)| (disk, boot, number, Some(outcome)));
        let is_own = |disk: DiskId, boot: Boot| (disk, boot) == self.own;
        let mut executed = executed.filter(|(disk, boot, ..)| is_own(*disk, *boot)).peekable();
        let mut waiters = self.shared.requests();
        for (_, _, void) in voided.into_iter().filter(|(disk, boot, _)| is_own(*disk, *boot)) {
            while let Some((_, _, number, outcome)) = executed.next_if(|(_, _, number, _)| *number < void) {
                waiters.finish(number, outcome);
            }
            waiters.finish(void, None);
        }
        for (_, _, number, outcome) in executed {
            waiters.finish(number, outcome);
        }
    }

    /// The outcomes of own requests that the new database has already seen are not known here.
    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        self.applier.switch_to(generation)?;
        let state = self.applier.state();
        tracing::info!(generation, sequence = state.sequence.0, "a copy of a peer's database has replaced the own one");
        self.shared.applied.store(state.sequence.0, Ordering::Release);
        let own = state.sessions.get(&self.own.0).filter(|session| session.boot == self.own.1);
        if let Some(last) = own.map(|session| session.last) {
            self.shared.requests().lost_through(last);
        }
        self.tell_applied();
        Ok(())
    }

    fn tell_applied(&self) {
        let state = self.applier.state();
        self.shared.reads().applied(state.sequence);
        let (sequence, sessions, time_us, digest) =
            (state.sequence, state.sessions.clone(), state.time_us, state.digest);
        {
            let mut status = self.shared.status();
            status.digest = digest;
            status.digest_sequence = sequence;
        }
        self.shared.bring(Event::Input(Input::Applied { sequence, sessions, time_us, digest }));
    }

    /// Now and then: asks for a flush when the log has grown, and tells what the database has persisted.
    fn look_after_persistence(&mut self) -> Result<(), ExecutionError> {
        if sync::now() - self.persisted_at < PERSISTED_INTERVAL {
            return Ok(());
        }
        self.persisted_at = sync::now();
        let storage = self.shared.status().storage;
        if storage.bytes_written - self.flushed_at_bytes >= self.flush_after_bytes {
            self.flushed_at_bytes = storage.bytes_written;
            self.applier.executor_mut().start_flush();
        }
        let sequence = self.applier.executor().persisted_sequence()?;
        self.shared.bring(Event::Input(Input::Persisted { sequence, log_bytes: storage.bytes_on_disk }));
        Ok(())
    }
}
