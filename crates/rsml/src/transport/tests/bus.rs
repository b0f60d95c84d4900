//! [`InMemoryTransport`].

use super::*;

fn pair(bus: &SharedMessageBus) -> ((InMemoryTransport, Events), (InMemoryTransport, Events)) {
    let ((sink_a, events_a), (sink_b, events_b)) = (sink(), sink());
    let a = InMemoryTransport::new(A, bus, sink_a);
    ((a, events_a), (InMemoryTransport::new(B, bus, sink_b), events_b))
}

#[test]
fn replicas_on_a_bus_are_connected_when_both_are_there() {
    let bus = create_shared_message_bus();
    let ((a, mut events_a), (_b, mut events_b)) = pair(&bus);
    assert_eq!(events_a.drain(), [TransportEvent::Connected(B)]);
    assert_eq!(events_b.drain(), [TransportEvent::Connected(A)]);
    let message = envelope(A, B, "hello", vec![Bytes::from_static(b"payload")]);
    a.send(message.clone());
    assert_eq!(events_b.drain(), [TransportEvent::Received(message)]);
}

#[test]
fn a_cut_is_reported_to_both_and_stops_messages_until_it_heals() {
    let bus = create_shared_message_bus();
    let ((a, mut events_a), (_b, mut events_b)) = pair(&bus);
    events_a.drain();
    events_b.drain();
    bus.cut(A, B);
    a.send(envelope(A, B, "lost", vec![]));
    assert_eq!(events_a.drain(), [TransportEvent::Disconnected(B)]);
    assert_eq!(events_b.drain(), [TransportEvent::Disconnected(A)]);
    assert_eq!(a.statistics().messages_dropped, 1);
    bus.heal();
    assert_eq!(events_a.drain(), [TransportEvent::Connected(B)]);
    assert_eq!(events_b.drain(), [TransportEvent::Connected(A)]);
}

#[test]
fn a_cut_in_one_direction_lets_the_other_one_pass() {
    let bus = create_shared_message_bus();
    let ((a, mut events_a), (b, mut events_b)) = pair(&bus);
    bus.cut_one_way(A, B);
    events_a.drain();
    events_b.drain();
    a.send(envelope(A, B, "lost", vec![]));
    b.send(envelope(B, A, "passes", vec![]));
    assert_eq!(events_b.drain(), []);
    assert_eq!(events_a.drain(), [TransportEvent::Received(envelope(B, A, "passes", vec![]))]);
}

#[test]
fn an_isolated_replica_reaches_no_one() {
    let bus = create_shared_message_bus();
    let ((a, mut events_a), (b, mut events_b)) = pair(&bus);
    bus.isolate(A);
    events_a.drain();
    events_b.drain();
    a.send(envelope(A, B, "lost", vec![]));
    b.send(envelope(B, A, "lost", vec![]));
    assert_eq!((events_a.drain(), events_b.drain()), (vec![], vec![]));
}

#[test]
fn leaving_the_bus_is_reported_and_coming_back_replaces_the_old_transport() {
    let bus = create_shared_message_bus();
    let ((a, mut events_a), (b, mut events_b)) = pair(&bus);
    events_a.drain();
    events_b.drain();
    b.shutdown();
    a.send(envelope(A, B, "lost", vec![]));
    assert_eq!(events_a.drain(), [TransportEvent::Disconnected(B)]);
    assert_eq!(events_b.drain(), []);
    let (sink_again, mut events_again) = sink();
    let _b_again = InMemoryTransport::new(B, &bus, sink_again);
    drop(b);
    a.send(envelope(A, B, "found", vec![]));
    assert_eq!(events_a.drain(), [TransportEvent::Connected(B)]);
    assert_eq!(events_again.drain().len(), 2);
}
