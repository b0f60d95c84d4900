//! Read points, by rounds and by leases.

use rsml::core::CoreOptions;
use rsml::{ReplicaId, View};

use crate::stage::{A, B, C, Stage};
use crate::{ELECTION_US, compare, stand, usual};

#[test]
fn reads_take_one_round_with_a_quorum() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("A read at the primary waits for one secondary to confirm the view.");
    stage.read(A);
    stage.lose(A, C);
    stage.carry(A, B);
    stage.note("A read that comes during the round waits for the next one.");
    stage.read(A);
    stage.carry(B, A);
    stage.play();
    stage.note("A secondary asks the primary.");
    stage.read(C);
    stage.play();
    compare("reads_take_one_round_with_a_quorum", &stage);
}

#[test]
fn a_read_on_a_new_primary_waits_for_its_no_op() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(A, "x");
    stage.off_stage(Stage::play);
    stage.kill(A);
    stage.note("C knows less than was committed when it begins to lead.");
    stand(&mut stage, C, &[B]);
    stage.carry(C, B);
    stage.carry(B, C);
    stage.sync(C);
    stage.carry(C, B);
    stage.sync(B);
    stage.carry(B, C);
    assert_eq!(stage.core(C).status().role, "primary");
    stage.read(C);
    stage.note("Its no-op is not chosen yet: no round begins.");
    stage.carry(C, B);
    stage.sync(B);
    stage.carry(B, C);
    stage.note("Now it is.");
    stage.sync(C);
    stage.play();
    compare("a_read_on_a_new_primary_waits_for_its_no_op", &stage);
}

#[test]
fn an_answer_to_a_former_start_confirms_no_read() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("B asks A for a read point, and has started again before the answer comes.");
    stage.read(B);
    stage.carry(B, A);
    stage.carry(A, C);
    stage.carry(C, A);
    stage.kill(B);
    stage.start(B);
    stage.sync(B);
    stage.note("Meanwhile something is acknowledged.");
    stage.propose(A, "z");
    stage.carry(A, C);
    stage.sync(C);
    stage.sync(A);
    stage.carry(C, A);
    assert_eq!(stage.executed(A), ["z"]);
    stage.note("B hears who leads, and reads again.");
    stage.carry_one(A, B);
    stage.read(B);
    stage.note("The answer to the former start of B comes. What it tells is too old.");
    stage.carry_one(A, B);
    stage.note("So B goes on waiting.");
    stage.play();
    compare("an_answer_to_a_former_start_confirms_no_read", &stage);
}

/// A commit point belongs to the view in which it was sent, and says nothing about the log of
/// another view.
#[test]
fn a_read_point_of_a_later_view_commits_nothing_of_an_older_log() {
    let mut stage = Stage::led_by_a(usual);
    stage.note("B alone holds x: A dies before it has written it itself.");
    stage.propose(A, "x");
    stage.carry(A, B);
    stage.lose(A, C);
    stage.sync(B);
    stage.lose(B, A);
    stage.off_stage(|stage| {
        stage.kill(A);
        stage.start(A);
        stage.sync(A);
        stand(stage, C, &[A]);
        stage.play_among(&[A, C]);
        stage.propose(C, "y");
        stage.play_among(&[A, C]);
        stage.kill(C);
        stage.start(C);
        stage.sync(C);
        stand(stage, A, &[C]);
        stage.play_among(&[A, C]);
    });
    assert_eq!(stage.core(A).status().role, "primary");
    assert_eq!(stage.executed(A), ["y"]);
    stage.note("C has led, and has y in the place of x. Now A leads again, and B has heard of nothing. B asks A.");
    stage.read(B);
    stage.carry(B, A);
    stage.carry(A, C);
    stage.carry(C, A);
    assert_eq!(stage.executed(B).len(), 0);
    stage.note("The answer is all that B hears at first.");
    stage.carry_answer(A, B);
    assert_eq!(stage.executed(B).len(), 0);
    stage.off_stage(|stage| {
        for _ in 0..4 {
            stage.tick(A, 200_000);
            stage.play();
        }
    });
    assert_eq!(stage.executed(B), ["y"]);
    compare("a_read_point_of_a_later_view_commits_nothing_of_an_older_log", &stage);
}

