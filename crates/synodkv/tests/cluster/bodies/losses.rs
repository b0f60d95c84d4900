//! Tests of replicas that lost something: entries that the others no longer have, parts of their
//! log, their database, everything.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kv_client::{Client, KeyRef};
use tokio::task::JoinSet;

use super::operators::metric;
use crate::cluster::{Settings, TestCluster};
use crate::clusters::ProcessTestCluster;
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    a_replica_that_was_away_for_too_long_gets_a_copy_of_a_database(short_log()): in_memory, processes;
    a_replaced_disk_votes_again_once_it_has_caught_up(short_log()): processes;
    a_replaced_disk_learns_and_does_not_vote_before_it_may(without_readmission().refusing_soon()): processes;
    a_damaged_log_is_mended_from_the_others(Settings::default()): processes;
    a_damaged_database_is_rebuilt_from_another(short_log()): processes;
}

/// Logs are trimmed after a few megabytes, even if a replica still needs them.
fn short_log() -> Settings {
    Settings { write_buffer_mb: 8, short_log: true, ..Settings::default() }
}

fn without_readmission() -> Settings {
    Settings { readmits: false, ..Settings::default() }
}

const ROWS_PER_ROUND: u64 = 20;

/// Writes a megabyte.
async fn write(client: &Client, round: u64) {
    let value = "v".repeat(50_000);
    let mut writes = JoinSet::new();
    for number in 0..ROWS_PER_ROUND {
        let (client, key, value) = (client.clone(), format!("row/{round}/{number}"), value.clone());
        writes.spawn(async move { client.set(KeyRef::new(key), value).await });
    }
    for written in writes.join_all().await {
        written.expect("set");
    }
}

/// Writes until no running server has the beginning of the log any more. Returns the number of
/// rounds written.
async fn outrun(cluster: &impl TestCluster, client: &Client, mut round: u64, away: usize) -> u64 {
    let begin = round;
    eventually("the logs have been let go of", async || {
        write(client, round).await;
        round += 1;
        for server in (0..cluster.servers()).filter(|server| *server != away) {
            let name = format!("synodkv_log_disk_bytes{{replica=\"{server}\"}}");
            let kept = metric(cluster, server, &name).await;
            let written = ((round - begin) * ROWS_PER_ROUND * 50_000) as f64;
            if round < begin + 12 || kept > written / 2.0 {
                return Err(format!("server {server} keeps {kept} of {written} bytes"));
            }
        }
        Ok(())
    })
    .await;
    round
}

async fn snapshots_installed(cluster: &impl TestCluster, server: usize) -> f64 {
    metric(cluster, server, &format!("synodkv_snapshots_installed_total{{replica=\"{server}\"}}")).await
}

async fn a_replica_that_was_away_for_too_long_gets_a_copy_of_a_database<C: TestCluster>(cluster: &mut C) {
    let away = (cluster.primary().await + 1) % cluster.servers();
    let client = cluster.client_of_all((away + 1) % cluster.servers()).await;
    write(&client, 0).await;
    cluster.kill(away).await;
    let mut rounds = outrun(cluster, &client, 1, away).await;
    // So that no memory holds the entries that it missed.
    for server in (0..cluster.servers()).filter(|server| *server != away) {
        cluster.stop(server).await;
        cluster.restart(server).await;
    }
    cluster.restart(away).await;
    // These are written while the copy is in progress.
    for _ in 0..5 {
        write(&client, rounds).await;
        rounds += 1;
    }
    assert_eq!(cluster.assert_replicas_agree().await, rounds * ROWS_PER_ROUND);
    assert!(snapshots_installed(cluster, away).await >= 1.0, "it caught up without a copy");
    // From now on the copy is its database, however the servers end.
    cluster.kill_all().await;
    cluster.restart_all().await;
    write(&cluster.client(away).await, rounds).await;
    assert_eq!(cluster.assert_replicas_agree().await, (rounds + 1) * ROWS_PER_ROUND);
}

