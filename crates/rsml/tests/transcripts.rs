//! Golden transcripts: replicas are driven by hand through a scene, and every message, write and delivery is compared
//! with the text kept beside this file. `RSML_BLESS=1 cargo test -p rsml --test transcripts` writes the texts anew; read
//! the difference before you keep it.

#[allow(dead_code)]
#[path = "transcripts/executor.rs"]
mod executor;
#[path = "transcripts/stage.rs"]
mod stage;

use rsml::core::CoreOptions;
use rsml::{ReplicaId, Sequence, View};
use stage::{A, B, C, Stage};

fn compare(scene: &str, stage: &Stage) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/transcripts/{scene}.txt"));
    let text = stage.text();
    if std::env::var_os("RSML_BLESS").is_some() {
        std::fs::write(&path, text).expect("the transcript can be written");
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = golden.lines().zip(text.lines()).enumerate();
    if let Some((line, (expected, found))) = lines.find(|(_, (expected, found))| expected != found) {
        panic!("{scene}.txt line {}:\n  expected: {expected}\n  found:    {found}", line + 1);
    }
    assert_eq!(golden.lines().count(), text.lines().count(), "{scene}.txt has another length");
}

fn usual(_: &mut CoreOptions) {}

/// One entry per message.
fn tiny_messages(options: &mut CoreOptions) {
    options.max_message_bytes = 1;
    options.window_bytes = 1;
}

const ELECTION_US: u64 = 700_000;

/// `candidate` hears nobody any more, and `voter` has not heard a primary lately either.
fn stand(stage: &mut Stage, candidate: usize, voters: &[usize]) {
    for voter in voters {
        stage.wait(*voter, ELECTION_US);
    }
    stage.tick(candidate, ELECTION_US);
}

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
fn a_write_through_a_secondary() {
    let mut stage = Stage::led_by_a(usual);
    stage.propose(B, "x");
    stage.play();
    assert_eq!(stage.executed(B), ["x"]);
    compare("a_write_through_a_secondary", &stage);
}

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
fn a_request_that_is_given_up_after_it_took_its_place_is_executed_once() {
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
    compare("a_request_that_is_given_up_after_it_took_its_place_is_executed_once", &stage);
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
    stage.note("A has heard nobody for too long, and leads no more.");
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
    stage.note("C holds w without knowing that it is committed, starts anew, and misses the rest and a new primary.");
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
fn a_candidate_under_way_denies_pre_votes() {
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
    compare("a_candidate_under_way_denies_pre_votes", &stage);
}

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
fn a_primary_hands_over_once_its_successor_holds_all() {
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
    compare("a_primary_hands_over_once_its_successor_holds_all", &stage);
}

#[test]
fn a_primary_whose_successor_does_not_lead_goes_on() {
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
    compare("a_primary_whose_successor_does_not_lead_goes_on", &stage);
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

/// Lets time pass at the pace at which a replica looks at its disk.
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
fn an_ineligible_primary_hands_over() {
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
    compare("an_ineligible_primary_hands_over", &stage);
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
fn who_granted_a_lease_promises_nobody_else_a_view() {
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
    stage.note("B's grant is over, and it has heard nobody for an election timeout.");
    stage.wait(B, 300_000);
    stage.tick(C, ELECTION_US);
    stage.lose(C, A);
    stage.play_among(&[B, C]);
    assert_eq!(stage.core(B).primary(), Some(ReplicaId(2)));
    compare("who_granted_a_lease_promises_nobody_else_a_view", &stage);
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

#[test]
fn who_hands_over_gives_up_its_lease_before() {
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
    compare("who_hands_over_gives_up_its_lease_before", &stage);
}
