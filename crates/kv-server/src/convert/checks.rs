//! The preconditions that several conversions share.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use kv_store::EngineKind;

use super::note::Note;
use super::{Check, ConvertError, failed_to};
use crate::config::Config;
use crate::data_dir::{DataDirError, IDENTITY_FILE, Identity, LOCK_FILE, SPLIT_IDENTITY, read_identity};

pub(super) fn check(what: impl Into<String>, met: bool, obstacle: impl FnOnce() -> String) -> Check {
    Check { what: what.into(), obstacle: (!met).then(obstacle) }
}

/// Whose data a directory holds, and the note of a conversion in it.
///
/// # Errors
/// There is nothing to convert.
pub(super) fn found(root: &Path) -> Result<(Identity, Option<Note>), ConvertError> {
    let refused = |text: String| Err(ConvertError::Refused(text));
    let identity = read_identity(&root.join(IDENTITY_FILE)).map_err(|e| ConvertError::Refused(e.to_string()))?;
    let note = Note::read(root)?;
    match (identity, &note) {
        (Some(identity), _) if identity.recovery().is_some() => {
            refused(DataDirError::BeingRecovered { dir: root.to_path_buf() }.to_string())
        }
        (Some(identity), _) => Ok((identity, note)),
        (None, Some(Note::Split(out))) if root.join(SPLIT_IDENTITY).exists() => refused(format!(
            "data directory {} was split into directories in {}, or is about to be; give --split and --out as before to \
             finish that, and choose the directory of a replica as --data-dir",
            root.display(),
            out.display()
        )),
        _ if !root.exists() => refused(format!(
            "data directory {} does not exist; give the --data-dir of the server whose data is to be converted",
            root.display()
        )),
        _ => refused(format!(
            "{} holds no data of this program (there is no {IDENTITY_FILE}); give the --data-dir of the server whose data \
             is to be converted",
            root.display()
        )),
    }
}

/// No server has the directory open. Only looks: the lock is taken before the first step.
pub(super) fn is_stopped(root: &Path) -> Result<Check, ConvertError> {
    let path = root.join(LOCK_FILE);
    let is_free = match File::options().write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        file => match file.map_err(failed_to("open", &path))?.try_lock() {
            Ok(()) => true,
            Err(fs::TryLockError::WouldBlock) => false,
            Err(fs::TryLockError::Error(error)) => return Err(failed_to("lock", &path)(error)),
        },
    };
    Ok(check("the server is stopped", is_free, || {
        format!("data directory {} is in use by another process: stop that server first", root.display())
    }))
}

pub(super) fn is_on_disk(config: &Config) -> Check {
    check("the databases are on disk", config.storage.engine == EngineKind::RocksDb, || {
        "storage.engine = \"memory\" keeps nothing on disk that could be converted: give the configuration of the server \
         whose data this is"
            .to_string()
    })
}

/// Nothing is where the new form belongs, except what an interrupted conversion has left there.
pub(super) fn is_absent(path: &Path, leftover: Option<&Path>) -> Check {
    let met = leftover == Some(path) || fs::symlink_metadata(path).is_err();
    check(format!("there is no {} yet", path.display()), met, || {
        format!("{} exists, and no conversion has left it there: look what it is, and move it away", path.display())
    })
}

/// The directory is one itself, and no link to another place, which would be left behind.
pub(super) fn is_plain_directory(path: &Path) -> Check {
    let found = fs::symlink_metadata(path);
    let met = found.as_ref().is_ok_and(fs::Metadata::is_dir);
    check(format!("{} is a directory", path.display()), met, || match found {
        Ok(_) => format!(
            "{} is a symbolic link or a file: a conversion works within one directory; move the data to its place first",
            path.display()
        ),
        Err(error) => format!("{} cannot be read: {error}", path.display()),
    })
}
