//! Phase 2: entries, votes, and lagging replicas.

use crate::stage::{A, B, C, Stage};
use crate::{ELECTION_US, compare, stand, tiny_messages, usual};

#[test]
fn a_write_through_a_secondary() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(B, "x");
    stage.play();
    assert_eq!(stage.executed(B), ["x"]);
    compare("a_write_through_a_secondary", &stage);
}

#[test]
fn two_writes_pipelined() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("The second entry leaves before the first is durable anywhere.");
    stage.propose(A, "x");
    stage.propose(A, "y");
    stage.note("One synchronisation and one vote serve both.");
    stage.carry(A, B);
    stage.sync(B);
    stage.carry(B, A);
    stage.note("B's vote alone is no quorum; A's own counts once it is durable.");
    stage.sync(A);
    assert_eq!(stage.executed(A), ["x", "y"]);
    stage.play();
    compare("two_writes_pipelined", &stage);
}

#[test]
fn a_lagging_replica_is_synchronised_in_chunks() {
    let mut stage = Stage::led_by_a(tiny_messages);
    stage.note("C misses four entries, and a change of the primary.");
    stage.off_stage(|stage| {
        for payload in ["w", "x", "y", "z"] {
            stage.propose(A, payload);
            stage.play_among(&[A, B]);
        }
        stage.tick(A, ELECTION_US);
        stand(stage, B, &[A]);
        stage.play_among(&[A, B]);
    });
    for node in [B, C] {
        stage.show(node);
    }
    stage.note("B finds it. Until the last entry is there, nothing of C's log changes.");
    stage.tick(B, 50_000);
    stage.lose(B, A);
    let before = stage.core(C).hard_state().accepted_view;
    let adopted = stage.core(B).status().last.previous();
    for step in 0..20 {
        if step % 5 == 4 {
            stage.tick(B, 10_000);
        }
        stage.carry(B, C);
        let hard = *stage.core(C).hard_state();
        let status = stage.core(C).status();
        assert!(hard.accepted_view == before || status.last >= adopted, "raised at {}", status.last);
        stage.sync(C);
        stage.carry(C, B);
        stage.lose(B, A);
    }
    stage.show(C);
    assert_eq!(stage.executed(C), ["w", "x", "y", "z"]);
    compare("a_lagging_replica_is_synchronised_in_chunks", &stage);
}

#[test]
fn a_synchronisation_that_outgrows_its_memory_is_written_as_far_as_it_is_committed() {
    let mut stage = Stage::led_by_a(|options| {
        tiny_messages(options);
        options.stage_bytes = 0;
    });
    stage.note("C holds w without knowing that it is committed, restarts, and misses the rest and a new primary.");
    stage.off_stage(|stage| {
        stage.propose(A, "w");
        stage.play();
        stage.kill(C);
        for payload in ["x", "y", "z"] {
            stage.propose(A, payload);
            stage.play_among(&[A, B]);
        }
        stage.tick(A, ELECTION_US);
        stand(stage, B, &[A]);
        stage.play_among(&[A, B]);
        stage.start(C);
    });
    let before = *stage.core(C).hard_state();
    let held = stage.core(C).status().last;
    assert!(stage.core(C).status().commit < held, "it does not know");
    stage.show(C);
    stage.tick(B, 50_000);
    stage.lose(B, A);
    let mut was_installed = false;
    for _ in 0..12 {
        stage.sync(C);
        stage.carry(C, B);
        stage.lose(B, A);
        stage.carry(B, C);
        let is_old = stage.core(C).hard_state().accepted_view == before.accepted_view;
        was_installed |= is_old && stage.core(C).status().last > held;
    }
    assert!(was_installed, "nothing was written before all was there");
    stage.show(C);
    compare("a_synchronisation_that_outgrows_its_memory_is_written_as_far_as_it_is_committed", &stage);
}
