//! The data directory: its layout, its identity, and the lock that lets only one process open it.
//!
//! ```text
//! <data_dir>/lock                 held while a process has the directory open
//! <data_dir>/identity.json        whose data this is: mode, replicas, cluster id, format
//! <data_dir>/db                   the database (standalone)
//! <data_dir>/replica-<id>/db…     a replica's databases (replicated; as many as this process runs), see `ReplicaDatabases`
//! <data_dir>/replica-<id>/wal     a replica's log
//! ```
//!
//! The identity is written before any data, atomically and durably. It never changes, except that
//! the cluster id is added once the cluster has been bootstrapped, by a conversion (`convert`), whose
//! last step it is, and by a recovery from the loss of a quorum (`recover`). A restore from a backup
//! (`restore`) writes it last. A directory can be opened only
//! with its own identity. A new directory is claimed only after everything else that may refuse a
//! start, so that a failed start leaves no trace.
//!
//! If the directory is removed under a running process, or its volume is unmounted, writes still
//! succeed because the files are open. [`DataDir::check_presence`] detects this.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::directory_id::DirectoryId;
use crate::mode::Mode;

mod identity;

use identity::{FORMAT, IDENTITY_DRAFT};
pub(crate) use identity::{Identity, read_identity, write_identity};

/// Access for the owner alone.
const PRIVATE: u32 = 0o700;
pub(crate) const LOCK_FILE: &str = "lock";
pub(crate) const IDENTITY_FILE: &str = "identity.json";
/// The note of a conversion that has begun (`convert`).
pub(crate) const CONVERT_NOTE: &str = "convert.json";
/// Where a restore builds what it restores (`restore`).
pub(crate) const RESTORING: &str = "restoring";
/// What is left of the identity of a directory whose replicas were moved into directories of their
/// own.
pub(crate) const SPLIT_IDENTITY: &str = "identity.json.split";

/// Why a data directory cannot be used. Each message says what the user can do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data directory {dir} is in use by another process; stop that one, or choose another --data-dir")]
    InUse { dir: PathBuf },
    #[error(
        "data directory {dir} belongs to {found}; this is {wanted}; start it with the right mode ({flags}), or choose another \
         --data-dir"
    )]
    BelongsToAnother { dir: PathBuf, found: String, wanted: String, flags: String },
    #[error(
        "data directory {dir} belongs to cluster {found}, and the others are of cluster {wanted}; choose another --data-dir"
    )]
    OtherCluster { dir: PathBuf, found: String, wanted: String },
    #[error(
        "data directory {dir} has format {found}, and this program knows formats up to {FORMAT}; use a newer program"
    )]
    NewerFormat { dir: PathBuf, found: u32 },
    #[error(
        "data directory {dir} holds other files (`{entry}`) and no data of this program; choose an empty or new --data-dir"
    )]
    NotOurs { dir: PathBuf, entry: String },
    #[error(
        "data directory {dir} was split into one for each replica, or is about to be: `synodkv convert --split` with the \
         same --out finishes that, or says where the replicas are; choose the directory of a replica as --data-dir"
    )]
    Split { dir: PathBuf },
    #[error(
        "a recovery of data directory {dir} has begun and not ended: `synodkv recover apply --data-dir {dir}` with the same \
         plan finishes it"
    )]
    BeingRecovered { dir: PathBuf },
    #[error(
        "a restore into data directory {dir} has begun and not ended: the same `synodkv restore` begins it again, or remove the \
         directory"
    )]
    BeingRestored { dir: PathBuf },
    #[error("{path} is damaged: {reason}; restore it, or choose another --data-dir")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} is {found}, and a directory is needed there; remove it, or choose another --data-dir")]
    NotADirectory { path: PathBuf, found: String },
    #[error(
        "{path} is a symbolic link to {target}, and there is nothing there: is a volume not mounted? Create the target, or \
         choose another --data-dir"
    )]
    DanglingLink { path: PathBuf, target: PathBuf },
    #[error(
        "{path} is gone: the data directory was removed, or its volume was unmounted, while this process was using it. Written \
         data is still in the open files, and is lost when they are closed"
    )]
    Gone { path: PathBuf },
    #[error(
        "data directory: cannot {action} {path}: {source}; look at its owner and permissions, or choose another --data-dir"
    )]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// An open data directory. Dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    identity: Mutex<Identity>,
    /// Whether the directory has no identity yet.
    is_new: bool,
    /// The identities of the root and the lock file when this process opened them.
    opened: [(PathBuf, DirectoryId); 2],
    /// The system holds the lock as long as this file is open, and releases it if the process dies.
    _lock: File,
}

