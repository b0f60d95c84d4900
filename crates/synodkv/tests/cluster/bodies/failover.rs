//! Tests of the loss of one replica and its return.

use std::pin::Pin;
use std::task::Poll;

use kv_client::{AtomicCommit, KeyRef, Mutation};

use super::conflicts::Counter;
use crate::cluster::{Settings, TestCluster, http_post};
use crate::clusters::ProcessTestCluster;
use crate::load::{Load, assert_nothing_lost, assert_versions_rise};
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    killing_the_primary_under_load_loses_no_acknowledged_write(Settings::default()): in_memory, processes;
    writes_continue_without_one_secondary(Settings::default()): in_memory, processes;
    a_counter_stays_exact_when_the_primary_is_killed(Settings::default()): in_memory, processes;
    a_client_of_a_secondary_sees_a_failover_as_a_pause(Settings::default()): in_memory, processes;
    pipelined_commits_of_one_connection_keep_their_order_over_a_failover(Settings::default()): in_memory, processes;
    a_replica_that_lost_its_disk_does_no_harm(Settings::default()): processes;
    an_operator_moves_the_primary_under_load(Settings::default()): in_memory, tcp, processes;
}

async fn killing_the_primary_under_load_loses_no_acknowledged_write<C: TestCluster>(cluster: &mut C) {
    let load = Load::on_all(cluster).await;
    for _ in 0..2 {
        let primary = cluster.primary().await;
        load.more(100).await;
        cluster.kill(primary).await;
        load.more(100).await;
        let next = cluster.primary().await;
        assert_ne!(next, primary, "the primary was killed");
        cluster.restart(primary).await;
        load.more(100).await;
        cluster.ready().await;
    }
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    assert_nothing_lost(cluster, &acknowledged).await;
    cluster.assert_replicas_agree().await;
}

async fn writes_continue_without_one_secondary<C: TestCluster>(cluster: &mut C) {
    let primary = cluster.primary().await;
    let secondary = (primary + 1) % cluster.servers();
    let load = Load::on_all(cluster).await;
    load.more(50).await;
    cluster.kill(secondary).await;
    load.more(200).await;
    cluster.restart(secondary).await;
    load.more(50).await;
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    assert_nothing_lost(cluster, &acknowledged).await;
    cluster.assert_replicas_agree().await;
}

async fn a_counter_stays_exact_when_the_primary_is_killed<C: TestCluster>(cluster: &mut C) {
    let mut clients = Vec::new();
    for server in 0..cluster.servers() {
        clients.push(cluster.client_of_all(server).await);
    }
    let counter = Counter::start(clients);
    counter.more(30).await;
    let primary = cluster.primary().await;
    cluster.kill(primary).await;
    counter.more(30).await;
    cluster.restart(primary).await;
    counter.more(30).await;
    counter.stop_and_check(cluster).await;
    cluster.assert_replicas_agree().await;
}

