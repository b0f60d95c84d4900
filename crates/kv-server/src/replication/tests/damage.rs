//! Tests of bytes that change on the disk under a running replica or standalone server.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kv_api::{AtomicCommit, KvDatabase, KvError, Mutation};
use kv_store::EngineKind;
use rsml::{ExecutionErrorKind, ExecutionNotifier, FailureKind};

use super::{Place, apply};
use crate::StandaloneServerManager;
use crate::config::{Config, Environment, Overrides};
use crate::error::ServerError;
use crate::manager::ServerManager;
use crate::mode::Mode;
use crate::replication::{DatabasePlace, ReplicatedServerManager};

/// Changes a byte in the middle of the largest table file of a database.
fn flip_a_byte(database: &Path) {
    let entries = fs::read_dir(database).expect("a database").map(|entry| entry.expect("listed").path());
    let tables = entries.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    let largest = tables.max_by_key(|path| fs::metadata(path).expect("there").len()).expect("rows were flushed");
    let mut bytes = fs::read(&largest).expect("read");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).expect("written");
}

#[test]
fn damage_found_by_a_read_is_recorded_and_leads_to_an_empty_database() {
    let place = Place::new(EngineKind::RocksDb);
    let mut executor = place.open(0);
    let keys: Vec<String> = (0..500).map(|i| format!("key {i:0100}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    apply(&mut executor, &keys, "1");
    executor.reader().database().flush().expect("flushed");
    drop(executor);
    flip_a_byte(&place.replica().join("db"));

    let databases = place.databases();
    let database = databases.clone().open(0).expect("damage in rows is not found at once");
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    databases.on_damage(move |reason| heard.lock().expect("no panic").push(reason.to_owned()));
    let read = database.hash_rows("", b"", database.applied_version(), u64::MAX);
    assert!(matches!(read, Err(KvError::Corruption(_))), "{read:?}");
    assert_eq!(told.lock().expect("no panic").len(), 1);
    assert_eq!(place.names(), ["damaged", "db"]);
    drop(database);
    assert_eq!(place.open(0).next_expected_sequence().0, 1);
    assert_eq!(place.names(), ["db", "db.damaged-1"]);
}

#[test]
fn damage_of_a_replaced_database_does_not_affect_the_live_one() {
    let place = Place::new(EngineKind::RocksDb);
    let mut executor = place.open(0);
    let keys: Vec<String> = (0..500).map(|i| format!("key {i:0100}")).collect();
    apply(&mut executor, &keys.iter().map(String::as_str).collect::<Vec<_>>(), "1");
    executor.reader().database().flush().expect("flushed");
    drop(executor);
    flip_a_byte(&place.replica().join("db"));

    let databases = place.databases();
    let former = databases.clone().open(0).expect("damage in rows is not found at once");
    let live = Place::new(EngineKind::Memory).open(1);
    databases.clone().watch(1, &live.reader().database());
    databases.on_damage(|reason| panic!("the live database is sound: {reason}"));
    // A reader that began before the switch continues with the former one.
    let read = former.hash_rows("", b"", former.applied_version(), u64::MAX);
    assert!(matches!(read, Err(KvError::Corruption(_))), "{read:?}");
    assert_eq!(place.names(), ["db"], "no mark");
}

#[test]
fn an_error_of_damage_is_distinct_from_others() {
    let place = Place::new(EngineKind::RocksDb);
    let mut executor = place.open(0);
    let keys: Vec<String> = (0..500).map(|i| format!("key {i:0100}")).collect();
    apply(&mut executor, &keys.iter().map(String::as_str).collect::<Vec<_>>(), "1");
    executor.reader().database().flush().expect("flushed");
    flip_a_byte(&place.replica().join("db"));
    drop(executor);
    let executor = place.open(0);
    let database = executor.reader().database();
    database.hash_rows("", b"", database.applied_version(), u64::MAX).expect_err("damaged");
    // The sender copies files without reading them; the receiver checks them.
    let mut snapshot = executor.snapshots().take().expect("copied");
    let row = snapshot.source.read(0, snapshot.source.total_bytes() as usize).expect("read");
    let other = Place::new(EngineKind::RocksDb).open(0);
    let mut sink = other.snapshots().begin_install(1).expect("begun");
    sink.write(row).expect("files that are whole");
    assert_eq!(sink.finish().expect_err("damaged rows").kind, ExecutionErrorKind::Corrupt);
}

fn config(folder: &Path, mode: Mode) -> Config {
    let overrides = Overrides { mode: Some(mode.to_string()), ..Overrides::default() };
    let mut config = Config::load(None, &Environment::empty(), &overrides).expect("the defaults are valid");
    config.storage.data_dir = folder.join("data");
    config.storage.write_buffer_mb = 48;
    config.server.thrift_addr = "127.0.0.1:0".parse().expect("an address");
    config.server.admin_addr = "127.0.0.1:0".parse().expect("an address");
    config
}

async fn fill(database: &impl KvDatabase) {
    for i in 0..20 {
        let rows = (0..20).map(|j| Mutation::set(format!("key {i} {j}"), format!("{i:0300}"))).collect();
        database.atomic_commit(AtomicCommit::of(rows)).await.expect("committed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_a_damaged_database_stops_and_is_rebuilt_at_its_next_start() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = config(folder.path(), Mode::Replicated);
    let server = ReplicatedServerManager::start_in_memory(config.clone()).await.expect("it starts");
    fill(&server.database()).await;
    Box::new(server).shutdown().await;
    let replica = folder.path().join("data/replica-2");
    flip_a_byte(&replica.join("db"));

    let server = ReplicatedServerManager::start_in_memory(config.clone()).await.expect("it starts");
    let damaged = server.local_replicas().replicas()[2].clone();
    let database = damaged.reader.database();
    database.hash_rows("", b"", database.applied_version(), u64::MAX).expect_err("damaged");
    drop(database);
    let mut watch = damaged.consensus.watch();
    let failed =
        watch.wait_for(|role| role.failed.is_some()).await.expect("it tells").failed.clone().expect("waited for");
    assert_eq!(failed.kind, FailureKind::Damaged, "{failed}");
    assert!(replica.join("damaged").exists());
    // The other replicas continue.
    fill(&server.database()).await;
    drop(damaged);
    Box::new(server).shutdown().await;

    let server = ReplicatedServerManager::start_in_memory(config).await.expect("it starts");
    let newest = server.database().read_version().await.expect("a read point");
    let rows: Vec<_> = server.local_replicas().replicas().iter().map(|replica| replica.reader.clone()).collect();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut hashes = Vec::new();
    for reader in rows {
        reader.wait_applied(newest, deadline).await.expect("it catches up");
        let hash = reader.database().hash_rows("", b"", newest, u64::MAX).expect("sound");
        hashes.push((hash.count, hash.hash));
    }
    assert_eq!(hashes[0].0, 400);
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert!(replica.join("db.damaged-1").exists() && !replica.join("damaged").exists());
    Box::new(server).shutdown().await;
}

async fn standalone_with_rows(folder: &Path) -> (Config, PathBuf) {
    let config = config(folder, Mode::Standalone);
    let server = StandaloneServerManager::start(config.clone()).await.expect("it starts");
    fill(server.database().as_ref()).await;
    server.database().flush().expect("flushed");
    Box::new(server).shutdown().await;
    (config, folder.join("data/db"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_never_starts_empty_where_data_was() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (config, database) = standalone_with_rows(folder.path()).await;
    fs::remove_file(database.join("CURRENT")).expect("removed");
    let error = StandaloneServerManager::start(config).await.err().expect("it refuses");
    assert!(matches!(error, ServerError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("from a backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_that_finds_damage_reports_it() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (config, database) = standalone_with_rows(folder.path()).await;
    flip_a_byte(&database);
    let server = StandaloneServerManager::start(config).await.expect("damage in rows is not found at once");
    assert_eq!(server.failure(), None);
    let rows = server.database().clone();
    rows.hash_rows("", b"", rows.applied_version(), u64::MAX).expect_err("damaged");
    assert!(server.failure().is_some_and(|reason| reason.contains("damaged")));
    drop(rows);
    Box::new(server).shutdown().await;
}
