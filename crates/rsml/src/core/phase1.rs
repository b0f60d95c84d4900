//! Phase 1: a candidate collects promises (1a, 1b), adopts the log that they lead to, and leads.

use bytes::Bytes;

use super::acceptor::Staging;
use super::choice::{Best, Choice, Promised, Source, choose_log, source};
use super::epochs::cut_behind_seal;
use super::progress::Progress;
use super::proposer::{LogEnd, Proposer};
use super::replica::Replica;
use super::view_manager::Campaign;
use super::{LogRead, ReadPurpose, TransferError};
use crate::message::{Fetch, Fetched, LostEntries, Message, Prepare, Promise, Refuse};
use crate::value::Value;
use crate::{DiskId, ReplicaId, Sequence, View};

impl Replica {
    /// Promises `view`. Any lease that this replica granted is over by now, or was given up by the
    /// primary that held it.
    pub(super) fn promise(&mut self, view: View) {
        self.leases.granted = None;
        self.acceptor.promise(view);
    }

    /// The contents of this replica's promise, read from durable state at the moment it is sent.
    fn own_promise(&self) -> Promised {
        Promised {
            accepted_view: self.acceptor.durable().accepted_view,
            last: self.acceptor.durable_last(),
            commit: self.learner.commit(),
            first: self.stored.first,
            lost: self.acceptor.durable_lost().to_vec(),
        }
    }

    /// Sends the 1a of the campaign, and counts the promise of this replica, once that promise is
    /// durable.
    pub(super) fn ask_for_promises(&mut self) {
        let own = self.own_promise();
        let durable = self.acceptor.durable().promised;
        let Some(campaign) = self.views.campaign_mut() else { return };
        if campaign.asked || durable < campaign.view {
            return;
        }
        campaign.asked = true;
        campaign.promises.insert(self.options.me, own);
        let (view, transfer) = (campaign.view.0, campaign.transferred_from.0);
        self.send_all(Message::Prepare(Prepare { view, transfer }));
        self.conclude_phase_1();
    }

    /// Takes a 1a: promises the view, unless this replica has promised more or a lease forbids it.
    pub(super) fn on_prepare(&mut self, from: ReplicaId, message: Prepare) {
        let view = View(message.view);
        self.views.observe_view(view);
        let promised = self.acceptor.promised();
        if view.owner() != Some(from) || !self.may_promise() {
            return;
        }
        if view < promised || (view == promised && self.acceptor.accepted_view() == view) {
            self.send(from, Message::Refuse(Refuse { promised: promised.0 }), Vec::new());
            return;
        }
        if view > promised {
            if self.lease_forbids(from, View(message.transfer)) {
                return;
            }
            self.become_secondary(None);
            self.promise(view);
        }
        self.views.reset_election_timer(self.now);
        self.replies.promise = Some((view, from));
    }

    /// Sends the pending 1b once the promise is durable (rule 3). The log in it is read from
    /// durable state now, when all inputs that waited have been taken and the message leaves: it
    /// covers everything that was on its way to the disk when the 1a came, or was written after it.
    pub(super) fn send_pending_promise(&mut self) {
        let Some((view, to)) = self.replies.promise else { return };
        let durable = *self.acceptor.durable();
        if self.acceptor.promised() != view {
            coverage!("rule3.promise_overtaken");
            self.replies.promise = None;
        } else if durable.promised == view {
            self.replies.promise = None;
            let own = self.own_promise();
            let promise = Promise {
                view: view.0,
                accepted_view: own.accepted_view.0,
                last: own.last.0,
                commit: own.commit.0,
                first: own.first.0,
                lost: own.lost.iter().map(|(from, to)| LostEntries { from: from.0, to: to.0 }).collect(),
            };
            self.send(to, Message::Promise(promise), Vec::new());
        }
    }

    /// Counts a 1b.
    pub(super) fn on_promise(&mut self, from: ReplicaId, message: Promise) {
        let Some(campaign) = self.views.campaign_mut() else { return };
        if campaign.view != View(message.view) || campaign.best.is_some() {
            coverage!("rule3.late_promise");
            return;
        }
        let promised = Promised {
            accepted_view: View(message.accepted_view),
            last: Sequence(message.last),
            commit: Sequence(message.commit),
            first: Sequence(message.first),
            lost: message.lost.iter().map(|lost| (Sequence(lost.from), Sequence(lost.to))).collect(),
        };
        campaign.promises.insert(from, promised);
        self.conclude_phase_1();
    }

    /// A peer has promised more than the view of a message that this replica sent.
    pub(super) fn on_refuse(&mut self, promised: View) {
        self.views.observe_view(promised);
        if promised <= self.acceptor.promised() {
            return;
        }
        if self.views.is_primary() {
            // The peer can follow only a higher view than this primary's. The primary may have lost
            // its quorum to another one without knowing, so it asks for pre-votes like everybody
            // before it stands.
            coverage!("liveness.refused_primary");
            let is_expected = self.has_asked_successor();
            self.become_secondary(None);
            if !is_expected {
                self.start_pre_vote();
            }
        } else if self.views.campaign().is_some() {
            coverage!("liveness.refused_candidate");
            self.become_secondary(None);
            self.views.expire_election_timer_soon(self.now, self.options.heartbeat_us);
        }
    }

