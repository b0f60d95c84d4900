//! Engines that no process has open: their records, and further engines from their files.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bytes::Bytes;
use kv_api::KvError;

/// Files of this kind never change once they are written, so they can be shared.
const TABLE_FILE: &str = "sst";
/// RocksDB's messages, and its lock: not part of the data.
const NO_DATA: [&str; 2] = ["LOG", "LOCK"];

/// The meta table of an engine that no process has open. Reading it changes nothing in the folder.
pub(crate) struct StoppedMeta {
    #[cfg(feature = "rocksdb")]
    rocks: super::rocks::StoppedRocks,
}

impl StoppedMeta {
    /// Opens the table of the engine in the folder `path`.
    ///
    /// # Errors
    /// [`KvError::Corruption`] if it is damaged, or there is none; [`KvError::NotSupported`] in a
    /// build without RocksDB; else those of the storage.
    pub fn open(path: &Path) -> Result<StoppedMeta, KvError> {
        #[cfg(feature = "rocksdb")]
        return Ok(StoppedMeta { rocks: super::rocks::StoppedRocks::open(path)? });
        #[cfg(not(feature = "rocksdb"))]
        {
            let _ = path;
            Err(super::without_rocksdb())
        }
    }

    /// The value of a key; `None` if the table has none.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        #[cfg(feature = "rocksdb")]
        return self.rocks.get(key);
        #[cfg(not(feature = "rocksdb"))]
        {
            let _ = key;
            Err(super::without_rocksdb())
        }
    }
}

/// Makes the folder `to`, which must not exist, with a database that is the same as the one in
/// `from` and independent of it. Tables are shared as hard links, so it takes hardly any space or
/// time; where the file system has none, they are copied. It survives a crash once this returns. No
/// process may have the database open.
///
/// # Errors
/// Those of the file system. `to` may be incomplete then.
pub fn link_stopped(from: &Path, to: &Path) -> Result<(), KvError> {
    fs::create_dir(to).map_err(failed("create", to))?;
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let source = entry.map_err(failed("read", from))?.path();
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if NO_DATA.iter().any(|other| name.starts_with(other)) || !source.is_file() {
            continue;
        }
        let target = to.join(&name);
        let is_table = source.extension().is_some_and(|extension| extension == TABLE_FILE);
        if is_table && fs::hard_link(&source, &target).is_ok() {
            continue;
        }
        fs::copy(&source, &target).map_err(failed("copy", &source))?;
        File::open(&target).and_then(|file| file.sync_all()).map_err(failed("synchronise", &target))?;
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for folder in [to, parent] {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("synchronise", folder))?;
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> KvError + use<> {
    let path = path.display().to_string();
    move |error| {
        let text = format!("cannot {action} {path}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull => KvError::StorageFull(text),
            _ => KvError::Storage(text),
        }
    }
}
