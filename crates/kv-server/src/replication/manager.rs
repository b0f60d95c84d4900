//! The server of replicated mode.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rsml::transport::create_shared_message_bus;
use tokio::runtime::Handle;

use super::cluster::ReplicatedCluster;
use super::database::ReplicatedKvDatabase;
use super::local_replicas::{LocalReplica, LocalReplicas, Network};
use super::policy::ReplicatedPolicy;
use super::prometheus::ConsensusCollector;
use super::router::ConsensusRouter;
use crate::config::{Address, Config};
use crate::data_dir::DataDir;
use crate::error::ServerError;
use crate::front_end::{BackEnd, FrontEnd, ListenAddresses};
use crate::health::Liveness;
use crate::manager::{Extension, ServerManager, plan_budget};
use crate::metrics::ServerMetrics;
use crate::mode::Mode;
use crate::ports;
use crate::problems::Problems;
use crate::router::WriteSettings;

/// How long a start waits for a primary if all replicas are in this process. The server also works
/// without one: requests wait.
const FIRST_PRIMARY_WAIT: Duration = Duration::from_secs(5);

/// A server that runs all replicas of a cluster, or one of them.
pub struct ReplicatedServerManager {
    front_end: FrontEnd,
    router: Arc<ConsensusRouter>,
    local: Arc<LocalReplicas>,
    identity: tokio::task::JoinHandle<()>,
    /// Tasks that record which databases have diverged, if replicas stop because of that.
    marking: tokio::task::JoinSet<()>,
    /// The last field, so that the lock is released only after everything in the directory is
    /// closed.
    data_dir: Arc<DataDir>,
}

impl ReplicatedServerManager {
    /// Starts with replicas that communicate without sockets; all must be in this process.
    pub async fn start_in_memory(config: Config) -> Result<Self, ServerError> {
        Self::start_on(config, Network::InMemory(create_shared_message_bus())).await
    }

    /// Starts on the given network.
    pub async fn start_on(mut config: Config, network: Network) -> Result<Self, ServerError> {
        let budget = plan_budget(&mut config)?;
        let ids = config.replication.local_ids();
        config.log_warnings();
        let data_dir = Arc::new(DataDir::open_expecting(&config, Mode::Replicated, &ids)?);
        ports::check_free(listeners(&config, &network)).await?;
        data_dir.claim()?;
        let starting = {
            let (config, budget) = (config.clone(), budget.clone());
            let (data_dir, runtime) = (data_dir.clone(), Handle::current());
            // Recovering databases and logs may take long, and blocks.
            tokio::task::spawn_blocking(move || LocalReplicas::start(&config, &budget, &data_dir, &network, &runtime))
        };
        let local = Arc::new(starting.await.expect("starting replicas does not panic")?);
        let addresses = Arc::new(ListenAddresses::default());
        let router = Arc::new(ConsensusRouter::new(local.clone(), WriteSettings::new(&config)));
        let cluster = Arc::new(ReplicatedCluster::new(local.clone(), addresses.clone()));
        let metrics = ServerMetrics::new();
        let collector = Box::new(ConsensusCollector::new(local.clone()));
        metrics.registry().register(collector).expect("registered once for each server");
        let problems = Arc::new(Problems::default());
        let seen = cluster.clone();
        problems.watch(move || seen.problems());
        let liveness = Arc::new(Liveness::default());
        let watched = local.clone();
        liveness.watch(move || watched.stalled());
        let certificates =
            local.replicas().iter().filter_map(|replica| Some((replica.id, replica.certificates.clone()?)));
        let peer_certificates = certificates.collect();
        let back_end = BackEnd {
            router: router.clone(),
            cluster: cluster.clone(),
            replicas: cluster.clone(),
            policy: Arc::new(ReplicatedPolicy::new(local.clone(), Duration::from_millis(config.auth.max_staleness_ms))),
            failover: cluster.clone(),
            upgrade: cluster.clone(),
            members: cluster,
            metrics,
            space: local.space().clone(),
            problems,
            liveness,
            addresses,
            peer_certificates,
        };
        let front_end = FrontEnd::start(&config, budget, back_end).await?;
        if !local.has_remote_replicas() {
            wait_for_primary(&local).await;
        }
        let marking = local.replicas().iter().cloned().map(LocalReplica::give_up_when_diverged).collect();
        let identity = tokio::spawn(remember_identity(local.clone(), data_dir.clone()));
        tracing::info!(thrift = %front_end.thrift_addr(), admin = %front_end.admin_addr(), replicas = ?ids,
            data_dir = %config.storage.data_dir.display(), "replicated server started");
        Ok(ReplicatedServerManager { front_end, router, local, identity, marking, data_dir })
    }