    /// With a quorum of promises: adopts the greatest log (rules 2 and 7), and fetches the entries
    /// that are missing here.
    fn conclude_phase_1(&mut self) {
        let (me, voters, commit) = (self.options.me, self.membership.electorate(), self.learner.commit());
        let Some(campaign) = self.views.campaign_mut() else { return };
        if !campaign.promises.contains_key(&me) || campaign.best.is_some() {
            return;
        }
        let best = match choose_log(&campaign.promises, commit, voters) {
            Choice::Adopt(best) => best,
            Choice::Wait => {
                if campaign.promises.len() > voters / 2 {
                    coverage!("rule7.waits_for_more");
                }
                return;
            }
            Choice::Blocked { from, to } => {
                coverage!("rule7.blocked");
                self.blocked = Some((from, to));
                return;
            }
        };
        assert!(best.last >= self.membership.since(), "a log was chosen that lacks entries of the epochs before");
        self.blocked = None;
        campaign.best = Some(best);
        let view = campaign.view;
        let from = self.first_to_fetch(best);
        assert!(from <= best.last.next(), "own committed entries lie beyond the best log of a quorum");
        if from > best.last {
            coverage!("phase1.own_log");
            self.lead(from, Vec::new());
        } else {
            coverage!("phase1.fetches");
            self.acceptor.stage(view, best.last, from, Vec::new());
            self.fetch_more();
        }
    }

    /// Where the log `best` may first differ from the log of this replica.
    fn first_to_fetch(&self, best: Best) -> Sequence {
        if self.acceptor.accepted_view() == best.accepted_view {
            self.acceptor.log().sound_last().min(best.last).next()
        } else {
            self.learner.commit().next()
        }
    }

    /// A candidate asks for entries of this log, which it adopts.
    pub(super) fn on_fetch(&mut self, from: ReplicaId, message: Fetch) {
        let view = View(message.view);
        if view != self.acceptor.promised() || view == self.acceptor.accepted_view() || view.owner() != Some(from) {
            return;
        }
        let log = self.acceptor.log();
        let (first, last) = (Sequence(message.from), log.last());
        if first > last || first < self.stored.first {
            return;
        }
        let max_bytes = self.options.max_message_bytes;
        if first < log.first() {
            let (purpose, to) = (ReadPurpose::Fetch(from), log.first().previous());
            self.outputs.read_log.push(LogRead { purpose, view, from: first, to, max_bytes });
        } else {
            let entries = log.read(first, last, max_bytes);
            self.send_fetched(from, view, first, entries);
        }
    }

    fn send_fetched(&mut self, to: ReplicaId, view: View, from: Sequence, entries: Vec<Bytes>) {
        let accepted_view = self.acceptor.accepted_view().0;
        self.send(to, Message::Fetched(Fetched { view: view.0, accepted_view, from: from.0 }), entries);
    }

    /// Entries that a candidate asked for were read from storage.
    pub(super) fn fetch_read(&mut self, peer: ReplicaId, read: LogRead, entries: Vec<Bytes>) {
        if read.view == self.acceptor.promised() && read.view != self.acceptor.accepted_view() && !entries.is_empty() {
            self.send_fetched(peer, read.view, read.from, entries);
        }
    }

    /// Stages entries of the log that is being adopted.
    pub(super) fn on_fetched(&mut self, from: ReplicaId, message: Fetched, entries: Vec<Bytes>) {
        let Some(campaign) = self.views.campaign() else { return };
        let view = View(message.view);
        if campaign.view != view || campaign.source != Some(from) {
            return;
        }
        let (Some(best), Some(promised)) = (campaign.best, campaign.promises.get(&from)) else { return };
        // Only entries that the sender reported in its promise belong to the log to adopt.
        let end = match promised.accepted_view {
            accepted_view if accepted_view != View(message.accepted_view) => return,
            accepted_view if accepted_view == best.accepted_view => promised.last.min(best.last),
            _ => promised.commit.min(best.last),
        };
        let committed = campaign.promises.values().map(|p| p.commit).max().unwrap_or(Sequence::ZERO);
        let first = Sequence(message.from);
        let room = (end.0 + 1).saturating_sub(first.0) as usize;
        let entries = entries.into_iter().take(room).collect();
        let before = self.acceptor.staging().map(Staging::last);
        if !self.acceptor.stage(view, best.last, first, entries) {
            return;
        }
        let staged = self.acceptor.staging().expect("it was staged just now").last();
        if Some(staged) == before {
            // A repetition. If it were answered, each message delivered twice would double all the
            // following ones.
            return;
        }
        self.views.start_election_timer(self.now);
        self.install_staged(committed.min(staged), view);
        self.fetch_more();
    }

