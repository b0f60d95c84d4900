//! Tests of frames and headers that contradict their content.

use super::*;

const BINARY: Encoding = Encoding { protocol: Protocol::Binary, framed: false };
const COMPACT: Encoding = Encoding { protocol: Protocol::Compact, framed: false };

/// A server's reaction to bytes that follow a running call.
struct Said {
    /// Sequence ids and methods that were answered with an exception.
    refused: Vec<(i32, String)>,
    /// Whether a call after those bytes was answered.
    goes_on: bool,
}

/// Sends bytes after a running call, and another call after them.
async fn say(stage: &Stage, encoding: Encoding, bytes: &[u8]) -> Said {
    stage.script.forget();
    stage.script.plan("before", [End::Reply(found(vec![1]))]);
    stage.script.plan("behind", [End::Reply(found(vec![2]))]);
    let mut stream = stage.dial().await;
    let (before, behind) = (message(encoding, 1, &get("before")), message(encoding, 3, &get("behind")));
    stream.write_all(&[&before, bytes, &behind].concat()).await.expect("the server reads");
    stream.shutdown().await.expect("the connection stands");
    stage.script.until_started(1).await;
    stage.script.release("behind");
    assert_others_are_served(stage).await;
    stage.script.end("before").await;
    let mut all = all_seen(&mut stream).await;
    let reply = |sequence_id, value| {
        let what = What::Reply(found(value));
        Seen { encoding, sequence_id, name: "get".to_string(), what }
    };
    assert_eq!(all.remove(0), reply(1, vec![1]), "what came before is answered first");
    let goes_on = all.last().is_some_and(|last| *last == reply(3, vec![2]));
    if goes_on {
        all.pop();
    }
    let refused = |seen: Seen| match seen.what {
        What::Exception(ApplicationErrorKind::ProtocolError | ApplicationErrorKind::InvalidMessageType) => {
            (seen.sequence_id, seen.name)
        }
        other => panic!("it was understood: {other:?}"),
    };
    let started = stage
        .script
        .with_state(|state| state.started.iter().filter(|key| *key != "other").cloned().collect::<Vec<_>>());
    assert_eq!(started, ["before", "behind"][..1 + usize::from(goes_on)], "a call was made up");
    Said { refused: all.into_iter().map(refused).collect(), goes_on }
}

/// Checks that the bytes are answered with an exception, and that the connection continues.
async fn assert_answered(stage: &Stage, encoding: Encoding, bytes: &[u8], what: &str) {
    let said = say(stage, encoding, bytes).await;
    assert_eq!((said.refused, said.goes_on), (vec![(2, "get".to_string())], true), "{what}");
}

/// Checks that the connection is closed, because the beginning of the next message is unknown. The
/// client gets an exception if its header can be read.
async fn assert_closed(stage: &Stage, encoding: Encoding, bytes: &[u8], is_told: bool, what: &str) {
    let said = say(stage, encoding, bytes).await;
    let expected = if is_told { vec![(2, "get".to_string())] } else { vec![] };
    assert_eq!((said.refused, said.goes_on), (expected, false), "{what}");
}

fn with_frames(encoding: Encoding) -> Encoding {
    Encoding { framed: true, ..encoding }
}

/// The length of the header of a `get` with a small sequence id.
fn header_length(encoding: Encoding) -> usize {
    match encoding.protocol {
        Protocol::Binary => 15,
        Protocol::Compact => 7,
    }
}

/// A call whose argument is nested to this depth.
fn nested(encoding: Encoding, depth: usize) -> Vec<u8> {
    let (header, enter, stop) = match encoding.protocol {
        Protocol::Binary => {
            let mut header = vec![0x80, 1, 0, 1, 0, 0, 0, 3];
            header.extend(b"get\0\0\0\x02");
            (header, &[12, 0, 9][..], 0)
        }
        Protocol::Compact => (b"\x82\x21\x02\x03get".to_vec(), &[0x9c][..], 0),
    };
    [header, enter.repeat(depth), vec![stop; depth + 1]].concat()
}

