//! Tests of the log as the means for a returning replica to catch up, and of its trimming once
//! nobody needs it.

use kv_client::{Client, KeyRef};
use tokio::task::JoinSet;

use super::operators::metric;
use crate::cluster::{Settings, TestCluster};
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    a_returning_replica_catches_up_with_entries_that_are_on_disk_only(Settings::default()): in_memory, processes;
    a_replica_that_was_away_while_the_log_grew_still_finds_what_it_needs(hasty()): in_memory, processes;
    a_log_that_every_database_holds_is_let_go_of(hasty()): in_memory, processes;
}

/// Databases flush after a few megabytes, so that older entries of the log are no longer needed.
fn hasty() -> Settings {
    Settings { write_buffer_mb: 8, ..Settings::default() }
}

/// 20 rows of 50 kB: a segment of the log, which is of 1 MiB here.
const ROWS_PER_ROUND: u64 = 20;

async fn write_a_segment(client: &Client, name: &str) {
    let value = "v".repeat(50_000);
    let mut writes = JoinSet::new();
    for number in 0..ROWS_PER_ROUND {
        let (client, key, value) = (client.clone(), format!("large/{name}/{number}"), value.clone());
        writes.spawn(async move { client.set(KeyRef::new(key), value).await });
    }
    for write in writes.join_all().await {
        write.expect("set");
    }
}

/// The others restart meanwhile, so that no memory holds the entries that it missed.
async fn a_returning_replica_catches_up_with_entries_that_are_on_disk_only<C: TestCluster>(cluster: &mut C) {
    let away = (cluster.primary().await + 1) % cluster.servers();
    cluster.kill(away).await;
    let client = cluster.client_of_all((away + 1) % cluster.servers()).await;
    for round in 0..6 {
        write_a_segment(&client, &round.to_string()).await;
    }
    cluster.stop_all().await;
    for server in (0..cluster.servers()).filter(|server| *server != away) {
        cluster.restart(server).await;
    }
    cluster.ready().await;
    client.set(KeyRef::new("small"), "value").await.expect("set");
    cluster.restart(away).await;
    let value = cluster.client(away).await.get(KeyRef::new("small")).await.expect("get");
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
    assert_eq!(cluster.assert_replicas_agree().await, 6 * ROWS_PER_ROUND + 1);
}

async fn log_bytes(cluster: &impl TestCluster, replica: usize) -> f64 {
    let name = format!("synodkv_log_disk_bytes{{replica=\"{replica}\"}}");
    metric(cluster, cluster.server_of(replica), &name).await
}

/// The others have flushed their rows long ago, and must keep the log for this replica.
async fn a_replica_that_was_away_while_the_log_grew_still_finds_what_it_needs<C: TestCluster>(cluster: &mut C) {
    let away = (cluster.primary().await + 1) % cluster.servers();
    let client = cluster.client_of_all((away + 1) % cluster.servers()).await;
    write_a_segment(&client, "before").await;
    cluster.kill(away).await;
    for round in 0..15 {
        write_a_segment(&client, &round.to_string()).await;
    }
    cluster.restart(away).await;
    assert_eq!(cluster.assert_replicas_agree().await, 16 * ROWS_PER_ROUND);
    cluster.kill_all().await;
    cluster.restart_all().await;
    assert_eq!(cluster.assert_replicas_agree().await, 16 * ROWS_PER_ROUND);
}

async fn a_log_that_every_database_holds_is_let_go_of<C: TestCluster>(cluster: &mut C) {
    let client = cluster.client_of_all(0).await;
    let mut rounds = 0;
    eventually("every log is shorter than what was written", async || {
        write_a_segment(&client, &rounds.to_string()).await;
        rounds += 1;
        let written = (rounds * ROWS_PER_ROUND * 50_000) as f64;
        for replica in 0..cluster.replicas() {
            let kept = log_bytes(cluster, replica).await;
            if kept > written / 2.0 {
                return Err(format!("replica {replica} keeps {kept} of {written} bytes"));
            }
        }
        Ok(())
    })
    .await;
    // The remaining log is sufficient, however the servers end.
    cluster.kill_all().await;
    cluster.restart_all().await;
    assert_eq!(cluster.assert_replicas_agree().await, rounds * ROWS_PER_ROUND);
    write_a_segment(&client, "after a crash").await;
    cluster.stop_all().await;
    cluster.restart_all().await;
    write_a_segment(&client, "after a restart").await;
    assert_eq!(cluster.assert_replicas_agree().await, (rounds + 2) * ROWS_PER_ROUND);
}
