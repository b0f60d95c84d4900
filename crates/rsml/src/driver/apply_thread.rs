//! The apply thread: applies all entries that have queued up in one atomic write, and answers the
//! callers that wait for an outcome.

use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;

use super::core_lock::CoreLock;
use super::heartbeat::ThreadKind;
use super::sync;
use super::sync::atomic::Ordering;
use super::work::{ApplyWork, Event};
use crate::core::Input;
use crate::{Applier, Boot, DiskId, ExecutionError, ExecutionNotifier, Sequence};

/// How often the database is asked, at most, which sequence it has persisted.
const PERSISTED_INTERVAL: Duration = Duration::from_secs(1);

pub fn run_apply<E: ExecutionNotifier>(core: &CoreLock, applier: Applier<E>, flush_after_bytes: u64) {
    let own = core.shared().status().core.disk_id;
    let persisted_at = sync::now();
    let mut apply = ApplyThread { core, applier, own, persisted_at, flush_after_bytes, flushed_at_bytes: 0 };
    while let Some(work) = core.shared().apply.drain() {
        core.shared().beats.works(ThreadKind::Apply);
        if let Err(error) = apply.perform(work) {
            core.submit(Event::Failed(error.into()));
            return;
        }
        core.shared().beats.waits(ThreadKind::Apply);
    }
}

struct ApplyThread<'a, E> {
    core: &'a CoreLock,
    applier: Applier<E>,
    /// The disk of this replica's sessions.
    own: DiskId,
    persisted_at: StdInstant,
    flush_after_bytes: u64,
    flushed_at_bytes: u64,
}

impl<E: ExecutionNotifier> ApplyThread<'_, E> {
    /// Applies all entries between two switches of the database in one atomic write.
    fn perform(&mut self, work: Vec<ApplyWork>) -> Result<(), ExecutionError> {
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
        self.check_persisted()
    }

    fn apply(&mut self, entries: Vec<(Sequence, Bytes)>) -> Result<(), ExecutionError> {
        if entries.is_empty() {
            return Ok(());
        }
        let applied = self.applier.apply(entries)?;
        let state = self.applier.state();
        let shared = self.core.shared();
        shared.applied.store(state.sequence.0, Ordering::Release);
        let executed = applied.outcomes.len() as u64;
        self.finish_own(applied.outcomes, applied.voided);
        let mut status = shared.status();
        status.requests_executed += executed;
        for size in applied.batch_sizes {
            let bucket = (usize::BITS - size.leading_zeros()) as usize;
            let last = status.batch_sizes.len() - 1;
            status.batch_sizes[bucket.min(last)] += 1;
        }
        drop(status);
        self.report_applied();
        if !applied.digests.is_empty() {
            self.core.submit(Event::Input(Input::Digests(applied.digests)));
        }
        Ok(())
    }

    /// Answers the callers whose requests belong to this replica's session. Executed requests and
    /// voids are answered in the order of their numbers.
    fn finish_own(&self, outcomes: Vec<(DiskId, Boot, u64, Bytes)>, voided: Vec<(DiskId, Boot, u64)>) {
        let executed = outcomes.into_iter().map(|(disk, boot, number, outcome)| (disk, boot, number, Some(outcome)));
        let mut waiters = self.core.shared().requests();
        let own = (self.own, waiters.boot());
        let is_own = |disk: DiskId, boot: Boot| (disk, boot) == own;
        let mut executed = executed.filter(|(disk, boot, ..)| is_own(*disk, *boot)).peekable();
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

    /// Continues with a database that was copied from a peer. This replica does not know the
    /// outcomes of its own requests that are already executed in that database.
    fn switch_to(&mut self, generation: u64) -> Result<(), ExecutionError> {
        self.applier.switch_to(generation)?;
        let state = self.applier.state();
        tracing::info!(generation, sequence = state.sequence.0, "switched to a copy of a peer's database");
        self.core.shared().applied.store(state.sequence.0, Ordering::Release);
        let mut waiters = self.core.shared().requests();
        let own = state.sessions.get(&self.own).filter(|session| session.boot == waiters.boot());
        if let Some(last) = own.map(|session| session.last) {
            waiters.lost_through(last);
        }
        drop(waiters);
        self.report_applied();
        Ok(())
    }

    fn report_applied(&self) {
        let state = self.applier.state();
        self.core.shared().reads().applied(state.sequence);
        self.core.shared().level.store(state.feature_level.0, Ordering::Release);
        {
            let mut status = self.core.shared().status();
            status.digest = state.digest;
            status.digest_sequence = state.sequence;
        }
        self.core.submit(Event::Input(Input::applied(state)));
    }

    /// From time to time: starts a flush if the log has grown much, and reports which sequence the
    /// database has persisted.
    fn check_persisted(&mut self) -> Result<(), ExecutionError> {
        if sync::now() - self.persisted_at < PERSISTED_INTERVAL {
            return Ok(());
        }
        self.persisted_at = sync::now();
        let storage = self.core.shared().status().storage;
        if storage.bytes_written - self.flushed_at_bytes >= self.flush_after_bytes {
            self.flushed_at_bytes = storage.bytes_written;
            self.applier.executor_mut().start_flush();
        }
        let sequence = self.applier.executor().persisted_sequence()?;
        self.core.submit(Event::Input(Input::Persisted { sequence, log_bytes: storage.bytes_on_disk }));
        Ok(())
    }
}
