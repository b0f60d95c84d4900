//! Transfers of leadership: primaries that let another replica lead, because they were asked to or
//! because they should.

use rsml::ReplicaId;

use crate::stage::{A, B, C, Stage};
use crate::{ELECTION_US, compare, usual};

#[test]
fn a_primary_transfers_its_leadership_once_the_target_holds_all() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(A, "x");
    stage.note("A proposes nothing from now on: y waits. B has to hold x, and to know that it is chosen.");
    stage.transfer(A, None);
    stage.propose(A, "y");
    stage.carry(A, B);
    stage.sync(B);
    stage.carry(B, A);
    stage.sync(A);
    stage.note("Now B stands without asking whether it may.");
    stage.play();
    stage.tick(B, 10_000);
    stage.play();
    assert_eq!(stage.core(C).primary(), Some(ReplicaId(1)));
    assert_eq!(stage.executed(A), ["x", "y"]);
    compare("a_primary_transfers_its_leadership_once_the_target_holds_all", &stage);
}

#[test]
fn a_primary_resumes_when_the_target_does_not_lead() {
    let mut stage = Stage::led_by_a(usual);
    stage.transfer(A, Some(C));
    stage.lose(A, C);
    stage.propose(A, "x");
    stage.note("C never hears of it. A waits for one election timeout.");
    stage.tick(A, 300_000);
    stage.play();
    assert!(stage.executed(A).is_empty(), "x waits");
    stage.tick(A, 300_000);
    stage.play();
    assert_eq!(stage.executed(A), ["x"]);
    compare("a_primary_resumes_when_the_target_does_not_lead", &stage);
}

#[test]
fn a_transfer_that_makes_no_sense_is_refused_with_the_reason() {
    let mut stage = Stage::led_by_a(usual);
    stage.transfer(B, Some(C));
    stage.transfer(A, Some(A));
    stage.transfer(A, Some(6));
    stage.set_eligible(C, false);
    stage.tick(C, 10_000);
    stage.tell(C, A);
    stage.transfer(A, Some(C));
    stage.transfer(A, Some(B));
    stage.transfer(A, Some(C));
    compare("a_transfer_that_makes_no_sense_is_refused_with_the_reason", &stage);
}

#[test]
fn a_primary_that_is_about_to_stop_is_replaced_at_once() {
    let mut stage = Stage::led_by_a(usual);
    stage.take_leave(A);
    stage.carry(A, B);
    stage.carry(A, C);
    stage.kill(A);
    stage.tick(B, 50_000);
    stage.play();
    assert_eq!(stage.core(C).primary(), Some(ReplicaId(1)));
    compare("a_primary_that_is_about_to_stop_is_replaced_at_once", &stage);
}

/// Lets time pass at the pace at which a replica measures its disk.
fn tick_often(stage: &mut Stage, node: usize, ticks: usize) {
    for _ in 0..ticks {
        stage.tick(node, 10_000);
        for peer in [A, B, C] {
            if peer != node {
                stage.carry(node, peer);
                stage.carry(peer, node);
            }
        }
    }
}

#[test]
fn a_primary_whose_disk_hangs_resigns_once_the_others_have_done_without_it() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(A, "x");
    stage.carry(A, B);
    stage.carry(A, C);
    stage.sync(B);
    stage.carry(B, A);
    stage.note("C's disk is slow as well: another primary would do no better.");
    stage.off_stage(|stage| tick_often(stage, A, 100));
    assert_eq!(stage.core(A).status().role, "primary");
    stage.note("B and C hold x. It is chosen without A, which cannot execute it.");
    stage.sync(C);
    stage.carry(C, A);
    stage.off_stage(|stage| tick_often(stage, A, 29));
    assert_eq!(stage.core(A).status().role, "primary");
    stage.tick(A, 10_000);
    assert_eq!(stage.core(A).status().role, "secondary");
    stage.carry(A, B);
    stage.carry(A, C);
    stage.tick(B, 50_000);
    stage.play_among(&[B, C]);
    assert_eq!(stage.core(C).primary(), Some(ReplicaId(1)));
    compare("a_primary_whose_disk_hangs_resigns_once_the_others_have_done_without_it", &stage);
}

#[test]
fn a_stop_of_the_whole_process_is_no_hanging_disk() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(A, "x");
    stage.carry(A, B);
    stage.carry(A, C);
    stage.sync(B);
    stage.sync(C);
    stage.tick(A, 10_000);
    stage.note("A stands still for 5 s; its disk was done long before it looks again.");
    stage.wait(A, 5_000_000);
    stage.carry(B, A);
    stage.carry(C, A);
    stage.tick(A, 10_000);
    stage.sync(A);
    assert_eq!(stage.core(A).status().role, "primary");
    assert_eq!(stage.executed(A), ["x"]);
    compare("a_stop_of_the_whole_process_is_no_hanging_disk", &stage);
}

#[test]
fn an_ineligible_primary_transfers_its_leadership() {
    let mut stage = Stage::led_by_a(usual);
    stage.set_eligible(A, false);
    stage.tick(A, 10_000);
    stage.play();
    assert_eq!(stage.core(A).primary(), Some(ReplicaId(1)));
    stage.note("It follows and votes, and does not stand when nobody leads.");
    stage.kill(B);
    stage.tick(A, ELECTION_US);
    stage.play();
    assert_eq!(stage.core(A).status().role, "secondary");
    compare("an_ineligible_primary_transfers_its_leadership", &stage);
}

/// A replica that is asked to stand needs durable promises of a majority.
#[test]
fn a_primary_without_space_transfers_only_while_a_majority_has_some() {
    let mut stage = Stage::led_by_a(usual);
    stage.off_stage(|stage| {
        for node in [A, C] {
            stage.set_space(node, false);
            stage.tick(node, 10_000);
        }
        stage.tick(B, 10_000);
        stage.tell(C, A);
        stage.tell(B, A);
        let goes_on = |stage: &mut Stage| {
            for _ in 0..40 {
                stage.tick(A, 50_000);
                stage.play();
            }
        };
        goes_on(stage);
        assert_eq!(stage.core(A).status().role, "primary");
        stage.set_space(C, true);
        stage.tick(C, 10_000);
        stage.tell(C, A);
        goes_on(stage);
        assert_eq!(stage.core(A).status().role, "secondary");
    });
}