impl DataDir {
    /// Opens or creates the directory for a standalone server (`replicas` empty) or for these
    /// replicas. A new directory gets its identity only when it is claimed.
    pub fn open(root: &Path, mode: Mode, replicas: &[u32]) -> Result<DataDir, DataDirError> {
        Self::open_for(root, Identity::new(mode, replicas, None))
    }

    fn open_for(root: &Path, wanted: Identity) -> Result<DataDir, DataDirError> {
        make_directory(root)?;
        let lock = lock(root)?;
        let opened = [
            (root.to_path_buf(), DirectoryId::of(root).map_err(io_error("look at", root))?),
            (root.join(LOCK_FILE), DirectoryId::of_metadata(&lock.metadata().map_err(io_error("look at", root))?)),
        ];
        let found = read_identity(&root.join(IDENTITY_FILE))?;
        let is_new = found.is_none();
        if !is_new && root.join(CONVERT_NOTE).exists() {
            tracing::warn!(
                "a conversion of {} was interrupted, and has left files: `synodkv convert` as before finishes it",
                root.display()
            );
        }
        let identity = match found {
            Some(found) if found.recovery.is_some() => {
                return Err(DataDirError::BeingRecovered { dir: root.to_path_buf() });
            }
            Some(found) if found.is_of_same_use(&wanted) => found,
            Some(found) => {
                let (flags, found, wanted) = (found.flags(), found.describe(), wanted.describe());
                return Err(DataDirError::BelongsToAnother { dir: root.to_path_buf(), found, wanted, flags });
            }
            None if root.join(SPLIT_IDENTITY).exists() => {
                return Err(DataDirError::Split { dir: root.to_path_buf() });
            }
            None if root.join(RESTORING).exists() => {
                return Err(DataDirError::BeingRestored { dir: root.to_path_buf() });
            }
            None => {
                refuse_foreign_files(root)?;
                wanted
            }
        };
        Ok(DataDir { root: root.to_path_buf(), identity: Mutex::new(identity), is_new, opened, _lock: lock })
    }

    /// Gives the directory another identity, in one step: from then on it is opened in that mode
    /// and for those replicas only. Everything that these need must be there, durably.
    pub(crate) fn convert(&self, other: Identity) -> Result<(), DataDirError> {
        let mut identity = self.identity.lock().expect("no code panics while holding this lock");
        write_identity(&self.root, &other)?;
        *identity = other;
        Ok(())
    }

    /// Opens the directory for a server. If an earlier start in this process had it open, it must
    /// still be the same directory. Otherwise an empty directory in its place, as under an
    /// unmounted volume, would be taken for a new one.
    pub(crate) fn open_expecting(config: &Config, mode: Mode, replicas: &[u32]) -> Result<DataDir, DataDirError> {
        let root = &config.storage.data_dir;
        if let Some(expected) = config.same_data_dir {
            let found = DirectoryId::of(root);
            match found {
                Ok(found) if found == expected => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("look at", root)(error)),
                _ => return Err(DataDirError::Gone { path: root.clone() }),
            }
        }
        let wanted = Identity::new(mode, replicas, None);
        DataDir::open_for(root, if config.replication.witness { wanted.into_witness() } else { wanted })
    }

    /// Whether the directory has no identity yet.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Writes the identity of a new directory. Call this before anything else is written to it.
    pub fn claim(&self) -> Result<(), DataDirError> {
        match self.is_new {
            true => write_identity(&self.root, &self.identity.lock().expect("no code panics while holding this lock")),
            false => Ok(()),
        }
    }

    /// Whether the directory and its lock file are still where they were.
    ///
    /// # Errors
    /// [`DataDirError::Gone`] if something else is there, or nothing. Failing to look proves
    /// nothing and is not an error here.
    pub fn check_presence(&self) -> Result<(), DataDirError> {
        for (path, opened) in &self.opened {
            let is_gone = match DirectoryId::of(path) {
                Ok(found) => found != *opened,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if is_gone {
                return Err(DataDirError::Gone { path: path.clone() });
            }
        }
        Ok(())
    }

    /// The path of the directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database of a standalone server.
    pub fn database(&self) -> PathBuf {
        self.root.join("db")
    }

    /// The directory of a replica, which holds all its data.
    pub fn replica(&self, id: u32) -> PathBuf {
        self.root.join(format!("replica-{id}"))
    }

    /// The directory of a replica's log.
    pub fn replica_wal(&self, id: u32) -> PathBuf {
        self.replica(id).join("wal")
    }

    /// The id of the cluster; `None` until it has been bootstrapped, and always in standalone mode.
    pub fn cluster_id(&self) -> Option<String> {
        self.identity.lock().expect("no code panics while holding this lock").cluster_id.clone()
    }

    /// Stores the cluster id permanently. The same id again changes nothing; a different one is an
    /// error.
    pub fn remember_cluster_id(&self, cluster_id: &str) -> Result<(), DataDirError> {
        let mut identity = self.identity.lock().expect("no code panics while holding this lock");
        match &identity.cluster_id {
            Some(found) if found == cluster_id => Ok(()),
            Some(found) => Err(DataDirError::OtherCluster {
                dir: self.root.clone(),
                found: found.clone(),
                wanted: cluster_id.to_string(),
            }),
            None => {
                let with_id = Identity { cluster_id: Some(cluster_id.to_string()), ..identity.clone() };
                write_identity(&self.root, &with_id)?;
                *identity = with_id;
                Ok(())
            }
        }
    }
}

