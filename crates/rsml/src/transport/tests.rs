//! Both transports: over real sockets of this machine, and over a bus. The tests wait for events,
//! and fail if one takes far too long.

mod bus;
mod frames;
mod names;
mod raw_peers;
mod slow_peers;
mod tls;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::greeting::{Answer, Greeting};
use super::*;
use crate::{Addresses, Boot, ClusterId, DiskId, Epoch};

const A: ReplicaId = ReplicaId(0);
const B: ReplicaId = ReplicaId(1);
const C: ReplicaId = ReplicaId(2);

fn envelope(from: ReplicaId, to: ReplicaId, body: impl Into<Bytes>, payload: Vec<Bytes>) -> Envelope {
    let sender =
        MessageHeader { replica: from, cluster_id: ClusterId(77), epoch: Epoch(1), disk_id: DiskId(5), boot: Boot(2) };
    Envelope { sender, to, body: body.into(), payload }
}

struct Events(UnboundedReceiver<TransportEvent>);

fn sink() -> (EventSink, Events) {
    let (sender, receiver) = unbounded_channel();
    let sink: EventSink = Arc::new(move |event| {
        // Fails only after the test has ended.
        let _unheard = sender.send(event);
    });
    (sink, Events(receiver))
}

impl Events {
    fn next(&mut self, runtime: &Runtime) -> TransportEvent {
        let event = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), self.0.recv()).await });
        event.expect("an event within 20 seconds").expect("the transport lives")
    }

    fn wait_for(&mut self, runtime: &Runtime, wanted: &TransportEvent) {
        while self.next(runtime) != *wanted {}
    }

    /// Waits for all of these events in any order.
    fn wait_for_all(&mut self, runtime: &Runtime, mut wanted: Vec<TransportEvent>) {
        while !wanted.is_empty() {
            let event = self.next(runtime);
            wanted.retain(|other| *other != event);
        }
    }

    fn message(&mut self, runtime: &Runtime) -> Envelope {
        loop {
            if let TransportEvent::Received(envelope) = self.next(runtime) {
                return envelope;
            }
        }
    }

    /// The events that have arrived and were not read yet.
    fn drain(&mut self) -> Vec<TransportEvent> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }
}

/// A transport over real sockets, and the events that it reported.
struct Node {
    transport: TcpTransport,
    events: Events,
}

/// Replicas on ports that the system chose.
struct Network {
    runtime: Runtime,
    peers: Vec<(ReplicaId, SocketAddr)>,
    listeners: Vec<Option<TcpListener>>,
}

/// A loopback address that no other test uses. If tests shared one, a port that one test gives up
/// could be the next test's, and that test could mistake a transport that still dials there for its
/// own.
pub(super) fn own_loopback() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, process] = (std::process::id() as u16).to_be_bytes();
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, process | 1, high, low)
}

fn membership(me: ReplicaId, members: &[(ReplicaId, SocketAddr)]) -> Membership {
    let mut membership = Membership::new(me, members.iter().map(|(id, _)| *id));
    for (id, address) in members {
        membership.set_addresses(*id, Addresses::of_peer(address.to_string()));
    }
    membership
}

impl Network {
    fn new(count: u8) -> Self {
        Network::on(own_loopback(), count)
    }

    fn on(own: Ipv4Addr, count: u8) -> Self {
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind((own, 0)).expect("a free port")).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().expect("it is bound"));
        let peers = (0..count).map(ReplicaId).zip(addresses).collect();
        let runtime = Runtime::new().expect("a runtime");
        Network { runtime, peers, listeners: listeners.into_iter().map(Some).collect() }
    }

    fn options(&mut self, me: ReplicaId) -> TcpOptions {
        let mut options = TcpOptions::new(self.peers[usize::from(me.0)].1, membership(me, &self.peers));
        options.listener = self.listeners[usize::from(me.0)].take();
        // On a busy machine everything takes long. A dialler that gave up would leave a dead
        // connection for the test to accept, and one that believed its peer silent would drop
        // messages.
        options.connect_timeout_ms = 60_000;
        options.silence_ms = 60_000;
        options
    }

    fn start(&mut self, me: ReplicaId) -> Node {
        let options = self.options(me);
        self.start_with(options)
    }

    fn start_with(&self, options: TcpOptions) -> Node {
        let (sink, events) = sink();
        let transport = TcpTransport::start(options, sink, self.runtime.handle()).expect("the port is ours");
        Node { transport, events }
    }

    /// A and B, connected in both directions.
    fn pair(&mut self) -> (Node, Node) {
        let (mut a, mut b) = (self.start(A), self.start(B));
        a.events.wait_for(&self.runtime, &TransportEvent::Connected(B));
        b.events.wait_for(&self.runtime, &TransportEvent::Connected(A));
        (a, b)
    }

    fn stop(&self, node: &Node) {
        node.transport.shutdown();
        self.runtime.block_on(node.transport.closed());
    }
}

