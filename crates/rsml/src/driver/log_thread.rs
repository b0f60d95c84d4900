//! The log thread: makes all writes that have queued up durable with one sync.

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use stage_times::{Stage, Worker};

use super::core_lock::CoreLock;
use super::heartbeat::ThreadKind;
use super::sync;
use super::work::{Event, LogWork};
use crate::core::Input;
use crate::{Persist, Storage, StorageError};

/// How long to wait before writes that found no space are tried again.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// How often to check whether there is space.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Every file of the log takes a file descriptor, and a process has few. With this many files, the
/// log is no longer kept for a replica that is fetching a copy of the database.
const MAX_FILES_KEPT: u64 = 256;

/// The user's questions about the disks: see [`ReplicaOptions`](super::ReplicaOptions).
pub struct DiskSpace {
    pub has_space: Arc<dyn Fn() -> bool + Send + Sync>,
    pub has_ample_space: Arc<dyn Fn() -> bool + Send + Sync>,
}

pub fn run_log(core: &CoreLock, storage: impl Storage, disks: &DiskSpace) {
    let now = sync::now();
    let (waiting, had_space, had_ample_space) = (Vec::new(), true, true);
    let mut log = LogThread { core, storage, waiting, retry_at: now, disks, check_at: now, had_space, had_ample_space };
    loop {
        let until = if log.waiting.is_empty() { log.check_at } else { log.check_at.min(log.retry_at) };
        let Some(work) = core.shared().log.drain_within(until.saturating_duration_since(sync::now())) else { return };
        core.shared().beats.works(ThreadKind::Log);
        core.shared().stages.begin_work(Worker::Log, sync::now());
        if let Err(error) = log.perform(work) {
            core.submit(Event::Failed(error.into()));
            return;
        }
        log.check_space();
        core.shared().beats.waits(ThreadKind::Log);
        core.shared().stages.end_work(Worker::Log, sync::now());
    }
}

struct LogThread<'a, S> {
    core: &'a CoreLock,
    storage: S,
    /// Writes that are not durable yet: new ones follow those that found no space.
    waiting: Vec<Persist>,
    /// When to retry the writes that found no space.
    retry_at: StdInstant,
    disks: &'a DiskSpace,
    /// When to check for space again.
    check_at: StdInstant,
    /// The last report to the core.
    had_space: bool,
    had_ample_space: bool,
}

impl<S: Storage> LogThread<'_, S> {
    fn perform(&mut self, work: Vec<LogWork>) -> Result<(), StorageError> {
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
        if !found_no_space || sync::now() >= self.retry_at {
            self.persist()?;
        }
        for read in reads {
            let entries = self.storage.read(read.from, read.to, read.max_bytes)?;
            self.core.submit(Event::Input(Input::LogRead { read, entries }));
        }
        if let Some(below) = trim {
            self.storage.trim(below)?;
            self.core.shared().status().storage = self.storage.statistics();
            // The trim may have made space.
            self.retry_at = sync::now();
        }
        Ok(())
    }

    /// Reports to the core when space runs out, and when there is some again. If writes wait for
    /// space, that is reported at once.
    fn check_space(&mut self) {
        let is_blocked = !self.waiting.is_empty();
        let now = sync::now();
        if now < self.check_at && !(is_blocked && self.had_space) {
            return;
        }
        self.check_at = now + CHECK_INTERVAL;
        let has_space = !is_blocked && self.storage.has_space() && (self.disks.has_space)();
        let has_ample_space =
            has_space && self.storage.statistics().files < MAX_FILES_KEPT && (self.disks.has_ample_space)();
        self.core.shared().status().lacks_descriptors = self.storage.lacks_descriptors();
        if has_ample_space != self.had_ample_space {
            self.had_ample_space = has_ample_space;
            self.core.submit(Event::Input(Input::AmpleSpace(has_ample_space)));
        }
        if has_space != self.had_space {
            self.had_space = has_space;
            self.core.submit(Event::Input(Input::Space(has_space)));
        }
    }

    fn persist(&mut self) -> Result<(), StorageError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let begun = sync::now();
        let durable = self.storage.persist(&self.waiting)?;
        let now = sync::now();
        self.retry_at = now + SPACE_INTERVAL;
        if durable > 0 {
            self.core.shared().stages.observe(Stage::LogSync, now.saturating_duration_since(begun));
        }
        if let Some(last) = self.waiting.drain(..durable).next_back() {
            self.core.submit(Event::Input(Input::Durable(last.write_id)));
            self.core.shared().status().storage = self.storage.statistics();
        }
        Ok(())
    }
}
