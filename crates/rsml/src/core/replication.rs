//! Phase 2: entries flow from the primary to its peers, votes flow back.

use bytes::Bytes;

use super::lease::usable_us;
use super::proposer::Progress;
use super::replica::Replica;
use super::view_manager::Role;
use super::{LogRead, Outgoing, ReadPurpose};
use crate::message::MessageHeader;
use crate::message::{Accept, Accepted, Behind, Message, Refuse};
use crate::value::Value;
use crate::{DiskId, ReplicaId, Sequence, View};

/// What a secondary owes its primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    view: View,
    token: u64,
    probe: u64,
    gap: bool,
    pub due: bool,
    /// Of the newest lease granted.
    lease_from_us: u64,
    /// What was reported last.
    told: (View, Sequence, Sequence),
}

impl Replica {
    // --- the secondary's side ---

    pub(super) fn on_accept(&mut self, from: ReplicaId, message: Accept, entries: Vec<Bytes>) {
        let view = View(message.view);
        self.views.see(view);
        if view.owner() != Some(from) {
            return;
        }
        if view < self.acceptor.promised() {
            let promised = self.acceptor.promised().0;
            self.send(from, Message::Refuse(Refuse { promised }), Vec::new());
            return;
        }
        self.follow(view, from);
        self.answer.due |= message.answer || message.token > self.answer.token || message.probe > self.answer.probe;
        self.answer.token = self.answer.token.max(message.token);
        self.answer.probe = self.answer.probe.max(message.probe);
        self.answer.lease_from_us = self.answer.lease_from_us.max(self.grant_lease(&message));
        let fits = if self.acceptor.accepted_view() == view {
            self.extend(view, Sequence(message.from), entries)
        } else {
            self.synchronise(view, &message, entries)
        };
        if !fits {
            self.answer.gap = true;
            self.answer.due = true;
        }
        self.learner.hear(view, Sequence(message.commit), &self.acceptor);
    }

    fn follow(&mut self, view: View, primary: ReplicaId) {
        if view > self.acceptor.promised() {
            self.promise(view);
        }
        if self.answer.view != view {
            self.answer = Answer { view, due: true, ..Answer::default() };
        }
        if !matches!(self.views.role, Role::Secondary) || self.views.primary != Some(primary) {
            self.become_secondary(Some(primary));
        }
        self.views.hush(self.now);
    }

