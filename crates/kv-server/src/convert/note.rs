//! The note that a conversion leaves in the data directory as long as there may be leftovers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ConvertError, failed_to, sync};
use crate::data_dir::{CONVERT_NOTE, Identity};
use crate::mode::Mode;

const DRAFT: &str = "convert.json.new";

/// A conversion that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Note {
    /// Between the standalone form and the one of this replica. The one that the identity does not
    /// name is a leftover.
    Replica(u32),
    /// A split into directories there. Stays for good, to say where the replicas are.
    Split(PathBuf),
}

impl Note {
    pub fn read(root: &Path) -> Result<Option<Note>, ConvertError> {
        let path = root.join(CONVERT_NOTE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(failed_to("read", &path))?,
        };
        let damaged = |error| {
            ConvertError::Failed(format!(
                "{} is damaged: {error}. Look which of `db` and `replica-N` in {} is not the one that identity.json \
                 names, move that away, and remove the file",
                path.display(),
                root.display()
            ))
        };
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Writes a new file and renames it, so that the note exists completely or not at all.
    pub fn write(&self, root: &Path) -> Result<(), ConvertError> {
        let draft = root.join(DRAFT);
        let text = serde_json::to_vec(self).expect("plain fields always serialize");
        let write = || -> io::Result<()> {
            let mut file = File::create(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, root.join(CONVERT_NOTE))
        };
        write().map_err(failed_to("write", &root.join(CONVERT_NOTE)))?;
        sync(root)
    }

    pub fn remove(root: &Path) -> Result<(), ConvertError> {
        let path = root.join(CONVERT_NOTE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(failed_to("remove", &path))?,
        }
        sync(root)
    }

    /// The directory that is a leftover in a data directory of this identity.
    pub fn leftover(&self, root: &Path, identity: &Identity) -> Option<PathBuf> {
        match (self, identity.mode) {
            (Note::Replica(id), Mode::Standalone) => Some(root.join(format!("replica-{id}"))),
            (Note::Replica(_), Mode::Replicated) => Some(root.join("db")),
            (Note::Split(_), _) => None,
        }
    }
}
