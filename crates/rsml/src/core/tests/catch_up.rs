use super::*;
use crate::core::{InstallEvent, InstallStep};
use crate::message::{Behind, SnapshotChunk};

const RETRY_US: u64 = 200_000;
const ELECTION_MAX_US: u64 = 600_000;
const USUAL_RATE: u64 = 100 << 20;

/// Replica 2 leads.
fn followed() -> View {
    view(1, TWO)
}

/// It holds 10 entries, of which it knows the first as committed. Replica 1 has applied 20.
fn lone() -> Lone {
    lone_with(|_| {})
}

fn lone_with(change: impl FnOnce(&mut CoreOptions)) -> Lone {
    let mut lone = Lone::started(10, followed(), |options, _| change(options));
    lone.follow(followed(), 1);
    lone.report(ONE, Report { applied: 20, ..Report::default() });
    lone
}

/// The primary has trimmed its log before `first`.
fn behind(lone: &mut Lone, first: u64) -> Outputs {
    lone.receive(TWO, Message::Behind(Behind { view: followed().0, first }))
}

/// The primary has let go of entry 10: a snapshot that holds it is needed.
fn lagging() -> Lone {
    let mut lone = lone();
    assert!(begins(&behind(&mut lone, 11)));
    lone
}

fn begins(outputs: &Outputs) -> bool {
    outputs.install.iter().any(|step| matches!(step, InstallStep::Begin { .. }))
}

fn aborts(outputs: &Outputs) -> bool {
    outputs.install.contains(&InstallStep::Abort)
}

/// The offsets of the pieces that are asked for.
fn asked(outputs: &Outputs) -> Vec<u64> {
    let offset = |message: &Message| match message {
        Message::SnapshotRequest(request) => Some(request.offset),
        _ => None,
    };
    outputs.send.iter().filter_map(|sent| offset(&sent.message)).collect()
}

/// A piece of two bytes of a snapshot of `sequence`.
fn piece(lone: &mut Lone, offset: u64, total_bytes: u64, sequence: u64) -> Outputs {
    let bytes = Bytes::from_static(b"xy");
    let view = followed().0;
    let chunk = SnapshotChunk { id: 5, offset, total_bytes, sequence, view, crc: crc32c::crc32c(&bytes) };
    lone.receive_with(ONE, Message::SnapshotChunk(chunk), vec![bytes])
}

/// The database of the snapshot of `sequence` is complete.
fn finished(lone: &mut Lone, sequence: u64) -> Outputs {
    let state = ReplicatedState {
        cluster_id: CLUSTER,
        sequence: Sequence(sequence),
        configuration: birth_record().configuration(),
        first_voters: birth_record().configuration().voters().collect(),
        ..ReplicatedState::default()
    };
    let generation = lone.replica.status().copy.expect("a snapshot is fetched").generation;
    lone.step(Input::Installed(InstallEvent::Finished { generation, state: state.to_bytes() }))
}

fn rate(lone: &Lone) -> u64 {
    lone.replica.status().copy.expect("a snapshot is fetched").bytes_per_second
}

/// The primary reports by how many bytes its log has grown since its start.
fn log_grows(lone: &mut Lone, log_grown: u64) {
    lone.report(TWO, Report { log_grown, ..Report::default() });
}

#[test]
fn no_snapshot_is_wanted_of_what_is_committed_here_exactly() {
    let mut lone = lone();
    lone.follow(followed(), 5);
    assert!(!begins(&behind(&mut lone, 6)), "entry 5 is committed here");
    assert!(!lone.replica.status().is_catching_up);
    assert!(begins(&behind(&mut lone, 7)));
}

#[test]
fn the_wish_ends_when_the_commit_point_reaches_it_exactly() {
    let mut lone = lone();
    assert!(begins(&behind(&mut lone, 6)));
    lone.follow(followed(), 4);
    assert!(!aborts(&lone.tick_at(1)));
    lone.follow(followed(), 5);
    assert!(aborts(&lone.tick_at(2)));
    assert!(!lone.replica.status().is_catching_up);
}

#[test]
fn a_source_that_has_applied_exactly_what_is_wanted_will_do() {
    let mut lone = lone();
    assert!(!begins(&behind(&mut lone, 22)));
    lone.report(ONE, Report { applied: 21, ..Report::default() });
    assert!(begins(&lone.tick_at(1)));
}

#[test]
fn a_source_is_asked_if_it_was_heard_within_the_longest_election_timeout() {
    for (at, is_asked) in [(ELECTION_MAX_US - 1, true), (ELECTION_MAX_US, false)] {
        let mut lone = lone();
        lone.now = at;
        assert_eq!(begins(&behind(&mut lone, 11)), is_asked, "at {at}");
    }
}

#[test]
fn a_snapshot_of_exactly_what_is_wanted_has_not_come_too_late() {
    let mut lone = lagging();
    piece(&mut lone, 0, 100, 15);
    behind(&mut lone, 16);
    assert_eq!(rate(&lone), USUAL_RATE, "it holds entry 15");
    behind(&mut lone, 17);
    assert_eq!(rate(&lone), 2 * USUAL_RATE, "it lacks entry 16");
}

