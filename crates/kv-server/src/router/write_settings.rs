//! The settings that this server adds to every write that it receives. They are logged with the
//! write, so that replicas with different configurations still decide alike.

use std::time::SystemTime;

use kv_api::access::AccessChange;
use kv_api::{AtomicCommit, FamilyChange, KvError, LoggedWrite};
use kv_store::TransactionalKvDatabase;

use crate::config::Config;
use crate::router::RequestContext;
use crate::upgrade::above_level;

/// The settings of this server for writes.
#[derive(Clone, Debug)]
pub struct WriteSettings {
    readable_window_ms: u64,
    /// Column families that the first write to them creates.
    column_families: Vec<String>,
}

impl WriteSettings {
    /// The settings in this configuration.
    pub fn new(config: &Config) -> Self {
        WriteSettings {
            readable_window_ms: config.storage.readable_window_ms,
            column_families: config.storage.column_families.clone(),
        }
    }

    /// Adds the settings to a commit. `database` is that of any replica, and shows which families
    /// certainly exist.
    pub fn commit(&self, commit: AtomicCommit, database: &TransactionalKvDatabase) -> LoggedWrite {
        let creates = self.missing_families(&commit, database);
        LoggedWrite { creates, ..LoggedWrite::commit(commit).within(self.readable_window_ms) }
    }

    /// Adds the settings to a change of column families.
    pub fn family(&self, change: FamilyChange) -> LoggedWrite {
        LoggedWrite::family(change).within(self.readable_window_ms)
    }

    /// Adds the settings to a change of users and roles.
    pub fn access(&self, change: AccessChange) -> LoggedWrite {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        LoggedWrite::access(change, since_1970.as_micros() as u64).within(self.readable_window_ms)
    }

    /// A clock tick with the settings.
    pub fn clock_tick(&self) -> LoggedWrite {
        LoggedWrite::clock_tick().within(self.readable_window_ms)
    }

    fn missing_families(&self, commit: &AtomicCommit, database: &TransactionalKvDatabase) -> Vec<String> {
        let missing = |name: &&String| !database.has_family(name) && uses(commit, name);
        self.column_families.iter().filter(missing).cloned().collect()
    }
}

/// Adds on whose behalf a write is made, as far as `database` has applied that this is checked.
/// While nobody checks, the log holds what it always did.
///
/// # Errors
/// The log must not hold the write at this feature level.
pub(crate) fn authorized(
    write: LoggedWrite,
    context: &RequestContext,
    database: &TransactionalKvDatabase,
) -> Result<LoggedWrite, KvError> {
    let is_checked = database.enabled_revision() > 0;
    let write = write.on_behalf_of(context.caller.authority().filter(|_| is_checked));
    let (needed, level) = (write.level(), database.level());
    if needed > level { Err(above_level(needed, level)) } else { Ok(write) }
}

fn uses(commit: &AtomicCommit, family: &str) -> bool {
    commit.mutations.iter().any(|mutation| mutation.column_family == family)
        || commit.read_conflicts.iter().any(|key| key.column_family == family)
        || commit.read_conflict_ranges.iter().any(|range| range.column_family == family)
}
