//! Disks that lose entries of the log: these count as lost, not as absent, and are repaired from
//! the others.

use rsml::{ReplicaId, Sequence};

use crate::stage::{A, B, C, Stage};
use crate::{ELECTION_US, compare, stand, usual};

/// A, B and C hold w, x and y as 3 to 5; nobody has executed them. All three are down.
fn with_three_entries() -> Stage {
    let mut stage = Stage::led_by_a(usual);
    stage.note("w, x and y are durable everywhere. Nobody has executed them when all three die.");
    stage.off_stage(|stage| {
        for node in [A, B, C] {
            stage.hold_applier(node);
        }
        for payload in ["w", "x", "y"] {
            stage.propose(A, payload);
            stage.sync(A);
            for peer in [B, C] {
                stage.carry(A, peer);
                stage.sync(peer);
            }
        }
        for node in [A, B, C] {
            stage.kill(node);
        }
    });
    stage
}

fn start(stage: &mut Stage, nodes: &[usize]) {
    for node in nodes {
        stage.start(*node);
        stage.sync(*node);
    }
}

#[test]
fn a_candidate_repairs_lost_entries_from_a_promise_of_the_same_view() {
    let mut stage = with_three_entries();
    stage.damage(C, 4, 4);
    start(&mut stage, &[B, C]);
    stage.note("C stands. Its own promise counts as one of length 5, without 4, which B has.");
    stand(&mut stage, C, &[B]);
    stage.play();
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    stage.show(C);
    compare("a_candidate_repairs_lost_entries_from_a_promise_of_the_same_view", &stage);
}

#[test]
fn a_promise_names_lost_entries_and_a_secondary_is_repaired_in_one_write() {
    let mut stage = with_three_entries();
    stage.damage(C, 3, 4);
    start(&mut stage, &[B, C]);
    stage.note("B stands for election with C's promise; C's entries after the loss are no votes before it is filled.");
    stand(&mut stage, B, &[C]);
    stage.play();
    stage.tick(B, 50_000);
    stage.play();
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    assert_eq!(stage.core(C).status().lost, []);
    compare("a_promise_names_lost_entries_and_a_secondary_is_repaired_in_one_write", &stage);
}

#[test]
fn an_entry_lost_by_two_of_three_is_waited_for() {
    let mut stage = with_three_entries();
    stage.damage(B, 4, 4);
    stage.damage(C, 4, 5);
    start(&mut stage, &[B, C]);
    stage.note("Entry 4 may have been chosen: B and C do not lead without hearing A.");
    stand(&mut stage, B, &[C]);
    stage.play();
    assert_eq!(stage.core(B).status().role, "candidate");
    stage.note("A has it.");
    start(&mut stage, &[A]);
    stand(&mut stage, B, &[A, C]);
    stage.play();
    assert_eq!(stage.core(B).status().role, "primary");
    assert_eq!(stage.executed(B), ["w", "x", "y"]);
    compare("an_entry_lost_by_two_of_three_is_waited_for", &stage);
}

#[test]
fn an_entry_that_no_quorum_can_have_held_is_cut() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("Only A ever holds x, and its disk loses it.");
    stage.propose(A, "x");
    stage.sync(A);
    stage.lose(A, B);
    stage.lose(A, C);
    stage.kill(A);
    stage.damage(A, 3, 3);
    start(&mut stage, &[A]);
    stage.note("With all three promises it is certain that x was never chosen.");
    stand(&mut stage, A, &[B, C]);
    stage.play();
    assert!(stage.core(A).status().established);
    for node in [A, B, C] {
        stage.show(node);
    }
    compare("an_entry_that_no_quorum_can_have_held_is_cut", &stage);
}

/// No replica leads while an entry that may have been chosen is nowhere. A replica that has it
/// again ends that.
#[test]
fn an_entry_lost_by_all_blocks_until_a_disk_has_it_again() {
    let mut stage = with_three_entries();
    stage.damage(A, 4, 4);
    stage.damage(B, 4, 4);
    stage.hide(C, 4, 4);
    start(&mut stage, &[A, B, C]);
    stand(&mut stage, A, &[B, C]);
    stage.play();
    let lost = Some((Sequence(4), Sequence(4)));
    assert_eq!(stage.core(A).status().blocked, lost);
    assert_eq!(stage.core(A).status().role, "candidate");
    stage.note("It tries again and again.");
    stand(&mut stage, A, &[B, C]);
    stage.play();
    assert_eq!(stage.core(A).status().blocked, lost);
    assert!(stage.core(A).hard_state().accepted_view < stage.core(A).hard_state().promised);
    stage.note("C's disk can be read again, and B stands.");
    stage.kill(C);
    start(&mut stage, &[C]);
    stand(&mut stage, B, &[A, C]);
    stage.play();
    assert_eq!(stage.core(A).primary(), Some(ReplicaId(1)));
    assert_eq!(stage.core(A).status().blocked, None, "A knows that somebody leads");
    assert_eq!(stage.executed(B), ["w", "x", "y"]);
    compare("an_entry_lost_by_all_blocks_until_a_disk_has_it_again", &stage);
}

/// Losing entries that the database has persisted has no effect: they are in the database.
#[test]
fn entries_in_the_database_are_not_missed_in_the_log() {
    let mut stage = Stage::led_by_a(usual);
    stage.off_stage(|stage| {
        for payload in ["w", "x"] {
            stage.propose(A, payload);
            stage.play();
        }
        stage.tick(A, 50_000);
        stage.play();
    });
    stage.kill(B);
    stage.damage(B, 2, 3);
    start(&mut stage, &[B]);
    stage.kill(A);
    stage.wait(C, ELECTION_US);
    stand(&mut stage, B, &[C]);
    stage.play();
    assert!(stage.core(B).status().established);
    assert_eq!(stage.core(B).status().lost, []);
    compare("entries_in_the_database_are_not_missed_in_the_log", &stage);
}