#[test]
fn a_snapshot_that_ends_with_the_entry_that_is_wanted_is_taken() {
    let mut lone = lagging();
    assert!(aborts(&piece(&mut lone, 0, 100, 9)));
    let mut lone = lagging();
    assert_eq!(piece(&mut lone, 0, 100, 10).install, [InstallStep::Write(Bytes::from_static(b"xy"))]);
}

#[test]
fn the_rate_is_doubled_when_the_log_grows_as_fast_as_the_snapshot() {
    for (growth, doubled) in [(1, 1), (2, 2)] {
        let mut lone = lagging();
        log_grows(&mut lone, 1000);
        piece(&mut lone, 0, 100, 15);
        lone.tick_at(1);
        piece(&mut lone, 2, 100, 15);
        log_grows(&mut lone, 1000 + growth);
        lone.tick_at(1 + 5 * RETRY_US);
        assert_eq!(rate(&lone), doubled * USUAL_RATE, "two bytes came, {growth} were written");
    }
}

#[test]
fn the_rate_stays_when_neither_snapshot_nor_log_grows() {
    let mut lone = lagging();
    log_grows(&mut lone, 1000);
    piece(&mut lone, 0, 100, 15);
    lone.tick_at(1);
    lone.tick_at(1 + 5 * RETRY_US);
    assert_eq!(rate(&lone), USUAL_RATE);
}

#[test]
fn the_pace_is_compared_after_five_retry_intervals_and_no_earlier() {
    let mut lone = lagging();
    log_grows(&mut lone, 1000);
    piece(&mut lone, 0, 100, 15);
    lone.tick_at(1);
    log_grows(&mut lone, 2000);
    lone.tick_at(5 * RETRY_US);
    assert_eq!(rate(&lone), USUAL_RATE);
    lone.tick_at(1 + 5 * RETRY_US);
    assert_eq!(rate(&lone), 2 * USUAL_RATE);
}

#[test]
fn a_snapshot_that_is_received_to_its_last_byte_needs_no_higher_rate() {
    let mut lone = lagging();
    log_grows(&mut lone, 1000);
    piece(&mut lone, 0, 4, 15);
    lone.tick_at(1);
    assert!(piece(&mut lone, 2, 4, 15).install.contains(&InstallStep::Finish));
    log_grows(&mut lone, 2000);
    lone.tick_at(1 + 5 * RETRY_US);
    assert_eq!(rate(&lone), USUAL_RATE);
}

#[test]
fn the_rate_is_the_usual_one_again_only_when_an_entry_follows_the_snapshot() {
    for (commit, expected) in [(15, 4), (16, 1)] {
        let mut lone = lagging();
        piece(&mut lone, 0, 2, 15);
        behind(&mut lone, 17);
        assert_eq!(rate(&lone), 2 * USUAL_RATE, "it came too late");
        finished(&mut lone, 15);
        lone.sync();
        let next = Accept { from: 16, ..accept(followed(), 15, commit) };
        lone.receive_with(TWO, Message::Accept(next), entries(16..=16));
        lone.tick_at(1);
        assert_eq!(lone.commit(), commit);
        behind(&mut lone, 19);
        assert_eq!(rate(&lone), expected * USUAL_RATE, "committed through {commit}");
    }
}

#[test]
fn sources_that_have_all_failed_rest_for_a_retry_interval() {
    let mut lone = lagging();
    lone.now = 100;
    assert!(aborts(&lone.receive(ONE, Message::SnapshotChunk(SnapshotChunk::default()))));
    assert!(!begins(&lone.tick_at(99 + RETRY_US)));
    assert!(begins(&lone.tick_at(100 + RETRY_US)));
}

#[test]
fn a_piece_is_asked_for_again_after_a_retry_interval() {
    let mut lone = lagging();
    assert_eq!(asked(&lone.tick_at(RETRY_US - 1)), []);
    assert_eq!(asked(&lone.tick_at(RETRY_US)), [0]);
}

#[test]
fn a_source_without_a_first_piece_is_given_up_when_it_was_silent_for_an_election_timeout() {
    let mut lone = lagging();
    for us in [RETRY_US, 2 * RETRY_US] {
        assert!(!aborts(&lone.tick_at(us)));
    }
    assert!(aborts(&lone.tick_at(ELECTION_MAX_US)));
}

#[test]
fn a_source_is_given_up_after_fifty_repetitions_in_vain() {
    let mut lone = lagging();
    piece(&mut lone, 0, 100, 15);
    for repetition in 1..=50 {
        assert!(!aborts(&lone.tick_at(repetition * RETRY_US)), "repetition {repetition}");
    }
    assert!(aborts(&lone.tick_at(51 * RETRY_US)));
}

