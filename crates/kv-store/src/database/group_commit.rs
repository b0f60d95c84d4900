//! Group commit of a standalone database. One thread takes all waiting commits, decides them as one
//! batch, writes the batch with one sync, and wakes the callers. The next batch gathers during the
//! sync.
//!
//! A commit whose caller gives up before a batch takes it is not executed.
//!
//! The queue is bounded in commits and in bytes. A commit that does not fit is refused at once with
//! [`KvError::Overloaded`].
//!
//! After a failed write the database accepts no more ([`Core::write_failure`]). The commits of the
//! failed batch may turn out to be durable when the database is opened again, so their outcome is
//! unknown; those after it were not tried.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kv_api::{CommitVerdict, KvError, LoggedWrite, TimedWrite};
use stage_times::{Stage, StageTimes, Worker};

use super::core::{Core, writing_stopped};
use super::oneshot::{self, GivenUp};
use super::options::GroupCommitOptions;

/// Bytes that a queued commit is charged in addition to its keys and values.
const COMMIT_OVERHEAD_BYTES: usize = 128;

struct Waiting {
    write: LoggedWrite,
    size_bytes: usize,
    since: Instant,
    reply: Reply,
}

/// A verdict, and since when it is durable.
type Reply = oneshot::Sender<(CommitVerdict, Option<Instant>)>;

/// Dropping it ends the thread after it has committed everything in the queue.
pub(crate) struct GroupCommit {
    options: GroupCommitOptions,
    /// `None` only during the drop.
    queue: Option<mpsc::SyncSender<Waiting>>,
    queued_bytes: Arc<AtomicUsize>,
    busy: Arc<Busy>,
    stages: Arc<StageTimes>,
    thread: Option<JoinHandle<()>>,
}

impl GroupCommit {
    pub fn start(core: Arc<Core>, options: GroupCommitOptions) -> Result<Self, KvError> {
        let (queue, waiting) = mpsc::sync_channel(options.max_queued_commits);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let clock = Clock { stored_us: core.time_us(), since: Instant::now() };
        let (busy, stages) = (Arc::new(Busy::default()), Arc::<StageTimes>::default());
        let committer = Committer {
            core,
            busy: busy.clone(),
            stages: stages.clone(),
            clock,
            waiting,
            queued_bytes: queued_bytes.clone(),
            options,
        };
        let thread = std::thread::Builder::new()
            .name("group-commit".into())
            .spawn(move || committer.run())
            .map_err(|error| KvError::Storage(format!("cannot start the group commit thread: {error}")))?;
        Ok(GroupCommit { options, queue: Some(queue), queued_bytes, busy, stages, thread: Some(thread) })
    }

    /// Queues a commit. Commits are decided in the order of the calls; the future resolves once the
    /// commit is durable.
    pub fn submit(&self, write: LoggedWrite) -> Result<PendingWrite, KvError> {
        let size_bytes = write.size_bytes() + COMMIT_OVERHEAD_BYTES;
        let before = self.queued_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        if before > 0 && before + size_bytes > self.options.max_queued_bytes {
            self.queued_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(KvError::Overloaded(format!("{before} bytes of commits are waiting")));
        }
        let (reply, verdict) = oneshot::channel();
        let queue = self.queue.as_ref().expect("the queue is there until drop");
        queue.try_send(Waiting { write, size_bytes, since: Instant::now(), reply }).map_err(|error| {
            self.queued_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            match error {
                mpsc::TrySendError::Full(_) => {
                    KvError::Overloaded(format!("{} commits are waiting", self.options.max_queued_commits))
                }
                mpsc::TrySendError::Disconnected(_) => KvError::Storage("the group commit thread has ended".into()),
            }
        })?;
        Ok(PendingWrite { verdict, stages: self.stages.clone() })
    }

    /// How long commits spend in each stage.
    pub fn stages(&self) -> &StageTimes {
        &self.stages
    }

    /// How long the thread has worked on its current batch; `None` while it waits for commits.
    pub fn busy_for(&self) -> Option<Duration> {
        self.busy.lasted()
    }

