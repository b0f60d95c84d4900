//! Tests of invalid input, and of handlers that panic.

use kv_api::thrift::generated::SetRequest;
use kv_api::thrift::wire::{Encoding, Protocol};

use super::client::get;
use super::*;

#[tokio::test]
async fn a_panic_costs_one_reply() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send_gets(&["before", "panic", "panic-later", "after"]).await;
    assert_eq!(client.receive_value().await, "before");
    for expected in [2, 3] {
        let (sequence_id, exception) = client.receive_exception().await;
        assert_eq!((sequence_id, exception.kind), (expected, ApplicationErrorKind::InternalError));
        assert!(exception.message.contains("get"), "{exception}");
    }
    assert_eq!(client.receive_value().await, "after");
    assert_eq!(value(&server.counters.handler_panics), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_reply_of_another_method_becomes_an_exception() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send(get("wrong")).await;
    assert_eq!(client.receive_exception().await.1.kind, ApplicationErrorKind::InternalError);
    client.assert_alive().await;
    server.stop().await;
}

#[tokio::test]
async fn garbage_closes_only_its_own_connection() {
    let server = TestServer::with_defaults().await;
    let mut good = server.client().await;
    good.assert_alive().await;
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 100], &[0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        let mut bad = server.client().await;
        bad.send_bytes(garbage).await;
        bad.assert_closed().await;
    }
    good.assert_alive().await;
    assert_eq!(value(&server.counters.protocol_errors), 3);
    server.stop().await;
}

#[tokio::test]
async fn replies_to_earlier_calls_still_leave_before_garbage_closes_the_connection() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send(get("wait-1")).await;
    client.send_bytes(&[0xff; 10]).await;
    server.service.until_started(1).await;
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn an_oversized_declaration_is_refused_before_its_content_arrives() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let mut message = client.encode(get("key"));
    // The length of the key, just before it.
    let at = message.len() - 2 - 3 - 4;
    message[at..at + 4].copy_from_slice(&i32::MAX.to_be_bytes());
    client.send_bytes(&message).await;
    let (sequence_id, exception) = client.receive_exception().await;
    assert_eq!((sequence_id, exception.kind), (1, ApplicationErrorKind::ProtocolError));
    assert!(exception.message.contains("2147483647"), "{exception}");
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_while_its_sender_is_still_sending() {
    let server = TestServer::start(ThriftServerOptions { max_message_bytes: 100_000, ..Default::default() }).await;
    let mut client = server.client().await;
    let message = client.encode(SetRequest::new(b"k".to_vec(), vec![1; 10_000_000], None, None));
    client.send_bytes(&message[..150_000]).await;
    assert!(client.receive_exception().await.1.message.contains("100000"));
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_method_keeps_the_connection() {
    let server = TestServer::with_defaults().await;
    for encoding in Encoding::ALL {
        let mut client = server.client().await;
        client.encoding = encoding;
        let message = client.encode(get("x"));
        let name = message.windows(3).position(|window| window == b"get").expect("the name is in there");
        let mut unknown = message.clone();
        unknown[name..name + 3].copy_from_slice(b"fly");
        client.send_bytes(&unknown).await;
        assert_eq!(client.receive_exception().await.1.kind, ApplicationErrorKind::UnknownMethod);
        client.assert_alive().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn an_exception_waits_for_its_turn() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send(get("wait-1")).await;
    let mut unknown = client.encode(get("x"));
    unknown[8..11].copy_from_slice(b"fly");
    client.send_bytes(&unknown).await;
    client.send(get("after")).await;
    server.service.until_started(2).await;
    server.service.release(1);
    assert_eq!(client.receive_value().await, "wait-1");
    assert_eq!(client.receive_exception().await.0, 2);
    assert_eq!(client.receive_value().await, "after");
    server.stop().await;
}

#[tokio::test]
async fn a_missing_required_field_keeps_the_connection() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let mut message = vec![0x80, 1, 0, 1, 0, 0, 0, 3];
    message.extend(b"get");
    message.extend([0, 0, 0, 77, 12, 0, 1, 0, 0]);
    client.send_bytes(&message).await;
    let (sequence_id, exception) = client.receive_exception().await;
    assert_eq!((sequence_id, exception.kind), (77, ApplicationErrorKind::ProtocolError));
    client.assert_alive().await;
    server.stop().await;
}

#[tokio::test]
async fn nonsense_inside_a_frame_keeps_the_connection() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.encoding = Encoding { protocol: Protocol::Binary, framed: true };
    let mut message = client.encode(get("key"));
    let at = message.len() - 2 - 3 - 4;
    message[at..at + 4].copy_from_slice(&i32::MAX.to_be_bytes());
    client.send_bytes(&message).await;
    assert_eq!(client.receive_exception().await.1.kind, ApplicationErrorKind::ProtocolError);
    client.assert_alive().await;
    server.stop().await;
}

#[tokio::test]
async fn half_a_message_and_a_disconnect_leave_nothing_behind() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let message = client.encode(get("never"));
    client.send_bytes(&message[..message.len() - 5]).await;
    drop(client);
    until("the connection is closed", || {
        value(&server.counters.connections_total) == 1 && value(&server.counters.connections_open) == 0
    })
    .await;
    assert_eq!(server.service.started(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn half_a_message_and_silence_end_the_connection() {
    let server = TestServer::start(ThriftServerOptions { message_timeout_ms: 50, ..Default::default() }).await;
    let mut client = server.client().await;
    let message = client.encode(get("never"));
    client.send_bytes(&message[..message.len() - 5]).await;
    client.assert_closed().await;
    assert_eq!(value(&server.counters.connections_timed_out), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_reply_above_the_limit_becomes_an_exception() {
    let options = ThriftServerOptions { max_reply_bytes: 10_000, max_framed_reply_bytes: 5_000, ..Default::default() };
    let server = TestServer::start(options).await;
    let mut client = server.client().await;
    client.send_gets(&["big-9000", "big-10000"]).await;
    assert_eq!(client.receive_value().await.len(), 9_000);
    assert!(client.receive_exception().await.1.message.contains("RESULT_TOO_LARGE"));
    client.encoding.framed = true;
    client.send_gets(&["big-4000", "big-9000"]).await;
    assert_eq!(client.receive_value().await.len(), 4_000);
    assert!(client.receive_exception().await.1.message.contains("RESULT_TOO_LARGE"));
    assert_eq!(value(&server.counters.oversized_replies), 2);
    server.stop().await;
}
