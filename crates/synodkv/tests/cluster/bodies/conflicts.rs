//! Tests that exactly one of several conflicting commits succeeds.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kv_client::{AtomicCommit, Bytes, Client, ClientError, ErrorCode, KeyRef, Mutation, Version};
use tokio::task::JoinSet;

use super::operators::values_with_several_operations;
use crate::cluster::{Settings, TestCluster, rows_at};
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    of_conflicting_commits_through_all_servers_exactly_one_wins(Settings::default()):
        standalone, in_memory, tcp, processes;
    of_conflicting_commits_in_one_batch_exactly_one_wins(Settings::default()): standalone, in_memory, tcp, processes;
    a_counter_loses_no_increment(Settings::default()): standalone, in_memory, tcp, processes;
    a_conflict_with_a_write_before_a_restart_is_still_seen(Settings::default()): standalone, in_memory, tcp, processes;
}

const CONTESTED: &str = "contested";

fn conditional(read_version: Version, value: impl Into<Bytes>) -> AtomicCommit {
    AtomicCommit {
        read_version: read_version.0,
        read_conflict_keys: vec![CONTESTED.into()],
        ..AtomicCommit::of(vec![Mutation::set(CONTESTED, value)])
    }
}

/// Commits concurrently with the same read version. One commit must win, and its value must stay.
async fn assert_one_winner(contenders: Vec<Client>, round: usize) {
    let read_version = contenders[0].read_version().await.expect("a read version");
    let mut commits = JoinSet::new();
    for (number, client) in contenders.iter().cloned().enumerate() {
        let value = format!("{round} {number}");
        commits.spawn(async move { (value.clone(), client.commit(conditional(read_version, value)).await) });
    }
    let mut winners = Vec::new();
    for (value, outcome) in commits.join_all().await {
        match outcome {
            Ok(committed) => winners.push((value, committed.version)),
            Err(error) => assert_eq!(error.code(), Some(&ErrorCode::Conflict), "{error:?}"),
        }
    }
    let [(value, version)] = &winners[..] else { panic!("round {round}: not one winner but {winners:?}") };
    assert!(*version > read_version, "{version} is not after {read_version}");
    for client in &contenders {
        let seen = client.get(KeyRef::new(CONTESTED)).await.expect("get");
        assert_eq!(seen.as_deref(), Some(value.as_bytes()), "round {round}");
    }
}

async fn of_conflicting_commits_through_all_servers_exactly_one_wins<C: TestCluster>(cluster: &mut C) {
    let mut contenders = Vec::new();
    for _ in 0..3 {
        contenders.extend(cluster.each_client().await);
    }
    for round in 0..40 {
        assert_one_winner(contenders.clone(), round).await;
    }
    assert_eq!(cluster.assert_replicas_agree().await, 1);
}

/// Sends all commits over one connection without waiting for replies.
async fn of_conflicting_commits_in_one_batch_exactly_one_wins<C: TestCluster>(cluster: &mut C) {
    let before = values_with_several_operations(cluster).await;
    for round in 0..20 {
        for server in 0..cluster.servers() {
            let client = cluster.client(server).await;
            assert_one_winner(vec![client; 24], round).await;
        }
    }
    assert_eq!(cluster.assert_replicas_agree().await, 1);
    if let (Some(before), Some(after)) = (before, values_with_several_operations(cluster).await) {
        assert!(after > before, "no two commits were ever in one batch: the test shows nothing");
    }
}

async fn a_counter_loses_no_increment<C: TestCluster>(cluster: &mut C) {
    let clients = [cluster.each_client().await, cluster.each_client().await].concat();
    let counter = Counter::start(clients);
    counter.more(120).await;
    counter.stop_and_check(cluster).await;
    cluster.assert_replicas_agree().await;
}

async fn a_conflict_with_a_write_before_a_restart_is_still_seen<C: TestCluster>(cluster: &mut C) {
    let client = cluster.client(0).await;
    let read_version = client.read_version().await.expect("a read version");
    client.set(KeyRef::new(CONTESTED), "first").await.expect("set");
    let after = client.read_version().await.expect("a read version");
    cluster.kill_all().await;
    cluster.restart_all().await;
    let client = cluster.client(cluster.servers() - 1).await;
    let refused = client.commit(conditional(read_version, "second")).await.expect_err("a conflict");
    assert_eq!(refused.code(), Some(&ErrorCode::Conflict), "{refused:?}");
    client.commit(conditional(after, "third")).await.expect("nothing was written after this read version");
    let value = client.get(KeyRef::new(CONTESTED)).await.expect("get");
    assert_eq!(value.as_deref(), Some(&b"third"[..]));
}

/// Tasks that each read the counter, add one, and commit if nobody else did meanwhile. Each
/// increment also writes a row of its own, so that an increment with an unknown result is counted
/// if it happened.
pub struct Counter {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    tasks: JoinSet<()>,
}

const COUNTER: &str = "counter";
const INCREMENTS: &str = "increment/";

impl Counter {
    /// One task for each client.
    pub fn start(clients: Vec<Client>) -> Counter {
        let (stop, done, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
        let mut counter = Counter { stop, done, acknowledged, tasks: JoinSet::new() };
        for (task, client) in clients.into_iter().enumerate() {
            let (stop, done, acknowledged) = (counter.stop.clone(), counter.done.clone(), counter.acknowledged.clone());
            counter.tasks.spawn(async move {
                for attempt in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let marker = format!("{INCREMENTS}{task:02}/{attempt:06}");
                    match increment(&client, &marker).await {
                        Ok(()) => {
                            acknowledged.lock().expect("no panic with this lock").insert(marker);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => assert!(error.is_retryable(), "{error:?}"),
                    }
                }
            });
        }
        counter
    }

    /// Returns once `count` more increments have been acknowledged.
    pub async fn more(&self, count: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + count;
        eventually(&format!("{count} more increments"), async || match self.done.load(Ordering::Relaxed) {
            done if done >= wanted => Ok(()),
            done => Err(format!("{done} of {wanted}")),
        })
        .await;
    }

    /// Checks that the counter equals the number of rows of increments, and that all acknowledged
    /// ones are among them.
    pub async fn stop_and_check(mut self, cluster: &impl TestCluster) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("an increment fails only with errors that can be tried again");
        }
        cluster.ready().await;
        let acknowledged = self.acknowledged.lock().expect("no panic with this lock").clone();
        for client in cluster.each_client().await {
            let version = client.read_version().await.expect("a read version");
            let rows = rows_at(&client, INCREMENTS, version).await;
            let lost: Vec<&String> = acknowledged.iter().filter(|marker| !rows.contains_key(*marker)).collect();
            assert!(lost.is_empty(), "acknowledged increments are gone: {lost:?}");
            assert_eq!(read_counter(&client, version).await.expect("the counter"), rows.len(), "lost updates");
        }
    }
}

async fn read_counter(client: &Client, version: Version) -> Result<usize, ClientError> {
    let value = client.snapshot_get(KeyRef::new(COUNTER), version).await?;
    Ok(value.map_or(0, |digits| String::from_utf8_lossy(&digits).parse().expect("a number")))
}

async fn increment(client: &Client, marker: &str) -> Result<(), ClientError> {
    let version = client.read_version().await?;
    let value = read_counter(client, version).await? + 1;
    let mutations =
        vec![Mutation::set(COUNTER, value.to_string()), Mutation::set(marker.to_string(), value.to_string())];
    let commit = AtomicCommit {
        read_version: version.0,
        read_conflict_keys: vec![COUNTER.into()],
        ..AtomicCommit::of(mutations)
    };
    client.commit(commit).await.map(|_| ())
}
