//! A secondary: appends the primary's entries (2a), and reports how far its log is durable (2b).

use bytes::Bytes;

use super::acceptor::Staging;
use super::epochs::cut_behind_seal;
use super::replica::Replica;
use crate::message::{Accept, Accepted, Message, Refuse};
use crate::value::sealed_epoch;
use crate::{ReplicaId, Sequence, View};

/// The next answer to the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    /// The view whose primary gets the answer.
    view: View,
    /// The newest read round that the primary asked to confirm.
    read_round: u64,
    /// The newest log-end probe.
    probe: u64,
    /// Whether entries arrived that do not continue this log; they were dropped.
    gap: bool,
    /// Whether to answer even if nothing new is durable.
    pub due: bool,
    /// When the newest lease granted in this view was asked for, on the primary's clock.
    lease_from_us: u64,
    /// The last report: the durable accepted view, the last entry that is durable, and the last one
    /// acknowledged.
    last_sent: (View, Sequence, Sequence),
}

impl Replica {
    /// Takes a 2a or a heartbeat of the primary.
    pub(super) fn on_accept(&mut self, from: ReplicaId, message: Accept, entries: Vec<Bytes>) {
        let view = View(message.view);
        self.views.observe_view(view);
        if view.owner() != Some(from) {
            return;
        }
        if view < self.acceptor.promised() {
            let promised = self.acceptor.promised().0;
            self.send(from, Message::Refuse(Refuse { promised }), Vec::new());
            return;
        }
        self.follow(view, from);
        let mut entries = entries;
        cut_behind_seal(&mut entries, self.epoch().next());
        let fits = if self.acceptor.accepted_view() == view {
            self.extend(view, Sequence(message.from), entries)
        } else {
            self.synchronise(view, &message, entries)
        };
        // With a seal in the log, no lease is granted and no read round confirmed that comes from
        // now on (rule M8): not even one that comes with the seal.
        let is_sealed = self.is_sealed();
        let (lease_from_us, read_round) =
            if is_sealed { (0, 0) } else { (self.grant_lease(&message), message.read_round) };
        let answer = &mut self.replies.answer;
        answer.due |= message.answer || read_round > answer.read_round || message.probe > answer.probe || !fits;
        answer.read_round = answer.read_round.max(read_round);
        answer.probe = answer.probe.max(message.probe);
        answer.lease_from_us = answer.lease_from_us.max(lease_from_us);
        answer.gap |= !fits;
        self.learner.observe_commit(view, Sequence(message.commit), &self.acceptor);
        self.observe_freshness(Sequence(message.commit));
    }

    fn follow(&mut self, view: View, primary: ReplicaId) {
        if view > self.acceptor.promised() {
            self.promise(view);
        }
        if self.replies.answer.view != view {
            self.replies.answer = Answer { view, due: true, ..Answer::default() };
        }
        if !self.views.is_secondary() || self.views.primary() != Some(primary) {
            self.become_secondary(Some(primary));
        }
        self.views.reset_election_timer(self.now);
    }

    /// The log is this view's: entries that follow its end are appended, and lost entries are
    /// repaired. False when there would be a hole (rule 1).
    fn extend(&mut self, view: View, from: Sequence, entries: Vec<Bytes>) -> bool {
        let next = self.acceptor.log().sound_last().next();
        if from > next {
            coverage!("rule1.gap");
            return false;
        }
        let known = (next.0 - from.0) as usize;
        let mut fresh: Vec<Bytes> = entries.into_iter().skip(known).collect();
        if self.acceptor.log().first_hole().is_some() {
            let within = (self.acceptor.log().last().0 + 1 - next.0) as usize;
            let beyond = fresh.split_off(within.min(fresh.len()));
            self.acceptor.repair(view, next, fresh);
            if self.acceptor.log().first_hole().is_some() {
                return beyond.is_empty();
            }
            fresh = beyond;
        }
        if fresh.is_empty() {
            return true;
        }
        if self.is_sealed() {
            coverage!("epochs.refused_behind_seal");
            return true;
        }
        self.acceptor.append(view, fresh);
        true
    }

    /// The log is another view's: entries are staged until the view's log may be adopted (rule 2).
    fn synchronise(&mut self, view: View, message: &Accept, entries: Vec<Bytes>) -> bool {
        let commit = self.learner.commit();
        let from = Sequence(message.from);
        let agrees = View(message.agreed_view) == self.acceptor.accepted_view()
            && from <= self.acceptor.log().sound_last().next();
        let follows = self.acceptor.staging().is_some_and(|s| s.view == view && from <= s.last().next());
        if !(from <= commit.next() || agrees || follows) {
            return false;
        }
        let committed = (commit.next().0).saturating_sub(from.0) as usize;
        let entries = entries.into_iter().skip(committed).collect();
        let adopted = Sequence(message.adopted);
        let is_sealed = |staged: &Staging| {
            staged.view == view && staged.entries.last().and_then(sealed_epoch) == Some(self.epoch().next())
        };
        let entries = if self.acceptor.staging().is_some_and(is_sealed) { Vec::new() } else { entries };
        if !self.acceptor.stage(view, adopted, from.max(commit.next()), entries) {
            return false;
        }
        let staged = self.acceptor.staging().expect("it was staged just now");
        if commit > adopted {
            coverage!("rule2.commit_beyond_adopted");
        }
        if staged.last() >= adopted.max(commit) {
            let staging = self.acceptor.take_staging().expect("it was there");
            self.acceptor.adopt(view, adopted, commit, staging.from, staging.entries);
            self.counters.view_changes += 1;
        } else {
            coverage!("rule2.staged");
            self.install_staged(Sequence(message.commit), view);
        }
        true
    }

