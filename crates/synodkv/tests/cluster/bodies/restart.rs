//! Tests that acknowledged writes survive when all servers end at the same time.

use kv_client::{AtomicCommit, KeyRef, Mutation};

use crate::cluster::{Settings, TestCluster};
use crate::load::{Load, assert_nothing_lost, assert_versions_rise};
use crate::on_clusters;

on_clusters! {
    a_restart_of_all_keeps_rows_and_versions(Settings::default()): standalone, in_memory, tcp, processes;
    killing_all_at_once_under_load_loses_no_acknowledged_write(Settings::default()):
        standalone, in_memory, tcp, processes;
    a_cluster_that_was_killed_twice_while_it_recovered_still_has_everything(Settings::default()):
        standalone, in_memory, tcp, processes;
    a_restart_in_good_order_under_load_is_only_a_pause(Settings::default()): in_memory, processes;
}

async fn commit_one<C: TestCluster>(cluster: &C, server: usize, key: &str) -> kv_client::Version {
    let commit = AtomicCommit::of(vec![Mutation::set(key.to_string(), "value")]);
    cluster.client(server).await.commit(commit).await.expect("commit").version
}

async fn a_restart_of_all_keeps_rows_and_versions<C: TestCluster>(cluster: &mut C) {
    let mut last = kv_client::Version(0);
    let mut rows = 0;
    for round in 0..3 {
        for number in 0..5 {
            let version = commit_one(cluster, number % cluster.servers(), &format!("row {round} {number}")).await;
            assert!(version > last, "round {round}: {version} after {last}");
            last = version;
            rows += 1;
        }
        match round {
            1 => cluster.kill_all().await,
            _ => cluster.stop_all().await,
        }
        cluster.restart_all().await;
        for (server, client) in cluster.each_client().await.iter().enumerate() {
            let version = client.read_version().await.expect("a read version");
            assert!(version >= last, "server {server} gives {version} after a restart, and {last} was acknowledged");
            let value = client.get(KeyRef::new(format!("row {round} 4"))).await.expect("get");
            assert_eq!(value.as_deref(), Some(&b"value"[..]), "round {round}, server {server}");
        }
        assert_eq!(cluster.assert_replicas_agree().await, rows);
    }
}

async fn killing_all_at_once_under_load_loses_no_acknowledged_write<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    for _ in 0..2 {
        load.more(150).await;
        cluster.kill_all().await;
        cluster.restart_all().await;
    }
    load.more(150).await;
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    assert_nothing_lost(cluster, &acknowledged).await;
    cluster.assert_replicas_agree().await;
}

async fn a_cluster_that_was_killed_twice_while_it_recovered_still_has_everything<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    load.more(200).await;
    let acknowledged = load.stop().await;
    for _ in 0..3 {
        cluster.kill_all().await;
        for server in 0..cluster.servers() {
            // Does not wait for it to be ready: it is killed as soon as it listens.
            cluster.restart(server).await;
        }
    }
    cluster.ready().await;
    assert_nothing_lost(cluster, &acknowledged).await;
    assert_eq!(cluster.assert_replicas_agree().await, acknowledged.len() as u64);
    let version = commit_one(cluster, 0, "after all").await;
    assert!(acknowledged.iter().all(|commit| commit.version < version), "{version} was given before");
}

/// One after the other, as in an upgrade.
async fn a_restart_in_good_order_under_load_is_only_a_pause<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    for server in 0..cluster.servers() {
        load.more(60).await;
        cluster.stop(server).await;
        load.more(60).await;
        cluster.restart(server).await;
        cluster.ready().await;
    }
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    assert_nothing_lost(cluster, &acknowledged).await;
    cluster.assert_replicas_agree().await;
}
