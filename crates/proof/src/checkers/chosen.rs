//! Derives the chosen entries from the disks alone, not from anything that a replica says, counts,
//! or holds in memory.
//!
//! An entry is chosen in a view when a majority of the voters' disks holds it durably as part of a
//! log of that view (rule 4 of the protocol; Lamport, *Paxos Made Simple*). From then on every log
//! of a higher view must hold it (rule 2), nobody may deliver anything else or more (rule 5), and
//! no commit point that is said to be of a view may exceed what was chosen in that view or before.
//!
//! A log may also take in an entry that was chosen in a higher view while it stays a log of its own
//! view (rule 10: what lies below the commit point is installed, and the accepted view stays). From
//! there on it is no vote in its view. Nor is what was written after a higher view was promised.
//!
//! A vote that was durable once counts for good, though the disk loses the entry later: whoever
//! counted it was right. O(replicas) per event, and O(log) when a disk goes over to another view.

use std::collections::BTreeMap;

use rsml::{DiskId, Sequence, View};

use super::{Verdict, Violation};

/// The contents that a disk has reported so far.
pub trait DurableLog {
    fn accepted_view(&self) -> View;

    /// The first entry that it must hold.
    fn first(&self) -> Sequence;

    fn last(&self) -> Sequence;

    /// Where the entries end that are votes in the accepted view: without a loss before them, and
    /// written before a higher view was promised.
    fn voted_last(&self) -> Sequence;

    /// `None` where it is not known.
    fn hash(&self, sequence: Sequence) -> Option<u64>;
}

#[derive(Debug, Default)]
pub struct Chosen {
    /// For each view, how far each disk ever held a log of it.
    votes: BTreeMap<View, BTreeMap<DiskId, Sequence>>,
    /// For each view, how far a majority ever did.
    through: BTreeMap<View, Sequence>,
    /// For each view, the hashes of its entries beyond what was chosen before, as the first log
    /// that held each has it.
    logs: BTreeMap<View, BTreeMap<Sequence, u64>>,
    /// Hashes of the chosen entries, where they are known.
    entries: BTreeMap<Sequence, u64>,
    /// The accepted view that each disk was last seen with.
    accepted: BTreeMap<DiskId, View>,
}

impl Chosen {
    /// How far entries were ever chosen in `view` or a lower one.
    pub fn by(&self, view: View) -> Sequence {
        self.through.range(..=view).map(|(_, through)| *through).max().unwrap_or_default()
    }

    /// The disk `disk` reported an order as done, or was found so at a start. `logs`: all disks,
    /// this one included. `voters`: the disks that vote in the view of its log.
    pub fn durable<L: DurableLog>(&mut self, disk: DiskId, logs: &[(DiskId, &L)], voters: &[DiskId]) -> Verdict {
        let Some((_, log)) = logs.iter().find(|(id, _)| *id == disk) else { return Ok(()) };
        let view = log.accepted_view();
        if self.accepted.insert(disk, view) != Some(view) {
            self.contains(disk, *log, Sequence::BIRTH, self.before(view))?;
        }
        self.vote(disk, view, *log)?;
        self.choose(view, logs, voters)
    }

    /// How far entries were ever chosen in views below `view`.
    fn before(&self, view: View) -> Sequence {
        self.through.range(..view).map(|(_, through)| *through).max().unwrap_or_default()
    }

    /// Counts how far the log of `disk` is one of `view`: there is one such log only (rule 1).
    fn vote<L: DurableLog>(&mut self, disk: DiskId, view: View, log: &L) -> Verdict {
        let (before, chosen, end) = (self.before(view), self.by(view), log.voted_last());
        let counted = self.votes.get(&view).and_then(|votes| votes.get(&disk)).copied();
        let mut vote = counted.unwrap_or(before.min(end));
        let (entries, of_view) = (&self.entries, self.logs.entry(view).or_default());
        for sequence in (vote.next().0..=end.0).map(Sequence) {
            let Some(hash) = log.hash(sequence) else {
                // It was let go of, or a copied database took its place: chosen, and a vote only if
                // it was one before.
                if sequence > chosen {
                    break;
                }
                vote = sequence;
                continue;
            };
            let is_chosen = sequence > before && entries.get(&sequence) == Some(&hash);
            match of_view.get(&sequence) {
                Some(held) if *held == hash => {}
                // Chosen in a higher view, and installed into a log of this one.
                _ if is_chosen => break,
                Some(_) => {
                    let story = format!("{disk:?} holds another entry {sequence} in {view} than a log of that view");
                    return Err(Violation::new("chosen", "two logs of one view", story));
                }
                None => _ = of_view.insert(sequence, hash),
            }
            vote = sequence;
        }
        self.votes.entry(view).or_default().insert(disk, vote);
        Ok(())
    }

