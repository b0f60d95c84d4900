//! The replicas of this process, started together and stopped together.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kv_store::{EngineKind, SharedResources};
use rsml::core::CoreOptions;
use rsml::transport::{
    EventSink, FileError, InMemoryTransport, PeerTls, RenewalStatus, SharedMessageBus, TcpOptions, TcpTransport,
    TlsError, TlsFile, Transport,
};
use rsml::wal::{WalOptions, WalStorage};
use rsml::{
    Addresses, ClusterId, ConsensusReplica, Failure, FailureKind, LevelRange, Membership, ReplicaId, ReplicaOptions,
    StalledThread,
};
use tokio::runtime::Handle;

use super::databases::ReplicaDatabases;
use super::executor::KvStoreExecutor;
use super::members::{Members, addresses, named_by, replica_id};
use super::place::DatabasePlace;
use crate::budget::Budget;
use crate::config::{Address, Config, PeerTlsConfig, ReplicationConfig};
use crate::data_dir::{DataDir, make_directory};
use crate::error::ServerError;
use crate::manager::shared_resources;
use crate::router::{LocalReader, ReadSlots};
use crate::space::SpaceWatch;
use crate::upgrade::{HIGHEST_LEVEL, LOWEST_LEVEL};

/// How the replicas communicate.
#[derive(Clone)]
pub enum Network {
    /// By TCP, at the `peer` addresses of the configuration.
    Tcp,
    /// In memory; all replicas must be in this process.
    InMemory(SharedMessageBus),
}

/// One replica of this process.
#[derive(Clone)]
pub struct LocalReplica {
    /// The replica's id.
    pub id: u32,
    /// Reads its database.
    pub reader: LocalReader,
    /// Its part in consensus.
    pub consensus: Arc<ConsensusReplica>,
    /// The state of the certificates that it shows its peers; `None` without TLS.
    pub certificates: Option<Arc<RenewalStatus>>,
    databases: Arc<ReplicaDatabases>,
    /// The addresses that it announces; `None` if it announces none.
    announced: Option<Addresses>,
}

impl LocalReplica {
    /// Waits until the replica has stopped, and marks its database as damaged if the reason was
    /// that it diverged.
    pub async fn give_up_when_diverged(self) {
        let mut watch = self.consensus.watch();
        if watch.wait_for(|role| role.failed.is_some()).await.is_ok()
            && let Err(error) = tokio::task::spawn_blocking(move || self.give_up_if_diverged()).await
        {
            tracing::error!(%error, "cannot record that the database has diverged");
        }
    }

    /// Gives the database up only if a majority agrees that this is the wrong one. If nobody knows
    /// which database is right, this rule keeps all of them from being discarded.
    fn give_up_if_diverged(&self) {
        match self.consensus.status().failed {
            Some(Failure { kind: FailureKind::Diverged, reason }) => self.databases.note_damage(&reason),
            Some(Failure { kind: FailureKind::DivergedWithoutMajority, .. }) => tracing::error!(
                replica = self.id,
                "an operator has to decide which database is right: see \"Replicas that disagree\" in \
                 docs/OPERATIONS.md"
            ),
            _ => {}
        }
    }
}

/// Owns the replicas of this process: database, executor, log, transport, consensus.
pub struct LocalReplicas {
    replicas: Vec<LocalReplica>,
    space: Arc<SpaceWatch>,
}

/// The common parts with which all replicas of the process start.
struct Start<'s> {
    config: &'s Config,
    budget: &'s Budget,
    data_dir: &'s DataDir,
    network: &'s Network,
    runtime: &'s Handle,
    resources: SharedResources,
    slots: ReadSlots,
    space: Arc<SpaceWatch>,
}

impl LocalReplicas {
    /// Opens the databases and logs and starts the replicas. Blocks while they recover.
    pub fn start(
        config: &Config,
        budget: &Budget,
        data_dir: &DataDir,
        network: &Network,
        runtime: &Handle,
    ) -> Result<LocalReplicas, ServerError> {
        if config.storage.engine == EngineKind::Memory {
            tracing::warn!(
                "storage.engine = \"memory\" is for tests: the log is never trimmed, and every start applies all of it"
            );
        }
        let space = Arc::new(SpaceWatch::new(data_dir.root(), config.storage.min_free_bytes()));
        let (resources, slots) = (shared_resources(config, budget)?, ReadSlots::per_processor());
        let start = Start { config, budget, data_dir, network, runtime, resources, slots, space: space.clone() };
        let ids = config.replication.local_ids();
        let replicas = ids.into_iter().map(|id| start.replica(id)).collect::<Result<_, _>>()?;
        Ok(LocalReplicas { replicas, space })
    }

