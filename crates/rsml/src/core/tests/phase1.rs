use super::*;
use crate::message::{Fetch, Fetched, Prepare, Refuse};

#[test]
fn a_view_that_is_promised_and_not_held_is_promised_to_its_candidate_again() {
    let promised = view(1, ONE);
    let mut lone = Lone::started(3, promised, |_, start| {
        start.recovered.hard_state.as_mut().expect("it was given").accepted_view = View::BIRTH;
    });
    let outputs = lone.receive(ONE, Message::Prepare(Prepare { view: promised.0, transfer: 0 }));
    let [Message::Promise(promise)] = &sent_to(&outputs, ONE)[..] else { panic!("{:?}", outputs.send) };
    assert_eq!((promise.view, promise.last), (promised.0, 3));
}

#[test]
fn a_primary_is_refused_only_by_who_has_promised_more_than_its_view() {
    let mut lone = Lone::with_log(3, View::BIRTH);
    let view = lone.lead();
    lone.receive(ONE, Message::Refuse(Refuse { promised: view.0 }));
    assert_eq!(lone.replica.status().role, "primary");
    lone.receive(ONE, Message::Refuse(Refuse { promised: view.0 + 1 }));
    assert_ne!(lone.replica.status().role, "primary");
}

/// Replica 1 was promised a view, and fetches what it lacks of a log of 6 entries, of which 4 and
/// later are in memory.
fn fetched(from: u64) -> Outputs {
    let mut lone = Lone::started(6, view(1, TWO), |_, start| {
        Lone::applied_through(start, 3);
        start.recovered.first = Sequence(2);
    });
    let candidate = view(2, ONE).0;
    lone.receive(ONE, Message::Prepare(Prepare { view: candidate, transfer: 0 }));
    lone.sync();
    lone.receive(ONE, Message::Fetch(Fetch { view: candidate, from }))
}

#[test]
fn entries_are_fetched_from_memory_from_its_first_to_the_last_one() {
    for from in [4, 6] {
        let outputs = fetched(from);
        assert_eq!(outputs.read_log, [], "entry {from} is in memory");
        let [sent] = &outputs.send[..] else { panic!("{:?}", outputs.send) };
        assert!(matches!(sent.message, Message::Fetched(Fetched { from: first, .. }) if first == from));
        assert_eq!(sent.payload, entries(from..=6));
    }
    assert_eq!(fetched(7), Outputs::default(), "there is no such entry");
}

#[test]
fn entries_are_fetched_from_the_disk_from_its_first_one() {
    for from in [2, 3] {
        let reads = fetched(from).read_log;
        let [read] = &reads[..] else { panic!("{reads:?}") };
        assert_eq!((read.from, read.to), (Sequence(from), Sequence(3)));
    }
    assert_eq!(fetched(1), Outputs::default(), "it is trimmed");
}

#[test]
fn a_candidate_that_lacks_the_last_entry_alone_fetches_it_and_asks_again_after_a_retry_interval() {
    let mut lone = Lone::with_log(3, View::BIRTH);
    let view = lone.stand();
    let promise = Promise { view: view.0, last: 4, commit: 1, first: 1, ..Promise::default() };
    let is_fetch = |outputs: Outputs| sent_to(&outputs, ONE).contains(&Message::Fetch(Fetch { view: view.0, from: 4 }));
    assert!(is_fetch(lone.receive(ONE, Message::Promise(promise))));
    let asked = lone.now;
    assert!(!is_fetch(lone.tick_at(asked + 199_999)));
    assert!(is_fetch(lone.tick_at(asked + 200_000)));
}
