//! Says in the log how copies of databases get on, at the replica that gets one and at the one that sends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant as Clock};

use crate::ReplicaId;
use crate::core::{CopyStatus, ReplicaStatus, SnapshotPiece};

/// Progress is told after so much time, and after each tenth of the copy.
const INTERVAL: Duration = Duration::from_secs(10);
const STEPS: u64 = 10;

/// How far something has come, and what of that was told.
#[derive(Debug)]
pub struct Progress {
    began: Clock,
    told_at: Clock,
    told_bytes: u64,
    bytes: u64,
    total: u64,
}

impl Progress {
    pub fn begin(now: Clock) -> Self {
        Progress { began: now, told_at: now, told_bytes: 0, bytes: 0, total: 0 }
    }

    /// True when it is time to tell.
    pub fn advance(&mut self, bytes: u64, total: u64, now: Clock) -> bool {
        (self.bytes, self.total) = (bytes, total);
        let is_step = total > 0 && bytes < total && (bytes - self.told_bytes.min(bytes)) * STEPS >= total;
        let is_due = is_step || now.saturating_duration_since(self.told_at) >= INTERVAL;
        if is_due {
            (self.told_at, self.told_bytes) = (now, bytes);
        }
        is_due
    }

    pub fn percent(&self) -> u64 {
        (self.bytes * 100).checked_div(self.total).unwrap_or(0)
    }

    /// Since it began.
    pub fn bytes_per_second(&self, now: Clock) -> u64 {
        let us = now.saturating_duration_since(self.began).as_micros().max(1);
        u64::try_from(u128::from(self.bytes) * 1_000_000 / us).unwrap_or(u64::MAX)
    }

    pub fn took(&self, now: Clock) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

/// Follows the copy that a replica gets.
#[derive(Debug, Default)]
pub struct CopyLog {
    current: Option<(CopyStatus, Progress)>,
    installed: u64,
}

impl CopyLog {
    /// Looks at the replica again. Returns how fast the copy under way has come so far, in bytes per second.
    pub fn look(&mut self, core: &ReplicaStatus, now: Clock) -> Option<u64> {
        let is_same = |copy: &CopyStatus| core.copy.as_ref().is_some_and(|c| c.generation == copy.generation);
        if let Some((copy, progress)) = self.current.take_if(|(copy, _)| !is_same(copy)) {
            tell_of_end(core.id, &copy, &progress, core.snapshots_installed > self.installed, now);
        }
        self.installed = core.snapshots_installed;
        let copy = core.copy.clone()?;
        let (_, mut progress) = self.current.take().unwrap_or_else(|| {
            tracing::info!(replica = %core.id, from = %copy.source, "gets a copy of another replica's database");
            (copy.clone(), Progress::begin(now))
        });
        if progress.advance(copy.received, copy.total, now) {
            tracing::info!(replica = %core.id, from = %copy.source, percent = progress.percent(), bytes = copy.received,
                total_bytes = copy.total, bytes_per_second = progress.bytes_per_second(now),
                at_most_bytes_per_second = copy.bytes_per_second, "the copy of a database is under way");
        }
        let rate = progress.bytes_per_second(now);
        self.current = Some((copy, progress));
        Some(rate)
    }
}

fn tell_of_end(id: ReplicaId, copy: &CopyStatus, progress: &Progress, is_in: bool, now: Clock) {
    let (percent, seconds) = (progress.percent(), progress.took(now).as_secs_f64());
    match is_in {
        true => {
            tracing::info!(replica = %id, from = %copy.source, bytes = copy.total, seconds, sequence = %copy.sequence,
            "the copy of a database is in")
        }
        false => tracing::warn!(replica = %id, from = %copy.source, bytes = copy.received, percent, seconds,
            "the copy of a database came to nothing: its source is gone, has made another one, or it was outdated"),
    }
}

/// A copy of this replica's database that a peer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySent {
    pub to: ReplicaId,
    pub bytes: u64,
    pub total: u64,
    /// Since its first piece was asked for.
    pub bytes_per_second: u64,
}

