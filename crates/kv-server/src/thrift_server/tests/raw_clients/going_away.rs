//! Tests of clients that leave before their replies, in each state of a call.

use super::*;

const MIB: usize = 1 << 20;

/// A client that has sent these bytes, of whose calls `started` have begun.
async fn client(stage: &Stage, bytes: Vec<u8>, started: usize) -> TcpStream {
    let mut stream = stage.dial().await;
    stream.write_all(&bytes).await.expect("the server reads");
    stage.script.until_started(started).await;
    stream
}

fn messages(calls: &[ThriftCall]) -> Vec<u8> {
    (1..).zip(calls).flat_map(|(number, call)| message(Encoding::default(), number, call)).collect()
}

fn go(stream: TcpStream, reset: bool) {
    if reset {
        stream.set_zero_linger().expect("a socket");
    }
    drop(stream);
}

#[tokio::test]
async fn calls_whose_client_is_gone_are_made_once_and_leave_nothing() {
    for reset in [false, true] {
        let stage = Stage::start().await;
        stage.script.plan("held", [End::Reply(found(pattern(1, 50_000)))]);
        stage.script.plan("front", [End::Reply(is_set())]);
        stage.script.plan("again", [End::NeedsRoom, End::Reply(rows(vec![1; 10]))]);
        let bytes = messages(&[set("front", vec![1; 300_000]), get("held"), range("again")]);
        let stream = client(&stage, bytes, 3).await;
        stage.script.end("held").await;
        stage.script.end("again").await;
        go(stream, reset);
        assert_others_are_served(&stage).await;
        stage.script.end("front").await;
        stage.until_nothing_is_left().await;
        stage.script.with_state(|state| {
            let times = |key: &str| state.started.iter().filter(|started| *started == key).count();
            assert_eq!((times("front"), times("held")), (1, 1), "{:?}", state.started);
            assert!(times("again") <= 2, "{:?}", state.started);
        });
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_while_its_call_waits_for_room_leaves_nothing() {
    let options = ThriftServerOptions {
        max_value_bytes: 300_000,
        max_reply_memory_bytes: 4 * MIB,
        write_timeout_ms: 0,
        ..Default::default()
    };
    for reset in [false, true] {
        let stage = Stage::with(options.clone()).await;
        // Three reads reserve all memory for short replies.
        stage.script.plan("key", [End::Reply(found(vec![1]))]);
        let holder = client(&stage, messages(&[get("key"), get("key"), get("key")]), 3).await;
        let mut waiting = client(&stage, messages(&[get("key")]), 3).await;
        let pool = &stage.server.pools.replies;
        until("it waits for memory", || pool.is_short()).await;
        waiting.write_all(b"\x80").await.expect("the connection stands");
        go(holder, false);
        go(waiting, reset);
        stage.script.release("key");
        stage.until_nothing_is_left().await;
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_waits_for_room_is_answered_though_its_client_sends_nothing_more() {
    let options =
        ThriftServerOptions { max_value_bytes: 300_000, max_reply_memory_bytes: 4 * MIB, ..Default::default() };
    let stage = Stage::with(options).await;
    stage.script.plan("key", [End::Reply(found(vec![1]))]);
    let holder = client(&stage, messages(&[get("key"), get("key"), get("key")]), 3).await;
    let mut waiting = client(&stage, messages(&[get("key")]), 3).await;
    waiting.shutdown().await.expect("the connection stands");
    until("it waits for memory", || stage.server.pools.replies.is_short()).await;
    // By now the server has had every chance to see the end of the input.
    assert_others_are_served(&stage).await;
    stage.script.release("key");
    assert_eq!(all_seen(&mut waiting).await.len(), 1);
    drop((holder, waiting));
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

#[tokio::test]
async fn the_memory_of_a_long_request_comes_back_when_its_call_has_ended_though_its_reply_is_held() {
    let stage = Stage::start().await;
    for key in ["front", "long", "longest"] {
        stage.script.plan(key, [End::Reply(is_set())]);
    }
    let calls = [set("front", vec![]), set("long", vec![1; 100_000]), set("longest", vec![1; 2 * MIB])];
    let mut stream = client(&stage, messages(&calls), 3).await;
    stage.script.end("longest").await;
    stage.script.end("long").await;
    let pools = &stage.server.pools;
    until("the requests' memory is free", || pools.input.used_bytes() + pools.large_input.used_bytes() == 0).await;
    stage.script.end("front").await;
    stream.shutdown().await.expect("the connection stands");
    assert_eq!(all_seen(&mut stream).await.len(), 3);
    stage.stop().await;
}

#[tokio::test]
async fn a_client_that_is_gone_in_the_middle_of_a_reply_leaves_nothing() {
    for (reset, taken) in [(false, 0), (false, 1), (false, 100_001), (true, 0), (true, 70_000)] {
        let stage = Stage::start().await;
        stage.script.plan("much", [End::Reply(found(pattern(3, 3 * MIB)))]);
        stage.script.plan("running", [End::Reply(found(vec![]))]);
        stage.script.plan("more", [End::NeedsRoom, End::Reply(rows(pattern(4, 3 * MIB)))]);
        let calls = [get("much"), get("much"), get("much"), range("more"), get("running")];
        let mut stream = client(&stage, messages(&calls), 3).await;
        stage.script.release("more");
        stage.script.end("much").await;
        until("nothing more can be sent", || value(&stage.server.counters.bytes_out) > 0).await;
        exactly(&mut stream, taken).await;
        assert_others_are_served(&stage).await;
        go(stream, reset);
        stage.until_nothing_is_left().await;
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_is_gone_in_the_middle_of_a_long_request_leaves_nothing() {
    let stage = Stage::start().await;
    let long = message(Encoding::default(), 1, &set("long", vec![1; 2 * MIB]));
    for (cut, reset) in [(9_000, false), (300_000, true), (MIB, false), (MIB, true)] {
        let mut stream = stage.dial().await;
        let before = value(&stage.server.counters.bytes_in);
        stream.write_all(&long[..cut]).await.expect("the server reads");
        until("it is read", || value(&stage.server.counters.bytes_in) == before + cut as u64).await;
        go(stream, reset);
        stage.until_nothing_is_left().await;
    }
    stage.script.with_state(|state| assert_eq!(state.started, Vec::<String>::new()));
    stage.stop().await;
}

#[tokio::test]
async fn a_connection_gives_back_the_memory_of_a_long_request_though_the_next_one_has_begun() {
    let stage = Stage::start().await;
    for length in [20_000, 2 * MIB] {
        stage.script.forget();
        stage.script.plan("long", [End::Reply(is_set())]);
        stage.script.release("long");
        let mut stream = stage.dial().await;
        let next = message(Encoding::default(), 2, &set("long", vec![1; 10]));
        let bytes = [message(Encoding::default(), 1, &set("long", vec![1; length])), next[..20].to_vec()].concat();
        stream.write_all(&bytes).await.expect("the server reads");
        let expected = reply_bytes(Encoding::default(), Method::SetKey, 1, &is_set());
        assert_eq!(exactly(&mut stream, expected.len()).await, expected);
        let pools = &stage.server.pools;
        until("its memory is free", || pools.input.used_bytes() + pools.large_input.used_bytes() == 0).await;
        stream.write_all(&next[20..]).await.expect("the server reads");
        let expected = reply_bytes(Encoding::default(), Method::SetKey, 2, &is_set());
        assert_eq!(exactly(&mut stream, expected.len()).await, expected);
    }
    stage.stop().await;
}

/// There is memory for one longest request at a time.
#[tokio::test]
async fn a_connection_in_a_request_that_is_still_short_leaves_the_memory_of_a_long_one_to_who_waits_for_it() {
    let options =
        ThriftServerOptions { max_message_bytes: MIB, max_request_memory_bytes: 4 * MIB, ..of_short_values() };
    let stage = Stage::with(options).await;
    stage.script.plan("long", [End::Reply(is_set())]);
    stage.script.release("long");
    let call = message(Encoding::default(), 1, &set("long", vec![1; 900_000]));
    let reply = reply_bytes(Encoding::default(), Method::SetKey, 1, &is_set());
    let mut busy = stage.dial().await;
    busy.write_all(&[&call[..], &call[..100_000]].concat()).await.expect("the server reads");
    assert_eq!(exactly(&mut busy, reply.len()).await, reply);
    let mut other = stage.dial().await;
    other.write_all(&call).await.expect("the server reads");
    until("it waits for memory", || stage.server.pools.large_input.is_short()).await;
    busy.write_all(&call[100_000..100_001]).await.expect("the server reads");
    assert_eq!(exactly(&mut other, reply.len()).await, reply);
    busy.write_all(&call[100_001..]).await.expect("the server reads");
    assert_eq!(exactly(&mut busy, reply.len()).await, reply);
    drop((busy, other));
    stage.until_nothing_is_left().await;
    stage.stop().await;
}
