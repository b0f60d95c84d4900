//! The fate of a write: its answers, and its retries.
//!
//! A commit with an idempotency id is sent again, through any replica, until it has an answer: it
//! must take effect once, and every answer must be the first result. The reason for which one try
//! was refused says nothing about the others, except for a conflict, which is final.

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitResult, IDEMPOTENCY_SECONDS, KvError, decode_verdict};
use rsml::core::RequestId;

use super::clients::Doing;
use super::cluster::Cluster;
use super::events::Event;
use super::rows;
use super::workload::OpId;
use crate::history::Outcome;

/// Then the outcome stays unknown.
const MAX_TRIES: u64 = 8;

impl Cluster {
    /// Gives the commit an idempotency id, perhaps, and says which ones are of no use any more.
    ///
    /// Where replicated time may run ahead, records may have expired before a commit is sent again:
    /// then each depends on something, so that it is too old by then.
    pub(super) fn add_ids(&mut self, client: usize, op: OpId, commit: &mut AtomicCommit) {
        if self.random.one_in(3) {
            commit.finished_ids = std::mem::take(&mut self.clients[client].finished_ids);
        }
        if !self.random.one_in(self.profile.ids) {
            return;
        }
        commit.idempotency_id = Bytes::copy_from_slice(&op.0.to_be_bytes());
        if self.faults.clock_jump > 0 && !commit.has_read_conflicts() {
            commit.read_version = self.clients[client].known_version();
            commit.read_conflicts.push(rows::guard());
        }
    }

    /// Sends it for the first time; one with an id now and then to two replicas at once.
    pub(super) fn send_tries(&mut self, node: usize, op: OpId, request: RequestId) {
        self.records.sent(op);
        let other = self.any_node();
        let has_id = self.records.idempotency_id(op).is_some();
        let is_doubled = has_id && self.random.one_in(6) && self.is_served(other);
        if is_doubled {
            self.figures.count("commit sent to two replicas");
            self.records.sent(op);
        }
        self.propose(node, op, request);
        // The first one may have had consequences.
        if is_doubled && self.is_served(other) {
            let request = RequestId(self.next_id());
            self.propose(other, op, request);
        }
    }

    /// The outcome of a request, as bytes of the database's verdict.
    pub fn answered(&mut self, op: OpId, outcome: &Bytes) {
        match decode_verdict(outcome).expect("the executor encodes verdicts") {
            Ok(result) => self.succeeded(op, &result),
            Err(error) => self.denied(op, error),
        }
    }

    fn succeeded(&mut self, op: OpId, result: &CommitResult) {
        self.records.succeeded(op, result);
        let id = self.records.idempotency_id(op).cloned();
        match id {
            Some(id) => {
                self.watch.acknowledge_again(op, result.version);
                if let Some((client, _)) = self.records.client(op).filter(|_| self.records.was_sent_once(op)) {
                    self.clients[client].finished_ids.push(id);
                }
            }
            None if self.records.is_in_journal(op) => self.watch.acknowledge(op, result.version),
            None => {}
        }
        // A write that creates a family, or lets time advance, has no version of its own.
        let write = self.records.write(op);
        let has_version = write.commit.is_some() || write.family.as_ref().is_some_and(|change| change.drop);
        let has_version = has_version || write.access.is_some();
        self.ended(op, Outcome::Ok, has_version.then_some(result.version));
    }

    fn denied(&mut self, op: OpId, error: KvError) {
        let is_final = match &error {
            KvError::Conflict { keys } => {
                self.records.conflict(op, keys);
                true
            }
            // Another try may have succeeded, and be forgotten; or the family may come back.
            KvError::TransactionTooOld { .. } | KvError::UnknownColumnFamily { .. } => self.records.was_sent_once(op),
            // Another try may be made on another authority.
            KvError::Forbidden(_) | KvError::Unauthenticated(_) => self.records.was_sent_once(op),
            KvError::InvalidOperation(_) if self.records.write(op).access.is_some() => true,
            error => panic!("{op:?} was refused: {error}"),
        };
        self.figures.count(match error {
            KvError::Conflict { .. } => "commit in conflict",
            KvError::TransactionTooOld { .. } => "commit too old",
            KvError::Forbidden(_) => "write whose authority has ended",
            KvError::Unauthenticated(_) => "write without authority",
            KvError::InvalidOperation(_) => "change of users refused",
            _ => "commit on an unknown family",
        });
        match is_final {
            true => self.denied_for_good(op),
            false => self.ended(op, Outcome::Unknown, None),
        }
    }

    fn denied_for_good(&mut self, op: OpId) {
        if self.records.is_in_journal(op) {
            self.watch.refuse(op);
        }
        self.ended(op, Outcome::Fail, None);
    }

    /// The replica reports that a request will never be executed.
    pub fn refused(&mut self, op: OpId) {
        match self.records.refused(op) {
            true => self.denied_for_good(op),
            false => self.lost(op),
        }
    }

    /// The process that had it is gone, or it is not waited for any longer.
    pub fn lost(&mut self, op: OpId) {
        let waiting = self.records.client(op).filter(|(client, step)| self.clients[*client].step == *step);
        let has_id = self.records.idempotency_id(op).is_some();
        match waiting.filter(|_| has_id && self.records.times_sent(op) < MAX_TRIES) {
            Some((client, _)) => self.plan_resend(client, op),
            None => self.ended(op, Outcome::Unknown, None),
        }
    }

    fn plan_resend(&mut self, client: usize, op: OpId) {
        self.clients[client].step += 1;
        let step = self.clients[client].step;
        self.records.waits(op, client, step);
        // One that finds nobody counts as sent, too: so it ends.
        self.records.sent(op);
        if self.faults.clock_jump > 0 && self.random.one_in(8) {
            self.outlive_results();
        }
        let after = self.random.between(100, self.profile.pause_us);
        self.schedule(after, Event::Resend { client, step });
    }

    /// The clocks of all jump ahead by more than results are remembered.
    fn outlive_results(&mut self) {
        let ahead_us = IDEMPOTENCY_SECONDS * 1_000_000 + self.random.below(1_000_000);
        self.figures.count("results outlived");
        let now = self.now;
        for running in self.nodes.iter_mut().filter_map(|node| node.running.as_mut()) {
            running.clock.jump(now, ahead_us);
        }
    }

    /// The same commit again, through any replica.
    pub fn resend(&mut self, client: usize, step: u64) {
        if self.clients[client].step != step {
            return;
        }
        let Doing::Commit { op, .. } = self.clients[client].doing else { return };
        // In the end a client finds a member soon.
        let candidates = if self.faults_ended { self.member_nodes() } else { (0..self.nodes.len()).collect() };
        let other = candidates[self.random.below(candidates.len() as u64) as usize];
        if !self.is_served(other) {
            return self.lost(op);
        }
        let step = self.wait(client);
        self.records.waits(op, client, step);
        let id = RequestId(self.next_id());
        if let Doing::Commit { node, request, asked_back, .. } = &mut self.clients[client].doing {
            (*node, *request, *asked_back) = (other, id, false);
        }
        self.figures.count("commit sent again");
        self.propose(other, op, id);
    }
}
