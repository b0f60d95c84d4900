//! Tests of how connections begin and end.

use super::client::get;
use super::*;

#[tokio::test]
async fn a_client_that_closes_its_sending_side_still_gets_its_replies() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send_gets(&["wait-1", "ready"]).await;
    client.finish().await;
    server.service.until_started(2).await;
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    assert_eq!(client.receive_value().await, "ready");
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_answers_running_calls() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send(get("wait-1")).await;
    server.service.until_started(1).await;
    server.shutdown.cancel();
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_closes_idle_connections_and_its_port() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.assert_alive().await;
    let address = server.address;
    server.stop().await;
    client.assert_closed().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn calls_that_do_not_end_are_given_up_after_the_drain_timeout() {
    let server = TestServer::start(ThriftServerOptions { drain_timeout_ms: 10, ..Default::default() }).await;
    let mut client = server.client().await;
    client.send(get("wait-1")).await;
    server.service.until_started(1).await;
    server.stop().await;
    client.assert_closed().await;
}

#[tokio::test]
async fn a_connection_above_the_limit_is_closed_at_once() {
    let server = TestServer::start(ThriftServerOptions { max_connections: 2, ..Default::default() }).await;
    let (mut first, mut second) = (server.client().await, server.client().await);
    first.assert_alive().await;
    second.assert_alive().await;
    server.client().await.assert_closed().await;
    assert_eq!(value(&server.counters.connections_refused), 1);
    drop(first);
    until("one connection is left", || value(&server.counters.connections_open) == 1).await;
    server.client().await.assert_alive().await;
    server.stop().await;
}

#[tokio::test]
async fn at_the_limit_the_longest_idle_connection_makes_room() {
    let options = ThriftServerOptions { max_connections: 2, spared_idle_ms: 0, ..Default::default() };
    let server = TestServer::start(options).await;
    let (mut busy, mut idle) = (server.client().await, server.client().await);
    idle.assert_alive().await;
    busy.send(get("wait-1")).await;
    server.service.until_started(2).await;
    server.client().await.assert_alive().await;
    idle.assert_closed().await;
    assert_eq!((value(&server.counters.connections_displaced), value(&server.counters.connections_refused)), (1, 0));
    server.service.release(1);
    assert_eq!(busy.receive_value().await, "wait-1");
    server.stop().await;
}

#[test]
fn idle_connections_stay_unless_a_timeout_is_set() {
    assert_eq!(ThriftServerOptions::default().idle_timeout(), None);
}

#[tokio::test]
async fn a_client_that_reads_no_replies_is_disconnected() {
    let server = TestServer::start(ThriftServerOptions { write_timeout_ms: 50, ..Default::default() }).await;
    let mut client = server.client().await;
    let key = format!("big-{}", 1 << 20);
    client.send_gets(&vec![key.as_str(); 100]).await;
    until("it is disconnected", || value(&server.counters.connections_timed_out) == 1).await;
    until("its memory is free", || server.pools.replies.used_bytes() == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = TestServer::start(ThriftServerOptions { idle_timeout_s: 1, ..Default::default() }).await;
    let mut client = server.client().await;
    client.assert_alive().await;
    client.assert_closed().await;
    assert_eq!(value(&server.counters.connections_timed_out), 1);
    server.stop().await;
}

#[tokio::test]
async fn bytes_and_connections_are_counted() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let message = client.encode(get("x"));
    client.send_bytes(&message).await;
    let (reply, _) = client.receive_bytes().await.expect("a reply");
    let counters = &server.counters;
    assert_eq!(value(&counters.bytes_in), message.len() as u64);
    assert_eq!(value(&counters.bytes_out), reply.len() as u64);
    assert_eq!((value(&counters.connections_open), value(&counters.connections_total)), (1, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_senseless_setting_is_named() {
    let options = ThriftServerOptions { max_pipelined: 0, ..Default::default() };
    let service = Arc::new(FakeService::default());
    let refused = ThriftServer::bind("127.0.0.1:0", options, service).await.err().expect("refused");
    assert_eq!(refused.to_string(), "max_pipelined is 0, but must be at least 1");
}
