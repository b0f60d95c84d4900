use super::*;
use crate::core::{RequestId, TransferError, TransferId};

const ELECTION_MIN_US: u64 = 300_000;
const ELECTION_MAX_US: u64 = 600_000;
const FAR: u64 = 1 << 40;

/// It leads with a log of 11 entries. Replica 1 holds those through `held`, and replica 2 was not
/// heard yet.
fn leading(held: u64) -> (Lone, View) {
    let mut lone = Lone::with_log(10, View::BIRTH);
    let view = lone.lead();
    assert_eq!(lone.last(), 11);
    lone.receive(ONE, Message::Accepted(accepted(view, held)));
    (lone, view)
}

fn transfer(lone: &mut Lone, to: Option<ReplicaId>, deadline: u64) -> Outputs {
    lone.step(Input::Transfer { id: TransferId(1), to, deadline: Instant(deadline) })
}

fn timed_out() -> Vec<(TransferId, Result<ReplicaId, TransferError>)> {
    vec![(TransferId(1), Err(TransferError::TimedOut(ONE)))]
}

/// Whether it proposes nothing.
fn is_draining(lone: &mut Lone) -> bool {
    let outputs = lone.step(Input::Propose { id: RequestId(1), payload: Bytes::from_static(b"x") });
    outputs.persist.is_empty()
}

#[test]
fn a_target_counts_as_heard_for_less_than_the_shortest_election_timeout() {
    let (mut lone, _) = leading(11);
    let heard = lone.now;
    lone.now = heard + ELECTION_MIN_US;
    let unreachable = vec![(TransferId(1), Err(TransferError::Unreachable(ONE)))];
    assert_eq!(transfer(&mut lone, Some(ONE), FAR).transferred, unreachable);
    let (mut lone, _) = leading(11);
    lone.now = heard + ELECTION_MIN_US - 1;
    assert_eq!(transfer(&mut lone, Some(ONE), FAR).transferred, []);
}

#[test]
fn a_peer_that_holds_nothing_in_this_view_is_no_successor() {
    let mut lone = Lone::with_log(10, View::BIRTH);
    lone.lead();
    let nobody = vec![(TransferId(1), Err(TransferError::NoTarget))];
    assert_eq!(transfer(&mut lone, None, FAR).transferred, nobody);
}

#[test]
fn draining_begins_when_the_target_lacks_twice_the_pipeline() {
    for (held, drains) in [(2, false), (3, true)] {
        let (mut lone, _) = leading(held);
        assert_eq!(lone.replica.options.max_in_flight_values, 4);
        transfer(&mut lone, Some(ONE), FAR);
        assert_eq!(lone.replica.is_draining(), drains, "it lacks {} entries", 11 - held);
    }
}

#[test]
fn a_transfer_to_a_replica_that_lags_ends_at_its_deadline() {
    let (mut lone, _) = leading(2);
    let deadline = lone.now + 1000;
    transfer(&mut lone, Some(ONE), deadline);
    assert_eq!(lone.tick_at(deadline - 1).transferred, []);
    assert_eq!(lone.tick_at(deadline).transferred, timed_out());
    assert_eq!(lone.replica.status().handing_over_to, None);
}

#[test]
fn a_primary_drains_for_the_longest_election_timeout() {
    let (mut lone, _) = leading(3);
    let began = lone.now;
    transfer(&mut lone, Some(ONE), FAR);
    lone.tick_at(began + ELECTION_MAX_US - 1);
    assert!(is_draining(&mut lone));
    lone.tick_at(began + ELECTION_MAX_US);
    assert_eq!(lone.replica.status().handing_over_to, None);
}

#[test]
fn callers_get_an_error_at_their_deadline_while_the_transfer_goes_on() {
    let (mut lone, _) = leading(3);
    let deadline = lone.now + 1000;
    transfer(&mut lone, Some(ONE), deadline);
    assert_eq!(lone.tick_at(deadline - 1).transferred, []);
    assert_eq!(lone.tick_at(deadline).transferred, timed_out());
    assert_eq!(lone.replica.status().handing_over_to, Some(ONE));
}

#[test]
fn a_target_that_was_sent_the_last_commit_point_is_not_sent_it_again_and_again() {
    let (mut lone, view) = leading(11);
    assert_eq!(lone.commit(), 11);
    transfer(&mut lone, Some(ONE), FAR);
    for _ in 0..2 {
        assert_eq!(sent_to(&lone.ready(), ONE), []);
    }
    let knows_all = Accepted { commit: 11, ..accepted(view, 11) };
    let sent = sent_to(&lone.receive(ONE, Message::Accepted(knows_all)), ONE);
    assert!(matches!(sent[..], [Message::Transfer(_)]), "{sent:?}");
}