#[test]
fn four_pieces_are_under_way_and_none_beyond_the_end() {
    for (total_bytes, expected) in [(100, vec![2, 4, 6]), (6, vec![2, 4])] {
        let mut lone = lone_with(|options| options.snapshot_bytes_per_second = 0);
        behind(&mut lone, 11);
        assert_eq!(asked(&piece(&mut lone, 0, total_bytes, 15)), expected);
    }
}

#[test]
fn the_next_piece_is_asked_for_at_the_moment_that_the_rate_allows() {
    let mut lone = lone_with(|options| {
        options.snapshot_chunk_bytes = 2;
        options.snapshot_bytes_per_second = 20;
    });
    behind(&mut lone, 11);
    assert_eq!(asked(&piece(&mut lone, 0, 100, 15)), []);
    assert_eq!(asked(&lone.tick_at(99_999)), []);
    assert_eq!(asked(&lone.tick_at(100_000)), [2]);
}

#[test]
fn a_snapshot_that_the_commit_point_has_reached_meanwhile_is_not_installed() {
    let mut lone = lone();
    behind(&mut lone, 6);
    piece(&mut lone, 0, 2, 5);
    lone.follow(followed(), 5);
    assert!(aborts(&finished(&mut lone, 5)));
    assert!(!lone.replica.status().is_switching);
}

#[test]
fn a_snapshot_of_the_promised_view_leaves_the_primary_known() {
    let mut lone = lagging();
    piece(&mut lone, 0, 2, 15);
    finished(&mut lone, 15);
    assert_eq!((lone.commit(), lone.replica.primary()), (15, Some(TWO)));
}

#[test]
fn a_complete_snapshot_of_the_promised_view_keeps_no_lease_from_being_granted() {
    const LEASE_US: u64 = 100_000;
    let mut lone = lone_with(|options| options.lease_us = LEASE_US);
    let ask = |view: View, at: u64| {
        let wanted = Accept { lease_us: LEASE_US, lease_from_us: at, ..accept(view, 10, 1) };
        Message::Accept(Accept { answer: true, ..wanted })
    };
    let granted = |outputs: &Outputs, to| match sent_to(outputs, to).as_slice() {
        [Message::Accepted(accepted)] => accepted.lease_from_us,
        other => panic!("{other:?}"),
    };
    assert_eq!(granted(&lone.receive(TWO, ask(followed(), 11)), TWO), 11);
    behind(&mut lone, 11);
    // Replica 1 leads a later view, in which it knows all of the snapshot as committed.
    let later = view(2, ONE);
    let bytes = Bytes::from_static(b"xy");
    let crc = crc32c::crc32c(&bytes);
    let chunk = SnapshotChunk { id: 5, offset: 0, total_bytes: 2, sequence: 15, view: later.0, crc };
    lone.receive_with(ONE, Message::SnapshotChunk(chunk), vec![bytes]);
    finished(&mut lone, 15);
    assert_eq!(lone.commit(), 1, "the lease forbids to promise that view");
    assert_eq!(granted(&lone.receive(TWO, ask(followed(), 12)), TWO), 11, "a newer one would delay it again");
    lone.receive(ONE, ask(later, 13));
    assert_eq!(granted(&lone.sync(), ONE), 13, "the view is promised anyway");
}

/// The primary is gone. An election timeout later replica 1 reports what it has applied.
fn deposed(lone: &mut Lone, applied_by_one: u64) -> Outputs {
    lone.now += ELECTION_US;
    lone.report(ONE, Report { applied: applied_by_one, ..Report::default() });
    lone.tick_at(lone.now)
}

fn stands(outputs: &Outputs) -> bool {
    outputs.send.iter().any(|sent| matches!(sent.message, Message::PreVote(_)))
}

#[test]
fn a_replica_stands_for_election_once_nobody_has_the_snapshot_that_it_wants() {
    let mut lone = lone();
    behind(&mut lone, 22);
    assert!(lone.replica.status().is_catching_up && lone.replica.status().copy.is_none());
    let outputs = deposed(&mut lone, 20);
    assert!(stands(&outputs) && !lone.replica.status().is_catching_up);
}

#[test]
fn a_replica_goes_on_waiting_while_another_has_exactly_the_snapshot_that_it_wants() {
    for (applied, waits) in [(21, true), (20, false)] {
        let mut lone = lone();
        behind(&mut lone, 22);
        let outputs = deposed(&mut lone, applied);
        assert_eq!((stands(&outputs), lone.replica.status().is_catching_up), (!waits, waits));
    }
}

#[test]
fn a_log_without_a_beginning_never_makes_do_without_a_snapshot() {
    let mut lone = Lone::started(10, followed(), |_, start| {
        start.recovered.first = Sequence(6);
        start.entries = entries(6..=10).into_iter().map(Some).collect();
    });
    lone.follow(followed(), 1);
    lone.replica.want_snapshot(Sequence(21), None);
    for _ in 0..2 {
        let outputs = deposed(&mut lone, 4);
        assert!(!stands(&outputs) && lone.replica.status().is_catching_up);
    }
    assert!(begins(&deposed(&mut lone, 5)), "the snapshot that it began without reaches to entry 5");
}