/// A leads; without its noticing, B and C make C their primary and execute x. Then B gets an empty
/// disk, and follows A, from which it hears first: B has no vote, and knows of no other primary.
fn followed_by_an_empty_disk_only(options: fn(&mut CoreOptions)) -> Stage {
    let mut stage = Stage::led_by_a(options);
    stage.note("B and C make C their primary, and x is acknowledged. A does not hear of it.");
    stage.off_stage(|stage| {
        stand(stage, C, &[B]);
        stage.play_among(&[B, C]);
        stage.propose(C, "x");
        stage.play_among(&[B, C]);
    });
    assert_eq!((stage.core(C).status().role, stage.executed(C)), ("primary", vec!["x".to_owned()]));
    stage.note("B loses its disk, and meets A with an empty one.");
    stage.kill(B);
    stage.replace_disk(B);
    stage.start(B);
    stage.sync(B);
    stage.tick(B, 1);
    stage.wait(A, 200_000);
    for _ in 0..3 {
        stage.carry(B, A);
        stage.lose(A, C);
        stage.carry(A, B);
        stage.sync(B);
        stage.tick(A, 50_000);
    }
    stage.lose(B, C);
    stage.carry(B, A);
    assert_eq!(stage.core(A).status().role, "primary");
    assert_eq!(stage.core(B).hard_state().promised, stage.core(A).hard_state().promised, "B follows A");
    stage
}

/// A, which took B for one that confirms or keeps its view, is asked for a read point.
fn read_next_to_an_empty_disk(options: fn(&mut CoreOptions), scene: &str) {
    let mut stage = followed_by_an_empty_disk_only(options);
    stage.note("Whatever B says: A's commit point is too old for a read.");
    stage.read(A);
    stage.carry(A, B);
    stage.carry(B, A);
    assert!(!stage.text().contains("may be served"), "nobody confirmed that A still leads");
    stage.note("C is heard, and A asks it.");
    stage.tick(C, 50_000);
    stage.play();
    stage.tick(A, 200_000);
    stage.play();
    assert!(stage.text().contains("A read 2 may be served at 4"), "x is entry 4");
    compare(scene, &stage);
}

#[test]
fn an_observer_confirms_no_read() {
    read_next_to_an_empty_disk(usual, "an_observer_confirms_no_read");
}

#[test]
fn an_observer_grants_no_lease() {
    read_next_to_an_empty_disk(leased, "an_observer_grants_no_lease");
}

fn leased(options: &mut CoreOptions) {
    options.lease_us = 200_000;
}

/// A's next heartbeat reaches B, and is answered.
fn lease_from_b(stage: &mut Stage) {
    stage.tick(A, 50_000);
    stage.lose(A, C);
    stage.carry(A, B);
    stage.carry(B, A);
}

#[test]
fn under_a_lease_a_read_asks_nobody() {
    let mut stage = Stage::led_by_a(leased);
    lease_from_b(&mut stage);
    stage.wait(A, 179_000);
    stage.read(A);
    stage.note("Nine tenths of 200 ms after the lease was asked for, A relies on it no more.");
    stage.wait(A, 1_000);
    stage.read(A);
    stage.play();
    compare("under_a_lease_a_read_asks_nobody", &stage);
}

