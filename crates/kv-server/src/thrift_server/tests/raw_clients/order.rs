//! Tests of calls of one connection that end in every order.

use super::*;

/// A call of a scene, and the reply that its client must see.
struct Line {
    bytes: Vec<u8>,
    /// `None` if there must be no reply.
    reply: Option<Seen>,
}

/// All orders of all subsets. The calls of a subset end in that order while they run; the others
/// end as soon as they begin.
fn arrangements(items: &[&'static str]) -> Vec<Vec<&'static str>> {
    let mut all = vec![vec![]];
    for item in items {
        let rest: Vec<&'static str> = items.iter().filter(|other| *other != item).copied().collect();
        for mut arrangement in arrangements(&rest) {
            arrangement.insert(0, item);
            all.push(arrangement);
        }
    }
    all
}

fn line(encoding: Encoding, sequence_id: i32, call: ThriftCall, what: What) -> Line {
    let name = call.method().name().to_string();
    let reply = Some(Seen { encoding, sequence_id, name, what });
    Line { bytes: message(encoding, sequence_id, &call), reply }
}

fn exception() -> What {
    What::Exception(ApplicationErrorKind::InternalError)
}

const LIMIT: usize = 5_000;

/// A short read, a write, an unknown method, a one-way write, a reply above the limit, and a panic.
fn mixed(script: &Scripted, encoding: Encoding, ids: [i32; 6]) -> Vec<Line> {
    script.plan("read", [End::Reply(found(b"short".to_vec()))]);
    script.plan("write", [End::Reply(is_set())]);
    script.plan("one way", [End::Reply(is_set())]);
    script.plan("too long", [End::Reply(found(vec![1; LIMIT]))]);
    script.plan("panic", [End::Panic]);
    let unknown = Line {
        bytes: of_unknown_method(message(encoding, ids[2], &get("x"))),
        reply: Some(Seen {
            encoding,
            sequence_id: ids[2],
            name: "fly".to_string(),
            what: What::Exception(ApplicationErrorKind::UnknownMethod),
        }),
    };
    let one_way =
        Line { bytes: of_kind(encoding, message(encoding, ids[3], &set("one way", vec![])), ONE_WAY), reply: None };
    vec![
        line(encoding, ids[0], get("read"), What::Reply(found(b"short".to_vec()))),
        line(encoding, ids[1], set("write", vec![2; 50]), What::Reply(is_set())),
        unknown,
        one_way,
        line(encoding, ids[4], get("too long"), exception()),
        line(encoding, ids[5], get("panic"), exception()),
    ]
}

/// Ranges that are made again, a reply of the wrong method, and replies beyond what may be
/// buffered.
fn made_again(script: &Scripted, encoding: Encoding, ids: [i32; 6]) -> Vec<Line> {
    let long = || rows(pattern(7, 3_000));
    script.plan("again", [End::NeedsRoom, End::Reply(long())]);
    script.plan("much", [End::Reply(found(pattern(8, 4_000)))]);
    script.plan("wrong", [End::Reply(is_set())]);
    // This one is not answered either.
    script.plan("again, one way", [End::NeedsRoom, End::Panic]);
    let one_way =
        Line { bytes: of_kind(encoding, message(encoding, ids[4], &range("again, one way")), ONE_WAY), reply: None };
    let no_call = Line {
        // A reply or an exception in place of a call.
        bytes: {
            let kind = if encoding.protocol == Protocol::Binary { 2 } else { 3 };
            of_kind(encoding, message(encoding, ids[5], &get("x")), kind)
        },
        reply: Some(Seen {
            encoding,
            sequence_id: ids[5],
            name: "get".to_string(),
            what: What::Exception(ApplicationErrorKind::InvalidMessageType),
        }),
    };
    vec![
        line(encoding, ids[0], get("much"), What::Reply(found(pattern(8, 4_000)))),
        line(encoding, ids[1], range("again"), What::Reply(long())),
        line(encoding, ids[2], get("wrong"), exception()),
        one_way,
        no_call,
    ]
}

type Scene = fn(&Scripted, Encoding, [i32; 6]) -> Vec<Line>;

/// Sequence ids belong to the client, so any number is allowed, even twice.
fn ids(case: usize) -> [i32; 6] {
    let mixed = |place: usize| (case * 6 + place).wrapping_mul(0x9e37_79b1) as i32;
    [mixed(0), i32::MIN, mixed(2), mixed(3), -1, mixed(5)]
}

async fn play(scene: Scene, keys: &[&'static str], encoding: Encoding, options: ThriftServerOptions) {
    let max_pipelined = options.max_pipelined;
    let stage = Stage::with(options).await;
    let (mut stream, mut input) = (stage.dial().await, Vec::new());
    for (case, order) in arrangements(keys).iter().enumerate() {
        stage.script.forget();
        let lines = scene(&stage.script, encoding, ids(case));
        for key in keys.iter().filter(|key| !order.contains(key)) {
            stage.script.release(key);
        }
        let bytes: Vec<u8> = lines.iter().flat_map(|line| line.bytes.clone()).collect();
        stream.write_all(&bytes).await.expect("the server reads");
        // If all calls may run at a time, all do; calls after a range that is to be made again wait
        // for it.
        if !keys.contains(&"again") && max_pipelined > lines.len() {
            stage.script.until_started(keys.len()).await;
        }
        for (place, key) in order.iter().enumerate() {
            // The first of those that have not ended always runs.
            let first = keys.iter().find(|key| order[place..].contains(key)).expect("this one at least");
            stage.script.until("the first has started", |state| state.started.iter().any(|key| key == first)).await;
            stage.script.end(key).await;
        }
        for expected in lines.into_iter().filter_map(|line| line.reply) {
            assert_eq!(next(&mut stream, &mut input).await, expected, "ended in the order {order:?}");
        }
    }
    stream.shutdown().await.expect("the connection stands");
    assert_eq!(all_seen(&mut stream).await, [], "more replies than calls");
    assert_eq!(input, b"", "more replies than calls");
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

async fn next(stream: &mut TcpStream, input: &mut Vec<u8>) -> Seen {
    let mut scanner = Scanner::new(limits());
    loop {
        if let Some(envelope) = scanner.scan(input).expect("the server speaks Thrift") {
            let message: Vec<u8> = input.drain(..envelope.end).collect();
            return seen(&message, envelope.encoding);
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(input)).await.expect("the server answers");
        assert_ne!(read.expect("the connection works"), 0, "the server closed the connection");
    }
}

fn of_short_replies() -> ThriftServerOptions {
    ThriftServerOptions { max_reply_bytes: LIMIT, max_framed_reply_bytes: LIMIT, ..of_short_values() }
}

#[tokio::test]
async fn whatever_order_calls_end_in_each_gets_its_reply_in_its_turn() {
    for encoding in Encoding::ALL {
        for max_pipelined in [1, 2, 1_024] {
            let options = ThriftServerOptions { max_pipelined, ..of_short_replies() };
            play(mixed, &["read", "write", "one way", "too long", "panic"], encoding, options).await;
        }
    }
}

#[tokio::test]
async fn whatever_order_calls_end_in_when_some_are_made_again_each_gets_its_reply_in_its_turn() {
    let keys = ["much", "again", "wrong", "again, one way"];
    for encoding in Encoding::ALL {
        // Ranges are made again only if a longer reply is allowed than that of the first attempt.
        play(made_again, &keys, encoding, of_short_values()).await;
        let options = ThriftServerOptions { max_buffered_reply_bytes: 1, ..of_short_values() };
        play(made_again, &keys, encoding, options).await;
        for max_pipelined in [1, 2] {
            let options = ThriftServerOptions { max_pipelined, ..of_short_values() };
            play(made_again, &keys, encoding, options).await;
        }
    }
}