    /// The front end.
    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    /// The replicas of this process.
    pub fn local_replicas(&self) -> &Arc<LocalReplicas> {
        &self.local
    }

    /// The cluster's database, for callers in this process.
    pub fn database(&self) -> ReplicatedKvDatabase {
        ReplicatedKvDatabase::new(self.router.clone(), self.local.clone())
    }
}

/// All addresses that this process listens on, with their keys.
fn listeners<'c>(config: &'c Config, network: &Network) -> Vec<(String, &'c Address)> {
    let replication = &config.replication;
    let mut listeners = vec![
        ("server.thrift_addr".to_string(), &config.server.thrift_addr),
        ("server.admin_addr".to_string(), &config.server.admin_addr),
    ];
    if matches!(network, Network::Tcp) {
        // A name may resolve later; the transport waits for that.
        let own = replication.local_ids().into_iter().filter_map(|id| replication.replica(id));
        let own = own.map(|replica| (replication.peer_key(replica.id), replication.listens_at(replica)));
        listeners.extend(own.filter(|(_, address)| address.is_literal()));
    }
    listeners
}

async fn wait_for_primary(local: &LocalReplicas) {
    let mut watch = local.replicas()[0].consensus.watch();
    let primary = watch.wait_for(|role| role.primary.is_some() || role.failed.is_some());
    if tokio::time::timeout(FIRST_PRIMARY_WAIT, primary).await.is_err() {
        tracing::warn!("no primary yet; the server starts anyway, and requests wait for one");
    }
}

/// Writes the cluster's id into the data directory once it is known.
async fn remember_identity(local: Arc<LocalReplicas>, data_dir: Arc<DataDir>) {
    let consensus = &local.replicas()[0].consensus;
    let mut watch = consensus.watch();
    loop {
        let status = consensus.status();
        if status.core.cluster_id != rsml::ClusterId::NONE {
            if let Err(error) = data_dir.remember_cluster_id(&status.core.cluster_id.to_string()) {
                tracing::error!(
                    %error,
                    "cannot record the id of the cluster in the data directory; the next start tries again"
                );
            }
            return;
        }
        if watch.changed().await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl ServerManager for ReplicatedServerManager {
    async fn start(config: Config) -> Result<Self, ServerError> {
        Self::start_on(config, Network::Tcp).await
    }

    async fn shutdown(self: Box<Self>) {
        let ReplicatedServerManager { front_end, router, local, identity, mut marking, data_dir: _data_dir } = *self;
        front_end.shutdown().await;
        identity.abort();
        marking.shutdown().await;
        let closed = tokio::task::spawn_blocking(move || {
            local.shutdown();
            drop((router, local));
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "closing the replicas failed; the next start recovers them");
        }
        tracing::info!("replicated server stopped");
    }

    fn failure(&self) -> Option<String> {
        if !self.front_end.is_serving() {
            return Some("a listener has stopped; the log says why".to_string());
        }
        let gone = || self.data_dir.check_presence().err().map(|error| error.to_string());
        self.local.failure().or_else(gone)
    }

    fn wants_restart(&self) -> Option<String> {
        self.local.wants_restart()
    }

    fn extend(&self, extension: Extension) {
        self.front_end.extend(&extension);
    }

    fn awaits_bootstrap(&self) -> bool {
        self.local.replicas().iter().all(|replica| replica.consensus.status().core.cluster_id == rsml::ClusterId::NONE)
    }

    fn thrift_addr(&self) -> SocketAddr {
        self.front_end.thrift_addr()
    }

    fn admin_addr(&self) -> SocketAddr {
        self.front_end.admin_addr()
    }
}
