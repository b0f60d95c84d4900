//! The file operations that the log is built on, and their implementation for a directory of real
//! files.
//!
//! There are few of them, so that a simulated disk can replace a real one in tests (see
//! [`super::SimulatedDisk`]).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::log_file::{DirectWrites, LogFile};
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

/// A directory of the file system. It is locked while this value exists: two writers would destroy
/// the log.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    /// Kept open, so that syncing the directory works even if no file descriptor is free.
    handle: File,
    direct_writes: DirectWrites,
    /// The lock lasts while this file is open.
    _lock: File,
}

impl FileDisk {
    const LOCK: &str = "LOCK";

    /// Locks the directory against other processes, and creates it if it does not exist. With
    /// `writes_directly`, durable writes go past the page cache where the file system allows it.
    ///
    /// # Errors
    /// The directory cannot be created or opened, or another process uses it.
    pub fn open(directory: &Path, writes_directly: bool) -> Result<Self, StorageError> {
        let error = |what, error| failure(what, directory.display().to_string(), error);
        fs::create_dir_all(directory).map_err(|e| error("creating the directory", e))?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(|e| error("syncing the parent directory", e))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(Self::LOCK))
            .map_err(|e| error("opening the lock file", e))?;
        match lock.try_lock() {
            Ok(()) => {
                let handle = File::open(directory).map_err(|e| error("opening the directory", e))?;
                let direct_writes = DirectWrites::new(writes_directly);
                Ok(FileDisk { directory: directory.to_owned(), handle, direct_writes, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => {
                Err(error("locking", io::Error::other("the log is in use by another process")))
            }
            Err(TryLockError::Error(e)) => Err(error("locking", e)),
        }
    }
}

impl FileDisk {
    fn open_file(&self, name: &str, options: &mut OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        let options = options.read(true).write(true);
        Ok(Box::new(LogFile::open(options, self.directory.join(name), self.direct_writes.clone())?))
    }
}

impl Disk for FileDisk {
    fn describe(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        // The log has no file whose name is not UTF-8.
        let names =
            fs::read_dir(&self.directory)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open_file(name, OpenOptions::new().create(true).truncate(true))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open_file(name, &mut OpenOptions::new())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
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
