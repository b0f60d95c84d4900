//! Identifies the directory at a path, so that another directory in its place is noticed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

/// The identity of a file or directory: its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryId {
    device: u64,
    inode: u64,
}

impl DirectoryId {
    /// The identity of the file or directory at `path` now.
    pub fn of(path: &Path) -> io::Result<DirectoryId> {
        fs::metadata(path).map(|metadata| DirectoryId::of_metadata(&metadata))
    }

    /// The identity of an open file, from its metadata.
    pub(crate) fn of_metadata(metadata: &fs::Metadata) -> DirectoryId {
        DirectoryId { device: metadata.dev(), inode: metadata.ino() }
    }
}
