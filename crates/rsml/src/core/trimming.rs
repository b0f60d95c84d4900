//! Letting go of the log's beginning.
//!
//! The database is the snapshot: entries that it has persisted are needed by nobody here. They are kept for peers that
//! lag, as far as `log_keep_bytes` reaches; whoever needs more gets a copy of the database. While such a copy is on its
//! way, the entries that follow it are kept up to a multiple of that: else a large one would be outdated as soon as it
//! has arrived, and another one would have to follow. So the log's size is bounded whatever others do.

use super::replica::Replica;
use crate::{ReplicaId, Sequence};

/// So many times `log_keep_bytes` of log are kept while a replica gets a snapshot.
const KEPT_DURING_CATCH_UP: u64 = 8;

impl Replica {
    /// The own database survives a crash through `sequence`.
    pub(super) fn note_persisted(&mut self, sequence: Sequence, log_bytes: u64) {
        assert!(sequence <= self.learner.applied(), "{sequence} was never applied");
        self.persisted = self.persisted.max(sequence);
        self.log_bytes = log_bytes;
    }

    /// Below what every voter's database has persisted, always; else, when the log has grown too long, below what the own
    /// one has.
    pub(super) fn trim(&mut self) {
        let kept_for_all = self.configuration.disks.keys().map(|id| self.persisted_at(*id)).min();
        let is_catching_up = |id| self.reports.get(id).is_some_and(|report| report.installing > 0);
        let multiple = if self.configuration.disks.keys().any(is_catching_up) { KEPT_DURING_CATCH_UP } else { 1 };
        let upto = match kept_for_all {
            Some(upto) if self.log_bytes <= self.options.log_keep_bytes.saturating_mul(multiple) => {
                upto.min(self.persisted)
            }
            _ => self.persisted,
        };
        let below = upto.next();
        if below > self.first_stored {
            self.first_stored = below;
            self.outputs.trim = Some(below);
        }
    }

    fn persisted_at(&self, id: ReplicaId) -> Sequence {
        let reported = self.reports.get(&id);
        match id == self.options.me {
            true => self.persisted,
            false => reported.map_or(Sequence::ZERO, |report| Sequence(report.persisted.max(report.installing))),
        }
    }
}
