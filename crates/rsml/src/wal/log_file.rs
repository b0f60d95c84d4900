//! A file of the log on a real file system: read through the page cache, written past it.
//!
//! A group is whole blocks at a block boundary, so it can go to the device in one direct write that
//! returns when the bytes are durable. The page cache would cost a copy, a second system call and
//! the work of writing its pages back. A file system that refuses direct writes is written through
//! the page cache instead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;

use super::disk::DiskFile;

/// Direct writes want the bytes in memory, the offset and the length on multiples of this; a
/// multiple of the block size of every common device.
pub(super) const DIRECT_ALIGNMENT: usize = 4096;

/// Whether the files of a directory are written past the page cache. Becomes false for all of them
/// when the file system refuses once.
#[derive(Clone, Debug)]
pub(super) struct DirectWrites(Arc<AtomicBool>);

impl DirectWrites {
    pub fn new(are_wanted: bool) -> Self {
        DirectWrites(Arc::new(AtomicBool::new(are_wanted)))
    }

    fn are_possible(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn refused(&self, path: &Path, error: &io::Error) {
        if self.0.swap(false, Ordering::Relaxed) {
            let path = path.display();
            tracing::info!(%path, %error, "the file system refuses direct writes: the log goes through the page cache");
        }
    }
}

/// An open file of the log.
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    possible: DirectWrites,
    /// The same file, opened for direct writes at the first one.
    direct: Mutex<Option<File>>,
}

impl LogFile {
    /// Opens the file as `options` says, which must allow reading and writing.
    pub fn open(options: &OpenOptions, path: PathBuf, possible: DirectWrites) -> io::Result<Self> {
        let file = options.open(&path)?;
        Ok(LogFile { file, path, possible, direct: Mutex::new(None) })
    }

