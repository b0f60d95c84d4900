//! The feature level: when an entry that raises it is appended, and when not.

use super::*;
use crate::core::{RaiseError, RaiseId, RequestId, TransferId};
use crate::message::Levels;
use crate::{LevelRange, SessionState};

const HEARD_US: u64 = 10_000_000;
const FAR: Instant = Instant(1 << 40);
const SECOND: FeatureLevel = FeatureLevel(2);

/// A replica whose program executes levels 1 to `highest`, with a log of `last` entries that it has
/// applied. If `is_written`, requests were executed in it.
fn replica(last: u64, highest: u32, is_written: bool) -> Lone {
    Lone::started(last, View::BIRTH, |options, start| {
        options.levels = LevelRange::new(1, highest);
        Lone::applied_through(start, last);
        if is_written {
            start.state.sessions.insert(disk(ONE), SessionState { boot: Boot(1), last: 1 });
        }
    })
}

/// It leads, and has executed requests.
fn leading(highest: u32) -> Lone {
    let mut lone = replica(10, highest, true);
    lone.lead();
    lone
}

fn levels(highest: u32) -> Report {
    Report { levels: Levels::field(LevelRange::new(1, highest)), ..Report::default() }
}

/// A report from a disk that is not the one that votes as `from`.
fn report_of_an_observer(lone: &mut Lone, from: ReplicaId, report: Report) -> Outputs {
    let disk_id = DiskId(999);
    let sender = MessageHeader { replica: from, cluster_id: CLUSTER, epoch: Epoch(1), disk_id, boot: Boot(1) };
    lone.step(Input::Receive { sender, message: Message::Report(Box::new(report)), payload: Vec::new() })
}

/// The levels to which it raised the log in these outputs.
fn raises(outputs: &Outputs) -> Vec<u32> {
    let entries = outputs.persist.iter().flat_map(|write| &write.entries);
    let values = entries.map(|entry| Value::from_bytes(entry.clone()));
    values.map(|value| value.raise_feature_level).filter(|level| *level > 0).collect()
}

fn raise(lone: &mut Lone, to: Option<FeatureLevel>) -> Outputs {
    lone.step(Input::Raise { id: RaiseId(1), to, force: false, deadline: FAR })
}

fn force(lone: &mut Lone, to: Option<FeatureLevel>) -> Outputs {
    lone.step(Input::Raise { id: RaiseId(1), to, force: true, deadline: FAR })
}

/// Why it does not raise the level.
#[track_caller]
fn refused(lone: &mut Lone, to: Option<FeatureLevel>) -> RaiseError {
    let last = lone.last();
    let outputs = raise(lone, to);
    assert_eq!((lone.last(), raises(&outputs)), (last, vec![]), "nothing is appended");
    match &outputs.raised[..] {
        [(RaiseId(1), Err(error))] => error.clone(),
        other => panic!("it is not refused: {other:?}"),
    }
}

fn lacks(replica: ReplicaId, highest: u32, wanted: u32) -> RaiseError {
    RaiseError::NotExecuted { replica, levels: LevelRange::new(1, highest), wanted: FeatureLevel(wanted) }
}

#[test]
fn the_level_is_raised_once_every_member_was_heard_with_a_program_that_executes_it() {
    let mut lone = leading(2);
    assert_eq!(refused(&mut lone, None), RaiseError::NotHeard(ONE));
    lone.report(ONE, levels(2));
    assert_eq!(refused(&mut lone, None), RaiseError::NotHeard(TWO));
    lone.report(TWO, Report::default());
    assert_eq!(refused(&mut lone, None), lacks(TWO, 1, 2), "a program that knows of no levels");
    assert_eq!(refused(&mut lone, Some(SECOND)), lacks(TWO, 1, 2));
    lone.report(TWO, levels(3));
    let outputs = raise(&mut lone, None);
    assert_eq!((raises(&outputs), outputs.raised), (vec![2], vec![]));
    assert_eq!(lone.replica.value_at(Sequence(lone.last())).expect("in memory").batches, []);
}

#[test]
fn a_member_counts_as_heard_for_ten_seconds() {
    for (us, is_heard) in [(HEARD_US - 1, true), (HEARD_US, false)] {
        let mut lone = leading(2);
        lone.report(ONE, levels(2));
        lone.report(TWO, levels(2));
        lone.now += us;
        match is_heard {
            true => assert_eq!(raises(&raise(&mut lone, None)), [2]),
            false => assert_eq!(refused(&mut lone, None), RaiseError::NotHeard(ONE)),
        }
    }
}

#[test]
fn an_observer_must_execute_the_level_and_does_not_speak_for_the_disk_that_votes() {
    let mut lone = leading(2);
    lone.report(ONE, levels(2));
    report_of_an_observer(&mut lone, TWO, levels(2));
    assert_eq!(refused(&mut lone, None), RaiseError::VoterAway(TWO));
    lone.report(TWO, levels(2));
    report_of_an_observer(&mut lone, TWO, levels(1));
    assert_eq!(refused(&mut lone, None), lacks(TWO, 1, 2));
    assert_eq!(refused(&mut lone, Some(SECOND)), lacks(TWO, 1, 2));
    report_of_an_observer(&mut lone, TWO, levels(2));
    assert_eq!(raises(&raise(&mut lone, None)), [2]);
}

