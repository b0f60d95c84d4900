//! How long requests spend in each stage of their way, and how busy the threads are that they pass.
//!
//! A [`StageTimes`] belongs to the part that does the work: a replica, a standalone database, a router.
//! To show the figures, take a [`Snapshot`] of each and add them up. All counters only grow.
//!
//! Always: an observation takes two relaxed atomic additions, and no lock or memory. The counters
//! are not read at one moment, so a snapshot may hold a request in one stage and not yet in the
//! next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A stage of a request. Those of a write follow one another without a gap, except for
/// [`Stage::LogSync`] of a replica, which passes while [`Stage::Quorum`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A write waits for its place: in the order of its session, or in a batch.
    Queue,
    /// From there until the entry that holds the write reaches the log of this replica.
    Order,
    /// One durable write of the log. Standalone, the same for each write in the batch.
    LogSync,
    /// From the log until the entry is known to be committed.
    Quorum,
    /// From there until the database has applied it. Standalone: deciding the batch.
    Apply,
    /// From there until the task of the connection has the outcome.
    Reply,
    /// A read waits for its read point.
    ReadPoint,
    /// A read waits for a slot among the long reads.
    ReadQueue,
    /// A read reads rows.
    ReadExecute,
}

impl Stage {
    /// All of them, in the order of a request.
    pub const ALL: [Stage; 9] = [
        Stage::Queue,
        Stage::Order,
        Stage::LogSync,
        Stage::Quorum,
        Stage::Apply,
        Stage::Reply,
        Stage::ReadPoint,
        Stage::ReadQueue,
        Stage::ReadExecute,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Order => "order",
            Stage::LogSync => "log_sync",
            Stage::Quorum => "quorum",
            Stage::Apply => "apply",
            Stage::Reply => "reply",
            Stage::ReadPoint => "read_point",
            Stage::ReadQueue => "read_queue",
            Stage::ReadExecute => "read_execute",
        }
    }
}

/// Upper bounds of the buckets but the last, which has none.
pub const BOUNDS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000];

/// A thread through which every write passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// Writes the log, and waits for the disk.
    Log,
    /// Decides writes and applies them to the database.
    Apply,
}

impl Worker {
    /// Both.
    pub const ALL: [Worker; 2] = [Worker::Log, Worker::Apply];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Worker::Log => "log",
            Worker::Apply => "apply",
        }
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

/// The time that a thread has worked.
#[derive(Debug, Default)]
struct Busy {
    /// Of finished work.
    total_ns: AtomicU64,
    /// When the work under way began, in nanoseconds since the start plus 1; 0 while there is none.
    since_ns: AtomicU64,
}

/// The counters of one owner.
#[derive(Debug)]
pub struct StageTimes {
    started: Instant,
    histograms: [Histogram; Stage::ALL.len()],
    busy: [Busy; Worker::ALL.len()],
}

impl Default for StageTimes {
    fn default() -> Self {
        StageTimes { started: Instant::now(), histograms: Default::default(), busy: Default::default() }
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl StageTimes {
    /// Counts a request that passed a stage.
    pub fn observe(&self, stage: Stage, took: Duration) {
        self.observe_all(stage, took, 1);
    }

    /// Counts `requests` that passed a stage together: each took this time.
    pub fn observe_all(&self, stage: Stage, took: Duration, requests: u64) {
        let took_us = took.as_micros();
        let bucket = BOUNDS_US.iter().position(|bound| took_us <= u128::from(*bound)).unwrap_or(BOUNDS_US.len());
        let histogram = &self.histograms[stage as usize];
        histogram.buckets[bucket].fetch_add(requests, Ordering::Relaxed);
        histogram.sum_ns.fetch_add(ns(took).saturating_mul(requests), Ordering::Relaxed);
    }

    /// The worker begins a piece of work.
    pub fn begin_work(&self, worker: Worker, now: Instant) {
        let since = ns(now.saturating_duration_since(self.started));
        self.busy[worker as usize].since_ns.store(since + 1, Ordering::Relaxed);
    }

    /// The worker has finished it.
    pub fn end_work(&self, worker: Worker, now: Instant) {
        let busy = &self.busy[worker as usize];
        if let Some(since) = busy.since_ns.swap(0, Ordering::Relaxed).checked_sub(1) {
            let now = ns(now.saturating_duration_since(self.started));
            busy.total_ns.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
        }
    }

    /// The counters so far. A worker counts up to `now`, so one that hangs is seen to be busy.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let now = ns(now.saturating_duration_since(self.started));
        let stages = std::array::from_fn(|index| {
            let Histogram { buckets, sum_ns } = &self.histograms[index];
            StageFigures {
                buckets: std::array::from_fn(|bucket| buckets[bucket].load(Ordering::Relaxed)),
                sum_ns: sum_ns.load(Ordering::Relaxed),
            }
        });
        let busy_ns = std::array::from_fn(|index| {
            let Busy { total_ns, since_ns } = &self.busy[index];
            let under_way =
                since_ns.load(Ordering::Relaxed).checked_sub(1).map_or(0, |since| now.saturating_sub(since));
            total_ns.load(Ordering::Relaxed) + under_way
        });
        Snapshot { stages, busy_ns }
    }
}

/// The counters of one stage at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageFigures {
    /// Requests by bucket; not cumulative.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// Time that all of them took.
    pub sum_ns: u64,
}

