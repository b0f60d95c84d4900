//! Epochs: how a cluster goes over from one configuration to the next (rules M1 to M5 and M7 to
//! M10).
//!
//! The log is one; who votes changes at places in it. Each epoch has one configuration. The entry
//! that ends an epoch, its *seal*, names the members of the next one. Entries behind the seal of
//! one epoch, through the seal of the next, are chosen by majorities of that next configuration
//! alone, and inside an epoch all other rules hold as they are. A majority of one configuration
//! need not meet one of the other: rules M3 and M4 carry the past over.
//!
//! - **M1** A disk votes, stands, leads, confirms reads, grants leases and forwards requests only in
//!   the epoch of its hard state, under that configuration, and sends nothing until that epoch is
//!   durable ([`Replica::send`]).
//! - **M2** A seal is chosen like any entry of its epoch. Nothing is proposed, appended or counted
//!   behind it. A candidate that adopts a log which ends with a seal adds no entry of its own, and
//!   keeps the seal; until it is *known* as chosen, everybody goes on voting in the epoch.
//! - **M3** A disk enters the next epoch in one durable write, after which it holds everything
//!   through the seal and nothing behind it ([`Acceptor::enter`](super::Acceptor)). It does so only
//!   if it knows the seal in its own log as chosen (rule 5), or got the entries through the seal as
//!   committed. Everything of the epoch before ends with it: leadership, campaigns, read rounds,
//!   staged entries, owed promises, leases.
//! - **M4** Pre-votes and promises leave only from a voter that acts in the epoch and has lost
//!   nothing through the seal before it. So every majority holds all of the epochs before.
//! - **M5** A new epoch begins with a phase 1, by anybody. A 1a of it that comes too early is kept.
//! - **M7** A disk that the new configuration lacks supplies entries and copies until it knows that
//!   an entry of the new epoch is chosen. Then its replica is *retired*, and may be stopped.
//! - **M8** With a seal in its log, chosen or not, a disk confirms no read round that arrives from
//!   then on and grants no lease; a primary begins no read round and uses no lease.
//! - **M9** A message of a lower epoch is answered with `Ended`, one of a higher epoch with
//!   `EndedRequest`. `Ended` says that the seal is chosen, and nothing more: a replica whose log is
//!   not known to hold it asks for the entries (`CommittedRequest`), or needs a copy.
//! - **M10** The id of a disk whose data were lost is never used again.
//!
//! Rules M6, M11 and M12, which say when a seal may be proposed, are those of the module
//! `reconfigure`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::replica::Replica;
use super::{LogRead, ReadPurpose, Refusal};
use crate::configuration::{Configuration, Reconfigure};
use crate::message::{Committed, CommittedRequest, Ended, EndedRequest, Message, MessageHeader, Prepare};
use crate::value::{Value, sealed_epoch};
use crate::{Epoch, Instant, ReplicaId, Sequence, View};

/// A peer said that this replica's epoch is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Notice {
    /// The peer.
    from: ReplicaId,
    /// When it was last asked for entries.
    asked: Option<Instant>,
}

/// What the primary that proposed a seal tells the members once it has entered the next epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Farewell {
    /// The members of both epochs.
    to: BTreeSet<ReplicaId>,
    /// The one that is asked to stand, if this replica does not.
    stands: Option<ReplicaId>,
}

/// What a replica knows of other epochs than its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Epochs {
    notice: Option<Notice>,
    /// The 1a of the next epoch that came too early: the one of the highest view.
    kept: Option<(ReplicaId, Prepare)>,
    farewell: Option<Farewell>,
    /// This replica is asked to stand once it acts in this epoch.
    stand_in: Option<Epoch>,
    /// An entry of the present epoch is known as chosen.
    has_begun: bool,
    /// When each peer last got a message about epochs that answers any other message.
    answered: BTreeMap<ReplicaId, Instant>,
}

impl Epochs {
    /// Forgets when anything was said.
    pub fn restart_clocks(&mut self) {
        self.answered.clear();
        if let Some(notice) = &mut self.notice {
            notice.asked = None;
        }
    }
}

