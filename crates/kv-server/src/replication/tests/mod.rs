//! Tests of one replica's databases: copies, switching, damage. Clusters are tested in the synodkv
//! crate.

#[cfg(feature = "rocksdb")]
mod damage;
#[cfg(feature = "rocksdb")]
mod directories;
mod levels;
mod switching;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_api::{AtomicCommit, LoggedWrite, Mutation};
use kv_store::{EngineKind, ResourceOptions, SharedResources};
use rsml::{Boot, CommittedRequest, CommittedValue, DiskId, ExecutionNotifier, FeatureLevel, SealedState, Sequence};

use super::{KvStoreExecutor, ReplicaDatabases};
use crate::router::ReadSlots;

/// The directory of a replica, for databases that are opened there one after the other.
struct Place {
    folder: tempfile::TempDir,
    engine: EngineKind,
    resources: SharedResources,
}

impl Place {
    fn new(engine: EngineKind) -> Place {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let resources = SharedResources::new(ResourceOptions::default()).expect("valid sizes");
        Place { folder, engine, resources }
    }

    /// One for each engine of this build.
    fn all() -> Vec<Place> {
        let mut engines = vec![EngineKind::Memory];
        if cfg!(feature = "rocksdb") {
            engines.push(EngineKind::RocksDb);
        }
        engines.into_iter().map(Place::new).collect()
    }

    fn databases(&self) -> Arc<ReplicaDatabases> {
        ReplicaDatabases::new(7, self.replica(), self.engine, self.resources.clone())
    }

    fn open(&self, generation: u64) -> KvStoreExecutor {
        KvStoreExecutor::open(self.databases(), ReadSlots::new(1), generation).expect("it opens")
    }

    fn replica(&self) -> PathBuf {
        self.folder.path().join("replica-7")
    }

    /// The names in the replica's directory.
    fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.replica()) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Waits until exactly these names are there, because databases closed in the background
    /// disappear a little later.
    fn wait_for_names(&self, expected: &[&str]) {
        for _ in 0..3000 {
            if self.names() == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("expected {expected:?}, there are {:?}", self.names());
    }
}

/// Applies one value that sets each key to `value`; returns the outcomes.
fn apply(executor: &mut KvStoreExecutor, keys: &[&str], value: &str) -> Vec<Bytes> {
    let mutations = keys.iter().map(|key| Mutation::set(key.to_string(), value.to_owned())).collect();
    let sequence = executor.next_expected_sequence();
    let request = CommittedRequest {
        disk_id: DiskId(1),
        boot: Boot(1),
        number: sequence.0,
        payload: LoggedWrite::commit(AtomicCommit::of(mutations)).to_bytes(),
    };
    let value = CommittedValue { sequence, time_us: 0, feature_level: FeatureLevel::FIRST, requests: vec![request] };
    let executed = executor.notify_commit(&value).expect("decided");
    executed.commit(SealedState { sequence, state: state_at(sequence) }).expect("applied")
}

fn state_at(sequence: Sequence) -> Bytes {
    Bytes::from(format!("state at {sequence}"))
}

/// Builds the database of `generation` at `to` from what `from` has now; returns the state in it.
fn copy(from: &KvStoreExecutor, to: &KvStoreExecutor, generation: u64) -> Bytes {
    let mut snapshot = from.snapshots().take().expect("copied");
    let mut sink = to.snapshots().begin_install(generation).expect("begun");
    let total_bytes = snapshot.source.total_bytes();
    let mut offset = 0;
    while offset < total_bytes {
        let length = (total_bytes - offset).min(10_000) as usize;
        sink.write(snapshot.source.read(offset, length).expect("read")).expect("written");
        offset += length as u64;
    }
    let state = sink.finish().expect("a sound copy");
    assert_eq!(state, snapshot.state);
    state
}