    /// Whether the thread is alive.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

/// When a thread began its current piece of work.
struct Busy {
    started: Instant,
    /// Milliseconds from `started` to the begin of the work, plus 1; 0 while the thread is idle.
    since_ms: AtomicU64,
}

impl Default for Busy {
    fn default() -> Self {
        Busy { started: Instant::now(), since_ms: AtomicU64::new(0) }
    }
}

impl Busy {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        self.since_ms.store(self.now_ms().saturating_add(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.since_ms.store(0, Ordering::Relaxed);
    }

    fn lasted(&self) -> Option<Duration> {
        match self.since_ms.load(Ordering::Relaxed) {
            0 => None,
            since_ms => Some(Duration::from_millis((self.now_ms() + 1).saturating_sub(since_ms))),
        }
    }
}

/// A queued write. Resolves to its verdict once the write is durable.
pub struct PendingWrite {
    verdict: oneshot::Receiver<(CommitVerdict, Option<Instant>)>,
    stages: Arc<StageTimes>,
}

impl PendingWrite {
    /// Stops waiting. [`KvError::Timeout`]: the write will not be executed;
    /// [`KvError::CommitUnknown`]: it may be.
    pub fn give_up(self) -> CommitVerdict {
        match self.verdict.give_up() {
            GivenUp::NotBegun => Err(KvError::Timeout("the deadline passed before the commit began".into())),
            GivenUp::UnderWay => {
                Err(KvError::CommitUnknown("the deadline passed while the commit was being written".into()))
            }
            GivenUp::Done((verdict, _)) => verdict,
        }
    }
}

impl Future for PendingWrite {
    type Output = CommitVerdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CommitVerdict> {
        let ended = || KvError::CommitUnknown("the database stopped before the commit was answered".into());
        let PendingWrite { verdict, stages } = &mut *self;
        Pin::new(verdict).poll(context).map(|answer| {
            let (verdict, durable) = answer.unwrap_or_else(|| (Err(ended()), None));
            if let Some(durable) = durable {
                stages.observe(Stage::Reply, durable.elapsed());
            }
            verdict
        })
    }
}

impl Drop for GroupCommit {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the group commit thread panicked");
        }
    }
}

/// Replicated time of a standalone database: continues from the last stored time at the pace of the
/// monotonic clock.
struct Clock {
    stored_us: u64,
    since: Instant,
}

impl Clock {
    fn at_us(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.since);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.stored_us.saturating_add(elapsed_us)
    }
}

/// The error that the callers of a failed batch get.
fn explain(error: KvError, had_failed: Option<String>) -> KvError {
    match had_failed {
        Some(reason) => KvError::NoPrimary(writing_stopped(&reason)),
        // Corruption is reported this way, too: it may have been found after the write.
        None => KvError::CommitUnknown(format!("{error}; the database has to be opened again")),
    }
}

struct Committer {
    core: Arc<Core>,
    busy: Arc<Busy>,
    stages: Arc<StageTimes>,
    clock: Clock,
    waiting: mpsc::Receiver<Waiting>,
    queued_bytes: Arc<AtomicUsize>,
    options: GroupCommitOptions,
}

impl Committer {
    fn run(self) {
        while let Ok(first) = self.waiting.recv() {
            let (writes, replies) = self.take_batch(first);
            if writes.is_empty() {
                continue;
            }
            let had_failed = self.core.write_failure();
            self.busy.begin();
            let committed = self.commit(&writes);
            self.busy.end();
            match committed {
                Ok((verdicts, durable)) => {
                    let answers = replies.into_iter().zip(verdicts);
                    answers.for_each(|(reply, verdict)| reply.send((verdict, Some(durable))));
                }
                Err(error) => {
                    let error = explain(error, had_failed);
                    replies.into_iter().for_each(|reply| reply.send((Err(error.clone()), None)));
                }
            }
        }
    }

    /// Decides and writes a batch. Returns the verdicts, and since when they are durable.
    fn commit(&self, writes: &[TimedWrite]) -> Result<(Vec<CommitVerdict>, Instant), KvError> {
        let begun = Instant::now();
        self.stages.begin_work(Worker::Apply, begun);
        let prepared = self.core.prepare(writes, None);
        let decided = Instant::now();
        self.stages.end_work(Worker::Apply, decided);
        let batch = prepared?;
        self.stages.begin_work(Worker::Log, decided);
        let written = batch.write(None);
        let durable = Instant::now();
        self.stages.end_work(Worker::Log, durable);
        let verdicts = written?;
        self.stages.observe_all(Stage::Apply, decided - begun, writes.len() as u64);
        self.stages.observe_all(Stage::LogSync, durable - decided, writes.len() as u64);
        Ok((verdicts, durable))
    }

    /// `first` and the commits queued after it, up to the size of a batch.
    fn take_batch(&self, first: Waiting) -> (Vec<TimedWrite>, Vec<Reply>) {
        let now = Instant::now();
        let time_us = self.clock.at_us(now);
        let (mut writes, mut replies) = (Vec::new(), Vec::new());
        let mut batch_bytes = 0;
        let mut next = Some(first);
        while let Some(Waiting { write, size_bytes, since, reply }) = next {
            batch_bytes += size_bytes;
            if reply.begin() {
                self.stages.observe(Stage::Queue, now.saturating_duration_since(since));
                writes.push(TimedWrite { time_us, write });
                replies.push(reply);
            }
            next = if batch_bytes < self.options.max_batch_bytes { self.waiting.try_recv().ok() } else { None };
        }
        self.queued_bytes.fetch_sub(batch_bytes, Ordering::Relaxed);
        (writes, replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_continues_from_the_stored_time() {
        let clock = Clock { stored_us: 1 << 50, since: Instant::now() };
        let first_us = clock.at_us(Instant::now());
        assert!(first_us >= clock.stored_us);
        while clock.at_us(Instant::now()) == first_us {
            std::thread::yield_now();
        }
        assert!(clock.at_us(Instant::now()) > first_us);
    }
}
