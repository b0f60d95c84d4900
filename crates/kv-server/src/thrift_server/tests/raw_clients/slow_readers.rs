//! Tests of clients that read their replies in odd pieces, or not at all for a while.

use tokio::net::TcpSocket;

use super::*;

const KIB: usize = 1 << 10;

/// A client whose socket has a small buffer.
async fn dial_with_a_small_buffer(stage: &Stage) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a size");
    let stream = socket.connect(stage.server.address).await.expect("the server listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// Replies of many lengths, short and long ones mixed, which together exceed every socket buffer.
struct Replies {
    calls: Vec<u8>,
    expected: Vec<u8>,
}

fn replies(stage: &Stage, encoding: Encoding) -> Replies {
    const LENGTHS: [usize; 9] = [0, 1, 900_001, 13, 65_521, 1_200_007, 4_096, 300_000, 77];
    let (mut calls, mut expected) = (Vec::new(), Vec::new());
    for (number, length) in (0i32..).zip(LENGTHS.into_iter().cycle().take(54)) {
        let (key, number) = (format!("reply {number}"), number * 1_000_003);
        let (call, reply) = match number % 2 == 0 {
            true => (get(&key), found(pattern(number as u64, length))),
            false => (range(&key), rows(pattern(number as u64, length))),
        };
        // A range whose reply exceeds the memory of the first attempt is made again.
        let mut ends = vec![End::Reply(reply.clone())];
        if length > 256 * KIB && number % 2 != 0 {
            ends.insert(0, End::NeedsRoom);
        }
        stage.script.plan(&key, ends);
        stage.script.release(&key);
        calls.extend(message(encoding, number, &call));
        expected.extend(reply_bytes(encoding, call.method(), number, &reply));
    }
    Replies { calls, expected }
}

/// Reads everything that is expected in pieces of these lengths, and reports the position of the
/// first wrong byte.
async fn take(stream: &mut TcpStream, expected: &[u8], lengths: &[usize]) {
    let (mut at, mut lengths) = (0, lengths.iter().cycle());
    while at < expected.len() {
        let length = (*lengths.next().expect("a cycle")).min(expected.len() - at);
        let piece = exactly(stream, length).await;
        let wrong = piece.iter().zip(&expected[at..]).position(|(got, wanted)| got != wanted);
        assert_eq!(wrong.map(|place| at + place), None, "the first wrong one of {} bytes", expected.len());
        at += length;
    }
}

async fn until_no_more_is_sent(stage: &Stage) {
    // The server's socket accepts as much as the system decides; the rest then waits for the
    // client.
    let sent = || value(&stage.server.counters.bytes_out);
    loop {
        let before = sent();
        assert_others_are_served(stage).await;
        let others = (sent() - before) as usize;
        if others == OTHERS as usize * reply_to_another(0).len() {
            return;
        }
    }
}

async fn read_slowly(encoding: Encoding, lengths: &[usize], options: ThriftServerOptions) {
    let stage = Stage::with(options).await;
    let Replies { calls, expected } = replies(&stage, encoding);
    let mut stream = dial_with_a_small_buffer(&stage).await;
    stream.write_all(&calls).await.expect("the server reads");
    until_no_more_is_sent(&stage).await;
    let (first, rest) = expected.split_at(expected.len() / 3);
    // The first bytes are read one by one.
    take(&mut stream, &first[..2_000], &[1]).await;
    take(&mut stream, &first[2_000..], lengths).await;
    until_no_more_is_sent(&stage).await;
    stream.shutdown().await.expect("the connection stands");
    take(&mut stream, rest, lengths).await;
    assert_eq!(all_seen(&mut stream).await, [], "more bytes than replies");
    stage.until_nothing_is_left().await;
    stage.stop().await;
}

#[tokio::test]
async fn replies_taken_in_odd_pieces_are_whole() {
    for (encoding, lengths) in Encoding::ALL.into_iter().zip([
        &[4_093][..],
        &[1, 7, 65_537, 300],
        &[1_000_003],
        &[131_072, 1, 1, 65_535, 65_536],
    ]) {
        read_slowly(encoding, lengths, of_short_values()).await;
    }
}

#[tokio::test]
async fn replies_taken_in_odd_pieces_are_whole_where_little_may_be_buffered() {
    let options = |bytes| ThriftServerOptions { max_buffered_reply_bytes: bytes, ..of_short_values() };
    read_slowly(Encoding::ALL[0], &[9_973], options(1)).await;
    read_slowly(Encoding::ALL[3], &[77_777, 3], options(400 * KIB)).await;
    let options = ThriftServerOptions { max_reply_memory_bytes: 4 << 20, max_pipelined: 3, ..of_short_values() };
    read_slowly(Encoding::ALL[1], &[50_000], options).await;
}

/// Later replies are appended to the half-written output.
#[tokio::test]
async fn calls_that_end_while_a_reply_is_half_written_come_behind_it() {
    let stage = Stage::start().await;
    let mut stream = dial_with_a_small_buffer(&stage).await;
    let encoding = Encoding::default();
    let mut expected = Vec::new();
    for number in 0..12i32 {
        let (long, short) = (format!("long {number}"), format!("short {number}"));
        stage.script.plan(&long, [End::Reply(found(pattern(number as u64, 700_001)))]);
        stage.script.plan(&short, [End::Reply(found(pattern(number as u64, 11)))]);
        let calls = [message(encoding, number, &get(&long)), message(encoding, -number, &get(&short))].concat();
        stream.write_all(&calls).await.expect("the server reads");
        expected.extend(reply_bytes(encoding, Method::Get, number, &found(pattern(number as u64, 700_001))));
        expected.extend(reply_bytes(encoding, Method::Get, -number, &found(pattern(number as u64, 11))));
    }
    let mut at = 0;
    for number in 0..12 {
        stage.script.end(&format!("short {number}")).await;
        stage.script.end(&format!("long {number}")).await;
        until_no_more_is_sent(&stage).await;
        let length = 3 + number * 997;
        take(&mut stream, &expected[at..at + length], &[length]).await;
        at += length;
    }
    take(&mut stream, &expected[at..], &[33_333]).await;
    stream.shutdown().await.expect("the connection stands");
    assert_eq!(all_seen(&mut stream).await, [], "more bytes than replies");
    stage.until_nothing_is_left().await;
    stage.stop().await;
}
