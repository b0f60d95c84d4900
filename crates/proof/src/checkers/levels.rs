//! Feature levels: one at each sequence, on all replicas; never lower at a later one; and raised
//! only to what every program executes. O(log n) per event.

use std::collections::BTreeMap;

use rsml::{FeatureLevel, LevelRange, ReplicaId, Sequence};

use super::{Verdict, Violation};

#[derive(Debug, Default)]
pub struct Levels {
    known: BTreeMap<Sequence, (ReplicaId, FeatureLevel)>,
}

impl Levels {
    /// The replica's database stands at `sequence` with this level, and its program executes
    /// `levels`.
    pub fn applied(
        &mut self,
        replica: ReplicaId,
        sequence: Sequence,
        level: FeatureLevel,
        levels: LevelRange,
    ) -> Verdict {
        let violation = |anomaly, story| Err(Violation::new("levels", anomaly, story));
        if !levels.contains(level) {
            return violation(
                "a level that the program does not execute",
                format!("at {sequence}, replica {replica} is at level {level}, and its program executes {levels}"),
            );
        }
        let (first, known) = *self.known.entry(sequence).or_insert((replica, level));
        if known != level {
            let story = format!("at {sequence}, replica {first} had level {known} and replica {replica} has {level}");
            return violation("two levels at one sequence", story);
        }
        let before = self.known.range(..sequence).next_back().map(|(at, (_, lower))| (*at, *lower, sequence, level));
        let after = self.known.range(sequence.next()..).next().map(|(at, (_, higher))| (sequence, level, *at, *higher));
        match before.into_iter().chain(after).find(|(_, lower, _, higher)| lower > higher) {
            Some((earlier, lower, later, higher)) => {
                let story = format!("level {lower} at {earlier}, and level {higher} at {later}");
                violation("the level went down", story)
            }
            None => Ok(()),
        }
    }

    /// An entry that raises the level to `to` is chosen, while the replicas run these programs.
    pub fn raised(&self, sequence: Sequence, to: FeatureLevel, programs: &[LevelRange]) -> Verdict {
        match programs.iter().position(|levels| !levels.contains(to)) {
            None => Ok(()),
            Some(replica) => {
                let levels = programs[replica];
                let story = format!(
                    "entry {sequence} raises the level to {to}; the program of replica {replica} executes {levels}"
                );
                Err(Violation::new("levels", "raised without a member", story))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(steps: &[(u8, u64, u32)]) -> Result<(), &'static str> {
        let mut levels = Levels::default();
        for (replica, sequence, level) in steps {
            let verdict =
                levels.applied(ReplicaId(*replica), Sequence(*sequence), FeatureLevel(*level), LevelRange::new(1, 2));
            verdict.map_err(|violation| violation.anomaly)?;
        }
        Ok(())
    }

    #[test]
    fn equal_levels_that_never_go_down_are_accepted() {
        assert_eq!(judge(&[(0, 1, 1), (1, 1, 1), (0, 5, 2), (1, 4, 2), (2, 3, 1), (1, 6, 2)]), Ok(()));
    }

    #[test]
    fn each_wrong_level_is_found() {
        assert_eq!(judge(&[(0, 5, 1), (1, 5, 2)]), Err("two levels at one sequence"));
        assert_eq!(judge(&[(0, 5, 2), (0, 6, 1)]), Err("the level went down"));
        assert_eq!(judge(&[(0, 5, 1), (1, 4, 2)]), Err("the level went down"));
        assert_eq!(judge(&[(0, 5, 3)]), Err("a level that the program does not execute"));
    }

    #[test]
    fn a_raise_without_a_member_is_found() {
        let raised = |programs: &[LevelRange]| {
            Levels::default().raised(Sequence(3), FeatureLevel(2), programs).map_err(|violation| violation.anomaly)
        };
        assert_eq!(raised(&[LevelRange::new(1, 2), LevelRange::new(2, 3)]), Ok(()));
        assert_eq!(raised(&[LevelRange::new(1, 2), LevelRange::new(1, 1)]), Err("raised without a member"));
    }
}
