//! `[changes]`: the change journal and the polls for changes.

use std::time::Duration;

use kv_store::{EngineKind, JournalOptions};
use serde::{Deserialize, Serialize};

use super::sources::Sources;
use super::validate::check_bounds;
use super::{ConfigError, StorageSettings};
use crate::changes::DEFAULT_MAX_POLLS;

/// Whether changes are recorded unless the configuration says otherwise. It depends on what that
/// costs a write: see "The change journal" in docs/BENCHMARKS.md.
pub const ENABLED_BY_DEFAULT: bool = true;

/// Most of the journal of a database in memory, in bytes.
const MOST_IN_MEMORY: u64 = 64 << 20;

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
    /// Most polls for changes that wait at a time at each replica of this process.
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
        let most = if engine == EngineKind::Memory { MOST_IN_MEMORY } else { u64::MAX };
        self.enabled.then(|| JournalOptions {
            retention: Duration::from_millis(self.retention_ms),
            max_bytes: (self.max_mb << 20).min(most),
        })
    }
}

pub(super) fn check_changes(
    changes: &ChangesSettings,
    storage: &StorageSettings,
    sources: &Sources,
) -> Result<(), ConfigError> {
    check_bounds(
        &[
            ("changes.retention_ms", changes.retention_ms, 1_000..=30 * 86_400_000),
            ("changes.max_mb", changes.max_mb, 1..=16 << 20),
            ("changes.max_polls", changes.max_polls as u64, 1..=1_000_000),
        ],
        sources,
    )?;
    let (key, window_ms) = ("changes.retention_ms", storage.readable_window_ms);
    if changes.enabled && changes.retention_ms < window_ms {
        let wanted = format!(
            "at least {window_ms}, the value of storage.readable_window_ms: whoever reads rows at a version must be able \
             to go on with the changes after it"
        );
        return Err(ConfigError::value(key, changes.retention_ms, &wanted, &sources.origin(key)));
    }
    Ok(())
}
