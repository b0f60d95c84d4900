//! Bytes that no replica sends, from a dialler that has identified itself.

use super::super::super::frame::{HEADER_BYTES, MAX_FRAME_BYTES};
use super::*;

/// Sends a hello, a message, then `bytes`, and another message. Checks that the first message is
/// delivered, the connection closed, and the last message not delivered.
fn is_closed_for(network: &Network, peer: &RawPeer, a: &mut Node, bytes: &[u8], what: &str) {
    let rejected = a.transport.statistics().connections_rejected;
    let mut stream = peer.dial_and_send(&[hello(), message("before")].concat());
    assert_eq!(a.events.body(&network.runtime), "before");
    // It may be closed before everything is written.
    let _closed_early = stream.write_all(&[bytes, &message("behind")].concat());
    let received = received_until_closed(&mut stream);
    let (greeting, signs) = received.split_at_checked(8).unwrap_or((&received, &[]));
    // The answers may be lost, since the replica closes the connection with unread bytes.
    assert!(greeting.is_empty() || greeting == Greeting::with(Answer::Accepted).to_bytes(), "{what}: {received:?}");
    assert!(signs.iter().all(|sign| *sign == super::super::super::greeting::ALIVE), "{what}: {received:?}");
    assert_eq!(a.events.bodies_until_the_end(&network.runtime), Vec::<String>::new(), "{what}");
    assert_eq!(a.transport.statistics().connections_rejected, rejected + 1, "{what}");
}

#[test]
fn garbage_behind_a_hello_ends_the_connection_and_nothing_behind_it_is_delivered() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let mut of_another_kind = message("of another kind");
    of_another_kind[6] = 2;
    seal_header(&mut of_another_kind);
    let of_another = bytes_of(envelope(C, A, "of another replica", vec![]));
    let garbage = [
        ("zeros", vec![0; 80]),
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a handshake of TLS", vec![0x16, 3, 1, 2, 0, 1]),
        ("a frame without its first byte", message("shifted")[1..].to_vec()),
        ("a frame without its last byte", message("short").split_last().expect("bytes").1.to_vec()),
        ("one byte too many", vec![0]),
        ("an unknown kind", of_another_kind),
        ("another replica's message", of_another),
        (
            "another replica's hello",
            Frame::hello(envelope(C, A, "", vec![]).sender, A).encode().expect("small").pieces.concat(),
        ),
        (
            "a hello to another replica",
            Frame::hello(envelope(B, C, "", vec![]).sender, C).encode().expect("small").pieces.concat(),
        ),
    ];
    for (what, bytes) in &garbage {
        is_closed_for(&network, &peer, &mut a, bytes, what);
    }
}

#[test]
fn a_checksum_that_is_wrong_by_any_one_bit_ends_the_connection() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let sound = bytes_of(envelope(B, A, "damaged", vec![Bytes::from_static(b"payload")]));
    for bit in 72 * 8..80 * 8 {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        is_closed_for(&network, &peer, &mut a, &damaged, &format!("bit {bit}"));
    }
    for byte in [HEADER_BYTES, HEADER_BYTES + 4, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[byte] ^= 0x80;
        is_closed_for(&network, &peer, &mut a, &damaged, &format!("byte {byte}"));
    }
}

#[test]
fn lengths_that_contradict_each_other_end_the_connection_however_sound_the_checksums_are() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let sound = bytes_of(envelope(B, A, "body", vec![Bytes::from_static(b"payload"), Bytes::new()]));
    let fields = [("content", 12, -1), ("body", 16, 1), ("body", 16, -1), ("payloads", 20, 1), ("payloads", 20, -1)];
    for (name, at, change) in fields {
        let mut wrong = sound.clone();
        let length = u32::from_le_bytes(wrong[at..at + 4].try_into().expect("four bytes"));
        wrong[at..at + 4].copy_from_slice(&length.wrapping_add_signed(change).to_le_bytes());
        if name == "content" {
            wrong.pop();
            let crc = crc32c::crc32c(&wrong[HEADER_BYTES..]);
            wrong[76..80].copy_from_slice(&crc.to_le_bytes());
        }
        seal_header(&mut wrong);
        is_closed_for(&network, &peer, &mut a, &wrong, &format!("{name} {change:+}"));
    }
    let mut wrong = sound.clone();
    wrong[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&wrong[HEADER_BYTES..]);
    wrong[76..80].copy_from_slice(&crc.to_le_bytes());
    seal_header(&mut wrong);
    is_closed_for(&network, &peer, &mut a, &wrong, "a payload longer than everything");
}

