//! Where the certificates are, and which file is at fault if they cannot be used.

use std::path::{Path, PathBuf};

/// The PEM files of one side of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities; a peer's certificate must be signed by one of them.
    pub ca: PathBuf,
    /// This side's certificate, followed by any intermediate certificates up to the authority.
    pub certificate: PathBuf,
    /// The private key of `certificate`, without a password.
    pub key: PathBuf,
}

/// One of the three files of [`TlsFiles`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// [`TlsFiles::ca`].
    Ca,
    /// [`TlsFiles::certificate`].
    Certificate,
    /// [`TlsFiles::key`].
    Key,
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

impl TlsFiles {
    pub(crate) fn error(&self, file: TlsFile, reason: impl Into<String>) -> FileError {
        let path = match file {
            TlsFile::Ca => &self.ca,
            TlsFile::Certificate => &self.certificate,
            TlsFile::Key => &self.key,
        };
        FileError { file, path: path.clone(), reason: reason.into() }
    }

    pub(crate) fn read(&self) -> Result<Contents, FileError> {
        let read = |file: TlsFile, path: &Path| {
            std::fs::read(path).map_err(|error| self.error(file, format!("cannot be read: {error}")))
        };
        Ok(Contents {
            ca: read(TlsFile::Ca, &self.ca)?,
            certificate: read(TlsFile::Certificate, &self.certificate)?,
            key: read(TlsFile::Key, &self.key)?,
        })
    }
}

/// The bytes of the three files, read once.
pub(crate) struct Contents {
    pub ca: Vec<u8>,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// Distinguishes one state of the files from another without keeping the key in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u128; 3]);

impl Contents {
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint([&self.ca, &self.certificate, &self.key].map(|bytes| xxhash_rust::xxh3::xxh3_128(bytes)))
    }
}
