//! The proposer: what a primary knows and nobody else. It lives exactly as long as the replica leads one view.
//!
//! Invariants: `matched` of a peer is only what it reported durable *in this view*; a session's requests enter the log in
//! the order of their numbers, without holes and without repetition.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::value::{RequestBatch, Sessions, Value};
use crate::{Boot, DiskId, Instant, ReplicaId, Sequence, View};

/// How far one peer follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The disk that is followed under this replica's id.
    pub disk: DiskId,
    /// Whether its answers are votes.
    pub is_voter: bool,
    /// The next entry to send.
    pub next: Sequence,
    /// Durable there in this view: its vote.
    pub matched: Sequence,
    /// The log there agrees with ours below `next` if it is this accepted view's.
    pub agreed_view: View,
    /// Where its log ends is unknown: nothing but the question is sent until it is answered.
    pub probing: bool,
    pub probe: u64,
    /// Its newest confirmation of this view.
    pub token: u64,
    /// How far it knows the log to be chosen.
    pub commit: Sequence,
    /// It lets nobody else lead before, by this replica's clock.
    pub leased_until: Instant,
    /// Messages under way: their last sequence and bytes.
    in_flight: VecDeque<(Sequence, usize)>,
    in_flight_bytes: usize,
    pub settled: Sequence,
    pub last_progress: Instant,
    pub last_heard: Instant,
    /// An accept must go out even without entries.
    pub due: bool,
    /// ... and wants an answer.
    pub ask: bool,
    /// Entries are being read from storage for it.
    pub reading: bool,
    /// What it needs next is gone from the log: it was told to get a snapshot.
    pub is_behind: bool,
    pub told_commit: Sequence,
    /// The last entry with requests that the peer took: it waits to hear that it is committed.
    pub awaits: Sequence,
}

impl Progress {
    /// Of a voter.
    pub fn new(disk: DiskId, next: Sequence, agreed_view: View, probing: bool, now: Instant) -> Progress {
        Progress {
            disk,
            is_voter: true,
            next,
            matched: Sequence::ZERO,
            agreed_view,
            probing,
            probe: u64::from(probing),
            token: 0,
            commit: Sequence::ZERO,
            leased_until: Instant::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            settled: Sequence::ZERO,
            last_progress: now,
            last_heard: now,
            due: true,
            ask: true,
            reading: false,
            is_behind: false,
            told_commit: Sequence::ZERO,
            awaits: Sequence::ZERO,
        }
    }

    pub fn has_room(&self, window_bytes: usize) -> bool {
        self.in_flight_bytes < window_bytes
    }

    /// Entries through `last` went out in `view`. From here on the peer's log agrees only as far as it received them,
    /// in that view: should it lose them, what it held before says nothing.
    pub fn sent(&mut self, view: View, last: Sequence, bytes: usize, now: Instant) {
        self.agreed_view = view;
        if self.in_flight.is_empty() {
            self.last_progress = now;
        }
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
        self.next = last.next();
    }

    pub fn settle(&mut self, settled: Sequence, now: Instant) {
        if settled > self.settled {
            self.settled = settled;
            self.last_progress = now;
        }
        while self.in_flight.front().is_some_and(|(last, _)| *last <= settled) {
            self.in_flight_bytes -= self.in_flight.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    pub fn is_stuck(&self, now: Instant, retry_us: u64) -> bool {
        !self.in_flight.is_empty() && now.since_us(self.last_progress) >= retry_us
    }

    /// Asks where its log ends.
    pub fn ask_end(&mut self, now: Instant) {
        coverage!("replication.asks_where_log_ends");
        self.probing = true;
        self.probe += 1;
        self.due = true;
        self.ask = true;
        self.last_progress = now;
    }

    /// Its log ends before `next`.
    pub fn restart_at(&mut self, next: Sequence, agreed_view: View) {
        self.probing = false;
        self.next = next;
        self.agreed_view = agreed_view;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.reading = false;
        self.is_behind = false;
    }
}

/// What became of requests handed to the proposer.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    Taken,
    /// Requests before these are missing: this one is expected.
    Gap(u64),
}

/// Sessions of disks that are not the cluster's: each replaced disk leaves one.
const MAX_SESSIONS: usize = 256;

/// Most requests in one batch of a value.
const MAX_BATCH: usize = 1 << 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    pub view: View,
    /// L_v.
    pub adopted: Sequence,
    /// The accepted view of the log that was adopted.
    pub adopted_view: View,
    /// The sessions as the end of the log leaves them.
    sessions: Sessions,
    waiting: VecDeque<RequestBatch>,
    waiting_bytes: usize,
    time_us: u64,
    time_at: Instant,
    pub peers: BTreeMap<ReplicaId, Progress>,
}

impl Proposer {
    pub fn new(
        view: View,
        adopted: Sequence,
        adopted_view: View,
        sessions: Sessions,
        time_us: u64,
        now: Instant,
    ) -> Self {
        Proposer {
            view,
            adopted,
            adopted_view,
            sessions,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            time_us,
            time_at: now,
            peers: BTreeMap::new(),
        }
    }