/// Creates a directory and its ancestors so that they survive a loss of power. If it is new, only its
/// owner may look into it. The error names the path that failed.
pub(crate) fn make_directory(path: &Path) -> Result<(), DataDirError> {
    let above: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    let made = above.iter().take_while(|path| !path.exists()).count();
    let Err(error) = create_private(path) else {
        // Existing directories may be those of a process that was killed before it synced them, so
        // they are synced, too. A directory that this process may not open was created by somebody
        // else.
        return above.into_iter().enumerate().try_for_each(|(place, path)| match sync_entry(path) {
            Err(error) if place >= made && cannot_be_asked(&error) => Ok(()),
            synchronised => synchronised,
        });
    };
    // From the top, so that the error names the cause and not a consequence.
    for path in above.into_iter().rev() {
        let Ok(found) = fs::symlink_metadata(path) else { continue };
        if found.is_dir() || path.is_dir() {
            continue;
        }
        let path = path.to_path_buf();
        return Err(match fs::read_link(&path) {
            Ok(target) if !path.exists() => DataDirError::DanglingLink { path, target },
            Ok(target) => DataDirError::NotADirectory {
                found: format!("a symbolic link to {}, which is no directory", target.display()),
                path,
            },
            Err(_) => DataDirError::NotADirectory { path, found: name_of_kind(found.file_type()).to_string() },
        });
    }
    Err(io_error("create", path)(error))
}

/// The rows are nobody else's business. An existing directory keeps its mode, and so do new ancestors,
/// which others may need.
fn create_private(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created,
    }
}

/// Syncs the parent directory, so that the entry of `path` in it survives a loss of power.
fn sync_entry(path: &Path) -> Result<(), DataDirError> {
    let Some(above) = path.parent() else { return Ok(()) };
    // The parent of a path with one component is the working directory.
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    File::open(above).and_then(|above| above.sync_all()).map_err(io_error("synchronise", above))
}

/// Whether the file system or its permissions leave no way to sync a directory.
fn cannot_be_asked(error: &DataDirError) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    let DataDirError::Io { source, .. } = error else { return false };
    matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported)
}

fn name_of_kind(kind: fs::FileType) -> &'static str {
    match () {
        () if kind.is_file() => "a file",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () => "no directory",
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_path_buf();
    move |source| DataDirError::Io { action, path, source }
}

/// How long to try for the lock. The system releases the lock of a killed process only after it has
/// torn it down, and a supervisor may start the next process before that.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The lock of the directory, as long as the file is open.
pub(crate) fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse { dir: root.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
    }
}

