//! Tests that memory is reserved before it is used, and that a call that does not fit waits without
//! delaying calls that do.

use kv_api::thrift::generated::{GetRangeRequest, SetRequest};
use kv_api::thrift::wire;

use super::client::get;
use super::*;

const MIB: usize = 1 << 20;

/// A range whose reply has this many bytes.
fn range(bytes: usize) -> GetRangeRequest {
    let key = bytes.to_string().into_bytes();
    GetRangeRequest::new(key, None, None, None, None, None, None, None, None, None, None, None, None, None)
}

fn set(bytes: usize) -> SetRequest {
    SetRequest::new(b"k".to_vec(), vec![1; bytes], None, None)
}

async fn receive_rows(client: &mut Client) -> usize {
    match client.receive(Method::GetRange).await.1 {
        ThriftReply::GetRange(reply) => reply.key_values[0].value.len(),
        other => panic!("not rows: {other:?}"),
    }
}

async fn until_free(server: &TestServer) {
    let Pools { input, large_input, replies, large_replies } = &server.pools;
    let all = [input, large_input, replies, large_replies];
    until("all memory is free", || all.iter().all(|pool| pool.used_bytes() == 0)).await;
}

#[tokio::test]
async fn a_short_range_is_read_once_and_a_long_one_again_with_room_for_it() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    client.send(range(1_000)).await;
    assert_eq!(receive_rows(&mut client).await, 1_000);
    client.send(range(3 * MIB)).await;
    assert_eq!(receive_rows(&mut client).await, 3 * MIB);
    let rooms = server.service.rooms.lock().expect("no panic while locked").clone();
    assert_eq!(rooms, [256 << 10, 256 << 10, 2 * MIB, 16 * MIB]);
    until_free(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn long_ranges_among_other_calls_are_answered_in_order() {
    let server = TestServer::with_defaults().await;
    let mut client = server.client().await;
    let mut bytes = Vec::new();
    for _ in 0..10 {
        bytes.extend(client.encode(range(MIB)));
        bytes.extend(client.encode(get("between")));
        bytes.extend(client.encode(range(10)));
    }
    client.send_bytes(&bytes).await;
    for _ in 0..10 {
        assert_eq!(receive_rows(&mut client).await, MIB);
        assert_eq!(client.receive_value().await, "between");
        assert_eq!(receive_rows(&mut client).await, 10);
    }
    until_free(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_for_much_and_reads_nothing_gets_one_reply_made() {
    let server = TestServer::with_defaults().await;
    let mut greedy = server.client().await;
    let mut bytes = Vec::new();
    for _ in 0..100 {
        bytes.extend(greedy.encode(range(10 * MIB)));
    }
    greedy.send_bytes(&bytes).await;
    let made =
        || server.service.rooms.lock().expect("no panic while locked").iter().filter(|room| **room > 10 * MIB).count();
    until("the first reply is made", || made() == 1).await;
    let mut other = server.client().await;
    for _ in 0..20 {
        other.assert_alive().await;
        other.send(range(10 * MIB)).await;
        assert_eq!(receive_rows(&mut other).await, 10 * MIB);
    }
    assert_eq!(made(), 21, "socket buffers hold less than one reply, so no other was begun");
    let used = server.pools.large_replies.used_bytes() + server.pools.replies.used_bytes();
    assert!(used <= 11 * MIB, "{used} bytes are reserved for one reply of 10 MiB");
    for _ in 0..100 {
        assert_eq!(receive_rows(&mut greedy).await, 10 * MIB);
    }
    until_free(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_disconnected_when_others_need_the_memory() {
    let options = ThriftServerOptions {
        max_reply_memory_bytes: 16 * MIB,
        spared_idle_ms: 50,
        write_timeout_ms: 0,
        ..Default::default()
    };
    let server = TestServer::start(options).await;
    let mut greedy = server.client().await;
    greedy.send(range(11 * MIB)).await;
    until("its reply is made", || server.service.rooms.lock().expect("no panic while locked").len() == 3).await;
    let mut other = server.client().await;
    other.send(range(10 * MIB)).await;
    assert_eq!(receive_rows(&mut other).await, 10 * MIB);
    assert_eq!(value(&server.counters.connections_timed_out), 1);
    until_free(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_with_too_little_memory_for_all_are_all_answered() {
    let options = ThriftServerOptions {
        max_reply_memory_bytes: 4 * MIB,
        max_request_memory_bytes: 4 * MIB,
        max_message_bytes: MIB,
        max_reply_bytes: 2 * MIB,
        ..Default::default()
    };
    let server = TestServer::start(options).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..24 {
        let mut client = server.client().await;
        clients.spawn(async move {
            let mut bytes = Vec::new();
            for round in 0..10 {
                bytes.extend(client.encode(range(MIB)));
                bytes.extend(client.encode(set((number + round) % 3 * 300_000)));
                bytes.extend(client.encode(get("between")));
            }
            // Sends and reads concurrently. Otherwise both sides would wait for the other to read.
            let (mut reader, mut writer) = tokio::io::split(client.stream);
            let sending = tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.expect("the server reads");
                writer
            });
            let mut left = 30;
            let limits =
                wire::WireLimits { max_message_bytes: 100 << 20, max_string_bytes: 100 << 20, ..Default::default() };
            let (mut scanner, mut input) = (wire::Scanner::new(limits), Vec::new());
            while left > 0 {
                while let Some(envelope) = scanner.scan(&input).expect("the server speaks Thrift") {
                    input.drain(..envelope.end);
                    left -= 1;
                }
                if left > 0 {
                    let read = tokio::io::AsyncReadExt::read_buf(&mut reader, &mut input);
                    let read = tokio::time::timeout(PATIENCE, read).await.expect("it is answered");
                    assert_ne!(read.expect("the connection works"), 0);
                }
            }
            sending.await.expect("no panic")
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("every call is answered");
        assert!(server.pools.replies.used_bytes() <= server.pools.replies.bytes());
    }
    until_free(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn long_requests_wait_for_memory_and_short_ones_pass_by() {
    let options = ThriftServerOptions {
        max_message_bytes: MIB,
        max_request_memory_bytes: 4 * MIB,
        message_timeout_ms: 0,
        ..Default::default()
    };
    let server = TestServer::start(options).await;
    let mut first = server.client().await;
    let message = first.encode(set(900_000));
    first.send_bytes(&message[..600_000]).await;
    let large = server.pools.large_input.clone();
    until("the first one has its memory", || large.used_bytes() == 2 * MIB).await;
    let mut second = server.client().await;
    second.send(set(900_000)).await;
    for _ in 0..20 {
        server.client().await.assert_alive().await;
    }
    assert_eq!(large.used_bytes(), 2 * MIB, "the second one waits");
    first.send_bytes(&message[600_000..]).await;
    for mut client in [first, second] {
        assert!(matches!(client.receive(Method::SetKey).await.1, ThriftReply::SetKey(_)));
    }
    until_free(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_in_the_middle_of_a_long_request_does_not_keep_its_memory_for_ever() {
    let options = ThriftServerOptions { message_timeout_ms: 100, ..Default::default() };
    let server = TestServer::start(options).await;
    let mut client = server.client().await;
    let message = client.encode(set(5 * MIB));
    client.send_bytes(&message[..3 * MIB]).await;
    client.assert_closed().await;
    until_free(&server).await;
    server.stop().await;
}
