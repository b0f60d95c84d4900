//! Counts how often rare paths are taken, so that a simulation can show that it takes them.
//!
//! `coverage!("rule2.staged")` marks a path. Without the cargo feature `coverage` it compiles to
//! nothing; with it, it counts in the present thread. A name that is not in [`POINTS`] does not
//! compile, so the list is complete. The rules are those of [`crate::core`].

use std::cell::RefCell;

/// Every marked path: an exceptional branch of a rule, or a branch of liveness, recovery and
/// sessions.
pub const POINTS: [&str; 97] = [
    "birth.bootstrapped",
    "birth.record_sent_again",
    "epochs.answered_that_it_is_over",
    "epochs.asked_to_stand",
    "epochs.committed_installed",
    "epochs.entered",
    "epochs.entered_by_a_copy",
    "epochs.former_member_answered",
    "epochs.former_primary_stands",
    "epochs.kept_prepare_answered",
    "epochs.lost_past_restored",
    "epochs.needs_a_copy",
    "epochs.prepare_kept",
    "epochs.reads_wait",
    "epochs.refused_behind_seal",
    "epochs.seal_adopted",
    "epochs.seal_applied",
    "epochs.seal_lost",
    "epochs.seal_proposed",
    "epochs.session_ended",
    "epochs.superseded_by_the_next",
    "foreign.former_boot",
    "foreign.not_of_this_cluster",
    "learner.commit_not_durable",
    "liveness.campaign_given_up",
    "liveness.connection_hint",
    "liveness.hanging_disk_resigns",
    "liveness.pre_vote_denied",
    "liveness.quorum_lost_steps_down",
    "liveness.refused_candidate",
    "liveness.refused_primary",
    "liveness.transfers_when_unfit",
    "phase1.fetch_repeated",
    "phase1.fetches",
    "phase1.own_log",
    "replication.asks_where_log_ends",
    "replication.from_storage",
    "requests.cancelled",
    "requests.gap_filled",
    "requests.given_up",
    "requests.not_a_member",
    "requests.overloaded",
    "requests.sent_again",
    "requests.sent_as_void",
    "requests.storage_full",
    "requests.voided",
    "requests.withdrawn",
    "rule1.gap",
    "rule10.committed_part_installed",
    "rule12.copy_contradicted",
    "rule12.database_replaced",
    "rule12.minority",
    "rule12.never_decided",
    "rule12.no_computed_digest",
    "rule12.no_majority_left",
    "rule12.outvoted",
    "rule13.a_member_lacks_it",
    "rule13.passed_over",
    "rule13.raised",
    "rule13.raised_at_birth",
    "rule13.raised_by_itself",
    "rule13.voting_disk_is_away",
    "rule2.commit_beyond_adopted",
    "rule2.staged",
    "rule2.staged_and_higher_view",
    "rule2.tail_cut",
    "rule3.completion_of_replaced",
    "rule3.late_promise",
    "rule3.promise_overtaken",
    "rule4.vote_of_other_view",
    "rule5.commit_of_view_not_held",
    "rule7.blocked",
    "rule7.lost_tail_behind_snapshot",
    "rule7.repaired",
    "rule7.waits_for_more",
    "rule8.round_joined_later",
    "rule8.round_repeated",
    "rule8.rounds_restarted",
    "rule9.lease_forbids",
    "rule9.lease_serves",
    "snapshot.behind",
    "snapshot.came_too_late",
    "snapshot.dropped",
    "snapshot.installed",
    "snapshot.needs_database",
    "snapshot.nobody_has_it",
    "snapshot.rate_doubled",
    "snapshot.repeated",
    "snapshot.waits_for_lease",
    "trim.held_for_a_copy",
    "upkeep.announced_by_another_disk",
    "upkeep.disk_replaced",
    "upkeep.moved",
    "upkeep.sealed",
    "witness.keeps_its_log",
    "witness.sealed",
    "witness.state_installed",
];

/// The index of a name in [`POINTS`].
///
/// # Panics
/// For any other name; in `coverage!` that fails the compilation.
#[must_use]
pub const fn place(name: &str) -> usize {
    let mut place = 0;
    while place < POINTS.len() {
        if is_same(POINTS[place].as_bytes(), name.as_bytes()) {
            return place;
        }
        place += 1;
    }
    panic!("this point is not in the list")
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut place = 0;
    while place < a.len() && place < b.len() && a[place] == b[place] {
        place += 1;
    }
    place == a.len() && place == b.len()
}

struct Taken {
    counts: [u64; POINTS.len()],
    /// The last point taken, and which point has directly followed which other one.
    last: usize,
    pairs: [bool; POINTS.len() * POINTS.len()],
}

impl Taken {
    const NOTHING: Taken = Taken { counts: [0; POINTS.len()], last: 0, pairs: [false; POINTS.len() * POINTS.len()] };
}

thread_local! {
    static TAKEN: RefCell<Taken> = const { RefCell::new(Taken::NOTHING) };
}

/// A path was taken. `coverage!` calls this.
#[inline(always)]
pub fn hit(point: usize) {
    if cfg!(feature = "coverage") {
        TAKEN.with_borrow_mut(|taken| {
            taken.counts[point] += 1;
            if taken.last != point {
                taken.pairs[taken.last * POINTS.len() + point] = true;
                taken.last = point;
            }
        });
    }
}

/// The paths taken in this thread since the last call: how often each of [`POINTS`] was, and the
/// pairs of points that directly followed each other, as `first * POINTS.len() + second`. Nothing
/// without the cargo feature.
pub fn take() -> ([u64; POINTS.len()], Vec<usize>) {
    TAKEN.with_borrow_mut(|taken| {
        let Taken { counts, pairs, .. } = std::mem::replace(taken, Taken::NOTHING);
        (counts, (0..pairs.len()).filter(|pair| pairs[*pair]).collect())
    })
}

macro_rules! coverage {
    ($name:literal) => {{
        const POINT: usize = $crate::coverage::place($name);
        $crate::coverage::hit(POINT);
    }};
}
