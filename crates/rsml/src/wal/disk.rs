//! The file operations that the log is built on.
//!
//! There are few of them, so that a simulated disk can replace a real one in tests (see
//! [`super::SimulatedDisk`]).

use std::io;

use crate::StorageError;

/// A flat directory of files.
pub trait Disk: Send + Sync + 'static {
    /// The path of a file for messages; the path of the directory for an empty name.
    fn describe(&self, name: &str) -> String;

    /// The names of all files, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates an empty file. An existing file of that name becomes empty.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file; an error of kind `NotFound` if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all creations and removals so far durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Fills all of `bytes`; an error of kind `UnexpectedEof` if the file ends before that.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`. A write beyond the end extends the file.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all writes to this file so far, and its size, durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Writes all of `bytes` and makes them durable, with the size of the file. Says nothing about
    /// earlier writes: those need a sync of their own.
    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Frees what only writing needs. Nothing is lost if there are more writes after all.
    fn end_writing(&self);

    /// The length of the file in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// The storage error for a failed file operation.
pub(super) fn failure(what: &'static str, path: String, error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path },
        _ if lacks_descriptors(&error) => StorageError::NoDescriptors { path },
        _ => StorageError::Io { what, path, error: error.to_string() },
    }
}

/// ENFILE and EMFILE. The standard library has no names for them; their numbers are the same on
/// every Unix.
const NO_DESCRIPTORS: [i32; 2] = [23, 24];

fn lacks_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| NO_DESCRIPTORS.contains(&code))
}
