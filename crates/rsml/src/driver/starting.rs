//! Starts a replica: recovers its log, joins log and database, and connects it to its peers.

use std::sync::Arc;
use std::time::Instant as StdInstant;

use bytes::Bytes;

use super::core_lock::CoreLock;
use super::core_runner::CoreRunner;
use super::error::StartError;
use super::network::NetworkManager;
use super::options::ReplicaOptions;
use super::receiving;
use super::replica::ConsensusReplica;
use super::shared::ReplicaShared;
use super::status::DriverStatus;
use super::{sync, threads};
use crate::core::{Replica, Start};
use crate::transport::{EventSink, Transport};
use crate::{Applier, ClusterId, DiskId, ExecutionNotifier, Instant, Recovered, ReplicaId, Storage};

impl ConsensusReplica {
    /// Recovers a replica's log: the first step of starting the replica. The next steps are
    /// [`RecoveredReplica::with_database`] and [`ReadyReplica::start`].
    ///
    /// # Errors
    /// [`StartError::Storage`].
    pub fn recover<S: Storage>(options: ReplicaOptions, mut storage: S) -> Result<RecoveredReplica<S>, StartError> {
        let recovered = storage.recover()?;
        Ok(RecoveredReplica { options, storage, recovered })
    }
}

/// A replica whose log is recovered, and which needs its database next.
pub struct RecoveredReplica<S> {
    options: ReplicaOptions,
    storage: S,
    recovered: Recovered,
}

impl<S: Storage> RecoveredReplica<S> {
    /// The generation of the database that belongs to the log.
    pub fn generation(&self) -> u64 {
        self.recovered.hard_state.map_or(0, |hard| hard.generation)
    }

    /// The cluster that the log belongs to; [`ClusterId::NONE`] before it is bootstrapped.
    pub fn cluster_id(&self) -> ClusterId {
        self.recovered.hard_state.map_or(ClusterId::NONE, |hard| hard.cluster_id)
    }

    /// Continues with `executor`, which must have opened the database of
    /// [`RecoveredReplica::generation`].
    ///
    /// If the log begins after the end of the database (because the log was lost, and is empty),
    /// the replica will fetch a copy of a peer's database.
    ///
    /// # Errors
    /// The entries cannot be read, the database is not sound, or log and database do not belong
    /// together.
    pub fn with_database<E: ExecutionNotifier>(self, executor: E) -> Result<ReadyReplica<S, E>, StartError> {
        let RecoveredReplica { options, mut storage, recovered } = self;
        let applier = Applier::new(executor, options.core.levels)?.recording_every(options.core.digest_interval);
        let state = applier.state().clone();
        if recovered.last < state.sequence {
            let (first, last) = (recovered.first, recovered.last);
            return Err(StartError::LogApartFromDatabase { first, last, applied: state.sequence });
        }
        let needs_database = recovered.first > state.sequence.next();
        let entries = if needs_database { Vec::new() } else { storage.load(state.sequence.next())? };
        warn_of_losses(options.core.me, &recovered, &entries, needs_database);
        let new_disk_id = DiskId(options.new_disk_id);
        let start = Start { recovered, entries, state, new_disk_id, new_cluster_id: options.new_cluster_id };
        let started = sync::now();
        let core = Replica::new(options.core.clone(), start, Instant(0));
        Ok(ReadyReplica::new(options, core, started, storage, applier))
    }
}

/// A replica that has recovered completely, and needs a transport to start.
pub struct ReadyReplica<S, E> {
    options: ReplicaOptions,
    core: Replica,
    lock: Arc<CoreLock>,
    storage: S,
    applier: Applier<E>,
}

impl<S: Storage, E: ExecutionNotifier> ReadyReplica<S, E> {
    /// The core's time was 0 at `started`.
    pub(super) fn new(
        options: ReplicaOptions,
        core: Replica,
        started: StdInstant,
        storage: S,
        applier: Applier<E>,
    ) -> Self {
        let status = DriverStatus::first(core.status(), storage.statistics(), applier.state());
        let shared = Arc::new(ReplicaShared::new(&options, started, status));
        shared.set_membership(core.membership().clone());
        ReadyReplica { options, core, lock: Arc::new(CoreLock::new(shared)), storage, applier }
    }

    /// Where the replica's transport must deliver its events. Events that arrive before
    /// [`ReadyReplica::start`] are processed then.
    pub fn sink(&self) -> EventSink {
        receiving::sink(Arc::downgrade(&self.lock))
    }

    /// Starts the replica's threads. `transport` must deliver to [`ReadyReplica::sink`].
    pub fn start(self, transport: Arc<dyn Transport>) -> ConsensusReplica {
        let ReadyReplica { options, core, lock, storage, applier } = self;
        lock.start(CoreRunner::new(core, NetworkManager::new(transport)));
        let threads = threads::spawn(&lock, &options, storage, applier);
        ConsensusReplica::new(lock, options, threads)
    }
}

fn warn_of_losses(id: ReplicaId, recovered: &Recovered, entries: &[Option<Bytes>], needs_database: bool) {
    let lost = entries.iter().filter(|entry| entry.is_none()).count();
    if lost > 0 || !recovered.lost.is_empty() {
        tracing::warn!(replica = id.0, ranges = ?recovered.lost, entries_to_apply = lost,
            "parts of the log are damaged; they are fetched from the other replicas. Check the disk");
    }
    if needs_database {
        tracing::warn!(
            replica = id.0,
            log_begins_at = recovered.first.0,
            "the log begins after the end of the database; a copy of a peer's database will replace it"
        );
    }
}
