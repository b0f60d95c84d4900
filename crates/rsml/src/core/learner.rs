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
    /// They were chosen in this view or a lower one.
    installed_view: View,
    /// The newest word of a primary, not yet acted on where the log is not that view's.
    heard: (View, Sequence),
    delivered: Sequence,
    applied: Sequence,
}

impl Learner {
    /// `applied`: what the database holds; all of it was committed, in views not above the promised one.
    pub fn new(applied: Sequence, promised: View) -> Learner {
        Learner {
            commit: applied,
            commit_view: View::BIRTH,
            installed: applied,
            installed_view: promised,
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
    pub fn observe_commit(&mut self, view: View, commit: Sequence, acceptor: &Acceptor) {
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
        let commit = heard.min(acceptor.log().sound_last());
        if commit > self.commit {
            self.commit = commit;
            self.commit_view = view;
        }
    }

    /// Entries through `upto`, chosen in `view` or before, are being written as committed ones.
    pub fn install(&mut self, upto: Sequence, view: View) {
        self.installed = self.installed.max(upto);
        self.installed_view = self.installed_view.max(view);
        self.commit = self.commit.max(upto);
    }

    /// A database that has applied everything through `base` takes the place of the present one.
    pub fn install_snapshot(&mut self, base: Sequence, view: View) {
        assert!(base > self.commit, "a snapshot of {base} is older than the commit point {}", self.commit);
        self.install(base, view);
        self.delivered = base;
        self.applied = base;
    }

    /// Everything up to the commit point was chosen in this view or a lower one.
    pub fn commit_view(&self) -> View {
        self.commit_view.max(self.installed_view)
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

    pub fn deliver(&mut self, to: Sequence, durable_view: View) {
        assert!(to > self.delivered && to <= self.commit, "delivering {to} beyond the commit point {}", self.commit);
        let vouches = to <= self.installed || durable_view >= self.commit_view;
        assert!(vouches, "delivering {to}, known as committed in {}, from the log of {durable_view}", self.commit_view);
        self.delivered = to;
    }

    pub fn apply(&mut self, sequence: Sequence) {
        assert!(sequence <= self.delivered, "applied {sequence} was never delivered");
        // The former database may still report what it applied before a snapshot took its place.
        self.applied = self.applied.max(sequence);
    }
}