#[test]
fn messages_arrive_unchanged_and_in_order() {
    let mut network = Network::new(2);
    let (a, mut b) = network.pair();
    let sent: Vec<_> = (0..2000u32)
        .map(|n| envelope(A, B, n.to_le_bytes().to_vec(), vec![Bytes::from(vec![n as u8; n as usize % 700])]))
        .collect();
    sent.iter().for_each(|message| a.transport.send(message.clone()));
    for message in &sent {
        assert_eq!(b.events.message(&network.runtime), *message);
    }
    assert_eq!(b.transport.statistics().messages_received, 2000);
}

#[test]
fn large_payloads_arrive_unchanged() {
    let mut network = Network::new(2);
    let (a, mut b) = network.pair();
    let payload: Bytes = (0..20 << 20).map(|n: u32| (n % 251) as u8).collect();
    let message = envelope(A, B, "large", vec![payload.clone(), Bytes::from_static(b"small"), payload]);
    a.transport.send(message.clone());
    a.transport.send(envelope(A, B, "next", vec![]));
    assert!(b.events.message(&network.runtime) == message, "the large message changed");
    assert_eq!(b.events.message(&network.runtime).body, "next");
}

#[test]
fn three_replicas_reach_each_other() {
    let mut network = Network::new(3);
    let mut nodes = [A, B, C].map(|me| network.start(me));
    for (node, me) in nodes.iter_mut().zip([A, B, C]) {
        let others = [A, B, C].into_iter().filter(|&peer| peer != me);
        node.events.wait_for_all(&network.runtime, others.map(TransportEvent::Connected).collect());
    }
    nodes[2].transport.send(envelope(C, A, "to a", vec![]));
    nodes[2].transport.send(envelope(C, B, "to b", vec![]));
    assert_eq!(nodes[0].events.message(&network.runtime).body, "to a");
    assert_eq!(nodes[1].events.message(&network.runtime).body, "to b");
}

#[test]
fn the_end_of_a_peer_is_reported_once_and_promptly() {
    let mut network = Network::new(2);
    let (mut a, b) = network.pair();
    a.events.drain();
    let began = Instant::now();
    network.stop(&b);
    a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    network.stop(&a);
    assert!(!a.events.drain().contains(&TransportEvent::Disconnected(B)), "it was reported twice");
}

#[test]
fn a_peer_that_restarts_is_connected_again() {
    let mut network = Network::new(2);
    let (mut a, mut b) = network.pair();
    for round in 0..3u8 {
        a.events.drain();
        network.stop(&b);
        a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
        b = network.start(B);
        a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
        // A message sent over a connection that is about to end is lost, so send it again until it
        // arrives.
        while !arrives_soon(&network, &a, &mut b, envelope(A, B, vec![round], vec![])) {}
    }
    assert!(a.transport.statistics().reconnects >= 3);
}

#[test]
fn a_replica_that_becomes_a_member_is_connected_and_one_that_leaves_is_disconnected() {
    let mut network = Network::new(3);
    let (of_two, of_three) = (membership(A, &network.peers[..2]), membership(A, &network.peers));
    let mut options = network.options(A);
    options.membership = of_two.clone();
    let mut a = network.start_with(options);
    let (mut b, mut c) = (network.start(B), network.start(C));
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    a.transport.send(envelope(A, C, "too early", vec![]));
    assert_eq!(a.transport.statistics().messages_dropped, 1);
    a.transport.set_peers(&of_three);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(C));
    while !arrives_soon(&network, &a, &mut c, envelope(A, C, "welcome", vec![])) {}
    while !arrives_soon(&network, &c, &mut a, envelope(C, A, "thank you", vec![])) {}

    a.transport.set_peers(&of_two);
    a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(C));
    c.events.wait_for(&network.runtime, &TransportEvent::Disconnected(A));
    let dropped = a.transport.statistics().messages_dropped;
    a.transport.send(envelope(A, C, "too late", vec![]));
    assert_eq!(a.transport.statistics().messages_dropped, dropped + 1);
    // The connection to the peer that stays was not touched.
    a.transport.send(envelope(A, B, "still here", vec![]));
    assert_eq!(b.events.message(&network.runtime).body, "still here");
}

fn arrives_soon(network: &Network, from: &Node, to: &mut Node, message: Envelope) -> bool {
    from.transport.send(message.clone());
    let arrival = async { while to.events.0.recv().await != Some(TransportEvent::Received(message.clone())) {} };
    network.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(100), arrival).await }).is_ok()
}

