//! No file descriptor is free: operations that need none continue, writes that need one wait, and
//! the shortage is not mistaken for damage.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::wal::{Disk, DiskFile};

const SEGMENT_BYTES: u64 = 16384;
const EMFILE: i32 = 24;

/// A disk that opens no file while no descriptor is free.
#[derive(Clone)]
struct FewDescriptors {
    disk: SimulatedDisk,
    none_is_free: Arc<AtomicBool>,
}

impl FewDescriptors {
    fn new() -> Self {
        FewDescriptors { disk: SimulatedDisk::new(9), none_is_free: Arc::default() }
    }

    fn take(&self) -> io::Result<()> {
        match self.none_is_free.load(Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(EMFILE)),
            false => Ok(()),
        }
    }

    fn set_free(&self, is_free: bool) {
        self.none_is_free.store(!is_free, Ordering::Relaxed);
    }

    fn storage(&self) -> WalStorage {
        WalStorage::over(Arc::new(self.clone()), options(SEGMENT_BYTES))
    }
}

impl Disk for FewDescriptors {
    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.take()?;
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.take()?;
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.take()?;
        self.disk.open(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

fn writes(range: std::ops::RangeInclusive<u64>) -> Vec<Persist> {
    range.map(|number| append(number, number, &entries(number, 1, 3000))).collect()
}

#[test]
fn writes_that_need_another_segment_wait_for_a_descriptor() {
    let disk = FewDescriptors::new();
    let mut storage = disk.storage();
    storage.recover().expect("the first segment is made");
    disk.set_free(false);
    let writes = writes(1..=9);
    let durable = storage.persist(&writes).expect("a shortage is no failure");
    assert!((1..9).contains(&durable), "{durable} writes fit into the first segment");
    assert!(!storage.has_space() && storage.lacks_descriptors());
    disk.set_free(true);
    assert!(storage.has_space() && !storage.lacks_descriptors());
    assert_eq!(storage.persist(&writes[durable..]).expect("one is free"), writes.len() - durable);
    drop(storage);
    disk.disk.crash();
    assert_eq!(recover(&disk.disk, SEGMENT_BYTES).expect("sound").entries, intact(&entries(1, 9, 3000)));
}

#[test]
fn reading_and_trimming_need_no_descriptor() {
    let disk = FewDescriptors::new();
    let mut storage = disk.storage();
    storage.recover().expect("the first segment is made");
    assert_eq!(storage.persist(&writes(1..=9)).expect("some are free"), 9);
    disk.set_free(false);
    let read = storage.read(Sequence(1), Sequence(9), usize::MAX).expect("the files are open");
    assert_eq!(read, entries(1, 9, 3000));
    let before = storage.statistics();
    storage.trim(Sequence(9)).expect("removing needs none");
    assert!(storage.statistics().files < before.files);
    assert_eq!(storage.statistics().files, disk.disk.names().len() as u64);
}

#[test]
fn a_start_without_a_descriptor_reports_the_shortage_and_no_damage() {
    let disk = FewDescriptors::new();
    let mut storage = disk.storage();
    storage.recover().expect("the first segment is made");
    storage.persist(&writes(1..=9)).expect("some are free");
    drop(storage);
    disk.set_free(false);
    let error = disk.storage().recover().expect_err("none is free");
    assert!(matches!(error, StorageError::NoDescriptors { .. }), "{error}");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    disk.set_free(true);
    let recovered = disk.storage().recover().expect("sound");
    assert_eq!((recovered.last, recovered.lost), (Sequence(9), vec![]));
}

/// Some file systems need space to remove a file.
#[test]
fn a_segment_that_cannot_be_removed_now_is_removed_later() {
    let disk = FewDescriptors::new();
    let mut storage = disk.storage();
    storage.recover().expect("the first segment is made");
    storage.persist(&writes(1..=20)).expect("some are free");
    // An earlier attempt removed the segment but could not make that durable.
    let oldest = disk.disk.names().into_iter().min().expect("segments");
    disk.disk.remove(&oldest).expect("it is there");
    storage.trim(Sequence(20)).expect("the segment is gone, as it should be");
    storage.persist(&writes(21..=22)).expect("the log continues");
    assert!(storage.statistics().files < 4);
}
