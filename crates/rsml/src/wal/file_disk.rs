//! A [`Disk`] over a directory of the file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile, failure};
use super::log_file::{DirectWrites, LogFile};
use crate::StorageError;

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
