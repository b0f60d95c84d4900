//! Pins versions, so that they stay readable beyond the window at every replica of this process,
//! and at no other.

use std::time::{Duration, SystemTime};

use kv_api::{KvError, Version};

use super::{KvServiceCore, snapshot_version};
use crate::config::DEFAULT_PIN_SECONDS;
use crate::router::RequestContext;

impl KvServiceCore {
    /// Keeps a version readable, and returns until when. Like a read, it waits for a version that
    /// does not exist yet.
    pub async fn pin_snapshot(
        &self,
        read_version: i64,
        ttl_ms: Option<i64>,
        context: &RequestContext,
    ) -> Result<SystemTime, KvError> {
        let version = snapshot_version(read_version)?;
        let lifetime = self.pin_lifetime(ttl_ms)?;
        self.wait_until_it_exists(version, context).await?;
        let ends = SystemTime::now() + lifetime;
        let databases: Vec<_> = self.parts.replicas.replicas().iter().map(|local| local.reader.database()).collect();
        for (place, database) in databases.iter().enumerate() {
            // Pins in all databases or in none, because any of them may serve the reads.
            database.pin(version, lifetime).inspect_err(|_| {
                databases[..place].iter().for_each(|pinned| pinned.unpin(version));
            })?;
        }
        Ok(ends)
    }

    /// Removes one pin of a version, if there is one.
    pub fn unpin_snapshot(&self, read_version: i64) -> Result<(), KvError> {
        let version = snapshot_version(read_version)?;
        self.parts.replicas.replicas().iter().for_each(|local| local.reader.database().unpin(version));
        Ok(())
    }

    fn pin_lifetime(&self, ttl_ms: Option<i64>) -> Result<Duration, KvError> {
        let Some(ttl_ms) = ttl_ms else { return Ok(Duration::from_secs(DEFAULT_PIN_SECONDS)) };
        let most = self.parts.max_pin;
        let lifetime = u64::try_from(ttl_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        lifetime.filter(|lifetime| *lifetime <= most).ok_or_else(|| {
            let most_ms = most.as_millis();
            KvError::InvalidOperation(format!("ttl_ms = {ttl_ms}; allowed: 1 to {most_ms} (server.max_pin_seconds)"))
        })
    }

    /// Replicas that have not applied the version yet do not delay this: the pin holds once they
    /// have applied it.
    async fn wait_until_it_exists(&self, version: Version, context: &RequestContext) -> Result<(), KvError> {
        let applied = |local: &crate::cluster::LocalDatabase| local.reader.database().applied_version();
        if self.parts.replicas.replicas().iter().map(applied).max() >= Some(version) {
            return Ok(());
        }
        let current = self.read_version(context).await?;
        match version > current {
            true => Err(KvError::FutureVersion { read_version: version.0, current: current.0 }),
            false => Ok(()),
        }
    }
}
