//! Tests that a commit with an idempotency id happens once, however often and wherever it is sent.

use kv_api::thrift::generated as wire;
use kv_client::{AtomicCommit, Bytes, Client, ErrorCode, Mutation};

use crate::cluster::{Settings, TestCluster};
use crate::on_clusters;
use crate::thrift::{RawClient, commit, operation, put};
use crate::waiting::eventually;

on_clusters! {
    a_repeat_gets_the_first_result_from_every_server_and_after_a_restart(Settings::default()):
        standalone, in_memory, tcp, processes;
    a_repeat_after_a_failover_gets_the_first_result(Settings::default()): in_memory, processes;
    finished_ids_are_forgotten_at_every_replica(Settings::default()): standalone, in_memory, tcp, processes;
}

fn once(id: &[u8], operations: Vec<wire::Operation>) -> wire::AtomicCommitRequest {
    wire::AtomicCommitRequest { idempotency_id: Some(id.to_vec()), ..commit(operations) }
}

async fn a_repeat_gets_the_first_result_from_every_server_and_after_a_restart<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let operations =
        || vec![operation("add", b"sum", Some(&[1])), operation("SET_VERSIONSTAMPED_KEY", &[0; 10], Some(b""))];
    let first = clients[0].call(once(b"one", operations())).await;
    assert!(first.success, "{first:?}");
    for client in &mut clients {
        assert_eq!(client.call(once(b"one", operations())).await, first);
        let other = client.call(once(b"one", vec![put(b"k", b"v")])).await;
        assert_eq!((other.success, other.error_code.as_deref()), (false, Some("INVALID_OPERATION")));
        assert_eq!(client.get(b"sum").await, Some(vec![1]));
    }
    // A refused commit is not remembered.
    let conflicting = wire::AtomicCommitRequest {
        read_version: 1,
        read_conflict_keys: vec![b"sum".to_vec()],
        ..once(b"two", vec![put(b"k", b"v")])
    };
    assert_eq!(clients[0].call(conflicting.clone()).await.error_code.as_deref(), Some("CONFLICT"));
    let again = wire::AtomicCommitRequest { read_version: clients[0].read_version().await, ..conflicting };
    assert!(clients[0].call(again).await.success);
    if cluster.forgets_all_at_exit() {
        return;
    }
    for abruptly in [true, false] {
        if abruptly {
            cluster.kill_all().await
        } else {
            cluster.stop_all().await
        }
        cluster.restart_all().await;
        for client in &mut RawClient::to_each(cluster).await {
            assert_eq!(client.call(once(b"one", operations())).await, first);
            assert_eq!(client.get(b"sum").await, Some(vec![1]));
        }
    }
    cluster.assert_replicas_agree().await;
}

async fn add_once(client: &Client, id: &str) -> Result<kv_client::Committed, kv_client::ClientError> {
    let add =
        Mutation { kind: kv_client::MutationKind::Add as i32, ..Mutation::set("sum", 1u64.to_le_bytes().to_vec()) };
    let idempotency_id = Bytes::from(id.to_string());
    client.commit(AtomicCommit { idempotency_id, ..AtomicCommit::of(vec![add]) }).await
}

/// Repeats the commit until it is answered.
async fn repeated(client: &Client, id: &str) -> kv_client::Committed {
    eventually(&format!("commit {id} has an answer"), async || {
        add_once(client, id).await.map_err(|error| {
            assert!(error.is_retryable() || error.maybe_committed(), "{error}");
            error.to_string()
        })
    })
    .await
}

async fn a_repeat_after_a_failover_gets_the_first_result<C: TestCluster>(cluster: &mut C) {
    let mut sum = 0;
    for round in 0..3 {
        let primary = cluster.primary().await;
        let secondary = (primary + 1) % cluster.servers();
        let through_all = cluster.client_of_all(secondary).await;
        let ids: Vec<String> = (0..5).map(|n| format!("{round}/{n}")).collect();
        let mut first = Vec::new();
        for id in &ids {
            first.push(add_once(&through_all, id).await.expect("a healthy cluster commits"));
        }
        cluster.kill(primary).await;
        for (id, first) in ids.iter().zip(&first) {
            assert_eq!(repeated(&through_all, id).await, *first);
        }
        cluster.restart(primary).await;
        cluster.ready().await;
        // The replica that was away knows them, too.
        let returned = cluster.client(primary).await;
        for (id, first) in ids.iter().zip(&first) {
            assert_eq!(repeated(&returned, id).await, *first);
        }
        sum += ids.len() as u64;
        let found = returned.get(kv_client::KeyRef::new("sum")).await.expect("a value").expect("a sum");
        assert_eq!(found.as_ref(), sum.to_le_bytes());
    }
    let other = AtomicCommit { idempotency_id: "0/0".into(), ..AtomicCommit::of(vec![Mutation::set("k", "v")]) };
    let error = cluster.client(0).await.commit(other).await.expect_err("another body");
    assert_eq!(error.code(), Some(&ErrorCode::InvalidOperation));
    cluster.assert_replicas_agree().await;
}

async fn finished_ids_are_forgotten_at_every_replica<C: TestCluster>(cluster: &mut C) {
    let mut clients = RawClient::to_each(cluster).await;
    let last = clients.len() - 1;
    for number in 0..10u8 {
        assert!(clients[0].call(once(&[number], vec![put(b"k", &[number])])).await.success);
    }
    let finishing = wire::AtomicCommitRequest {
        finished_idempotency_ids: Some((0..9u8).map(|number| vec![number]).collect()),
        ..commit(vec![put(b"x", b"v")])
    };
    assert!(clients[last].call(finishing).await.success);
    // Its id is free, so another commit may use it.
    assert!(clients[0].call(once(&[3], vec![put(b"k", b"again")])).await.success);
    let kept = clients[last].call(once(&[9], vec![put(b"k", b"other")])).await;
    assert_eq!(kept.error_code.as_deref(), Some("INVALID_OPERATION"));
    cluster.assert_replicas_agree().await;
}