    /// Returns false, with nothing to rely on written, if the page cache must be used.
    fn write_directly(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        if !self.possible.are_possible() || !is_aligned(bytes, offset) {
            return Ok(false);
        }
        let mut direct = self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &*direct {
            Some(file) => file,
            None => match self.open_direct() {
                Ok(file) => direct.insert(file),
                Err(error) if is_refusal(&error) => {
                    self.possible.refused(&self.path, &error);
                    return Ok(false);
                }
                // No descriptor is left, for example: the open file serves as well.
                Err(_) => return Ok(false),
            },
        };
        match file.write_all_at(bytes, offset) {
            Ok(()) => Ok(true),
            Err(error) if is_refusal(&error) => {
                self.possible.refused(&self.path, &error);
                *direct = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn open_direct(&self) -> io::Result<File> {
        let flags = OFlags::DIRECT | OFlags::DSYNC;
        OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&self.path)
    }
}

fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    let starts = [bytes.as_ptr().addr() as u64, bytes.len() as u64, offset];
    starts.iter().all(|number| number.is_multiple_of(DIRECT_ALIGNMENT as u64))
}

/// EINVAL and EOPNOTSUPP: the file system has no direct writes, or wants another alignment.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

impl DiskFile for LogFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.write_directly(bytes, offset)? {
            return Ok(());
        }
        self.write_at(bytes, offset)?;
        self.sync_data()
    }

    fn end_writing(&self) {
        *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// A buffer for direct writes: its bytes begin at a multiple of [`DIRECT_ALIGNMENT`] in memory.
#[derive(Default)]
pub(super) struct DirectBuffer {
    /// The aligned bytes follow `start` others.
    bytes: Vec<u8>,
    start: usize,
}

impl DirectBuffer {
    /// Replaces the contents by the `length` bytes that `fill` appends to the vector it is given,
    /// whose present contents are not its own.
    pub fn refill<T>(&mut self, length: usize, fill: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.bytes.clear();
        self.bytes.reserve(length + DIRECT_ALIGNMENT);
        self.start = self.bytes.as_ptr().align_offset(DIRECT_ALIGNMENT);
        self.bytes.resize(self.start, 0);
        let filled = fill(&mut self.bytes);
        assert_eq!(self.bytes.len(), self.start + length, "a group has another length than was said");
        filled
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Frees what exceeds `kept` bytes of memory.
    pub fn shrink_to(&mut self, kept: usize) {
        self.bytes.clear();
        self.start = 0;
        self.bytes.shrink_to(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path, possible: &DirectWrites) -> LogFile {
        let options = OpenOptions::new().create(true).truncate(true).read(true).write(true).to_owned();
        LogFile::open(&options, directory.join("file"), possible.clone()).unwrap()
    }

    fn block(fill: u8, blocks: usize) -> DirectBuffer {
        let mut buffer = DirectBuffer::default();
        let length = blocks * DIRECT_ALIGNMENT;
        buffer.refill(length, |bytes| bytes.extend(std::iter::repeat_n(fill, length)));
        buffer
    }

    /// What one way of writing left is seen, and overwritten, by the other.
    #[test]
    fn direct_writes_and_the_page_cache_see_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        for is_direct in [true, false] {
            let file = open(directory.path(), &DirectWrites::new(is_direct));
            let read = |offset| {
                let mut bytes = [0; DIRECT_ALIGNMENT];
                file.read_at(&mut bytes, offset).unwrap();
                bytes[0]
            };
            file.write_at(block(1, 4).bytes(), 0).unwrap();
            assert_eq!((read(0), read(4096)), (1, 1));
            file.write_durably(block(2, 2).bytes(), 4096).unwrap();
            assert_eq!([0, 4096, 8192, 12288].map(read), [1, 2, 2, 1]);
            file.write_at(block(3, 1).bytes(), 8192).unwrap();
            file.write_durably(block(4, 1).bytes(), 16384).unwrap();
            assert_eq!([4096, 8192, 12288, 16384].map(read), [2, 3, 1, 4]);
            assert_eq!(file.size().unwrap(), 5 * 4096);
        }
    }

    #[test]
    fn a_file_takes_a_second_descriptor_only_from_the_first_direct_write_to_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let possible = DirectWrites::new(true);
        let file = open(directory.path(), &possible);
        let is_open = || file.direct.lock().unwrap().is_some();
        assert!(!is_open());
        file.write_durably(block(1, 1).bytes(), 0).unwrap();
        assert_eq!(is_open(), possible.are_possible(), "only a refusal keeps it closed");
        file.end_writing();
        assert!(!is_open());
    }

    #[test]
    fn a_direct_write_returns_when_the_device_has_the_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let file = open(directory.path(), &DirectWrites::new(true));
        file.write_durably(block(1, 1).bytes(), 0).unwrap();
        // Closed: this file system refuses direct writes.
        if let Some(direct) = &*file.direct.lock().unwrap() {
            let flags = rustix::fs::fcntl_getfl(direct).unwrap();
            assert!(flags.contains(OFlags::DIRECT | OFlags::DSYNC), "{flags:?}");
        }
    }

    #[test]
    fn what_the_file_system_refuses_to_write_directly_goes_through_the_page_cache() {
        let directory = tempfile::tempdir().unwrap();
        let possible = DirectWrites::new(true);
        let file = open(directory.path(), &possible);
        // Opens for writing like any file, and refuses what is no number as invalid.
        let refusing = OpenOptions::new().write(true).open("/proc/self/oom_score_adj").unwrap();
        *file.direct.lock().unwrap() = Some(refusing);
        for (number, offset) in [(1, 0), (2, 4096)] {
            file.write_durably(block(number, 1).bytes(), offset).unwrap();
            let mut read = [0; DIRECT_ALIGNMENT];
            file.read_at(&mut read, offset).unwrap();
            assert_eq!(read, [number; DIRECT_ALIGNMENT]);
            assert!(!possible.are_possible() && file.direct.lock().unwrap().is_none(), "it is not tried again");
        }
    }

    #[test]
    fn a_buffer_is_aligned_at_every_length() {
        for length in [1, 4095, 4096, 4097, 1 << 20] {
            let mut buffer = DirectBuffer::default();
            buffer.refill(length, |bytes| bytes.resize(bytes.len() + length, 7));
            assert!(buffer.bytes().as_ptr().addr().is_multiple_of(DIRECT_ALIGNMENT));
            assert_eq!(buffer.bytes(), vec![7; length]);
        }
    }

    #[test]
    fn bytes_that_are_not_aligned_go_through_the_page_cache() {
        let directory = tempfile::tempdir().unwrap();
        let file = open(directory.path(), &DirectWrites::new(true));
        file.write_durably(&[1; 100], 10).unwrap();
        file.write_durably(&block(2, 1).bytes()[1..], 4096).unwrap();
        assert!(file.direct.lock().unwrap().is_none());
        let mut read = [0; 100];
        file.read_at(&mut read, 10).unwrap();
        assert_eq!(read, [1; 100]);
    }
}
