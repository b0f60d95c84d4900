//! Connections that end in the middle of something.

use super::*;

#[test]
fn a_connection_that_ends_at_any_byte_delivers_its_complete_frames_and_leaves_nothing_to_the_next_one() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let frames = |round: usize| {
        let long = Bytes::from(vec![b'.'; 50]);
        let first = envelope(B, A, format!("{round} first"), vec![]);
        let second = envelope(B, A, format!("{round} second"), vec![long, Bytes::new(), Bytes::from_static(b"x")]);
        vec![hello(), bytes_of(first), bytes_of(second), message(&format!("{round} third"))]
    };
    let bytes: usize = frames(1000).iter().map(Vec::len).sum();
    for cut in 0..=bytes {
        let frames = frames(1000 + cut);
        let mut stream = peer.dial_and_send(&frames.concat()[..cut]);
        stream.shutdown(Shutdown::Write).expect("the connection is open");
        received_until_closed(&mut stream);
        if cut < frames[0].len() {
            // The dialler is unknown, so nothing may be reported. If something is, the next
            // connection shows it.
            continue;
        }
        let mut end = 0;
        let whole = frames.iter().take_while(|frame| {
            end += frame.len();
            end <= cut
        });
        let whole = whole.count() - 1;
        let expected: Vec<_> =
            ["first", "second", "third"][..whole].iter().map(|name| format!("{} {name}", 1000 + cut)).collect();
        assert_eq!(a.events.bodies_until_the_end(&network.runtime), expected, "cut after {cut} of {bytes} bytes");
    }
    assert_eq!(a.transport.statistics().connections_rejected, 0, "an early end is no reason to reject");
}

#[test]
fn a_hello_that_is_never_finished_is_closed_like_silence() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut options = network.options(A);
    options.connect_timeout_ms = 50;
    let a = network.start_with(options);
    for (rejected, cut) in [1, 4, 40, 79].into_iter().enumerate() {
        let mut stream = peer.dial_and_send(&hello()[..cut]);
        assert_eq!(received_until_closed(&mut stream), b"", "{cut} bytes of a hello");
        assert_eq!(a.transport.statistics().connections_rejected, rejected as u64 + 1);
    }
}

#[test]
fn a_hello_and_messages_that_come_byte_by_byte_are_understood() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let mut stream = peer.dial();
    for byte in [hello(), message("first"), message("second")].concat() {
        stream.write_all(&[byte]).expect("the connection is open");
    }
    assert_eq!(a.events.body(&network.runtime), "first");
    assert_eq!(a.events.body(&network.runtime), "second");
}

#[test]
fn a_greeting_that_ends_at_any_byte_makes_no_connection() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut options = network.options(A);
    options.reconnect_max_ms = 10;
    let mut a = network.start_with(options);
    let greeting = Greeting::with(Answer::Accepted).to_bytes();
    for cut in 0..greeting.len() {
        let (mut stream, _) = peer.listener.accept().expect("the transport dials");
        stream.read_exact(&mut [0; 80]).expect("a hello");
        stream.write_all(&greeting[..cut]).expect("the dialler waits for it");
    }
    let (mut stream, _) = peer.listener.accept().expect("the transport dials");
    stream.read_exact(&mut [0; 80]).expect("a hello");
    assert_eq!(a.events.drain(), [], "an incomplete greeting was accepted");
    for byte in greeting {
        stream.write_all(&[byte]).expect("the dialler waits for it");
    }
    assert_eq!(a.events.next(&network.runtime), TransportEvent::Connected(B));
    assert_eq!(a.transport.statistics().reconnects, 0);
}

/// Sends frames of this size until the socket is full and some are queued. Returns how many were
/// sent.
fn fill(a: &Node, round: usize, payload_bytes: usize) -> usize {
    let payload = Bytes::from(vec![b'.'; payload_bytes]);
    for sent in 1.. {
        a.transport.send(envelope(A, B, format!("{round} stale"), vec![payload.clone()]));
        if a.transport.statistics().bytes_queued > 0 {
            return sent;
        }
        assert!(sent < 100_000, "the socket never fills up");
    }
    unreachable!("it is filled or it is not")
}

/// Before it goes away, the peer reads a few bytes, so that the connection breaks at another place
/// in a frame each time.
#[test]
fn frames_that_a_connection_left_unwritten_are_dropped_and_counted_and_the_next_one_begins_with_a_new_frame() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut options = network.options(A);
    options.reconnect_max_ms = 10;
    let mut a = network.start_with(options);
    for round in 0..40 {
        let mut reader = Reader::of(peer.accept());
        a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
        a.transport.send(envelope(A, B, format!("{round} fresh"), vec![]));
        assert_eq!(
            body_of(&reader.next(4096)),
            format!("{round} fresh"),
            "it begins with a rest of the old connection"
        );
        let before = a.transport.statistics();
        let sent = fill(&a, round, 10_007 + 97 * round) as u64;
        for _ in 0..round % 4 {
            reader.read(&mut vec![0; 1 + 7919 * round]);
        }
        drop(reader);
        a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
        let after = wait_until_counted(&a, before.messages_sent + before.messages_dropped + sent);
        assert!(
            after.messages_dropped > before.messages_dropped,
            "the rest of the old connection is not counted as dropped"
        );
        assert_eq!(after.bytes_queued, 0, "something is queued for a connection that has ended");
    }
}

/// Waits, because the end of a connection is reported before its unwritten frames are counted.
fn wait_until_counted(a: &Node, messages: u64) -> TransportStatistics {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = a.transport.statistics();
        if now.messages_sent + now.messages_dropped >= messages {
            assert_eq!(now.messages_sent + now.messages_dropped, messages, "a message is counted twice");
            return now;
        }
        assert!(Instant::now() < deadline, "a message was neither sent nor dropped");
        std::thread::yield_now();
    }
}

#[test]
fn frames_written_in_parts_arrive_whole_and_in_the_order_of_each_sender() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let mut reader = Reader::of(peer.accept());
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    let sizes = [0, 1, 511, 512, 513, 70_000, 3, 200_001];
    let payload_of = |sender: u8, number: usize| Bytes::from(vec![sender ^ number as u8; sizes[number % sizes.len()]]);
    const EACH: usize = 200;
    let transport = &a.transport;
    std::thread::scope(|scope| {
        for sender in [b'x', b'y'] {
            scope.spawn(move || {
                for number in 0..EACH {
                    let body = format!("{}{number}", char::from(sender));
                    transport.send(envelope(A, B, body, vec![payload_of(sender, number), Bytes::from_static(b"end")]));
                }
            });
        }
        // Read slowly, so that the socket is full most of the time, and in pieces that end
        // anywhere.
        let mut next = std::collections::BTreeMap::from([(b'x', 0), (b'y', 0)]);
        for read in 0..2 * EACH {
            let envelope = reader.next(1 + read * 7919 % 100_000);
            let (sender, number) = (envelope.body[0], body_of(&envelope)[1..].parse().expect("a number"));
            assert_eq!(next.insert(sender, number + 1), Some(number), "out of order");
            assert_eq!(envelope.payload, [payload_of(sender, number), Bytes::from_static(b"end")]);
        }
    });
    assert_eq!(a.transport.statistics().messages_dropped, 0);
}