    /// Continues with the entries that follow the staged ones: asks a replica that has them, or
    /// leads when none is missing.
    fn fetch_more(&mut self) {
        loop {
            let Some(campaign) = self.views.campaign_mut() else { return };
            let (Some(best), Some(staging)) = (campaign.best, self.acceptor.staging()) else { return };
            let next = staging.last().next();
            if next > best.last {
                let staging = self.acceptor.take_staging().expect("it was there");
                return self.lead(staging.from, staging.entries);
            }
            let view = campaign.view;
            match source(&campaign.promises, best, next, campaign.source) {
                Some(Source::Log(from, end)) if from == self.options.me => {
                    if !self.stage_own(view, best, next, end) {
                        return;
                    }
                }
                Some(Source::Log(from, _)) => {
                    campaign.source = Some(from);
                    campaign.fetched = self.now;
                    return self.send(from, Message::Fetch(Fetch { view: view.0, from: next.0 }), Vec::new());
                }
                Some(Source::Database(from, through)) => {
                    self.become_secondary(None);
                    return self.want_snapshot(through, Some(from));
                }
                None => unreachable!("a log was chosen in which entry {next} that nobody can supply"),
            }
        }
    }

    /// Stages entries of this replica's log, where it agrees with the one being adopted.
    fn stage_own(&mut self, view: View, best: Best, from: Sequence, end: Sequence) -> bool {
        let entries = self.acceptor.log().read(from, end, usize::MAX);
        assert!(!entries.is_empty(), "entry {from} was promised and is not held");
        self.acceptor.stage(view, best.last, from, entries)
    }

    /// Asks again when the question or its answer seems lost.
    pub(super) fn retry_fetch(&mut self) {
        let Some(campaign) = self.views.campaign() else { return };
        if campaign.best.is_some() && self.now.since_us(campaign.fetched) >= self.options.retry_us {
            coverage!("phase1.fetch_repeated");
            self.fetch_more();
        }
    }

    /// Phase 1 is done: the log becomes this view's, with `entries` from `from` on and a no-op of
    /// the view's own.
    fn lead(&mut self, from: Sequence, entries: Vec<Bytes>) {
        let campaign = self.views.lead(self.options.me);
        let best = campaign.best.expect("the log was chosen");
        let view = campaign.view;
        let end = self.log_end(from, &entries);
        let mut proposer = Proposer::new(view, best.last, best.accepted_view, end, self.now);
        let mut entries = entries;
        let next = self.epoch().next();
        let is_sealed = self.acceptor.sealed().is_some_and(|seal| seal < from) || cut_behind_seal(&mut entries, next);
        if is_sealed {
            // Nothing follows the seal (rule M2): it is chosen once a quorum holds it in this view.
            coverage!("epochs.seal_adopted");
        } else {
            entries.push(self.first_value(&mut proposer, best.last).to_bytes());
        }
        self.acceptor.adopt(view, best.last, self.learner.commit(), from, entries);
        let last = if is_sealed { best.last } else { best.last.next() };
        assert_eq!(self.acceptor.log().last(), last, "the adopted log ends elsewhere than it was promised");
        let committed = campaign.promises.values().map(|p| p.commit).max().unwrap_or(Sequence::ZERO);
        self.learner.observe_commit(view, committed, &self.acceptor);
        for peer in self.membership.peers() {
            if let Some(disk) = self.membership.voting_disk(peer) {
                proposer.peers.insert(peer, self.first_progress(&campaign, best, peer, disk));
            }
        }
        self.proposer = Some(Box::new(proposer));
        if let Some(to) = self.transfer_target() {
            self.end_transfer(Err(TransferError::TimedOut(to)));
        }
        self.counters.view_changes += 1;
        self.reads.restart();
    }

    /// Where to begin with a peer: right after the part of its log that agrees according to its
    /// promise, or with a probe.
    fn first_progress(&self, campaign: &Campaign, best: Best, peer: ReplicaId, disk: DiskId) -> Progress {
        match campaign.promises.get(&peer) {
            Some(p) if p.accepted_view == best.accepted_view => {
                let sound = p.lost.first().map_or(p.last, |(from, _)| from.previous());
                Progress::streaming(disk, sound.min(best.last).next(), p.accepted_view, self.now)
            }
            Some(p) => Progress::streaming(disk, p.commit.next(), View::BIRTH, self.now),
            None => Progress::probing(disk, self.acceptor.log().last().next(), self.now),
        }
    }

    /// The state as it will be once the whole log, with `entries` from `from` on, is applied.
    fn log_end(&self, from: Sequence, entries: &[Bytes]) -> LogEnd {
        let mut sessions = self.applied.sessions.clone();
        let mut time_us = self.applied.time_us;
        let mut level = self.applied.level;
        let log = self.acceptor.log();
        let kept = log.read(self.learner.applied().next().max(log.first()), from.previous(), usize::MAX);
        for entry in kept.iter().chain(entries) {
            let value = Value::from_bytes(entry.clone());
            time_us = time_us.max(value.time_us);
            level = value.level_after(level);
            value.advance_sessions(&mut sessions, |_, _, _, _| {});
        }
        LogEnd { sessions, time_us, level }
    }
}
