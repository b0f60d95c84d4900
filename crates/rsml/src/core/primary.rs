//! The primary: proposes values, sends its log to the peers (2a), counts their votes (2b), and
//! steps down when it no longer hears from a quorum.

use bytes::Bytes;

use super::lease::usable_us;
use super::log::Log;
use super::progress::Progress;
use super::proposer::Proposer;
use super::replica::Replica;
use super::{CoreOptions, LogRead, Outgoing, Outputs, ReadPurpose};
use crate::message::{Accept, Accepted, Behind, Message, MessageHeader};
use crate::{DiskId, FeatureLevel, Instant, ReplicaId, Sequence, View};

/// The parts of an accept that are the same for all peers.
struct AcceptContext<'a> {
    options: &'a CoreOptions,
    now: Instant,
    log: &'a Log,
    /// The first entry that storage still holds.
    first_stored: Sequence,
    view: View,
    /// L_v.
    adopted: Sequence,
    commit: Sequence,
    /// The newest read round.
    read_round: u64,
    /// The lease to ask for; 0: none.
    lease_us: u64,
}

impl AcceptContext<'_> {
    /// Sends the peer everything that it may get now.
    fn send_entries(&self, peer: ReplicaId, progress: &mut Progress, outputs: &mut Outputs) {
        while progress.may_stream(self.options.window_bytes) && progress.next <= self.log.last() {
            let max_bytes = self.options.max_message_bytes;
            if progress.next >= self.log.first() {
                let entries = self.log.read(progress.next, self.log.last(), max_bytes);
                self.send_accept(peer, progress, entries, outputs);
            } else if progress.next >= self.first_stored {
                coverage!("replication.from_storage");
                let (from, to) = (progress.next, self.log.first().previous());
                let purpose = ReadPurpose::Follow(peer);
                outputs.read_log.push(LogRead { purpose, view: self.view, from, to, max_bytes });
                progress.start_log_read();
            } else {
                let behind = Behind { view: self.view.0, first: self.first_stored.0 };
                outputs.send.push(Outgoing { to: peer, message: Message::Behind(behind), payload: Vec::new() });
                progress.require_snapshot();
            }
        }
        let last_sent = progress.last_sent_commit;
        let commit_is_awaited =
            !progress.is_probing() && self.commit > last_sent && progress.awaited_commit > last_sent;
        if progress.accept_due || commit_is_awaited {
            self.send_accept(peer, progress, Vec::new(), outputs);
        }
    }

    fn send_accept(&self, to: ReplicaId, progress: &mut Progress, entries: Vec<Bytes>, outputs: &mut Outputs) {
        let accept = Accept {
            view: self.view.0,
            adopted: self.adopted.0,
            from: progress.next.0,
            agreed_view: progress.agreed_view.0,
            commit: self.commit.0,
            read_round: self.read_round,
            probe: progress.probe,
            answer: progress.wants_answer,
            lease_us: self.lease_us,
            lease_from_us: if self.lease_us > 0 { self.now.0 } else { 0 },
        };
        progress.accept_due = false;
        progress.wants_answer = false;
        progress.last_sent_commit = self.commit;
        if !entries.is_empty() {
            let last = Sequence(progress.next.0 + entries.len() as u64 - 1);
            progress.sent(self.view, last, entries.iter().map(Bytes::len).sum(), self.now);
        }
        outputs.send.push(Outgoing { to, message: Message::Accept(accept), payload: entries });
    }
}

impl Replica {
    /// Takes a 2b: a vote if it is a voter's. An observer reports its progress in the same way.
    pub(super) fn on_accepted(&mut self, sender: &MessageHeader, message: Accepted) {
        let (from, now, lease_us) = (sender.replica, self.now, self.options.lease_us);
        let last = self.acceptor.log().last();
        let Some(proposer) = self.proposer.as_mut().filter(|p| p.view == View(message.view)) else { return };
        let (view, adopted, adopted_view) = (proposer.view, proposer.adopted, proposer.adopted_view);
        let Some(progress) = proposer.peers.get_mut(&from).filter(|p| p.disk == sender.disk_id) else { return };
        progress.last_heard = now;
        progress.highest_level = FeatureLevel::from_field(message.highest_level);
        progress.read_round = progress.read_round.max(message.read_round);
        progress.commit = progress.commit.max(Sequence(message.commit));
        if message.lease_from_us > 0 {
            let until = Instant(message.lease_from_us).plus_us(usable_us(lease_us));
            progress.leased_until = progress.leased_until.max(until);
        }
        if View(message.durable_view) == view {
            let durable = Sequence(message.durable_last);
            assert!(durable <= last, "replica {from} holds {durable} in view {view}, which ends at {last}");
            progress.matched = progress.matched.max(durable);
        } else {
            coverage!("rule4.vote_of_other_view");
        }
        if progress.is_probing() {
            if message.probe == progress.probe {
                let (next, agreed_view) = resume_point(&message, view, adopted, adopted_view, last);
                progress.resume_at(next, agreed_view);
            }
        } else if message.gap && (View(message.memory_view) != view || Sequence(message.expected) < progress.next) {
            progress.ask_log_end(now);
        }
        progress.acknowledge(Sequence(message.acknowledged).min(last), now);
    }