    /// The watch over the disk space of this process.
    pub fn space(&self) -> &Arc<SpaceWatch> {
        &self.space
    }

    /// The members of the cluster, as the replica knows them that acts in the newest epoch.
    pub fn members(&self) -> Members {
        let membership = self.membership();
        Members::of(&membership, |id| self.addresses_in(&membership, id))
    }

    /// What consensus knows of the members: the replica that acts in the newest epoch.
    pub fn membership(&self) -> Arc<Membership> {
        let known = self.replicas.iter().map(|replica| replica.consensus.membership());
        known.max_by_key(|membership| membership.epoch()).expect("a process has a replica")
    }

    /// Where a replica is reached, as far as this process knows.
    pub fn addresses(&self, id: ReplicaId) -> Addresses {
        self.addresses_in(&self.membership(), id)
    }

    /// A replica of this process is where its settings say. The cluster may not have recorded that
    /// yet.
    fn addresses_in(&self, membership: &Membership, id: ReplicaId) -> Addresses {
        let own = self.replicas.iter().find(|replica| replica.id == u32::from(id.0));
        own.and_then(|replica| replica.announced.clone()).unwrap_or_else(|| membership.addresses(id))
    }

    /// Whether the cluster has replicas in other processes, which may continue without this one.
    pub fn has_remote_replicas(&self) -> bool {
        let is_remote = |id: ReplicaId| self.replicas.iter().all(|replica| replica.id != u32::from(id.0));
        self.membership().members().any(is_remote)
    }

    /// By ascending id; never empty.
    pub fn replicas(&self) -> &[LocalReplica] {
        &self.replicas
    }

    /// Whether the one replica of this process is a witness: it has no rows.
    pub fn is_witness(&self) -> bool {
        self.replicas[0].databases.is_witness()
    }

    /// The reason if a replica of this process has stopped for lack of a resource that may be
    /// available again.
    pub fn wants_restart(&self) -> Option<String> {
        self.replicas.iter().find_map(|replica| {
            let failure = replica.consensus.watch().borrow().failed.clone()?;
            (failure.kind == FailureKind::Starved).then(|| format!("replica {} has stopped: {failure}", replica.id))
        })
    }

    /// The reasons once most replicas of this process have stopped for good.
    pub fn failure(&self) -> Option<String> {
        let failed = |replica: &LocalReplica| {
            let failure = replica.consensus.watch().borrow().failed.clone()?;
            Some(format!("replica {} has stopped: {failure}", replica.id))
        };
        let failures: Vec<String> = self.replicas.iter().filter_map(failed).collect();
        (self.replicas.len() - failures.len() <= self.replicas.len() / 2).then(|| failures.join("; "))
    }

    /// Describes the first stalled thread of a replica of this process, if there is one.
    pub fn stalled(&self) -> Option<String> {
        self.replicas.iter().find_map(|replica| {
            let StalledThread { thread, since, has_ended } = replica.consensus.stalled()?;
            let what = if has_ended { "ended" } else { "has stood still for" };
            let ago = if has_ended { " ago" } else { "" };
            Some(format!("the thread {}-{} {what} {} s{ago}", thread.name(), replica.id, since.elapsed().as_secs()))
        })
    }

    /// Stops the replicas and flushes their databases, so that the next start need not apply the
    /// log again. A primary first lets a replica in another process lead. Blocks.
    pub fn shutdown(&self) {
        for replica in &self.replicas {
            // Otherwise shutdown would block on a write that is waiting for disk space.
            replica.reader.database().stop_waiting_for_space();
            replica.consensus.stop(self.has_remote_replicas());
        }
        for replica in &self.replicas {
            replica.give_up_if_diverged();
            if let Err(error) = replica.reader.database().flush() {
                tracing::error!(
                    replica = replica.id, %error,
                    "flushing the database failed; the next start applies the log again"
                );
            }
        }
    }
}

