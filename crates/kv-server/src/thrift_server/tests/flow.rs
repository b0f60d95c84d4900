//! Tests of order, concurrency and back-pressure.

use kv_api::thrift::generated::{PingRequest, SetRequest};
use kv_api::thrift::wire::Encoding;

use super::client::get;
use super::*;

/// Options with short values. The number of reads that may run at a time is limited by their
/// longest replies, which must fit into what a connection may hold.
fn of_short_values() -> ThriftServerOptions {
    ThriftServerOptions { max_value_bytes: 100, ..Default::default() }
}

#[tokio::test]
async fn replies_leave_in_the_order_of_the_calls() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send_gets(&["wait-2", "wait-1", "ready"]).await;
    server.service.release(1);
    server.service.release(2);
    assert_eq!(client.receive_value().await, "wait-2");
    assert_eq!(client.receive_value().await, "wait-1");
    assert_eq!(client.receive_value().await, "ready");
    server.stop().await;
}

#[tokio::test]
async fn a_ready_reply_does_not_wait_for_a_slow_later_call() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send_gets(&["ready", "wait-1"]).await;
    assert_eq!(client.receive_value().await, "ready");
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    server.stop().await;
}

#[tokio::test]
async fn a_slow_call_does_not_keep_later_ones_from_starting() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send(get("wait-1")).await;
    server.service.until_started(1).await;
    client.send(get("second")).await;
    server.service.until_started(2).await;
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    assert_eq!(client.receive_value().await, "second");
    server.stop().await;
}

#[tokio::test]
async fn replies_that_become_ready_together_come_with_their_sequence_ids() {
    let server = TestServer::start(of_short_values()).await;
    let mut client = server.client().await;
    client.send_gets(&["wait-1"; 500]).await;
    server.service.until_started(500).await;
    server.service.release(1);
    for expected in 1..=500 {
        assert_eq!(client.receive(Method::Get).await.0, expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_connection_start_in_the_order_of_arrival() {
    let server = TestServer::start(of_short_values()).await;
    let mut client = server.client().await;
    let keys: Vec<String> =
        (0..900).map(|i| if i % 3 == 0 { format!("wait-{}", i % 7) } else { format!("ready {i}") }).collect();
    client.send_gets(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    server.service.until_started(900).await;
    assert_eq!(server.service.started(), keys);
    server.service.release(7);
    for key in &keys {
        assert_eq!(client.receive_value().await, *key);
    }
    server.stop().await;
}

#[tokio::test]
async fn each_encoding_is_answered_in_kind() {
    let server = TestServer::with_defaults().await;
    for encoding in Encoding::ALL {
        let mut client = server.client().await;
        client.encoding = encoding;
        client.send_gets(&["wait-1", "ready"]).await;
        server.service.release(1);
        assert_eq!(client.receive_value().await, "wait-1");
        assert_eq!(client.receive_value().await, "ready");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_arrives_byte_by_byte_is_understood() {
    let server = TestServer::with_defaults().await;
    for encoding in Encoding::ALL {
        let mut client = server.client().await;
        client.encoding = encoding;
        for byte in client.encode(get("slowly")) {
            client.send_bytes(&[byte]).await;
        }
        assert_eq!(client.receive_value().await, "slowly");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_large_message_among_small_ones_is_understood() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let mut bytes = client.encode(get("before"));
    bytes.extend(client.encode(SetRequest::new(b"k".to_vec(), vec![1; 5_000_000], None, None)));
    bytes.extend(client.encode(get("after")));
    client.send_bytes(&bytes).await;
    assert_eq!(client.receive_value().await, "before");
    let ThriftReply::SetKey(reply) = client.receive(Method::SetKey).await.1 else { panic!("not a reply to setKey") };
    assert_eq!(reply.error.as_deref(), Some("5000000"));
    assert_eq!(client.receive_value().await, "after");
    server.stop().await;
}

#[tokio::test]
async fn no_more_calls_run_than_may_be_pipelined() {
    let server = TestServer::start(ThriftServerOptions { max_pipelined: 4, ..Default::default() }).await;
    let mut client = server.client().await;
    client.send_gets(&["wait-1"; 10]).await;
    server.service.until_started(4).await;
    server.client().await.assert_alive().await;
    assert_eq!(server.service.started().iter().filter(|key| *key == "wait-1").count(), 4);
    server.service.release(1);
    for _ in 0..10 {
        assert_eq!(client.receive_value().await, "wait-1");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let key = format!("big-{}", 1 << 20);
    client.send_gets(&vec![key.as_str(); 200]).await;
    let mut other = server.client().await;
    for _ in 0..50 {
        other.assert_alive().await;
    }
    // Socket buffers hold a few of the 200 MiB and the server one or two; the other replies must
    // not have been made.
    let made = server.service.started().iter().filter(|started| **started == key).count();
    assert!(made < 100, "{made} replies were made for a client that reads none");
    for _ in 0..200 {
        assert_eq!(client.receive_value().await.len(), 1 << 20);
    }
    server.stop().await;
}

#[tokio::test]
async fn held_replies_count_as_buffered() {
    let options = ThriftServerOptions { max_buffered_reply_bytes: 1 << 20, ..Default::default() };
    let server = TestServer::start(options).await;
    let mut client = server.client().await;
    let key = format!("big-{}", 1 << 20);
    let mut keys = vec!["wait-1"];
    keys.extend(vec![key.as_str(); 50]);
    client.send_gets(&keys).await;
    server.service.until_started(2).await;
    server.client().await.assert_alive().await;
    assert!(server.service.started().len() < 5, "{:?}", server.service.started());
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    for _ in 0..50 {
        assert_eq!(client.receive_value().await.len(), 1 << 20);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_one_way_call_gets_no_reply() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let mut message = client.encode(get("wait-1"));
    message[3] = 4;
    client.send_bytes(&message).await;
    client.send(PingRequest::default()).await;
    server.service.release(1);
    assert_eq!(client.receive(Method::Ping).await.0, 2);
    server.stop().await;
}

#[tokio::test]
async fn a_call_carries_its_deadline() {
    let server = TestServer::start(ThriftServerOptions { request_timeout_ms: 5_000, ..Default::default() }).await;
    let before = Instant::now();
    server.client().await.assert_alive().await;
    let deadline = server.service.deadlines.lock().expect("no panic while locked")[0];
    assert!(deadline >= before + Duration::from_secs(5) && deadline <= Instant::now() + Duration::from_secs(5));
    server.stop().await;
}
