//! Tests of a replica that is cut off: it acknowledges nothing and returns nothing outdated, the
//! others continue, and all agree once the partition heals.

use kv_client::{Client, ClientError, ErrorCode, KeyRef};
use tokio::task::JoinSet;

use crate::cluster::{Partitionable, Settings, TestCluster};
use crate::clusters::ProcessTestCluster;
use crate::load::{Load, assert_nothing_lost, assert_versions_rise};
use crate::on_clusters;
use crate::waiting::eventually;

on_clusters! {
    an_isolated_secondary_refuses_and_comes_back(Settings::impatient()): in_memory, processes;
    an_isolated_primary_refuses_and_comes_back(Settings::impatient()): in_memory, processes;
    a_primary_whose_messages_are_only_delayed_refuses_and_comes_back(Settings::impatient().with_silence()): processes;
    a_primary_is_isolated_again_and_again_under_load(Settings::impatient()): in_memory, processes;
    writes_continue_when_a_secondary_and_the_primary_are_cut_off_from_each_other(Settings::impatient()): in_memory, processes;
    a_primary_whose_messages_are_lost_is_replaced(Settings::impatient()): in_memory, processes;
    a_primary_that_receives_nothing_is_replaced(Settings::impatient()): in_memory, processes;
    a_primary_whose_messages_are_lost_for_a_while_is_replaced(Settings::impatient().with_silence()): processes;
    without_any_two_that_hear_each_other_nothing_is_acknowledged(Settings::impatient()): in_memory, processes;
    a_primary_that_stood_still_answers_nothing_out_of_date(Settings::impatient()): processes;
}

/// A key whose value shows how recent a read is.
const WITNESS: &str = "witness";

/// The outcomes of the writes sent to a replica while it was cut off.
#[derive(Default)]
struct Refused {
    surely_not: Vec<String>,
    unknown: Vec<String>,
}

/// Sends several writes at a time, none of which may be acknowledged.
async fn assert_writes_refused(client: &Client, name: &str) -> Refused {
    let mut writes = JoinSet::new();
    for number in 0..8 {
        let (client, key) = (client.clone(), format!("refused/{name}/{number}"));
        writes.spawn(async move { (client.set(KeyRef::new(key.clone()), "value").await, key) });
    }
    let mut refused = Refused::default();
    for (outcome, key) in writes.join_all().await {
        match outcome.map_err(|error| (error.code().cloned(), error)) {
            Ok(()) => panic!("{key} was acknowledged by a minority"),
            Err((Some(ErrorCode::NoPrimary), _)) => refused.surely_not.push(key),
            Err((Some(ErrorCode::CommitUnknownResult), _)) => refused.unknown.push(key),
            Err((_, error)) => panic!("{key} ended in neither of the two errors that are allowed: {error:?}"),
        }
    }
    refused
}

fn is_refusal(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::NoPrimary | ErrorCode::Timeout))
}

async fn assert_reads_refused(client: &Client) {
    match client.get(KeyRef::new(WITNESS)).await {
        Ok(value) => panic!("a minority answered a read with {value:?}"),
        Err(error) => assert!(is_refusal(&error), "{error:?}"),
    }
    match client.read_version().await {
        Ok(version) => panic!("a minority gave the read version {version}"),
        Err(error) => assert!(is_refusal(&error), "{error:?}"),
    }
}

/// Writes until it is acknowledged: an impatient server may give up while its cluster elects.
async fn set_at_last(client: &Client, key: &str, value: &str) {
    eventually(&format!("{key} is set to {value}"), async || {
        client.set(KeyRef::new(key.to_string()), value.to_string()).await.map_err(|error| format!("{error:?}"))
    })
    .await;
}

async fn get_at_last(client: &Client, key: &str) -> Option<String> {
    let what = format!("{key} is read");
    let value = eventually(&what, async || {
        client.get(KeyRef::new(key.to_string())).await.map_err(|error| format!("{error:?}"))
    });
    value.await.map(|bytes| String::from_utf8(bytes.to_vec()).expect("tests write text"))
}