/// Cuts entries that follow each other behind the first seal that begins `next`. Returns whether
/// there is one.
pub(super) fn cut_behind_seal(entries: &mut Vec<Bytes>, next: Epoch) -> bool {
    let seal = entries.iter().position(|entry| sealed_epoch(entry) == Some(next));
    entries.truncate(seal.map_or(entries.len(), |seal| seal + 1));
    seal.is_some()
}

impl Replica {
    /// The epoch in which this replica acts.
    pub(super) fn epoch(&self) -> Epoch {
        self.acceptor.hard().epoch
    }

    /// Whether this replica's log holds the seal of its epoch, chosen or not.
    pub(super) fn is_sealed(&self) -> bool {
        self.acceptor.sealed().is_some()
    }

    /// Whether this replica may promise and stand: its disk votes, and holds all of the epochs
    /// before (rule M4). One that has taken in entries of unknown views of its epoch may not
    /// either: see [`Replica::on_committed`].
    pub(super) fn may_promise(&self) -> bool {
        self.is_voter()
            && !self.acceptor.has_lost_through(self.membership.since())
            && self.acceptor.promised().epoch() <= self.epoch().max(Epoch::FIRST)
    }

    /// Nobody leads, and this voter can't promise, since its disk has lost entries of an epoch
    /// before: others may need its promise. All of these entries are chosen, so a copy restores
    /// them, and no primary is needed for that.
    pub(super) fn restore_lost_past(&mut self) {
        let since = self.membership.since();
        if self.is_voter() && self.acceptor.has_lost_through(since) && self.epoch() > Epoch::FIRST {
            coverage!("epochs.lost_past_restored");
            self.want_snapshot(since, None);
        }
    }

    /// Whether this replica is no member any more, and the others can do without it (rule M7).
    pub fn is_retired(&self) -> bool {
        let is_removed = self.membership.knows_voters() && !self.membership.contains(self.options.me);
        is_removed && self.has_epoch_begun()
    }

    /// Whether an entry behind the seal of the epoch before is known as chosen.
    pub(super) fn has_epoch_begun(&self) -> bool {
        self.epochs.has_begun || self.learner.commit() > self.membership.since()
    }

    /// A replica of the same or a later epoch reports how far it knows entries as chosen.
    pub(super) fn note_begun(&mut self, epoch: Epoch, commit: Sequence) {
        self.epochs.has_begun |= epoch >= self.epoch() && commit > self.membership.since();
    }

    /// Enters the epoch that follows, once its seal is known as chosen (rule M3).
    pub(super) fn enter_epochs(&mut self) {
        self.learner.advance(&self.acceptor);
        let Some(seal) = self.acceptor.sealed() else { return };
        if self.learner.known(&self.acceptor) < seal || self.is_switching() {
            return;
        }
        let entry = self.acceptor.log().get(seal).expect("what is chosen here is in memory until it is applied");
        let value = Value::from_bytes(entry.clone());
        let named = value.reconfigure.as_ref().and_then(|seal_of| self.membership.configuration().after(seal_of, seal));
        let next = named.expect("the seal of this epoch names the next one");
        self.enter(next);
    }

    fn enter(&mut self, next: Configuration) {
        coverage!("epochs.entered");
        let (epoch, since) = (next.epoch, next.since);
        assert_eq!(self.learner.commit(), since, "entries behind the seal count as chosen in the epoch before");
        let view = self.learner.commit_view();
        let ended_view = if view.epoch() < epoch { view } else { View::BIRTH };
        let furthest = self.furthest_voter_of(&next);
        let was_primary = self.views.is_primary();
        let former: BTreeSet<ReplicaId> = self.membership.members().collect();
        let ends_session = self.session_ends_with(&next);
        self.acceptor.enter(epoch, since, ended_view, ends_session);
        self.entered(&next, ends_session);
        if !was_primary {
            return self.begin_epoch();
        }
        let stands = self.may_stand();
        let to: BTreeSet<ReplicaId> = former.into_iter().chain(self.membership.peers()).collect();
        self.epochs.farewell = Some(Farewell { to, stands: furthest.filter(|_| !stands) });
        if stands {
            coverage!("epochs.former_primary_stands");
            self.start_campaign(View::BIRTH);
        } else {
            self.begin_epoch();
        }
    }

