//! The learner: how far the log is known to be chosen, and how far it has been handed out for
//! execution.
//!
//! A commit point learned in view w says something about this replica's log only once that log is
//! w's, or a later view's (rule 5). Until then it is remembered and not acted on. Invariants:
//! `delivered <= commit <= log.last()`, and neither goes back.
//!
//! *Learner* has the meaning of Paxos here. A replica that follows without a vote, which Raft calls
//! a learner, is an observer.

use crate::{Sequence, View};

use super::acceptor::Acceptor;

/// Tracks how far entries are chosen, delivered and applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Learner {
    /// Entries of the log in memory through here are chosen.
    commit: Sequence,
    /// The view in which that was learned, for entries above `installed`.
    commit_view: View,
    /// Entries through here were received as committed, and written as such whatever the log's view
    /// (rule 10).
    installed: Sequence,
    /// Those were chosen in this view or a lower one.
    installed_view: View,
    /// The newest commit point that a primary reported, and its view. It is acted on once the log
    /// is that view's.
    heard: (View, Sequence),
    /// Entries through here were handed to the executor.
    delivered: Sequence,
    /// Entries through here have been executed.
    applied: Sequence,
}

impl Learner {
    /// `applied`: the last entry that the database has applied. All of these were committed, in
    /// views not above `promised`.
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

    /// The commit point: entries of the log in memory through here are chosen.
    pub fn commit(&self) -> Sequence {
        self.commit
    }

    /// Entries through here were handed to the executor.
    pub fn delivered(&self) -> Sequence {
        self.delivered
    }

    /// Entries through here have been executed.
    pub fn applied(&self) -> Sequence {
        self.applied
    }

    /// The primary of `view` said, or the votes of a quorum in it showed, that its log is chosen
    /// through `commit`.
    pub fn observe_commit(&mut self, view: View, commit: Sequence, acceptor: &Acceptor) {
        self.heard = self.heard.max((view, commit));
        self.advance(acceptor);
    }

    /// Acts on the commit point that a primary reported, as far as the log allows by now (rule 5).
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

    /// A database that has applied everything through `base` replaces the present one.
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

    /// Everything through here is known as chosen in this replica's own log, as it is on disk
    /// (rule 5), or came as committed.
    pub fn known(&self, acceptor: &Acceptor) -> Sequence {
        if acceptor.durable().accepted_view >= self.commit_view { self.commit } else { self.installed }
    }

    /// The first and the last of the entries to execute next, as far as rule 5 allows; `None` when
    /// there are none.
    pub fn deliverable(&self, acceptor: &Acceptor) -> Option<(Sequence, Sequence)> {
        let known = self.known(acceptor);
        let to = known.min(acceptor.stable());
        if to < known {
            coverage!("learner.commit_not_durable");
        }
        (to > self.delivered).then(|| (self.delivered.next(), to))
    }

    /// Entries through `to` are handed to the executor. `durable_view`: the view of the log on
    /// disk.
    pub fn deliver(&mut self, to: Sequence, durable_view: View) {
        assert!(to > self.delivered && to <= self.commit, "delivering {to} beyond the commit point {}", self.commit);
        let vouches = to <= self.installed || durable_view >= self.commit_view;
        assert!(vouches, "delivering {to}, known as committed in {}, from the log of {durable_view}", self.commit_view);
        self.delivered = to;
    }

    /// Entries through `sequence` have been executed.
    pub fn apply(&mut self, sequence: Sequence) {
        assert!(sequence <= self.delivered, "applied {sequence} was never delivered");
        // The former database may still report what it applied before a snapshot replaced it.
        self.applied = self.applied.max(sequence);
    }
}
