use super::*;
use crate::core::lease::Leases;
use crate::message::{Prepare, Transfer};

const LEASE_US: u64 = 200_000;

fn with_leases(view: View) -> Lone {
    Lone::started(1, view, |options, start| {
        options.lease_us = LEASE_US;
        let hard = start.recovered.hard_state.as_mut().expect("it was given");
        hard.lease_us = LEASE_US;
    })
}

/// Replica 1 asks for a promise of a view of its own; whether it gets one.
fn is_promised(lone: &mut Lone, at: u64) -> bool {
    lone.now = at;
    lone.receive(ONE, Message::Prepare(Prepare { view: view(9, ONE).0, transfer: 0 }));
    lone.replica.status().view == view(9, ONE)
}

#[test]
fn a_lease_forbids_promises_until_its_last_microsecond_and_not_at_its_end() {
    let mut lone = with_leases(view(1, TWO));
    assert!(!is_promised(&mut lone, LEASE_US - 1));
    assert!(is_promised(&mut lone, LEASE_US));
}

#[test]
fn a_replica_that_has_promised_no_view_has_granted_no_lease() {
    assert_eq!(Leases::at_start(View::BIRTH, Epoch::FIRST, Instant(0), LEASE_US, LEASE_US).granted, None);
    let mut lone = with_leases(View::BIRTH);
    assert!(is_promised(&mut lone, 1));
}

#[test]
fn longer_leases_of_a_former_start_are_forgotten_at_the_moment_they_end() {
    let mut lone = Lone::started(1, view(1, TWO), |options, start| {
        options.lease_us = LEASE_US;
        start.recovered.hard_state.as_mut().expect("it was given").lease_us = 2 * LEASE_US;
    });
    lone.tick_at(2 * LEASE_US - 1);
    assert_eq!(lone.replica.hard_state().lease_us, 2 * LEASE_US);
    lone.tick_at(2 * LEASE_US);
    assert_eq!(lone.replica.hard_state().lease_us, LEASE_US);
}

/// Replica 0 leads, and replica 1 holds its whole log.
fn leading() -> (Lone, View) {
    let mut lone = with_leases(View::BIRTH);
    let view = lone.lead();
    lone.receive(ONE, Message::Accepted(accepted(view, lone.last())));
    assert!(lone.replica.status().established);
    (lone, view)
}

#[test]
fn a_lease_serves_for_nine_tenths_of_its_length_and_no_longer() {
    let (mut lone, view) = leading();
    let asked = lone.now;
    let granted = Accepted { lease_from_us: asked, ..accepted(view, lone.last()) };
    lone.receive(ONE, Message::Accepted(granted));
    let end = asked + LEASE_US * 9 / 10;
    assert_eq!(lone.replica.relies_on(Instant(end - 1)), Some(vec![ONE]));
    assert_eq!(lone.replica.relies_on(Instant(end)), None);
}

#[test]
fn an_answer_that_grants_no_lease_is_none_though_the_clock_began_just_now() {
    let (mut lone, view) = leading();
    lone.receive(ONE, Message::Accepted(accepted(view, lone.last())));
    assert_eq!(lone.replica.relies_on(Instant(LEASE_US / 10)), None);
}

#[test]
fn a_revoked_lease_serves_no_more_though_it_is_not_over() {
    let (mut lone, view) = leading();
    let granted = Accepted { lease_from_us: lone.now, ..accepted(view, lone.last()) };
    lone.receive(ONE, Message::Accepted(granted));
    assert!(lone.replica.relies_on(Instant(lone.now)).is_some());
    let deadline = Instant(lone.now + 1_000_000);
    let outputs = lone.step(Input::Transfer { id: crate::core::TransferId(1), to: Some(ONE), deadline });
    assert!(!sent_to(&outputs, ONE).iter().any(|sent| matches!(sent, Message::Transfer(Transfer { .. }))));
    let knows_all = Accepted { commit: lone.last(), ..accepted(view, lone.last()) };
    let outputs = lone.receive(ONE, Message::Accepted(knows_all));
    assert!(sent_to(&outputs, ONE).iter().any(|sent| matches!(sent, Message::Transfer(Transfer { .. }))));
    assert_eq!(lone.replica.relies_on(Instant(lone.now)), None);
}