/// A directory without identity must be practically empty, so that a mistyped path does not fill up
/// with database files.
fn refuse_foreign_files(root: &Path) -> Result<(), DataDirError> {
    for entry in fs::read_dir(root).map_err(io_error("read", root))? {
        let name = entry.map_err(io_error("read", root))?.file_name().to_string_lossy().into_owned();
        let harmless = [LOCK_FILE, IDENTITY_DRAFT, "lost+found"].contains(&name.as_str()) || name.starts_with('.');
        if !harmless {
            return Err(DataDirError::NotOurs { dir: root.to_path_buf(), entry: name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Opens and claims a directory like a server that starts successfully.
    fn claimed(root: &Path, mode: Mode, replicas: &[u32]) -> Result<DataDir, DataDirError> {
        let dir = DataDir::open(root, mode, replicas)?;
        dir.claim().map(|()| dir)
    }

    fn new_root() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_directory_opens_again_with_its_own_identity() {
        let root = new_root();
        let path = root.path().join("nested/data");
        drop(claimed(&path, Mode::Replicated, &[2, 0, 1]).unwrap());
        let again = claimed(&path, Mode::Replicated, &[0, 1, 2]).unwrap();
        assert!(again.replica_wal(2).ends_with("replica-2/wal"));
    }

    #[test]
    fn a_directory_of_a_replica_refuses_a_standalone_server() {
        let root = new_root();
        drop(claimed(root.path(), Mode::Replicated, &[1]).unwrap());
        let message = claimed(root.path(), Mode::Standalone, &[]).unwrap_err().to_string();
        assert!(message.contains("belongs to replica 1 in replicated mode; this is a standalone server"), "{message}");
        assert!(message.contains("--node-id 1") && message.contains("--data-dir"), "{message}");
    }

    #[test]
    fn a_refusal_names_the_flag_that_fits_the_directory() {
        let root = new_root();
        drop(claimed(&root.path().join("all"), Mode::Replicated, &[0, 1, 2]).unwrap());
        drop(claimed(&root.path().join("one"), Mode::Standalone, &[]).unwrap());
        let all = claimed(&root.path().join("all"), Mode::Standalone, &[]).unwrap_err().to_string();
        assert!(all.contains("(--mode replicated, without --node-id)"), "{all}");
        let one = claimed(&root.path().join("one"), Mode::Replicated, &[0]).unwrap_err().to_string();
        assert!(one.contains("(--mode standalone)"), "{one}");
    }

    #[test]
    fn a_directory_of_a_replica_refuses_another_replica() {
        let root = new_root();
        drop(claimed(root.path(), Mode::Replicated, &[1]).unwrap());
        let message = claimed(root.path(), Mode::Replicated, &[0, 1, 2]).unwrap_err().to_string();
        assert!(message.contains("replica 1 in") && message.contains("replicas 0, 1, 2 in one process"), "{message}");
    }

    #[test]
    fn a_directory_is_not_opened_twice_at_a_time() {
        let root = new_root();
        let first = claimed(root.path(), Mode::Standalone, &[]).unwrap();
        let second = claimed(root.path(), Mode::Standalone, &[]).unwrap_err();
        assert!(matches!(second, DataDirError::InUse { .. }), "{second}");
        drop(first);
        claimed(root.path(), Mode::Standalone, &[]).unwrap();
    }

    #[test]
    fn a_new_directory_has_no_identity_until_it_is_claimed() {
        let root = new_root();
        drop(DataDir::open(root.path(), Mode::Replicated, &[1]).unwrap());
        // That start failed, and then the user changed the mode.
        drop(claimed(root.path(), Mode::Standalone, &[]).unwrap());
        let refused = DataDir::open(root.path(), Mode::Replicated, &[1]).unwrap_err();
        assert!(matches!(refused, DataDirError::BelongsToAnother { .. }), "{refused}");
    }

    #[test]
    fn an_obstacle_to_a_directory_is_named() {
        let root = new_root();
        let (link, file, pipe) = (root.path().join("link"), root.path().join("file"), root.path().join("pipe"));
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        fs::write(&file, "x").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for (path, words) in [
            (link.clone(), "link is a symbolic link to /nowhere/at/all, and there is nothing there"),
            (link.join("below"), "link is a symbolic link to /nowhere/at/all"),
            (file.clone(), "file is a file, and a directory is needed there"),
            (file.join("below/it"), "file is a file, and a directory is needed there"),
            (pipe, "pipe is a pipe"),
        ] {
            let message = DataDir::open(&path, Mode::Standalone, &[]).unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("--data-dir"), "{message}");
        }
    }

    #[test]
    fn a_link_to_a_directory_is_as_good_as_the_directory() {
        let (root, target) = (new_root(), new_root());
        let link = root.path().join("link");
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        claimed(&link, Mode::Standalone, &[]).unwrap().check_presence().unwrap();
        assert!(target.path().join(IDENTITY_FILE).exists());
    }

    #[test]
    fn a_directory_that_is_removed_or_replaced_is_noticed() {
        let root = new_root();
        let (path, aside) = (root.path().join("data"), root.path().join("aside"));
        let dir = claimed(&path, Mode::Standalone, &[]).unwrap();
        dir.check_presence().unwrap();
        fs::rename(&path, &aside).unwrap();
        assert!(matches!(dir.check_presence(), Err(DataDirError::Gone { .. })));
        fs::create_dir(&path).unwrap();
        assert!(matches!(dir.check_presence(), Err(DataDirError::Gone { .. })));
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        dir.check_presence().unwrap();
        fs::remove_file(path.join(LOCK_FILE)).unwrap();
        assert!(matches!(dir.check_presence(), Err(DataDirError::Gone { .. })));
    }

    #[test]
    fn only_the_owner_looks_into_a_new_directory_and_an_existing_one_keeps_its_mode() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let root = new_root();
        let path = root.path().join("above/data");
        drop(claimed(&path, Mode::Standalone, &[]).unwrap());
        assert_eq!(mode(&path), PRIVATE);
        fs::create_dir(root.path().join("usual")).unwrap();
        assert_eq!(
            mode(&root.path().join("above")),
            mode(&root.path().join("usual")),
            "others may have something there"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        drop(claimed(&path, Mode::Standalone, &[]).unwrap());
        assert_eq!(mode(&path), 0o750);
        make_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o750);
    }

    #[test]
    fn the_cluster_id_is_remembered_and_never_changed() {
        let root = new_root();
        let dir = claimed(root.path(), Mode::Replicated, &[0]).unwrap();
        assert_eq!(dir.cluster_id(), None);
        dir.remember_cluster_id("c1").unwrap();
        drop(dir);
        let dir = claimed(root.path(), Mode::Replicated, &[0]).unwrap();
        assert_eq!(dir.cluster_id().as_deref(), Some("c1"));
        dir.remember_cluster_id("c1").unwrap();
        assert!(matches!(dir.remember_cluster_id("c2"), Err(DataDirError::OtherCluster { .. })));
    }

    #[test]
    fn a_file_is_refused_as_a_data_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("a file");
        let error = claimed(&file, Mode::Standalone, &[]).expect_err("a file").to_string();
        assert!(error.contains("is a file") && error.contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_directory_with_other_files_is_refused() {
        let root = new_root();
        fs::write(root.path().join("thesis.tex"), "x").unwrap();
        let message = claimed(root.path(), Mode::Standalone, &[]).unwrap_err().to_string();
        assert!(message.contains("thesis.tex"), "{message}");
    }

    #[test]
    fn a_newer_format_and_a_damaged_identity_are_refused() {
        let root = new_root();
        fs::write(root.path().join(IDENTITY_FILE), r#"{"format": 99, "colour": "red"}"#).unwrap();
        let newer = claimed(root.path(), Mode::Standalone, &[]).unwrap_err();
        assert!(matches!(newer, DataDirError::NewerFormat { found: 99, .. }), "{newer}");
        fs::write(root.path().join(IDENTITY_FILE), r#"{"format": 1"#).unwrap();
        let damaged = claimed(root.path(), Mode::Standalone, &[]).unwrap_err();
        assert!(matches!(damaged, DataDirError::Damaged { .. }), "{damaged}");
    }

    /// These files never change once their version is released. A later version adds files of its
    /// own, and a test that reads them.
    const IDENTITIES_1: [(&str, Mode, &[u32], Option<&str>); 3] = [
        (include_str!("fixtures/identity_version_1_standalone.json"), Mode::Standalone, &[], None),
        (include_str!("fixtures/identity_version_1_three_replicas.json"), Mode::Replicated, &[0, 1, 2], None),
        (
            include_str!("fixtures/identity_version_1_one_replica.json"),
            Mode::Replicated,
            &[1],
            Some("00112233445566778899aabbccddeeff"),
        ),
    ];

    #[test]
    fn directories_of_version_1_are_opened_and_written_as_they_were() {
        for (text, mode, replicas, cluster_id) in IDENTITIES_1 {
            let (old, new) = (new_root(), new_root());
            fs::write(old.path().join(IDENTITY_FILE), text).unwrap();
            let found = claimed(old.path(), mode, replicas).unwrap();
            assert_eq!(found.cluster_id().as_deref(), cluster_id);
            let made = claimed(new.path(), mode, replicas).unwrap();
            if let Some(cluster_id) = cluster_id {
                made.remember_cluster_id(cluster_id).unwrap();
            }
            assert_eq!(fs::read_to_string(new.path().join(IDENTITY_FILE)).unwrap(), text, "it is written differently");
        }
    }

    #[test]
    fn fields_of_a_later_identity_are_passed_over_when_the_format_is_known() {
        let root = new_root();
        fs::write(
            root.path().join(IDENTITY_FILE),
            r#"{"format": 1, "mode": "standalone", "replicas": [], "colour": "red"}"#,
        )
        .unwrap();
        claimed(root.path(), Mode::Standalone, &[]).unwrap();
    }
}
