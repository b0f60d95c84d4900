//! The files of a journal: on disk, or in memory for a database in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The place of a journal's files. Each is named by the version before its first one.
pub trait JournalPlace: Send + Sync + 'static {
    /// The names of all files, in order.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// Creates an empty file, in place of an existing one.
    fn create(&self, name: u64) -> io::Result<Arc<dyn JournalFile>>;
    /// Opens an existing file.
    fn open(&self, name: u64) -> io::Result<Arc<dyn JournalFile>>;
    /// Removes a file, if it exists.
    fn remove(&self, name: u64) -> io::Result<()>;
    /// Makes what was created and removed survive a crash.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a journal. A removed file stays readable while it is open.
pub trait JournalFile: Send + Sync + 'static {
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Reads exactly these bytes.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Writes at its end, which is `offset`.
    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts it to this length.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes its content survive a crash of the machine.
    fn sync(&self) -> io::Result<()>;
}

/// A folder that holds nothing but a journal.
pub struct JournalFolder(PathBuf);

const EXTENSION: &str = "changes";

impl JournalFolder {
    /// The folder need not exist.
    pub fn new(path: PathBuf) -> Self {
        JournalFolder(path)
    }

    /// Removes the folder with everything in it, if it exists.
    pub fn remove_all(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, name: u64) -> PathBuf {
        self.0.join(format!("{name:020}.{EXTENSION}"))
    }
}

impl JournalPlace for JournalFolder {
    fn list(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let is_ours = path.extension().is_some_and(|extension| extension == EXTENSION);
            let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            names.extend(name.filter(|_| is_ours));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        fs::create_dir_all(&self.0)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path(name))?))
    }

    fn remove(&self, name: u64) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match File::open(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            folder => folder?.sync_all(),
        }
    }
}

impl JournalFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Files in memory, which live as long as this or a file is in use.
#[derive(Default)]
pub struct MemoryJournal(Mutex<BTreeMap<u64, Arc<MemoryFile>>>);

/// A file in memory.
#[derive(Default)]
pub struct MemoryFile(Mutex<Vec<u8>>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JournalPlace for MemoryJournal {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(lock(&self.0).keys().copied().collect())
    }

    fn create(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        let file = Arc::<MemoryFile>::default();
        lock(&self.0).insert(name, file.clone());
        Ok(file)
    }

    fn open(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        match lock(&self.0).get(&name) {
            Some(file) => Ok(file.clone()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn remove(&self, name: u64) -> io::Result<()> {
        lock(&self.0).remove(&name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl JournalFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let bytes = lock(&self.0);
        let begin = usize::try_from(offset).map_err(io::Error::other)?;
        let end = begin.checked_add(length).ok_or(ErrorKind::UnexpectedEof)?;
        bytes.get(begin..end).map(<[u8]>::to_vec).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = lock(&self.0);
        content.resize(usize::try_from(offset).map_err(io::Error::other)?, 0);
        content.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        lock(&self.0).resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
