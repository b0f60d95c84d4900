//! Databases that go over from one kind of server to another.

mod support;

use std::path::Path;
use std::sync::Arc;

use kv_api::{KvError, LoggedWrite, TimedWrite};
use kv_store::{
    Durability, EngineKind, ResourceOptions, SharedResources, StateBlob, StoreOptions, TransactionalKvDatabase,
    open_engine,
};
use support::{apply_one, commit, set};

fn open(kind: EngineKind, path: &Path, durability: Durability) -> Arc<TransactionalKvDatabase> {
    let resources = SharedResources::new(ResourceOptions::default()).unwrap();
    let engine = open_engine(kind, path, durability, &resources).unwrap();
    TransactionalKvDatabase::open(engine, StoreOptions { collect_every: None, ..StoreOptions::replicated() }).unwrap()
}

fn rows(database: &TransactionalKvDatabase) -> (u64, u64) {
    let hashed = database.hash_rows("", b"", database.applied_version(), u64::MAX).unwrap();
    (hashed.count, hashed.hash)
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_linked_database_holds_the_same_and_changes_by_itself() {
    for durability in [Durability::EveryWrite, Durability::UntilFlush] {
        let folder = tempfile::tempdir().unwrap();
        let first = open(EngineKind::RocksDb, &folder.path().join("first"), durability);
        for key in 0..100 {
            apply_one(&first, commit([set(&format!("key {key}"), "value")])).unwrap();
        }
        let second = folder.path().join("second");
        first.link_to(&second).unwrap();
        let second = open(EngineKind::RocksDb, &second, Durability::UntilFlush);
        assert_eq!(rows(&second), rows(&first));
        assert_eq!(second.state_blob().unwrap(), first.state_blob().unwrap());
        let before = rows(&first);
        apply_one(&second, commit([set("key 0", "another"), set("new", "row")])).unwrap();
        assert_eq!(rows(&first), before);
        apply_one(&first, commit([set("old", "row")])).unwrap();
        assert_eq!((rows(&first).0, rows(&second).0), (101, 101));
        assert_ne!(rows(&first), rows(&second));
        assert!(first.link_to(&folder.path().join("second")).is_err(), "it exists");
    }
}

#[test]
fn an_engine_without_files_has_none_to_link() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(EngineKind::Memory, folder.path(), Durability::UntilFlush);
    let refused = database.link_to(&folder.path().join("second"));
    assert!(matches!(refused, Err(KvError::NotSupported(_))), "{refused:?}");
}

#[test]
fn a_state_blob_is_forgotten_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(EngineKind::Memory, folder.path(), Durability::EveryWrite);
    let write = TimedWrite { time_us: 77, write: LoggedWrite::commit(commit([set("k", "v")])) };
    let blob = StateBlob { sequence: 5, blob: "state".into() };
    database.prepare([&write]).unwrap().commit(blob).unwrap();
    let (before, version) = (rows(&database), database.applied_version());
    assert_eq!(database.time_us(), 77);
    database.forget_state_blob().unwrap();
    assert_eq!(database.state_blob().unwrap(), None);
    assert_eq!((rows(&database), database.applied_version(), database.time_us()), (before, version, 77));
}
