//! Segment files: their names, and having one ready before it is needed, if there is space for it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::{Disk, DiskFile, failure};
use super::format::GREATEST;
use crate::StorageError;

const EXTENSION: &str = ".wal";
/// How much is zero-filled between two synchronisations, so that the log's own ones don't wait for a whole segment.
const FILL_BYTES: u64 = 4 << 20;

/// How long the thread waits before it looks again whether there is space.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A file that holds `bytes` bytes, zero-filled where no group was written.
pub(super) struct SegmentFile {
    pub number: u64,
    pub bytes: u64,
    pub file: Box<dyn DiskFile>,
}

pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}{EXTENSION}")
}

/// The number in a segment's name; `None` for any other file.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(EXTENSION)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (file_name(number) == name && number <= GREATEST).then_some(number)
}

/// Prepares segments: in a thread ahead of need, or when they are asked for. Where there is no space it tries again: the
/// thread by itself every second, otherwise whenever somebody asks.
pub(super) struct Preparer {
    disk: Arc<dyn Disk>,
    in_background: bool,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The segment that was prepared, or why there is none.
    outcome: Option<Result<SegmentFile, StorageError>>,
    /// Number and size of a segment for which there was no space, or no descriptor.
    refused: Option<(u64, u64)>,
    lacks_descriptors: bool,
    stops: bool,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares a segment if there is space; true when that has an outcome.
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

    /// What the thread does.
    fn prepare_in_the_end(&self, disk: &dyn Disk, number: u64, bytes: u64) {
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

    /// Begins to prepare the segment that [`Preparer::take`] is to return next.
    pub fn start(&mut self, number: u64, bytes: u64) {
        if !self.in_background || self.thread.is_some() || self.shared.progress().outcome.is_some() {
            return;
        }
        let (disk, shared) = (self.disk.clone(), self.shared.clone());
        let prepare = move || shared.prepare_in_the_end(&*disk, number, bytes);
        // Without a thread the segment is prepared when it is needed.
        self.thread = thread::Builder::new().name("wal-prepare".to_owned()).spawn(prepare).ok();
    }

    /// The segment with this number, durable and with room for `bytes`; `None` when there is no space for it.
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

    /// False when the last segment that was to be prepared found no space.
    pub fn has_space(&self) -> bool {
        let refused = self.shared.progress().refused;
        match refused {
            None => true,
            Some(_) if self.in_background => false,
            Some((number, bytes)) => self.shared.prepare(&*self.disk, number, bytes),
        }
    }

    /// Whether it is for want of descriptors that the last segment could not be prepared.
    pub fn lacks_descriptors(&self) -> bool {
        self.shared.progress().lacks_descriptors
    }

    /// The thread ends by itself once it has an outcome.
    fn end_thread(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("preparing a segment doesn't panic");
        }
    }
}

impl Drop for Preparer {
    /// Whoever opens the log next must not meet a thread that still writes.
    fn drop(&mut self) {
        self.shared.progress().stops = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What became of a segment that was to be prepared.
enum Prepared {
    Done(SegmentFile),
    /// For want of space or descriptors.
    NotNow(StorageError),
}

fn prepare(disk: &dyn Disk, number: u64, bytes: u64) -> Result<Prepared, StorageError> {
    let mut prepared = None;
    let mut create = |disk: &dyn Disk| {
        let name = file_name(number);
        let file = disk.create(&name).map_err(|e| failure("creating a segment", disk.describe(&name), e))?;
        let segment = prepared.insert(SegmentFile { number, bytes: 0, file });
        fill(disk, segment, bytes)?;
        disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))
    };
    Ok(match or_remove(disk, number, &mut create)? {
        None => Prepared::Done(prepared.expect("it was created")),
        Some(shortage) => Prepared::NotNow(shortage),
    })
}

/// `None` when that worked, otherwise what is short. The file goes then: half a segment only takes space from others. If even
/// that fails it is made anew the next time, and recovery removes it, blank as it is.
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
                // It was not even created.
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
    let zeros = vec![0; (bytes - segment.bytes).min(FILL_BYTES) as usize];
    let mut at = segment.bytes;
    while at < bytes {
        let length = (bytes - at).min(FILL_BYTES);
        let written = segment.file.write_at(&zeros[..length as usize], at);
        written.map_err(|e| failure("zero-filling a segment", path(), e))?;
        segment.file.sync_data().map_err(|e| failure("synchronising a new segment", path(), e))?;
        at += length;
    }
    segment.bytes = bytes;
    Ok(())
}
