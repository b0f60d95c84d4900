//! Bytes that changed on disk lead to an error that reports the damage, and never to other rows.
#![cfg(feature = "rocksdb")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kv_api::{KeyRef, KvError, Version};
use kv_store::{StoreOptions, TransactionalKvDatabase};
use support::place::rocks::RocksHome;
use support::{apply_one, commit, commit_having_read, set, timeless};

/// A closed database with the rows of two flushed batches, in two files of each table.
fn filled() -> RocksHome {
    let home = RocksHome::new();
    let database = open(&home).unwrap();
    for part in ["a", "b"] {
        for i in 0..300 {
            apply_one(&database, commit([set(&format!("{part}{i:04}"), &format!("{i:0200}"))])).unwrap();
        }
        database.flush().unwrap();
    }
    home
}

fn open(home: &RocksHome) -> Result<Arc<TransactionalKvDatabase>, KvError> {
    TransactionalKvDatabase::open(home.try_engine()?, StoreOptions::replicated())
}

/// Opens the database and reads all of it.
fn read_all(home: &RocksHome) -> Result<(u64, u64), KvError> {
    let database = open(home)?;
    let sequence = database.state_blob()?.map_or(0, |(sequence, _)| sequence);
    let hashed = database.hash_rows("", b"", database.applied_version(), u64::MAX)?;
    assert_eq!(hashed.count, database.statistics_now().total_keys);
    Ok((sequence, hashed.hash))
}

fn files(home: &RocksHome, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| matches(path.file_name().unwrap().to_str().unwrap())).collect();
    files.sort();
    files
}

/// The table files, largest first: those with rows, then those with records.
fn tables(home: &RocksHome) -> Vec<PathBuf> {
    let mut files = files(home, |name| name.ends_with(".sst"));
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn is_damage<T>(result: Result<T, KvError>) -> bool {
    matches!(result, Err(KvError::Corruption(_)))
}

#[test]
fn a_changed_byte_in_a_row_is_damage_and_is_reported_once() {
    let home = filled();
    let file = tables(&home).remove(0);
    change(&file, |bytes| bytes[2000] ^= 1);
    let database = open(&home).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let keep = reports.clone();
    database.on_damage(move |reason| keep.lock().unwrap().push(reason.to_owned()));
    for _ in 0..2 {
        assert!(is_damage(database.hash_rows("", b"", database.applied_version(), u64::MAX)));
    }
    let reports = reports.lock().unwrap().clone();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].contains(file.file_name().unwrap().to_str().unwrap()), "{reports:?}");
    assert_eq!(database.damage(), Some(reports[0].clone()));
}

#[test]
fn a_batch_that_meets_damage_reports_it_and_no_further_one_is_tried() {
    let home = filled();
    change(&tables(&home)[0], |bytes| bytes[2000] ^= 1);
    change(&tables(&home)[1], |bytes| bytes[2000] ^= 1);
    let database = open(&home).unwrap();
    let reads: Vec<String> =
        ["a", "b"].iter().flat_map(|part| (0..300).map(move |i| format!("{part}{i:04}"))).collect();
    let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
    let prepared = database.prepare(&timeless(&[commit_having_read(&reads, 2, [set("c", "1")])]));
    assert!(is_damage(prepared.map(drop)));
    assert!(database.damage().is_some());
    assert!(database.prepare(&timeless(&[commit([set("c", "1")])])).is_err());
}

#[test]
fn a_truncated_or_missing_table_is_damage() {
    for edit in ["cut", "gone"] {
        for place in 0..4 {
            let home = filled();
            let file = tables(&home).remove(place);
            match edit {
                "cut" => change(&file, |bytes| bytes.truncate(bytes.len() / 2)),
                _ => fs::remove_file(&file).unwrap(),
            }
            let read = read_all(&home);
            assert!(is_damage(read.clone()), "{edit} {place}: {read:?}");
        }
    }
}