/// Follows the copies that a replica sends.
#[derive(Debug, Default)]
pub struct SentLog {
    /// By peer, with the name of the copy.
    current: BTreeMap<ReplicaId, (u64, Progress)>,
}

impl SentLog {
    /// A piece leaves. One without a copy is none.
    pub fn sent(&mut self, id: ReplicaId, piece: &SnapshotPiece, now: Clock) {
        let (to, bytes, total) = (piece.peer, piece.offset + piece.bytes.len() as u64, piece.total_bytes);
        if piece.id == 0 {
            return;
        }
        if self.current.get(&to).is_none_or(|(copy, _)| *copy != piece.id) {
            if bytes == total && piece.offset > 0 {
                // The last piece once more.
                return;
            }
            tracing::info!(replica = %id, %to, total_bytes = total, sequence = %piece.sequence,
                "sends a copy of its database to another replica");
            self.current.insert(to, (piece.id, Progress::begin(now)));
        }
        let (_, progress) = self.current.get_mut(&to).expect("it was put there just now");
        if progress.advance(bytes, total, now) {
            tracing::info!(replica = %id, %to, percent = progress.percent(), bytes, total_bytes = total,
                bytes_per_second = progress.bytes_per_second(now), "sending a copy of the database");
        }
        if bytes == total {
            let seconds = progress.took(now).as_secs_f64();
            tracing::info!(replica = %id, %to, bytes, seconds, "has sent all of a copy of its database");
            self.current.remove(&to);
        }
    }

    /// Nobody has asked for anything for long.
    pub fn let_go(&mut self, id: ReplicaId) {
        for (to, (_, progress)) in std::mem::take(&mut self.current) {
            tracing::warn!(replica = %id, %to, bytes = progress.bytes, total_bytes = progress.total,
                "the rest of a copy of the database is not asked for any more");
        }
    }

    pub fn under_way(&self, now: Clock) -> Vec<CopySent> {
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
    fn progress_is_told_at_each_tenth_and_after_each_interval() {
        let now = Clock::now();
        let mut progress = Progress::begin(now);
        let told: Vec<u64> = (1..=100).filter(|bytes| progress.advance(*bytes, 100, now)).collect();
        assert_eq!(told, [10, 20, 30, 40, 50, 60, 70, 80, 90]);
        let mut progress = Progress::begin(now);
        let told: Vec<u64> = (1..=25).filter(|s| progress.advance(1, 100, now + Duration::from_secs(*s))).collect();
        assert_eq!(told, [10, 20]);
        assert_eq!(progress.bytes_per_second(now + Duration::from_secs(2)), 0);
    }

    #[test]
    fn nothing_is_known_of_a_copy_whose_first_piece_has_not_come() {
        let now = Clock::now();
        let mut progress = Progress::begin(now);
        assert!(!progress.advance(0, 0, now));
        assert_eq!(progress.percent(), 0);
        progress.advance(500, 1000, now);
        assert_eq!((progress.percent(), progress.bytes_per_second(now + Duration::from_secs(5))), (50, 100));
    }

    #[test]
    fn a_copy_is_under_way_until_its_last_piece_has_left() {
        let (now, mut log) = (Clock::now(), SentLog::default());
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
        let under_way = log.under_way(now + Duration::from_secs(2));
        assert_eq!(under_way, [CopySent { to: ReplicaId(2), bytes: 200, total: 300, bytes_per_second: 100 }]);
        // The last one is lost on its way and asked for again.
        for _ in 0..2 {
            log.sent(ReplicaId(1), &piece(200), now);
            assert_eq!(log.under_way(now), []);
        }
        log.sent(ReplicaId(1), &SnapshotPiece { id: 0, ..piece(0) }, now);
        assert_eq!(log.under_way(now), []);
    }
}
