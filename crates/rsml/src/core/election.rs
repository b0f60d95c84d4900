//! Changing the primary: pre-vote, phase 1, and adopting the log that phase 1 found.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::acceptor::Staging;
use super::choice::{Best, Choice, Promised, Source, choose_log, source};
use super::proposer::{Progress, Proposer};
use super::replica::Replica;
use super::view_manager::{Campaign, Role};
use super::{LogRead, ReadPurpose, Refusal, TransferError};
use crate::message::{Fetch, Fetched, LostEntries, Message, PreVote, PreVoteReply, Prepare, Promise, Refuse};
use crate::value::{Sessions, Value};
use crate::{Boot, DiskId, ReplicaId, Sequence, View};

impl Replica {
    pub(super) fn start_pre_vote(&mut self) {
        self.views.wait(self.now);
        if !self.may_stand() {
            return;
        }
        if self.lease_forbids(self.options.me, View::BIRTH) {
            let over = self.granted.map_or(self.now, |grant| grant.until);
            self.views.suspect(over, self.options.heartbeat_us);
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
        let is_quiet = self.now < self.views.quiet_until || self.lease_forbids(from, View::BIRTH);
        let granted = self.is_voter() && !is_busy && (is_asker_primary || !is_quiet);
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
            self.start_campaign(View::BIRTH);
        }
    }

    /// Phase 1: promises the new view itself; the 1a leaves once that is durable. `handed_over`: the view whose primary
    /// wants it so.
    pub(super) fn start_campaign(&mut self, handed_over: View) {
        self.become_secondary(None);
        if self.lease_forbids(self.options.me, handed_over) {
            return;
        }
        let view = self.next_view();
        self.views.see(view);
        self.promise(view);
        let (promises, fetched) = (BTreeMap::new(), self.now);
        let campaign = Campaign { view, handed_over, promises, asked: false, best: None, source: None, fetched };
        self.views.role = Role::Preparing(campaign);
        self.views.wait(self.now);
    }

    /// Whatever lease was granted is over by now, or was given up by its holder.
    pub(super) fn promise(&mut self, view: View) {
        self.granted = None;
        self.acceptor.promise(view);
    }

    /// What this replica's promise tells: read from durable state, at the moment it is told.
    fn own_promise(&self) -> Promised {
        Promised {
            accepted_view: self.acceptor.durable().accepted_view,
            last: self.acceptor.durable_last(),
            commit: self.learner.commit(),
            first: self.first_stored,
            lost: self.acceptor.durable_lost().to_vec(),
        }
    }

    /// Sends the 1a of the campaign, and counts the own promise, once it is durable.
    pub(super) fn ask_for_promises(&mut self) {
        let own = self.own_promise();
        let durable = self.acceptor.durable().promised;
        let Role::Preparing(campaign) = &mut self.views.role else { return };
        if campaign.asked || durable < campaign.view {
            return;
        }
        campaign.asked = true;
        campaign.promises.insert(self.options.me, own);
        let (view, transfer) = (campaign.view.0, campaign.handed_over.0);
        self.send_all(Message::Prepare(Prepare { view, transfer }));
        self.conclude_phase_1();
    }

