//! The garbage collection thread. It runs steps that are small enough not to disturb writers, and
//! has the data table rewritten where that pays.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use kv_api::KvError;

use super::data_compaction::DataCompaction;

/// Entries per step. A step takes about a millisecond, during which nobody writes.
const STEP_ENTRIES: u64 = 2_000;
/// The pause between two steps while garbage is left, so that collecting a large clear takes only
/// part of one processor.
const PAUSE_BETWEEN_STEPS: Duration = Duration::from_millis(2);

/// The pause after an error, which may pass: a lack of file descriptors, for instance.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// The result of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions that the step removed.
    pub removed_versions: u64,
    /// Whether more could be removed now.
    pub more: bool,
}

/// A database, as the thread uses it.
pub(crate) trait Collectable: Send + Sync + 'static {
    /// Removes garbage, looking at about `budget_entries` entries.
    fn collect_garbage(&self, budget_entries: u64) -> Result<Collected, KvError>;

    /// Does one step of rewriting the data table, if that is due; returns whether more is to do.
    /// Writers don't wait for it.
    fn compact(&self, compaction: &mut DataCompaction) -> Result<bool, KvError>;

    /// Whether writing has ended for good.
    fn has_stopped(&self) -> bool;
}

/// The running thread. Dropping it ends the thread after the current step.
pub(crate) struct Collector {
    /// `None` only during the drop.
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
            // Nothing is written any more. The code that found the error has logged it.
            Err(_) if database.has_stopped() => return,
            Err(error) => {
                tracing::warn!(%error, "cannot remove old versions now; retrying later");
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