    /// Packs waiting requests into values, as many as the pipeline has room for.
    pub(super) fn pack_values(&mut self) {
        if self.is_draining() || self.is_sealed() {
            return;
        }
        let last = self.acceptor.log().last();
        let mut in_flight = last.0 - self.learner.commit().0;
        let room = self.acceptor.log().bytes() < self.options.max_unapplied_bytes + self.options.log_cache_bytes;
        let (now, max_bytes) = (self.now, self.options.max_batch_bytes);
        let max_in_flight = self.options.max_in_flight_values;
        let Some(proposer) = &mut self.proposer else { return };
        let view = proposer.view;
        let mut values = Vec::new();
        while room && proposer.has_waiting() && in_flight < max_in_flight {
            let value = proposer.pack(now, max_bytes);
            in_flight += 1;
            let sequence = Sequence(last.0 + values.len() as u64 + 1);
            for (peer, progress) in &mut proposer.peers {
                let disk = self.membership.voting_disk(*peer);
                if value.batches.iter().any(|batch| Some(DiskId(batch.disk_id.into())) == disk) {
                    progress.awaited_commit = sequence;
                }
            }
            values.push(value.to_bytes());
        }
        if !values.is_empty() {
            self.counters.proposals += values.len() as u64;
            self.acceptor.append(view, values);
        }
    }

    /// The commit rule (rule 4): an entry is chosen once a quorum holds it durably in the current
    /// view. A replica that promises a higher view stops leading, so it chooses nothing in the
    /// lower one any more.
    pub(super) fn choose(&mut self) {
        let quorum = self.membership.quorum();
        let sealed = self.acceptor.sealed();
        let Some(proposer) = &self.proposer else { return };
        let view = proposer.view;
        let sealing = sealed.map(|seal| (seal, self.options.epochs_level));
        let Some(chosen) = proposer.chosen(self.acceptor.vote(view), quorum, sealing) else { return };
        // Nothing behind a seal counts (rule M2).
        let chosen = sealed.map_or(chosen, |seal| chosen.min(seal));
        self.learner.observe_commit(view, chosen, &self.acceptor);
    }

    /// Whether an entry of the current view is chosen, so that the commit point covers everything
    /// chosen before.
    pub(super) fn is_established(&self) -> bool {
        self.proposer.as_ref().is_some_and(|p| self.learner.commit() >= p.first_own())
    }

    /// Whether this replica leads and has applied everything chosen before its view, and the first
    /// entry of its view.
    pub fn is_recovered(&self) -> bool {
        self.proposer.as_ref().is_some_and(|p| self.learner.applied() >= p.first_own())
    }

    /// Sends each peer what it may get now.
    pub(super) fn replicate(&mut self) {
        let Some((context, proposer, outputs)) = self.accept_context() else { return };
        for (peer, progress) in &mut proposer.peers {
            context.send_entries(*peer, progress, outputs);
        }
    }

    /// The common part of accepts, and the peers to send them to; `None` unless this replica leads.
    fn accept_context(&mut self) -> Option<(AcceptContext<'_>, &mut Proposer, &mut Outputs)> {
        let lease_us = self.wanted_lease_us(self.proposer.as_ref()?.view);
        let proposer = self.proposer.as_mut()?;
        let context = AcceptContext {
            options: &self.options,
            now: self.now,
            log: self.acceptor.log(),
            first_stored: self.stored.first,
            view: proposer.view,
            adopted: proposer.adopted,
            commit: self.learner.commit(),
            read_round: self.reads.round(),
            lease_us,
        };
        Some((context, proposer, &mut self.outputs))
    }

    /// Entries that a peer needs were read from storage.
    pub(super) fn replicate_read(&mut self, peer: ReplicaId, read: LogRead, entries: Vec<Bytes>) {
        if entries.is_empty() {
            // Trimmed since then, or damaged: a peer that needs this entry gets a snapshot.
            self.stored.first = self.stored.first.max(read.from.next());
        }
        let Some((context, proposer, outputs)) = self.accept_context() else { return };
        let is_current = proposer.view == read.view;
        let Some(progress) = proposer.peers.get_mut(&peer).filter(|_| is_current) else { return };
        if progress.finish_log_read() && progress.next == read.from && !entries.is_empty() {
            context.send_accept(peer, progress, entries, outputs);
        }
    }

    /// Each tick while this replica leads: heartbeats, probes, and whether it should keep leading.
    pub(super) fn tick_primary(&mut self) {
        let (now, election_us, retry_us) = (self.now, self.options.election_max_us, self.options.retry_us);
        let is_heartbeat = now >= self.timers.next_heartbeat;
        if is_heartbeat {
            self.timers.next_heartbeat = now.plus_us(self.options.heartbeat_us);
        }
        if self.yield_if_unfit() {
            return;
        }
        let quorum = self.membership.quorum();
        let commit = self.learner.commit();
        let Some(proposer) = &mut self.proposer else { return };
        if proposer.heard(now, election_us) + 1 < quorum {
            coverage!("liveness.quorum_lost_steps_down");
            self.become_secondary(None);
            return;
        }
        for progress in proposer.peers.values_mut() {
            if progress.needs_probe(now, retry_us, is_heartbeat) {
                progress.ask_log_end(now);
            }
            if is_heartbeat {
                progress.request_answer();
            }
            // A commit point that went out with no entries, and that no request of the peer waits
            // for, is sent with the tick.
            progress.accept_due |= commit > progress.last_sent_commit;
        }
    }
}

/// The entry from which to resume sending to a peer that reported the end of its log, and the
/// accepted view in which the peer's log agrees with this one up to there.
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
