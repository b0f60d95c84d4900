//! A start, whatever is on the disk, and the moments at which something is due.

use super::*;
use crate::message::Hello;

#[test]
fn a_log_that_continues_right_behind_the_database_needs_no_snapshot() {
    for (first, needs_one) in [(4, false), (5, true)] {
        let lone = Lone::started(6, view(1, TWO), |_, start| {
            Lone::applied_through(start, 3);
            start.recovered.first = Sequence(first);
            if needs_one {
                start.entries.clear();
            }
        });
        assert_eq!(lone.replica.status().is_catching_up, needs_one, "the log begins with {first}");
    }
}

#[test]
fn a_log_of_a_single_entry_that_was_not_read_counts_as_lost() {
    let lone = Lone::started(5, view(1, TWO), |_, start| {
        start.recovered.first = Sequence(5);
        start.entries.clear();
    });
    assert_eq!(lone.replica.acceptor.durable_lost(), [(Sequence(5), Sequence(5))]);
}

#[test]
fn peers_get_no_entry_that_is_lost_where_the_database_ends() {
    let lone = Lone::started(6, view(1, TWO), |_, start| {
        Lone::applied_through(start, 3);
        start.entries[0] = None;
        start.recovered.lost = vec![(Sequence(3), Sequence(4))];
    });
    assert_eq!(lone.replica.stored.first, Sequence(4));
}

#[test]
fn the_first_database_of_a_disk_is_inherited_from_nobody() {
    for (generation, inherited) in [(0, 0), (1, 3)] {
        let lone = Lone::started(6, view(1, TWO), |_, start| {
            Lone::applied_through(start, 3);
            start.recovered.hard_state.as_mut().expect("it was given").generation = generation;
        });
        assert_eq!(lone.replica.digests.inherited(), Sequence(inherited));
    }
}

#[test]
fn a_report_is_sent_at_the_moment_it_is_due() {
    let mut lone = Lone::with_log(3, view(1, TWO));
    let reports = |outputs: Outputs| sent_to(&outputs, ONE).iter().any(|sent| matches!(sent, Message::Report(_)));
    assert!(reports(lone.tick_at(100)));
    assert!(!reports(lone.tick_at(100 + 199_999)));
    assert!(reports(lone.tick_at(100 + 200_000)));
}

#[test]
fn an_unborn_replica_calls_the_others_at_the_moment_it_is_due() {
    let mut lone = Lone::started(0, View::BIRTH, |_, start| start.recovered.hard_state = None);
    let calls = |outputs: Outputs| sent_to(&outputs, ONE) == [Message::Hello(Hello::default())];
    assert!(calls(lone.tick_at(100)));
    assert!(!calls(lone.tick_at(100 + 49_999)));
    assert!(calls(lone.tick_at(100 + 50_000)));
}

#[test]
fn a_replica_without_space_stands_once_nobody_has_led_for_four_election_timeouts() {
    let mut lone = Lone::with_log(3, view(1, TWO));
    lone.step(Input::Space(false));
    lone.now = 2_000_000;
    lone.report(ONE, Report::default());
    lone.replica.now = Instant(2_399_999);
    assert!(!lone.replica.may_stand(), "replica 1 has space");
    lone.replica.now = Instant(2_400_000);
    assert!(lone.replica.may_stand());
}

#[test]
fn a_replica_whose_disk_stood_still_for_the_shortest_election_timeout_does_not_stand() {
    let mut lone = Lone::with_log(3, view(1, TWO));
    let next = Accept { from: 4, ..accept(view(1, TWO), 3, 1) };
    lone.receive_with(TWO, Message::Accept(next), entries(4..=4));
    for interval in 0..=6 {
        assert!(lone.replica.may_stand(), "the disk waits for {} us", lone.replica.status().disk_waits_us);
        lone.tick_at(interval * 50_000);
    }
    assert_eq!(lone.replica.status().disk_waits_us, 300_000);
    assert!(!lone.replica.may_stand());
}

#[test]
fn a_quorum_with_space_is_enough_and_counts_who_was_heard_within_two_election_timeouts() {
    let mut lone = Lone::with_log(3, view(1, TWO));
    lone.receive(TWO, Message::Report(Box::default()));
    lone.now = 1_000_000;
    lone.report(ONE, Report { storage_full: true, ..Report::default() });
    lone.replica.now = Instant(1_199_999);
    assert!(!lone.replica.lacks_space());
    lone.replica.now = Instant(1_200_000);
    assert!(lone.replica.lacks_space(), "replica 2 may be gone");
}
