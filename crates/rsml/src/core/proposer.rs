//! The proposer: what only a primary knows. It lives exactly as long as the replica leads one view.
//!
//! Invariants: `matched` of a peer is only what the peer reported as durable *in this view*; the
//! requests of a session enter the log in the order of their numbers, without holes and without
//! repetition.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::progress::Progress;
use crate::configuration::Reconfigure;
use crate::value::{RequestBatch, Sessions, Value};
use crate::{Boot, DiskId, FeatureLevel, Instant, ReplicaId, Sequence, View};

/// The answer of the proposer to requests.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// They will be proposed, except for those that are in the log already.
    Taken,
    /// Requests before these are missing: the request with this number is expected next.
    Gap(u64),
}

/// Maximum number of sessions, counting those of observers and of disks that are gone: each
/// replaced disk leaves one.
const MAX_SESSIONS: usize = 256;

/// Maximum number of requests in one batch of a value.
const MAX_BATCH: usize = 1 << 16;

/// The replicated state as it will be once the whole log is applied, as far as a proposer needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogEnd {
    /// The sessions.
    pub sessions: Sessions,
    /// Replicated time.
    pub time_us: u64,
    /// The feature level.
    pub level: FeatureLevel,
}

/// Proposes values in one view, and tracks the progress of the peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    /// The view that this replica leads.
    pub view: View,
    /// L_v: the length of the log that was adopted in phase 1.
    pub adopted: Sequence,
    /// The accepted view of the log that was adopted.
    pub adopted_view: View,
    /// The sessions as they will be once the whole log is applied.
    sessions: Sessions,
    /// Requests that are not proposed yet.
    waiting: VecDeque<RequestBatch>,
    waiting_bytes: usize,
    /// Replicated time, as of `time_at` on this replica's clock.
    time_us: u64,
    time_at: Instant,
    /// The feature level as it will be once the whole log is applied.
    pub level: FeatureLevel,
    /// Every voter, and every other peer that was heard from in this view.
    pub peers: BTreeMap<ReplicaId, Progress>,
}

impl Proposer {
    /// A proposer of `view`, whose log was adopted with length `adopted` from a log of
    /// `adopted_view`, and leads to the state `end`.
    pub fn new(view: View, adopted: Sequence, adopted_view: View, end: LogEnd, now: Instant) -> Self {
        let LogEnd { sessions, time_us, level } = end;
        Proposer {
            view,
            adopted,
            adopted_view,
            sessions,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            time_us,
            time_at: now,
            level,
            peers: BTreeMap::new(),
        }
    }

    /// The first entry of this view, a no-op.
    pub fn first_own(&self) -> Sequence {
        self.adopted.next()
    }

    /// Whether more requests of that disk may be taken. Only a faulty peer meets these bounds: the
    /// others send no more than a window allows, and each has one session.
    pub fn has_room(&self, disk: DiskId, is_voter: bool, max_bytes: usize) -> bool {
        let is_known = is_voter || self.sessions.contains_key(&disk);
        self.waiting_bytes < max_bytes && (is_known || self.sessions.len() < MAX_SESSIONS)
    }

    /// Takes the requests that come next in their session; those that are in the log already are
    /// skipped. `voids`: the numbers of requests that are not to be executed.
    pub fn admit(
        &mut self,
        disk: DiskId,
        boot: Boot,
        first: u64,
        payloads: Vec<Bytes>,
        mut voids: Vec<u64>,
    ) -> Admission {
        let mut session = self.sessions.get(&disk).copied().unwrap_or_default();
        if boot < session.boot {
            return Admission::Taken;
        }
        let last = if boot > session.boot { 0 } else { session.last };
        if first > last + 1 {
            return Admission::Gap(last + 1);
        }
        voids.sort_unstable();
        voids.dedup();
        // A sender may claim anything, so voids of requests that are not among these are dropped.
        voids.retain(|number| *number >= first);
        let received = RequestBatch { disk_id: disk.0.into(), boot: boot.0, first, payloads, voids };
        let payloads = Vec::with_capacity(received.payloads.len());
        let mut fresh = RequestBatch { first: last + 1, payloads, voids: Vec::new(), ..received };
        received.advance_session(&mut session, |number, payload| {
            if payload.is_none() {
                fresh.voids.push(number);
            }
            fresh.payloads.push(payload.unwrap_or_default());
        });
        if fresh.payloads.is_empty() {
            return Admission::Taken;
        }
        assert_eq!(
            session.last,
            last + fresh.payloads.len() as u64,
            "requests do not follow each other in their session"
        );
        self.sessions.insert(disk, session);
        self.waiting_bytes += fresh.payloads.iter().map(Bytes::len).sum::<usize>();
        self.waiting.push_back(fresh);
        Admission::Taken
    }