/// Checks that refused writes are nowhere, and that unknown ones are everywhere or nowhere.
async fn assert_refused_is_absent(cluster: &impl TestCluster, refused: &Refused) {
    let mut first_seen = Vec::new();
    for (server, client) in cluster.each_client().await.iter().enumerate() {
        for key in &refused.surely_not {
            assert_eq!(get_at_last(client, key).await, None, "{key} was refused with NO_PRIMARY; server {server}");
        }
        for (place, key) in refused.unknown.iter().enumerate() {
            let seen = get_at_last(client, key).await;
            match first_seen.get(place) {
                None => first_seen.push(seen),
                Some(first) => assert_eq!(seen, *first, "{key} on servers {server} and 0"),
            }
        }
    }
}

async fn an_isolated_secondary_refuses_and_comes_back<C: Partitionable>(cluster: &mut C) {
    let secondary = (cluster.primary().await + 1) % cluster.servers();
    assert_isolation_is_safe(cluster, secondary).await;
}

async fn an_isolated_primary_refuses_and_comes_back<C: Partitionable>(cluster: &mut C) {
    let primary = cluster.primary().await;
    assert_isolation_is_safe(cluster, primary).await;
}

async fn a_primary_whose_messages_are_only_delayed_refuses_and_comes_back<C: Partitionable>(cluster: &mut C) {
    an_isolated_primary_refuses_and_comes_back(cluster).await;
}

async fn assert_isolation_is_safe(cluster: &mut impl Partitionable, isolated: usize) {
    let others = cluster.others(isolated);
    let (lonely, majority) = (cluster.client(isolated).await, cluster.client(others[0]).await);
    set_at_last(&majority, WITNESS, "before").await;
    let version = majority.read_version().await.expect("a read version");
    assert_eq!(get_at_last(&lonely, WITNESS).await.as_deref(), Some("before"));
    // These begin before the cut and end after it. Only their acknowledgements count.
    let under_way = Load::start("under way", vec![lonely.clone(), lonely.clone(), lonely.clone()]);
    under_way.more(20).await;

    cluster.isolate(isolated);
    // Once before any replica can know, and once after the others have a primary.
    let mut refused = assert_writes_refused(&lonely, "at once").await;
    set_at_last(&majority, WITNESS, "after").await;
    cluster.primary_among(&others).await;
    assert_reads_refused(&lonely).await;
    let later = assert_writes_refused(&lonely, "later").await;
    refused.surely_not.extend(later.surely_not);
    refused.unknown.extend(later.unknown);
    let old = lonely.snapshot_get(KeyRef::new(WITNESS), version).await.expect("what it has applied it can serve");
    assert_eq!(old.as_deref(), Some(&b"before"[..]), "a version that was given stays readable");
    let unready = cluster.is_ready(isolated).await.expect_err("a minority is not ready");
    assert!(unready.contains("503"), "{unready}");

    cluster.heal();
    under_way.more(20).await;
    let acknowledged = under_way.stop().await;
    assert_versions_rise(&acknowledged);
    assert_eq!(get_at_last(&lonely, WITNESS).await.as_deref(), Some("after"));
    cluster.primary().await;
    cluster.assert_replicas_agree().await;
    assert_refused_is_absent(cluster, &refused).await;
    assert_nothing_lost(cluster, &acknowledged).await;
}

async fn a_primary_is_isolated_again_and_again_under_load<C: Partitionable>(cluster: &mut C) {
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.extend(cluster.each_client().await);
    }
    let load = Load::start("both sides", clients);
    for _ in 0..3 {
        let primary = cluster.primary().await;
        load.more(50).await;
        cluster.isolate(primary);
        // The side without the old primary continues.
        load.more(100).await;
        cluster.heal();
        cluster.ready().await;
    }
    let acknowledged = load.stop().await;
    cluster.primary().await;
    assert_versions_rise(&acknowledged);
    cluster.assert_replicas_agree().await;
    assert_nothing_lost(cluster, &acknowledged).await;
}

async fn writes_continue_when_a_secondary_and_the_primary_are_cut_off_from_each_other<C: Partitionable>(
    cluster: &mut C,
) {
    let primary = cluster.primary().await;
    let (cut_off, hub) = ((primary + 1) % 3, (primary + 2) % 3);
    let clients = [primary, hub, primary, hub];
    let mut connected = Vec::new();
    for server in clients {
        connected.push(cluster.client(server).await);
    }
    let load = Load::start("through the others", connected);
    load.more(50).await;
    cluster.cut(primary, cut_off);
    load.more(300).await;
    // Its answers, if any, must be current.
    if let Ok(seen) = cluster.client(cut_off).await.get(KeyRef::new("load/through the others/00/000000")).await {
        assert!(seen.is_some(), "a read through the replica that is cut off is out of date");
    }
    cluster.heal();
    load.more(50).await;
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    cluster.assert_replicas_agree().await;
    assert_nothing_lost(cluster, &acknowledged).await;
}

