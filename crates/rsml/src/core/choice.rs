//! Which log a candidate adopts (rules 2 and 7).
//!
//! The greatest log, by (accepted view, length), of any quorum that promised holds everything that
//! may have been chosen. Entries that disks have lost count in that length, and some replica must
//! supply them before the log is adopted: one with the same accepted view, or one that knows them
//! to be committed. If that is impossible for the greatest log of all promises, it may be possible
//! for that of another quorum among them. When all voters have promised and nobody can supply an
//! entry, the entry can have been chosen only if a quorum holds or has lost it; otherwise the log
//! is cut there.

use std::collections::BTreeMap;

use crate::{ReplicaId, Sequence, View};

/// The contents of a voter's promise.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Promised {
    /// The view whose log it has.
    pub accepted_view: View,
    /// The last entry of that log.
    pub last: Sequence,
    /// The commit point that it knows.
    pub commit: Sequence,
    /// The first entry that it can still supply; its database holds everything before.
    pub first: Sequence,
    /// The ranges of the log that it has lost, ascending, both ends included.
    pub lost: Vec<(Sequence, Sequence)>,
}

/// The promises of a view, by the replica that sent them.
pub type Promises = BTreeMap<ReplicaId, Promised>;

/// The log to adopt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Best {
    /// The view that the log belongs to.
    pub accepted_view: View,
    /// Its last entry.
    pub last: Sequence,
}

/// The conclusion from a set of promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Adopt this log.
    Adopt(Best),
    /// More promises are needed.
    Wait,
    /// All have promised, and nobody can supply these entries, which may have been chosen.
    Blocked {
        /// The first of them.
        from: Sequence,
        /// The last of them.
        to: Sequence,
    },
}

/// The replica that supplies entries of the log that is being adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This replica's log has them through that sequence.
    Log(ReplicaId, Sequence),
    /// They are gone from all logs that may supply them; this replica's database holds them through
    /// that sequence.
    Database(ReplicaId, Sequence),
}

impl Source {
    fn end(self) -> Sequence {
        match self {
            Source::Log(_, end) | Source::Database(_, end) => end,
        }
    }
}

impl Promised {
    fn best(&self) -> Best {
        Best { accepted_view: self.accepted_view, last: self.last }
    }

    /// How far, from `next` on, the log of this replica agrees with the log `best` and has no hole.
    fn run(&self, best: Best, next: Sequence) -> Option<Sequence> {
        let limit = if self.accepted_view == best.accepted_view { self.last } else { self.commit.min(self.last) };
        let lost = self.lost.iter().find(|(_, to)| *to >= next);
        let end = lost.map_or(limit, |(from, _)| limit.min(from.previous())).min(best.last);
        (self.first <= next && next <= end).then_some(end)
    }

    /// Whether it holds or has lost an entry there, in any view.
    fn reaches(&self, sequence: Sequence) -> bool {
        self.last >= sequence || self.first > sequence
    }
}

/// The conclusion of a candidate that holds everything through `commit` and knows it as committed,
/// from these promises out of `voters` voters.
pub fn choose_log(promises: &Promises, commit: Sequence, voters: usize) -> Choice {
    let quorum = voters / 2 + 1;
    let all: Vec<&Promised> = promises.values().collect();
    let best_of = |members: &[&Promised]| members.iter().map(|p| p.best()).max();
    let Some(best) = best_of(&all).filter(|_| all.len() >= quorum) else { return Choice::Wait };
    let Some(hole) = first_unfillable(promises, best, commit) else { return Choice::Adopt(best) };
    for set in 1_u32..(1 << all.len()) {
        let members: Vec<&Promised> = (0..all.len()).filter(|i| set & (1 << i) != 0).map(|i| all[i]).collect();
        if members.len() < quorum {
            continue;
        }
        let best = best_of(&members).expect("a quorum is not empty");
        if first_unfillable(promises, best, commit).is_none() {
            return Choice::Adopt(best);
        }
    }
    if all.len() < voters {
        return Choice::Wait;
    }
    if all.iter().filter(|promised| promised.reaches(hole)).count() < quorum {
        return Choice::Adopt(Best { last: hole.previous(), ..best });
    }
    let lost = all.iter().flat_map(|p| &p.lost).filter(|(from, to)| *from <= hole && hole <= *to);
    Choice::Blocked { from: hole, to: lost.map(|(_, to)| *to).min().unwrap_or(hole) }
}

