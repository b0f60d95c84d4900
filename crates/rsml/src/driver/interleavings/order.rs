//! Inputs reach the core in the order in which they arrived, and none is left in the inbox.

use super::super::sync::atomic::Ordering;
use super::one_replica::deadline;
use super::*;
use crate::message::{Message, Requests};

fn requests(first: u64, count: usize) -> (Message, Vec<Bytes>) {
    let message = Message::Requests(Requests { first, ..Default::default() });
    (message, vec![Bytes::from_static(b"of the peer"); count])
}

/// Checks that no bytes count as waiting, and that the core saw no request of the peer before an
/// earlier one.
fn all_inputs_are_processed(harness: &Harness) {
    let waiting = harness.replica.shared().waiting_bytes.load(Ordering::SeqCst);
    assert_eq!(waiting, 0, "bytes that were processed count as waiting");
    let has_gap = harness.received.try_iter().any(|(message, _)| matches!(message, Message::RequestsGap(_)));
    assert!(!has_gap, "the core saw later requests before earlier ones");
}

#[test]
fn requests_of_one_caller_are_executed_in_the_order_in_which_they_were_made() {
    explore(|| {
        let harness = Harness::start();
        let peer = harness.peer_sends(vec![requests(1, 1), requests(2, 1)]);
        let caller = harness.spawn(|replica| {
            let outcomes = [(); 3].map(|()| replica.execute_request_async(Bytes::from_static(b"x"), deadline()));
            outcomes.map(|outcome| position(block_on(outcome)))
        });
        let positions = caller.join().expect("no panic");
        assert!(positions.is_sorted_by(|one, next| one < next), "{positions:?}");
        peer.join().expect("no panic");
        harness.replica.stop(false);
    });
}

#[test]
fn every_caller_gets_its_outcome_although_nothing_else_happens() {
    explore(|| {
        let harness = Harness::start();
        let execute = |replica: &ConsensusReplica| {
            position(block_on(replica.execute_request_async(Bytes::from_static(b"x"), deadline())))
        };
        let callers = [(); 3].map(|()| harness.spawn(execute));
        let mut positions = callers.map(|caller| caller.join().expect("no panic"));
        positions.sort_unstable();
        assert_eq!(positions, [1, 2, 3]);
        harness.replica.stop(false);
    });
}

#[test]
fn messages_of_one_connection_reach_the_core_in_order_and_leave_no_bytes_counted() {
    explore(|| {
        let harness = Harness::start();
        let peer = harness.peer_sends(vec![requests(1, 2), requests(3, 1), requests(4, 1)]);
        let caller = harness
            .spawn(|replica| position(block_on(replica.execute_request_async(Bytes::from_static(b"x"), deadline()))));
        caller.join().expect("no panic");
        peer.join().expect("no panic");
        // Everything that arrived before this is processed before it.
        block_on(harness.replica.read_barrier(deadline())).expect("it leads");
        all_inputs_are_processed(&harness);
        harness.replica.stop(false);
    });
}

#[test]
fn concurrent_connections_do_not_take_messages_from_each_other() {
    explore(|| {
        let harness = Harness::start();
        let peer = harness.peer_sends(vec![requests(1, 1), requests(2, 1), requests(3, 1)]);
        let stranger = harness.stranger_sends(vec![requests(1, 3), requests(4, 3)]);
        peer.join().expect("no panic");
        stranger.join().expect("no panic");
        block_on(harness.replica.read_barrier(deadline())).expect("it leads");
        all_inputs_are_processed(&harness);
        harness.replica.stop(false);
    });
}