    /// Whether a log of a higher view holds what was chosen from `from` through `to`.
    fn contains<L: DurableLog>(&self, disk: DiskId, log: &L, from: Sequence, to: Sequence) -> Verdict {
        if log.last() < to {
            let story =
                format!("{disk:?} has a log of {} to {}; chosen before is {to}", log.accepted_view(), log.last());
            return Err(Violation::new("chosen", "a log lacks what is chosen", story));
        }
        for (sequence, chosen) in
            self.entries.range(from.max(log.first())..).take_while(|(sequence, _)| **sequence <= to)
        {
            if log.hash(*sequence).is_some_and(|hash| hash != *chosen) {
                let story = format!("{disk:?} has a log of {} with another entry {sequence}", log.accepted_view());
                return Err(Violation::new("chosen", "a log contradicts what is chosen", story));
            }
        }
        Ok(())
    }

    /// Finds out whether more is chosen in `view` by now.
    fn choose<L: DurableLog>(&mut self, view: View, logs: &[(DiskId, &L)], voters: &[DiskId]) -> Verdict {
        let votes = &self.votes[&view];
        let mut ends: Vec<Sequence> = voters.iter().map(|id| votes.get(id).copied().unwrap_or_default()).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let Some(end) = ends.get(voters.len() / 2).copied() else { return Ok(()) };
        let before = self.by(view);
        let through = self.through.entry(view).or_default();
        *through = end.max(*through);
        for (sequence, hash) in self.logs[&view].range(before.next()..).take_while(|(sequence, _)| **sequence <= end) {
            if *self.entries.entry(*sequence).or_insert(*hash) != *hash {
                let story = format!("entry {sequence} of {view} is held by a majority, and another one was chosen");
                return Err(Violation::new("chosen", "two values chosen", story));
            }
        }
        if end > before {
            let mut later = logs.iter().filter(|(_, log)| log.accepted_view() > view);
            return later.try_for_each(|(id, log)| self.contains(*id, *log, before.next(), end));
        }
        Ok(())
    }

    /// A replica gives the entry with this hash to its database; `log` is what its own disk holds.
    pub fn delivered<L: DurableLog>(&self, sequence: Sequence, hash: u64, log: &L) -> Verdict {
        let story = |what: String| format!("{sequence} is delivered, and {what}");
        let through = self.by(View(u64::MAX));
        // The bootstrap record counts as chosen as soon as the bootstrapper has it.
        if sequence > Sequence::BIRTH && sequence > through {
            let what = story(format!("no majority ever held more than {through} durably in one view"));
            return Err(Violation::new("chosen", "delivered and not chosen", what));
        }
        if self.entries.get(&sequence).is_some_and(|chosen| *chosen != hash) {
            return Err(Violation::new("chosen", "another entry was chosen", story("another one was chosen".into())));
        }
        let own = log.hash(sequence);
        if log.last() < sequence || own.is_some_and(|own| own != hash) {
            let what = story(format!("the own disk holds {own:?} there, and ends at {}", log.last()));
            return Err(Violation::new("chosen", "delivered and not durable here", what));
        }
        Ok(())
    }

    /// The epoch of `view` ended with the entry `seal`: nothing behind it is chosen in that epoch.
    pub fn ends(&self, view: View, seal: Sequence) -> Verdict {
        let through = self.by(view);
        if through > seal {
            let story = format!("{through} is chosen in {view}, whose epoch ended with {seal}");
            return Err(Violation::new("chosen", "chosen behind the seal of its epoch", story));
        }
        Ok(())
    }

