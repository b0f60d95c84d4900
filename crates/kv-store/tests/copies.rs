//! Databases as streams of bytes, and databases built from them.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kv_api::{KvError, Version};
use kv_store::{DatabaseCopy, Durability, StateBlob, TransactionalKvDatabase};
use support::place::{self, Home};
use support::{apply, apply_one, commit, commit_having_read, delete, in_family, set};

/// Count and hash of all rows of a family at the newest version.
fn rows(database: &TransactionalKvDatabase, family: &str, version: Version) -> (u64, u64) {
    let hashed = database.hash_rows(family, b"", version, u64::MAX).unwrap();
    assert_eq!(hashed.next, None);
    (hashed.count, hashed.hash)
}

/// The whole stream, read in pieces that grow.
fn read_all(copy: &mut DatabaseCopy) -> Vec<u8> {
    let mut row = Vec::new();
    let mut piece = 1;
    while (row.len() as u64) < copy.total_bytes() {
        let left = usize::try_from(copy.total_bytes()).unwrap() - row.len();
        row.extend_from_slice(&copy.read(row.len() as u64, piece.min(left)).unwrap());
        piece = (piece * 2).min(1 << 20);
    }
    row
}

fn install(home: &Home, row: &[u8], piece: usize) -> Result<(Arc<TransactionalKvDatabase>, StateBlob), KvError> {
    let mut install = home.begin_install();
    row.chunks(piece).try_for_each(|bytes| install.write(bytes))?;
    install.finish()
}

/// Rows from several batches, some deleted, in two families; half of the batches are flushed.
fn fill(database: &TransactionalKvDatabase) {
    for i in 0..200 {
        let (key, value) = (format!("key {i:03}"), "v".repeat(i * 7));
        apply_one(database, commit([set(&key, &value), in_family("other", set(&key, "x"))])).unwrap();
        if i == 100 {
            database.flush().unwrap();
        }
    }
    apply(database, &[commit([delete("key 005"), set("key 006", "again")]), commit([])]);
}

fn same(left: &TransactionalKvDatabase, right: &TransactionalKvDatabase) {
    assert_eq!(left.applied_version(), right.applied_version());
    assert_eq!(left.state_blob().unwrap(), right.state_blob().unwrap());
    assert_eq!(left.statistics_now().total_keys, right.statistics_now().total_keys);
    for version in [left.applied_version(), Version(50)] {
        for family in ["", "other"] {
            assert_eq!(rows(left, family, version), rows(right, family, version), "{family} at {version}");
        }
    }
}

#[test]
fn an_installed_copy_is_the_same_database_and_continues_alike() {
    for home in place::homes() {
        let database = home.open();
        fill(&database);
        let mut copy = database.copy().unwrap();
        let row = read_all(&mut copy);
        let other = home.another();
        let (installed, state) = install(&other, &row, 4099).unwrap();
        assert_eq!((state.sequence, &state), (database.state_blob().unwrap().unwrap().0, copy.state()));
        same(&database, &installed);
        // The source remembers recent writes, and the installed database has to look them up: they
        // must decide alike.
        let next = [commit_having_read(&["key 006"], 100, [set("a", "1")]), commit([delete("key 007")])];
        assert_eq!(apply(&database, &next), apply(&installed, &next));
        same(&database, &installed);
    }
}

#[test]
fn an_installed_copy_survives_a_crash_at_once() {
    for home in place::homes() {
        let database = home.open();
        fill(&database);
        let row = read_all(&mut database.copy().unwrap());
        let mut other = home.another();
        let (installed, state) = install(&other, &row, 1 << 16).unwrap();
        assert_eq!(installed.persisted_sequence().unwrap(), state.sequence);
        other.crash(installed);
        same(&database, &other.open());
    }
}

