//! A replica that needs entries which are gone from the others' logs installs a snapshot.

use rsml::View;
use rsml::core::CoreOptions;

use crate::stage::{A, B, C, Stage};
use crate::{ELECTION_US, compare};

/// Small pieces, and logs that are trimmed as soon as possible and not kept in memory.
fn small_pieces(options: &mut CoreOptions) {
    options.snapshot_chunk_bytes = 100;
    options.snapshot_bytes_per_second = 0;
    options.log_keep_bytes = 1_000;
    options.log_cache_bytes = 0;
}

fn small_pieces_and_leases(options: &mut CoreOptions) {
    small_pieces(options);
    options.lease_us = 200_000;
}

fn with_c_behind() -> Stage {
    with_c_behind_and(small_pieces)
}

/// C lacks three entries, which are trimmed from the logs of A and B. A has told C so, and C knows
/// what the others have.
fn with_c_behind_and(options: fn(&mut CoreOptions)) -> Stage {
    let mut stage = Stage::led_by_a(options);
    stage.off_stage(|stage| {
        for payload in ["w", "x", "y"] {
            stage.propose(B, payload);
            stage.play_among(&[A, B]);
        }
        stage.tick(A, 50_000);
        stage.play_among(&[A, B]);
    });
    stage.note("The logs of A and B begin after the entries that C lacks.");
    for node in [A, B] {
        stage.flush(node, 5_000);
    }
    stage.off_stage(|stage| {
        for node in [A, B] {
            stage.tick(node, 200_000);
            stage.tell(node, C);
        }
        stage.play_among(&[A, B]);
    });
    stage
}

/// A learns that C lacks trimmed entries, and says so.
fn tell_c(stage: &mut Stage) {
    stage.tick(A, 50_000);
    stage.carry(A, C);
    stage.sync(C);
    stage.carry(C, A);
    stage.carry(A, C);
}

/// One question and its answer.
fn exchange(stage: &mut Stage, from: usize, to: usize) {
    stage.carry(from, to);
    stage.carry(to, from);
}

/// C fetches the snapshot from B, piece by piece, and builds a database of it.
fn fetch_from_b(stage: &mut Stage) {
    for _ in 0..4 {
        exchange(stage, C, B);
    }
}

/// The primary sends heartbeats to all, and gets their answers and reports.
fn heartbeat(stage: &mut Stage) {
    stage.tick(A, 50_000);
    stage.play();
}

#[test]
fn a_replica_behind_all_logs_installs_a_snapshot() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    stage.note("C asks B, which does not lead.");
    fetch_from_b(&mut stage);
    stage.note("One record makes the new database the live one. Until it is durable, the old one is.");
    assert_eq!(stage.executed(C).len(), 0);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    stage.note("What follows comes as entries again.");
    heartbeat(&mut stage);
    stage.propose(C, "z");
    stage.play();
    heartbeat(&mut stage);
    assert_eq!(stage.executed(C), ["w", "x", "y", "z"]);
    stage.show(C);
    compare("a_replica_behind_all_logs_installs_a_snapshot", &stage);
}

#[test]
fn a_snapshot_resumes_where_it_was_interrupted() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    exchange(&mut stage, C, B);
    stage.note("A piece is lost on its way, and asked for again.");
    stage.carry(C, B);
    stage.lose(B, C);
    stage.tick(C, 200_000);
    fetch_from_b(&mut stage);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    compare("a_snapshot_resumes_where_it_was_interrupted", &stage);
}

/// While a snapshot is being fetched the log may be longer, so that entries follow it and not
/// another snapshot.
#[test]
fn entries_after_a_snapshot_are_kept_while_it_is_fetched() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    exchange(&mut stage, C, B);
    stage.note(
        "A and B hear what C gets. Then more is chosen, and persisted; their logs are longer than is kept usually.",
    );
    stage.off_stage(|stage| {
        stage.tick(C, 200_000);
        stage.tell(C, A);
        stage.tell(C, B);
        stage.propose(B, "z");
        stage.play_among(&[A, B]);
        stage.tick(A, 50_000);
        stage.play_among(&[A, B]);
        for node in [A, B] {
            stage.flush(node, 5_000);
            stage.tick(node, 200_000);
        }
        stage.play_among(&[A, B]);
        // A knows that B needs none of its entries any more.
        stage.tell(B, A);
        stage.tick(A, 10_000);
        stage.play_among(&[A, B]);
    });
    stage.tick(C, 200_000);
    fetch_from_b(&mut stage);
    stage.sync(C);
    heartbeat(&mut stage);
    heartbeat(&mut stage);
    assert_eq!(stage.executed(C), ["w", "x", "y", "z"]);
    assert_eq!(stage.core(C).hard_state().generation, 1);
    compare("entries_after_a_snapshot_are_kept_while_it_is_fetched", &stage);
}

/// If logs are trimmed faster than a snapshot is fetched, starting over each time would never
/// complete one.
#[test]
fn a_snapshot_is_finished_though_the_logs_begin_after_it_by_then() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    exchange(&mut stage, C, B);
    stage.note("Before C has all pieces, more is chosen, and the logs of A and B begin after that, too.");
    stage.off_stage(|stage| {
        stage.propose(B, "z");
        stage.play_among(&[A, B]);
        stage.tick(A, 50_000);
        stage.play_among(&[A, B]);
        for node in [A, B] {
            stage.flush(node, 50_000);
            stage.tick(node, 200_000);
        }
    });
    tell_c(&mut stage);
    stage.tick(C, 200_000);
    fetch_from_b(&mut stage);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    stage.note("Then C gets another one, with the rest.");
    for node in [A, B] {
        stage.tick(node, 200_000);
        stage.tell(node, C);
    }
    tell_c(&mut stage);
    stage.play();
    assert_eq!(stage.executed(C), ["w", "x", "y", "z"]);
    assert_eq!(stage.core(C).hard_state().generation, 2);
    compare("a_snapshot_is_finished_though_the_logs_begin_after_it_by_then", &stage);
}

