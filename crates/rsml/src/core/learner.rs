//! The learner: how far the log is known to be chosen, and how far it has been handed out for execution.
//!
//! A commit point learned in view w says something about this replica's log only once that log is w's (or a later
//! view's); until then it is remembered, not acted on. Invariants: `delivered <= commit <= log.last()`, and neither goes
//! back.

use crate::{Sequence, View};

use super::acceptor::Acceptor;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learner {
    /// Entries of the log in memory through here are chosen.
    commit: Sequence,
    /// The view in which that was learned, for entries above `installed`.
    commit_view: View,
    /// Entries through here were received as committed and written as such: no view's log vouches for them.
    installed: Sequence,
    /// The newest word of a primary, not yet acted on where the log is not that view's.
    heard: (View, Sequence),
    delivered: Sequence,
    applied: Sequence,
}

impl Learner {
    /// `applied`: what the database holds; all of it was committed.
    pub fn new(applied: Sequence) -> Learner {
        Learner {
            commit: applied,
            commit_view: View::BIRTH,
            installed: applied,
            heard: (View::BIRTH, applied),
            delivered: applied,
            applied,
        }
    }

    pub fn commit(&self) -> Sequence {
        self.commit
    }

    pub fn delivered(&self) -> Sequence {
        self.delivered
    }

    pub fn applied(&self) -> Sequence {
        self.applied
    }

    /// The primary of `view` said, or a quorum's votes in it showed, that its log is chosen through `commit`.
    pub fn hear(&mut self, view: View, commit: Sequence, acceptor: &Acceptor) {
        self.heard = self.heard.max((view, commit));
        self.advance(acceptor);
    }

    /// Acts on what was heard, as far as the log allows by now.
    pub fn advance(&mut self, acceptor: &Acceptor) {
        let (view, heard) = self.heard;
        if acceptor.accepted_view() < view {
            coverage!("rule5.commit_of_view_not_held");
            return;
        }
        let commit = heard.min(acceptor.log().last());
        if commit > self.commit {
            self.commit = commit;
            self.commit_view = view;
        }
    }

    /// Entries through `upto` are being written as committed ones.
    pub fn install(&mut self, upto: Sequence) {
        self.installed = self.installed.max(upto);
        self.commit = self.commit.max(upto);
    }

    /// The next entries to execute, `(from, to)`, of which `to` is what rule 5 allows; `None` when there are none.
    pub fn deliverable(&self, acceptor: &Acceptor) -> Option<(Sequence, Sequence)> {
        let known = if acceptor.durable().accepted_view >= self.commit_view { self.commit } else { self.installed };
        let to = known.min(acceptor.stable());
        if to < known {
            coverage!("learner.commit_not_durable");
        }
        (to > self.delivered).then(|| (self.delivered.next(), to))
    }

    pub fn deliver(&mut self, to: Sequence) {
        assert!(to > self.delivered && to <= self.commit, "delivering {to} beyond the commit point {}", self.commit);
        self.delivered = to;
    }

    pub fn apply(&mut self, sequence: Sequence) {
        assert!(sequence >= self.applied && sequence <= self.delivered, "applied {sequence} was never delivered");
        self.applied = sequence;
    }
}
