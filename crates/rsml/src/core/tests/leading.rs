//! A primary: what it sends to its peers, and when it should lead no more.

use super::*;
use crate::core::{ReadPurpose, RequestId};
use crate::message::Requests;

const HEARTBEAT_US: u64 = 50_000;

/// It leads, and its log of 6 entries begins on disk with the second and in memory with the fourth.
/// Replica 1 has promised a log of the same view that ends with `last`.
fn lead_over(last: u64) -> Outputs {
    let mut lone = Lone::started(6, view(1, TWO), |_, start| {
        Lone::applied_through(start, 3);
        start.recovered.first = Sequence(2);
    });
    let own = lone.stand();
    let accepted_view = view(1, TWO).0;
    let promise = Promise { view: own.0, accepted_view, last, commit: 1, first: 1, ..Promise::default() };
    lone.receive(ONE, Message::Promise(promise))
}

#[test]
fn a_peer_gets_entries_from_memory_from_its_first_one_on() {
    let outputs = lead_over(3);
    assert_eq!(outputs.read_log, []);
    let sent = outputs.send.iter().find(|sent| sent.to == ONE && !sent.payload.is_empty());
    let payload = &sent.expect("entries are sent").payload;
    assert_eq!(payload[..3], entries(4..=6));
}

#[test]
fn a_peer_gets_entries_from_the_disk_from_its_first_one_on() {
    for last in [1, 2] {
        let outputs = lead_over(last);
        let [read] = &outputs.read_log[..] else { panic!("{:?}", outputs.read_log) };
        let expected = (ReadPurpose::Follow(ONE), Sequence(last + 1), Sequence(3));
        assert_eq!((read.purpose, read.from, read.to), expected);
        assert!(!sent_to(&outputs, ONE).iter().any(|sent| matches!(sent, Message::Behind(_))));
    }
}

/// It leads, and both peers hold its whole log, which is committed.
fn leading() -> (Lone, View) {
    let mut lone = Lone::with_log(3, View::BIRTH);
    let view = lone.lead();
    let last = lone.last();
    for peer in [ONE, TWO] {
        lone.receive(peer, Message::Accepted(accepted(view, last)));
        // Replica 2 was probed.
        lone.receive(peer, Message::Accepted(Accepted { probe: 1, ..accepted(view, last) }));
    }
    assert_eq!(lone.commit(), last);
    lone.tick_at(lone.now + HEARTBEAT_US);
    (lone, view)
}

fn propose(lone: &mut Lone, id: u64) -> Outputs {
    lone.step(Input::Propose { id: RequestId(id), payload: Bytes::from_static(b"x") })
}

fn proposes(outputs: &Outputs) -> bool {
    outputs.persist.iter().any(|write| !write.entries.is_empty())
}

#[test]
fn a_primary_is_recovered_once_it_has_applied_the_first_entry_of_its_view() {
    let (mut lone, _) = leading();
    assert_eq!(lone.last(), 4, "its own first entry");
    lone.applied(3);
    assert!(!lone.replica.is_recovered());
    lone.applied(4);
    assert!(lone.replica.is_recovered());
}

#[test]
fn a_heartbeat_is_sent_at_the_moment_it_is_due() {
    let (mut lone, _) = leading();
    let sent = lone.now;
    assert_eq!(sent_to(&lone.tick_at(sent + HEARTBEAT_US - 1), ONE), []);
    let sent = sent_to(&lone.tick_at(sent + HEARTBEAT_US), ONE);
    assert!(matches!(sent[..], [Message::Accept(Accept { answer: true, .. })]));
}