    /// Whether the seal ends this replica's session (see [`crate::ReplicatedState`]), or nobody
    /// would serve it any more.
    fn session_ends_with(&self, next: &Configuration) -> bool {
        let (me, disk) = (self.options.me, self.acceptor.hard().disk_id);
        (self.is_voter() && !next.may_use(me, disk)) || !next.members.contains_key(&me)
    }

    /// Everything of the epoch before ends; `ends_session`: the requests of this replica's callers,
    /// too. Those without an outcome may have been executed before the seal, or not.
    pub(super) fn entered(&mut self, configuration: &Configuration, ends_session: bool) {
        if ends_session {
            coverage!("epochs.session_ended");
            let (waiting, numbered) = self.requests.abandon(self.now);
            self.outputs.refused.extend(waiting.into_iter().map(|id| (id, Refusal::NotAMember)));
            self.outputs.abandoned.extend(numbered);
            self.outputs.new_session = Some(self.acceptor.hard().boot);
        }
        // What was about to be sent is of the former epoch, and would leave as of this one.
        self.outputs.send.clear();
        self.become_secondary(None);
        self.membership.adopt(configuration);
        self.views.enter(configuration.epoch, self.now);
        self.reads.restart();
        self.leases.granted = None;
        self.replies = Default::default();
        self.blocked = None;
        self.epochs.notice = None;
        self.epochs.has_begun = false;
        self.epochs.answered.clear();
        let (membership, peers) = (&self.membership, &mut self.peers);
        let boots = std::mem::take(&mut peers.boots);
        let renamed = |((id, _), (disk, boot))| ((id, membership.is_voter(id, disk)), (disk, boot));
        peers.boots = boots.into_iter().map(renamed).collect();
        self.finish_reconfiguration();
    }

    /// Goes on in a new epoch that somebody else has begun, or has to begin.
    pub(super) fn begin_epoch(&mut self) {
        let epoch = self.epoch();
        let kept = self.epochs.kept.take_if(|(_, kept)| View(kept.view).epoch() <= epoch);
        if let Some((from, prepare)) = kept.filter(|(_, kept)| View(kept.view).epoch() == epoch) {
            coverage!("epochs.kept_prepare_answered");
            return self.on_prepare(from, prepare);
        }
        if self.epochs.stand_in.take_if(|asked| *asked <= epoch) == Some(epoch) && self.may_stand() {
            coverage!("epochs.asked_to_stand");
            self.start_campaign(View::BIRTH);
        }
    }

    /// The voter of `next` that holds most of this primary's log, of those that can lead.
    fn furthest_voter_of(&self, next: &Configuration) -> Option<ReplicaId> {
        let proposer = self.proposer.as_ref()?;
        let holds = |(id, disk): (ReplicaId, crate::DiskId)| {
            let progress = proposer.peers.get(&id).filter(|progress| progress.disk == disk)?;
            Some((progress.matched, std::cmp::Reverse(id), id))
        };
        let can_lead = |(id, _): &(ReplicaId, crate::DiskId)| next.members.get(id).is_some_and(|m| !m.is_witness());
        next.voters().filter(can_lead).filter_map(holds).max().map(|(_, _, id)| id)
    }

    /// The primary that has entered tells the members of both epochs, once that is durable.
    pub(super) fn say_farewell(&mut self) {
        if self.epochs.farewell.is_none() || self.acceptor.durable().epoch != self.epoch() {
            return;
        }
        let Farewell { to, stands } = self.epochs.farewell.take().expect("there is one");
        let me = self.options.me;
        for peer in to.into_iter().filter(|peer| *peer != me) {
            self.send_ended(peer, stands == Some(peer));
        }
    }

    fn send_ended(&mut self, to: ReplicaId, stand: bool) {
        let hard = self.acceptor.hard();
        let members = Reconfigure::new(hard.epoch, &self.membership.configuration().members).members;
        let (epoch, since, view) = (hard.epoch.0, self.membership.since().0, hard.ended_view.0);
        self.send(to, Message::Ended(Ended { epoch, since, view, members, stand }), Vec::new());
    }

