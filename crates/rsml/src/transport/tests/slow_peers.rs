//! Peers that are stopped, slow or silent, and strangers, cost bounded memory and do not affect
//! other peers.

use super::tls::Authority;
use super::*;

const QUEUE_BYTES: usize = 1 << 20;

/// Floods `to`, which reads nothing, until messages to it are dropped, and then sends some more.
fn flood(node: &Node, to: ReplicaId) {
    let payload = Bytes::from(vec![1; 100_000]);
    let more = 50;
    let mut dropped_first = None;
    for sent in 0.. {
        node.transport.send(envelope(A, to, "", vec![payload.clone()]));
        let statistics = node.transport.statistics();
        assert!(statistics.bytes_queued <= QUEUE_BYTES as u64, "{} bytes are queued", statistics.bytes_queued);
        if statistics.messages_dropped > 0 && sent > *dropped_first.get_or_insert(sent) + more {
            return;
        }
        // The system's buffers are bounded, too.
        assert!(sent < 10_000, "nothing was dropped");
    }
}

fn with_a_small_queue(mut options: TcpOptions) -> TcpOptions {
    options.queue_bytes = QUEUE_BYTES;
    options
}

#[test]
fn a_peer_that_never_reads_fills_its_queue_and_does_not_affect_others() {
    let mut network = Network::new(3);
    let listener = network.listeners[1].take().expect("not used yet");
    let options = with_a_small_queue(network.options(A));
    let mut a = network.start_with(options);
    // Before C starts: it dials this listener, too.
    let _never_read = accept_as_replica(&listener);
    let mut c = network.start(C);
    a.events.wait_for_all(&network.runtime, [B, C].map(TransportEvent::Connected).to_vec());
    // Wait for both directions: messages sent before the outgoing connection exists are dropped.
    while !arrives_soon(&network, &a, &mut c, envelope(A, C, "ready", vec![])) {}
    flood(&a, B);
    for number in 0..1000u32 {
        a.transport.send(envelope(A, C, number.to_le_bytes().to_vec(), vec![]));
    }
    for number in 0..1000u32 {
        let mut body = c.events.message(&network.runtime).body;
        while body == "ready" {
            body = c.events.message(&network.runtime).body;
        }
        assert_eq!(body, number.to_le_bytes().to_vec());
    }
    assert!(a.events.drain().iter().all(|event| !matches!(event, TransportEvent::Disconnected(_))));
}

#[test]
fn a_peer_that_never_reads_fills_its_queue_with_tls_too() {
    let mut network = Network::new(3);
    let authority = Authority::new("peers");
    let listener = network.listeners[1].take().expect("not used yet");
    let (folder_a, folder_c) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut options = with_a_small_queue(network.options(A));
    options.tls = Some(authority.files(folder_a.path(), "replica-0"));
    let mut a = network.start_with(options);
    // Before C starts: it dials this listener, too.
    let _never_read = authority.accept_as_replica(&network.runtime, listener, "replica-1");
    let mut options = network.options(C);
    options.tls = Some(authority.files(folder_c.path(), "replica-2"));
    let mut c = network.start_with(options);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    c.events.wait_for(&network.runtime, &TransportEvent::Connected(A));
    flood(&a, B);
    while !arrives_soon(&network, &a, &mut c, envelope(A, C, "still heard", vec![])) {}
}

#[test]
fn connections_of_strangers_are_limited_and_peers_still_get_through() {
    let mut network = Network::new(2);
    let options = network.options(A);
    let mut a = network.start_with(options);
    // They connect and send nothing.
    let strangers: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(a.transport.local_address().expect("it listens")).expect("the port is open"))
        .collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while a.transport.statistics().connections_rejected < 72 {
        assert!(Instant::now() < deadline, "strangers are not limited");
        std::thread::yield_now();
    }
    // The remaining strangers are still connected.
    let mut b = network.start(B);
    b.events.wait_for(&network.runtime, &TransportEvent::Connected(A));
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    while !arrives_soon(&network, &b, &mut a, envelope(B, A, "through the crowd", vec![])) {}
    drop(strangers);
}

#[test]
fn a_stranger_cannot_make_a_replica_hold_a_large_message() {
    let mut network = Network::new(2);
    let a = network.start(A);
    let mut stream = TcpStream::connect(a.transport.local_address().expect("it listens")).expect("the port is open");
    let large = Frame::message(envelope(B, A, vec![1; 1 << 20], vec![])).encode().expect("small enough");
    // It may be closed before everything is written.
    let _closed_early = stream.write_all(&large.pieces.concat());
    assert_eq!(received_until_closed(&mut stream), b"");
    assert_eq!(a.transport.statistics().connections_rejected, 1);
}
