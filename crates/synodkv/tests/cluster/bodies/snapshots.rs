//! Tests that the rows of a version do not change.

use kv_client::{AtomicCommit, KeyRef, Mutation};

use crate::cluster::{Settings, TestCluster, rows_at};
use crate::on_clusters;

on_clusters! {
    a_snapshot_ignores_later_commits_on_every_replica(Settings::default()): standalone, in_memory, tcp, processes;
    an_old_version_is_still_readable_after_a_restart(Settings::default()): standalone, in_memory, tcp, processes;
}

/// One row is changed, one deleted, one added.
async fn change_rows<C: TestCluster>(cluster: &C) -> kv_client::Version {
    let client = cluster.client(0).await;
    let first = vec![Mutation::set("s/changed", "old"), Mutation::set("s/deleted", "old")];
    let version = client.commit(AtomicCommit::of(first)).await.expect("commit").version;
    let second =
        vec![Mutation::set("s/changed", "new"), Mutation::delete("s/deleted"), Mutation::set("s/added", "new")];
    client.commit(AtomicCommit::of(second)).await.expect("commit");
    version
}

async fn assert_snapshot<C: TestCluster>(cluster: &C, version: kv_client::Version) {
    for client in cluster.each_client().await {
        for (key, expected) in [("s/changed", Some("old")), ("s/deleted", Some("old")), ("s/added", None)] {
            let seen = client.snapshot_get(KeyRef::new(key), version).await.expect("snapshot get");
            assert_eq!(seen.as_deref(), expected.map(str::as_bytes), "{key} at version {version}");
        }
        let rows = rows_at(&client, "s/", version).await;
        let expected = ["s/changed", "s/deleted"].map(|key| (key.to_string(), "old".to_string()));
        assert_eq!(rows, expected.into(), "the range at version {version}");
        let now = client.read_version().await.expect("a read version");
        let rows = rows_at(&client, "s/", now).await;
        let expected = ["s/added", "s/changed"].map(|key| (key.to_string(), "new".to_string()));
        assert_eq!(rows, expected.into(), "the newest rows");
    }
}

async fn a_snapshot_ignores_later_commits_on_every_replica<C: TestCluster>(cluster: &mut C) {
    let version = change_rows(cluster).await;
    assert_snapshot(cluster, version).await;
    // Every replica's own database, not only those that its server chooses to read.
    for replica in 0..cluster.replicas() {
        let old = cluster.rows_hash(replica, version).await;
        assert_eq!(old, cluster.rows_hash(0, version).await, "replicas {replica} and 0 at version {version}");
        assert_eq!(old.count, 2);
    }
}

async fn an_old_version_is_still_readable_after_a_restart<C: TestCluster>(cluster: &mut C) {
    let version = change_rows(cluster).await;
    cluster.stop_all().await;
    cluster.restart_all().await;
    assert_snapshot(cluster, version).await;
}