    pub(super) fn on_prepare(&mut self, from: ReplicaId, message: Prepare) {
        let view = View(message.view);
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
            if self.lease_forbids(from, View(message.transfer)) {
                return;
            }
            self.become_secondary(None);
            self.promise(view);
        }
        self.views.hush(self.now);
        self.owed_promise = Some((view, from));
    }

    /// Sends the 1b that is owed, once the promise is durable. The log in it is read from durable state now, when all
    /// inputs that waited have been taken and the message leaves: whatever was on its way to the disk when the 1a came, or
    /// was given after it, is part of it.
    pub(super) fn pay_promise(&mut self) {
        let Some((view, to)) = self.owed_promise else { return };
        let durable = *self.acceptor.durable();
        if self.acceptor.promised() != view {
            coverage!("rule3.promise_overtaken");
            self.owed_promise = None;
        } else if durable.promised == view {
            self.owed_promise = None;
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

    pub(super) fn on_promise(&mut self, from: ReplicaId, message: Promise) {
        let Role::Preparing(campaign) = &mut self.views.role else { return };
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
                let is_expected = self.has_asked_successor();
                self.become_secondary(None);
                if !is_expected {
                    self.start_pre_vote();
                }
            }
            Role::Preparing(_) => {
                coverage!("liveness.refused_candidate");
                self.become_secondary(None);
                self.views.suspect(self.now, self.options.heartbeat_us);
            }
            _ => {}
        }
    }

    /// With a quorum of promises: adopts the greatest log, fetching what is missing.
    fn conclude_phase_1(&mut self) {
        let (me, voters, commit) = (self.options.me, self.membership.electorate(), self.learner.commit());
        let Role::Preparing(campaign) = &mut self.views.role else { return };
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

    /// Where the log `best` may first differ from the own one.
    fn first_to_fetch(&self, best: Best) -> Sequence {
        if self.acceptor.accepted_view() == best.accepted_view {
            self.acceptor.log().sound_last().min(best.last).next()
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
        if first > last || first < self.first_stored {
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

    pub(super) fn fetch_read(&mut self, peer: ReplicaId, read: LogRead, entries: Vec<Bytes>) {
        if read.view == self.acceptor.promised() && read.view != self.acceptor.accepted_view() && !entries.is_empty() {
            self.send_fetched(peer, read.view, read.from, entries);
        }
    }

    pub(super) fn on_fetched(&mut self, from: ReplicaId, message: Fetched, entries: Vec<Bytes>) {
        let Role::Preparing(campaign) = &self.views.role else { return };
        let view = View(message.view);
        if campaign.view != view || campaign.source != Some(from) {
            return;
        }
        let (Some(best), Some(promised)) = (campaign.best, campaign.promises.get(&from)) else { return };
        // What it holds was promised; only that is of the log to adopt.
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
            // A repetition: were it answered, every message delivered twice would double all that follow.
            return;
        }
        self.views.wait(self.now);
        self.install_staged(committed.min(staged), view);
        self.fetch_more();
    }

    /// Goes on with the entries that follow those staged: asks whoever has them, or leads when none is missing.
    fn fetch_more(&mut self) {
        loop {
            let Role::Preparing(campaign) = &mut self.views.role else { return };
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
                None => unreachable!("a log was chosen in which entry {next} is not to be had"),
            }
        }
    }

    /// Stages entries of the own log, where it agrees with the one being adopted.
    fn stage_own(&mut self, view: View, best: Best, from: Sequence, end: Sequence) -> bool {
        let entries = self.acceptor.log().read(from, end, usize::MAX);
        assert!(!entries.is_empty(), "entry {from} was promised and is not held");
        self.acceptor.stage(view, best.last, from, entries)
    }

    /// Asks again when question or answer seem lost.
    pub(super) fn retry_fetch(&mut self) {
        let Role::Preparing(campaign) = &self.views.role else { return };
        if campaign.best.is_some() && self.now.since_us(campaign.fetched) >= self.options.retry_us {
            coverage!("phase1.fetch_repeated");
            self.fetch_more();
        }
    }

    /// Phase 1 is done: the log becomes this view's, with `entries` from `from` on and a no-op of the view's own.
    fn lead(&mut self, from: Sequence, entries: Vec<Bytes>) {
        let role = std::mem::replace(&mut self.views.role, Role::Secondary);
        let Role::Preparing(campaign) = role else { unreachable!("only a campaign ends in leading") };
        let best = campaign.best.expect("the log was chosen");
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
        for peer in self.membership.peers() {
            if let Some(disk) = self.membership.voting_disk(peer) {
                proposer.peers.insert(peer, self.first_progress(&campaign, best, peer, disk));
            }
        }
        self.views.role = Role::Primary(Box::new(proposer));
        self.views.primary = Some(self.options.me);
        if let Some(to) = self.handover_target() {
            self.end_handover(Err(TransferError::TimedOut(to)));
        }
        self.counters.view_changes += 1;
        self.reads.restart();
    }

    /// Where to begin with a peer: right after what its promise shows to agree, or by asking.
    fn first_progress(&self, campaign: &Campaign, best: Best, peer: ReplicaId, disk: DiskId) -> Progress {
        match campaign.promises.get(&peer) {
            Some(p) if p.accepted_view == best.accepted_view => {
                let sound = p.lost.first().map_or(p.last, |(from, _)| from.previous());
                Progress::new(disk, sound.min(best.last).next(), p.accepted_view, false, self.now)
            }
            Some(p) => Progress::new(disk, p.commit.next(), View::BIRTH, false, self.now),
            None => Progress::new(disk, self.acceptor.log().last().next(), View::BIRTH, true, self.now),
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
        match primary {
            Some(primary) => {
                // Whoever leads had what was missing.
                self.blocked = None;
                self.end_handover(Ok(primary));
            }
            None => self.requests.forget_target(),
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
        if self.lacks_space() {
            coverage!("requests.storage_full");
            self.outputs.refused.push((id, Refusal::StorageFull));
        } else if self.requests.is_full(payload.len(), self.options.max_request_bytes) {
            coverage!("requests.overloaded");
            self.outputs.refused.push((id, Refusal::Overloaded));
        } else {
            self.requests.push(id, payload);
        }
    }
}
