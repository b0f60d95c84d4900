//! Segment files: their names, and their preparation ahead of need.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::{Disk, DiskFile, failure};
use super::format::GREATEST;
use super::log_file::DirectBuffer;
use crate::StorageError;

const EXTENSION: &str = ".wal";
/// How many bytes are zero-filled between two syncs, so that a sync of the log never has to wait
/// for a whole segment.
const FILL_BYTES: u64 = 4 << 20;

/// How long the thread waits for space before it tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A file of `bytes` bytes, zero-filled except for the groups written to it.
pub(super) struct SegmentFile {
    pub number: u64,
    pub bytes: u64,
    pub file: Box<dyn DiskFile>,
}

/// The name of the segment file with this number.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}{EXTENSION}")
}

/// The number in a segment's name; `None` for any other file.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (file_name(number) == name && number <= GREATEST).then_some(number)
}

/// Prepares segments: on a thread ahead of need, or on demand. If there is no space it tries again:
/// the thread every second, otherwise on each call.
pub(super) struct Preparer {
    disk: Arc<dyn Disk>,
    in_background: bool,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Preparation>,
}

/// The state that the preparer and its thread share.
#[derive(Default)]
struct Preparation {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The segment that was prepared, or the error.
    outcome: Option<Result<SegmentFile, StorageError>>,
    /// Number and size of a segment for which there was no space or no file descriptor.
    refused: Option<(u64, u64)>,
    lacks_descriptors: bool,
    stops: bool,
}

impl Preparation {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries to prepare a segment. Returns whether there is an outcome; if not, there is no space
    /// now.
    fn prepare(&self, disk: &dyn Disk, number: u64, bytes: u64) -> bool {
        let (prepared, shortage) = match prepare(disk, number, bytes) {
            Ok(Prepared::Done(segment)) => (Some(Ok(segment)), None),
            Ok(Prepared::NotNow(shortage)) => (None, Some(shortage)),
            Err(error) => (Some(Err(error)), None),
        };
        let mut progress = self.progress();
        if let Some(shortage) = &shortage
            && progress.refused.is_none()
        {
            tracing::warn!(
                path = disk.describe(&file_name(number)),
                "writes wait for the next segment of the log: {shortage}"
            );
        }
        progress.lacks_descriptors = matches!(shortage, Some(StorageError::NoDescriptors { .. }));
        progress.refused = shortage.map(|_| (number, bytes));
        progress.outcome = prepared;
        self.changed.notify_all();
        progress.outcome.is_some()
    }

    /// The thread's work: tries until there is an outcome.
    fn prepare_eventually(&self, disk: &dyn Disk, number: u64, bytes: u64) {
        while !self.prepare(disk, number, bytes) {
            let stops = |progress: &mut Progress| !progress.stops;
            let waited = self.changed.wait_timeout_while(self.progress(), RETRY_INTERVAL, stops);
            if waited.unwrap_or_else(PoisonError::into_inner).0.stops {
                return;
            }
        }
    }
}

impl Preparer {
    pub fn new(disk: Arc<dyn Disk>, in_background: bool) -> Self {
        Preparer { disk, in_background, thread: None, shared: Arc::default() }
    }

    /// Starts to prepare the segment that the next [`Preparer::take`] will ask for.
    pub fn start(&mut self, number: u64, bytes: u64) {
        if !self.in_background || self.thread.is_some() || self.shared.progress().outcome.is_some() {
            return;
        }
        let (disk, shared) = (self.disk.clone(), self.shared.clone());
        let prepare = move || shared.prepare_eventually(&*disk, number, bytes);
        // If no thread can be started, the segment is prepared when it is needed.
        self.thread = thread::Builder::new().name("wal-prepare".to_owned()).spawn(prepare).ok();
    }

