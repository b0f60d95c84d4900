//! Segment files: their names, and having one ready before it is needed.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::disk::{Disk, DiskFile, failure};
use crate::StorageError;

const EXTENSION: &str = ".wal";
/// How much is zero-filled between two synchronisations, so that the log's own ones don't wait for a whole segment.
const FILL_BYTES: u64 = 4 << 20;

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
    (file_name(number) == name).then_some(number)
}

/// Prepares segments: in a thread ahead of need, or when they are asked for.
pub(super) struct Preparer {
    disk: Arc<dyn Disk>,
    in_background: bool,
    pending: Option<JoinHandle<Result<SegmentFile, StorageError>>>,
}

impl Preparer {
    pub fn new(disk: Arc<dyn Disk>, in_background: bool) -> Self {
        Preparer { disk, in_background, pending: None }
    }

    /// Begins to prepare the segment that [`Preparer::take`] is to return next.
    pub fn start(&mut self, number: u64, bytes: u64) {
        if !self.in_background || self.pending.is_some() {
            return;
        }
        let disk = self.disk.clone();
        let prepare = move || prepare(&*disk, number, bytes);
        // Without a thread the segment is prepared when it is needed.
        self.pending = thread::Builder::new().name("wal-prepare".to_owned()).spawn(prepare).ok();
    }

    /// The segment with this number, durable and with room for `bytes`.
    pub fn take(&mut self, number: u64, bytes: u64) -> Result<SegmentFile, StorageError> {
        let Some(pending) = self.pending.take() else {
            return prepare(&*self.disk, number, bytes);
        };
        let mut segment = pending.join().expect("preparing a segment doesn't panic")?;
        assert_eq!(segment.number, number, "a segment was prepared out of turn");
        if segment.bytes < bytes {
            fill(&*self.disk, &mut segment, bytes)?;
        }
        Ok(segment)
    }
}

impl Drop for Preparer {
    /// Whoever opens the log next must not meet a thread that still writes.
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let _unused_segment = pending.join();
        }
    }
}

fn prepare(disk: &dyn Disk, number: u64, bytes: u64) -> Result<SegmentFile, StorageError> {
    let name = file_name(number);
    let file = disk.create(&name).map_err(|e| failure("creating a segment", disk.describe(&name), e))?;
    let mut segment = SegmentFile { number, bytes: 0, file };
    fill(disk, &mut segment, bytes)?;
    disk.sync_dir().map_err(|e| failure("synchronising the directory", disk.describe(""), e))?;
    Ok(segment)
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