#[test]
fn a_lost_disk_is_passed_over_by_force_if_a_majority_is_there() {
    let not_raised = |lone: &mut Lone| match &force(lone, None).raised[..] {
        [(_, Err(error))] => error.clone(),
        other => panic!("it is not refused: {other:?}"),
    };
    let mut lone = leading(2);
    assert_eq!(not_raised(&mut lone), RaiseError::NotHeard(ONE), "alone it is no majority");
    report_of_an_observer(&mut lone, ONE, levels(2));
    assert_eq!(not_raised(&mut lone), RaiseError::VoterAway(ONE), "an observer is no part of a majority");
    lone.report(TWO, levels(1));
    assert_eq!(not_raised(&mut lone), lacks(TWO, 1, 2), "whoever is there is not passed over");
    lone.report(TWO, levels(2));
    assert_eq!(refused(&mut lone, None), RaiseError::VoterAway(ONE), "not without force");
    let raised = force(&mut lone, None);
    assert_eq!((raises(&raised), raised.raised), (vec![2], vec![]));
}

#[test]
fn force_holds_for_one_raise_only() {
    let mut lone = leading(3);
    lone.report(TWO, levels(3));
    assert_eq!(raises(&force(&mut lone, Some(SECOND))), [2]);
    assert_eq!(refused(&mut lone, Some(FeatureLevel(3))), RaiseError::NotHeard(ONE));
}

#[test]
fn the_highest_level_of_all_is_taken_and_a_lower_one_on_request() {
    let four = || {
        let mut lone = leading(5);
        lone.report(ONE, levels(4));
        lone.report(TWO, levels(6));
        lone
    };
    assert_eq!(raises(&raise(&mut four(), None)), [4]);
    assert_eq!(raises(&raise(&mut four(), Some(SECOND))), [2]);
    assert_eq!(refused(&mut four(), Some(FeatureLevel(5))), lacks(ONE, 4, 5));
    assert_eq!(refused(&mut four(), Some(FeatureLevel(6))), lacks(ME, 5, 6));
}

#[test]
fn only_a_primary_raises_the_level() {
    let mut lone = replica(10, 2, true);
    lone.report(ONE, levels(2));
    lone.report(TWO, levels(2));
    assert_eq!(refused(&mut lone, None), RaiseError::NotPrimary { primary: None });
}

#[test]
fn callers_are_told_when_the_level_is_applied_or_their_time_is_over() {
    let mut lone = leading(2);
    lone.report(ONE, levels(2));
    lone.report(TWO, levels(2));
    let deadline = Instant(lone.now + 1_000);
    lone.step(Input::Raise { id: RaiseId(7), to: Some(SECOND), force: false, deadline });
    let again = raise(&mut lone, Some(SECOND));
    assert_eq!(raises(&again), [], "it is in the log already");
    assert_eq!(lone.tick_at(deadline.0 - 1).raised, []);
    assert_eq!(lone.tick_at(deadline.0).raised, [(RaiseId(7), Err(RaiseError::TimedOut(SECOND)))]);
    lone.sync();
    let sequence = Sequence(lone.last());
    lone.receive(ONE, Message::Accepted(accepted(lone.replica.status().view, sequence.0)));
    let state = ReplicatedState { sequence, feature_level: SECOND, ..ReplicatedState::default() };
    assert_eq!(lone.step(Input::applied(&state)).raised, [(RaiseId(1), Ok(SECOND))]);
    assert_eq!(raise(&mut lone, Some(SECOND)).raised, [(RaiseId(1), Ok(SECOND))], "it is there already");
    assert_eq!(refused(&mut lone, None), RaiseError::AtHighest(SECOND));
    let lower = RaiseError::Lower { present: SECOND, wanted: FeatureLevel::FIRST };
    assert_eq!(refused(&mut lone, Some(FeatureLevel::FIRST)), lower);
}

#[test]
fn a_raise_waits_while_a_transfer_lets_nothing_be_proposed_and_is_then_checked_again() {
    for (meanwhile, expected) in [(2, vec![2]), (1, vec![])] {
        let mut lone = leading(2);
        let view = lone.replica.status().view;
        lone.report(ONE, levels(2));
        lone.report(TWO, levels(2));
        lone.receive(ONE, Message::Accepted(accepted(view, 10)));
        let over = lone.now + 600_000;
        lone.step(Input::Transfer { id: TransferId(1), to: Some(ONE), deadline: FAR });
        assert!(lone.replica.is_draining());
        assert_eq!(raises(&raise(&mut lone, None)), []);
        lone.report(TWO, levels(meanwhile));
        // It is still followed when the transfer ends, so it goes on leading.
        assert_eq!(raises(&lone.tick_at(over - 1)), []);
        lone.receive(ONE, Message::Accepted(accepted(view, 10)));
        assert!(lone.replica.is_draining());
        let after = lone.tick_at(over);
        assert!(!lone.replica.is_draining(), "nobody took over");
        assert_eq!(lone.replica.status().role, "primary");
        assert_eq!(raises(&after), expected, "a member executes levels up to {meanwhile} by then");
    }
}