#[test]
fn a_message_of_the_maximum_length_is_accepted_and_one_byte_more_is_refused_by_its_header() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let largest = envelope(B, A, "largest", vec![Bytes::from(vec![b'.'; MAX_FRAME_BYTES - HEADER_BYTES - 4 - 7])]);
    // One read returns the hello and the beginning of a frame that only a peer may send.
    let _stream = peer.dial_and_send(&[hello(), bytes_of(largest.clone()), message("next")].concat());
    assert!(a.events.message(&network.runtime) == largest, "it was changed");
    assert_eq!(a.events.body(&network.runtime), "next");
    let mut header = message("");
    header[12..16].copy_from_slice(&((MAX_FRAME_BYTES - HEADER_BYTES) as u32 + 1).to_le_bytes());
    seal_header(&mut header);
    let mut stream = peer.dial_and_send(&[hello(), header].concat());
    received_until_closed(&mut stream);
    assert_eq!(a.transport.statistics().connections_rejected, 1);
}

#[test]
fn the_first_frame_of_a_stranger_has_a_limit_of_its_own() {
    const LIMIT: usize = 4 << 10;
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let first = |bytes: usize| message(&"x".repeat(bytes - HEADER_BYTES));
    let _stream = peer.dial_and_send(&first(LIMIT));
    assert_eq!(a.events.body(&network.runtime).len(), LIMIT - HEADER_BYTES);
    let mut stream = peer.dial_and_send(&first(LIMIT + 1));
    assert_eq!(received_until_closed(&mut stream), b"");
    assert_eq!(a.transport.statistics().connections_rejected, 1);
    assert_eq!(a.events.drain(), []);
}

#[test]
fn a_listener_that_sends_anything_but_signs_of_life_is_dialled_again() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut options = network.options(A);
    options.reconnect_max_ms = 10;
    let mut a = network.start_with(options);
    let greeting = Greeting::with(Answer::Accepted).to_bytes();
    let alive = super::super::super::greeting::ALIVE;
    for sent in [&greeting[..], &hello(), &[0], &[alive, alive, alive ^ 1], &[0xff; 4096]] {
        let mut stream = peer.accept();
        a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
        stream.write_all(sent).expect("the connection is open");
        a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
        assert_eq!(received_until_closed(&mut stream), b"");
    }
    let mut stream = peer.accept();
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    stream.write_all(&[alive; 1000]).expect("the connection is open");
    a.transport.send(envelope(A, B, "still here", vec![]));
    let mut reader = Reader::of(stream);
    assert_eq!(body_of(&reader.next(100)), "still here");
    assert_eq!(a.events.drain(), [], "the connection is still open");
    drop(reader);
    a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
}

#[test]
fn a_greeting_with_any_wrong_byte_in_its_magic_number_makes_no_connection() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut options = network.options(A);
    options.reconnect_max_ms = 10;
    let mut a = network.start_with(options);
    for byte in [0, 1, 2, 3, 6] {
        let (mut stream, _) = peer.listener.accept().expect("the transport dials");
        stream.read_exact(&mut [0; 80]).expect("a hello");
        let mut greeting = Greeting::with(Answer::Accepted).to_bytes();
        greeting[byte] ^= 1;
        stream.write_all(&greeting).expect("the dialler waits for it");
        assert_eq!(received_until_closed(&mut stream), b"", "byte {byte}");
    }
    assert_eq!(a.events.drain(), []);
}
