//! How far one peer follows its primary.

use std::collections::VecDeque;

use crate::{DiskId, FeatureLevel, Instant, Sequence, View};

/// After this many `retry_us` without progress, entries that are being read from storage are taken
/// for lost.
const LOG_READ_RETRIES: u64 = 10;

/// The state of a peer, as its primary sees it.
///
/// ```text
///             says where its log ends
/// +---------+ -----------------------> +-----------+  next entry is on disk only   +------------+
/// | Probing |                          | Streaming | ----------------------------> | ReadingLog |
/// +---------+ <----------------------- +-----------+ <---------------------------- +------------+
///   ^     ^     says there is a gap,         |          entries were read, or none       |
///   |     |     or does not answer           | next entry is trimmed                     |
///   |     |                                  v                                           |
///   |     |     at the next heartbeat  +---------------+                                 |
///   |     +--------------------------- | NeedsSnapshot |                                 |
///   |                                  +---------------+                                 |
///   |        reading takes too long, the peer says there is a gap, or does not answer    |
///   +------------------------------------------------------------------------------------+
/// ```
///
/// Etcd's raft draws the same states as probe, replicate and snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// The end of its log is unknown: it is asked for that, and gets no entries until it has
    /// answered.
    Probing {
        /// The state that the question interrupted.
        interrupted: Interrupted,
    },
    /// It gets entries from memory as they come, as many as its window has room for.
    Streaming,
    /// The entries that it needs next are being read from storage.
    ReadingLog,
    /// The entries that it needs next are trimmed. It has been notified, and fetches a snapshot
    /// from another replica.
    NeedsSnapshot,
}

/// The state that a probe interrupted, which decides when an unanswered probe is replaced by a new
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interrupted {
    /// Nothing but streaming: a new probe once entries in flight make no progress.
    Streaming,
    /// A read of the log, which may still come to an end: a new probe after [`LOG_READ_RETRIES`].
    LogRead,
    /// The peer installs a snapshot: a new probe with each heartbeat, since the answer to an old
    /// one may be from before the snapshot.
    Snapshot,
}

/// How far one peer follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The disk that is tracked under this replica's id.
    pub disk: DiskId,
    /// Whether its answers are votes; an observer's are not.
    pub is_voter: bool,
    /// The highest feature level that its program executes, as its last answer said.
    pub highest_level: FeatureLevel,
    /// The next entry to send.
    pub next: Sequence,
    /// Entries through here are durable there in this view: its vote.
    pub matched: Sequence,
    /// Its log agrees with the primary's below `next`, provided that its accepted view is this one.
    pub agreed_view: View,
    /// Whether entries can be sent to it now, and why not.
    state: PeerState,
    /// The number of the last log-end probe. An answer to an earlier probe does not count.
    pub probe: u64,
    /// The newest read round in which it confirmed that this primary leads.
    pub read_round: u64,
    /// How far it knows the log to be chosen.
    pub commit: Sequence,
    /// It lets nobody else lead before then, by this replica's clock: the lease that it granted.
    pub leased_until: Instant,
    /// The messages with entries that it has not acknowledged: their last sequences and their
    /// bytes.
    in_flight: VecDeque<(Sequence, usize)>,
    in_flight_bytes: usize,
    /// It no longer holds entries through here in a queue, so that they take nothing of its window.
    acknowledged: Sequence,
    /// When it last acknowledged more than before, or was probed.
    pub last_progress: Instant,
    /// When it last answered.
    pub last_heard: Instant,
    /// Whether an accept must be sent even without entries.
    pub accept_due: bool,
    /// Whether that accept asks for an answer at once.
    pub wants_answer: bool,
    /// The commit point that was last sent to it.
    pub last_sent_commit: Sequence,
    /// The last entry with requests of its session: it waits to hear that this one is committed.
    pub awaited_commit: Sequence,
}

