//! Entries that are written while a snapshot is being fetched: the log is kept for it, within
//! bounds, and the snapshot outruns the log.

use rsml::core::CoreOptions;

use crate::compare;
use crate::stage::{A, B, C, Stage};

/// Small pieces, and logs that are trimmed as soon as possible and not kept in memory.
fn small_pieces(options: &mut CoreOptions) {
    options.snapshot_chunk_bytes = 100;
    options.snapshot_bytes_per_second = 0;
    options.log_keep_bytes = 1_000;
    options.log_cache_bytes = 0;
}

fn slow_copies(options: &mut CoreOptions) {
    small_pieces(options);
    options.snapshot_bytes_per_second = 100;
}

/// Fifty times as much as is kept for a lagging replica, and more than is kept for any snapshot
/// without a hold in force.
const LARGE_LOG: u64 = 50_000;

/// For how long a replica may make no progress before the log is no longer held for it.
const PATIENCE_US: u64 = 300 * 200_000;

/// C lacks entries that are trimmed from the logs of A and B. It has the first piece of a snapshot
/// of B, and the others know that.
fn with_a_copy_under_way(options: fn(&mut CoreOptions)) -> Stage {
    let mut stage = Stage::led_by_a(options);
    stage.off_stage(|stage| {
        write(stage, &["w", "x", "y"]);
        for node in [A, B] {
            stage.flush(node, LARGE_LOG);
        }
        report(stage, &[A, B]);
        for node in [A, B] {
            stage.tell(node, C);
        }
        stage.tick(A, 50_000);
        stage.carry(A, C);
        stage.sync(C);
        stage.carry(C, A);
        stage.carry(A, C);
        stage.carry(C, B);
        stage.carry(B, C);
    });
    assert!(stage.core(C).status().copy.is_some_and(|copy| copy.received == 100), "a piece has come");
    tell_of_c(&mut stage);
    stage
}

/// A and B execute them; C hears nothing of it.
fn write(stage: &mut Stage, payloads: &[&'static str]) {
    for payload in payloads {
        stage.propose(B, payload);
        stage.play_among(&[A, B]);
    }
    stage.tick(A, 50_000);
    stage.play_among(&[A, B]);
}

/// They trim their logs, and report.
fn report(stage: &mut Stage, nodes: &[usize]) {
    for node in nodes {
        stage.tick(*node, 200_000);
    }
    stage.play_among(&[A, B]);
}

/// C reports its progress, and A and B trim their logs.
fn tell_of_c(stage: &mut Stage) {
    stage.off_stage(|stage| {
        stage.tick(C, 200_000);
        for node in [A, B] {
            stage.tell(C, node);
        }
        report(stage, &[A, B]);
    });
}

/// Far more is written than is kept for a lagging replica. All of it is in the databases of A and
/// B, and they have trimmed their logs since.
fn write_more_than_is_kept(stage: &mut Stage) {
    stage.off_stage(|stage| {
        write(stage, &["1", "2", "3", "4"]);
        for node in [A, B] {
            stage.flush(node, LARGE_LOG);
        }
        report(stage, &[A, B]);
        report(stage, &[A, B]);
    });
}

/// The pieces that C asked for were lost.
fn fetch_the_rest(stage: &mut Stage) {
    stage.tick(C, 200_000);
    for _ in 0..4 {
        stage.carry(C, B);
        stage.carry(B, C);
    }
    stage.sync(C);
}

/// The primary sends heartbeats to all, and gets their answers and reports.
fn heartbeat(stage: &mut Stage) {
    stage.tick(A, 50_000);
    stage.play();
}

#[test]
fn the_log_after_a_snapshot_is_kept_until_it_was_fetched() {
    let mut stage = with_a_copy_under_way(small_pieces);
    let kept_from = stage.log_begins(A);
    write_more_than_is_kept(&mut stage);
    assert_eq!([A, B].map(|node| stage.log_begins(node)), [kept_from; 2]);
    assert_eq!(stage.core(A).status().log_held_for, [rsml::ReplicaId(2)]);
    stage.note("The copy is in, and what was written meanwhile is still to be fetched.");
    fetch_the_rest(&mut stage);
    assert_eq!(stage.executed(C), ["w", "x", "y"]);
    tell_of_c(&mut stage);
    write_more_than_is_kept(&mut stage);
    stage.note("It comes as entries.");
    for _ in 0..4 {
        heartbeat(&mut stage);
    }
    assert_eq!(stage.executed(C), ["w", "x", "y", "1", "2", "3", "4", "1", "2", "3", "4"]);
    assert_eq!(stage.core(C).status().snapshots_installed, 1);
    stage.note("Nobody needs it any more.");
    for _ in 0..6 {
        tell_of_c(&mut stage);
    }
    assert!(stage.log_begins(A) > kept_from + 4, "the log begins at {}", stage.log_begins(A));
    assert!(stage.core(A).status().log_held_for.is_empty());
    compare("the_log_after_a_snapshot_is_kept_until_it_was_fetched", &stage);
}

#[test]
fn a_copy_that_does_not_get_on_holds_no_log() {
    let mut stage = with_a_copy_under_way(small_pieces);
    let kept_from = stage.log_begins(A);
    write_more_than_is_kept(&mut stage);
    assert_eq!(stage.log_begins(A), kept_from);
    for node in [A, B] {
        stage.wait(node, PATIENCE_US);
    }
    write_more_than_is_kept(&mut stage);
    for node in [A, B] {
        assert!(stage.log_begins(node) > kept_from + 4, "the log begins at {}", stage.log_begins(node));
    }
}

#[test]
fn where_space_is_short_no_copy_holds_the_log() {
    let mut stage = with_a_copy_under_way(small_pieces);
    let kept_from = stage.log_begins(A);
    stage.set_room(A, false);
    write_more_than_is_kept(&mut stage);
    assert!(stage.log_begins(A) > kept_from + 2, "the log begins at {}", stage.log_begins(A));
    assert_eq!(stage.log_begins(B), kept_from, "B has space");
}

/// The databases here are small, and a log that grows by more than that in a second is soon
/// written.
#[test]
fn a_copy_that_the_log_outruns_is_fetched_faster() {
    let mut stage = with_a_copy_under_way(slow_copies);
    let rate = |stage: &Stage| stage.core(C).status().copy.map(|copy| copy.bytes_per_second);
    assert_eq!(rate(&stage), Some(100));
    for _ in 0..2 {
        stage.off_stage(|stage| {
            write(stage, &["0123456789012345678901234567890123456789012345678901234567890123456789"; 3]);
            report(stage, &[A, B]);
            for node in [A, B] {
                stage.tell(node, C);
            }
            // The pieces that it asks for are lost.
            stage.tick(C, 500_000);
            stage.lose(C, B);
            stage.tick(C, 500_000);
            stage.lose(C, B);
        });
    }
    assert!(rate(&stage) > Some(100), "it is fetched at {:?} bytes a second", rate(&stage));
}