fn received_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut received = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        // Signs of life arrive as long as the connection is open.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).expect("a socket");
        match stream.read(&mut bytes) {
            Ok(0) => return received,
            Ok(count) => received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return received,
            Err(error) => panic!("the connection stays open: {error}"),
        }
        assert!(Instant::now() < deadline, "the connection stays open, and {received:?} has arrived");
    }
}

#[test]
fn garbage_on_the_port_is_counted_and_does_no_harm() {
    let mut network = Network::new(2);
    let (a, mut b) = network.pair();
    let address = b.transport.local_address().expect("it listens");
    let hello = Frame::hello(envelope(A, B, "", vec![]).sender, B).encode().expect("small").pieces.concat();
    let mut damaged_length = hello.clone();
    damaged_length[12..16].copy_from_slice(&(60u32 << 20).to_le_bytes());
    let to_other = Frame::hello(envelope(A, C, "", vec![]).sender, C).encode().expect("small").pieces.concat();
    let unknown = Frame::hello(envelope(C, B, "", vec![]).sender, B).encode().expect("small").pieces.concat();
    let garbage = [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 100_000], damaged_length, to_other, unknown];
    for bytes in &garbage {
        let mut stream = TcpStream::connect(address).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        // The connection may be closed before everything is written.
        let _closed_early = stream.write_all(bytes);
        let answer = received_until_closed(&mut stream);
        assert!(answer.is_empty() || answer == Greeting::with(Answer::Refused).to_bytes(), "{answer:?}");
    }
    assert_eq!(b.transport.statistics().connections_rejected, garbage.len() as u64);
    a.transport.send(envelope(A, B, "still here", vec![]));
    assert_eq!(b.events.message(&network.runtime).body, "still here");
}

#[test]
fn a_connection_over_which_nothing_is_sent_is_closed() {
    let mut network = Network::new(1);
    let mut options = network.options(A);
    options.connect_timeout_ms = 50;
    let a = network.start_with(options);
    let mut stream = TcpStream::connect(a.transport.local_address().expect("it listens")).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    assert_eq!(stream.read(&mut [0; 8]).expect("closed in order"), 0);
    assert_eq!(a.transport.statistics().connections_rejected, 1);
}

/// Accepts a connection as a replica would: reads the hello and greets.
fn accept_as_replica(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("the transport dials");
    stream.read_exact(&mut [0; 80]).expect("a hello");
    stream.write_all(&Greeting::with(Answer::Accepted).to_bytes()).expect("the dialler waits for it");
    stream
}

#[test]
fn messages_that_exceed_the_queue_of_a_slow_peer_are_dropped() {
    let mut network = Network::new(2);
    let listener = network.listeners[1].take().expect("not used yet");
    let mut options = network.options(A);
    options.queue_bytes = 1 << 20;
    let mut a = network.start_with(options);
    let mut stream = accept_as_replica(&listener);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    let payload = Bytes::from(vec![1; 100_000]);
    for _ in 0..1000 {
        a.transport.send(envelope(A, B, "", vec![payload.clone()]));
    }
    let dropped = a.transport.statistics().messages_dropped;
    assert!(dropped > 500, "only {dropped} were dropped, although the peer reads nothing");
    let mut decoder = Decoder::default();
    let mut received = 0;
    while received < 1000 - dropped {
        let buffer: &mut BytesMut = decoder.buffer();
        let mut bytes = vec![0; 65536];
        let count = stream.read(&mut bytes).expect("the connection is open");
        buffer.extend_from_slice(&bytes[..count]);
        while decoder.next_frame().expect("the stream is intact").is_some() {
            received += 1;
        }
    }
    a.transport.send(envelope(A, B, "there is room again", vec![]));
    stream.read_exact(&mut [0; 80]).expect("the queue moves again");
}

#[test]
fn a_peer_that_falls_silent_is_dialled_again() {
    let mut network = Network::new(2);
    let listener = network.listeners[1].take().expect("not used yet");
    let mut options = network.options(A);
    options.silence_ms = 50;
    let mut a = network.start_with(options);
    let _first = accept_as_replica(&listener);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
    let _second = accept_as_replica(&listener);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
}

#[test]
fn a_peer_that_is_only_idle_stays_connected() {
    let mut network = Network::new(2);
    let mut options = network.options(A);
    options.silence_ms = 500;
    let mut a = network.start_with(options);
    let mut options = network.options(B);
    options.alive_interval_ms = 10;
    let mut b = network.start_with(options);
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    b.events.wait_for(&network.runtime, &TransportEvent::Connected(A));
    let idle =
        network.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(1200), a.events.0.recv()).await });
    assert!(idle.is_err(), "something happened on an idle connection: {idle:?}");
}

