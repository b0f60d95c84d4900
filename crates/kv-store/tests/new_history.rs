//! A database that continues under another history, and the files of a database that is not open.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use kv_api::{AtomicCommit, KeyRef, KvError, LoggedWrite, TimedWrite, Version};
use kv_store::{Durability, StateBlob, StoreOptions, TransactionalKvDatabase};
use support::{commit, commit_having_read, place, set};

fn options() -> StoreOptions {
    StoreOptions { collect_every: None, ..StoreOptions::replicated() }
}

fn state(sequence: u64) -> StateBlob {
    StateBlob { sequence, blob: Bytes::from_static(b"another cluster") }
}

fn write(database: &TransactionalKvDatabase, sequence: u64, change: AtomicCommit) -> Result<u64, KvError> {
    let timed = TimedWrite { time_us: sequence * 1_000, write: LoggedWrite::commit(change) };
    let verdicts = database.prepare([&timed]).expect("decided").commit(state(sequence)).expect("written");
    verdicts.into_iter().next().expect("one for each").map(|result| result.version)
}

fn get(database: &TransactionalKvDatabase, key: &str, version: u64) -> Result<Option<Bytes>, KvError> {
    database.read_at(&KeyRef::new(key.to_string()), Version(version))
}

/// Three commits, the last of which is the newest version that survives.
fn filled(database: &TransactionalKvDatabase) -> u64 {
    let writes = [[set("a", "1"), set("b", "1")], [set("a", "2"), set("c", "2")], [set("a", "3"), set("d", "3")]];
    let versions = (1..).zip(writes).map(|(sequence, change)| write(database, sequence, commit(change)).unwrap());
    versions.last().expect("there are three")
}

#[test]
fn nothing_of_the_former_history_is_taken_for_a_version_of_the_new_one() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open_with(options());
        let last = filled(&database);
        let begins = database.begin_new_history(1_000, state(9)).unwrap().0;
        assert_eq!(begins, last + 1_000);
        let check = |database: &TransactionalKvDatabase| {
            assert_eq!(database.state_blob().unwrap(), Some((9, Bytes::from_static(b"another cluster"))));
            assert_eq!(get(database, "a", begins), Ok(Some(Bytes::from_static(b"3"))));
            assert_eq!(get(database, "b", begins), Ok(Some(Bytes::from_static(b"1"))));
            // The last version that was kept, and one that only lost replicas knew.
            for former in [last, last + 5, begins - 1] {
                let too_old = KvError::TransactionTooOld { read_version: former, oldest: begins };
                assert_eq!(get(database, "a", former), Err(too_old));
            }
            let future = get(database, "a", begins + 1);
            assert!(matches!(future, Err(KvError::FutureVersion { .. })), "{future:?}");
        };
        check(&database);
        database.flush().unwrap();
        drop(database);
        let database = place.open_with(options());
        check(&database);
        assert_eq!(database.statistics_now().total_keys, 4);
        for former in [last, last + 5] {
            let refused = write(&database, 10 + former, commit_having_read(&["a"], former, [set("a", "x")]));
            assert_eq!(refused, Err(KvError::TransactionTooOld { read_version: former, oldest: begins }));
        }
        let next = write(&database, 100, commit_having_read(&["a"], begins, [set("a", "4")])).unwrap();
        assert_eq!(next, begins + 1, "versions continue behind the beginning");
        assert_eq!(get(&database, "a", next), Ok(Some(Bytes::from_static(b"4"))));
        assert_eq!(get(&database, "a", begins), Ok(Some(Bytes::from_static(b"3"))), "it is in the window");
    }
}

#[test]
fn versions_are_not_skipped_beyond_what_clients_can_count() {
    for place in place::all(Durability::UntilFlush) {
        let database = place.open_with(options());
        let last = filled(&database);
        for too_many in [u64::MAX, (1 << 62) - last + 1] {
            let refused = database.begin_new_history(too_many, state(9));
            assert!(matches!(refused, Err(KvError::InvalidOperation(_))), "{refused:?}");
        }
        assert_eq!(database.applied_version().0, last);
        assert_eq!(write(&database, 4, commit([set("e", "4")])), Ok(last + 1), "nothing was done");
    }
}

#[cfg(feature = "rocksdb")]
mod files {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use kv_store::{ResourceOptions, SharedResources, StoredRecords, link_stopped, open_engine};

    use super::*;

    fn open(path: &Path) -> Arc<TransactionalKvDatabase> {
        let resources = SharedResources::new(ResourceOptions::default()).unwrap();
        let engine = open_engine(kv_store::EngineKind::RocksDb, path, Durability::UntilFlush, &resources).unwrap();
        TransactionalKvDatabase::open(engine, options()).unwrap()
    }

    /// Name, content and time of each file.
    fn files(folder: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let read = |path: &Path| (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), read(&entry.path()))).collect()
    }

    #[test]
    fn the_records_of_a_stopped_database_are_read_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let database = open(&path);
        let last = filled(&database);
        drop(database);
        let before = (files(&path), fs::metadata(&path).unwrap().modified().unwrap());
        let records = StoredRecords::read(&path).unwrap();
        assert_eq!((records.version, records.rows, records.level), (Version(last), 4, 1));
        assert_eq!((records.state, records.time_us), (Some(state(3)), 3_000));
        assert!(before == (files(&path), fs::metadata(&path).unwrap().modified().unwrap()), "the folder has changed");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was created next to it");
    }

    #[test]
    fn a_folder_without_a_database_is_reported_and_not_created() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("db");
        let error = StoredRecords::read(&missing).unwrap_err();
        assert!(matches!(error, KvError::Corruption(_)), "{error:?}");
        assert!(!missing.exists());
    }

    #[test]
    fn a_linked_database_is_independent_of_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let (source, linked) = (folder.path().join("db"), folder.path().join("linked"));
        let database = open(&source);
        let last = filled(&database);
        database.flush().unwrap();
        drop(database);
        let before = files(&source);
        link_stopped(&source, &linked).unwrap();
        let database = open(&linked);
        let begins = database.begin_new_history(50, state(9)).unwrap().0;
        let newest = write(&database, 10, commit([set("a", "4"), set("b", "4")])).unwrap();
        database.flush().unwrap();
        drop(database);
        assert!(files(&source) == before, "the source has changed");
        assert_eq!(StoredRecords::read(&source).unwrap().version, Version(last));
        fs::remove_dir_all(&source).unwrap();
        let database = open(&linked);
        assert_eq!(get(&database, "a", newest), Ok(Some(Bytes::from_static(b"4"))));
        assert_eq!(get(&database, "c", begins), Ok(Some(Bytes::from_static(b"2"))));
        let again = link_stopped(&linked, folder.path()).unwrap_err();
        assert!(again.to_string().contains("cannot create"), "{again}");
    }
}
