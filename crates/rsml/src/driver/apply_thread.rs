//! The apply thread: applies all entries that have queued up in one atomic write, and answers the
//! callers that wait for an outcome.

use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use stage_times::{Stage, StageTimes, Worker};

use super::core_lock::CoreLock;
use super::heartbeat::ThreadKind;
use super::sync;
use super::sync::atomic::Ordering;
use super::waiters::{RequestTimes, RequestWaiters};
use super::work::{ApplyWork, Event, Milestones};
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
        core.shared().stages.begin_work(Worker::Apply, sync::now());
        if let Err(error) = apply.perform(work) {
            core.submit(Event::Failed(error.into()));
            return;
        }
        core.shared().beats.waits(ThreadKind::Apply);
        core.shared().stages.end_work(Worker::Apply, sync::now());
    }
}

/// The number of entries in each delivery, and its times.
#[derive(Default)]
struct Deliveries(Vec<(usize, Milestones)>);

impl Deliveries {
    /// The times of each request, given the number of requests in each entry.
    fn of_requests<'a>(&'a self, batch_sizes: &'a [usize]) -> impl Iterator<Item = Milestones> + 'a {
        let entries = self.0.iter().flat_map(|(entries, times)| std::iter::repeat_n(*times, *entries));
        entries.zip(batch_sizes).flat_map(|(times, requests)| std::iter::repeat_n(times, *requests))
    }
}

/// Counts the stages of a request that was applied at `applied`. Each begins where the one before
/// it ended, so together they are the time since the request was taken.
fn observe(stages: &StageTimes, request: RequestTimes, entry: Milestones, applied: StdInstant) {
    let RequestTimes { taken, numbered } = request;
    let logged = entry.logged.max(numbered);
    let delivered = entry.delivered.max(logged);
    let ends = [(Stage::Queue, numbered), (Stage::Order, logged), (Stage::Quorum, delivered), (Stage::Apply, applied)];
    let mut begin = taken;
    for (stage, end) in ends {
        stages.observe(stage, end.saturating_duration_since(begin));
        begin = end;
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
        let (mut entries, mut deliveries) = (Vec::new(), Deliveries::default());
        for item in work {
            match item {
                ApplyWork::Entries(more, times) => {
                    deliveries.0.push((more.len(), times));
                    if entries.is_empty() {
                        entries = more;
                    } else {
                        entries.extend(more);
                    }
                }
                ApplyWork::Switch(generation) => {
                    self.apply(std::mem::take(&mut entries), &std::mem::take(&mut deliveries))?;
                    self.switch_to(generation)?;
                }
            }
        }
        self.apply(entries, &deliveries)?;
        self.check_persisted()
    }

    fn apply(&mut self, entries: Vec<(Sequence, Bytes)>, deliveries: &Deliveries) -> Result<(), ExecutionError> {
        if entries.is_empty() {
            return Ok(());
        }
        let applied = self.applier.apply(entries)?;
        let state = self.applier.state();
        let shared = self.core.shared();
        shared.applied.store(state.sequence.0, Ordering::Release);
        let executed = applied.outcomes.len() as u64;
        let times = deliveries.of_requests(&applied.batch_sizes);
        self.finish_own(applied.outcomes, times, applied.voided);
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
    /// `times` has those of each outcome.
    fn finish_own(
        &self,
        outcomes: Vec<(DiskId, Boot, u64, Bytes)>,
        times: impl Iterator<Item = Milestones>,
        voided: Vec<(DiskId, Boot, u64)>,
    ) {
        let (stages, now) = (&self.core.shared().stages, sync::now());
        let mut waiters = self.core.shared().requests();
        let own = (self.own, waiters.boot());
        let is_own = |disk: DiskId, boot: Boot| (disk, boot) == own;
        let executed = outcomes.into_iter().zip(times).filter(|((disk, boot, ..), _)| is_own(*disk, *boot));
        let mut executed = executed.map(|((_, _, number, outcome), times)| (number, outcome, times)).peekable();
        let finish = |waiters: &mut RequestWaiters, number, outcome, times| {
            if let Some(request) = waiters.finish(number, Some(outcome), now) {
                observe(stages, request, times, now);
            }
        };
        for (_, _, void) in voided.into_iter().filter(|(disk, boot, _)| is_own(*disk, *boot)) {
            while let Some((number, outcome, times)) = executed.next_if(|(number, ..)| *number < void) {
                finish(&mut waiters, number, outcome, times);
            }
            waiters.finish(void, None, now);
        }
        for (number, outcome, times) in executed {
            finish(&mut waiters, number, outcome, times);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_of_a_request_are_together_the_time_since_it_was_taken() {
        let start = StdInstant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // (taken, numbered, logged, delivered): in order; and a request that came while the first
        // entries of its delivery were already logged, or even committed.
        for (taken, numbered, logged, delivered) in [(0, 1, 3, 6), (0, 5, 3, 6), (0, 8, 3, 6)] {
            let times = StageTimes::default();
            let request = RequestTimes { taken: at(taken), numbered: at(numbered) };
            observe(&times, request, Milestones { logged: at(logged), delivered: at(delivered) }, at(10));
            let seen = times.snapshot(at(10));
            let stages = [Stage::Queue, Stage::Order, Stage::Quorum, Stage::Apply];
            assert!(stages.iter().all(|stage| seen.stage(*stage).count() == 1));
            assert_eq!(stages.iter().map(|stage| seen.stage(*stage).sum_ns).sum::<u64>(), 10_000_000);
            assert_eq!(seen.stage(Stage::Queue).mean(), Duration::from_millis(numbered));
        }
    }

    #[test]
    fn each_request_has_the_times_of_its_delivery() {
        let start = StdInstant::now();
        let times = |ms| Milestones { logged: start, delivered: start + Duration::from_millis(ms) };
        let deliveries = Deliveries(vec![(2, times(1)), (1, times(2)), (1, times(3))]);
        let delivered = deliveries.of_requests(&[2, 1, 0, 2]).map(|times| (times.delivered - start).as_millis());
        assert_eq!(delivered.collect::<Vec<_>>(), [1, 1, 1, 3, 3]);
    }
}