impl Progress {
    /// A voter whose log, under accepted view `agreed_view`, is known to agree below `next`.
    pub fn streaming(disk: DiskId, next: Sequence, agreed_view: View, now: Instant) -> Progress {
        Progress {
            disk,
            is_voter: true,
            highest_level: FeatureLevel::FIRST,
            next,
            matched: Sequence::ZERO,
            agreed_view,
            state: PeerState::Streaming,
            probe: 0,
            read_round: 0,
            commit: Sequence::ZERO,
            leased_until: Instant::default(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            acknowledged: Sequence::ZERO,
            last_progress: now,
            last_heard: now,
            accept_due: true,
            wants_answer: true,
            last_sent_commit: Sequence::ZERO,
            awaited_commit: Sequence::ZERO,
        }
    }

    /// A voter of whose log nothing is known. `next`: where the log of the primary ends.
    pub fn probing(disk: DiskId, next: Sequence, now: Instant) -> Progress {
        let state = PeerState::Probing { interrupted: Interrupted::Streaming };
        Progress { state, probe: 1, ..Progress::streaming(disk, next, View::BIRTH, now) }
    }

    /// Whether entries can be sent to it now, and why not.
    pub fn state(&self) -> PeerState {
        self.state
    }

    /// Whether the end of its log is unknown.
    pub fn is_probing(&self) -> bool {
        matches!(self.state, PeerState::Probing { .. })
    }

    /// Whether it may be sent entries now.
    pub fn may_stream(&self, window_bytes: usize) -> bool {
        self.state == PeerState::Streaming && self.in_flight_bytes < window_bytes
    }

    /// Entries through `last` were sent in `view`. From here on its log agrees only as far as it
    /// receives them, in that view: if it loses them, what it held before says nothing.
    pub fn sent(&mut self, view: View, last: Sequence, bytes: usize, now: Instant) {
        self.agreed_view = view;
        if self.in_flight.is_empty() {
            self.last_progress = now;
        }
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
        self.next = last.next();
    }

    /// It no longer holds entries through `acknowledged` in a queue.
    pub fn acknowledge(&mut self, acknowledged: Sequence, now: Instant) {
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            self.last_progress = now;
        }
        while self.in_flight.front().is_some_and(|(last, _)| *last <= acknowledged) {
            self.in_flight_bytes -= self.in_flight.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Whether the end of its log must be asked for, again or for the first time.
    pub fn needs_probe(&self, now: Instant, retry_us: u64, is_heartbeat: bool) -> bool {
        let idle_us = now.since_us(self.last_progress);
        let is_stuck = !self.in_flight.is_empty() && idle_us >= retry_us;
        is_stuck
            || match self.state {
                PeerState::NeedsSnapshot | PeerState::Probing { interrupted: Interrupted::Snapshot } => is_heartbeat,
                PeerState::ReadingLog | PeerState::Probing { interrupted: Interrupted::LogRead } => {
                    idle_us >= retry_us * LOG_READ_RETRIES
                }
                PeerState::Streaming | PeerState::Probing { interrupted: Interrupted::Streaming } => false,
            }
    }

    /// Asks where its log ends, with the next accept.
    pub fn ask_log_end(&mut self, now: Instant) {
        coverage!("replication.asks_where_log_ends");
        let interrupted = match self.state {
            PeerState::Probing { interrupted } => interrupted,
            PeerState::Streaming => Interrupted::Streaming,
            PeerState::ReadingLog => Interrupted::LogRead,
            PeerState::NeedsSnapshot => Interrupted::Snapshot,
        };
        self.state = PeerState::Probing { interrupted };
        self.probe += 1;
        self.request_answer();
        self.last_progress = now;
    }

    /// It has answered the probe: its log ends before `next`, and agrees under accepted view
    /// `agreed_view`.
    pub fn resume_at(&mut self, next: Sequence, agreed_view: View) {
        self.state = PeerState::Streaming;
        self.next = next;
        self.agreed_view = agreed_view;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// The entries that it needs next are being read from storage.
    pub fn start_log_read(&mut self) {
        assert_eq!(self.state, PeerState::Streaming, "entries are read for a peer that would not get them");
        self.state = PeerState::ReadingLog;
    }

    /// A read from storage is done. Whether it was for this peer, and the peer still waits for it:
    /// if it was probed meanwhile, it does not.
    pub fn finish_log_read(&mut self) -> bool {
        let is_awaited = self.state == PeerState::ReadingLog;
        match &mut self.state {
            PeerState::ReadingLog => self.state = PeerState::Streaming,
            PeerState::Probing { interrupted } if *interrupted == Interrupted::LogRead => {
                *interrupted = Interrupted::Streaming;
            }
            _ => {}
        }
        is_awaited
    }

    /// The entries that it needs next are trimmed.
    pub fn require_snapshot(&mut self) {
        assert_eq!(self.state, PeerState::Streaming, "only a peer that gets entries may lack one");
        self.state = PeerState::NeedsSnapshot;
    }

    /// Makes the next accept leave at once, and ask for an answer.
    pub fn request_answer(&mut self) {
        self.accept_due = true;
        self.wants_answer = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_US: u64 = 100;

    fn streaming() -> Progress {
        Progress::streaming(DiskId(1), Sequence(5), View(257), Instant(0))
    }

    #[test]
    fn a_peer_gets_entries_until_its_window_is_full_and_again_once_it_acknowledges() {
        let mut peer = streaming();
        peer.sent(View(257), Sequence(6), 60, Instant(0));
        assert!(peer.may_stream(100));
        peer.sent(View(257), Sequence(7), 60, Instant(0));
        assert!(!peer.may_stream(100));
        peer.acknowledge(Sequence(6), Instant(50));
        assert!(peer.may_stream(100));
        assert!(!peer.needs_probe(Instant(149), RETRY_US, true), "it made progress at 50");
        assert!(peer.needs_probe(Instant(150), RETRY_US, false));
    }

    #[test]
    fn a_probed_peer_gets_nothing_until_it_says_where_its_log_ends() {
        let mut peer = streaming();
        peer.sent(View(257), Sequence(9), 60, Instant(0));
        peer.ask_log_end(Instant(10));
        assert!(peer.is_probing() && !peer.may_stream(100) && peer.accept_due && peer.wants_answer);
        peer.resume_at(Sequence(7), View(1));
        assert_eq!((peer.state(), peer.next), (PeerState::Streaming, Sequence(7)));
        assert!(peer.may_stream(100), "nothing counts as in flight any more");
    }

    #[test]
    fn entries_from_storage_are_for_a_peer_that_still_waits_for_them() {
        let mut peer = streaming();
        peer.start_log_read();
        assert!(!peer.may_stream(100));
        assert!(!peer.needs_probe(Instant(LOG_READ_RETRIES * RETRY_US - 1), RETRY_US, true));
        assert!(peer.needs_probe(Instant(LOG_READ_RETRIES * RETRY_US), RETRY_US, false));
        assert!(peer.finish_log_read() && peer.may_stream(100));
        peer.start_log_read();
        peer.ask_log_end(Instant(0));
        assert!(!peer.finish_log_read() && peer.is_probing());
        assert!(!peer.finish_log_read());
    }

    #[test]
    fn a_peer_that_installs_a_snapshot_is_probed_with_each_heartbeat() {
        let mut peer = streaming();
        peer.require_snapshot();
        assert!(!peer.may_stream(100));
        for _ in 0..2 {
            assert!(!peer.needs_probe(Instant(1 << 40), RETRY_US, false));
            assert!(peer.needs_probe(Instant(0), RETRY_US, true));
            peer.ask_log_end(Instant(0));
        }
        assert_eq!(peer.probe, 2);
        peer.resume_at(Sequence(100), View(257));
        assert!(!peer.needs_probe(Instant(0), RETRY_US, true));
    }

    #[test]
    fn a_window_that_is_full_to_the_byte_has_no_room() {
        let mut peer = streaming();
        peer.sent(View(257), Sequence(6), 99, Instant(0));
        assert!(peer.may_stream(100));
        peer.sent(View(257), Sequence(7), 1, Instant(0));
        assert!(!peer.may_stream(100));
    }

    #[test]
    fn what_was_acknowledged_before_is_no_progress() {
        let mut peer = streaming();
        peer.sent(View(257), Sequence(6), 60, Instant(0));
        peer.sent(View(257), Sequence(7), 60, Instant(0));
        peer.acknowledge(Sequence(6), Instant(10));
        peer.acknowledge(Sequence(6), Instant(50));
        assert!(peer.needs_probe(Instant(10 + RETRY_US), RETRY_US, false));
    }
}
