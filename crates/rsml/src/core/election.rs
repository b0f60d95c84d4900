//! Changing the primary: pre-vote, phase 1, and adopting the log that phase 1 found.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::acceptor::Staging;
use super::proposer::{Progress, Proposer};
use super::replica::Replica;
use super::view_manager::{Campaign, Promised, Role};
use super::{LogRead, Refusal};
use crate::message::{Fetch, Fetched, Message, PreVote, PreVoteReply, Prepare, Promise, Refuse};
use crate::value::{Sessions, Value};
use crate::{Boot, DiskId, ReplicaId, Sequence, View};

impl Replica {
    pub(super) fn start_pre_vote(&mut self) {
        self.views.wait(self.now);
        if !self.is_voter() {
            return;
        }
        self.views.round += 1;
        let round = self.views.round;
        self.views.role = Role::PreVoting { round, granted: BTreeSet::from([self.options.me]) };
        let view = self.next_view().0;
        self.send_all(Message::PreVote(PreVote { view, round }));
        self.count_pre_votes();
    }

    fn next_view(&self) -> View {
        self.views.highest_seen.max(self.acceptor.promised()).next_owned_by(self.options.me)
    }

    /// Grants unless a primary (other than the asker) was heard lately, or this replica leads or is about to: two that
    /// grant each other what they are doing themselves interrupt each other for as long as their disks are slow.
    pub(super) fn on_pre_vote(&mut self, from: ReplicaId, message: PreVote) {
        let is_busy = matches!(self.views.role, Role::Primary(_) | Role::Preparing(_));
        let is_asker_primary = self.views.primary == Some(from);
        let granted = self.is_voter() && !is_busy && (is_asker_primary || self.now >= self.views.quiet_until);
        if !granted {
            coverage!("liveness.pre_vote_denied");
        }
        let promised = self.acceptor.promised().0;
        self.send(from, Message::PreVoteReply(PreVoteReply { round: message.round, granted, promised }), Vec::new());
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: ReplicaId, message: PreVoteReply) {
        self.views.see(View(message.promised));
        let Role::PreVoting { round, granted } = &mut self.views.role else { return };
        if message.granted && message.round == *round {
            granted.insert(from);
            self.count_pre_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        if matches!(&self.views.role, Role::PreVoting { granted, .. } if granted.len() >= self.quorum()) {
            self.start_campaign();
        }
    }

    /// Phase 1: promises the new view itself; the 1a leaves once that is durable.
    pub(super) fn start_campaign(&mut self) {
        let view = self.next_view();
        self.views.see(view);
        self.become_secondary(None);
        self.acceptor.promise(view);
        let promises = BTreeMap::new();
        self.views.role = Role::Preparing(Campaign { view, promises, asked: false, source: None, fetched: self.now });
        self.views.wait(self.now);
    }

    /// Sends the 1a of the campaign, and counts the own promise, once it is durable.
    pub(super) fn ask_for_promises(&mut self) {
        let durable = *self.acceptor.durable();
        let own = Promised {
            accepted_view: durable.accepted_view,
            last: self.acceptor.durable_last(),
            commit: self.learner.commit(),
            first: self.first_stored,
        };
        let Role::Preparing(campaign) = &mut self.views.role else { return };
        if campaign.asked || durable.promised < campaign.view {
            return;
        }
        campaign.asked = true;
        campaign.promises.insert(self.options.me, own);
        let view = campaign.view.0;
        self.send_all(Message::Prepare(Prepare { view }));
        self.conclude_phase_1();
    }

    pub(super) fn on_prepare(&mut self, from: ReplicaId, view: View) {
        self.views.see(view);
        let promised = self.acceptor.promised();
        if view.owner() != Some(from) || !self.is_voter() {
            return;
        }
        if view < promised || (view == promised && self.acceptor.accepted_view() == view) {
            self.send(from, Message::Refuse(Refuse { promised: promised.0 }), Vec::new());
            return;
        }
        if view > promised {
            self.become_secondary(None);
            self.acceptor.promise(view);
        }
        self.views.hush(self.now);
        self.owed_promise = Some((view, from));
        self.pay_promise();
    }

    /// Sends the 1b that is owed, once the promise is durable. The log in it is read from durable state now: entries of
    /// lower views that were on their way to the disk when the 1a came are part of it.
    pub(super) fn pay_promise(&mut self) {
        let Some((view, to)) = self.owed_promise else { return };
        let durable = *self.acceptor.durable();
        if self.acceptor.promised() != view {
            coverage!("rule3.promise_overtaken");
            self.owed_promise = None;
        } else if durable.promised == view {
            self.owed_promise = None;
            let promise = Promise {
                view: view.0,
                accepted_view: durable.accepted_view.0,
                last: self.acceptor.durable_last().0,
                commit: self.learner.commit().0,
                first: self.first_stored.0,
            };
            self.send(to, Message::Promise(promise), Vec::new());
        }
    }

    pub(super) fn on_promise(&mut self, from: ReplicaId, message: Promise) {
        let Role::Preparing(campaign) = &mut self.views.role else { return };
        if campaign.view != View(message.view) || campaign.source.is_some() {
            coverage!("rule3.late_promise");
            return;
        }
        let promised = Promised {
            accepted_view: View(message.accepted_view),
            last: Sequence(message.last),
            commit: Sequence(message.commit),
            first: Sequence(message.first),
        };
        campaign.promises.insert(from, promised);
        self.conclude_phase_1();
    }

    pub(super) fn on_refuse(&mut self, promised: View) {
        self.views.see(promised);
        if promised <= self.acceptor.promised() {
            return;
        }
        match &self.views.role {
            // A peer has promised more than this primary's view: it can only follow a higher one. The primary may have
            // lost its quorum to another without knowing, so it asks like everybody before it stands.
            Role::Primary(_) => {
                coverage!("liveness.refused_primary");
                self.become_secondary(None);
                self.start_pre_vote();
            }
            Role::Preparing(_) => {
                coverage!("liveness.refused_candidate");
                self.become_secondary(None);
                self.views.suspect(self.now, self.options.heartbeat_us);
            }
            _ => {}
        }
    }

    /// With a quorum of promises: adopts the greatest log, by (accepted view, length), fetching what is missing.
    fn conclude_phase_1(&mut self) {
        let quorum = self.quorum();
        let me = self.options.me;
        let Role::Preparing(campaign) = &mut self.views.role else { return };
        if campaign.promises.len() < quorum || !campaign.promises.contains_key(&me) || campaign.source.is_some() {
            return;
        }
        let (source, best) = best_log(&campaign.promises, me);
        campaign.source = Some(source);
        let view = campaign.view;
        let from = self.first_to_fetch(&best);
        assert!(from <= best.last.next(), "own committed entries lie beyond the best log of a quorum");
        assert!(source == me || from >= best.first, "entry {from} is needed, replica {source} holds {} on", best.first);
        if source == me || from > best.last {
            coverage!("phase1.own_log");
            self.lead(from, Vec::new());
        } else {
            coverage!("phase1.fetches");
            self.acceptor.stage(view, best.last, from, Vec::new());
            self.fetch_more();
        }
    }

    /// Where the log `best` may first differ from the own one.
    fn first_to_fetch(&self, best: &Promised) -> Sequence {
        if self.acceptor.accepted_view() == best.accepted_view {
            self.acceptor.log().last().min(best.last).next()
        } else {
            self.learner.commit().next()
        }
    }

    pub(super) fn on_fetch(&mut self, from: ReplicaId, message: Fetch) {
        let view = View(message.view);
        if view != self.acceptor.promised() || view == self.acceptor.accepted_view() || view.owner() != Some(from) {
            return;
        }
        let log = self.acceptor.log();
        let (first, last) = (Sequence(message.from), log.last());
        if first > last {
            return;
        }
        let max_bytes = self.options.max_message_bytes;
        if first < log.first() {
            let to = log.first().previous();
            self.outputs.read_log.push(LogRead { peer: from, view, fetch: true, from: first, to, max_bytes });
        } else {
            let entries = log.read(first, last, max_bytes);
            self.send_fetched(from, view, first, entries);
        }
    }

    fn send_fetched(&mut self, to: ReplicaId, view: View, from: Sequence, entries: Vec<Bytes>) {
        let accepted_view = self.acceptor.accepted_view().0;
        self.send(to, Message::Fetched(Fetched { view: view.0, accepted_view, from: from.0 }), entries);
    }

    pub(super) fn fetch_read(&mut self, read: LogRead, entries: Vec<Bytes>) {
        if read.view == self.acceptor.promised() && read.view != self.acceptor.accepted_view() {
            self.send_fetched(read.peer, read.view, read.from, entries);
        }
    }

    pub(super) fn on_fetched(&mut self, from: ReplicaId, message: Fetched, entries: Vec<Bytes>) {
        let Role::Preparing(campaign) = &self.views.role else { return };
        let view = View(message.view);
        let best = campaign.promises.get(&from).copied();
        let Some(best) = best.filter(|b| b.accepted_view == View(message.accepted_view)) else { return };
        if campaign.view != view || campaign.source != Some(from) {
            return;
        }
        let first = Sequence(message.from);
        let room = (best.last.0 + 1).saturating_sub(first.0) as usize;
        let entries = entries.into_iter().take(room).collect();
        let before = self.acceptor.staging().map(Staging::last);
        if !self.acceptor.stage(view, best.last, first, entries) {
            return;
        }
        let staged = self.acceptor.staging().expect("it was staged just now").last();
        if Some(staged) == before {
            // A repetition: were it answered, every message delivered twice would double all that follow.
            return;
        }
        self.views.wait(self.now);
        self.install_staged(best.commit);
        if staged >= best.last {
            let staging = self.acceptor.take_staging().expect("it was there");
            self.lead(staging.from, staging.entries);
        } else {
            self.fetch_more();
        }
    }

    /// Asks the source of the log that is being adopted for what follows the entries staged.
    fn fetch_more(&mut self) {
        let (now, next) = (self.now, self.acceptor.staging().map(|staged| staged.last().next()));
        let Role::Preparing(campaign) = &mut self.views.role else { return };
        let (Some(source), Some(next)) = (campaign.source, next) else { return };
        campaign.fetched = now;
        let view = campaign.view.0;
        self.send(source, Message::Fetch(Fetch { view, from: next.0 }), Vec::new());
    }

    /// Asks again when question or answer seem lost.
    pub(super) fn retry_fetch(&mut self) {
        let Role::Preparing(campaign) = &self.views.role else { return };
        if campaign.source.is_some() && self.now.since_us(campaign.fetched) >= self.options.retry_us {
            coverage!("phase1.fetch_repeated");
            self.fetch_more();
        }
    }

    /// Phase 1 is done: the log becomes this view's, with `entries` from `from` on and a no-op of the view's own.
    fn lead(&mut self, from: Sequence, entries: Vec<Bytes>) {
        let role = std::mem::replace(&mut self.views.role, Role::Secondary);
        let Role::Preparing(campaign) = role else { unreachable!("only a campaign ends in leading") };
        let (_, best) = best_log(&campaign.promises, self.options.me);
        let view = campaign.view;
        let (sessions, time_us) = self.log_end_state(from, &entries);
        let mut proposer = Proposer::new(view, best.last, best.accepted_view, sessions, time_us, self.now);
        let no_op = proposer.value(self.now, Vec::new()).to_bytes();
        let mut entries = entries;
        entries.push(no_op);
        self.acceptor.adopt(view, best.last, self.learner.commit(), from, entries);
        assert_eq!(self.acceptor.log().last(), best.last.next(), "the adopted log ends elsewhere than it was promised");
        let committed = campaign.promises.values().map(|p| p.commit).max().unwrap_or(Sequence::ZERO);
        self.learner.hear(view, committed, &self.acceptor);
        for peer in self.peers() {
            if self.configuration.disks.contains_key(&peer) {
                proposer.peers.insert(peer, self.first_progress(&campaign, &best, peer));
            }
        }
        self.views.role = Role::Primary(Box::new(proposer));
        self.views.primary = Some(self.options.me);
        self.counters.view_changes += 1;
        self.reads.restart();
    }

    /// Where to begin with a peer: right after what its promise shows to agree, or by asking.
    fn first_progress(&self, campaign: &Campaign, best: &Promised, peer: ReplicaId) -> Progress {
        match campaign.promises.get(&peer) {
            Some(p) if p.accepted_view == best.accepted_view => {
                Progress::new(p.last.min(best.last).next(), p.accepted_view, false, self.now)
            }
            Some(p) => Progress::new(p.commit.next(), View::BIRTH, false, self.now),
            None => Progress::new(self.acceptor.log().last().next(), View::BIRTH, true, self.now),
        }
    }

    /// Sessions and time as they will be once the whole log, with `entries` from `from` on, is applied.
    fn log_end_state(&self, from: Sequence, entries: &[Bytes]) -> (Sessions, u64) {
        let mut sessions = self.applied_sessions.clone();
        let mut time_us = self.applied_time_us;
        let log = self.acceptor.log();
        let kept = log.read(self.learner.applied().next().max(log.first()), from.previous(), usize::MAX);
        for entry in kept.iter().chain(entries) {
            let value = Value::from_bytes(entry.clone());
            time_us = time_us.max(value.time_us);
            for batch in &value.batches {
                let session = sessions.entry(DiskId(batch.disk_id.into())).or_default();
                for number in batch.first..batch.first + batch.payloads.len() as u64 {
                    session.admit(Boot(batch.boot), number);
                }
            }
        }
        (sessions, time_us)
    }

    /// Ends whatever role there was. `primary`: whom to follow, if known.
    pub(super) fn become_secondary(&mut self, primary: Option<ReplicaId>) {
        self.views.role = Role::Secondary;
        if self.views.primary != primary {
            self.views.primary = primary;
            self.reads.restart();
        }
        if primary.is_none() {
            self.requests.forget_target();
        }
        self.views.wait(self.now);
    }

    pub(super) fn lost_connection(&mut self, peer: ReplicaId) {
        if let Role::Primary(proposer) = &mut self.views.role {
            if let Some(progress) = proposer.peers.get_mut(&peer) {
                progress.ask_end(self.now);
            }
        } else if self.views.primary == Some(peer) {
            coverage!("liveness.connection_hint");
            self.requests.resend(0, self.now);
            self.reads.restart();
            self.views.suspect(self.now, self.options.heartbeat_us);
        }
    }

    pub(super) fn propose(&mut self, id: super::RequestId, payload: Bytes) {
        if self.requests.bytes() + payload.len() > self.options.max_request_bytes {
            coverage!("requests.overloaded");
            self.outputs.refused.push((id, Refusal::Overloaded));
        } else {
            self.requests.push(id, payload);
        }
    }
}

/// Rule 2: the greatest (accepted view, length); among equals the own one, which needs no fetching.
fn best_log(promises: &BTreeMap<ReplicaId, Promised>, me: ReplicaId) -> (ReplicaId, Promised) {
    let key = |(id, p): &(&ReplicaId, &Promised)| (p.accepted_view, p.last, **id == me);
    let best = promises.iter().max_by_key(key).expect("a quorum is not empty");
    (*best.0, *best.1)
}
