//! Builds a RocksDB database from a copy: writes its files one after the other, then opens the
//! database and reads all of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use kv_api::KvError;

use super::folder::{Folder, file_error};
use super::{RocksEngine, RocksOptions};
use crate::engine::copy::{Kind, Part, PartsTarget, Receiver};
use crate::engine::{Engine, EngineInstall};

/// A database that is being built from a copy. Dropping it unfinished removes the folder.
pub struct RocksInstall {
    receiver: Receiver<Files>,
    options: RocksOptions,
}

/// The names of the files that have arrived.
struct Files {
    /// Removes the folder on drop, unless it is kept.
    folder: Folder,
    writing: Option<File>,
}

impl RocksInstall {
    /// Begins in the folder `path`, and removes whatever it holds.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(path: &Path, options: RocksOptions) -> Result<Self, KvError> {
        let folder = Folder::new(path);
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(folder.io_error("remove")(error)),
            _ => {}
        }
        fs::create_dir_all(path).map_err(folder.io_error("create"))?;
        folder.remove_when_dropped();
        let receiver = Receiver::new(Kind::RocksFiles, Files { folder, writing: None });
        Ok(RocksInstall { receiver, options })
    }
}

impl PartsTarget for Files {
    fn begin(&mut self, part: &Part) -> Result<(), KvError> {
        let path = self.folder.path().join(&part.name);
        let file = File::create_new(&path).map_err(|error| file_error("create", &path, &error))?;
        self.writing = Some(file);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        let file = self.writing.as_mut().expect("a part was begun");
        file.write_all(bytes).map_err(self.folder.io_error("write a file in"))
    }

    fn end(&mut self) -> Result<(), KvError> {
        let file = self.writing.take().expect("a part was begun");
        file.sync_all().map_err(self.folder.io_error("synchronise a file in"))
    }
}

impl EngineInstall for RocksInstall {
    fn write(&mut self, bytes: &[u8]) -> Result<(), KvError> {
        self.receiver.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<Arc<dyn Engine>, KvError> {
        let Files { folder, .. } = self.receiver.finish()?;
        folder.sync()?;
        let engine = RocksEngine::open(folder.path(), self.options)?;
        // Files that arrived unchanged may have been damaged at their source.
        engine.read_everything()?;
        // A copy that contains a write-ahead log has rows that are in no table yet. The flush also
        // makes what opening wrote survive a crash.
        engine.flush()?;
        folder.sync()?;
        folder.keep();
        Ok(Arc::new(engine))
    }
}
