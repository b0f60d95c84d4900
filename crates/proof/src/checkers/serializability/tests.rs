//! Small histories, good and bad, by the names of what is wrong with them.

use super::*;
use crate::history::ClientId;

fn append(key: u64, element: u64) -> ListStep {
    ListStep::Append { key, element }
}

fn read(key: u64, list: &[u64]) -> ListStep {
    ListStep::Read { key, list: list.to_vec() }
}

fn transaction(called_us: u64, returned_us: u64, steps: &[ListStep], outcome: Outcome) -> Operation<ListTransaction> {
    let kind = ListTransaction { steps: steps.to_vec(), version: None };
    Operation { client: ClientId(called_us), called_us, returned_us, kind, outcome }
}

/// All overlap.
fn ok(steps: &[ListStep]) -> Operation<ListTransaction> {
    transaction(0, 100, steps, Outcome::Ok)
}

fn at(called_us: u64, returned_us: u64, steps: &[ListStep]) -> Operation<ListTransaction> {
    transaction(called_us, returned_us, steps, Outcome::Ok)
}

fn versioned(version: u64, steps: &[ListStep]) -> Operation<ListTransaction> {
    let mut operation = ok(steps);
    operation.kind.version = Some(version);
    operation
}

fn anomaly(history: &History) -> &'static str {
    check(history).map_or_else(|violation| violation.anomaly, |()| "none")
}

#[test]
fn transactions_in_an_order_are_accepted() {
    let history = [
        ok(&[append(1, 10), append(2, 20)]),
        ok(&[read(1, &[10]), append(1, 11), read(1, &[10, 11])]),
        ok(&[read(1, &[10]), read(2, &[20])]),
        ok(&[read(1, &[]), read(2, &[])]),
        ok(&[append(3, 1)]),
    ];
    assert_eq!(anomaly(&history), "none");
}

#[test]
fn a_dirty_write_is_g0() {
    let history = [
        ok(&[append(1, 10), append(2, 20)]),
        ok(&[append(1, 11), append(2, 21)]),
        ok(&[read(1, &[10, 11])]),
        ok(&[read(2, &[21, 20])]),
    ];
    assert_eq!(anomaly(&history), "G0");
}

#[test]
fn a_dirty_read_is_g1a() {
    let failed = transaction(0, 10, &[append(1, 10)], Outcome::Fail);
    assert_eq!(anomaly(&[failed, ok(&[read(1, &[10])])]), "G1a");
}

#[test]
fn a_read_of_half_a_transaction_is_g1b() {
    assert_eq!(anomaly(&[ok(&[append(1, 10), append(1, 11)]), ok(&[read(1, &[10])])]), "G1b");
}

#[test]
fn circular_information_is_g1c() {
    let history = [ok(&[append(1, 10), read(2, &[20])]), ok(&[append(2, 20), read(1, &[10])])];
    assert_eq!(anomaly(&history), "G1c");
}

#[test]
fn read_skew_is_g_single() {
    let history = [ok(&[append(1, 10), append(2, 20)]), ok(&[read(1, &[10]), read(2, &[])])];
    assert_eq!(anomaly(&history), "G-single");
}

#[test]
fn a_lost_update_is_found() {
    let history = [ok(&[read(1, &[]), append(1, 10)]), ok(&[read(1, &[]), append(1, 11)]), ok(&[read(1, &[10, 11])])];
    assert_eq!(anomaly(&history), "G-single", "the second did not see the first, and overwrote it");
    let gone = [ok(&[read(1, &[]), append(1, 10)]), ok(&[read(1, &[]), append(1, 11)]), ok(&[read(1, &[10])])];
    assert_eq!(anomaly(&gone), "G-single", "the same if nobody ever saw the second");
}

#[test]
fn write_skew_is_g2() {
    let history =
        [ok(&[read(1, &[]), append(2, 20)]), ok(&[read(2, &[]), append(1, 10)]), ok(&[read(1, &[10]), read(2, &[20])])];
    assert_eq!(anomaly(&history), "G2");
}

#[test]
fn a_phantom_is_g2() {
    // Both read a range of which the other adds a key that was not there.
    let history = [
        ok(&[read(1, &[]), read(2, &[]), read(3, &[]), append(2, 20)]),
        ok(&[read(1, &[]), read(2, &[]), read(3, &[]), append(3, 30)]),
    ];
    assert_eq!(anomaly(&history), "G2");
}

#[test]
fn a_long_fork_is_g2() {
    let history = [
        ok(&[append(1, 10)]),
        ok(&[append(2, 20)]),
        ok(&[read(1, &[10]), read(2, &[])]),
        ok(&[read(1, &[]), read(2, &[20])]),
    ];
    assert_eq!(anomaly(&history), "G2");
}

