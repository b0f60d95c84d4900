//! The router of replicated mode. A write is answered after the replicas have agreed on it, and a
//! linearizable read first obtains a read point. Any replica serves any client, because consensus
//! forwards to the primary what only the primary can do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kv_api::{ChangesQuery, KvError, KvOperation, KvOutcome, LoggedWrite, ReadAt, decode_verdict};
use rsml::{DriverStatus, ReadError, RequestError};
use stage_times::Stage;

use super::local_replicas::{LocalReplica, LocalReplicas};
use crate::router::{RequestContext, RequestRouter, WriteSettings, authorized};

/// Passes writes to consensus, and reads from a local database after it has obtained a read point.
///
/// A primary in this process is used directly. While a connection has writes in flight, it stays
/// with the replica that received them, so that its writes keep their order if the primary changes.
pub struct ConsensusRouter {
    local: Arc<LocalReplicas>,
    settings: WriteSettings,
    pins: Pins,
}

/// The connections with writes in flight, and their replicas.
#[derive(Default)]
struct Pins(Mutex<HashMap<u64, Pin>>);

/// The replica that has a connection's unanswered writes, and their number.
#[derive(Debug, PartialEq, Eq)]
struct Pin {
    replica: usize,
    writes: usize,
}

impl Pins {
    /// Begins a write of the connection. Returns the replica of the connection's other writes, or
    /// `preferred`.
    fn begin(&self, connection: u64, preferred: usize) -> usize {
        let mut pins = self.0.lock().expect("no holder of this lock panics");
        let pin = pins.entry(connection).or_insert(Pin { replica: preferred, writes: 0 });
        pin.writes += 1;
        pin.replica
    }

    fn end(&self, connection: u64) {
        let mut pins = self.0.lock().expect("no holder of this lock panics");
        if let Some(pin) = pins.get_mut(&connection) {
            pin.writes -= 1;
            if pin.writes == 0 {
                pins.remove(&connection);
            }
        }
    }
}

impl ConsensusRouter {
    /// A router over the replicas of this process.
    pub fn new(local: Arc<LocalReplicas>, settings: WriteSettings) -> Self {
        ConsensusRouter { local, settings, pins: Pins::default() }
    }

    /// The index of the replica to use: a local primary, or else the first that has not failed.
    fn preferred(&self) -> usize {
        let replicas = self.local.replicas();
        if replicas.len() == 1 {
            return 0;
        }
        let primary = replicas.iter().position(|replica| replica.consensus.is_primary());
        let sound = || replicas.iter().position(|replica| replica.consensus.watch().borrow().failed.is_none());
        primary.or_else(sound).unwrap_or(0)
    }

    /// Proposes before its first wait, so that writes happen in the order in which the caller polls
    /// them first.
    async fn write(
        &self,
        write: impl FnOnce(&LocalReplica) -> LoggedWrite + Send,
        context: &RequestContext,
    ) -> Result<KvOutcome, KvError> {
        let pinned = PinnedWrite::begin(self, context.connection_id);
        let replica = &self.local.replicas()[pinned.replica];
        let payload = authorized(write(replica), context, &replica.reader.database())?.to_bytes();
        let started = Instant::now();
        let outcome = replica.consensus.execute_request_async(payload, context.deadline.into_std()).await;
        drop(pinned);
        match outcome {
            Ok(bytes) => decode_verdict(&bytes)?.map(KvOutcome::Committed),
            Err(RequestError::Overloaded) => Err(KvError::Overloaded(RequestError::Overloaded.to_string())),
            Err(RequestError::StorageFull) => Err(KvError::StorageFull(RequestError::StorageFull.to_string())),
            Err(RequestError::NotExecuted(_)) => Err(self.no_primary(replica, started.elapsed())),
            Err(error @ RequestError::GivenUp) => Err(KvError::Timeout(error.to_string())),
            Err(RequestError::Unknown(reason)) => Err(KvError::CommitUnknown(reason)),
        }
    }

    /// The error for a request that was definitely not executed. It names the primary if one is
    /// known, or else explains what a primary needs.
    fn no_primary(&self, replica: &LocalReplica, waited: Duration) -> KvError {
        let primary = replica.consensus.primary().map(|id| u32::from(id.0)).filter(|id| *id != replica.id);
        match primary.and_then(|id| self.local.members().get(id).cloned()) {
            Some(member) => KvError::NotPrimary { endpoint: member.thrift.to_string(), node: member.id },
            None => KvError::NoPrimary(self.why_no_primary(&replica.consensus.status(), waited)),
        }
    }

    fn why_no_primary(&self, status: &DriverStatus, waited: Duration) -> String {
        if let Some(reason) = &status.failed {
            return format!("replica {} has stopped: {reason}", status.core.id);
        }
        let (members, waited_ms) = (self.local.members(), waited.as_millis());
        if self.local.is_witness() {
            let full = members.iter().filter(|member| member.id != u32::from(status.core.id.0));
            let reached: Vec<&str> = full.map(|member| member.thrift.as_str()).collect();
            return format!(
                "replica {} is a witness, which holds no data and serves no client, and it knows no primary now: ask the \
                 others, at {}",
                status.core.id,
                reached.join(", ")
            );
        }
        if status.core.epoch > rsml::Epoch::FIRST && members.get(u32::from(status.core.id.0)).is_none() {
            let reached: Vec<&str> = members.iter().map(|member| member.thrift.as_str()).collect();
            return format!(
                "replica {} is no member of the cluster any more: ask the members, at {}",
                status.core.id,
                reached.join(", ")
            );
        }
        let (replicas, majority) = (members.count(), members.majority());
        if status.core.cluster_id == rsml::ClusterId::NONE {
            return format!(
                "waited {waited_ms} ms, and replica {} belongs to no cluster yet: a first start needs all {replicas} \
                 configured replicas running (if the others have a cluster already, this disk is none of its disks)",
                status.core.id
            );
        }
        if status.core.role == "primary" && !status.core.recovered {
            return format!(
                "waited {waited_ms} ms, and replica {} has just begun to lead: it is still applying earlier entries, \
                 at sequence {} of {}",
                status.core.id, status.digest_sequence, status.core.commit
            );
        }
        format!(
            "waited {waited_ms} ms for one that a majority follows: {majority} of the {replicas} replicas must be running and \
             reach each other"
        )
    }

