//! How old the applied state is: the newest moment at which everything that the primary had
//! committed is applied here by now.
//!
//! Nothing in the protocol depends on it. The user may refuse requests while the state is too
//! old.

use super::replica::Replica;
use crate::{Instant, Sequence};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Freshness {
    up_to_date: Option<Instant>,
    /// The primary's commit point at a later moment, which is not applied here yet. The first of
    /// several: otherwise a replica that always lags a little would never be up to date.
    next: Option<(Instant, Sequence)>,
}

impl Freshness {
    fn observe(&mut self, now: Instant, commit: Sequence, applied: Sequence) {
        if commit <= applied {
            (self.up_to_date, self.next) = (Some(now), None);
        } else if self.next.is_none() {
            self.next = Some((now, commit));
        }
    }

    fn applied(&mut self, applied: Sequence) {
        if let Some((at, _)) = self.next.take_if(|(_, commit)| *commit <= applied) {
            self.up_to_date = Some(at);
        }
    }
}

impl Replica {
    /// The primary says, now, that its log is chosen through `commit`.
    pub(super) fn observe_freshness(&mut self, commit: Sequence) {
        let applied = self.learner.applied();
        self.freshness.observe(self.now, commit, applied);
    }

    /// More is applied, or this replica leads and has applied everything from before its view.
    pub(super) fn advance_freshness(&mut self) {
        self.freshness.applied(self.learner.applied());
        if self.is_recovered() {
            self.observe_freshness(self.learner.commit());
        }
    }

    /// The newest moment at which everything that the primary had committed is applied here by now;
    /// `None` if no primary was heard since the start.
    pub fn up_to_date_at(&self) -> Option<Instant> {
        self.freshness.up_to_date
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_as_old_as_the_commit_point_that_it_has_reached() {
        let mut freshness = Freshness::default();
        let at = |freshness: &Freshness| freshness.up_to_date.map(|at| at.0);
        freshness.observe(Instant(10), Sequence(5), Sequence(3));
        freshness.observe(Instant(20), Sequence(9), Sequence(3));
        freshness.applied(Sequence(4));
        assert_eq!(at(&freshness), None);
        freshness.applied(Sequence(5));
        assert_eq!(at(&freshness), Some(10), "the state of 20 is not reached");
        freshness.observe(Instant(30), Sequence(9), Sequence(9));
        assert_eq!(at(&freshness), Some(30));
        freshness.applied(Sequence(9));
        assert_eq!(at(&freshness), Some(30), "time does not go back");
    }
}