    /// The segment with this number, durable and at least `bytes` long; `None` if there is no space
    /// for it now.
    pub fn take(&mut self, number: u64, bytes: u64) -> Result<Option<SegmentFile>, StorageError> {
        self.start(number, bytes);
        if self.thread.is_none() && self.shared.progress().outcome.is_none() {
            self.shared.prepare(&*self.disk, number, bytes);
        }
        let waits = |progress: &mut Progress| progress.outcome.is_none() && progress.refused.is_none();
        let progress = self.shared.changed.wait_while(self.shared.progress(), waits);
        let outcome = progress.unwrap_or_else(PoisonError::into_inner).outcome.take();
        let Some(outcome) = outcome else { return Ok(None) };
        self.end_thread();
        let mut segment = outcome?;
        assert_eq!(segment.number, number, "a segment was prepared out of turn");
        if segment.bytes < bytes && or_remove(&*self.disk, number, |disk| fill(disk, &mut segment, bytes))?.is_some() {
            self.shared.progress().refused = Some((number, bytes));
            self.start(number, bytes);
            return Ok(None);
        }
        Ok(Some(segment))
    }

    /// Whether the last attempt to prepare a segment found space. Without a thread, tries again
    /// first.
    pub fn has_space(&self) -> bool {
        let refused = self.shared.progress().refused;
        match refused {
            None => true,
            Some(_) if self.in_background => false,
            Some((number, bytes)) => self.shared.prepare(&*self.disk, number, bytes),
        }
    }

    /// Whether the last attempt to prepare a segment failed for lack of file descriptors.
    pub fn lacks_descriptors(&self) -> bool {
        self.shared.progress().lacks_descriptors
    }

    /// Joins the thread, which ends by itself once there is an outcome.
    fn end_thread(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("preparing a segment doesn't panic");
        }
    }
}

impl Drop for Preparer {
    /// Stops the thread: when the log is opened again, nothing may still write to it.
    fn drop(&mut self) {
        self.shared.progress().stops = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The result of an attempt to prepare a segment.
enum Prepared {
    Done(SegmentFile),
    /// There is a shortage of space or file descriptors.
    NotNow(StorageError),
}

fn prepare(disk: &dyn Disk, number: u64, bytes: u64) -> Result<Prepared, StorageError> {
    let mut prepared = None;
    let mut create = |disk: &dyn Disk| {
        let name = file_name(number);
        let file = disk.create(&name).map_err(|e| failure("creating a segment", disk.describe(&name), e))?;
        let segment = prepared.insert(SegmentFile { number, bytes: 0, file });
        fill(disk, segment, bytes)?;
        disk.sync_dir().map_err(|e| failure("syncing the directory", disk.describe(""), e))
    };
    Ok(match or_remove(disk, number, &mut create)? {
        None => Prepared::Done(prepared.expect("it was created")),
        Some(shortage) => Prepared::NotNow(shortage),
    })
}

/// Does `work` on a segment. Returns the shortage of space or descriptors that it met, if any, and
/// then removes the file: half a segment only takes space from others. If the removal fails, too,
/// the next attempt creates the file again, or recovery removes it, since it is blank.
fn or_remove(
    disk: &dyn Disk,
    number: u64,
    work: impl FnOnce(&dyn Disk) -> Result<(), StorageError>,
) -> Result<Option<StorageError>, StorageError> {
    match work(disk) {
        Ok(()) => Ok(None),
        Err(shortage @ (StorageError::Full { .. } | StorageError::NoDescriptors { .. })) => {
            match disk.remove(&file_name(number)).and_then(|()| disk.sync_dir()) {
                Ok(()) => {}
                // The file was not even created.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%shortage, %error, "cannot remove an unfinished segment of the log"),
            }
            Ok(Some(shortage))
        }
        Err(error) => Err(error),
    }
}

/// Zero-fills the segment up to `bytes`.
fn fill(disk: &dyn Disk, segment: &mut SegmentFile, bytes: u64) -> Result<(), StorageError> {
    let path = || disk.describe(&file_name(segment.number));
    let length = (bytes - segment.bytes).min(FILL_BYTES) as usize;
    let mut zeros = DirectBuffer::default();
    zeros.refill(length, |buffer| buffer.resize(buffer.len() + length, 0));
    let mut at = segment.bytes;
    while at < bytes {
        let length = (bytes - at).min(FILL_BYTES);
        let written = segment.file.write_durably(&zeros.bytes()[..length as usize], at);
        written.map_err(|e| failure("zero-filling a segment", path(), e))?;
        at += length;
    }
    segment.bytes = bytes;
    segment.file.end_writing();
    Ok(())
}