#[test]
fn a_copy_made_while_batches_are_applied_is_of_one_moment() {
    for home in place::homes() {
        let database = home.open();
        apply_one(&database, commit([set("left", "0"), set("right", "0")])).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _done = SetWhenDropped(&done);
            scope.spawn(|| {
                for i in 1.. {
                    let value = i.to_string();
                    let filler = format!("filler {:05}", i % 3000);
                    apply_one(&database, commit([set("left", &value), set(&filler, &value), set("right", &value)]))
                        .unwrap();
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            for _ in 0..5 {
                let before = database.state_blob().unwrap().unwrap().0;
                let mut copy = database.copy().unwrap();
                let row = read_all(&mut copy);
                let (installed, state) = install(&home.another(), &row, 1 << 16).unwrap();
                assert_eq!(&state, copy.state());
                assert!(state.sequence >= before, "{} {before}", state.sequence);
                // Each batch has one commit: its version is one more than its sequence.
                let version = Version(state.sequence + 1);
                assert_eq!(installed.applied_version(), version);
                // The copy may contain a batch that readers don't see yet.
                while database.applied_version() < version {
                    std::thread::yield_now();
                }
                for family in ["", "other"] {
                    assert_eq!(rows(&installed, family, version), rows(&database, family, version));
                }
                assert_eq!(installed.statistics_now().total_keys, rows(&installed, "", version).0);
            }
        });
    }
}

/// Releases the waiting writes also when the test fails.
struct SetWhenDropped<'d>(&'d AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_stays_as_it_was_and_can_be_read_again_from_anywhere() {
    for home in place::homes() {
        let database = home.open();
        fill(&database);
        let mut copy = database.copy().unwrap();
        let row = read_all(&mut copy);
        fill(&database);
        database.flush().unwrap();
        assert_eq!(read_all(&mut copy), row);
        let middle = row.len() / 2;
        assert_eq!(copy.read(middle as u64, row.len() - middle).unwrap(), row[middle..]);
        assert_eq!(copy.read(row.len() as u64, 0).unwrap(), Bytes::new());
        assert!(copy.read(middle as u64, row.len()).is_err());
    }
}

#[test]
fn a_copy_of_a_small_database_outlives_it() {
    for home in place::homes() {
        let database = home.open();
        apply_one(&database, commit([set("a", "1")])).unwrap();
        let mut copy = database.copy().unwrap();
        database.remove_when_closed();
        drop(database);
        let (installed, _) = install(&home.another(), &read_all(&mut copy), 100).unwrap();
        assert_eq!(rows(&installed, "", Version(2)).0, 1);
    }
}

#[test]
fn a_database_without_a_state_blob_is_not_copied() {
    for home in place::homes() {
        assert!(matches!(home.open().copy(), Err(KvError::InvalidOperation(_))));
    }
}

#[test]
fn a_truncated_or_lengthened_copy_is_refused_and_removed() {
    for home in place::homes() {
        let database = home.open();
        fill(&database);
        let row = read_all(&mut database.copy().unwrap());
        let step = row.len() / 20;
        for length in (0..row.len()).step_by(step).chain([1, 15, row.len() - 1]) {
            let other = home.another();
            let error = install(&other, &row[..length], 1000).err().expect("refused");
            assert!(matches!(error, KvError::Corruption(_)), "{error}");
            assert!(!other.exists(), "after {length} bytes");
        }
        let other = home.another();
        let error = install(&other, &[&row[..], b"more"].concat(), 1000).err().expect("refused");
        assert!(error.to_string().contains("4 bytes follow"), "{error}");
        assert!(!other.exists());
    }
}

#[test]
fn a_damaged_copy_is_refused_and_removed() {
    for home in place::homes() {
        let database = home.open();
        fill(&database);
        let row = read_all(&mut database.copy().unwrap());
        for place in (0..row.len()).step_by(row.len() / 40) {
            let mut changed = row.clone();
            changed[place] ^= 0x10;
            let other = home.another();
            install(&other, &changed, 1000).err().unwrap_or_else(|| panic!("byte {place} was changed"));
            assert!(!other.exists(), "byte {place}");
        }
    }
}

#[test]
fn a_header_that_declares_large_parts_allocates_nothing_large() {
    for home in place::homes() {
        let mut header = b"SKV-COPY".to_vec();
        header.extend_from_slice(&1u32.to_be_bytes());
        header.extend_from_slice(&u32::MAX.to_be_bytes());
        let error = install(&home.another(), &header, 3).err().expect("refused");
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
    }
}

#[test]
fn an_abandoned_install_leaves_nothing_and_the_next_starts_over() {
    for home in place::homes() {
        let database = home.open();
        fill(&database);
        let row = read_all(&mut database.copy().unwrap());
        let other = home.another();
        let mut abandoned = other.begin_install();
        abandoned.write(&row[..row.len() - 1]).unwrap();
        drop(abandoned);
        assert!(!other.exists());
        // As after a crash: nothing was cleaned up.
        let mut crashed = other.begin_install();
        crashed.write(&row[..row.len() / 2]).unwrap();
        std::mem::forget(crashed);
        let (installed, _) = install(&other, &row, 1 << 16).unwrap();
        same(&database, &installed);
    }
}

#[test]
fn the_files_of_a_replaced_database_are_removed_with_its_last_reader() {
    for home in place::homes().into_iter().filter(Home::has_files) {
        let database = home.open();
        fill(&database);
        let reader = database.clone();
        database.remove_when_closed();
        drop(database);
        assert!(home.exists());
        assert_eq!(rows(&reader, "", reader.applied_version()).0, 199);
        drop(reader);
        assert!(!home.exists());
    }
}

#[test]
fn the_folder_of_a_copy_is_removed_with_it_and_leftovers_at_the_next_open() {
    for home in place::homes().into_iter().filter(Home::has_files) {
        let database = home.open();
        fill(&database);
        let alone = home.neighbours();
        let copy = database.copy().unwrap();
        assert_eq!(home.neighbours().len(), alone.len() + 1);
        drop(copy);
        assert_eq!(home.neighbours(), alone);
        std::mem::forget(database.copy().unwrap());
        drop(database);
        assert_eq!(home.neighbours().len(), alone.len() + 1);
        let database = home.open();
        assert_eq!(home.neighbours(), alone);
        drop(database);
    }
}

#[test]
fn the_same_content_gives_the_same_bytes_in_memory() {
    let row_of = |commits: &[&str]| {
        let home = Home::memory(Durability::UntilFlush);
        let database = home.open();
        commits.iter().for_each(|key| drop(apply_one(&database, commit([set(key, "1")]))));
        read_all(&mut database.copy().unwrap())
    };
    assert_eq!(row_of(&["a", "b", "c"]), row_of(&["a", "b", "c"]));
    assert_ne!(row_of(&["a", "b", "c"]), row_of(&["a", "c", "b"]));
}