    /// Whether `peer` got no such answer for a while; from now on it did.
    pub(super) fn may_answer(&mut self, peer: ReplicaId) -> bool {
        let (now, pause_us) = (self.now, self.options.heartbeat_us / 2);
        let is_due = self.epochs.answered.get(&peer).is_none_or(|at| now.since_us(*at) >= pause_us);
        if is_due {
            self.epochs.answered.insert(peer, now);
        }
        is_due
    }

    /// A message of another epoch than this replica's came (rule M9). Returns whether it is of a
    /// kind that means the same in every epoch.
    pub(super) fn on_other_epoch(&mut self, sender: &MessageHeader, message: &Message) -> bool {
        if let Message::Prepare(prepare) = message
            && sender.epoch > self.epoch()
        {
            self.keep_prepare(sender.replica, prepare);
        }
        let is_news = !matches!(message, Message::Ended(_) | Message::EndedRequest(_) | Message::Committed(_));
        if is_news && self.membership.knows_voters() && self.may_answer(sender.replica) {
            if sender.epoch < self.epoch() {
                coverage!("epochs.answered_that_it_is_over");
                self.send_ended(sender.replica, false);
            } else {
                self.send(sender.replica, Message::EndedRequest(EndedRequest {}), Vec::new());
            }
        }
        matches!(
            message,
            Message::Report(_)
                | Message::SnapshotRequest(_)
                | Message::SnapshotChunk(_)
                | Message::Ended(_)
                | Message::EndedRequest(_)
                | Message::CommittedRequest(_)
                | Message::Committed(_)
        )
    }

    /// A candidate of the next epoch came too early (rule M5).
    fn keep_prepare(&mut self, from: ReplicaId, prepare: &Prepare) {
        let is_higher = self.epochs.kept.as_ref().is_none_or(|(_, kept)| kept.view < prepare.view);
        if is_higher && View(prepare.view).owner() == Some(from) {
            coverage!("epochs.prepare_kept");
            self.epochs.kept = Some((from, prepare.clone()));
        }
    }

    /// A peer asks whether its epoch is over.
    pub(super) fn on_ended_request(&mut self, sender: &MessageHeader) {
        if sender.epoch < self.epoch() && self.membership.knows_voters() {
            self.send_ended(sender.replica, false);
        }
    }

    /// A peer says that the epoch of this replica is over.
    pub(super) fn on_ended(&mut self, from: ReplicaId, message: &Ended) {
        let epoch = Epoch(message.epoch);
        if epoch <= self.epoch() || !self.membership.knows_voters() {
            return;
        }
        if message.stand {
            self.epochs.stand_in = Some(epoch);
        }
        self.membership.hear_of(&message.members);
        if message.view > 0 && epoch == self.epoch().next() {
            self.learner.observe_commit(View(message.view), Sequence(message.since), &self.acceptor);
        }
        if self.views.is_primary() || self.views.is_candidate() {
            coverage!("epochs.superseded_by_the_next");
            self.become_secondary(None);
        }
        self.views.start_election_timer(self.now);
        let asked = self.epochs.notice.take().filter(|notice| notice.from == from).and_then(|notice| notice.asked);
        self.epochs.notice = Some(Notice { from, asked });
        self.ask_for_committed();
    }

    /// Asks for the entries through the end of this replica's epoch, unless they are known here:
    /// then it is about to enter the next one. Not in vain too often.
    pub(super) fn ask_for_committed(&mut self) {
        let (now, retry_us) = (self.now, self.options.retry_us);
        let commit = self.learner.commit();
        if self.acceptor.sealed().is_some_and(|seal| commit >= seal) || self.is_catching_up() || self.is_switching() {
            return;
        }
        let Some(notice) = &mut self.epochs.notice else { return };
        if notice.asked.is_some_and(|at| now.since_us(at) < retry_us) {
            return;
        }
        notice.asked = Some(now);
        let from = notice.from;
        self.send(from, Message::CommittedRequest(CommittedRequest { from: commit.next().0 }), Vec::new());
    }