    /// The log is this view's: what follows its end is appended, and what was lost of it filled. False when there would
    /// be a hole.
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
            self.acceptor.fill(view, next, fresh);
            if self.acceptor.log().first_hole().is_some() {
                return beyond.is_empty();
            }
            fresh = beyond;
        }
        if !fresh.is_empty() {
            self.acceptor.append(view, fresh);
        }
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

    /// Writes the committed part of what is staged into the log, once it takes too much memory: below L_v this leaves
    /// the accepted view and the log's tail as they are (rule 10). `view`: the one in which the commit point was learned.
    /// A tail in which entries are lost cannot be written anew, so that then everything stays staged.
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
        // Staging may begin above the commit point, where the log below agrees: that part is committed as well.
        let log = self.acceptor.log();
        let mut installed = log.read(commit.next().max(log.first()), staging.from.previous(), usize::MAX);
        installed.extend(staged);
        self.acceptor.install_committed(commit, commit.next(), installed);
        self.learner.install(upto, view);
        staging.from = upto.next();
        staging.bytes = staging.entries.iter().map(Bytes::len).sum();
        self.acceptor.restore_staging(staging);
    }

    /// Tells the primary what is durable, when that changed or was asked for.
    pub(super) fn answer_primary(&mut self) {
        let view = self.acceptor.promised();
        let Some(primary) = self.views.primary.filter(|p| view.owner() == Some(*p) && *p != self.options.me) else {
            return;
        };
        let durable = *self.acceptor.durable();
        if self.answer.view != view || durable.promised < view {
            return;
        }
        let state = (durable.accepted_view, self.acceptor.durable_sound_last(), self.settled());
        if !self.answer.due && self.answer.told == state {
            return;
        }
        self.answer.told = state;
        self.answer.due = false;
        let gap = std::mem::take(&mut self.answer.gap);
        let end = self.acceptor.staging().map_or(self.acceptor.log().sound_last(), |s| s.last());
        let accepted = Accepted {
            view: view.0,
            durable_view: durable.accepted_view.0,
            durable_last: self.acceptor.durable_sound_last().0,
            commit: self.learner.commit().0,
            memory_view: self.acceptor.accepted_view().0,
            expected: end.next().0,
            settled: self.settled().0,
            token: self.answer.token,
            probe: self.answer.probe,
            gap,
            lease_from_us: self.answer.lease_from_us,
        };
        self.send(primary, Message::Accepted(accepted), Vec::new());
    }

    /// Through here, nothing received waits for the disk; what is staged counts, since it is bounded by itself.
    fn settled(&self) -> Sequence {
        // While the log is mended, what was taken waits for what is still missing, not for the disk.
        let stable = match self.acceptor.is_mending() {
            true => self.acceptor.log().sound_last(),
            false => self.acceptor.stable(),
        };
        match self.acceptor.staging() {
            Some(staged) if stable >= staged.from.previous() => staged.last().max(stable),
            _ => stable,
        }
    }

    // --- the primary's side ---

    /// A vote, when it is a voter's; an observer answers in the same way how far it follows.
    pub(super) fn on_accepted(&mut self, sender: &MessageHeader, message: Accepted) {
        let (from, now, lease_us) = (sender.replica, self.now, self.options.lease_us);
        let last = self.acceptor.log().last();
        let Some(proposer) = self.views.proposer_mut().filter(|p| p.view == View(message.view)) else { return };
        let (view, adopted, adopted_view) = (proposer.view, proposer.adopted, proposer.adopted_view);
        let Some(progress) = proposer.peers.get_mut(&from).filter(|p| p.disk == sender.disk_id) else { return };
        progress.last_heard = now;
        progress.token = progress.token.max(message.token);
        progress.commit = progress.commit.max(Sequence(message.commit));
        if message.lease_from_us > 0 {
            let until = crate::Instant(message.lease_from_us).plus_us(usable_us(lease_us));
            progress.leased_until = progress.leased_until.max(until);
        }
        if View(message.durable_view) == view {
            let durable = Sequence(message.durable_last);
            assert!(durable <= last, "replica {from} holds {durable} in view {view}, which ends at {last}");
            progress.matched = progress.matched.max(durable);
        } else {
            coverage!("rule4.vote_of_other_view");
        }
        if progress.probing {
            if message.probe == progress.probe {
                let (next, agreed_view) = resume_point(&message, view, adopted, adopted_view, last);
                progress.restart_at(next, agreed_view);
            }
        } else if message.gap && (View(message.memory_view) != view || Sequence(message.expected) < progress.next) {
            progress.ask_end(now);
        }
        progress.settle(Sequence(message.settled).min(last), now);
    }

    /// Packs waiting requests into values, as far as the pipeline has room.
    pub(super) fn pack_values(&mut self) {
        if self.is_handing_over() {
            return;
        }
        let last = self.acceptor.log().last();
        let mut in_flight = last.0 - self.learner.commit().0;
        let room = self.acceptor.log().bytes() < self.options.max_unapplied_bytes + self.options.log_cache_bytes;
        let (now, max_bytes) = (self.now, self.options.max_batch_bytes);
        let max_in_flight = self.options.max_in_flight_values;
        let Some(proposer) = self.views.proposer_mut() else { return };
        let view = proposer.view;
        let mut values = Vec::new();
        while room && proposer.has_waiting() && in_flight < max_in_flight {
            let value = proposer.pack(now, max_bytes);
            in_flight += 1;
            let sequence = Sequence(last.0 + values.len() as u64 + 1);
            for (peer, progress) in &mut proposer.peers {
                let disk = self.configuration.disks.get(peer).copied();
                if value.batches.iter().any(|batch| Some(DiskId(batch.disk_id.into())) == disk) {
                    progress.awaits = sequence;
                }
            }
            values.push(value.to_bytes());
        }
        if !values.is_empty() {
            self.counters.proposals += values.len() as u64;
            self.acceptor.append(view, values);
        }
    }

    /// The commit rule: a quorum durable in the current view. From promising a higher view on, this replica leads no
    /// more, so nothing is chosen here in the lower one.
    pub(super) fn choose(&mut self) {
        let quorum = self.quorum();
        let Some(proposer) = self.views.proposer() else { return };
        let view = proposer.view;
        if let Some(chosen) = proposer.chosen(self.acceptor.vote(view), quorum) {
            self.learner.hear(view, chosen, &self.acceptor);
        }
    }

    /// Whether a read asked for now would find a primary that can serve it, as far as this replica knows.
    pub fn is_ready_to_read(&self) -> bool {
        self.is_established() || (self.primary().is_some() && self.primary() != Some(self.id()))
    }

    /// Whether an entry of the current view is chosen, so that the commit point covers everything chosen before.
    pub(super) fn is_established(&self) -> bool {
        self.views.proposer().is_some_and(|p| self.learner.commit() >= p.first_own())
    }

    pub(super) fn replicate(&mut self) {
        let Some(mut proposer) = self.views.take_proposer() else { return };
        for (peer, progress) in &mut proposer.peers {
            self.replicate_to(*peer, proposer.view, proposer.adopted, progress);
        }
        self.views.role = Role::Primary(proposer);
    }

    fn replicate_to(&mut self, peer: ReplicaId, view: View, adopted: Sequence, progress: &mut Progress) {
        while !progress.probing && progress.has_room(self.options.window_bytes) && !progress.reading {
            let log = self.acceptor.log();
            if progress.next > log.last() {
                break;
            }
            let max_bytes = self.options.max_message_bytes;
            if progress.next < log.first() && progress.next < self.first_stored {
                if !std::mem::replace(&mut progress.is_behind, true) {
                    let first = self.first_stored.0;
                    self.send(peer, Message::Behind(Behind { view: view.0, first }), Vec::new());
                }
                break;
            }
            if progress.next < log.first() {
                coverage!("replication.from_storage");
                let (from, to) = (progress.next, log.first().previous());
                let purpose = ReadPurpose::Follow(peer);
                self.outputs.read_log.push(LogRead { purpose, view, from, to, max_bytes });
                progress.reading = true;
            } else {
                let entries = log.read(progress.next, log.last(), max_bytes);
                self.send_accept(peer, view, adopted, progress, entries);
            }
        }
        let told = progress.told_commit;
        let commit_is_awaited = !progress.probing && self.learner.commit() > told && progress.awaits > told;
        if progress.due || commit_is_awaited {
            self.send_accept(peer, view, adopted, progress, Vec::new());
        }
    }

    fn send_accept(
        &mut self,
        to: ReplicaId,
        view: View,
        adopted: Sequence,
        progress: &mut Progress,
        entries: Vec<Bytes>,
    ) {
        let commit = self.learner.commit();
        let lease_us = self.wanted_lease_us(view);
        let accept = Accept {
            view: view.0,
            adopted: adopted.0,
            from: progress.next.0,
            agreed_view: progress.agreed_view.0,
            commit: commit.0,
            token: self.reads.token(),
            probe: progress.probe,
            answer: progress.ask,
            lease_us,
            lease_from_us: if lease_us > 0 { self.now.0 } else { 0 },
        };
        progress.due = false;
        progress.ask = false;
        progress.told_commit = commit;
        if !entries.is_empty() {
            let last = Sequence(progress.next.0 + entries.len() as u64 - 1);
            progress.sent(view, last, entries.iter().map(Bytes::len).sum(), self.now);
        }
        self.outputs.send.push(Outgoing { to, message: Message::Accept(accept), payload: entries });
    }

    pub(super) fn replicate_read(&mut self, peer: ReplicaId, read: LogRead, entries: Vec<Bytes>) {
        if entries.is_empty() {
            // Trimmed meanwhile, or lost: whoever needs it gets a snapshot.
            self.first_stored = self.first_stored.max(read.from.next());
        }
        let Some(mut proposer) = self.views.take_proposer() else { return };
        if let Some(progress) = proposer.peers.get_mut(&peer).filter(|p| p.reading && proposer.view == read.view) {
            progress.reading = false;
            if !progress.probing && progress.next == read.from && !entries.is_empty() {
                self.send_accept(peer, proposer.view, proposer.adopted, progress, entries);
            }
        }
        self.views.role = Role::Primary(proposer);
    }

    pub(super) fn tick_primary(&mut self) {
        let (now, election_us, retry_us) = (self.now, self.options.election_max_us, self.options.retry_us);
        let beat = now >= self.next_call;
        if beat {
            self.next_call = now.plus_us(self.options.heartbeat_us);
        }
        if self.yield_if_unfit() {
            return;
        }
        let quorum = self.quorum();
        let commit = self.learner.commit();
        let Some(proposer) = self.views.proposer_mut() else { return };
        if proposer.heard(now, election_us) + 1 < quorum {
            coverage!("liveness.quorum_lost_steps_down");
            self.become_secondary(None);
            return;
        }
        for progress in proposer.peers.values_mut() {
            if progress.is_stuck(now, retry_us)
                || (beat && progress.is_behind)
                || (progress.reading && now.since_us(progress.last_progress) >= retry_us * 10)
            {
                progress.ask_end(now);
            }
            if beat {
                progress.due = true;
                progress.ask = true;
            }
            // A commit point that no entry carried and nobody waits for goes out now.
            progress.due |= commit > progress.told_commit;
        }
    }

    /// A value's bytes as they stand in the log in memory; for status and tests.
    pub fn value_at(&self, sequence: Sequence) -> Option<Value> {
        self.acceptor.log().get(sequence).cloned().map(Value::from_bytes)
    }
}

/// Where to go on with a peer that told where its log ends, and the accepted view for which that holds.
fn resume_point(
    message: &Accepted,
    view: View,
    adopted: Sequence,
    adopted_view: View,
    last: Sequence,
) -> (Sequence, View) {
    let memory_view = View(message.memory_view);
    let expected = Sequence(message.expected);
    if memory_view == view {
        (expected.min(last.next()), view)
    } else if memory_view == adopted_view {
        (expected.min(adopted.next()), adopted_view)
    } else {
        (Sequence(message.commit).next().min(last.next()), View::BIRTH)
    }
}