#[test]
fn no_changed_byte_of_a_table_leads_to_other_rows() {
    let home = filled();
    let right = read_all(&home).unwrap();
    let mut noticed = 0;
    for file in tables(&home) {
        let length = fs::metadata(&file).unwrap().len() as usize;
        for place in (0..length).step_by(length / 25) {
            change(&file, |bytes| bytes[place] ^= 0x20);
            match read_all(&home) {
                // Some bytes only make reading faster, or are not read.
                Ok(read) => assert_eq!(read, right, "byte {place} of {}", file.display()),
                Err(error) => {
                    assert!(is_damage(Err::<(), _>(error.clone())), "byte {place} of {}: {error}", file.display());
                    noticed += 1;
                }
            }
            change(&file, |bytes| bytes[place] ^= 0x20);
        }
    }
    assert!(noticed > 20, "{noticed} changes were noticed");
}

#[test]
fn a_changed_or_missing_pointer_to_the_manifest_is_damage() {
    let edits: [&dyn Fn(&Path); 5] = [
        &|path| fs::remove_file(path).unwrap(),
        &|path| fs::write(path, "").unwrap(),
        &|path| fs::write(path, "MANIFEST-999999\n").unwrap(),
        &|path| change(path, |bytes| bytes[3] ^= 0x20),
        &|path| change(path, |bytes| bytes.truncate(bytes.len() - 1)),
    ];
    for (number, edit) in edits.iter().enumerate() {
        let home = filled();
        edit(&home.path().join("CURRENT"));
        let read = read_all(&home);
        assert!(is_damage(read.clone()), "edit {number}: {read:?}");
        assert!(!tables(&home).is_empty(), "the rows are still there");
    }
}

#[test]
fn a_missing_manifest_is_damage() {
    let home = filled();
    files(&home, |name| name.starts_with("MANIFEST")).iter().for_each(|path| fs::remove_file(path).unwrap());
    assert!(is_damage(read_all(&home)));
}

#[test]
fn a_changed_or_truncated_manifest_is_damage_or_gives_the_state_of_an_earlier_flush() {
    let kept = filled();
    let right = read_all(&kept).unwrap();
    let length = fs::read(&files(&kept, |name| name.starts_with("MANIFEST"))[0]).unwrap().len();
    drop(kept);
    let places = (0..length).step_by(length.div_ceil(16));
    for (place, cut) in places.flat_map(|place| [(place, false), (place, true)]) {
        let home = filled();
        change(&files(&home, |name| name.starts_with("MANIFEST"))[0], |bytes| match cut {
            true => bytes.truncate(place),
            false => bytes[place] ^= 0x11,
        });
        match read_all(&home) {
            Ok(read @ (600, _)) => assert_eq!(read, right, "{place} {cut}"),
            // RocksDB accepts a manifest that ends early: its last records may never have been
            // written.
            Ok((sequence, _)) => assert!([0, 300].contains(&sequence), "{place} {cut}: {sequence}"),
            Err(error) => assert!(is_damage(Err::<(), _>(error.clone())), "{place} {cut}: {error}"),
        }
    }
}

#[test]
fn a_copy_of_a_damaged_database_is_not_installed() {
    let home = filled();
    change(&tables(&home)[0], |bytes| bytes[2000] ^= 1);
    let database = open(&home).unwrap();
    let mut copy = database.copy().unwrap();
    let row = copy.read(0, usize::try_from(copy.total_bytes()).unwrap()).unwrap();
    let other = support::place::Home::Rocks(RocksHome::new());
    let mut install = other.begin_install();
    install.write(&row).unwrap();
    assert!(is_damage(install.finish().map(drop)));
    assert!(!other.exists());
}

#[test]
fn other_faults_are_not_taken_for_damage() {
    let home = filled();
    let database = open(&home).unwrap();
    let locked = open(&home).err().unwrap();
    assert!(matches!(locked, KvError::Storage(_)), "{locked}");
    assert_eq!(database.read_at(&KeyRef::new("no such key"), Version(600)).unwrap(), None);
    assert_eq!(database.damage(), None);
}

#[test]
fn an_interrupted_first_start_begins_again() {
    let home = RocksHome::new();
    drop(open(&home).unwrap());
    // As after a crash before the pointer to the first manifest was written.
    let later = |name: &str| name == "CURRENT" || name.ends_with(".sst") || name.ends_with(".log");
    files(&home, later).iter().for_each(|path| fs::remove_file(path).unwrap());
    let database = open(&home).unwrap();
    apply_one(&database, commit([set("a", "1")])).unwrap();
}