    /// Whether requests wait to be proposed.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Packs waiting requests into one value, up to `max_bytes` of payload but at least one
    /// request.
    pub fn pack(&mut self, now: Instant, max_bytes: usize) -> Value {
        let mut batches = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.waiting.front_mut() {
            let sums = batch.payloads.iter().scan(bytes, |sum, payload| {
                *sum += payload.len();
                Some(*sum)
            });
            let fit = sums.take(MAX_BATCH).take_while(|sum| *sum <= max_bytes).count();
            let taken = if batches.is_empty() { fit.max(1) } else { fit };
            if taken == 0 {
                break;
            }
            let whole = split(batch, taken);
            bytes += whole.payloads.iter().map(Bytes::len).sum::<usize>();
            batches.push(whole);
            if !batch.payloads.is_empty() {
                break;
            }
            self.waiting.pop_front();
        }
        self.waiting_bytes -= bytes;
        self.value(now, batches)
    }

    /// A value of this view: without batches it is the no-op.
    pub fn value(&mut self, now: Instant, batches: Vec<RequestBatch>) -> Value {
        Value { proposed_view: self.view.0, time_us: self.time(now), batches, ..Value::default() }
    }

    /// A value of this view that raises the feature level, and holds nothing else (rule 13).
    ///
    /// # Panics
    /// If that is no higher than the level at the end of the log.
    pub fn raising(&mut self, now: Instant, to: FeatureLevel) -> Value {
        assert!(to > self.level, "an entry raises the feature level to {to}, and the log ends at level {}", self.level);
        self.level = to;
        Value { raise_feature_level: to.0, ..self.value(now, Vec::new()) }
    }

    /// A value of this view that ends the epoch, and holds nothing else.
    pub fn sealing(&mut self, now: Instant, seal: Reconfigure) -> Value {
        Value { reconfigure: Some(seal), ..self.value(now, Vec::new()) }
    }

