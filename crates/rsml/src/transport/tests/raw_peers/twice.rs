//! A peer that says hello twice, or connects twice.

use std::sync::atomic::AtomicBool;

use super::super::super::greeting::ALIVE;
use super::*;

#[test]
fn a_second_hello_on_a_connection_is_ignored_and_not_greeted_again() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let mut stream = peer.dial_and_send(&[hello(), hello(), message("first")].concat());
    assert_eq!(a.events.body(&network.runtime), "first");
    stream.write_all(&[hello(), message("second")].concat()).expect("the connection is open");
    assert_eq!(a.events.body(&network.runtime), "second");
    stream.shutdown(Shutdown::Write).expect("the connection is open");
    let said = received_until_closed(&mut stream);
    let (greeting, signs) = said.split_at(8);
    assert_eq!(greeting, Greeting::with(Answer::Accepted).to_bytes());
    assert!(signs.iter().all(|sign| *sign == ALIVE), "{signs:?}");
    assert_eq!(a.events.bodies_until_the_end(&network.runtime), Vec::<String>::new());
    assert_eq!(a.transport.statistics().connections_rejected, 0);
}

/// The old connection has sent nothing more, half a frame, or a whole one.
#[test]
fn a_new_connection_ends_the_old_one_and_nothing_more_of_the_old_one_is_delivered() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let late = message("late");
    for half in [0, 1, 40, 80, late.len() - 1] {
        let mut old = peer.dial_and_send(&[&hello()[..], &message("old"), &late[..half]].concat());
        assert_eq!(a.events.body(&network.runtime), "old");
        let mut new = peer.dial_and_send(&[hello(), message("new")].concat());
        assert_eq!(a.events.next(&network.runtime), received("new"), "after {half} bytes");
        // The connection may be closed already.
        let _closed = old.write_all(&[&late[half..], &message("later")].concat());
        received_until_closed(&mut old);
        new.write_all(&message("newer")).expect("the new connection is open");
        assert_eq!(a.events.next(&network.runtime), received("newer"), "after {half} bytes");
        drop(new);
        assert_eq!(
            a.events.next(&network.runtime),
            TransportEvent::Disconnected(B),
            "reported once, for the new connection"
        );
    }
    assert_eq!(a.transport.statistics().connections_rejected, 0);
}

/// The old connection is so busy that it is often ended in the middle of a read.
#[test]
fn messages_sent_over_an_old_connection_after_the_new_one_is_accepted_are_never_delivered() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    for round in 0..400 {
        let is_taken = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut old = peer.dial_and_send(&[hello(), message("old")].concat());
            assert_eq!(a.events.next(&network.runtime), received("old"));
            let is_taken = &is_taken;
            scope.spawn(move || {
                let (before, after) = (message("before").repeat(100), message("after").repeat(100));
                // Until the connection is closed. The limit makes the test fail, rather than run
                // for ever, if it is not.
                let mut late = 0;
                while late < 1000 && old.write_all(if late > 0 { &after } else { &before }).is_ok() {
                    late += usize::from(is_taken.load(Ordering::SeqCst));
                }
            });
            let new = peer.dial_and_send(&[hello(), message("new")].concat());
            while a.events.body(&network.runtime) != "new" {}
            is_taken.store(true, Ordering::SeqCst);
            new.shutdown(Shutdown::Write).expect("the new connection is open");
            let late = a.events.bodies_until_the_end(&network.runtime);
            assert!(late.iter().all(|body| body == "before"), "in round {round}");
        });
        let last: Vec<_> = a.events.drain().into_iter().filter(|event| *event != received("before")).collect();
        assert_eq!(last, [], "in round {round}");
    }
}

fn received(body: &str) -> TransportEvent {
    TransportEvent::Received(envelope(B, A, body.to_owned(), vec![]))
}

#[test]
fn the_newest_of_many_connections_survives_and_its_end_is_reported_once() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let mut connections = Vec::new();
    for number in 0..20 {
        connections.push(peer.dial_and_send(&[hello(), message(&format!("{number}"))].concat()));
        assert_eq!(a.events.next(&network.runtime), received(&format!("{number}")));
    }
    let newest = connections.pop().expect("there are some");
    for mut superseded in connections {
        received_until_closed(&mut superseded);
    }
    drop(newest);
    assert_eq!(a.events.next(&network.runtime), TransportEvent::Disconnected(B));
    network.stop(&a);
    assert_eq!(a.events.drain(), []);
}

#[test]
fn a_stranger_that_sends_no_hello_does_not_affect_an_existing_connection() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut a = network.start(A);
    let mut established = peer.dial_and_send(&[hello(), message("first")].concat());
    assert_eq!(a.events.next(&network.runtime), received("first"));
    for bytes in [&hello()[..79], b"", b"GET / HTTP/1.1\r\n\r\n"] {
        drop(peer.dial_and_send(bytes));
    }
    let to_another = Frame::hello(envelope(B, C, "", vec![]).sender, C).encode().expect("small").pieces.concat();
    received_until_closed(&mut peer.dial_and_send(&to_another));
    established.write_all(&message("second")).expect("the connection is open");
    assert_eq!(a.events.next(&network.runtime), received("second"));
}

/// A dialler that believes its peer dead abandons the old connection, and sends over the new one
/// only.
#[test]
fn after_a_peer_was_dialled_again_messages_are_sent_over_the_new_connection_only() {
    let mut network = Network::new(2);
    let peer = RawPeer::of(&mut network);
    let mut options = network.options(A);
    options.reconnect_max_ms = 10;
    let mut a = network.start_with(options);
    let mut old = peer.accept();
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    a.transport.send(envelope(A, B, "old", vec![]));
    // The old connection stays open on this side.
    old.write_all(b"no sign of life").expect("the connection is open");
    a.events.wait_for(&network.runtime, &TransportEvent::Disconnected(B));
    a.transport.send(envelope(A, B, "between", vec![]));
    let mut new = Reader::of(peer.accept());
    a.events.wait_for(&network.runtime, &TransportEvent::Connected(B));
    a.transport.send(envelope(A, B, "new", vec![]));
    assert_eq!(body_of(&new.next(4096)), "new");
    assert_eq!(a.transport.statistics().messages_dropped, 1, "the message sent in between");
    assert_eq!(received_until_closed(&mut old), bytes_of(envelope(A, B, "old", vec![])));
}