/// The first entry of `best` after `commit` that nobody can supply.
fn first_unfillable(promises: &Promises, best: Best, commit: Sequence) -> Option<Sequence> {
    let mut next = commit.next();
    while next <= best.last {
        match source(promises, best, next, None) {
            Some(found) => next = found.end().next(),
            None => return Some(next),
        }
    }
    None
}

/// The replica that supplies the entry `next` of the log `best`: `preferred` if it can, else the
/// one that supplies most from there on.
pub fn source(promises: &Promises, best: Best, next: Sequence, preferred: Option<ReplicaId>) -> Option<Source> {
    let runs = promises.iter().filter_map(|(id, p)| Some((*id, p.run(best, next)?)));
    let from_log = runs.max_by_key(|(id, end)| (Some(*id) == preferred, *end)).map(|(id, end)| Source::Log(id, end));
    from_log.or_else(|| {
        let holders = promises.iter().filter(|(_, p)| p.first > next);
        let newest = holders.max_by_key(|(_, p)| p.first);
        newest.map(|(id, p)| Source::Database(*id, p.first.previous().min(best.last)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promised(view: u64, last: u64, lost: &[(u64, u64)]) -> Promised {
        let lost = lost.iter().map(|(from, to)| (Sequence(*from), Sequence(*to))).collect();
        Promised { accepted_view: View(view), last: Sequence(last), commit: Sequence(2), first: Sequence(1), lost }
    }

    fn choose(promises: &[Promised], voters: usize) -> Choice {
        let promises = promises.iter().cloned().enumerate().map(|(id, p)| (ReplicaId(id as u8), p)).collect();
        choose_log(&promises, Sequence(2), voters)
    }

    fn adopt(view: u64, last: u64) -> Choice {
        Choice::Adopt(Best { accepted_view: View(view), last: Sequence(last) })
    }

    #[test]
    fn the_accepted_view_counts_before_the_length() {
        assert_eq!(choose(&[promised(1, 9, &[]), promised(2, 5, &[])], 3), adopt(2, 5));
        assert_eq!(choose(&[promised(2, 9, &[]), promised(2, 5, &[])], 3), adopt(2, 9));
        assert_eq!(choose(&[promised(2, 9, &[])], 3), Choice::Wait);
    }

    #[test]
    fn lost_entries_count_in_the_length_and_are_supplied_by_logs_of_the_same_view_only() {
        let damaged = promised(2, 9, &[(4, 5), (9, 9)]);
        assert_eq!(choose(&[damaged.clone(), promised(2, 9, &[])], 3), adopt(2, 9));
        assert_eq!(choose(&[damaged.clone(), promised(1, 9, &[])], 3), Choice::Wait);
        assert_eq!(choose(&[promised(2, 6, &[(4, 4)]), promised(2, 6, &[(5, 5)])], 3), adopt(2, 6));
    }

    #[test]
    fn an_entry_known_as_committed_fills_a_hole_whatever_its_view() {
        let mut knows = promised(1, 9, &[]);
        knows.commit = Sequence(5);
        assert_eq!(choose(&[promised(2, 9, &[(4, 5)]), knows.clone()], 3), adopt(2, 9));
        assert_eq!(choose(&[promised(2, 9, &[(4, 6)]), knows], 3), Choice::Wait);
        let mut trimmed = promised(1, 9, &[]);
        (trimmed.first, trimmed.commit) = (Sequence(6), Sequence(7));
        assert_eq!(choose(&[promised(2, 9, &[(4, 5)]), trimmed], 3), adopt(2, 9));
    }

    #[test]
    fn another_quorum_will_do_when_its_log_has_no_hole() {
        let damaged = promised(5, 9, &[(4, 9)]);
        let old = promised(3, 6, &[]);
        assert_eq!(choose(&[damaged.clone(), old.clone(), old.clone()], 5), Choice::Wait);
        assert_eq!(choose(&[damaged, old.clone(), old.clone(), old], 5), adopt(3, 6));
    }

    #[test]
    fn an_entry_that_no_quorum_can_have_held_is_cut_once_all_have_promised() {
        let damaged = promised(2, 9, &[(8, 9)]);
        let short = promised(2, 7, &[]);
        assert_eq!(choose(&[damaged.clone(), promised(2, 6, &[(6, 6)])], 3), Choice::Wait);
        assert_eq!(choose(&[damaged.clone(), short.clone()], 3), Choice::Wait);
        // Two of them are a quorum whose log has no hole.
        assert_eq!(choose(&[damaged.clone(), short.clone(), short], 3), adopt(2, 7));
        let other = promised(2, 7, &[(5, 5)]);
        assert_eq!(choose(&[damaged, other, promised(1, 7, &[(5, 5)])], 3), adopt(2, 7));
    }

    #[test]
    fn an_entry_that_a_quorum_has_lost_blocks() {
        let lost = promised(2, 9, &[(4, 5)]);
        let blocked = Choice::Blocked { from: Sequence(4), to: Sequence(5) };
        assert_eq!(choose(&[lost.clone(), lost.clone(), promised(1, 3, &[])], 3), blocked);
        assert_eq!(choose(&[lost.clone(), lost.clone(), lost], 3), blocked);
    }

    #[test]
    fn a_single_lost_entry_counts_wherever_it_lies() {
        let intact = promised(1, 9, &[]);
        for lost in [(3, 3), (5, 5), (9, 9)] {
            let damaged = promised(2, 9, &[lost]);
            assert_eq!(choose(&[damaged.clone(), intact.clone()], 3), Choice::Wait, "entry {} is missing", lost.0);
            assert_eq!(choose(&[damaged, promised(2, 9, &[])], 3), adopt(2, 9));
        }
    }

    #[test]
    fn a_log_that_begins_or_ends_with_the_missing_entry_supplies_it() {
        let damaged = promised(2, 9, &[(3, 3), (9, 9)]);
        let mut supplies = promised(2, 9, &[]);
        supplies.first = Sequence(3);
        assert_eq!(choose(&[damaged.clone(), supplies.clone()], 3), adopt(2, 9));
        supplies.first = Sequence(9);
        assert_eq!(choose(&[promised(2, 9, &[(9, 9)]), supplies], 3), adopt(2, 9));
    }

    #[test]
    fn a_log_that_has_lost_its_first_entry_has_it_in_no_database() {
        let mut damaged = promised(2, 9, &[(3, 3)]);
        damaged.first = Sequence(3);
        assert_eq!(choose(&[damaged.clone(), promised(1, 2, &[])], 3), Choice::Wait);
    }

    #[test]
    fn an_empty_log_that_continues_with_an_entry_does_not_hold_it() {
        let damaged = promised(2, 8, &[(8, 8)]);
        let mut empty = promised(1, 7, &[]);
        empty.first = Sequence(8);
        let with =
            |empty: &Promised| choose(&[damaged.clone(), damaged.clone(), promised(1, 7, &[]), empty.clone()], 4);
        assert_eq!(with(&empty), adopt(2, 7), "two of four are no quorum");
        empty.last = Sequence(8);
        let blocked = Choice::Blocked { from: Sequence(8), to: Sequence(8) };
        assert_eq!(with(&empty), blocked, "a third one holds such an entry, of whatever view");
    }

    #[test]
    fn a_block_ends_where_the_shortest_range_of_lost_entries_ends() {
        let lost = |to| promised(2, 9, &[(4, to)]);
        let blocked = Choice::Blocked { from: Sequence(4), to: Sequence(4) };
        assert_eq!(choose(&[lost(4), lost(6), promised(1, 3, &[])], 3), blocked);
    }
}
