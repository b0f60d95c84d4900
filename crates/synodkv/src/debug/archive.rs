//! The archive: a tar file, compressed with zstd.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;

/// The folder in which all files of the archive stand.
const FOLDER: &str = "synodkv-debug";

pub struct Archive {
    path: PathBuf,
    time_s: u64,
    tar: tar::Builder<zstd::Encoder<'static, File>>,
}

impl Archive {
    /// A new file, which only its owner may read.
    pub fn create(path: &Path, time_s: u64) -> Result<Archive, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| failed(path, &error))?;
        let compressed = zstd::Encoder::new(file, 0).map_err(|error| failed(path, &error))?;
        Ok(Archive { path: path.to_path_buf(), time_s, tar: tar::Builder::new(compressed) })
    }

    pub fn add(&mut self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time_s);
        let added = self.tar.append_data(&mut header, format!("{FOLDER}/{name}"), content);
        added.map_err(|error| failed(&self.path, &error))
    }

    pub fn add_json(&mut self, name: &str, document: &Value) -> Result<(), Failure> {
        let text = format!("{document:#}\n");
        self.add(name, text.as_bytes())
    }

    /// Writes what is left. Without this, the archive is cut off.
    pub fn finish(self) -> Result<(), Failure> {
        let Archive { path, tar, .. } = self;
        let finished = tar.into_inner().and_then(zstd::Encoder::finish).and_then(|file| file.sync_all());
        finished.map_err(|error| failed(&path, &error))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}