    /// A replica of an earlier epoch asks for chosen entries. They end with the seal of its epoch.
    pub(super) fn on_committed_request(&mut self, sender: &MessageHeader, message: &CommittedRequest) {
        let (from, first) = (Sequence(message.from), self.stored.first);
        let to = self.membership.since().min(self.learner.commit());
        if sender.epoch >= self.epoch() || from > to || !self.membership.knows_voters() {
            return;
        }
        let max_bytes = self.options.max_message_bytes;
        let log_first = self.acceptor.log().first();
        if from < first {
            self.send_committed(sender.replica, sender.epoch, from, Vec::new());
        } else if from < log_first {
            let purpose = ReadPurpose::Committed(sender.replica, sender.epoch);
            let to = to.min(log_first.previous());
            self.outputs.read_log.push(LogRead { purpose, view: self.acceptor.promised(), from, to, max_bytes });
        } else {
            let entries = self.acceptor.log().read(from, to, max_bytes);
            self.send_committed(sender.replica, sender.epoch, from, entries);
        }
    }

    /// Entries for a replica of an earlier epoch were read from storage.
    pub(super) fn committed_read(&mut self, peer: ReplicaId, of: Epoch, read: &LogRead, entries: Vec<Bytes>) {
        if entries.is_empty() {
            // Trimmed since then, or damaged.
            self.stored.first = self.stored.first.max(read.from.next());
        }
        self.send_committed(peer, of, read.from, entries);
    }

    fn send_committed(&mut self, to: ReplicaId, of: Epoch, from: Sequence, mut entries: Vec<Bytes>) {
        cut_behind_seal(&mut entries, of.next());
        let view = if of.next() == self.epoch() { self.acceptor.hard().ended_view.0 } else { 0 };
        let first = self.stored.first.0;
        self.send(to, Message::Committed(Committed { from: from.0, view, first }), entries);
    }

    /// Takes in chosen entries of this replica's epoch, as such (rule 10). They may be chosen in a
    /// view that this replica has not promised: the same write promises it. Where the view is not
    /// known, the write promises all of the epoch, which is over.
    pub(super) fn on_committed(&mut self, from: ReplicaId, message: &Committed, mut entries: Vec<Bytes>) {
        let first = Sequence(message.from);
        let commit = self.learner.commit();
        let is_awaited = self.epochs.notice.as_ref().is_some_and(|notice| notice.from == from);
        if !is_awaited || first > commit.next() || self.is_catching_up() || self.is_switching() {
            return;
        }
        if entries.is_empty() && Sequence(message.first) > commit.next() {
            coverage!("epochs.needs_a_copy");
            return self.want_snapshot(Sequence(message.first).previous(), Some(from));
        }
        let known = (commit.next().0 - first.0) as usize;
        entries.drain(..known.min(entries.len()));
        let reaches_seal = cut_behind_seal(&mut entries, self.epoch().next());
        if entries.is_empty() {
            return;
        }
        let view = match View(message.view) {
            View::BIRTH => View::floor_of(self.epoch().next()),
            view if view.epoch() <= self.epoch() => view,
            _ => return,
        };
        let last = Sequence(commit.0 + entries.len() as u64);
        let log = self.acceptor.log();
        let is_tail_lost = log.hole_ranges().last().is_some_and(|(_, to)| *to > last);
        if is_tail_lost && !reaches_seal {
            coverage!("epochs.needs_a_copy");
            return self.want_snapshot(last, Some(from));
        }
        let is_raised = view > self.acceptor.promised();
        if is_raised && view.owner().is_some_and(|owner| self.lease_forbids(owner, View::BIRTH)) {
            // Asked for again once the lease is over.
            return;
        }
        coverage!("epochs.committed_installed");
        self.become_secondary(None);
        if is_raised {
            self.leases.granted = None;
            self.acceptor.promise_with_next_write(view);
        }
        self.acceptor.install_committed(commit, commit.next(), entries);
        self.learner.install(last, view);
        if let Some(notice) = &mut self.epochs.notice {
            notice.asked = None;
        }
        self.ask_for_committed();
    }

    /// Each tick: asks again for what did not come.
    pub(super) fn tick_epochs(&mut self) {
        self.ask_for_committed();
    }
}