#[test]
fn a_grantor_of_a_lease_promises_nobody_else_a_view() {
    let mut stage = Stage::led_by_a(leased);
    stage.note("B and C have not heard A for long. B would promise C a view, and then hears A again.");
    stage.wait(B, ELECTION_US);
    stage.tick(C, ELECTION_US);
    stage.lose(C, A);
    stage.carry(C, B);
    lease_from_b(&mut stage);
    stage.carry(B, C);
    stage.sync(C);
    stage.lose(C, A);
    stage.carry(C, B);
    assert_eq!(stage.core(B).hard_state().promised, View(256), "B promised C nothing");
    stage.note("A serves a read under its lease.");
    stage.read(A);
    stage.note("B's grant is over, and it has heard from nobody for an election timeout.");
    stage.wait(B, 300_000);
    stage.tick(C, ELECTION_US);
    stage.lose(C, A);
    stage.play_among(&[B, C]);
    assert_eq!(stage.core(B).primary(), Some(ReplicaId(2)));
    compare("a_grantor_of_a_lease_promises_nobody_else_a_view", &stage);
}

#[test]
fn after_a_start_nobody_is_promised_a_view_for_the_length_of_a_lease() {
    let mut stage = Stage::led_by_a(leased);
    lease_from_b(&mut stage);
    stage.kill(B);
    stage.start(B);
    stage.sync(B);
    stage.tick(C, ELECTION_US);
    stage.lose(C, A);
    stage.carry(C, B);
    stage.carry(B, C);
    assert_eq!(stage.core(C).status().role, "candidate", "B granted nothing");
    stage.read(A);
    stage.note("What B may have granted before is over.");
    stage.wait(B, 200_000);
    stage.tick(C, ELECTION_US);
    stage.lose(C, A);
    stage.play_among(&[B, C]);
    assert_eq!(stage.core(B).primary(), Some(ReplicaId(2)));
    compare("after_a_start_nobody_is_promised_a_view_for_the_length_of_a_lease", &stage);
}

/// With leases of 200 ms before, and of this length after it.
fn restart_with_leases_of(options: fn(&mut CoreOptions)) {
    let mut stage = Stage::led_by_a(leased);
    lease_from_b(&mut stage);
    stage.kill(B);
    stage.set_options(options);
    stage.start(B);
    stage.sync(B);
    for wait_us in [190_000, 5_000] {
        stage.wait(B, wait_us);
        stage.tick(C, ELECTION_US);
        stage.lose(C, A);
        stage.carry(C, B);
        stage.carry(B, C);
        assert_eq!(stage.core(C).status().role, "candidate", "what B granted before may still run");
        // That was the same start with shorter leases; so is the next.
        stage.kill(B);
        stage.start(B);
        stage.sync(B);
    }
    stage.wait(B, 200_000);
    stage.tick(B, 1);
    stage.tick(C, ELECTION_US);
    stage.lose(C, A);
    stage.play_among(&[B, C]);
    assert_eq!(stage.core(B).primary(), Some(ReplicaId(2)));
    let granted_us = stage.core(B).hard_state().lease_us;
    stage.kill(B);
    stage.start(B);
    assert_eq!(stage.core(B).hard_state().lease_us, granted_us, "the former length is forgotten once it is over");
    assert!(granted_us < 200_000);
}

#[test]
fn leases_of_a_former_start_are_waited_for_though_they_were_longer() {
    restart_with_leases_of(|options| options.lease_us = 70_000);
}

#[test]
fn leases_of_a_former_start_are_waited_for_though_there_are_none_any_more() {
    restart_with_leases_of(|options| options.lease_us = 0);
}

#[test]
fn a_primary_revokes_its_lease_before_a_transfer() {
    let mut stage = Stage::led_by_a(leased);
    lease_from_b(&mut stage);
    stage.read(A);
    stage.transfer(A, Some(B));
    stage.note("A may lead no more without knowing: it asks before it serves a read.");
    stage.read(A);
    stage.lose(A, C);
    stage.carry(A, B);
    stage.sync(B);
    stage.lose(B, A);
    stage.carry(B, C);
    stage.note("C's grant to A still runs, and does not stand in B's way.");
    stage.play_among(&[B, C]);
    assert_eq!(stage.core(C).primary(), Some(ReplicaId(1)));
    compare("a_primary_revokes_its_lease_before_a_transfer", &stage);
}