/// Any server may be asked. No write is refused meanwhile.
async fn an_operator_moves_the_primary_under_load<C: TestCluster>(cluster: &mut C) {
    cluster.ready().await;
    let mut writers = tokio::task::JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for writer in 0..4 {
        let client = cluster.client(writer % cluster.servers()).await;
        let stopped = stopped.clone();
        writers.spawn(async move {
            let mut written = 0;
            while !*stopped.borrow() {
                let key = KeyRef::new(format!("moved/{writer}/{written:06}"));
                client.set(key, "value").await.unwrap_or_else(|error| panic!("write {written} of {writer}: {error}"));
                written += 1;
            }
            written
        });
    }
    for step in 0..6 {
        let leads = primary_of(cluster).await;
        let target = (leads + 1) % cluster.replicas() as u64;
        // Every other time, lets the server choose the most up-to-date replica.
        let path = if step % 2 == 0 { format!("/failover?to={target}") } else { "/failover".to_string() };
        let (code, done) = http_post(&cluster.admin(step % cluster.servers()), &path).await.expect("an answer");
        assert_eq!((code, &done["old_primary"]), (200, &leads.into()), "{done}");
        let new = done["new_primary"].as_u64().expect("an id");
        assert!(if step % 2 == 0 { new == target } else { new != leads }, "{done}");
        assert!(done["pause_at_most_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{done}");
        assert_eq!(primary_of(cluster).await, new);
        let (code, again) = http_post(&cluster.admin(0), &format!("/failover?to={new}")).await.expect("an answer");
        assert_eq!((code, &again["old_primary"], &again["new_primary"]), (200, &new.into(), &new.into()));
    }
    stop.send(true).expect("the writers go on");
    let written: u64 = writers.join_all().await.into_iter().sum();
    assert_eq!(cluster.assert_replicas_agree().await, written);
    let (code, refused) = http_post(&cluster.admin(0), "/failover?to=7").await.expect("an answer");
    assert_eq!((code, &refused["error"]), (400, &"there is no replica 7: there are 0, 1, 2".into()));
}

/// The id of the primary, once all servers name the same one.
async fn primary_of(cluster: &impl TestCluster) -> u64 {
    eventually("all servers name one primary", async || {
        let mut named = Vec::new();
        for server in cluster.running() {
            named.push(cluster.status(server).await?["primary"].as_u64());
        }
        let same = named.iter().all(|id| *id == named[0]);
        named[0].filter(|_| same).ok_or_else(|| format!("they name {named:?}"))
    })
    .await
}

/// Every request succeeds, and the client repeats none.
async fn a_client_of_a_secondary_sees_a_failover_as_a_pause<C: TestCluster>(cluster: &mut C) {
    let primary = cluster.primary().await;
    let mut requests = tokio::task::JoinSet::new();
    for server in (0..cluster.servers()).filter(|server| *server != primary) {
        let client = cluster.client(server).await;
        for task in 0..4 {
            let client = client.clone();
            requests.spawn(async move {
                for number in 0..60 {
                    let key = format!("{server} {task} {number}");
                    let commit = AtomicCommit::of(vec![Mutation::set(key.clone(), "value")]);
                    client.commit(commit).await.unwrap_or_else(|error| panic!("commit of {key}: {error:?}"));
                    let value = client.get(KeyRef::new(key.clone())).await;
                    let value = value.unwrap_or_else(|error| panic!("get of {key}: {error:?}"));
                    assert_eq!(value.as_deref(), Some(&b"value"[..]), "{key}");
                }
            });
        }
    }
    cluster.kill(primary).await;
    requests.join_all().await;
    cluster.restart(primary).await;
    assert_eq!(cluster.assert_replicas_agree().await, 2 * 4 * 60);
}

/// Commits are sent through a secondary without waiting for replies. Every one succeeds, with
/// versions in the order of sending.
async fn pipelined_commits_of_one_connection_keep_their_order_over_a_failover<C: TestCluster>(cluster: &mut C) {
    let primary = cluster.primary().await;
    let client = cluster.client((primary + 1) % cluster.servers()).await;
    let commits = (0..2_000).map(|number| {
        let client = client.clone();
        Box::pin(async move {
            let commit = AtomicCommit::of(vec![Mutation::set("the key", format!("{number}"))]);
            let committed = client.commit(commit).await.unwrap_or_else(|error| panic!("commit {number}: {error:?}"));
            committed.version
        })
    });
    let (first, told) = tokio::sync::oneshot::channel();
    let all = tokio::spawn(in_order(commits.collect(), first));
    // Some are answered, others are in flight.
    told.await.expect("the first commit succeeds");
    cluster.kill(primary).await;
    let versions = all.await.expect("every commit succeeds");
    assert!(versions.is_sorted_by(|a, b| a < b), "versions do not rise: {versions:?}");
    let value = client.get(KeyRef::new("the key")).await.expect("get");
    assert_eq!(value.as_deref(), Some(&b"1999"[..]), "the last write stays");
    cluster.restart(primary).await;
    cluster.assert_replicas_agree().await;
}

/// Polls all futures in this order until all have ended. Signals when the first one has.
async fn in_order<F: Future + Unpin>(mut futures: Vec<F>, first: tokio::sync::oneshot::Sender<()>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let mut first = Some(first);
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs).filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(value) = Pin::new(future).poll(context) {
                *output = Some(value);
            }
        }
        if outputs.iter().any(Option::is_some)
            && let Some(first) = first.take()
        {
            // A caller that does not wait for it has dropped the receiver.
            let _ = first.send(());
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().map(|output| output.expect("all have ended")).collect()
}

/// A replica without its data has forgotten its promises. It must not help to lose what it once
/// acknowledged.
async fn a_replica_that_lost_its_disk_does_no_harm(cluster: &mut ProcessTestCluster) {
    let load = Load::on_all(cluster).await;
    load.more(100).await;
    let acknowledged = load.stop().await;
    let primary = cluster.primary().await;
    let [lost, away] = [1, 2].map(|step| (primary + step) % cluster.servers());
    // The quorum of the last writes is the primary and `lost`.
    cluster.kill(away).await;
    let load = Load::start("without one", vec![cluster.client(primary).await]);
    load.more(50).await;
    let acknowledged = [acknowledged, load.stop().await].concat();
    cluster.kill_all().await;
    // `lost` has no data and `away` lacks the last writes. Together they are a majority, but they
    // must not lead without the third.
    cluster.restart_empty(lost).await;
    cluster.restart(away).await;
    cluster.restart(primary).await;
    crate::waiting::eventually("the two that have their data serve", async || {
        cluster.is_ready(primary).await?;
        cluster.is_ready(away).await
    })
    .await;
    for server in [primary, away] {
        let client = cluster.client(server).await;
        for commit in &acknowledged {
            let value = client.get(KeyRef::new(commit.key.clone())).await.expect("get");
            assert!(value.is_some(), "server {server} lost {commit:?}");
        }
    }
}
