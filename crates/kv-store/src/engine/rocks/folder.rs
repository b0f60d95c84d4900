//! The folder of a database, and the folders next to it that hold copies.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kv_api::KvError;

/// Separates the name of a database's folder from the number of a copy.
const COPY_MARK: &str = ".copy-";

/// Numbers the copies of this process. Leftovers of earlier processes are removed when a database
/// is opened.
static COPIES: AtomicU64 = AtomicU64::new(1);

pub(super) struct Folder {
    path: PathBuf,
    /// Whether dropping this removes the folder.
    is_doomed: AtomicBool,
}

impl Folder {
    pub fn new(path: &Path) -> Self {
        Folder { path: path.to_owned(), is_doomed: AtomicBool::new(false) }
    }

    /// A folder for a copy of the database, on the same file system. It does not exist yet, and is
    /// removed on drop.
    pub fn for_copy(&self) -> Self {
        let name = self.copy_name(&COPIES.fetch_add(1, Ordering::Relaxed).to_string());
        let folder = Folder::new(&self.path.with_file_name(name));
        folder.remove_when_dropped();
        folder
    }

    fn copy_name(&self, number: &str) -> OsString {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(COPY_MARK);
        name.push(number);
        name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn remove_when_dropped(&self) {
        self.is_doomed.store(true, Ordering::Relaxed);
    }

    pub fn keep(&self) {
        self.is_doomed.store(false, Ordering::Relaxed);
    }

    /// Removes copies that an earlier process left next to the database.
    pub fn remove_leftover_copies(&self) {
        let prefix = self.copy_name("");
        let siblings = self.path.parent().and_then(|parent| fs::read_dir(parent).ok());
        for entry in siblings.into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
                remove(&entry.path());
            }
        }
    }

    /// Whether rows were ever written to files here: there are tables, or a log that is not empty.
    pub fn holds_rows(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.path) else { return false };
        entries.flatten().any(|entry| {
            let path = entry.path();
            let ends_in = |extension: &str| path.extension().is_some_and(|found| found == extension);
            ends_in("sst") || ends_in("log") && entry.metadata().is_ok_and(|file| file.len() > 0)
        })
    }

    /// Makes what was created and removed in the folder, and the folder itself, survive a crash.
    pub fn sync(&self) -> Result<(), KvError> {
        let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all());
        sync(&self.path).map_err(self.io_error("synchronise"))?;
        // A path of one component is relative to the working directory.
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(parent).map_err(self.io_error("synchronise the folder of"))
    }

    pub fn io_error(&self, what: &'static str) -> impl Fn(io::Error) -> KvError + '_ {
        move |error| file_error(what, &self.path, &error)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_doomed.load(Ordering::Relaxed) {
            remove(&self.path);
        }
    }
}

pub(super) fn file_error(what: &str, path: &Path, error: &io::Error) -> KvError {
    let text = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull => KvError::StorageFull(text),
        _ => KvError::Storage(text),
    }
}

/// Removes a folder. If that fails, the next start tries again.
fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove {}; the next start tries again", path.display());
        }
        _ => {}
    }
}
