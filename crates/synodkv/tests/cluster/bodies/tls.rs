//! Tests of replicas that authenticate each other by TLS.

use std::fs;

use kv_client::{AtomicCommit, Mutation};

use crate::cluster::{Settings, TestCluster, http_get};
use crate::clusters::ProcessTestCluster;
use crate::load::{Load, assert_nothing_lost, assert_versions_rise};
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    writes_survive_a_restart_of_replicas_with_certificates(Settings::default().with_tls()): tcp, processes;
    the_primary_of_replicas_with_certificates_may_be_killed_under_load(Settings::default().with_tls()): processes;
    a_replica_without_certificate_is_refused_and_does_not_disturb_others(Settings::default().with_tls()): processes;
}

/// Connections that failed over TLS, as a server counts them.
async fn failures<C: TestCluster>(cluster: &C, server: usize) -> Result<u64, String> {
    let (_, metrics) = http_get(&cluster.admin(server), "/metrics").await?;
    let lines = metrics.lines().filter(|line| line.starts_with("synodkv_peer_tls_failures_total{"));
    let figures: Vec<u64> =
        lines.map(|line| line.rsplit(' ').next().expect("a figure").parse().expect("a number")).collect();
    assert!(!figures.is_empty(), "nothing is counted: {metrics}");
    Ok(figures.iter().sum())
}

async fn writes_survive_a_restart_of_replicas_with_certificates<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    load.more(50).await;
    let acknowledged = load.stop().await;
    cluster.stop_all().await;
    cluster.restart_all().await;
    assert_nothing_lost(cluster, &acknowledged).await;
    cluster.assert_replicas_agree().await;
    for server in cluster.running() {
        assert_eq!(failures(cluster, server).await, Ok(0));
    }
}

async fn the_primary_of_replicas_with_certificates_may_be_killed_under_load<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    let primary = cluster.primary().await;
    load.more(100).await;
    cluster.kill(primary).await;
    load.more(100).await;
    cluster.restart(primary).await;
    load.more(50).await;
    cluster.ready().await;
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    assert_nothing_lost(cluster, &acknowledged).await;
    cluster.assert_replicas_agree().await;
}

async fn a_replica_without_certificate_is_refused_and_does_not_disturb_others(cluster: &mut ProcessTestCluster) {
    let primary = cluster.primary().await;
    let without = (primary + 1) % cluster.servers();
    cluster.stop(without).await;
    let file = cluster.config_file(without).to_path_buf();
    let text = fs::read_to_string(&file).expect("a configuration");
    let (rest, _section) = text.split_once("[replication.tls]").expect("its section comes last");
    fs::write(&file, rest).expect("written");
    cluster.restart(without).await;
    eventually("both sides notice", async || {
        match (failures(cluster, primary).await?, failures(cluster, without).await?) {
            (0, _) | (_, 0) => Err("not yet".to_string()),
            _ => Ok(()),
        }
    })
    .await;
    let client = cluster.client(primary).await;
    client.commit(AtomicCommit::of(vec![Mutation::set("key", "value")])).await.expect("two of three are enough");
    assert!(cluster.is_ready(without).await.is_err(), "it takes part without a certificate");
    cluster.stop(without).await;
    fs::write(&file, text).expect("written");
    cluster.restart(without).await;
    cluster.assert_replicas_agree().await;
}