#[tokio::test]
async fn frames_that_do_not_hold_one_whole_call_cost_an_exception_each() {
    let stage = Stage::start().await;
    for inner in [BINARY, COMPACT] {
        let encoding = with_frames(inner);
        let call = message(inner, 2, &get("inside"));
        let twice = [call.clone(), message(inner, 9, &get("second"))].concat();
        assert_answered(&stage, encoding, &framed(&twice), "two calls in one frame").await;
        assert_answered(&stage, encoding, &framed(&[&call[..], &[0]].concat()), "a byte after the call").await;
        for length in header_length(inner)..call.len() {
            let half = framed(&call[..length]);
            assert_answered(&stage, encoding, &half, &format!("{length} bytes of {}", call.len())).await;
        }
        for length in 1..header_length(inner) {
            // The frame holds no complete header, and the bytes after the frame must not count as
            // one.
            let half = framed(&call[..length]);
            assert_closed(&stage, encoding, &half, false, &format!("{length} bytes of a header")).await;
        }
        assert_answered(&stage, encoding, &framed(&nested(inner, 40)), "nested too deep").await;
        let within = frame(4 + i32::try_from(call.len()).expect("short"), &framed(&call));
        assert_closed(&stage, encoding, &within, false, "a frame in a frame").await;
    }
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

#[tokio::test]
async fn frames_whose_length_is_wrong_end_the_connection_and_no_call_is_made_up() {
    let stage = Stage::start().await;
    for inner in [BINARY, COMPACT] {
        let encoding = with_frames(inner);
        let call = message(inner, 2, &get("inside"));
        let length = i32::try_from(call.len()).expect("a short frame");
        assert_closed(&stage, encoding, &frame(length - 1, &call), true, "a frame that is too short").await;
        // The frame includes the first byte of the next call, whose rest is not a frame.
        assert_closed(&stage, encoding, &frame(length + 1, &call), true, "a frame that is too long").await;
        for (length, is_told, what) in [
            (0, true, "a frame of nothing"),
            (-1, true, "a frame of less than nothing"),
            (i32::MIN, false, "a frame of much less"),
            (i32::MAX, true, "a frame of everything"),
            ((16 << 20) - 3, true, "a frame of one byte too much"),
            (1, false, "a frame of a byte"),
        ] {
            assert_closed(&stage, encoding, &frame(length, &call), is_told, what).await;
        }
        assert_closed(&stage, encoding, &frame(0, &[]), false, "a frame of nothing before a good one").await;
        let (first, second) = call.split_at(call.len() - 5);
        let parts = [framed(first), framed(second)].concat();
        assert_closed(&stage, encoding, &parts, true, "a call in two frames").await;
        let bytes: Vec<u8> = call.iter().flat_map(|byte| framed(&[*byte])).collect();
        assert_closed(&stage, encoding, &bytes, false, "a call in frames of a byte").await;
    }
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

#[tokio::test]
async fn headers_of_another_version_or_kind_end_the_connection() {
    let stage = Stage::start().await;
    for inner in [BINARY, COMPACT] {
        for encoding in [inner, with_frames(inner)] {
            let start = if encoding.framed { 4 } else { 0 };
            let call = message(encoding, 2, &get("inside"));
            let with = |at: usize, byte: u8| {
                let mut bytes = call.clone();
                bytes[start + at] = byte;
                bytes
            };
            let mut wrong = vec![(1, 0x00), (1, 0x02), (1, 0xff), (0, 0x81), (0, 0xff)];
            if inner == BINARY {
                // The first byte of the other protocol, and kinds that do not exist.
                wrong.extend([(0, 0x82), (3, 0), (3, 5), (3, 255)]);
            } else {
                wrong.extend([(0, 0x80), (1, 0x01), (1, 0xa1), (1, 0xe1), (1, 0x22)]);
            }
            for (at, byte) in wrong {
                let what = format!("byte {at} is {byte:#x}, {encoding:?}");
                assert_closed(&stage, encoding, &with(at, byte), false, &what).await;
            }
        }
        let deep = nested(inner, 40);
        assert_closed(&stage, inner, &deep, true, "nested too deep").await;
    }
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

/// Clients do not mix encodings, but each message is recognised by itself.
#[tokio::test]
async fn a_connection_may_change_its_protocol_with_each_call() {
    let stage = Stage::start().await;
    let mut stream = stage.dial().await;
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for number in 0..64i32 {
        // Each encoding follows each.
        let encoding = Encoding::ALL[(number + number / 4) as usize % 4];
        let key = format!("key {number}");
        stage.script.plan(&key, [End::Reply(found(pattern(number as u64, number as usize)))]);
        bytes.extend(message(encoding, number, &get(&key)));
        expected.extend(reply_bytes(encoding, Method::Get, number, &found(pattern(number as u64, number as usize))));
    }
    stream.write_all(&bytes).await.expect("the server reads");
    stage.script.until_started(64).await;
    for number in (0..64).rev() {
        stage.script.end(&format!("key {number}")).await;
    }
    assert_eq!(exactly(&mut stream, expected.len()).await, expected);
    stage.stop().await;
}
