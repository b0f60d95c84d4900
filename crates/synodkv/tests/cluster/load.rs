//! Writers that continue whatever happens, and remember what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use kv_client::{AtomicCommit, Client, Mutation, Version};
use tokio::task::JoinSet;

use crate::cluster::{TestCluster, rows_at};
use crate::waiting::eventually;

/// The prefix of all keys of loads.
const PREFIX: &str = "load/";

/// An acknowledged commit.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub writer: usize,
    pub key: String,
    pub version: Version,
}

/// Writers with their own keys, each of which makes one commit after the other.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    writers: JoinSet<()>,
}

fn value_of(key: &str) -> String {
    format!("value of {key}")
}

impl Load {
    /// One writer for each client.
    pub fn start(name: &str, clients: Vec<Client>) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut writers = JoinSet::new();
        for (writer, client) in clients.into_iter().enumerate() {
            let prefix = format!("{PREFIX}{name}/{writer:02}");
            writers.spawn(write(writer, prefix, client, stop.clone(), Arc::clone(&acknowledged)));
        }
        Load { stop, acknowledged, writers }
    }

    /// Several writers for each server; each goes to another server when its own cannot be reached.
    pub async fn on_all(cluster: &impl TestCluster) -> Load {
        let mut clients = Vec::new();
        for writer in 0..3 * cluster.servers().max(2) {
            clients.push(cluster.client_of_all(writer % cluster.servers()).await);
        }
        Load::start("all", clients)
    }

    fn acknowledged(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        self.acknowledged.lock().expect("no writer panics with this lock")
    }

    /// Returns once `count` more commits have been acknowledged, by all writers together.
    pub async fn more(&self, count: usize) {
        let wanted = self.acknowledged().len() + count;
        eventually(&format!("{count} more commits are acknowledged"), async || {
            let so_far = self.acknowledged().len();
            if so_far >= wanted { Ok(()) } else { Err(format!("{so_far} of {wanted}")) }
        })
        .await;
    }

    /// Ends the writers after their commits in flight.
    pub async fn stop(mut self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("a writer meets no error but those that can be tried again");
        }
        std::mem::take(&mut self.acknowledged())
    }
}

async fn write(
    writer: usize,
    prefix: String,
    client: Client,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
) {
    for number in 0.. {
        let key = format!("{prefix}/{number:06}");
        let commit = AtomicCommit::of(vec![Mutation::set(key.clone(), value_of(&key))]);
        let version = loop {
            match client.commit(commit.clone()).await {
                Ok(committed) => break committed.version,
                // Writes the same row again; it does not matter whether the first attempt happened.
                Err(error) if error.is_retryable() => tokio::task::yield_now().await,
                Err(error) => panic!("writing {key}: {error:?}"),
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        };
        acknowledged.lock().expect("no writer panics with this lock").push(Acknowledged { writer, key, version });
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Checks that every server has every acknowledged row, and no rows except those of the writers.
pub async fn assert_nothing_lost(cluster: &impl TestCluster, acknowledged: &[Acknowledged]) {
    for server in cluster.running() {
        let client = cluster.client(server).await;
        let version = client.read_version().await.expect("a read version");
        let rows = rows_at(&client, PREFIX, version).await;
        let lost: Vec<_> = acknowledged.iter().filter(|commit| !rows.contains_key(&commit.key)).collect();
        assert!(lost.is_empty(), "server {server} lost {} of {}: {lost:?}", lost.len(), acknowledged.len());
        for (key, value) in &rows {
            assert_eq!(*value, value_of(key), "server {server}");
        }
        let newest = acknowledged.iter().map(|commit| commit.version).max();
        assert!(newest.is_none_or(|newest| newest <= version), "an acknowledged version lies ahead of {version}");
    }
}

/// Checks that no two commits have the same version, and that each writer's versions increase.
pub fn assert_versions_rise(acknowledged: &[Acknowledged]) {
    let all: BTreeSet<Version> = acknowledged.iter().map(|commit| commit.version).collect();
    assert_eq!(all.len(), acknowledged.len(), "versions are given once");
    let mut last: BTreeMap<usize, Version> = BTreeMap::new();
    // The commits of each writer are in the order of their acknowledgement.
    for commit in acknowledged {
        let before = last.insert(commit.writer, commit.version);
        assert!(before.is_none_or(|before| before < commit.version), "{commit:?} comes after version {before:?}");
    }
}