async fn a_replaced_disk_votes_again_once_it_has_caught_up(cluster: &mut ProcessTestCluster) {
    let replaced = (cluster.primary().await + 1) % cluster.servers();
    let [voter, last] = [1, 2].map(|step| (replaced + step) % cluster.servers());
    let client = cluster.client_of_all(voter).await;
    cluster.kill(replaced).await;
    let rounds = outrun(cluster, &client, 0, replaced).await;
    cluster.restart_empty(replaced).await;
    assert_eq!(cluster.assert_replicas_agree().await, rounds * ROWS_PER_ROUND);
    eventually("the new disk votes", async || {
        for server in 0..cluster.servers() {
            let status = cluster.status(server).await?;
            if status["replicas"][replaced]["role"] == "learner" || status["epoch"] != 2 {
                return Err(format!("as server {server} sees it: {status}"));
            }
        }
        Ok(())
    })
    .await;
    // It makes up a majority with one of the others.
    cluster.kill(last).await;
    write(&cluster.client(voter).await, rounds).await;
    cluster.kill(voter).await;
    cluster.restart(last).await;
    write(&cluster.client(replaced).await, rounds + 1).await;
    cluster.restart(voter).await;
    assert_eq!(cluster.assert_replicas_agree().await, (rounds + 2) * ROWS_PER_ROUND);
}

async fn a_replaced_disk_learns_and_does_not_vote_before_it_may(cluster: &mut ProcessTestCluster) {
    let replaced = (cluster.primary().await + 1) % cluster.servers();
    let [voter, last] = [1, 2].map(|step| (replaced + step) % cluster.servers());
    let client = cluster.client_of_all(voter).await;
    write(&client, 0).await;
    cluster.kill(replaced).await;
    cluster.restart_empty(replaced).await;
    assert_eq!(cluster.assert_replicas_agree().await, ROWS_PER_ROUND);
    for server in 0..cluster.servers() {
        let status = cluster.status(server).await.expect("the status");
        assert_eq!(status["replicas"][replaced]["role"], "learner", "as server {server} sees it: {status}");
        assert_eq!(status["replicas"][replaced]["observer"], true, "as server {server} sees it: {status}");
    }
    // One of the two voting replicas is not a majority, with or without the observer.
    cluster.kill(last).await;
    let alone = cluster.client(voter).await;
    let refused = alone.set(KeyRef::new("without a majority"), "value").await;
    assert!(refused.is_err(), "a write was acknowledged by one voter and an observer");
    cluster.restart(last).await;
    cluster.ready().await;
    write(&client, 1).await;
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the server") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Flips bits in the middle of the written part of a file.
fn damage(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("a file of the server");
    let mut bytes = [0; 600];
    file.read_exact_at(&mut bytes, at).expect("so long a file");
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5A);
    file.write_all_at(&bytes, at).expect("writing");
}

async fn a_damaged_log_is_mended_from_the_others(cluster: &mut ProcessTestCluster) {
    let client = cluster.client_of_all(0).await;
    for round in 0..3 {
        write(&client, round).await;
    }
    cluster.kill_all().await;
    let logs = files_below(&cluster.data_dir(1), ".wal");
    for log in &logs[..logs.len() - 1] {
        damage(log, 300_000);
    }
    cluster.restart_all().await;
    assert_eq!(cluster.assert_replicas_agree().await, 3 * ROWS_PER_ROUND);
    cluster.kill_all().await;
    cluster.restart_all().await;
    assert_eq!(cluster.assert_replicas_agree().await, 3 * ROWS_PER_ROUND);
}

async fn a_damaged_database_is_rebuilt_from_another(cluster: &mut ProcessTestCluster) {
    let victim = (cluster.primary().await + 1) % cluster.servers();
    let client = cluster.client_of_all((victim + 1) % cluster.servers()).await;
    let rounds = outrun(cluster, &client, 0, cluster.servers()).await;
    cluster.stop(victim).await;
    let files = files_below(&cluster.data_dir(victim), ".sst");
    assert!(!files.is_empty(), "the database has files");
    for file in files {
        let bytes = fs::metadata(&file).expect("a file").len();
        damage(&file, bytes.saturating_sub(700));
    }
    cluster.restart(victim).await;
    write(&client, rounds).await;
    assert_eq!(cluster.assert_replicas_agree().await, (rounds + 1) * ROWS_PER_ROUND);
    assert!(snapshots_installed(cluster, victim).await >= 1.0, "it serves from what is damaged");
}
