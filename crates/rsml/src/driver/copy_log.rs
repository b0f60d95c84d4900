//! Logs the progress of copies of databases: on the replica that fetches one, and on the one that
//! sends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as StdInstant};

use crate::ReplicaId;
use crate::core::{CopyStatus, ReplicaStatus, SnapshotPiece};

/// Progress is logged at this interval, and also after each tenth of the copy.
const INTERVAL: Duration = Duration::from_secs(10);
const STEPS: u64 = 10;

/// The progress of a copy, and how much of it was logged.
#[derive(Debug)]
pub struct Progress {
    began: StdInstant,
    logged_at: StdInstant,
    logged_bytes: u64,
    bytes: u64,
    total: u64,
}

impl Progress {
    pub fn begin(now: StdInstant) -> Self {
        Progress { began: now, logged_at: now, logged_bytes: 0, bytes: 0, total: 0 }
    }

    /// Returns whether it is time to log the progress.
    pub fn advance(&mut self, bytes: u64, total: u64, now: StdInstant) -> bool {
        (self.bytes, self.total) = (bytes, total);
        let is_step = total > 0 && bytes < total && (bytes - self.logged_bytes.min(bytes)) * STEPS >= total;
        let is_due = is_step || now.saturating_duration_since(self.logged_at) >= INTERVAL;
        if is_due {
            (self.logged_at, self.logged_bytes) = (now, bytes);
        }
        is_due
    }

    pub fn percent(&self) -> u64 {
        (self.bytes * 100).checked_div(self.total).unwrap_or(0)
    }

    /// The average since the copy began.
    pub fn bytes_per_second(&self, now: StdInstant) -> u64 {
        let us = now.saturating_duration_since(self.began).as_micros().max(1);
        u64::try_from(u128::from(self.bytes) * 1_000_000 / us).unwrap_or(u64::MAX)
    }

    pub fn took(&self, now: StdInstant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

/// Follows the copy that a replica fetches.
#[derive(Debug, Default)]
pub struct CopyLog {
    current: Option<(CopyStatus, Progress)>,
    installed: u64,
}

impl CopyLog {
    /// Takes note of the replica's status. Returns the average speed of the present copy, in bytes
    /// per second.
    pub fn observe(&mut self, core: &ReplicaStatus, now: StdInstant) -> Option<u64> {
        let is_same = |copy: &CopyStatus| core.copy.as_ref().is_some_and(|c| c.generation == copy.generation);
        if let Some((copy, progress)) = self.current.take_if(|(copy, _)| !is_same(copy)) {
            log_end(core.id, &copy, &progress, core.snapshots_installed > self.installed, now);
        }
        self.installed = core.snapshots_installed;
        let copy = core.copy.clone()?;
        let (_, mut progress) = self.current.take().unwrap_or_else(|| {
            tracing::info!(replica = %core.id, from = %copy.source, "fetching a copy of another replica's database");
            (copy.clone(), Progress::begin(now))
        });
        if progress.advance(copy.received, copy.total, now) {
            tracing::info!(replica = %core.id, from = %copy.source, percent = progress.percent(), bytes = copy.received,
                total_bytes = copy.total, bytes_per_second = progress.bytes_per_second(now),
                at_most_bytes_per_second = copy.bytes_per_second, "fetching a copy of a database");
        }
        let rate = progress.bytes_per_second(now);
        self.current = Some((copy, progress));
        Some(rate)
    }
}

fn log_end(id: ReplicaId, copy: &CopyStatus, progress: &Progress, is_installed: bool, now: StdInstant) {
    let (percent, seconds) = (progress.percent(), progress.took(now).as_secs_f64());
    match is_installed {
        true => {
            tracing::info!(replica = %id, from = %copy.source, bytes = copy.total, seconds, sequence = %copy.sequence,
            "fetched and installed a copy of a database")
        }
        false => tracing::warn!(replica = %id, from = %copy.source, bytes = copy.received, percent, seconds,
            "the copy of a database could not be fetched: its source is gone or has made another copy, or the copy was outdated"),
    }
}

/// A copy of this replica's database that a peer is fetching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySent {
    /// The peer.
    pub to: ReplicaId,
    /// How many bytes were sent.
    pub bytes: u64,
    /// The length of the copy.
    pub total: u64,
    /// The average since the peer asked for the first piece.
    pub bytes_per_second: u64,
}

/// Follows the copies that a replica sends.
#[derive(Debug, Default)]
pub struct SentLog {
    /// For each peer, the id of the copy and its progress.
    current: BTreeMap<ReplicaId, (u64, Progress)>,
}

impl SentLog {
    /// Takes note of a piece that is sent. A piece with id 0 belongs to no copy.
    pub fn sent(&mut self, id: ReplicaId, piece: &SnapshotPiece, now: StdInstant) {
        let (to, bytes, total) = (piece.peer, piece.offset + piece.bytes.len() as u64, piece.total_bytes);
        if piece.id == 0 {
            return;
        }
        if self.current.get(&to).is_none_or(|(copy, _)| *copy != piece.id) {
            if bytes == total && piece.offset > 0 {
                // The last piece is sent again.
                return;
            }
            tracing::info!(replica = %id, %to, total_bytes = total, sequence = %piece.sequence,
                "sending a copy of the database to another replica");
            self.current.insert(to, (piece.id, Progress::begin(now)));
        }
        let (_, progress) = self.current.get_mut(&to).expect("it was put there just now");
        if progress.advance(bytes, total, now) {
            tracing::info!(replica = %id, %to, percent = progress.percent(), bytes, total_bytes = total,
                bytes_per_second = progress.bytes_per_second(now), "sending a copy of the database");
        }
        if bytes == total {
            let seconds = progress.took(now).as_secs_f64();
            tracing::info!(replica = %id, %to, bytes, seconds, "sent a complete copy of the database");
            self.current.remove(&to);
        }
    }

