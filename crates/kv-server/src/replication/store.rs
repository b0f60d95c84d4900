//! The replicas of this process: opened together, stopped together.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use kv_store::{Durability, StoreOptions};
use rsml::core::CoreOptions;
use rsml::transport::{EventSink, InMemoryTransport, SharedMessageBus, TcpOptions, TcpTransport, Transport};
use rsml::wal::{WalOptions, WalStorage};
use rsml::{ConsensusReplica, ReplicaId, ReplicaOptions};
use tokio::runtime::Handle;

use super::executor::KvStoreExecutor;
use crate::config::{Config, EngineKind};
use crate::data_dir::DataDir;
use crate::manager::{ServerError, open_database, shared_resources};
use crate::router::{LocalReader, ReadSlots};

/// How the replicas reach each other.
#[derive(Clone)]
pub enum Network {
    /// At the `peer` addresses of the configuration.
    Tcp,
    /// All replicas are in this process.
    InMemory(SharedMessageBus),
}

/// One replica of this process.
#[derive(Clone)]
pub struct LocalReplicaParts {
    pub id: u32,
    pub reader: LocalReader,
    pub consensus: Arc<ConsensusReplica>,
}

/// Owns the replicas of this process: database, executor, log, transport, consensus.
pub struct ReplicatedKvStore {
    replicas: Vec<LocalReplicaParts>,
    /// Whether the cluster has replicas in other processes, which may go on without this one.
    has_remote_replicas: bool,
}

impl ReplicatedKvStore {
    /// Opens the databases and logs and starts the replicas. Blocks while they recover.
    pub fn start(
        config: &Config,
        data_dir: &DataDir,
        network: &Network,
        runtime: &Handle,
    ) -> Result<ReplicatedKvStore, ServerError> {
        let resources = shared_resources(config)?;
        let slots = ReadSlots::per_processor();
        let mut replicas = Vec::new();
        for id in config.replication.local_ids() {
            let path = data_dir.replica_database(id);
            let database =
                open_database(config, &path, Durability::UntilFlush, &resources, StoreOptions::replicated())?;
            let reader = LocalReader::new(database, slots.clone());
            let consensus = start_replica(config, data_dir, network, runtime, id, &reader)?;
            replicas.push(LocalReplicaParts { id, reader, consensus: Arc::new(consensus) });
        }
        let has_remote_replicas = replicas.len() < config.replication.replicas.len();
        Ok(ReplicatedKvStore { replicas, has_remote_replicas })
    }

    /// By ascending id; never empty.
    pub fn replicas(&self) -> &[LocalReplicaParts] {
        &self.replicas
    }

    /// False once most replicas of this process have stopped for good.
    pub fn is_healthy(&self) -> bool {
        let sound = self.replicas.iter().filter(|replica| replica.consensus.watch().borrow().failed.is_none()).count();
        sound > self.replicas.len() / 2
    }

    /// Stops the replicas and writes their databases out, so that the next start need not apply the log again. Blocks. A
    /// primary first lets a replica of another process lead.
    pub fn shutdown(&self) {
        for replica in &self.replicas {
            replica.consensus.stop(self.has_remote_replicas);
        }
        for replica in &self.replicas {
            if let Err(error) = replica.reader.database().flush() {
                tracing::error!(replica = replica.id, %error, "the database was not written out; the log will be applied again");
            }
        }
    }
}

fn start_replica(
    config: &Config,
    data_dir: &DataDir,
    network: &Network,
    runtime: &Handle,
    id: u32,
    reader: &LocalReader,
) -> Result<ConsensusReplica, ServerError> {
    let failed = |error: &dyn std::fmt::Display| ServerError::Replication(format!("replica {id}: {error}"));
    let segment_bytes = config.replication.wal_segment_mb << 20;
    let wal_options = WalOptions { segment_bytes, ..WalOptions::default() };
    let wal_path = data_dir.replica_wal(id);
    std::fs::create_dir_all(&wal_path).map_err(|error| failed(&error))?;
    let wal = WalStorage::open(wal_path, wal_options).map_err(|error| failed(&error))?;
    let survives_exit = config.storage.engine != EngineKind::Memory;
    let executor = KvStoreExecutor::new(reader.clone(), survives_exit).map_err(|error| failed(&error))?;
    let options = replica_options(config, id)?;
    let me = options.core.me;
    // The library knows addresses and no keys: an error that names the key goes past it.
    let mut not_connected = None;
    let started = ConsensusReplica::start(options, wal, executor, |sink| {
        connect(config, network, runtime, me, sink).map_err(|error| {
            let shown = std::io::Error::other(error.to_string());
            not_connected = Some(error);
            shown
        })
    });
    started.map_err(|error| not_connected.unwrap_or_else(|| failed(&error)))
}

fn connect(
    config: &Config,
    network: &Network,
    runtime: &Handle,
    me: ReplicaId,
    sink: EventSink,
) -> Result<Arc<dyn Transport>, ServerError> {
    if let Network::InMemory(bus) = network {
        return Ok(Arc::new(InMemoryTransport::new(me, bus, sink)));
    }
    let replication = &config.replication;
    let mut listen = None;
    let mut peers = Vec::new();
    for replica in &replication.replicas {
        let key = replication.peer_key(replica.id);
        if replica.id == u32::from(me.0) {
            let address = replica.peer.resolve().map_err(ServerError::listen(&key, &replica.peer))?;
            let listener = std::net::TcpListener::bind(address).map_err(ServerError::listen(&key, &replica.peer))?;
            listen = Some((key, address, listener));
        } else {
            let unresolved =
                |error| ServerError::Replication(format!("cannot resolve {} ({key}): {error}", replica.peer));
            peers.push((ReplicaId(replica.id as u8), replica.peer.resolve().map_err(unresolved)?));
        }
    }
    let (key, address, listener) = listen.expect("the configuration lists every local replica");
    let mut options = TcpOptions::new(me, address, peers);
    options.listener = Some(listener);
    options.reconnect_max_ms = replication.retry_ms;
    let transport = TcpTransport::start(options, sink, runtime).map_err(ServerError::listen(&key, address))?;
    Ok(Arc::new(transport))
}

fn replica_options(config: &Config, id: u32) -> Result<ReplicaOptions, ServerError> {
    let replication = &config.replication;
    let replica_id = |id: u32| ReplicaId(u8::try_from(id).expect("the configuration bounds replica ids"));
    let ids = replication.replicas.iter().map(|replica| replica_id(replica.id)).collect();
    let mut core = CoreOptions::new(replica_id(id), ids, random()? as u64);
    core.heartbeat_us = replication.heartbeat_ms * 1000;
    core.election_min_us = replication.election_timeout_min_ms * 1000;
    core.election_max_us = replication.election_timeout_max_ms * 1000;
    core.retry_us = replication.retry_ms * 1000;
    core.max_batch_bytes = replication.max_batch_bytes;
    core.max_in_flight_values = replication.max_in_flight_values as u64;
    let no_primary_wait = Duration::from_millis(config.server.no_primary_wait_ms);
    Ok(ReplicaOptions { no_primary_wait, ..ReplicaOptions::new(core, random()?, random()?) })
}

/// From the system's source of randomness: names of disks and clusters must never meet.
fn random() -> Result<u128, ServerError> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| ServerError::Replication(format!("/dev/urandom cannot be read: {error}")))?;
    Ok(u128::from_ne_bytes(bytes))
}
