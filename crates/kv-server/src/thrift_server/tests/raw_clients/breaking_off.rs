//! Tests of requests that end at any byte.

use super::*;

const KEYS: [&str; 3] = ["first", "second", "third"];

/// Three calls and their replies.
fn calls(encoding: Encoding) -> Vec<(Vec<u8>, Seen)> {
    let calls = [get(KEYS[0]), set(KEYS[1], vec![5; 20]), get(KEYS[2])];
    let replies = [found(pattern(1, 9)), is_set(), found(vec![])];
    let pair = |(number, (call, reply)): (i32, (ThriftCall, ThriftReply))| {
        let name = call.method().name().to_string();
        (message(encoding, number, &call), Seen { encoding, sequence_id: number, name, what: What::Reply(reply) })
    };
    (7..).zip(calls.into_iter().zip(replies)).map(pair).collect()
}

fn plan(script: &Scripted) {
    script.forget();
    script.plan(KEYS[0], [End::Reply(found(pattern(1, 9)))]);
    script.plan(KEYS[1], [End::Reply(is_set())]);
    script.plan(KEYS[2], [End::Reply(found(vec![]))]);
}

/// For each way to cut the calls: the bytes before the cut, and how many calls they hold.
fn cuts(calls: &[(Vec<u8>, Seen)]) -> Vec<(Vec<u8>, usize)> {
    let all: Vec<u8> = calls.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    let ends: Vec<usize> = calls
        .iter()
        .scan(0, |end, (bytes, _)| {
            *end += bytes.len();
            Some(*end)
        })
        .collect();
    let whole = |cut: usize| ends.iter().filter(|end| **end <= cut).count();
    (0..=all.len()).map(|cut| (all[..cut].to_vec(), whole(cut))).collect()
}

/// Ends the calls from the last to the first. Those that have not begun end as soon as they begin.
async fn end_all(script: &Scripted) {
    for key in KEYS.iter().rev() {
        script.end(key).await;
    }
}

#[tokio::test]
async fn of_requests_cut_at_any_byte_the_whole_ones_are_answered_though_nothing_more_will_come() {
    for (encoding, max_pipelined) in Encoding::ALL.into_iter().flat_map(|e| [(e, 1), (e, 2), (e, 1_024)]) {
        let stage = Stage::with(ThriftServerOptions { max_pipelined, ..of_short_values() }).await;
        for (bytes, whole) in cuts(&calls(encoding)) {
            plan(&stage.script);
            let mut stream = stage.dial().await;
            stream.write_all(&bytes).await.expect("the server reads");
            stream.shutdown().await.expect("the connection stands");
            stage.script.until_started(whole.min(max_pipelined)).await;
            end_all(&stage.script).await;
            let expected: Vec<Seen> = calls(encoding).into_iter().take(whole).map(|(_, seen)| seen).collect();
            let cut = bytes.len();
            assert_eq!(all_seen(&mut stream).await, expected, "cut after {cut} bytes, {max_pipelined} at a time");
            stage.script.with_state(|state| assert_eq!(state.started, KEYS[..whole]));
        }
        stage.until_nothing_is_left().await;
        assert_eq!(value(&stage.server.counters.protocol_errors), 0, "an end is no offence");
        stage.stop().await;
    }
}

#[tokio::test]
async fn requests_that_end_before_all_calls_could_begin_are_all_answered() {
    for max_pipelined in [1, 2, 3] {
        let stage = Stage::with(ThriftServerOptions { max_pipelined, ..of_short_values() }).await;
        stage.script.plan("key", [End::Reply(found(vec![1]))]);
        let mut stream = stage.dial().await;
        let many: Vec<u8> = (0..50).flat_map(|number| message(Encoding::default(), number, &get("key"))).collect();
        stream.write_all(&many).await.expect("the server reads");
        stream.shutdown().await.expect("the connection stands");
        stage.script.until_started(max_pipelined).await;
        stage.script.release("key");
        let ids: Vec<i32> = all_seen(&mut stream).await.into_iter().map(|seen| seen.sequence_id).collect();
        assert_eq!(ids, (0..50).collect::<Vec<_>>(), "{max_pipelined} at a time");
        stage.until_nothing_is_left().await;
        stage.stop().await;
    }
}

#[tokio::test]
async fn of_requests_cut_at_any_byte_by_a_client_that_goes_away_nothing_is_left() {
    for encoding in Encoding::ALL {
        for reset in [false, true] {
            let stage = Stage::start().await;
            for (bytes, whole) in cuts(&calls(encoding)) {
                plan(&stage.script);
                let mut stream = stage.dial().await;
                stream.write_all(&bytes).await.expect("the server reads");
                // A reset discards unread input, so then the calls need not begin.
                stage.script.until_started(whole).await;
                if reset {
                    stream.set_zero_linger().expect("a socket");
                }
                drop(stream);
                end_all(&stage.script).await;
                stage.until_no_connection_is_left().await;
                stage.script.with_state(|state| assert_eq!(state.started, KEYS[..whole]));
            }
            stage.until_nothing_is_left().await;
            assert_eq!(value(&stage.server.counters.protocol_errors), 0, "an end is no offence");
            stage.stop().await;
        }
    }
}

#[tokio::test]
async fn requests_in_any_two_pieces_are_understood_like_one() {
    for encoding in Encoding::ALL {
        let stage = Stage::start().await;
        let mut stream = stage.dial().await;
        let all: Vec<u8> = calls(encoding).into_iter().flat_map(|(bytes, _)| bytes).collect();
        let expected: Vec<u8> = [
            reply_bytes(encoding, Method::Get, 7, &found(pattern(1, 9))),
            reply_bytes(encoding, Method::SetKey, 8, &is_set()),
            reply_bytes(encoding, Method::Get, 9, &found(vec![])),
        ]
        .concat();
        for (bytes, whole) in cuts(&calls(encoding)) {
            plan(&stage.script);
            stream.write_all(&bytes).await.expect("the server reads");
            stage.script.until_started(whole).await;
            stage.script.with_state(|state| assert_eq!(state.started, KEYS[..whole]));
            stream.write_all(&all[bytes.len()..]).await.expect("the server reads");
            stage.script.until_started(3).await;
            end_all(&stage.script).await;
            assert_eq!(exactly(&mut stream, expected.len()).await, expected, "in two from byte {}", bytes.len());
        }
        stage.stop().await;
    }
}