    /// Writes the committed part of the staged entries into the log once staging takes too much
    /// memory: below L_v this leaves the accepted view and the log's tail as they are (rule 10).
    /// `view`: the one in which the commit point was learned. A tail in which entries are lost
    /// cannot be written again, so everything stays staged in that case.
    pub(super) fn install_staged(&mut self, commit: Sequence, view: View) {
        let Some(staged) = self.acceptor.staging() else { return };
        let upto = commit.min(staged.last());
        let is_small = staged.bytes <= self.options.stage_bytes;
        if is_small || upto < staged.from || self.acceptor.log().first_hole().is_some() {
            return;
        }
        coverage!("rule10.committed_part_installed");
        let mut staging = self.acceptor.take_staging().expect("it was there");
        let commit = self.learner.commit();
        let count = (upto.0 + 1 - staging.from.0) as usize;
        let rest = staging.entries.split_off(count);
        let staged = std::mem::replace(&mut staging.entries, rest);
        // Staging may begin above the commit point, where the log below agrees: that part is
        // committed as well.
        let log = self.acceptor.log();
        let mut installed = log.read(commit.next().max(log.first()), staging.from.previous(), usize::MAX);
        installed.extend(staged);
        self.acceptor.install_committed(commit, commit.next(), installed);
        self.learner.install(upto, view);
        staging.from = upto.next();
        staging.bytes = staging.entries.iter().map(Bytes::len).sum();
        self.acceptor.restore_staging(staging);
    }

    /// Reports to the primary what is durable, when that has changed or was asked for.
    pub(super) fn answer_primary(&mut self) {
        let view = self.acceptor.promised();
        let Some(primary) = self.views.primary().filter(|p| view.owner() == Some(*p) && *p != self.options.me) else {
            return;
        };
        let durable = *self.acceptor.durable();
        if self.replies.answer.view != view || durable.promised < view {
            return;
        }
        let acknowledged = self.acknowledged();
        let answer = &mut self.replies.answer;
        let state = (durable.accepted_view, self.acceptor.durable_sound_last(), acknowledged);
        if !answer.due && answer.last_sent == state {
            return;
        }
        answer.last_sent = state;
        answer.due = false;
        let end = self.acceptor.staging().map_or(self.acceptor.log().sound_last(), |s| s.last());
        let accepted = Accepted {
            view: view.0,
            durable_view: durable.accepted_view.0,
            durable_last: self.acceptor.durable_sound_last().0,
            commit: self.learner.commit().0,
            memory_view: self.acceptor.accepted_view().0,
            expected: end.next().0,
            acknowledged: acknowledged.0,
            read_round: answer.read_round,
            probe: answer.probe,
            gap: std::mem::take(&mut answer.gap),
            lease_from_us: answer.lease_from_us,
            highest_level: self.options.levels.highest.to_field(),
        };
        self.send(primary, Message::Accepted(accepted), Vec::new());
    }

    /// The last sequence through which no received entry waits for the disk. Staged entries count
    /// as not waiting, since staging has a bound of its own.
    fn acknowledged(&self) -> Sequence {
        // While the log is repaired, entries that were taken wait for missing entries, not for the
        // disk.
        let stable = match self.acceptor.is_repairing() {
            true => self.acceptor.log().sound_last(),
            false => self.acceptor.stable(),
        };
        match self.acceptor.staging() {
            Some(staged) if stable >= staged.from.previous() => staged.last().max(stable),
            _ => stable,
        }
    }

    /// Ends the current role. `primary`: the replica to follow, if it is known.
    pub(super) fn become_secondary(&mut self, primary: Option<ReplicaId>) {
        self.proposer = None;
        if self.views.follow(primary) {
            self.reads.restart();
        }
        match primary {
            Some(primary) => {
                // A replica leads only with every entry of its log, so none is missing any more.
                self.blocked = None;
                self.end_transfer(Ok(primary));
            }
            None => self.requests.forget_target(),
        }
        self.views.start_election_timer(self.now);
    }

    /// The connection to `peer` ended, which may have lost messages, and may mean that the peer is
    /// dead.
    pub(super) fn lost_connection(&mut self, peer: ReplicaId) {
        if let Some(proposer) = &mut self.proposer {
            if let Some(progress) = proposer.peers.get_mut(&peer) {
                progress.ask_log_end(self.now);
            }
        } else if self.views.primary() == Some(peer) {
            coverage!("liveness.connection_hint");
            self.requests.resend(0, self.now);
            self.reads.restart();
            self.views.expire_election_timer_soon(self.now, self.options.heartbeat_us);
        }
    }
}