impl Start<'_> {
    fn replica(&self, id: u32) -> Result<LocalReplica, ServerError> {
        let failed = |error: &dyn std::fmt::Display| ServerError::Replication(format!("replica {id}: {error}"));
        let storage = open_log(self.config, self.data_dir, id).map_err(|error| failed(&error))?;
        let (folder, engine) = (self.data_dir.replica(id), self.config.storage.engine);
        let journal = self.config.changes.journal(engine);
        let databases = match self.config.replication.witness {
            true => ReplicaDatabases::of_witness(id, folder, engine, self.resources.clone()),
            false => ReplicaDatabases::with_journal(id, folder, engine, self.resources.clone(), journal),
        };
        let (space, room) = (self.space.clone(), self.space.clone());
        let local = self.config.replication.local_ids().len() as u64;
        let has_files = self.budget.descriptors.has_room_for_held_logs(local);
        let options = ReplicaOptions {
            has_space: Arc::new(move || space.has_space()),
            has_ample_space: Arc::new(move || has_files && room.has_ample_space()),
            ..replica_options(self.config, self.budget, id)?
        };
        let membership = options.core.membership.clone();
        let recovered = ConsensusReplica::recover(options, storage).map_err(|error| failed(&error))?;
        let cluster_id = recovered.cluster_id();
        let executor = KvStoreExecutor::open(databases.clone(), self.slots.clone(), recovered.generation());
        let executor = executor.map_err(|error| failed(&error))?;
        let reader = executor.reader().clone();
        reader.hub().set_max_polls(self.config.changes.max_polls);
        let ready = recovered.with_database(executor).map_err(|error| failed(&error))?;
        let sink = ready.sink();
        let transport = connect(self.config, self.budget, self.network, self.runtime, membership, cluster_id, sink)?;
        let certificates = transport.certificates();
        let consensus = Arc::new(ready.start(transport));
        let failing = Arc::downgrade(&consensus);
        databases.on_damage(move |reason| {
            if let Some(consensus) = failing.upgrade() {
                let reason = format!("its database is damaged: {reason}");
                consensus.fail(Failure { kind: FailureKind::Damaged, reason });
            }
        });
        let announced = announced(&self.config.replication, id);
        Ok(LocalReplica { id, reader, consensus, certificates, databases, announced })
    }
}

/// Opens the log of a replica of this directory.
pub(crate) fn open_log(config: &Config, data_dir: &DataDir, id: u32) -> std::io::Result<WalStorage> {
    open_log_at(config, &data_dir.replica_wal(id))
}

/// Opens the log of a replica at another place than its own.
pub(crate) fn open_log_at(config: &Config, path: &Path) -> std::io::Result<WalStorage> {
    let replication = &config.replication;
    let options = WalOptions {
        segment_bytes: replication.wal_segment_mb << 20,
        direct_writes: replication.wal_direct_writes,
        ..WalOptions::default()
    };
    let replica = path.parent().expect("it lies in the replica's directory");
    make_directory(replica).map_err(std::io::Error::other)?;
    WalStorage::open(path, options).map_err(std::io::Error::other)
}

fn connect(
    config: &Config,
    budget: &Budget,
    network: &Network,
    runtime: &Handle,
    membership: Membership,
    cluster_id: ClusterId,
    sink: EventSink,
) -> Result<Arc<dyn Transport>, ServerError> {
    let me = membership.me();
    if let Network::InMemory(bus) = network {
        return Ok(Arc::new(InMemoryTransport::new(me, bus, sink)));
    }
    let replication = &config.replication;
    let own = replication.replicas.iter().find(|replica| replica.id == u32::from(me.0));
    let own = replication.listens_at(own.expect("the configuration lists every local replica"));
    let key = replication.peer_key(u32::from(me.0));
    let mut options = TcpOptions::new(own.as_str(), membership);
    options.cluster_id = cluster_id;
    options.listener = listen_now(own).map_err(ServerError::listen(&key, own))?;
    options.reconnect_max_ms = replication.retry_ms;
    options.queue_bytes = budget.memory.replica.peer_queue;
    options.max_strangers = budget.descriptors.strangers as usize;
    options.tls = config.replication.tls.as_ref().map(|tls| peer_tls(tls, me)).transpose()?;
    let transport = TcpTransport::start(options, sink, runtime).map_err(ServerError::listen(&key, own))?;
    Ok(Arc::new(transport))
}

/// How long a start waits for this server's own name to resolve before it continues without it.
const OWN_NAME_PATIENCE: Duration = Duration::from_secs(5);