#[test]
fn messages_to_no_one_or_without_a_connection_are_dropped_and_counted() {
    let mut network = Network::new(2);
    let a = network.start(A);
    a.transport.send(envelope(A, B, "not connected", vec![]));
    a.transport.send(envelope(A, A, "to itself", vec![]));
    a.transport.send(envelope(A, ReplicaId(9), "unknown", vec![]));
    assert_eq!(a.transport.statistics().messages_dropped, 3);
}

#[test]
fn a_message_meant_for_another_replica_is_not_delivered() {
    let mut network = Network::new(2);
    let mut b = network.start(B);
    let mut stream = TcpStream::connect(b.transport.local_address().expect("it listens")).expect("the port is open");
    let misdirected = Frame::message(envelope(A, C, "not yours", vec![]));
    let mine = Frame::message(envelope(A, B, "yours", vec![]));
    for frame in [misdirected, mine] {
        stream.write_all(&frame.encode().expect("small").pieces.concat()).expect("the connection is open");
    }
    assert_eq!(b.events.message(&network.runtime).body, "yours");
    assert_eq!(b.transport.statistics().messages_misdirected, 1);
}

#[test]
fn replicas_of_different_clusters_do_not_connect() {
    let mut network = Network::new(2);
    let mut options = network.options(B);
    options.cluster_id = ClusterId(2);
    let b = network.start_with(options);
    let mut stream = TcpStream::connect(b.transport.local_address().expect("it listens")).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let hello = Frame::hello(envelope(A, B, "", vec![]).sender, B);
    stream.write_all(&hello.encode().expect("small").pieces.concat()).expect("the connection is open");
    assert_eq!(received_until_closed(&mut stream), Greeting::with(Answer::OtherCluster).to_bytes());
}

#[test]
fn a_dialler_learns_that_its_peer_belongs_to_another_cluster() {
    let mut network = Network::new(2);
    let (mut of_a, mut of_b) = (network.options(A), network.options(B));
    (of_a.cluster_id, of_b.cluster_id) = (ClusterId(1), ClusterId(2));
    let (a, _b) = (network.start_with(of_a), network.start_with(of_b));
    let trouble = names::wait_for_trouble(&a, B, TroubleKind::OtherCluster);
    assert!(trouble.reason.contains("belongs to another cluster"), "{trouble:?}");
}

#[test]
fn a_dialler_of_another_version_is_refused_and_learns_which_version_is_spoken() {
    let mut network = Network::new(2);
    let b = network.start(B);
    let mut stream = TcpStream::connect(b.transport.local_address().expect("it listens")).expect("the port is open");
    let mut hello = Frame::hello(envelope(A, B, "", vec![]).sender, B).encode().expect("small").pieces.concat();
    hello[4] = 9;
    stream.write_all(&hello).expect("the connection is open");
    assert_eq!(received_until_closed(&mut stream), *b"RSML\x01\0\x15\0");
    assert_eq!(b.transport.statistics().connections_rejected, 1);
}

#[test]
fn a_listener_of_a_later_version_may_accept_or_refuse() {
    let mut network = Network::new(2);
    let listener = network.listeners[1].take().expect("not used yet");
    let mut a = network.start(A);
    let greet = |greeting: [u8; 8]| {
        let (mut stream, _) = listener.accept().expect("the transport dials");
        stream.read_exact(&mut [0; 80]).expect("a hello");
        stream.write_all(&greeting).expect("the dialler waits for it");
        stream
    };
    let mut refused = greet(*b"RSML\x09\0\x15\0");
    assert_eq!(received_until_closed(&mut refused), b"");
    let _accepted = greet(*b"RSML\x09\0\x06\0");
    assert_eq!(a.events.next(&network.runtime), TransportEvent::Connected(B));
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let network = Network::new(1);
    let address = network.peers[0].1;
    let (sink, _events) = sink();
    let started =
        TcpTransport::start(TcpOptions::new(address, membership(A, &network.peers)), sink, network.runtime.handle());
    let Err(error) = started else { panic!("the port is in use") };
    assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
}

#[test]
fn nothing_is_delivered_after_a_shutdown() {
    let mut network = Network::new(2);
    let (a, mut b) = network.pair();
    for _ in 0..1000 {
        a.transport.send(envelope(A, B, "flood", vec![]));
    }
    b.events.message(&network.runtime);
    b.transport.shutdown();
    b.events.drain();
    network.runtime.block_on(b.transport.closed());
    assert_eq!(b.events.drain(), []);
}
