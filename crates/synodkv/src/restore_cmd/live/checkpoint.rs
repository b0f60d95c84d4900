//! How far a restore into a live cluster has come, in a file that survives an interruption.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::text::{from_hex, to_hex};

const FORMAT: u32 = 1;

/// The subject of a restore. A checkpoint of another one is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub backup: String,
    pub family: String,
    pub begin: String,
    pub end: String,
    pub remove_prefix: String,
    pub add_prefix: String,
    pub overwrite: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    restore: Record,
    /// The first key of the backup that is not written, in hexadecimal.
    next: Option<String>,
    rows: u64,
    done: bool,
}

pub struct Checkpoint {
    /// `None`: nothing is kept.
    path: Option<PathBuf>,
    document: Document,
    next: Option<Bytes>,
}

impl Checkpoint {
    /// Reads the checkpoint of this restore, if there is one.
    pub fn open(path: Option<&Path>, restore: &Record) -> Result<Checkpoint, Failure> {
        let fresh = Document { format: FORMAT, restore: restore.clone(), next: None, rows: 0, done: false };
        let Some(path) = path else { return Ok(Checkpoint { path: None, document: fresh, next: None }) };
        let shown = path.display();
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Checkpoint { path: Some(path.to_path_buf()), document: fresh, next: None });
            }
            text => text.map_err(|error| Failure::Usage(format!("cannot read the checkpoint {shown}: {error}")))?,
        };
        let wrong = |reason: String| Failure::Usage(format!("{shown} is no checkpoint of a restore: {reason}"));
        let document: Document = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if document.format != FORMAT {
            return Err(wrong(format!("it has format {}, and this is format {FORMAT}", document.format)));
        }
        if document.restore != *restore {
            return Err(Failure::Usage(format!(
                "{shown} is the checkpoint of another restore (another backup, range, prefix, family or --overwrite): give the \
                 same arguments as then, or another file"
            )));
        }
        let next = document.next.as_deref().map(from_hex).transpose().map_err(wrong)?.map(Bytes::from);
        Ok(Checkpoint { path: Some(path.to_path_buf()), document, next })
    }

    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }

    pub fn is_done(&self) -> bool {
        self.document.done
    }

    /// Whether an earlier run may have written something.
    pub fn has_begun(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path.exists())
    }

    /// Rows that are written, by all runs.
    pub fn rows(&self) -> u64 {
        self.document.rows
    }

    pub fn next_or(&self, begin: &Bytes) -> Bytes {
        self.next.clone().unwrap_or_else(|| begin.clone())
    }

    /// Everything before `next` is written.
    pub fn advance(&mut self, next: Bytes, rows: u64) -> Result<(), Failure> {
        self.document.next = Some(to_hex(&next));
        self.document.rows += rows;
        self.next = Some(next);
        self.store()
    }

    pub fn finish(&mut self) -> Result<(), Failure> {
        self.document.done = true;
        self.store()
    }

    /// Notes that something may be written from now on.
    pub fn begin(&mut self) -> Result<(), Failure> {
        if self.has_begun() { Ok(()) } else { self.store() }
    }

    fn store(&self) -> Result<(), Failure> {
        let Some(path) = &self.path else { return Ok(()) };
        let draft = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&draft)?;
            file.write_all(&serde_json::to_vec(&self.document)?)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| Failure::Unsure(format!("cannot write the checkpoint {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            backup: "b".into(),
            family: "default".into(),
            begin: String::new(),
            end: "ff".into(),
            remove_prefix: String::new(),
            add_prefix: String::new(),
            overwrite: false,
        }
    }

    #[test]
    fn progress_is_found_again_by_the_same_restore_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("restore.json");
        let mut first = Checkpoint::open(Some(&path), &record()).unwrap();
        assert!(!first.has_begun());
        first.begin().unwrap();
        first.advance(Bytes::from_static(b"m\0"), 12).unwrap();
        let again = Checkpoint::open(Some(&path), &record()).unwrap();
        assert!(again.has_begun() && !again.is_done());
        assert_eq!((again.next_or(&Bytes::new()), again.rows()), (Bytes::from_static(b"m\0"), 12));
        let other = Record { overwrite: true, ..record() };
        let error = Checkpoint::open(Some(&path), &other).err().unwrap().to_string();
        assert!(error.contains("of another restore"), "{error}");
    }
}