async fn a_primary_whose_messages_are_lost_is_replaced<C: Partitionable>(cluster: &mut C) {
    assert_half_deaf_primary_is_replaced(cluster, |cluster, primary, other| cluster.cut_one_way(primary, other)).await;
}

async fn a_primary_that_receives_nothing_is_replaced<C: Partitionable>(cluster: &mut C) {
    assert_half_deaf_primary_is_replaced(cluster, |cluster, primary, other| cluster.cut_one_way(other, primary)).await;
}

async fn a_primary_whose_messages_are_lost_for_a_while_is_replaced<C: Partitionable>(cluster: &mut C) {
    a_primary_whose_messages_are_lost_is_replaced(cluster).await;
}

/// The others elect a primary and continue although the old primary can still send, or still
/// receive.
async fn assert_half_deaf_primary_is_replaced<C: Partitionable>(cluster: &C, cut: impl Fn(&C, usize, usize)) {
    let primary = cluster.primary().await;
    let others = cluster.others(primary);
    let (lonely, majority) = (cluster.client(primary).await, cluster.client(others[0]).await);
    set_at_last(&majority, WITNESS, "before").await;
    let load = Load::start("all", cluster.each_client().await);
    load.more(30).await;
    for &other in &others {
        cut(cluster, primary, other);
    }
    set_at_last(&majority, WITNESS, "after").await;
    // The read may be refused; an answer must be current.
    if let Ok(value) = lonely.get(KeyRef::new(WITNESS)).await {
        assert_eq!(value.as_deref(), Some(&b"after"[..]), "a stale read through a replica that is half cut off");
    }
    assert_ne!(cluster.primary_among(&others).await, primary);
    load.more(30).await;
    cluster.heal();
    load.more(30).await;
    let acknowledged = load.stop().await;
    assert_versions_rise(&acknowledged);
    cluster.primary().await;
    cluster.assert_replicas_agree().await;
    assert_nothing_lost(cluster, &acknowledged).await;
}

async fn without_any_two_that_hear_each_other_nothing_is_acknowledged<C: Partitionable>(cluster: &mut C) {
    let clients = cluster.each_client().await;
    set_at_last(&clients[0], WITNESS, "before").await;
    for server in 0..cluster.servers() {
        cluster.isolate(server);
    }
    let mut refused = Refused::default();
    for (server, client) in clients.iter().enumerate() {
        let each = assert_writes_refused(client, &format!("server {server}")).await;
        refused.surely_not.extend(each.surely_not);
        refused.unknown.extend(each.unknown);
        assert_reads_refused(client).await;
    }
    cluster.heal();
    set_at_last(&clients[0], WITNESS, "after").await;
    cluster.primary().await;
    cluster.assert_replicas_agree().await;
    assert_refused_is_absent(cluster, &refused).await;
}

/// The request is sent while the process is stopped, so that it sees the request before it can
/// learn that it was replaced.
async fn a_primary_that_stood_still_answers_nothing_out_of_date(cluster: &mut ProcessTestCluster) {
    for round in 0..3 {
        let primary = cluster.primary().await;
        let others = cluster.others(primary);
        let (old, new) = (cluster.client(primary).await, cluster.client(others[0]).await);
        set_at_last(&old, WITNESS, "before").await;
        cluster.pause(primary);
        set_at_last(&new, WITNESS, "after").await;
        let questions: Vec<_> = (0..8)
            .map(|_| {
                let old = old.clone();
                tokio::spawn(async move { old.get(KeyRef::new(WITNESS)).await })
            })
            .collect();
        set_at_last(&new, "another", "value").await;
        cluster.resume(primary);
        for question in questions {
            match question.await.expect("no panic") {
                Ok(value) => assert_eq!(value.as_deref(), Some(&b"after"[..]), "round {round}: a stale read"),
                Err(error) => assert!(is_refusal(&error), "{error:?}"),
            }
        }
        cluster.ready().await;
    }
    cluster.assert_replicas_agree().await;
}