    /// A replica says that everything through `commit` was chosen in `view` or before.
    pub fn claims(&self, commit: Sequence, view: View) -> Verdict {
        let through = self.by(view).max(Sequence::BIRTH);
        if commit > through {
            let story = format!("{commit} is said to be chosen by {view}; the disks say {through}");
            return Err(Violation::new("chosen", "a commit point beyond what is chosen", story));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISKS: [DiskId; 3] = [DiskId(10), DiskId(11), DiskId(12)];

    #[derive(Clone)]
    struct Log {
        view: u64,
        first: u64,
        entries: Vec<u64>,
        lost_from: Option<u64>,
    }

    impl DurableLog for Log {
        fn accepted_view(&self) -> View {
            View(self.view)
        }

        fn first(&self) -> Sequence {
            Sequence(self.first)
        }

        fn last(&self) -> Sequence {
            Sequence(self.entries.len() as u64)
        }

        fn voted_last(&self) -> Sequence {
            self.lost_from.map_or(self.last(), |lost| Sequence(lost - 1))
        }

        fn hash(&self, sequence: Sequence) -> Option<u64> {
            self.entries.get(sequence.0 as usize - 1).copied().filter(|_| sequence.0 >= self.first)
        }
    }

    fn log(view: u64, entries: &[u64]) -> Log {
        Log { view, first: 1, entries: entries.to_vec(), lost_from: None }
    }

    /// Each step is a disk, and what it holds then.
    fn judge(steps: Vec<(usize, Log)>) -> (Chosen, Verdict) {
        let mut logs = [log(0, &[]), log(0, &[]), log(0, &[])];
        let mut chosen = Chosen::default();
        for (disk, log) in steps {
            logs[disk] = log;
            let all: Vec<(DiskId, &Log)> = DISKS.into_iter().zip(&logs).collect();
            let verdict = chosen.durable(DISKS[disk], &all, &DISKS);
            if verdict.is_err() {
                return (chosen, verdict);
            }
        }
        (chosen, Ok(()))
    }

    fn anomaly(steps: Vec<(usize, Log)>) -> &'static str {
        judge(steps).1.expect_err("it is wrong").anomaly
    }

    #[test]
    fn what_a_majority_holds_in_one_view_is_chosen() {
        let (chosen, verdict) =
            judge(vec![(0, log(256, &[1, 2, 3])), (1, log(256, &[1, 2])), (2, log(513, &[1, 2, 9]))]);
        verdict.expect("the third adopted what is chosen");
        assert_eq!(
            (chosen.by(View(255)), chosen.by(View(256)), chosen.by(View(600))),
            (Sequence(0), Sequence(2), Sequence(2))
        );
        chosen.delivered(Sequence(2), 2, &log(256, &[1, 2])).expect("it is chosen");
        chosen.claims(Sequence(2), View(256)).expect("as it is");
    }

    /// Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, figure 8.
    #[test]
    fn lengths_alone_choose_nothing() {
        let (chosen, verdict) = judge(vec![(0, log(256, &[1, 2])), (1, log(513, &[1, 7]))]);
        verdict.expect("nothing is chosen yet");
        let violation = chosen.delivered(Sequence(2), 2, &log(256, &[1, 2])).expect_err("in no view by a majority");
        assert_eq!(violation.anomaly, "delivered and not chosen");
    }

    #[test]
    fn what_is_lost_is_no_vote_but_what_was_voted_before_counts() {
        let lossy = || Log { lost_from: Some(2), ..log(256, &[1, 2, 3]) };
        assert_eq!(judge(vec![(0, log(256, &[1, 2, 3])), (1, lossy())]).0.by(View(256)), Sequence(1));
        let steps = vec![(1, log(256, &[1, 2, 3])), (1, lossy()), (0, log(256, &[1, 2, 3]))];
        assert_eq!(judge(steps).0.by(View(256)), Sequence(3));
    }

    #[test]
    fn a_later_log_without_what_is_chosen_is_found() {
        let chosen = || vec![(0, log(256, &[1, 2])), (1, log(256, &[1, 2]))];
        let then = |log: Log| chosen().into_iter().chain([(2, log)]).collect();
        assert_eq!(anomaly(then(log(513, &[1]))), "a log lacks what is chosen");
        assert_eq!(anomaly(then(log(513, &[1, 9]))), "a log contradicts what is chosen");
        let late = vec![(2, log(513, &[1])), (0, log(256, &[1, 2])), (1, log(256, &[1, 2]))];
        assert_eq!(anomaly(late), "a log lacks what is chosen");
    }

    #[test]
    fn two_entries_at_one_place_of_a_view_are_found() {
        assert_eq!(anomaly(vec![(0, log(256, &[1, 2])), (1, log(256, &[1, 3]))]), "two logs of one view");
    }

    /// Only 1 held entry 2 of view 256. Another one was chosen in 513, and 0, still at its log of
    /// 256, installs that.
    #[test]
    fn what_is_chosen_later_and_installed_is_no_vote_in_the_view_of_the_log() {
        let chosen = [(1, log(256, &[1, 2, 3])), (0, log(256, &[1])), (2, log(513, &[1, 9])), (1, log(513, &[1, 9]))];
        let then = |log: Log| judge(chosen.iter().cloned().chain([(0, log)]).collect());
        let (seen, verdict) = then(log(256, &[1, 9]));
        verdict.expect("it may hold what is chosen");
        assert_eq!((seen.by(View(256)), seen.by(View(513))), (Sequence(1), Sequence(2)));
        let (seen, verdict) = then(Log { first: 3, ..log(256, &[1, 9]) });
        verdict.expect("it may be replaced by a copied database");
        assert_eq!((seen.by(View(256)), seen.by(View(513))), (Sequence(1), Sequence(2)));
        let violation = then(log(256, &[1, 8])).1.expect_err("nobody ever proposed that in 256");
        assert_eq!(violation.anomaly, "two logs of one view");
    }

    #[test]
    fn a_commit_point_of_a_later_view_is_none_of_an_earlier_one() {
        let (chosen, _) = judge(vec![(0, log(513, &[1, 2])), (1, log(513, &[1, 2]))]);
        chosen.claims(Sequence(2), View(513)).expect("as it is");
        let violation = chosen.claims(Sequence(2), View(256)).expect_err("chosen later");
        assert_eq!(violation.anomaly, "a commit point beyond what is chosen");
    }

    #[test]
    fn who_delivers_what_its_own_disk_does_not_hold_is_found() {
        let (chosen, _) = judge(vec![(0, log(256, &[1, 2])), (1, log(256, &[1, 2]))]);
        for own in [log(256, &[1]), log(0, &[1, 5])] {
            let violation = chosen.delivered(Sequence(2), 2, &own).expect_err("not durable here");
            assert_eq!(violation.anomaly, "delivered and not durable here");
        }
        let violation = chosen.delivered(Sequence(2), 5, &log(0, &[1, 5])).expect_err("another one was chosen");
        assert_eq!(violation.anomaly, "another entry was chosen");
    }
}
