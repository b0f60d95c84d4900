//! The data directory of a server that does not run.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::error::RecoverError;
use crate::data_dir::{self, CONVERT_NOTE, DataDirError, IDENTITY_FILE, Identity, LOCK_FILE};
use crate::mode::Mode;
use crate::replication::name_of;

/// A data directory that no server can open meanwhile.
pub(super) struct StoppedDirectory {
    root: PathBuf,
    pub identity: Identity,
    /// The lock lasts while this file is open. `None`: there is no lock file, so no server has ever
    /// opened the directory.
    _lock: Option<File>,
}

impl StoppedDirectory {
    /// Opens the directory without changing anything in it.
    pub fn to_read(root: &Path) -> Result<Self, RecoverError> {
        let lock = match File::open(root.join(LOCK_FILE)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(RecoverError::failed("open the lock of the data directory")(&error)),
        };
        match lock.as_ref().map_or(Ok(()), File::try_lock) {
            Ok(()) => Self::with_lock(root, lock),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { dir: root.to_path_buf() }.into()),
            Err(TryLockError::Error(error)) => Err(RecoverError::failed("lock the data directory")(&error)),
        }
    }

    /// Opens the directory to change it.
    pub fn to_write(root: &Path) -> Result<Self, RecoverError> {
        // Looks first: locking would create the file in any directory.
        let found = Self::to_read(root)?;
        drop(found);
        Self::with_lock(root, Some(data_dir::lock(root)?))
    }

    fn with_lock(root: &Path, lock: Option<File>) -> Result<Self, RecoverError> {
        let identity = data_dir::read_identity(&root.join(IDENTITY_FILE))?.ok_or_else(|| {
            RecoverError::Input(format!(
                "{} is no data directory: there is no {IDENTITY_FILE}; give that of a stopped replica",
                root.display()
            ))
        })?;
        if root.join(CONVERT_NOTE).exists() {
            return Err(RecoverError::Refused(format!(
                "a conversion of {} was interrupted: `synodkv convert` as before finishes it",
                root.display()
            )));
        }
        Ok(StoppedDirectory { root: root.to_path_buf(), identity, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The replica that is meant: `wanted`, or the only one.
    pub fn choose(&self, wanted: Option<u32>) -> Result<u32, RecoverError> {
        let dir = self.root.display();
        if self.identity.mode == Mode::Standalone {
            return Err(RecoverError::Input(format!(
                "{dir} belongs to a standalone server, which has no quorum to lose; start it, or restore its backup"
            )));
        }
        let ids = &self.identity.replicas;
        let names = || ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        match (wanted, ids.as_slice()) {
            (Some(id), _) if ids.contains(&id) => Ok(id),
            (Some(id), _) => Err(RecoverError::Input(format!("{dir} holds no replica {id}: it holds {}", names()))),
            (None, [id]) => Ok(*id),
            (None, _) => Err(RecoverError::Input(format!("{dir} holds replicas {}: choose one, --replica N", names()))),
        }
    }

    pub fn replica(&self, id: u32) -> PathBuf {
        self.root.join(format!("replica-{id}"))
    }

    pub fn log(&self, id: u32) -> PathBuf {
        self.replica(id).join("wal")
    }

    pub fn database(&self, id: u32, generation: u64) -> PathBuf {
        self.replica(id).join(name_of(generation))
    }

    /// Changes the identity in one step, durably.
    pub fn write_identity(&mut self, identity: Identity) -> Result<(), RecoverError> {
        data_dir::write_identity(&self.root, &identity)?;
        self.identity = identity;
        Ok(())
    }

    /// Keeps the present identity under another name as well.
    pub fn keep_identity(&self, name: &str) -> Result<(), RecoverError> {
        let failed = RecoverError::failed("keep the former identity");
        fs::copy(self.root.join(IDENTITY_FILE), self.root.join(name)).map_err(|error| failed(&error))?;
        sync(&self.root.join(name))
    }
}

/// Makes a file, or the entries of a directory, survive a crash.
pub(super) fn sync(path: &Path) -> Result<(), RecoverError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| RecoverError::Failed(format!("cannot synchronise {}: {error}", path.display())))
}
