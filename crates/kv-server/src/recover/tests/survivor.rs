//! A data directory as a killed server of a cluster leaves it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use kv_api::{AtomicCommit, KeyRef, KvError, LoggedWrite, Mutation, Version};
use kv_store::{EngineKind, ResourceOptions, SharedResources, TransactionalKvDatabase};
use rsml::wal::{WalOptions, WalStorage};
use rsml::{
    Applier, BirthRecord, Boot, ClusterId, DiskId, Epoch, HardState, LevelRange, Persist, ReplicaId, RequestBatch,
    Sequence, Storage, Value, View, WriteId,
};

use super::super::*;
use crate::data_dir::DataDir;
use crate::mode::Mode;
use crate::replication::{DatabasePlace, KvStoreExecutor, ReplicaDatabases};
use crate::router::ReadSlots;

pub const CLUSTER: ClusterId = ClusterId(7 << 80);
/// The survivor's number.
pub const ME: u32 = 2;
/// The key that entry n sets is `key<n>`, and each sets `newest` to n.
pub const FIRST_WRITE: u64 = 3;

pub fn disk(id: u32) -> DiskId {
    DiskId(u128::from(id) + 100)
}

/// Replica 2 of three. Its log holds the bootstrap record, a no-op, and one write in each entry
/// from 3 through `last`.
pub struct Directory {
    folder: tempfile::TempDir,
}

impl Directory {
    /// With a database that has applied everything through `applied`.
    pub fn new(last: u64, applied: u64) -> Directory {
        Directory::of(&[ME], 0, last, applied)
    }

    /// The directory of a process with these replicas, whose live database is of this generation.
    pub fn of(replicas: &[u32], generation: u64, last: u64, applied: u64) -> Directory {
        let directory = Directory { folder: tempfile::tempdir().expect("a folder") };
        let data = DataDir::open(&directory.root(), Mode::Replicated, replicas).expect("new");
        data.claim().expect("claimed");
        data.remember_cluster_id(&CLUSTER.to_string()).expect("written");
        let mut log = directory.open_log();
        log.recover().expect("empty");
        for (number, entry) in (1..=last).map(|sequence| (sequence, entry(sequence))) {
            let from = Sequence(number);
            let hard_state = hard_state(generation);
            let entries = vec![entry];
            let write = Persist { write_id: WriteId(number), hard_state, base: None, from, truncate: false, entries };
            assert_eq!(log.persist(&[write]).expect("written"), 1);
        }
        drop(log);
        if applied > 0 {
            let mut applier = directory.applier(generation);
            applier.apply((1..=applied).map(|n| (Sequence(n), entry(n))).collect()).expect("applied");
            applier.executor().reader().database().flush().expect("flushed");
        }
        directory
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn replica(&self) -> PathBuf {
        self.root().join(format!("replica-{ME}"))
    }

    pub fn open_log(&self) -> WalStorage {
        let options = WalOptions { segment_bytes: 256 << 10, ..WalOptions::default() };
        WalStorage::open(self.replica().join("wal"), options).expect("opened")
    }

    fn applier(&self, generation: u64) -> Applier<KvStoreExecutor> {
        let resources = SharedResources::new(ResourceOptions::default()).expect("valid sizes");
        let databases: Arc<dyn DatabasePlace> =
            ReplicaDatabases::new(ME, self.replica(), EngineKind::RocksDb, resources);
        let executor = KvStoreExecutor::open(databases, ReadSlots::new(1), generation).expect("it opens");
        Applier::new(executor, LevelRange::new(1, 2)).expect("sound")
    }

    /// Calls `look` with the database that a server would open.
    pub fn with_database<T>(&self, look: impl FnOnce(&TransactionalKvDatabase) -> T) -> T {
        let generation = self.hard_state().generation;
        let applier = self.applier(generation);
        look(applier.executor().reader().database().as_ref())
    }

    pub fn hard_state(&self) -> HardState {
        self.open_log().recover().expect("recovered").hard_state.expect("there is a log")
    }

    /// The cluster that a server on this directory would belong to.
    pub fn open_as_server(&self, replicas: &[u32]) -> Result<Option<String>, String> {
        let data = DataDir::open(&self.root(), Mode::Replicated, replicas).map_err(|error| error.to_string())?;
        Ok(data.cluster_id())
    }

    /// Damages entry `number` of the log.
    pub fn damage(&self, number: u64) {
        let key = format!("key{number}");
        let files = fs::read_dir(self.replica().join("wal")).expect("a log").map(|entry| entry.expect("a file").path());
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "wal")) {
            let mut bytes = fs::read(&path).expect("read");
            if let Some(at) = bytes.windows(key.len()).position(|window| window == key.as_bytes()) {
                bytes[at] = b'x';
                fs::write(&path, bytes).expect("written");
                return;
            }
        }
        panic!("{key} is not in the log");
    }

    pub fn inspection(&self) -> Inspection {
        inspect(&self.root(), None).expect("inspected")
    }

    /// The plan of this survivor alone.
    pub fn plan(&self) -> Plan {
        make_plan(&[("2.json".to_string(), self.inspection())], None).expect("planned")
    }
}

pub fn get(database: &TransactionalKvDatabase, key: &str, version: u64) -> Result<Option<Bytes>, KvError> {
    database.read_at(&KeyRef::new(key.to_string()), Version(version))
}

fn hard_state(generation: u64) -> HardState {
    HardState {
        cluster_id: CLUSTER,
        epoch: Epoch::FIRST,
        disk_id: disk(ME),
        boot: Boot(3),
        promised: View(513),
        accepted_view: View(257),
        generation,
        ..HardState::default()
    }
}

fn entry(sequence: u64) -> Bytes {
    let time_us = sequence * 1_000;
    let value = match sequence {
        1 => {
            let voters = (0..3).map(|id| (ReplicaId(id), disk(u32::from(id)))).collect();
            Value { birth: Some(BirthRecord::new(CLUSTER, &voters)), ..Value::default() }
        }
        2 => Value { proposed_view: 257, time_us, raise_feature_level: 2, ..Value::default() },
        number => {
            let mutations =
                [format!("key{number}"), "newest".to_string()].map(|key| Mutation::set(key, number.to_string()));
            let payload = LoggedWrite::commit(AtomicCommit::of(mutations.to_vec())).to_bytes();
            let first = number - FIRST_WRITE + 1;
            let batch =
                RequestBatch { disk_id: disk(0).0.into(), boot: 1, first, payloads: vec![payload], voids: vec![] };
            Value { proposed_view: 257, time_us, batches: vec![batch], ..Value::default() }
        }
    };
    value.to_bytes()
}

/// Every file and directory below `root`: its content (`None` for a directory) and its time.
pub fn everything(root: &Path) -> BTreeMap<PathBuf, (Option<Vec<u8>>, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        let content = metadata.is_file().then(|| fs::read(&path).expect("read"));
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, (content, metadata.modified().expect("a time")));
    }
    found
}
