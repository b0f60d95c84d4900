//! Elections: birth, pre-votes, phase 1.

use rsml::{ReplicaId, View};

use crate::stage::{A, B, C, Stage};
use crate::{ELECTION_US, compare, stand, tiny_messages, usual};

#[test]
fn birth_and_first_election() {
    let mut stage = Stage::new(3, usual);
    stage.note("Nobody speaks before its disk has a durable name.");
    stage.tick(A, 0);
    for node in [A, B, C] {
        stage.sync(node);
    }
    stage.note("A has heard from all that their disks are empty, and founds the cluster.");
    stage.tick(B, 50_000);
    stage.tick(C, 50_000);
    stage.carry(B, A);
    stage.carry(C, A);
    stage.note("It tells once the record is durable, and stands.");
    stage.play();
    stage.tick(A, 10_000);
    stage.play();
    for node in [A, B, C] {
        stage.show(node);
    }
    compare("birth_and_first_election", &stage);
}

#[test]
fn an_uncommitted_entry_survives_its_primary_on_one_secondary() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(A, "x");
    stage.carry(A, B);
    stage.lose(A, C);
    stage.sync(B);
    stage.kill(A);
    stage.note("C stands. Its log is shorter than B's, so it fetches what it lacks before it leads.");
    stand(&mut stage, C, &[B]);
    stage.play();
    assert_eq!(stage.executed(C), ["x"]);
    for node in [B, C] {
        stage.show(node);
    }
    compare("an_uncommitted_entry_survives_its_primary_on_one_secondary", &stage);
}

#[test]
fn a_repeated_answer_to_a_fetch_asks_for_nothing_twice() {
    let mut stage = Stage::led_by_a(tiny_messages);
    stage.off_stage(|stage| {
        for payload in ["w", "x", "y"] {
            stage.propose(A, payload);
            stage.play_among(&[A, B]);
        }
        stage.kill(A);
        stand(stage, C, &[B]);
        for _ in 0..2 {
            stage.carry(C, B);
            stage.sync(B);
            stage.carry(B, C);
            stage.sync(C);
        }
    });
    stage.note("C fetches what it lacks from B; every message arrives twice.");
    for _ in 0..3 {
        stage.carry_twice(C, B);
        stage.carry_twice(B, C);
    }
    stage.play();
    assert!(stage.text().matches("C -> B fetch").count() <= 3, "every entry is asked for once");
    assert!(stage.core(C).status().established);
    compare("a_repeated_answer_to_a_fetch_asks_for_nothing_twice", &stage);
}

#[test]
fn a_longer_log_of_an_older_view_loses() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("A is cut off and writes a long tail that nobody else sees.");
    for payload in ["w", "x", "y"] {
        stage.propose(A, payload);
    }
    stage.play_among(&[A]);
    stage.note("B leads with C, and commits one entry of its own.");
    stage.off_stage(|stage| {
        stand(stage, B, &[C]);
        stage.play_among(&[B, C]);
        stage.propose(B, "z");
        stage.play_among(&[B, C]);
        stage.tick(B, 10_000);
        stage.play_among(&[B, C]);
    });
    assert_eq!(stage.executed(C), ["z"]);
    for node in [A, B, C] {
        stage.show(node);
    }
    stage.note("A has heard from nobody for too long, and leads no more.");
    stage.tick(A, ELECTION_US);
    stage.note("B dies. A stands: its log is longer, C's is of a newer view.");
    stage.kill(B);
    stand(&mut stage, A, &[C]);
    stage.play();
    for node in [A, C] {
        stage.show(node);
    }
    assert_eq!(stage.executed(A)[0], "z");
    compare("a_longer_log_of_an_older_view_loses", &stage);
}

#[test]
fn a_refusal_carries_the_highest_promise() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("C alone promises a higher view: nobody hears its 1a.");
    stand(&mut stage, C, &[B]);
    stage.carry(C, B);
    stage.carry(B, C);
    stage.sync(C);
    stage.lose(C, A);
    stage.lose(C, B);
    let promised = stage.core(C).hard_state().promised;
    stage.note("A still leads, and learns of it from C's refusal.");
    stage.tick(A, 50_000);
    stage.carry(A, B);
    stage.carry(A, C);
    stage.carry(C, A);
    assert_eq!(stage.core(A).hard_state().promised, View(256), "it asks before it stands");
    stage.note("B has just heard A, and grants because it is A that asks.");
    stage.play();
    assert!(stage.core(A).hard_state().promised > promised);
    assert!(stage.core(A).status().established);
    compare("a_refusal_carries_the_highest_promise", &stage);
}

#[test]
fn a_pre_vote_is_denied_while_a_primary_is_heard() {
    let mut stage = Stage::led_by_a(usual);
    stage.tick(C, ELECTION_US);
    stage.play();
    assert_eq!(stage.core(C).hard_state().promised, View(256), "nothing was promised");
    compare("a_pre_vote_is_denied_while_a_primary_is_heard", &stage);
}

#[test]
fn a_candidate_denies_pre_votes() {
    let mut stage = Stage::led_by_a(usual);
    stage.kill(A);
    stage.note("B asks for promises; its disk is slow.");
    stand(&mut stage, B, &[C]);
    stage.carry(B, C);
    stage.carry(C, B);
    stage.note("C would like to stand too.");
    stage.tick(C, 0);
    stage.carry(C, B);
    stage.carry(B, C);
    assert_eq!(stage.core(C).status().role, "candidate");
    assert_eq!(stage.core(C).hard_state().promised, View(256), "C disturbs nobody");
    stage.play();
    assert_eq!(stage.core(C).primary(), Some(ReplicaId(1)));
    compare("a_candidate_denies_pre_votes", &stage);
}
