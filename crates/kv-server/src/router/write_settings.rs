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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kv_api::access::{AccessCommand, TokenRecord, WriteAuthority};
    use kv_store::{Durability, MemoryEngine, StoreOptions};
    use tokio::time::Instant;

    use super::*;

    fn database() -> Arc<TransactionalKvDatabase> {
        let engine = Arc::new(MemoryEngine::new(Durability::EveryWrite));
        TransactionalKvDatabase::open(engine, StoreOptions::standalone()).expect("an empty database")
    }

    fn context() -> RequestContext {
        RequestContext::internal(Instant::now())
    }

    fn enabling() -> LoggedWrite {
        let token = TokenRecord { id: 1, sha256: vec![0; 32].into(), ..TokenRecord::default() };
        LoggedWrite::access(AccessCommand::Enable(token).into(), 1)
    }

    #[tokio::test]
    async fn a_write_above_the_level_is_refused_with_the_command_that_raises_it() {
        let database = database();
        let Err(KvError::InvalidOperation(text)) = authorized(enabling(), &context(), &database) else {
            panic!("the log of level 1 holds no such write")
        };
        assert!(text.contains("feature level 2") && text.contains("`synodkv upgrade finalize`"), "{text}");
        let plain = LoggedWrite::clock_tick();
        assert_eq!(authorized(plain.clone(), &context(), &database), Ok(plain));
        database.raise_level(2).expect("this program executes it");
        assert_eq!(authorized(enabling(), &context(), &database), Ok(enabling()));
    }

    #[tokio::test]
    async fn writes_carry_an_authority_from_the_moment_that_it_is_checked() {
        let database = database();
        database.raise_level(2).expect("this program executes it");
        let tick = || authorized(LoggedWrite::clock_tick(), &context(), &database).expect("level 2").authority;
        assert_eq!(tick(), None);
        database.write(enabling()).await.expect("a token of root");
        assert_eq!(tick(), Some(WriteAuthority::server()));
        database.write(LoggedWrite::clock_tick()).await.expect_err("nobody vouches for it");
        let disable = LoggedWrite::access(AccessCommand::Disable(true).into(), 2);
        let disable = authorized(disable, &context(), &database).expect("level 2");
        database.write(disable).await.expect("the server may");
        assert_eq!(tick(), None);
    }
}
