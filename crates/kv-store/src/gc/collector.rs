//! A thread that removes what has left the readable window, in steps that are small enough for writers not to notice, and
//! has the data table rewritten where that pays.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use kv_api::KvError;

use super::data_compaction::DataCompaction;

/// Entries per step: about a millisecond, in which nobody writes.
const STEP_ENTRIES: u64 = 2_000;
/// Between two steps while there is more to do, so that a large clear takes no more than a part of one processor.
const PAUSE_BETWEEN_STEPS: Duration = Duration::from_millis(2);

/// What fails may fail for a while only: for want of file descriptors, say.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub removed_versions: u64,
    /// Whether there is more that could be removed now.
    pub more: bool,
}

/// A database as the thread sees it.
pub(crate) trait Collectable: Send + Sync + 'static {
    /// Removes what nobody can ask for any more, looking at `budget_entries` entries or a few dozen more.
    fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError>;

    /// One step of rewriting the data table, if that is due; returns whether there is more to do. Nobody waits for it.
    fn compact(&self, compaction: &mut DataCompaction) -> Result<bool, KvError>;

    /// Whether writing has ended for good.
    fn has_stopped(&self) -> bool;
}

/// Dropping it ends the thread, at the end of a step.
pub(crate) struct Collector {
    /// `None` only while it is being dropped.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub fn start(database: Arc<dyn Collectable>, every: Duration) -> Result<Self, KvError> {
        let (stop, stopped) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("kv-gc".into()).spawn(move || run(&*database, every, &stopped)).map_err(
                |error| KvError::Storage(format!("cannot start the thread that removes old versions: {error}")),
            )?;
        Ok(Collector { stop: Some(stop), thread: Some(thread) })
    }
}

fn run(database: &dyn Collectable, every: Duration, stopped: &mpsc::Receiver<()>) {
    let mut compaction = DataCompaction::default();
    let mut pause = every;
    while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
        let step = database.collect_garbage(STEP_ENTRIES).and_then(|collected| match collected.more {
            true => Ok(PAUSE_BETWEEN_STEPS),
            false => database.compact(&mut compaction).map(|_| every),
        });
        pause = match step {
            Ok(next) => next,
            // Nothing is written any more; whoever noticed has said so.
            Err(_) if database.has_stopped() => return,
            Err(error) => {
                tracing::warn!(%error, "old versions cannot be removed now; it is tried again");
                PAUSE_AFTER_ERROR
            }
        };
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that removes old versions panicked");
        }
    }
}
