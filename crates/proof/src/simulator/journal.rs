//! The files of a change journal. A crash of the process leaves all that was written; a loss of
//! power leaves what was synchronised, and any part of the rest: files that were created or removed
//! may be there or not, and the end of a file may be cut, zeroed, or back after it was cut off.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kv_store::{JournalFile, JournalOptions, JournalPlace};

use super::random::Random;

/// A journal that may have no more bytes loses files for its size, not for their age alone.
pub const SMALL_BYTES: u64 = 64 << 10;

/// The retention of a process that starts.
pub fn any_retention(random: &mut Random) -> Option<JournalOptions> {
    if random.one_in(12) {
        return None;
    }
    let retention = Duration::from_millis(random.pick(&[200, 5_000, 600_000]));
    Some(JournalOptions { retention, max_bytes: random.pick(&[16 << 10, SMALL_BYTES, 1 << 30, 1 << 30]) })
}

#[derive(Default)]
pub struct SimulatedJournal {
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    present: BTreeMap<u64, Arc<SimulatedFile>>,
    /// Those that would be there after a loss of power.
    synced: BTreeMap<u64, Arc<SimulatedFile>>,
    /// Power was lost since the journal was opened last.
    lost_power: bool,
    /// The oldest version to continue from when it was opened last.
    opened_at: u64,
}

#[derive(Default)]
struct SimulatedFile(Mutex<Content>);

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// So many of them are synchronised.
    synced: usize,
    /// Synchronised bytes that followed those, and were cut off since.
    cut: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a simulation that has failed is over")
}

impl SimulatedJournal {
    pub fn lose_power(&self, random: &mut Random) {
        let mut files = lock(&self.files);
        files.lost_power = true;
        let names: Vec<u64> = files.present.keys().chain(files.synced.keys()).copied().collect();
        for name in names {
            let (present, synced) = (files.present.get(&name).cloned(), files.synced.get(&name).cloned());
            let left = if random.one_in(2) { present } else { synced };
            match &left {
                Some(file) => drop(files.present.insert(name, file.clone())),
                None => drop(files.present.remove(&name)),
            }
            match left {
                Some(file) => drop(files.synced.insert(name, file)),
                None => drop(files.synced.remove(&name)),
            }
        }
        files.present.values().for_each(|file| lock(&file.0).lose_power(random));
    }

    /// The journal is not wanted any more.
    pub fn remove_all(&self) {
        *lock(&self.files) = Files::default();
    }

    /// A database of this version has opened the journal, in which it found files of these `names`.
    /// `oldest`: the version after which changes can be read.
    pub fn opened(&self, names: &[u64], version: u64, oldest: u64) {
        let mut files = lock(&self.files);
        let lost_power = std::mem::replace(&mut files.lost_power, false);
        let whole = names.first().copied().filter(|name| *name <= version).unwrap_or(version);
        match lost_power {
            false => assert_eq!(oldest, whole, "the journal lost changes: files {names:?}, database at {version}"),
            true => assert!(oldest == version || oldest < version && names.contains(&oldest), "{oldest}: {names:?}"),
        }
        files.opened_at = oldest;
    }

    pub fn opened_at(&self) -> u64 {
        lock(&self.files).opened_at
    }
}

impl Content {
    fn lose_power(&mut self, random: &mut Random) {
        if !self.cut.is_empty() && random.one_in(2) {
            self.bytes.truncate(self.synced);
            self.bytes.append(&mut self.cut);
        } else {
            let left = random.between(self.synced as u64, self.bytes.len() as u64) as usize;
            self.bytes.truncate(left);
            let zeroed = random.between(self.synced as u64, left as u64) as usize;
            if random.one_in(3) {
                self.bytes[zeroed..].fill(0);
            }
        }
        (self.synced, self.cut) = (self.bytes.len(), Vec::new());
    }
}

impl JournalPlace for SimulatedJournal {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(lock(&self.files).present.keys().copied().collect())
    }

    fn create(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        let file = Arc::<SimulatedFile>::default();
        lock(&self.files).present.insert(name, file.clone());
        Ok(file)
    }

    fn open(&self, name: u64) -> io::Result<Arc<dyn JournalFile>> {
        let files = lock(&self.files);
        let file = files.present.get(&name).ok_or(ErrorKind::NotFound)?;
        Ok(file.clone())
    }

    fn remove(&self, name: u64) -> io::Result<()> {
        lock(&self.files).present.remove(&name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut files = lock(&self.files);
        files.synced = files.present.clone();
        Ok(())
    }
}

impl JournalFile for SimulatedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.0).bytes.len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let begin = offset as usize;
        let content = lock(&self.0);
        let part = content.bytes.get(begin..begin + length).ok_or(ErrorKind::UnexpectedEof)?;
        Ok(part.to_vec())
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut content = lock(&self.0);
        assert_eq!(offset, content.bytes.len() as u64, "a journal is written at its end");
        content.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let content = &mut *lock(&self.0);
        let length = length as usize;
        if length < content.synced {
            let removed = content.bytes[length..content.synced].to_vec();
            content.cut.splice(..0, removed);
            content.synced = length;
        }
        content.bytes.truncate(length);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let content = &mut *lock(&self.0);
        (content.synced, content.cut) = (content.bytes.len(), Vec::new());
        Ok(())
    }
}
