use super::*;

/// It has applied and persisted 5 entries, the log takes `log_bytes`, and the others have persisted
/// nothing. The log is kept for them up to 100 bytes.
fn trimmed(log_bytes: u64) -> (Lone, Option<Sequence>) {
    let view = view(1, TWO);
    let mut lone = Lone::started(6, view, |options, _| options.log_keep_bytes = 100);
    lone.follow(view, 5);
    lone.applied(5);
    for peer in [ONE, TWO] {
        lone.report(peer, Report::default());
    }
    lone.step(Input::Persisted { sequence: Sequence(5), log_bytes });
    let below = lone.tick_at(1).trim;
    (lone, below)
}

#[test]
fn the_log_is_kept_for_the_others_up_to_the_bound_and_not_beyond() {
    assert_eq!(trimmed(100).1, None);
    assert_eq!(trimmed(101).1, Some(Sequence(6)));
}

#[test]
fn a_log_that_begins_there_already_is_not_trimmed_again() {
    let (mut lone, below) = trimmed(101);
    assert_eq!(below, Some(Sequence(6)));
    assert_eq!(lone.tick_at(1_000_000).trim, None);
}

#[test]
fn the_log_is_held_for_eight_attempts_of_a_peer_and_no_more() {
    let mut lone = Lone::with_log(3, view(1, TWO));
    let mut now = 0;
    for attempt in 1..=9 {
        // Each snapshot is given up with fewer bytes than the one before.
        lone.report(ONE, Report { is_copying: true, copy_bytes: 100 - attempt, ..Report::default() });
        now += 200_000;
        lone.tick_at(now);
        let held_for = lone.replica.status().log_held_for;
        assert_eq!(held_for, if attempt <= 8 { vec![ONE] } else { vec![] }, "attempt {attempt}");
    }
}
