//! Tests of a server that stops while calls are in each state, and of clients with two connections.

use super::*;

const MIB: usize = 1 << 20;

fn messages(calls: &[ThriftCall]) -> Vec<u8> {
    (1..).zip(calls).flat_map(|(number, call)| message(Encoding::default(), number, call)).collect()
}

fn get_reply(number: i32, value: Vec<u8>) -> Seen {
    let what = What::Reply(found(value));
    Seen { encoding: Encoding::default(), sequence_id: number, name: "get".to_string(), what }
}

async fn until_it_accepts_no_more(stage: &Stage) {
    // A connection notices the shutdown when it is polled, and an idle one is closed then.
    let address = stage.server.address;
    until("no connection is accepted", || std::net::TcpStream::connect(address).is_err()).await;
}

#[tokio::test]
async fn a_server_that_stops_sends_the_replies_of_all_calls_that_began_in_whatever_state_they_are() {
    let stage = Stage::start().await;
    for (key, length) in [("front", 10), ("held", 100_000), ("behind", 3)] {
        stage.script.plan(key, [End::Reply(found(pattern(1, length)))]);
    }
    stage.script.plan("again", [End::NeedsRoom, End::NeedsRoom, End::Reply(rows(pattern(2, 3 * MIB)))]);
    let mut stream = stage.dial().await;
    let calls = [get("front"), get("held"), range("again"), get("behind")];
    let half = message(Encoding::default(), 5, &get("never"));
    let bytes = [messages(&calls), half[..half.len() - 1].to_vec()].concat();
    stream.write_all(&bytes).await.expect("the server reads");
    stage.script.until_started(4).await;
    stage.script.end("held").await;
    stage.script.end("again").await;
    stage.server.shutdown.cancel();
    until_it_accepts_no_more(&stage).await;
    // These bytes arrive too late, and must not prevent the replies from reaching the client.
    stream.write_all(&half[half.len() - 1..]).await.expect("the connection stands");
    stream.write_all(&messages(&calls)).await.expect("the connection stands");
    stage.script.end("behind").await;
    stage.script.end("front").await;
    let all = all_seen(&mut stream).await;
    let again = Seen {
        encoding: Encoding::default(),
        sequence_id: 3,
        name: "getRange".to_string(),
        what: What::Reply(rows(pattern(2, 3 * MIB))),
    };
    let expected =
        [get_reply(1, pattern(1, 10)), get_reply(2, pattern(1, 100_000)), again, get_reply(4, pattern(1, 3))];
    assert!(all == expected, "{:?}", all.iter().map(|seen| seen.sequence_id).collect::<Vec<_>>());
    drop(stream);
    stage.script.with_state(|state| assert!(!state.started.contains(&"never".to_string())));
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

/// The replies fill the buffers of both sockets, and unread requests fill those of the other
/// direction.
#[tokio::test]
async fn a_server_that_stops_in_the_middle_of_a_reply_sends_all_of_it_although_its_client_goes_on_asking() {
    let stage = Stage::start().await;
    stage.script.plan("much", [End::Reply(found(pattern(6, 2 * MIB)))]);
    stage.script.release("much");
    let mut stream = stage.dial().await;
    stream.write_all(&messages(&[get("much"), get("much"), get("much")])).await.expect("the server reads");
    stage.script.until("all have ended", |state| state.ended.len() == 3).await;
    stage.server.shutdown.cancel();
    until_it_accepts_no_more(&stage).await;
    for _ in 0..100 {
        stream.write_all(&messages(&[get("much")])).await.expect("the connection stands");
    }
    let reply = found(pattern(6, 2 * MIB));
    let expected = (1..=3).flat_map(|number| reply_bytes(Encoding::default(), Method::Get, number, &reply));
    let expected: Vec<u8> = expected.collect();
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end");
    assert!(all == expected, "{} of {} bytes, then {read:?}", all.len(), expected.len());
    assert!(read.is_ok(), "{read:?}");
    drop(stream);
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

/// A decoded call that waits for memory has not begun, so it is not made when the server stops.
#[tokio::test]
async fn a_call_that_waits_for_room_when_the_server_stops_is_not_made_and_those_before_are_answered() {
    let options = ThriftServerOptions { max_value_bytes: 300_000, max_buffered_reply_bytes: 1, ..Default::default() };
    let stage = Stage::with(options).await;
    stage.script.plan("first", [End::Reply(found(vec![1]))]);
    let mut stream = stage.dial().await;
    stream.write_all(&messages(&[get("first"), get("second"), get("third")])).await.expect("the server reads");
    stage.script.until_started(1).await;
    assert_others_are_served(&stage).await;
    stage.server.shutdown.cancel();
    until_it_accepts_no_more(&stage).await;
    stage.script.end("first").await;
    assert_eq!(all_seen(&mut stream).await, [get_reply(1, vec![1])]);
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

#[tokio::test]
async fn an_old_connection_that_ends_takes_nothing_from_the_new_one_of_the_same_client() {
    for (reset, finish) in [(false, true), (false, false), (true, false)] {
        let stage = Stage::start().await;
        for key in ["old 1", "old 2", "new 1", "new 2"] {
            stage.script.plan(key, [End::Reply(found(key.as_bytes().to_vec()))]);
        }
        let mut old = stage.dial().await;
        old.write_all(&messages(&[get("old 1"), get("old 2")])).await.expect("the server reads");
        stage.script.until_started(2).await;
        let mut new = stage.dial().await;
        // With the same sequence ids as on the old connection.
        new.write_all(&messages(&[get("new 1"), get("new 2")])).await.expect("the server reads");
        stage.script.until_started(4).await;
        stage.script.with_state(|state| {
            let of = |key: &str| state.connections[key];
            assert_eq!((of("old 1"), of("new 1")), (of("old 2"), of("new 2")));
            assert!(of("new 1") > of("old 1"), "connections are numbered in their order");
        });
        stage.script.end("old 2").await;
        stage.script.end("new 2").await;
        if finish {
            old.shutdown().await.expect("the connection stands");
            stage.script.end("old 1").await;
            let replies = [get_reply(1, b"old 1".to_vec()), get_reply(2, b"old 2".to_vec())];
            assert_eq!(all_seen(&mut old).await, replies);
        } else {
            if reset {
                old.set_zero_linger().expect("a socket");
            }
            drop(old);
            stage.script.end("old 1").await;
        }
        until("the old one is closed", || value(&stage.server.counters.connections_open) == 1).await;
        stage.script.end("new 1").await;
        new.shutdown().await.expect("the connection stands");
        assert_eq!(all_seen(&mut new).await, [get_reply(1, b"new 1".to_vec()), get_reply(2, b"new 2".to_vec())]);
        stage.until_nothing_is_left().await;
        stage.stop().await;
    }
}