impl StageFigures {
    /// How many requests passed the stage.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean time; zero if nothing passed.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.count()).unwrap_or(0))
    }
}

/// The counters at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    stages: [StageFigures; Stage::ALL.len()],
    busy_ns: [u64; Worker::ALL.len()],
}

impl Snapshot {
    /// The counters of a stage.
    pub fn stage(&self, stage: Stage) -> &StageFigures {
        &self.stages[stage as usize]
    }

    /// For how long the worker has worked.
    pub fn busy(&self, worker: Worker) -> Duration {
        Duration::from_nanos(self.busy_ns[worker as usize])
    }

    /// Adds the counters of another owner.
    pub fn add(&mut self, other: &Snapshot) {
        self.combine(other, u64::saturating_add);
    }

    /// The counts since an earlier snapshot.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let mut difference = self.clone();
        difference.combine(earlier, u64::saturating_sub);
        difference
    }

    fn combine(&mut self, other: &Snapshot, combined: impl Fn(u64, u64) -> u64) {
        for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
            mine.sum_ns = combined(mine.sum_ns, theirs.sum_ns);
            for (mine, theirs) in mine.buckets.iter_mut().zip(&theirs.buckets) {
                *mine = combined(*mine, *theirs);
            }
        }
        for (mine, theirs) in self.busy_ns.iter_mut().zip(&other.busy_ns) {
            *mine = combined(*mine, *theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let times = StageTimes::default();
        let cases = [(0, 0), (100, 0), (101, 1), (250, 1), (2_500_000, 11), (2_500_001, 12)];
        for (count, (us, bucket)) in (1..).zip(cases) {
            let before = times.snapshot(Instant::now());
            times.observe(Stage::Quorum, Duration::from_micros(us));
            let after = times.snapshot(Instant::now());
            assert_eq!(after.stage(Stage::Quorum).count(), count);
            let new = after.since(&before);
            assert_eq!(new.stage(Stage::Quorum).buckets[bucket], 1, "{us}");
            assert_eq!(new.stage(Stage::Quorum).sum_ns, us * 1000);
        }
        assert_eq!(times.snapshot(Instant::now()).stage(Stage::Apply), &StageFigures::default());
    }

    #[test]
    fn a_batch_counts_once_for_each_of_its_requests_and_owners_add_up() {
        let (one, other) = (StageTimes::default(), StageTimes::default());
        one.observe_all(Stage::Apply, Duration::from_millis(2), 3);
        other.observe(Stage::Apply, Duration::from_millis(6));
        let mut sum = one.snapshot(Instant::now());
        sum.add(&other.snapshot(Instant::now()));
        assert_eq!(sum.stage(Stage::Apply).count(), 4);
        assert_eq!(sum.stage(Stage::Apply).mean(), Duration::from_millis(3));
        assert_eq!(sum.stage(Stage::Queue).mean(), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_hangs_is_busy_until_now() {
        let times = StageTimes::default();
        let start = times.started;
        let at = |ms| start + Duration::from_millis(ms);
        times.begin_work(Worker::Log, at(10));
        times.end_work(Worker::Log, at(15));
        times.end_work(Worker::Log, at(20));
        assert_eq!(times.snapshot(at(100)).busy(Worker::Log), Duration::from_millis(5));
        times.begin_work(Worker::Log, at(100));
        assert_eq!(times.snapshot(at(107)).busy(Worker::Log), Duration::from_millis(12));
        assert_eq!(times.snapshot(at(107)).busy(Worker::Apply), Duration::ZERO);
    }
}