#[test]
fn a_commit_point_is_sent_at_once_to_who_waits_for_it_and_to_others_with_the_next_tick() {
    let (mut lone, view) = leading();
    let last = lone.last();
    let commit_of = |outputs: &Outputs| match sent_to(outputs, ONE)[..] {
        [] => None,
        [Message::Accept(Accept { commit, .. })] => Some(commit),
        ref other => panic!("{other:?}"),
    };
    let requests = Message::Requests(Requests { first: 1, voids: Vec::new() });
    let outputs = lone.receive_with(ONE, requests, vec![Bytes::from_static(b"x")]);
    assert_eq!(commit_of(&outputs), Some(last), "with the entry");
    assert_eq!(commit_of(&lone.sync()), None, "nothing is committed since");
    let outputs = lone.receive(ONE, Message::Accepted(accepted(view, last + 1)));
    assert_eq!(commit_of(&outputs), Some(last + 1), "its request is committed");
    assert_eq!(commit_of(&propose(&mut lone, 1)), Some(last + 1), "with the entry");
    lone.sync();
    let outputs = lone.receive(ONE, Message::Accepted(accepted(view, last + 2)));
    assert_eq!((lone.commit(), commit_of(&outputs)), (last + 2, None), "it waits for no more");
    let next = lone.now + 1;
    assert_eq!(commit_of(&lone.tick_at(next)), Some(last + 2));
    assert_eq!(commit_of(&lone.tick_at(next + 1)), None, "it was sent");
}

#[test]
fn a_gap_is_none_if_the_peer_expects_the_very_entry_that_it_gets_next() {
    let (mut lone, view) = leading();
    let last = lone.last();
    let complains = |expected| Accepted { gap: true, expected, ..accepted(view, last) };
    let outputs = lone.receive(ONE, Message::Accepted(complains(last + 1)));
    assert_eq!(sent_to(&outputs, ONE), []);
    let outputs = lone.receive(ONE, Message::Accepted(complains(last)));
    assert!(matches!(sent_to(&outputs, ONE)[..], [Message::Accept(Accept { probe: 1, answer: true, .. })]));
}

#[test]
fn as_many_values_are_in_flight_as_the_pipeline_has_room_for() {
    let (mut lone, _) = leading();
    assert_eq!(lone.replica.options.max_in_flight_values, 4);
    for id in 1..=4 {
        assert!(proposes(&propose(&mut lone, id)), "value {id}");
    }
    assert!(!proposes(&propose(&mut lone, 5)));
}

#[test]
fn nothing_is_proposed_once_the_log_in_memory_has_its_greatest_length() {
    let (mut lone, _) = leading();
    let bytes = lone.replica.acceptor.log().bytes();
    lone.replica.options.log_cache_bytes = 0;
    lone.replica.options.max_unapplied_bytes = bytes;
    assert!(!proposes(&propose(&mut lone, 1)));
    lone.replica.options.max_unapplied_bytes = bytes + 1;
    assert!(proposes(&lone.ready()));
}

#[test]
fn a_primary_resigns_once_its_disk_was_behind_the_others_for_the_shortest_election_timeout() {
    let (mut lone, view) = leading();
    assert!(proposes(&propose(&mut lone, 1)), "its own write hangs");
    let last = lone.last();
    let started = lone.now + 1;
    lone.tick_at(started);
    for interval in 1..=6 {
        for peer in [ONE, TWO] {
            lone.receive(peer, Message::Accepted(accepted(view, last)));
        }
        assert_eq!(lone.replica.status().role, "primary", "after {interval} intervals");
        lone.tick_at(started + interval * HEARTBEAT_US);
    }
    assert_eq!(lone.replica.status().role, "secondary", "after 300 ms");
}

#[test]
fn a_primary_that_should_not_lead_transfers_its_leadership_at_the_moment_it_may() {
    let (mut lone, _) = leading();
    let due = lone.now + 10;
    lone.step(Input::Eligible(false));
    lone.replica.timers.next_transfer = Instant(due);
    lone.tick_at(due - 1);
    assert_eq!(lone.replica.status().handing_over_to, None);
    lone.tick_at(due);
    assert_eq!(lone.replica.status().handing_over_to, Some(ONE));
}