/// Binds the peer address. `None` if the name has no address yet, or one that this machine does not
/// have yet: the transport tries again by itself, and meanwhile the server runs and reports it. A
/// port in use by another process is an error, because waiting would not help.
fn listen_now(address: &Address) -> std::io::Result<Option<std::net::TcpListener>> {
    let resolved = match address.resolve_within(OWN_NAME_PATIENCE) {
        Ok(resolved) => resolved,
        Err(error) => {
            tracing::warn!(%address, %error, "the server's own peer address cannot be resolved yet; trying again");
            return Ok(None);
        }
    };
    match std::net::TcpListener::bind(resolved) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable && !address.is_literal() => {
            tracing::warn!(%address, %resolved, %error, "this machine does not have the server's own peer address yet; trying again");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Checks whether the replicas of this process could use the files of `[replication.tls]` now.
/// Reads the files.
///
/// # Errors
/// The first file that could not be used, with its key.
pub fn check_certificates(config: &Config) -> Result<(), ServerError> {
    let Some(tls) = &config.replication.tls else { return Ok(()) };
    let ids = config.local_replica_ids();
    ids.into_iter().try_for_each(|id| peer_tls(tls, ReplicaId(id as u8)).map(|_| ()))
}

/// The locations of the certificates, after a check that they are usable.
fn peer_tls(config: &PeerTlsConfig, me: ReplicaId) -> Result<PeerTls, ServerError> {
    let names = config.names.iter().map(|(id, name)| (ReplicaId(*id as u8), name.clone())).collect();
    let mut tls = PeerTls { names, ..PeerTls::new(&config.ca, &config.certificate, &config.key) };
    tls.files.crl.clone_from(&config.crl);
    tls.check(me).map_err(|error| {
        let key = match &error {
            TlsError::File(FileError { file: TlsFile::Ca, .. }) => "replication.tls.ca",
            TlsError::File(FileError { file: TlsFile::Certificate, .. }) => "replication.tls.certificate",
            TlsError::File(FileError { file: TlsFile::Key, .. }) => "replication.tls.key",
            TlsError::File(FileError { file: TlsFile::Crl, .. }) => "replication.tls.crl",
            TlsError::Name { .. } => "replication.replicas[].tls_name",
        };
        ServerError::Replication(format!("{key}: {error}"))
    })?;
    Ok(tls)
}

/// The addresses that replica `id` announces. Replicas of one process talk to each other alone, and
/// share their other listeners.
fn announced(replication: &ReplicationConfig, id: u32) -> Option<Addresses> {
    replication.replica(id).filter(|_| replication.node_id.is_some()).map(addresses)
}

fn replica_options(config: &Config, budget: &Budget, id: u32) -> Result<ReplicaOptions, ServerError> {
    let replication = &config.replication;
    let mut core = CoreOptions::new(replica_id(id), vec![replica_id(id)], random()? as u64);
    core.membership = named_by(replication, id);
    core.bootstraps = !replication.join;
    core.is_witness = replication.witness;
    core.readmit_replaced_disk = replication.readmit_replaced_disk;
    core.announced = announced(replication, id).unwrap_or_default();
    core.heartbeat_us = replication.heartbeat_ms * 1000;
    core.election_min_us = replication.election_timeout_min_ms * 1000;
    core.election_max_us = replication.election_timeout_max_ms * 1000;
    core.retry_us = replication.retry_ms * 1000;
    core.lease_us = replication.lease_ms * 1000;
    core.levels = LevelRange::new(LOWEST_LEVEL, HIGHEST_LEVEL);
    core.raise_after_us = replication.auto_finalize.delay().map(|delay| delay.as_micros() as u64);
    core.max_batch_bytes = replication.max_batch_bytes;
    core.max_in_flight_values = replication.max_in_flight_values as u64;
    core.log_keep_bytes = replication.log_keep_mb << 20;
    core.snapshot_bytes_per_second = replication.snapshot_mb_per_second << 20;
    let memory = &budget.memory.replica;
    core.log_cache_bytes = memory.log_cache;
    core.max_unapplied_bytes = memory.unapplied;
    core.max_request_bytes = memory.requests;
    Ok(ReplicaOptions {
        flush_after_log_bytes: replication.log_flush_mb << 20,
        max_waiting_bytes: memory.received,
        no_primary_wait: Duration::from_millis(config.server.no_primary_wait_ms),
        ..ReplicaOptions::new(core, random()?, random()?)
    })
}

/// A number from the system's source of randomness. Ids of disks and clusters must never collide.
pub(crate) fn random() -> Result<u128, ServerError> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| ServerError::Replication(format!("/dev/urandom cannot be read: {error}")))?;
    Ok(u128::from_ne_bytes(bytes))
}