    async fn barrier(&self, replica: &LocalReplica, context: &RequestContext) -> Result<(), KvError> {
        let begun = Instant::now();
        match replica.consensus.read_barrier(context.deadline.into_std()).await {
            Ok(_) => {
                replica.reader.stages().observe(Stage::ReadPoint, begun.elapsed());
                Ok(())
            }
            Err(ReadError::NoPrimary { waited_ms }) => Err(self.no_primary(replica, Duration::from_millis(waited_ms))),
            Err(error @ ReadError::Overloaded) => Err(KvError::Overloaded(error.to_string())),
            Err(error @ (ReadError::Stopped(_) | ReadError::Witness)) => Err(KvError::Storage(error.to_string())),
        }
    }

    /// Any replica has the same changes; one that lags waits.
    async fn read_changes(&self, query: &ChangesQuery, context: &RequestContext) -> Result<KvOutcome, KvError> {
        let replica = self.sound_replica()?;
        let changes = replica.reader.poll_changes(query, context.hurry.as_deref(), context.deadline).await?;
        // It may have stopped meanwhile, because its rows are wrong.
        self.sound_replica()?;
        Ok(KvOutcome::Changes(changes))
    }

    /// The replica for a read.
    fn sound_replica(&self) -> Result<&LocalReplica, KvError> {
        let replica = &self.local.replicas()[self.preferred()];
        match &replica.consensus.watch().borrow().failed {
            // Its rows cannot be trusted, whatever stopped it.
            Some(failure) => Err(KvError::Storage(format!("replica {} has stopped: {failure}", replica.id))),
            None => Ok(replica),
        }
    }

    async fn read(&self, operation: KvOperation, at: ReadAt, context: &RequestContext) -> Result<KvOutcome, KvError> {
        let replica = self.sound_replica()?;
        let applied = || replica.reader.database().applied_version();
        let version = match at {
            ReadAt::Stale => applied(),
            ReadAt::Version(version) => {
                if version > applied() {
                    // After this barrier everything acknowledged so far is applied, so a newer
                    // version does not exist.
                    self.barrier(replica, context).await?;
                }
                if version > applied() {
                    return Err(KvError::FutureVersion { read_version: version.0, current: applied().0 });
                }
                version
            }
            ReadAt::Linearizable => {
                self.barrier(replica, context).await?;
                applied()
            }
        };
        replica.reader.read(operation, version, context.deadline).await
    }
}

#[async_trait]
impl RequestRouter for ConsensusRouter {
    async fn route(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError> {
        if self.local.is_witness() {
            return Err(self.no_primary(&self.local.replicas()[0], Duration::ZERO));
        }
        match operation {
            KvOperation::AtomicCommit(commit) => {
                let write = |replica: &LocalReplica| self.settings.commit(commit, &replica.reader.database());
                self.write(write, context).await
            }
            KvOperation::ChangeFamily(change) => self.write(|_| self.settings.family(change), context).await,
            KvOperation::ChangeAccess(change) => self.write(|_| self.settings.access(change), context).await,
            KvOperation::ClockTick => self.write(|_| self.settings.clock_tick(), context).await,
            KvOperation::ReadChanges(query) => self.read_changes(&query, context).await,
            KvOperation::ReadVersion => self.read(operation, ReadAt::Linearizable, context).await,
            KvOperation::Get { at, .. } | KvOperation::GetRange { at, .. } => self.read(operation, at, context).await,
        }
    }
}

/// Keeps a connection with its replica while a write of it is in flight.
struct PinnedWrite<'a> {
    router: &'a ConsensusRouter,
    connection: u64,
    replica: usize,
}

impl<'a> PinnedWrite<'a> {
    fn begin(router: &'a ConsensusRouter, connection: u64) -> Self {
        let preferred = router.preferred();
        if router.local.replicas().len() == 1 || connection == 0 {
            return PinnedWrite { router, connection: 0, replica: preferred };
        }
        PinnedWrite { router, connection, replica: router.pins.begin(connection, preferred) }
    }
}

impl Drop for PinnedWrite<'_> {
    fn drop(&mut self) {
        if self.connection != 0 {
            self.router.pins.end(self.connection);
        }
    }
}

/// The time limit for internal callers that set no deadline.
pub(super) const INTERNAL_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_a_connection_stay_with_the_replica_that_has_earlier_ones() {
        let pins = Pins::default();
        assert_eq!(pins.begin(7, 0), 0);
        // Another replica leads from now on.
        assert_eq!(pins.begin(7, 2), 0, "the first is still under way");
        assert_eq!(pins.begin(8, 2), 2, "another connection has none");
        pins.end(7);
        assert_eq!(pins.begin(7, 1), 0, "one is still under way");
        pins.end(7);
        pins.end(7);
        assert_eq!(pins.begin(7, 1), 1, "all have ended");
        pins.end(7);
        pins.end(8);
        assert!(pins.0.lock().expect("no panic").is_empty(), "what has ended leaves nothing behind");
    }
}