#[test]
fn a_new_primary_continues_from_the_level_at_the_end_of_its_log() {
    let raising = Value { raise_feature_level: 2, ..Value::default() }.to_bytes();
    let mut lone = Lone::started(3, View::BIRTH, |options, start| {
        options.levels = LevelRange::new(1, 2);
        Lone::applied_through(start, 1);
        start.entries[1] = Some(raising);
        start.state.sessions.insert(disk(ONE), SessionState { boot: Boot(1), last: 1 });
    });
    lone.lead();
    assert_eq!(lone.replica.status().feature_level, FeatureLevel::FIRST, "it is not applied yet");
    lone.report(ONE, levels(2));
    lone.report(TWO, levels(2));
    let outputs = raise(&mut lone, Some(SECOND));
    assert_eq!((raises(&outputs), outputs.raised), (vec![], vec![]), "the caller waits for the entry that is there");
}

#[test]
fn the_first_entry_of_a_new_cluster_raises_the_level_if_all_are_known_to_execute_it() {
    for (of_two, first) in [(Some(2), vec![2]), (Some(1), vec![]), (None, vec![])] {
        let mut lone = replica(1, 2, false);
        lone.report(ONE, levels(2));
        if let Some(of_two) = of_two {
            lone.report(TWO, levels(of_two));
        }
        let view = lone.stand();
        let promise = Promise { view: view.0, last: 1, commit: 1, first: 1, ..Promise::default() };
        let outputs = lone.receive(ONE, Message::Promise(promise));
        assert_eq!(raises(&outputs), first, "{of_two:?}");
        assert_eq!(lone.last(), 2, "it is the first entry of the view");
    }
}

#[test]
fn while_nothing_was_written_the_level_is_raised_without_a_user() {
    for (is_written, expected) in [(false, vec![2]), (true, vec![])] {
        let mut lone = replica(10, 2, is_written);
        lone.lead();
        lone.report(ONE, levels(2));
        assert_eq!(raises(&lone.tick_at(lone.now + 10_000)), [], "replica 2 was not heard");
        lone.report(TWO, levels(2));
        assert_eq!(raises(&lone.tick_at(lone.now + 10_000)), expected);
    }
}

#[test]
fn a_request_that_is_not_applied_yet_is_something_written() {
    let mut lone = replica(10, 2, false);
    lone.lead();
    lone.step(Input::Propose { id: RequestId(1), payload: Bytes::from_static(b"x") });
    lone.report(ONE, levels(2));
    lone.report(TWO, levels(2));
    assert_eq!(raises(&lone.tick_at(lone.now + 10_000)), []);
}

#[test]
fn a_primary_may_raise_the_level_by_itself_once_all_have_executed_it_for_a_while() {
    const AFTER_US: u64 = 3_000_000;
    let mut lone = Lone::started(10, View::BIRTH, |options, start| {
        options.levels = LevelRange::new(1, 2);
        options.raise_after_us = Some(AFTER_US);
        Lone::applied_through(start, 10);
        start.state.sessions.insert(disk(ONE), SessionState { boot: Boot(1), last: 1 });
    });
    let view = lone.lead();
    let heard = |lone: &mut Lone, us: u64, of_two: u32| {
        lone.now = us;
        lone.report(ONE, levels(2));
        lone.report(TWO, levels(of_two));
        // So it keeps leading.
        lone.receive(ONE, Message::Accepted(accepted(view, 11)));
        raises(&lone.tick_at(us))
    };
    let began = lone.now;
    assert_eq!(heard(&mut lone, began, 2), []);
    assert_eq!(heard(&mut lone, began + AFTER_US - 1, 1), [], "the time begins again");
    let again = began + AFTER_US;
    assert_eq!(heard(&mut lone, again, 2), []);
    assert_eq!(heard(&mut lone, again + AFTER_US - 1, 2), []);
    assert_eq!(heard(&mut lone, again + AFTER_US, 2), [2]);
    assert_eq!(heard(&mut lone, again + 2 * AFTER_US, 2), [], "once");
}

#[test]
fn a_replica_stops_when_a_peer_has_applied_a_level_that_it_does_not_execute() {
    let mut lone = replica(10, 2, true);
    let applied = |level| Report { feature_level: level, ..levels(3) };
    assert_eq!(lone.report(ONE, applied(2)).too_new, None);
    assert_eq!(lone.report(TWO, applied(3)).too_new, Some(FeatureLevel(3)));
}
