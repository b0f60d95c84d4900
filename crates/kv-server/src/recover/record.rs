//! The record of a recovery that is under way.

use serde::{Deserialize, Serialize};

use super::error::RecoverError;
use super::plan::Plan;

/// Everything that a recovery has decided when it begins. It is part of the identity of the data
/// directory until the recovery has ended, so that repeating it comes to the same result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryRecord {
    /// The plan that it follows.
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
    /// Reads what [`RecoveryRecord::to_value`] returned.
    pub fn from_value(value: &serde_json::Value) -> Result<RecoveryRecord, RecoverError> {
        serde_json::from_value(value.clone()).map_err(|error| {
            RecoverError::Refused(format!(
                "a recovery has begun by a program of another release, whose record cannot be read ({error}): finish it \
                 with that release"
            ))
        })
    }

    /// The record as a part of the identity.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain fields always serialize")
    }

    /// The name of something that is kept aside.
    pub fn aside(&self, name: &str) -> String {
        aside(name, self.number)
    }
}

/// The name of something that recovery `number` keeps aside.
pub(super) fn aside(name: &str, number: u32) -> String {
    format!("{name}.before-recovery-{number}")
}
