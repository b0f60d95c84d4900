//! Tests that every write reaches every database, and that any server serves any client.

use std::collections::BTreeMap;

use kv_client::{AtomicCommit, ErrorCode, KeyRef, Mutation};

use crate::cluster::{Settings, TestCluster, rows_at};
use crate::load::{Load, assert_nothing_lost, assert_versions_rise};
use crate::on_clusters;

on_clusters! {
    every_write_is_in_every_database(Settings::default()): standalone, in_memory, tcp, processes;
    a_write_through_any_server_is_read_through_any_other_at_once(Settings::default()):
        standalone, in_memory, tcp, processes;
    requests_of_one_connection_happen_in_their_order(Settings::default()): standalone, in_memory, tcp, processes;
    the_largest_transactions_are_replicated(Settings::default()): standalone, in_memory, tcp, processes;
    versions_of_concurrent_commits_are_unique_and_rise(Settings::default()): standalone, in_memory, tcp, processes;
}

async fn every_write_is_in_every_database<C: TestCluster>(cluster: &mut C) {
    let clients = cluster.each_client().await;
    let mut expected = BTreeMap::new();
    for number in 0..60 {
        let client = &clients[number % clients.len()];
        let (key, value) = (format!("row/{number:03}"), format!("value {number}"));
        client.set(KeyRef::new(key.clone()), value.clone()).await.expect("set");
        expected.insert(key, value);
        if number % 3 == 0 {
            let gone = format!("row/{:03}", number / 2);
            client.delete(KeyRef::new(gone.clone())).await.expect("delete");
            expected.remove(&gone);
        }
        if number % 10 == 0 {
            let keys = ["a", "b"].map(|part| format!("row/{number:03}/{part}"));
            let set = keys.iter().map(|key| Mutation::set(key.clone(), "together")).collect();
            client.commit(AtomicCommit::of(set)).await.expect("commit");
            expected.extend(keys.map(|key| (key, "together".to_string())));
        }
    }
    assert_eq!(cluster.assert_replicas_agree().await, expected.len() as u64);
    for client in &clients {
        let version = client.read_version().await.expect("a read version");
        assert_eq!(rows_at(client, "row/", version).await, expected);
    }
}

async fn a_write_through_any_server_is_read_through_any_other_at_once<C: TestCluster>(cluster: &mut C) {
    let clients = cluster.each_client().await;
    let key = || KeyRef::new("the key");
    for round in 0..30 {
        let value = format!("value {round}");
        let writer = round % clients.len();
        let committed = clients[writer].commit(AtomicCommit::of(vec![Mutation::set("the key", value.clone())])).await;
        let version = committed.expect("commit").version;
        for (reader, client) in clients.iter().enumerate() {
            let seen = client.get(key()).await.expect("get");
            assert_eq!(seen.as_deref(), Some(value.as_bytes()), "written through {writer}, read through {reader}");
            let seen = client.read_version().await.expect("a read version");
            assert!(
                seen >= version,
                "{seen} does not cover {version}: written through {writer}, read through {reader}"
            );
            // A version that another server gave is served here, too.
            let seen = client.snapshot_get(key(), version).await.expect("snapshot get");
            assert_eq!(seen.as_deref(), Some(value.as_bytes()), "written through {writer}, read through {reader}");
        }
    }
}

/// The requests are sent without waiting for the replies of those before. A read sees all writes
/// before it; it may also see later ones.
async fn requests_of_one_connection_happen_in_their_order<C: TestCluster>(cluster: &mut C) {
    for client in cluster.each_client().await {
        for round in 0..20 {
            let (key, value) = (KeyRef::new("the key"), format!("value {round}"));
            // They are polled in this order, so that they are sent on the connection in this order.
            let (first, gone, last, got) = tokio::join!(
                biased;
                client.set(key.clone(), "overwritten"),
                client.delete(key.clone()),
                client.set(key.clone(), value.clone()),
                client.get(key.clone()),
            );
            first.and(gone).and(last).expect("set and delete");
            assert_eq!(got.expect("get").as_deref(), Some(value.as_bytes()), "a read sees the writes before it");
            let (gone, got) = tokio::join!(biased; client.delete(key.clone()), client.get(key.clone()));
            gone.expect("delete");
            assert_eq!(got.expect("get"), None, "a read sees the delete before it");
        }
    }
}

async fn versions_of_concurrent_commits_are_unique_and_rise<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    load.more(300).await;
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    assert_nothing_lost(cluster, &acknowledged).await;
    assert_eq!(cluster.assert_replicas_agree().await, acknowledged.len() as u64);
}

/// Just within the limits, through every server, several at a time.
async fn the_largest_transactions_are_replicated<C: TestCluster>(cluster: &mut C) {
    let mut commits = tokio::task::JoinSet::new();
    for (server, client) in cluster.each_client().await.into_iter().enumerate() {
        for number in 0..2 {
            let client = client.clone();
            let set = |part: u8| Mutation::set(format!("large/{server}/{number}/{part:02}"), vec![part; 100_000]);
            let commit = AtomicCommit::of((0..99).map(set).collect());
            commits.spawn(async move { client.commit(commit).await });
        }
    }
    for committed in commits.join_all().await {
        committed.expect("a commit within the limits");
    }
    let client = cluster.client(0).await;
    let key = format!("large/{}/1/98", cluster.servers() - 1);
    assert_eq!(client.get(KeyRef::new(key)).await.expect("get").as_deref(), Some(&vec![98; 100_000][..]));
    let too_many = (0..101u8).map(|part| Mutation::set(format!("too large/{part}"), vec![part; 100_000]));
    let refused = client.commit(AtomicCommit::of(too_many.collect())).await.expect_err("above the limit");
    assert_eq!(refused.code(), Some(&ErrorCode::TransactionTooLarge), "{refused:?}");
    assert_eq!(cluster.assert_replicas_agree().await, 2 * 99 * cluster.servers() as u64);
}