    /// No peer has asked for a piece for a long time.
    pub fn abandon(&mut self, id: ReplicaId) {
        for (to, (_, progress)) in std::mem::take(&mut self.current) {
            tracing::warn!(replica = %id, %to, bytes = progress.bytes, total_bytes = progress.total,
                "the other replica no longer asks for the rest of a copy of the database");
        }
    }

    pub fn in_progress(&self, now: StdInstant) -> Vec<CopySent> {
        let sent = |(to, (_, progress)): (&ReplicaId, &(u64, Progress))| CopySent {
            to: *to,
            bytes: progress.bytes,
            total: progress.total,
            bytes_per_second: progress.bytes_per_second(now),
        };
        self.current.iter().map(sent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_logged_at_each_tenth_and_after_each_interval() {
        let now = StdInstant::now();
        let mut progress = Progress::begin(now);
        let logged: Vec<u64> = (1..=100).filter(|bytes| progress.advance(*bytes, 100, now)).collect();
        assert_eq!(logged, [10, 20, 30, 40, 50, 60, 70, 80, 90]);
        let mut progress = Progress::begin(now);
        let logged: Vec<u64> = (1..=25).filter(|s| progress.advance(1, 100, now + Duration::from_secs(*s))).collect();
        assert_eq!(logged, [10, 20]);
        assert_eq!(progress.bytes_per_second(now + Duration::from_secs(2)), 0);
    }

    #[test]
    fn a_copy_whose_first_piece_has_not_arrived_has_no_progress() {
        let now = StdInstant::now();
        let mut progress = Progress::begin(now);
        assert!(!progress.advance(0, 0, now));
        assert_eq!(progress.percent(), 0);
        progress.advance(500, 1000, now);
        assert_eq!((progress.percent(), progress.bytes_per_second(now + Duration::from_secs(5))), (50, 100));
    }

    #[test]
    fn a_copy_is_in_progress_until_its_last_piece_is_sent() {
        let (now, mut log) = (StdInstant::now(), SentLog::default());
        let piece = |offset: u64| SnapshotPiece {
            peer: ReplicaId(2),
            id: 7,
            offset,
            total_bytes: 300,
            sequence: crate::Sequence(9),
            bytes: bytes::Bytes::from_static(&[0; 100]),
        };
        for offset in [0, 100] {
            log.sent(ReplicaId(1), &piece(offset), now);
        }
        let in_progress = log.in_progress(now + Duration::from_secs(2));
        assert_eq!(in_progress, [CopySent { to: ReplicaId(2), bytes: 200, total: 300, bytes_per_second: 100 }]);
        // The last piece is lost in transit, and the peer asks for it again.
        for _ in 0..2 {
            log.sent(ReplicaId(1), &piece(200), now);
            assert_eq!(log.in_progress(now), []);
        }
        log.sent(ReplicaId(1), &SnapshotPiece { id: 0, ..piece(0) }, now);
        assert_eq!(log.in_progress(now), []);
    }
}