    /// The no-op of this view, once it is in the log.
    pub fn first_own(&self) -> Sequence {
        self.adopted.next()
    }

    /// Whether requests of that disk may be taken: honest peers keep to a window, and each has one session.
    pub fn has_room(&self, disk: DiskId, is_voter: bool, max_bytes: usize) -> bool {
        let is_known = is_voter || self.sessions.contains_key(&disk);
        self.waiting_bytes < max_bytes && (is_known || self.sessions.len() < MAX_SESSIONS)
    }

    /// Takes the requests that come next in their session; those already in the log are passed over. `voids`: the numbers
    /// of those that are not to be executed.
    pub fn admit(
        &mut self,
        disk: DiskId,
        boot: Boot,
        first: u64,
        mut payloads: Vec<Bytes>,
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
        let known = (last + 1 - first) as usize;
        payloads.drain(..known.min(payloads.len()));
        if payloads.is_empty() {
            return Admission::Taken;
        }
        let end = last + payloads.len() as u64;
        for number in last + 1..=end {
            assert!(session.admit(boot, number), "request {number} does not follow in its session");
        }
        voids.retain(|number| (last + 1..=end).contains(number));
        voids.sort_unstable();
        voids.dedup();
        for number in &voids {
            payloads[(number - last - 1) as usize] = Bytes::new();
        }
        self.sessions.insert(disk, session);
        self.waiting_bytes += payloads.iter().map(Bytes::len).sum::<usize>();
        self.waiting.push_back(RequestBatch { disk_id: disk.0.into(), boot: boot.0, first: last + 1, payloads, voids });
        Admission::Taken
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Packs what waits into one value, up to `max_bytes` of payload (at least one request).
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
        Value { proposed_view: self.view.0, time_us: self.time(now), birth: None, batches }
    }

    /// Replicated time goes on from the last in the log, at the pace of this replica's monotonic clock (rule 11).
    fn time(&mut self, now: Instant) -> u64 {
        self.time_us += now.since_us(self.time_at);
        self.time_at = self.time_at.max(now);
        self.time_us
    }

    /// The last sequence that a quorum holds durably in this view, given the primary's own vote.
    pub fn chosen(&self, own: Option<Sequence>, quorum: usize) -> Option<Sequence> {
        let mut votes: Vec<Sequence> = self.voters().map(|p| p.matched).chain(own).collect();
        votes.sort_unstable_by(|a, b| b.cmp(a));
        votes.get(quorum - 1).copied().filter(|s| *s > Sequence::ZERO)
    }

    /// How many peers confirmed this view in the round `token` or later.
    pub fn confirmations(&self, token: u64) -> usize {
        self.voters().filter(|p| p.token >= token).count()
    }

    fn voters(&self) -> impl Iterator<Item = &Progress> {
        self.peers.values().filter(|p| p.is_voter)
    }

    /// Follows `disk` under that replica's id from now on, whatever disk was followed before: an observer's in the place
    /// of one that is lost, or the voter's own again.
    pub fn meet(&mut self, replica: ReplicaId, disk: DiskId, is_voter: bool, now: Instant) {
        if self.peers.get(&replica).is_none_or(|progress| progress.disk != disk) {
            let mut progress = Progress::new(disk, self.first_own(), View::BIRTH, true, now);
            // No question is asked twice under one number in a view.
            progress.probe += self.peers.get(&replica).map_or(0, |former| former.probe);
            self.peers.insert(replica, Progress { is_voter, ..progress });
        }
    }

    /// The peers that let nobody else lead now.
    pub fn lessors(&self, now: Instant) -> impl Iterator<Item = ReplicaId> {
        self.peers.iter().filter(move |(_, p)| p.is_voter && now < p.leased_until).map(|(id, _)| *id)
    }

    /// How many peers were heard within `within_us`.
    pub fn heard(&self, now: Instant, within_us: u64) -> usize {
        self.voters().filter(|p| now.since_us(p.last_heard) < within_us).count()
    }

    /// As if everything had happened at `at`.
    pub fn restart_clocks(&mut self, at: Instant) {
        self.time_at = at;
        for progress in self.peers.values_mut() {
            progress.last_progress = at;
            progress.last_heard = at;
        }
    }

    pub fn call_all(&mut self) {
        for progress in self.peers.values_mut() {
            progress.due = true;
            progress.ask = true;
        }
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
        Proposer::new(View(257), Sequence(1), View::BIRTH, Sessions::new(), 0, Instant(0))
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
        // Of what comes again some is known, and a sender may say anything.
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
            let mut progress = Progress::new(DiskId(id.into()), Sequence(1), View::BIRTH, false, Instant(0));
            progress.matched = Sequence(matched);
            proposer.peers.insert(ReplicaId(id), progress);
        }
        assert_eq!(proposer.chosen(Some(Sequence(6)), 2), Some(Sequence(6)));
        assert_eq!(proposer.chosen(None, 2), Some(Sequence(4)));
        assert_eq!(proposer.chosen(Some(Sequence(6)), 3), Some(Sequence(4)));
    }
}
