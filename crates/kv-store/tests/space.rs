//! A disk that is full for a while. Needs the right to mount a small file system: `cargo test … --
//! --ignored`.
#![cfg(feature = "rocksdb")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kv_api::KvError;
use kv_store::{
    Durability, ResourceOptions, RocksEngine, RocksOptions, SharedResources, StateBlob, StoreOptions,
    TransactionalKvDatabase,
};
use support::{commit, set, timeless};

/// A small file system in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size_mib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={size_mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.expect("there is `mount`").success(), "only who may mount can run this test");
        SmallDisk(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn grow(&self, size_mib: u32) {
        let size = format!("remount,size={size_mib}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(self.path()).status().unwrap().success());
    }

    /// What RocksDB reports.
    fn journal(&self) -> String {
        fs::read_to_string(self.path().join("db/LOG")).unwrap()
    }

    /// Takes all the remaining space.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut length = 1 << 20;
        let mut taken = Vec::new();
        while length > 0 {
            taken.resize(taken.len() + length, 7u8);
            if fs::write(&path, &taken).is_err() {
                taken.truncate(taken.len() - length);
                length /= 2;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn open(disk: &SmallDisk) -> Arc<TransactionalKvDatabase> {
    let resources = SharedResources::new(ResourceOptions::default()).unwrap();
    let options = RocksOptions { write_buffer_bytes: 1 << 20, ..RocksOptions::new(Durability::UntilFlush, resources) };
    let engine = RocksEngine::open(disk.path().join("db"), options).unwrap();
    TransactionalKvDatabase::open(Arc::new(engine), StoreOptions::replicated()).unwrap()
}

/// About a kilobyte that cannot be compressed.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + (state >> 33) as u8 % 95)
    };
    (0..1000).map(|_| next()).collect()
}

/// Ends the wait for space also when the test fails.
struct Released<'d>(&'d TransactionalKvDatabase);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.stop_waiting_for_space();
    }
}

fn apply(database: &TransactionalKvDatabase, sequence: u64) -> Result<(), KvError> {
    let row = set(&format!("{sequence:08}"), &noise(sequence));
    let blob = StateBlob { sequence, blob: sequence.to_string().into() };
    database.prepare(&timeless(&[commit([row])]))?.commit(blob).map(drop)
}

/// Applies batches until one fails; sends the sequence of each applied batch.
fn apply_until_failure(database: &TransactionalKvDatabase, applied: &mpsc::Sender<u64>) -> KvError {
    for sequence in 1.. {
        match apply(database, sequence) {
            Ok(()) => drop(applied.send(sequence)),
            Err(error) => return error,
        }
    }
    unreachable!("sequences do not end")
}

/// Waits until nothing was applied for so long that a batch must be waiting for space.
fn wait_for_standstill(applied: &mpsc::Receiver<u64>) -> u64 {
    let mut last = 0;
    while let Ok(sequence) = applied.recv_timeout(Duration::from_secs(3)) {
        last = sequence;
    }
    last
}

#[test]
#[ignore = "mounts a file system, which needs the right to"]
fn applying_waits_while_the_disk_is_full_and_continues_when_there_is_space() {
    let disk = SmallDisk::mount(48);
    let database = open(&disk);
    let ballast = disk.fill();
    let (sender, applied) = mpsc::channel();
    std::thread::scope(|scope| {
        let _released = Released(&database);
        let applying = scope.spawn(|| apply_until_failure(&database, &sender));
        let stuck = wait_for_standstill(&applied);
        assert!(!applying.is_finished());
        // Reads still work.
        assert_eq!(database.hash_rows("", b"", database.applied_version(), u64::MAX).unwrap().count, stuck);
        fs::remove_file(&ballast).unwrap();
        // RocksDB checks every five seconds whether it can resume.
        let next = applied.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("{}", disk.journal()));
        assert_eq!(next, stuck + 1);
        // The disk fills up again; a process that stops does not wait for it.
        let last = wait_for_standstill(&applied).max(next);
        database.stop_waiting_for_space();
        let error = applying.join().unwrap();
        assert!(matches!(error, KvError::StorageFull(_)), "{error}");
        assert_eq!(database.state_blob().unwrap().unwrap().0, last);
    });
    drop(database);
    disk.grow(96);
    // Everything that was flushed is whole batches.
    let database = open(&disk);
    let (sequence, blob) = database.state_blob().unwrap().unwrap();
    assert_eq!(blob, sequence.to_string());
    assert_eq!(database.hash_rows("", b"", database.applied_version(), u64::MAX).unwrap().count, sequence);
}
