//! The files of one side: where they are, what they hold, and which of them is at fault.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One of the files that TLS needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// Certificates of the authorities that sign those of the other side.
    Ca,
    /// This side's certificate, with its chain.
    Certificate,
    /// The private key of the certificate.
    Key,
    /// Lists of revoked certificates.
    Crl,
}

/// A file that cannot be used for TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {reason}", path.display())]
pub struct FileError {
    /// Which of the files.
    pub file: TlsFile,
    /// Its path as configured.
    pub path: PathBuf,
    /// Continues a sentence that begins with the path.
    pub reason: String,
}

/// The bytes of the files, read once.
pub struct Contents(Vec<(TlsFile, PathBuf, Vec<u8>)>);

impl fmt::Debug for Contents {
    /// Names the files only: one of them is a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, path, _)| path)).finish()
    }
}

impl Contents {
    pub(crate) fn read(paths: &[(TlsFile, &Path)]) -> Result<Contents, FileError> {
        let read = |(file, path): &(TlsFile, &Path)| match std::fs::read(path) {
            Ok(bytes) => Ok((*file, path.to_path_buf(), bytes)),
            Err(error) => Err(unreadable(*file, path, &error)),
        };
        Ok(Contents(paths.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// The bytes of a file, if it is one of them.
    pub(crate) fn get(&self, file: TlsFile) -> Option<&[u8]> {
        self.0.iter().find(|(kind, ..)| *kind == file).map(|(.., bytes)| bytes.as_slice())
    }

    pub(crate) fn path(&self, file: TlsFile) -> &Path {
        self.0.iter().find(|(kind, ..)| *kind == file).map_or(Path::new(""), |(_, path, _)| path)
    }

    pub(crate) fn error(&self, file: TlsFile, reason: impl Into<String>) -> FileError {
        FileError { file, path: self.path(file).to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint(self.0.iter().map(|(.., bytes)| xxhash_rust::xxh3::xxh3_128(bytes)).collect())
    }
}

fn unreadable(file: TlsFile, path: &Path, error: &std::io::Error) -> FileError {
    FileError { file, path: path.to_path_buf(), reason: format!("cannot be read: {error}") }
}

/// Distinguishes one state of the files from another without keeping the key in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(Vec<u128>);

/// The state of the files according to the file system: device, inode, length, and when the bytes and the
/// inode were changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamps(Vec<(u64, u64, u64, Duration, Duration)>);

/// A file that was changed this recently may be changed once more without a new time stamp.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

impl Stamps {
    /// Follows symbolic links, because the usual way to replace several files at once is to point a
    /// link at another folder.
    pub fn of(paths: &[(TlsFile, &Path)]) -> Result<Stamps, FileError> {
        let since_epoch = |seconds: i64, nanoseconds: i64| {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
        };
        let stamp = |(file, path): &(TlsFile, &Path)| match std::fs::metadata(path) {
            Ok(found) => Ok((
                found.dev(),
                found.ino(),
                found.size(),
                since_epoch(found.mtime(), found.mtime_nsec()),
                since_epoch(found.ctime(), found.ctime_nsec()),
            )),
            Err(error) => Err(unreadable(*file, path, &error)),
        };
        Ok(Stamps(paths.iter().map(stamp).collect::<Result<_, _>>()?))
    }

    /// Whether equal stamps mean equal files from now on. If the clock was set back, they do not.
    pub fn are_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.iter().all(|(.., modified, changed)| *modified.max(changed) + SETTLED_AFTER < now)
    }
}
