//! The document that says which data a recovery keeps.

use serde::{Deserialize, Serialize};

use super::error::RecoverError;

/// The form of a plan.
pub(super) const FORMAT: u32 = 1;

/// Which data a recovery keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The form of this document.
    pub format: u32,
    /// The version of the program that made it.
    pub program: String,
    /// The cluster that is recovered.
    pub cluster_id: String,
    /// The replica whose log and database are kept.
    pub replica: u32,
    /// The name of its disk.
    pub disk_id: String,
    /// How often it had been started when it was inspected.
    pub boot: u64,
    /// The view that it had promised.
    pub promised: u64,
    /// The view that its log belongs to.
    pub accepted_view: u64,
    /// The last entry of its log.
    pub log_last: u64,
    /// Entries through this one are kept.
    pub keep_through: u64,
    /// At least so far entries are known as chosen.
    pub committed: u64,
    /// The last entry that the database had applied.
    pub applied: u64,
    /// The replicas that were inspected.
    pub survivors: Vec<u32>,
    /// The voters that were not.
    pub lost_voters: Vec<u32>,
    /// In words: which data are kept, and which may be lost or come back.
    pub consequences: Vec<String>,
}

impl Plan {
    /// Reads a plan from its JSON.
    ///
    /// # Errors
    /// It is none, or one of a later program.
    pub fn from_json(text: &str, name: &str) -> Result<Plan, RecoverError> {
        let wrong = |reason: String| {
            RecoverError::Input(format!(
                "{name} holds no result of `synodkv recover plan` of this release: {reason}; make the plan again"
            ))
        };
        let plan: Plan = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match plan.format {
            FORMAT => Ok(plan),
            other => Err(wrong(format!("it has format {other}, and this is format {FORMAT}"))),
        }
    }
}