#[test]
fn a_split_brain_is_an_incompatible_order() {
    let history = [ok(&[append(1, 10)]), ok(&[append(1, 11)]), ok(&[read(1, &[10])]), ok(&[read(1, &[11])])];
    assert_eq!(anomaly(&history), "incompatible order");
}

#[test]
fn a_duplicate_execution_is_a_duplicate_element() {
    assert_eq!(anomaly(&[ok(&[append(1, 10)]), ok(&[read(1, &[10, 10])])]), "duplicate element");
}

#[test]
fn an_element_of_nobody_is_invented() {
    assert_eq!(anomaly(&[ok(&[append(1, 10)]), ok(&[read(1, &[10, 99])])]), "invented element");
}

#[test]
fn a_transaction_that_misses_its_own_append_is_internal() {
    assert_eq!(anomaly(&[ok(&[append(1, 10), read(1, &[])])]), "internal");
    assert_eq!(anomaly(&[ok(&[append(1, 10)]), ok(&[read(1, &[]), read(1, &[10])])]), "internal");
}

#[test]
fn a_stale_read_breaks_real_time_only() {
    let stale = [at(0, 10, &[append(1, 10)]), at(11, 20, &[read(1, &[])]), at(0, 50, &[read(1, &[10])])];
    assert_eq!(anomaly(&stale), "G-single-realtime");
    let overlapping = [at(0, 10, &[append(1, 10)]), at(10, 20, &[read(1, &[])]), at(0, 50, &[read(1, &[10])])];
    assert_eq!(anomaly(&overlapping), "none");
}

#[test]
fn a_lost_acknowledged_append_breaks_real_time_even_if_nobody_saw_it() {
    let history = [at(0, 10, &[append(1, 10)]), at(11, 20, &[read(1, &[])])];
    assert_eq!(anomaly(&history), "G-single-realtime");
}

#[test]
fn appends_in_another_order_than_they_were_acknowledged_break_real_time() {
    let history = [at(0, 10, &[append(1, 10)]), at(11, 20, &[append(1, 11)]), at(21, 30, &[read(1, &[11, 10])])];
    assert_eq!(anomaly(&history), "G0-realtime");
}

#[test]
fn a_read_from_the_future_breaks_real_time() {
    let history = [at(0, 10, &[read(1, &[10])]), at(11, 20, &[append(1, 10)])];
    assert_eq!(anomaly(&history), "G1c-realtime");
}

#[test]
fn a_reader_that_is_overtaken_breaks_real_time() {
    // Two readers of two lists, each sees one append; the appends are in real-time order.
    let history =
        [at(0, 10, &[append(1, 10)]), at(11, 20, &[append(2, 20)]), at(0, 100, &[read(1, &[]), read(2, &[20])])];
    assert_eq!(anomaly(&history), "G-single-realtime");
}

#[test]
fn commit_versions_against_the_order_of_the_data_are_rejected() {
    let history = [versioned(6, &[append(1, 10)]), versioned(5, &[append(1, 11)]), ok(&[read(1, &[10, 11])])];
    assert_eq!(anomaly(&history), "G0-version");
    let twice = [versioned(5, &[append(1, 10)]), versioned(5, &[append(2, 11)])];
    assert_eq!(anomaly(&twice), "commit version given twice");
}

#[test]
fn an_unknown_transaction_that_was_seen_counts_as_committed_whole() {
    let unknown = transaction(0, 0, &[append(1, 10), append(2, 20)], Outcome::Unknown);
    let whole = [unknown.clone(), at(200, 210, &[read(1, &[]), read(2, &[])]), at(300, 310, &[read(1, &[10])])];
    assert_eq!(anomaly(&whole), "none", "it may take effect late");
    let half = [
        unknown.clone(),
        at(200, 210, &[read(1, &[10])]),
        at(300, 310, &[read(2, &[])]),
        at(400, 410, &[read(2, &[20])]),
    ];
    assert_eq!(anomaly(&half), "G-single-realtime");
    assert_eq!(anomaly(&[unknown, at(200, 210, &[read(1, &[])])]), "none", "it may never take effect");
}

#[test]
fn the_story_tells_the_cycle() {
    let history = [at(0, 10, &[append(1, 10)]), at(11, 20, &[read(1, &[])]), at(0, 50, &[read(1, &[10])])];
    let story = check(&history).expect_err("stale").story;
    assert!(story.contains("T1 (client 11, 11 us – 20 us: read 1: [])"), "{story}");
    assert!(story.contains("… did not see T0 (list 1)"), "{story}");
    assert!(story.contains("… was acknowledged before the call of T1"), "{story}");
}
