//! Tests of the readable window: versions that leave it are too old everywhere and are removed,
//! except where they are pinned.

use kv_api::thrift::generated as wire;

use crate::cluster::{Settings, TestCluster, http_get};
use crate::on_clusters;
use crate::thrift::{RawClient, commit, operation, put, range, range_at};
use crate::waiting::eventually;

on_clusters! {
    versions_that_have_left_the_window_are_too_old_at_every_server(brief()): standalone, in_memory, tcp, processes;
    a_pinned_version_stays_readable_where_it_is_pinned(brief()): standalone, in_memory, tcp, processes;
    deleted_and_cleared_rows_are_removed_after_the_window(brief()): standalone, in_memory, tcp, processes;
    a_version_that_does_not_exist_yet_is_refused_after_asking(Settings::default()):
        standalone, in_memory, tcp, processes;
}

/// The shortest window that a server takes.
fn brief() -> Settings {
    Settings { readable_window_ms: 1_000, ..Settings::default() }
}

const TOO_OLD: Option<&str> = Some("TRANSACTION_TOO_OLD");

/// Returns once none of these servers can read the version any more. Writes advance replicated
/// time.
async fn has_left(clients: &mut [RawClient], version: i64) {
    for place in 0..clients.len() {
        eventually(&format!("version {version} leaves the window at server {place}"), async || {
            clients[0].set(b"clock", b"tick").await;
            match clients[place].get_at(b"clock", version).await.error_code.as_deref() {
                TOO_OLD => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

async fn versions_that_have_left_the_window_are_too_old_at_every_server<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    clients[0].set(b"k", b"old").await;
    let version = clients[0].read_version().await;
    clients[0].set(b"k", b"new").await;
    has_left(&mut clients, version).await;
    for client in &mut clients {
        let old = client.get_at(b"k", version).await;
        assert_eq!((old.found, old.error_code.as_deref()), (false, TOO_OLD));
        assert_eq!(client.call(range_at(range(b"", b"z"), version)).await.error_code.as_deref(), TOO_OLD);
        let late = wire::AtomicCommitRequest {
            read_version: version,
            read_conflict_keys: vec![b"nobody wrote it".to_vec()],
            ..commit(vec![put(b"witness", b"v")])
        };
        let reply = client.call(late.clone()).await;
        assert_eq!((reply.success, reply.error_code.as_deref()), (false, TOO_OLD), "{reply:?}");
        assert_eq!((reply.retryable, reply.maybe_committed), (Some(true), Some(false)));
        let again = wire::AtomicCommitRequest { read_version: client.read_version().await, ..late };
        assert!(client.call(again).await.success);
        assert_eq!(client.get(b"k").await, Some(b"new".to_vec()));
    }
    cluster.assert_replicas_agree().await;
}

async fn a_pinned_version_stays_readable_where_it_is_pinned<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    clients[0].commit((b'a'..=b'e').map(|key| put(&[key], b"old")).collect()).await;
    let version = clients[0].read_version().await;
    let mut pinning = clients.pop().expect("a server");
    let pin = || wire::PinSnapshotRequest { read_version: version, ttl_ms: Some(600_000), auth_token: None };
    let pinned = pinning.call(pin()).await;
    assert!(pinned.success && pinned.expires_at_ms.is_some(), "{pinned:?}");
    pinning.commit(vec![operation("clear_range", b"b", Some(b"z")), put(b"a", b"new")]).await;
    // Replicas in one server share its pins, so the check needs another clock.
    let newer = pinning.read_version().await;
    has_left(&mut clients, version).await;
    let mut pinning = vec![pinning];
    has_left(&mut pinning, newer).await;
    let mut pinning = pinning.remove(0);
    assert_eq!(pinning.get_at(b"a", version).await.value, b"old");
    let rows = pinning.call(range_at(range(b"", b"z"), version)).await;
    assert_eq!((rows.success, rows.key_values.len()), (true, 5), "{rows:?}");
    assert!(pinning.call(wire::UnpinSnapshotRequest { read_version: version, auth_token: None }).await.success);
    assert_eq!(pinning.get_at(b"a", version).await.error_code.as_deref(), TOO_OLD);
    assert_eq!(pinning.call(pin()).await.error_code.as_deref(), TOO_OLD);
    cluster.assert_replicas_agree().await;
}

/// The value of a metric for each replica of a server.
async fn figures<C: TestCluster>(cluster: &C, server: usize, name: &str) -> Vec<u64> {
    let (_, page) = http_get(&cluster.admin(server), "/metrics").await.expect("metrics");
    let of_replica = page.lines().filter(|line| line.starts_with(&format!("{name}{{replica=")));
    of_replica.map(|line| line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

async fn deleted_and_cleared_rows_are_removed_after_the_window<C: TestCluster>(cluster: &mut C) {
    const ROWS: u64 = 500;
    let mut client = RawClient::connect(cluster, 0).await;
    client.commit((0..ROWS).map(|row| put(format!("a{row:04}").as_bytes(), b"v")).collect()).await;
    client.commit((0..ROWS).map(|row| put(format!("b{row:04}").as_bytes(), b"v")).collect()).await;
    client.commit((0..ROWS).map(|row| operation("delete", format!("a{row:04}").as_bytes(), None)).collect()).await;
    let cleared = client.commit(vec![operation("clear_range", b"b", Some(b"c"))]).await;
    // The versions are removed although nobody writes any more.
    for server in 0..cluster.servers() {
        eventually(&format!("all that is needless is removed at server {server}"), async || {
            let status = cluster.status(server).await?;
            let local = status["replicas"].as_array().expect("replicas");
            for replica in local.iter().filter(|replica| !replica["pending_clears"].is_null()) {
                let oldest = replica["oldest_readable"].as_i64().expect("a version");
                if replica["pending_clears"] != 0 || oldest < cleared {
                    return Err(format!("{replica}"));
                }
            }
            let swept = figures(cluster, server, "synodkv_database_swept_versions").await;
            // A value and a tombstone of each deleted row, and a value of each cleared one.
            match swept.iter().all(|count| *count == 3 * ROWS) {
                true => Ok(()),
                false => Err(format!("{swept:?} versions were removed")),
            }
        })
        .await;
        assert!(figures(cluster, server, "synodkv_database_keys").await.iter().all(|count| *count == 0));
    }
    assert!(client.keys(range(b"", b"z")).await.is_empty());
    cluster.assert_replicas_agree().await;
}

async fn a_version_that_does_not_exist_yet_is_refused_after_asking<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let last = clients.len() - 1;
    let current = clients[0].read_version().await;
    for client in &mut clients {
        assert_eq!(client.get_at(b"k", current + 1).await.error_code.as_deref(), Some("FUTURE_VERSION"));
        let pin = wire::PinSnapshotRequest { read_version: current + 1, ttl_ms: None, auth_token: None };
        assert_eq!(client.call(pin).await.error_code.as_deref(), Some("FUTURE_VERSION"));
    }
    // Wherever it is read or pinned, a server waits until it has applied a version that a client
    // has just received.
    for round in 0..20u8 {
        let version = clients[usize::from(round) % (last + 1)].commit(vec![put(b"k", &[round])]).await;
        for client in &mut clients {
            assert_eq!(client.get_at(b"k", version).await.value, [round]);
            let pin = wire::PinSnapshotRequest { read_version: version, ttl_ms: None, auth_token: None };
            assert!(client.call(pin).await.success);
        }
    }
}
