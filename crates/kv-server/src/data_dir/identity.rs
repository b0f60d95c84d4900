//! The identity of a data directory: whose data it holds.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DataDirError, IDENTITY_FILE, io_error};
use crate::mode::Mode;

pub(super) const IDENTITY_DRAFT: &str = "identity.json.new";
/// Raised when the layout changes in a way that an older program must not touch.
pub(super) const FORMAT: u32 = 1;
/// The format while a recovery is under way: programs that know of none must not touch it.
const RECOVERING_FORMAT: u32 = 2;
/// The format of a witness, which has no rows: programs that know of none would give it some.
const WITNESS_FORMAT: u32 = 3;

/// Whose data a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(super) format: u32,
    pub(crate) mode: Mode,
    /// The replicas whose data is here, ascending; empty in standalone mode.
    pub(crate) replicas: Vec<u32>,
    /// Whether the replica is a witness: its directory holds the log and no rows, for good.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_witness: bool,
    /// Known once the cluster has been bootstrapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_id: Option<String>,
    /// The record of a recovery that has begun and not ended. No server opens the directory
    /// meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recovery: Option<serde_json::Value>,
    /// The record of the last recovery that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_recovery: Option<serde_json::Value>,
}

impl Identity {
    /// The identity of a directory of this format.
    pub(crate) fn new(mode: Mode, replicas: &[u32], cluster_id: Option<String>) -> Identity {
        let mut replicas = replicas.to_vec();
        replicas.sort_unstable();
        let (recovery, last_recovery) = (None, None);
        Identity { format: FORMAT, mode, replicas, is_witness: false, cluster_id, recovery, last_recovery }
    }

    /// The identity of a witness.
    pub(super) fn into_witness(self) -> Identity {
        Identity { format: WITNESS_FORMAT, is_witness: true, ..self }
    }

    /// Whether a server of that identity may use the data of this one.
    pub(super) fn is_of_same_use(&self, other: &Identity) -> bool {
        let use_of = |identity: &Identity| (identity.mode, identity.replicas.clone(), identity.is_witness);
        use_of(self) == use_of(other)
    }

    /// The record of the recovery that is under way.
    pub(crate) fn recovery(&self) -> Option<&serde_json::Value> {
        self.recovery.as_ref()
    }

    /// The record of the last recovery that has ended.
    pub(crate) fn last_recovery(&self) -> Option<&serde_json::Value> {
        self.last_recovery.as_ref()
    }

    /// The same identity while `recovery` is under way.
    pub(crate) fn while_recovering(&self, recovery: serde_json::Value) -> Identity {
        Identity { format: RECOVERING_FORMAT, recovery: Some(recovery), ..self.clone() }
    }

    /// The identity after a recovery, which made the directory one of another cluster.
    pub(crate) fn recovered(&self, cluster_id: String) -> Identity {
        let (recovery, last_recovery) = (None, self.recovery.clone());
        Identity { format: FORMAT, recovery, last_recovery, cluster_id: Some(cluster_id), ..self.clone() }
    }

    pub(crate) fn describe(&self) -> String {
        match (self.mode, self.replicas.as_slice()) {
            (Mode::Standalone, _) => "a standalone server".to_string(),
            (Mode::Replicated, [id]) if self.is_witness => format!("replica {id}, a witness, in replicated mode"),
            (Mode::Replicated, [id]) => format!("replica {id} in replicated mode"),
            (Mode::Replicated, ids) => {
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                format!("replicas {} in one process in replicated mode", ids.join(", "))
            }
        }
    }

    /// The flags with which to start a server on this directory.
    pub(super) fn flags(&self) -> String {
        match (self.mode, self.replicas.as_slice()) {
            (Mode::Standalone, _) => "--mode standalone".to_string(),
            (Mode::Replicated, [id]) if self.is_witness => {
                format!("--node-id {id}, with the --config that says `replication.witness = true`")
            }
            (Mode::Replicated, [id]) => format!("--node-id {id}, with the --config that lists the replicas"),
            (Mode::Replicated, _) => "--mode replicated, without --node-id".to_string(),
        }
    }
}

/// The identity in a file; `None` if there is no such file.
pub(crate) fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", path)(e)),
    };
    let damaged = |reason: String| DataDirError::Damaged { path: path.to_path_buf(), reason };
    // Checks the format first, because a newer one may have other fields.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    let format =
        format.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| damaged("`format` is missing".to_string()))?;
    if format > FORMAT && ![RECOVERING_FORMAT, WITNESS_FORMAT].contains(&format) {
        let dir = path.parent().unwrap_or(path).to_path_buf();
        return Err(DataDirError::NewerFormat { dir, found: format });
    }
    serde_json::from_value(value).map(Some).map_err(|e| damaged(e.to_string()))
}

/// Writes a new file and renames it, so that a crash leaves either the old or the new one,
/// complete.
pub(crate) fn write_identity(root: &Path, identity: &Identity) -> Result<(), DataDirError> {
    let draft = root.join(IDENTITY_DRAFT);
    let mut text = serde_json::to_string_pretty(identity).expect("plain fields always serialize");
    text.push('\n');
    let write = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, root.join(IDENTITY_FILE))?;
        File::open(root)?.sync_all()
    };
    write().map_err(io_error("write", &root.join(IDENTITY_FILE)))
}
