//! The record of a recovery that is under way.

use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// Everything that a recovery has decided when it begins. It is part of the identity of the data
/// directory until the recovery has ended, so that repeating it comes to the same result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryRecord {
    /// What is kept.
    pub plan: Plan,
    /// The id of the new cluster, in hexadecimal.
    pub new_cluster_id: String,
    /// The id of the disk in it, in hexadecimal.
    pub new_disk_id: String,
    /// How many versions are skipped.
    pub bump_versions: u64,
    /// The number in the names of what is kept aside.
    pub number: u32,
}

impl RecoveryRecord {
    /// The name of something that is kept aside.
    pub fn aside(&self, name: &str) -> String {
        aside(name, self.number)
    }
}

/// The name of something that recovery `number` keeps aside.
pub(super) fn aside(name: &str, number: u32) -> String {
    format!("{name}.before-recovery-{number}")
}
