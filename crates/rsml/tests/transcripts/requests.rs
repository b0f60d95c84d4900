//! Requests from their acceptance to their outcome.

use rsml::Sequence;

use crate::stage::{A, B, C, Stage};
use crate::{compare, stand, usual};

#[test]
fn a_request_that_is_given_up_before_a_failover_is_voided_by_it() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(B, "x");
    stage.propose(B, "y");
    stage.note("The primary dies with both; one caller gives up meanwhile.");
    stage.kill(A);
    stage.give_up(B, 1);
    stand(&mut stage, C, &[B]);
    stage.play();
    assert_eq!(stage.executed(C), ["y"]);
    assert_eq!(stage.executed(B), ["y"]);
    compare("a_request_that_is_given_up_before_a_failover_is_voided_by_it", &stage);
}

#[test]
fn a_request_that_is_given_up_after_it_was_appended_is_executed_once() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(B, "x");
    stage.carry(B, A);
    stage.carry(A, C);
    stage.note("It is in the log of A and C. B sends a void to the next primary, which knows better.");
    stage.give_up(B, 1);
    stage.sync(C);
    stage.kill(A);
    stand(&mut stage, C, &[B]);
    stage.play();
    stage.tick(C, 60_000);
    stage.play();
    assert_eq!(stage.executed(B), ["x"]);
    compare("a_request_that_is_given_up_after_it_was_appended_is_executed_once", &stage);
}

#[test]
fn a_request_sent_to_two_primaries_is_executed_once() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(B, "x");
    stage.note("A logs B's request and hands it to C; B hears nothing of that, and A dies.");
    stage.carry(B, A);
    stage.carry(A, C);
    stage.lose(A, B);
    stage.sync(C);
    stage.kill(A);
    stage.note("C leads with the request in its log; B sends it again.");
    stand(&mut stage, C, &[B]);
    stage.play();
    stage.tick(C, 10_000);
    stage.play();
    assert_eq!(stage.executed(B), ["x"]);
    assert_eq!(stage.executed(C), ["x"]);
    assert_eq!(stage.core(C).status().applied, Sequence(stage.core(C).status().last.0));
    compare("a_request_sent_to_two_primaries_is_executed_once", &stage);
}

#[test]
fn requests_are_refused_while_too_few_have_space() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(A, "x");
    stage.set_space(A, false);
    stage.propose(A, "y");
    stage.note("Two of three have space, as far as A knows. Then it hears of C.");
    stage.set_space(C, false);
    stage.tick(C, 10_000);
    stage.tell(C, A);
    stage.propose(A, "z");
    stage.read(A);
    stage.play();
    assert_eq!(stage.executed(A), ["x", "y"]);
    stage.note("C has space again.");
    stage.set_space(C, true);
    stage.tick(C, 10_000);
    stage.tell(C, A);
    stage.propose(A, "w");
    stage.play();
    assert_eq!(stage.executed(A), ["x", "y", "w"]);
    compare("requests_are_refused_while_too_few_have_space", &stage);
}
