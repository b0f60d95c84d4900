//! `[changes]`: the change journal and the polls for changes.

use std::time::Duration;

use kv_store::{EngineKind, JournalOptions};
use serde::{Deserialize, Serialize};

use crate::changes::DEFAULT_MAX_POLLS;

/// Whether changes are recorded unless the configuration says otherwise. It depends on what that
/// costs a write: see "What it costs" in docs/CHANGES.md.
pub const ENABLED_BY_DEFAULT: bool = true;

/// Upper limit for the journal of a database in memory.
const MAX_BYTES_IN_MEMORY: u64 = 64 << 20;

/// `[changes]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChangesSettings {
    /// Whether there is a change journal.
    pub enabled: bool,
    /// How long a change can be read, unless `max_mb` is too little.
    pub retention_ms: u64,
    /// Upper limit for the journal of each replica of this process.
    pub max_mb: u64,
    /// Maximum number of polls for changes that wait at a time at each replica of this process.
    pub max_polls: usize,
}

impl Default for ChangesSettings {
    fn default() -> Self {
        ChangesSettings {
            enabled: ENABLED_BY_DEFAULT,
            retention_ms: 600_000,
            max_mb: 1024,
            max_polls: DEFAULT_MAX_POLLS,
        }
    }
}

impl ChangesSettings {
    /// How much a journal of a database on this engine keeps; `None`: there is none.
    pub fn journal(&self, engine: EngineKind) -> Option<JournalOptions> {
        let most = if engine == EngineKind::Memory { MAX_BYTES_IN_MEMORY } else { u64::MAX };
        self.enabled.then(|| JournalOptions {
            retention: Duration::from_millis(self.retention_ms),
            max_bytes: (self.max_mb << 20).min(most),
        })
    }
}
