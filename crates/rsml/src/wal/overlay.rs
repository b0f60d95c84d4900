//! A [`Disk`] over a directory that stays as it is: every change is kept in memory.
//!
//! Recovering a log writes to it. Through an overlay, a log can be read exactly as a start would
//! read it, and nothing on the disk changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};

const BLOCK_BYTES: u64 = 4096;

/// A directory of the file system, seen through changes in memory. It is not locked: the caller
/// makes sure that nobody else writes there.
#[derive(Debug)]
pub struct OverlayDisk {
    directory: PathBuf,
    /// The files that were opened or created, and those that were removed (`None`).
    files: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
}

impl OverlayDisk {
    /// A view of `directory`, which need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        OverlayDisk { directory: directory.into(), files: Mutex::default() }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<OverlayFile>>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored(&self) -> io::Result<Vec<String>> {
        match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default())).collect(),
        }
    }
}

impl Disk for OverlayDisk {
    fn describe(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let files = self.files();
        let untouched = self.stored()?.into_iter().filter(|name| !files.contains_key(name));
        let present = files.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone());
        Ok(untouched.chain(present).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = Arc::new(OverlayFile { base: None, changes: Mutex::default() });
        self.files().insert(name.to_owned(), Some(file.clone()));
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut files = self.files();
        let file = match files.get(name) {
            Some(Some(file)) => file.clone(),
            Some(None) => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let file = Arc::new(OverlayFile::over(&self.directory.join(name))?);
                files.insert(name.to_owned(), Some(file.clone()));
                file
            }
        };
        Ok(Box::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        let exists = match files.get(name) {
            Some(file) => file.is_some(),
            None => self.stored()?.iter().any(|stored| stored == name),
        };
        if !exists {
            return Err(io::ErrorKind::NotFound.into());
        }
        files.insert(name.to_owned(), None);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file, and the blocks of it that were written.
#[derive(Debug)]
struct OverlayFile {
    base: Option<(File, u64)>,
    changes: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    length: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl OverlayFile {
    fn over(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let changes = Mutex::new(Changes { length, blocks: BTreeMap::new() });
        Ok(OverlayFile { base: Some((file, length)), changes })
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the file held at first, with zeros after it.
    fn read_base(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let stored = self.base.as_ref().map_or(0, |(_, length)| length.saturating_sub(offset));
        let (within, beyond) = bytes.split_at_mut(bytes.len().min(usize::try_from(stored).unwrap_or(usize::MAX)));
        beyond.fill(0);
        match &self.base {
            Some((file, _)) if !within.is_empty() => file.read_exact_at(within, offset),
            _ => Ok(()),
        }
    }

    fn is_beyond_base(&self, offset: u64) -> bool {
        self.base.as_ref().is_none_or(|(_, length)| *length <= offset)
    }
}

/// The blocks that `length` bytes from `offset` on touch: the number of each, where these bytes
/// begin in it, and which of the bytes are its own.
fn touched(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let end = offset + length as u64;
    let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
    blocks.map(move |block| {
        let (from, to) = (offset.max(block * BLOCK_BYTES), end.min((block + 1) * BLOCK_BYTES));
        (block, (from - block * BLOCK_BYTES) as usize, (from - offset) as usize..(to - offset) as usize)
    })
}

impl DiskFile for Arc<OverlayFile> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let changes = self.changes();
        if offset + bytes.len() as u64 > changes.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_base(bytes, offset)?;
        for (block, at, range) in touched(offset, bytes.len()) {
            if let Some(changed) = changes.blocks.get(&block) {
                let length = range.len();
                bytes[range].copy_from_slice(&changed[at..at + length]);
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut changes = self.changes();
        for (block, at, range) in touched(offset, bytes.len()) {
            let bytes = &bytes[range];
            let is_changed = changes.blocks.contains_key(&block);
            if !is_changed && self.is_beyond_base(block * BLOCK_BYTES) && bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            if !is_changed {
                let mut content = vec![0; BLOCK_BYTES as usize].into_boxed_slice();
                // A block that can't be read is replaced as a whole, or not at all.
                if bytes.len() < content.len() {
                    self.read_base(&mut content, block * BLOCK_BYTES)?;
                }
                changes.blocks.insert(block, content);
            }
            let content = changes.blocks.get_mut(&block).expect("it was inserted if it was missing");
            content[at..at + bytes.len()].copy_from_slice(bytes);
        }
        changes.length = changes.length.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }

    fn end_writing(&self) {}

    fn size(&self) -> io::Result<u64> {
        Ok(self.changes().length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{WalOptions, WalStorage};
    use crate::{HardState, Persist, Sequence, Storage, View, WriteId};

    fn options() -> WalOptions {
        WalOptions { segment_bytes: 64 << 10, background_preparation: false, ..WalOptions::default() }
    }

    fn write(from: u64, count: u64) -> Persist {
        Persist {
            write_id: WriteId(from),
            hard_state: HardState { promised: View(from), ..HardState::default() },
            base: None,
            from: Sequence(from),
            truncate: false,
            entries: (from..from + count).map(|number| vec![number as u8; 3_000].into()).collect(),
        }
    }

    fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
    }

    /// A log of several segments that ends in the middle of one.
    fn logged() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut log = WalStorage::open(directory.path(), options()).unwrap();
        log.recover().unwrap();
        for group in 0..20 {
            log.persist(&[write(1 + 5 * group, 5)]).unwrap();
        }
        directory
    }

    #[test]
    fn a_log_is_recovered_and_even_written_and_its_files_stay_as_they_are() {
        let directory = logged();
        let newest = files(directory.path()).into_keys().filter(|name| name.ends_with(".wal")).max().unwrap();
        // A torn group: its table is there, and the payload is not.
        let path = directory.path().join(&newest);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end - 9_000..=end].fill(0);
        fs::write(&path, bytes).unwrap();
        let before = files(directory.path());
        let mut overlaid = WalStorage::over(Arc::new(OverlayDisk::new(directory.path())), options());
        let seen = overlaid.recover().unwrap();
        let entries = overlaid.load(Sequence(1)).unwrap();
        let last = seen.last.0;
        overlaid.persist(&[write(last + 1, 40), write(last + 41, 30)]).unwrap();
        let written = overlaid.read(Sequence(last + 50), Sequence(last + 50), 1).unwrap();
        assert_eq!(written, [vec![(last + 50) as u8; 3_000]]);
        overlaid.trim(Sequence(last)).unwrap();
        drop(overlaid);
        assert!(before == files(directory.path()), "the files differ");

        let mut log = WalStorage::open(directory.path(), options()).unwrap();
        assert_eq!(log.recover().unwrap(), seen);
        assert_eq!(log.load(Sequence(1)).unwrap(), entries);
        assert!(last < 100, "nothing was torn");
    }

    #[test]
    fn a_directory_that_does_not_exist_holds_no_log_and_is_not_created() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("wal");
        let mut overlaid = WalStorage::over(Arc::new(OverlayDisk::new(&missing)), options());
        assert_eq!(overlaid.recover().unwrap().hard_state, None);
        assert!(!missing.exists());
    }

    #[test]
    fn bytes_are_those_of_the_file_and_of_the_newest_writes() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), [1; 5_000]).unwrap();
        let disk = OverlayDisk::new(directory.path());
        let file = disk.open("file").unwrap();
        file.write_at(&[2; 100], 4_050).unwrap();
        file.write_at(&[3; 10], 9_000).unwrap();
        let again = disk.open("file").unwrap();
        let mut bytes = vec![9; 9_010];
        again.read_at(&mut bytes, 0).unwrap();
        let expected = [vec![1; 4_050], vec![2; 100], vec![1; 850], vec![0; 4_000], vec![3; 10]].concat();
        assert_eq!(bytes, expected);
        assert_eq!(again.read_at(&mut [0], 9_010).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        disk.remove("file").unwrap();
        assert!(disk.list().unwrap().is_empty() && disk.open("file").is_err() && disk.remove("file").is_err());
        disk.create("file").unwrap();
        assert_eq!((disk.list().unwrap().len(), disk.open("file").unwrap().size().unwrap()), (1, 0));
        assert_eq!(fs::read(directory.path().join("file")).unwrap(), [1; 5_000]);
    }
}