    /// Whether no request was ever proposed in this cluster.
    pub fn has_no_requests(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Replicated time continues from the last one in the log, at the pace of this replica's
    /// monotonic clock (rule 11).
    fn time(&mut self, now: Instant) -> u64 {
        self.time_us += now.since_us(self.time_at);
        self.time_at = self.time_at.max(now);
        self.time_us
    }

    /// The last sequence that a quorum holds durably in this view, given the primary's own vote.
    /// `sealing`: the seal of the epoch, and the feature level below which a peer's program does not
    /// know what a seal forbids, so that its vote for it does not count (rule M12).
    pub fn chosen(
        &self,
        own: Option<Sequence>,
        quorum: usize,
        sealing: Option<(Sequence, FeatureLevel)>,
    ) -> Option<Sequence> {
        let vote = |peer: &Progress| match sealing {
            Some((seal, level)) if peer.highest_level < level => peer.matched.min(seal.previous()),
            _ => peer.matched,
        };
        let mut votes: Vec<Sequence> = self.voters().map(vote).chain(own).collect();
        votes.sort_unstable_by(|a, b| b.cmp(a));
        votes.get(quorum - 1).copied().filter(|s| *s > Sequence::ZERO)
    }

    /// How many peers confirmed this view in the read round `round` or a later one.
    pub fn confirmations(&self, round: u64) -> usize {
        self.voters().filter(|p| p.read_round >= round).count()
    }

    fn voters(&self) -> impl Iterator<Item = &Progress> {
        self.peers.values().filter(|p| p.is_voter)
    }

    /// Tracks `disk` as that replica's from now on, in place of any other: an observer's disk that
    /// replaces a lost one, or the voter's own disk that has come back.
    pub fn track_disk(&mut self, replica: ReplicaId, disk: DiskId, is_voter: bool, now: Instant) {
        if self.peers.get(&replica).is_none_or(|progress| progress.disk != disk) {
            let mut progress = Progress::probing(disk, self.first_own(), now);
            // No probe number is used twice in a view.
            progress.probe += self.peers.get(&replica).map_or(0, |former| former.probe);
            progress.is_voter = is_voter;
            self.peers.insert(replica, progress);
        }
    }

    /// The peers whose grants are still running: they let no other replica lead.
    pub fn grantors(&self, now: Instant) -> impl Iterator<Item = ReplicaId> {
        self.peers.iter().filter(move |(_, p)| p.is_voter && now < p.leased_until).map(|(id, _)| *id)
    }

    /// How many voting peers were heard from within `within_us`.
    pub fn heard(&self, now: Instant, within_us: u64) -> usize {
        self.voters().filter(|p| now.since_us(p.last_heard) < within_us).count()
    }

    /// Pretends that everything so far happened at `at`.
    pub fn restart_clocks(&mut self, at: Instant) {
        self.time_at = at;
        for progress in self.peers.values_mut() {
            progress.last_progress = at;
            progress.last_heard = at;
        }
    }

    /// Asks every peer for an answer.
    pub fn request_answers(&mut self) {
        self.peers.values_mut().for_each(Progress::request_answer);
    }
}

/// Takes the first `count` requests out of a batch.
fn split(batch: &mut RequestBatch, count: usize) -> RequestBatch {
    let first = batch.first + count as u64;
    let payloads = batch.payloads.split_off(count);
    let voids = batch.voids.split_off(batch.voids.partition_point(|number| *number < first));
    let rest = RequestBatch { first, payloads, voids, ..*batch };
    std::mem::replace(batch, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposer() -> Proposer {
        Proposer::new(View(257), Sequence(1), View::BIRTH, LogEnd::default(), Instant(0))
    }

    fn payloads(count: usize) -> Vec<Bytes> {
        vec![Bytes::from_static(b"0123456789"); count]
    }

    #[test]
    fn requests_enter_once_and_without_holes() {
        let mut proposer = proposer();
        let disk = DiskId(1);
        assert_eq!(proposer.admit(disk, Boot(1), 1, payloads(3), Vec::new()), Admission::Taken);
        assert_eq!(proposer.admit(disk, Boot(1), 5, payloads(1), Vec::new()), Admission::Gap(4));
        assert_eq!(proposer.admit(disk, Boot(1), 2, payloads(4), Vec::new()), Admission::Taken);
        let value = proposer.pack(Instant(0), 1000);
        let numbers: Vec<(u64, usize)> = value.batches.iter().map(|b| (b.first, b.payloads.len())).collect();
        assert_eq!(numbers, [(1, 3), (4, 2)]);
    }

    #[test]
    fn a_value_is_cut_at_its_size_and_the_rest_waits_in_order() {
        let mut proposer = proposer();
        proposer.admit(DiskId(1), Boot(1), 1, payloads(5), Vec::new());
        proposer.admit(DiskId(2), Boot(1), 1, payloads(1), Vec::new());
        let sizes = |v: Value| v.batches.iter().map(|b| (b.first, b.payloads.len())).collect::<Vec<_>>();
        assert_eq!(sizes(proposer.pack(Instant(0), 25)), [(1, 2)]);
        assert_eq!(sizes(proposer.pack(Instant(0), 25)), [(3, 2)]);
        assert_eq!(sizes(proposer.pack(Instant(0), 5)), [(5, 1)]);
        assert_eq!(sizes(proposer.pack(Instant(0), 25)), [(1, 1)]);
        assert!(!proposer.has_waiting());
    }

    #[test]
    fn voids_go_into_the_log_by_number_wherever_a_batch_is_cut() {
        let mut proposer = proposer();
        proposer.admit(DiskId(1), Boot(1), 1, payloads(2), Vec::new());
        // Some of the repeated requests are known, and a sender may claim anything.
        proposer.admit(DiskId(1), Boot(1), 1, payloads(6), vec![6, 1, 4, 4, 0, 99]);
        let mut seen = Vec::new();
        while proposer.has_waiting() {
            for batch in proposer.pack(Instant(0), 15).batches {
                seen.extend(batch.into_requests().map(|(number, payload)| (number, payload.is_some())));
            }
        }
        assert_eq!(seen, [(1, true), (2, true), (3, true), (4, false), (5, true), (6, false)]);
        assert_eq!(proposer.waiting_bytes, 0);
    }

    #[test]
    fn sessions_of_unknown_disks_and_bytes_that_wait_are_bounded() {
        let mut proposer = proposer();
        for disk in 0..MAX_SESSIONS as u128 {
            assert!(proposer.has_room(DiskId(disk), false, 1 << 20));
            proposer.admit(DiskId(disk), Boot(1), 1, payloads(1), Vec::new());
        }
        assert!(!proposer.has_room(DiskId(1 << 70), false, 1 << 20));
        assert!(proposer.has_room(DiskId(1 << 70), true, 1 << 20), "a voter is always served");
        assert!(proposer.has_room(DiskId(5), false, 1 << 20));
        assert!(!proposer.has_room(DiskId(5), true, 10 * MAX_SESSIONS), "all of it waits");
    }

    #[test]
    fn the_quorum_index_counts_sorted_votes() {
        let mut proposer = proposer();
        for (id, matched) in [(1, 9), (2, 4)] {
            let mut progress = Progress::streaming(DiskId(id.into()), Sequence(1), View::BIRTH, Instant(0));
            progress.matched = Sequence(matched);
            proposer.peers.insert(ReplicaId(id), progress);
        }
        assert_eq!(proposer.chosen(Some(Sequence(6)), 2, None), Some(Sequence(6)));
        assert_eq!(proposer.chosen(None, 2, None), Some(Sequence(4)));
        assert_eq!(proposer.chosen(Some(Sequence(6)), 3, None), Some(Sequence(4)));
    }

    #[test]
    fn a_program_that_does_not_know_seals_has_no_vote_for_one() {
        let mut proposer = proposer();
        let (seal, level) = (Sequence(9), FeatureLevel(2));
        for id in [1, 2] {
            let mut progress = Progress::streaming(DiskId(id.into()), Sequence(1), View::BIRTH, Instant(0));
            progress.matched = seal;
            progress.highest_level = FeatureLevel(u32::from(id));
            proposer.peers.insert(ReplicaId(id), progress);
        }
        assert_eq!(proposer.chosen(Some(seal), 3, Some((seal, level))), Some(Sequence(8)), "2 of 3 know it");
        assert_eq!(proposer.chosen(Some(seal), 2, Some((seal, level))), Some(seal));
        assert_eq!(proposer.chosen(Some(seal), 3, None), Some(seal));
    }

    #[test]
    fn nothing_is_chosen_while_a_quorum_holds_nothing() {
        let mut proposer = proposer();
        proposer.peers.insert(ReplicaId(1), Progress::streaming(DiskId(1), Sequence(1), View::BIRTH, Instant(0)));
        assert_eq!(proposer.chosen(Some(Sequence(6)), 2, None), None);
    }

    #[test]
    fn a_value_is_filled_to_its_last_byte() {
        let mut proposer = proposer();
        proposer.admit(DiskId(1), Boot(1), 1, payloads(3), Vec::new());
        assert_eq!(proposer.pack(Instant(0), 20).batches[0].payloads.len(), 2);
    }

    #[test]
    fn the_first_request_of_a_message_may_be_a_void() {
        let mut proposer = proposer();
        proposer.admit(DiskId(1), Boot(1), 1, payloads(2), vec![1]);
        assert_eq!(proposer.pack(Instant(0), 1000).batches[0].voids, [1]);
    }

    #[test]
    fn a_peer_counts_as_heard_for_less_than_the_time_asked_for() {
        let mut proposer = proposer();
        proposer.peers.insert(ReplicaId(1), Progress::streaming(DiskId(1), Sequence(1), View::BIRTH, Instant(5)));
        assert_eq!((proposer.heard(Instant(104), 100), proposer.heard(Instant(105), 100)), (1, 0));
    }

    #[test]
    fn a_void_right_behind_the_cut_goes_with_the_rest() {
        let mut proposer = proposer();
        proposer.admit(DiskId(1), Boot(1), 1, payloads(2), vec![2]);
        let parts = [5, 5].map(|bytes| proposer.pack(Instant(0), bytes).batches.remove(0));
        assert_eq!(parts.map(|batch| (batch.first, batch.voids)), [(1, vec![]), (2, vec![2])]);
    }
}
