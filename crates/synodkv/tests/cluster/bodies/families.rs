//! Tests that column families can be created and dropped through any replica while the cluster
//! runs.

use kv_api::thrift::generated as wire;
use serde_json::Value;

use crate::cluster::{Settings, TestCluster, http_send};
use crate::on_clusters;
use crate::thrift::{RawClient, commit, put};

on_clusters! {
    a_family_is_created_and_dropped_through_any_server(Settings::default()): standalone, in_memory, tcp, processes;
    a_conflict_key_is_checked_in_dropped_families_too(Settings::default()): standalone, in_memory, tcp, processes;
    families_outlive_a_restart(Settings::default()): standalone, in_memory, tcp, processes;
}

async fn change<C: TestCluster>(cluster: &C, server: usize, method: &str, name: &str) -> (u16, Value) {
    http_send(method, &cluster.admin(server), &format!("/column-families/{name}")).await.expect("an answer")
}

async fn create<C: TestCluster>(cluster: &C, server: usize, name: &str) {
    assert_eq!(change(cluster, server, "POST", name).await.0, 200);
}

async fn set_in(client: &mut RawClient, family: &str, key: &[u8]) -> Option<String> {
    let column_family = Some(family.to_string());
    client
        .call(wire::SetRequest { key: key.to_vec(), value: b"v".to_vec(), column_family, auth_token: None })
        .await
        .error_code
}

/// Whether the key exists, or the error code if the family does not.
async fn find_in(client: &mut RawClient, family: &str, key: &[u8]) -> Result<bool, String> {
    let column_family = Some(family.to_string());
    let reply =
        client.call(wire::GetRequest { key: key.to_vec(), column_family, consistency: None, auth_token: None }).await;
    match reply.error_code {
        None => Ok(reply.found),
        Some(code) => Err(code),
    }
}

async fn a_family_is_created_and_dropped_through_any_server<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let unknown = || Err("UNKNOWN_COLUMN_FAMILY".to_string());
    for server in 0..cluster.servers() {
        let (name, other) = (format!("family-{server}"), (server + 1) % cluster.servers());
        assert_eq!(find_in(&mut clients[other], &name, b"k").await, unknown());
        create(cluster, server, &name).await;
        for client in &mut clients {
            assert_eq!(find_in(client, &name, b"k").await, Ok(false));
        }
        assert_eq!(set_in(&mut clients[other], &name, b"k").await, None);
        for client in &mut clients {
            assert_eq!(find_in(client, &name, b"k").await, Ok(true));
            assert_eq!(find_in(client, "default", b"k").await, Ok(false));
        }
        let (code, _) = change(cluster, other, "DELETE", &name).await;
        assert_eq!(code, 200);
        for client in &mut clients {
            assert_eq!(find_in(client, &name, b"k").await, unknown());
            assert_eq!(set_in(client, &name, b"k").await, unknown().err());
        }
        let (code, body) = change(cluster, other, "DELETE", &name).await;
        assert_eq!(code, 404);
        let error = body["error"].as_str().expect("an error");
        assert!(error.starts_with(&format!("Column family '{name}' not found; there is only default")), "{error}");
        // A later family of the same name is empty.
        create(cluster, other, &name).await;
        for client in &mut clients {
            assert_eq!(find_in(client, &name, b"k").await, Ok(false));
        }
        assert_eq!(change(cluster, server, "DELETE", &name).await.0, 200);
    }
    let (code, list) = http_send("GET", &cluster.admin(0), "/column-families").await.expect("an answer");
    assert_eq!(code, 200);
    assert_eq!(list["column_families"].as_array().map(Vec::len), Some(1), "{list}");
    cluster.assert_replicas_agree().await;
}

async fn a_conflict_key_is_checked_in_dropped_families_too<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let last = clients.len() - 1;
    create(cluster, 0, "orders").await;
    assert_eq!(set_in(&mut clients[0], "orders", b"k").await, None);
    let before = clients[last].read_version().await;
    assert_eq!(change(cluster, 0, "DELETE", "orders").await.0, 200);
    // The conflict key names no family, and one that held the key was dropped since.
    let reading = wire::AtomicCommitRequest {
        read_version: before,
        read_conflict_keys: vec![b"k".to_vec()],
        ..commit(vec![put(b"witness", b"v")])
    };
    let reply = clients[last].call(reading).await;
    assert_eq!(reply.error_code.as_deref(), Some("CONFLICT"), "{reply:?}");
    cluster.assert_replicas_agree().await;
}

async fn families_outlive_a_restart<C: TestCluster>(cluster: &mut C) {
    if cluster.forgets_all_at_exit() {
        return;
    }
    create(cluster, 0, "orders").await;
    create(cluster, 0, "gone").await;
    let mut client = RawClient::connect(cluster, 0).await;
    assert_eq!(set_in(&mut client, "orders", b"k").await, None);
    assert_eq!(change(cluster, 0, "DELETE", "gone").await.0, 200);
    for abruptly in [true, false] {
        if abruptly {
            cluster.kill_all().await
        } else {
            cluster.stop_all().await
        }
        cluster.restart_all().await;
        for client in &mut RawClient::to_each(cluster).await {
            assert_eq!(find_in(client, "orders", b"k").await, Ok(true));
            assert_eq!(find_in(client, "gone", b"k").await, Err("UNKNOWN_COLUMN_FAMILY".to_string()));
        }
    }
    cluster.assert_replicas_agree().await;
}