#[test]
fn a_replica_that_dies_before_the_record_is_durable_has_its_old_database() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    fetch_from_b(&mut stage);
    stage.kill(C);
    stage.start(C);
    stage.sync(C);
    assert_eq!(stage.core(C).hard_state().generation, 0);
    assert_eq!(stage.executed(C).len(), 0);
    stage.note("It begins again, once it knows what the others have.");
    for node in [A, B] {
        stage.tick(node, 200_000);
        stage.tell(node, C);
    }
    stage.carry(A, C);
    stage.carry(C, A);
    stage.carry(A, C);
    fetch_from_b(&mut stage);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    compare("a_replica_that_dies_before_the_record_is_durable_has_its_old_database", &stage);
}

/// A database that was begun for an abandoned attempt is never taken for that of a later one.
#[test]
fn each_attempt_builds_a_database_of_its_own() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    stage.hold_installer(C);
    exchange(&mut stage, C, B);
    stage.note("C asks twice for the last piece, and has it; whoever builds databases for it has written nothing yet.");
    stage.tick(C, 200_000);
    stage.carry_one(C, B);
    stage.carry_one(B, C);
    stage.note("The second question reaches B when it has started again: it makes another copy.");
    stage.kill(B);
    stage.start(B);
    stage.sync(B);
    fetch_from_b(&mut stage);
    stage.note("Now the first database is completed, though nobody waits for it any more.");
    stage.release_installer(C);
    stage.sync(C);
    fetch_from_b(&mut stage);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    assert_eq!(stage.core(C).hard_state().generation, 2);
    compare("each_attempt_builds_a_database_of_its_own", &stage);
}

/// The sessions of the installed database are known as soon as its record is given to the log, not
/// only when the database is in use.
#[test]
fn a_primary_that_does_not_use_its_new_database_yet_knows_its_sessions() {
    let mut stage = with_c_behind();
    tell_c(&mut stage);
    fetch_from_b(&mut stage);
    stage.note("C's log has the record; its database is not switched yet.");
    stage.hold_applier(C);
    stage.sync(C);
    heartbeat(&mut stage);
    stage.off_stage(|stage| {
        for _ in 0..3 {
            stage.transfer(A, Some(C));
            heartbeat(stage);
        }
    });
    assert_eq!(stage.core(C).status().role, "primary");
    stage.note("B's next request is its fourth. C takes it, as the log of C goes on where the others' does.");
    stage.propose(B, "z");
    stage.carry(B, C);
    stage.play();
    stage.release_applier(C);
    stage.play();
    assert_eq!(stage.executed(C), ["w", "x", "y", "z"]);
    compare("a_primary_that_does_not_use_its_new_database_yet_knows_its_sessions", &stage);
}

/// The replica does not know the voters, and its log has no beginning: only a snapshot helps.
#[test]
fn a_replica_that_lost_its_database_installs_a_snapshot() {
    let mut stage = Stage::led_by_a(small_pieces);
    stage.off_stage(|stage| {
        for payload in ["w", "x"] {
            stage.propose(A, payload);
            stage.play();
        }
        heartbeat(stage);
        for node in [A, B, C] {
            stage.flush(node, 5_000);
            stage.tick(node, 200_000);
        }
        stage.play();
    });
    stage.kill(C);
    stage.lose_database(C);
    stage.start(C);
    stage.sync(C);
    for node in [A, B] {
        stage.tick(node, 200_000);
        stage.tell(node, C);
    }
    stage.tick(C, 10_000);
    fetch_from_b(&mut stage);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x"]);
    heartbeat(&mut stage);
    stage.propose(A, "y");
    stage.play();
    heartbeat(&mut stage);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    compare("a_replica_that_lost_its_database_installs_a_snapshot", &stage);
}

/// A source that has started again knows no better view for its database than the one that it has
/// promised. Promising that view would break a lease.
#[test]
fn a_snapshot_waits_for_the_end_of_a_lease() {
    let mut stage = with_c_behind_and(small_pieces_and_leases);
    stage.note(
        "B, which C would let lead, has promised itself a view of which nobody else has heard, and starts again.",
    );
    stage.off_stage(|stage| {
        stage.wait(C, ELECTION_US);
        stage.tick(B, ELECTION_US);
        stage.lose(B, A);
        stage.carry(B, C);
        stage.carry(C, B);
        stage.sync(B);
        stage.lose(B, A);
        stage.lose(B, C);
        stage.kill(B);
        stage.start(B);
        stage.sync(B);
    });
    assert!(stage.core(B).hard_state().promised > View(256));
    stage.note("C grants A a lease, and gets a copy of B's database meanwhile.");
    tell_c(&mut stage);
    stage.off_stage(|stage| {
        stage.tick(B, 200_000);
        stage.tell(B, C);
    });
    fetch_from_b(&mut stage);
    stage.sync(C);
    assert_eq!(stage.core(C).hard_state().promised, View(256), "C promised nobody else a view");
    assert_eq!(stage.executed(C).len(), 0);
    stage.note("A serves a read under that lease.");
    stage.read(A);
    stage.note("The lease is over.");
    stage.tick(C, 200_000);
    stage.sync(C);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    stage.show(C);
    compare("a_snapshot_waits_for_the_end_of_a_lease", &stage);
}
