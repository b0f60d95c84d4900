//! The part of a server that does not depend on its mode: the Thrift server, the admin interface
//! and the metrics. It works on a router, a view of the cluster and the databases in this process.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rsml::transport::RenewalStatus;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::{AuditLog, Gate, JwtKeys, PolicySource};
use crate::admin::{self, AdminInterface, Console};
use crate::budget::{self, Budget};
use crate::certificates::{self, Watched};
use crate::changes_metrics::ChangesCollector;
use crate::clock_tick;
use crate::cluster::{ClusterView, LocalDatabases};
use crate::config::{Address, Config};
use crate::error::ServerError;
use crate::failover::FailoverControl;
use crate::fault_injection::{FaultInjector, FaultyRouter};
use crate::handler::UnifiedThriftHandler;
use crate::health::{Liveness, WriteProbe};
use crate::limited_by::LimitWatch;
use crate::manager::Extension;
use crate::membership::MemberControl;
use crate::metrics::ServerMetrics;
use crate::problems::Problems;
use crate::process_metrics::ProcessCollector;
use crate::request_watch::RequestWatch;
use crate::router::RequestRouter;
use crate::service_core::{CoreParts, KvServiceCore};
use crate::space::{SpaceCollector, SpaceWatch};
use crate::stage_metrics::StageCollector;
use crate::thrift_server::{CLIENT, ThriftServer};
use crate::upgrade::UpgradeControl;

/// The addresses of the front end, known once it has bound them, because a port may be configured
/// as 0.
#[derive(Debug, Default)]
pub struct ListenAddresses(OnceLock<(SocketAddr, SocketAddr)>);

impl ListenAddresses {
    /// The Thrift address, once bound.
    pub fn thrift(&self) -> Option<SocketAddr> {
        self.0.get().map(|(thrift, _)| *thrift)
    }

    /// The admin address, once bound.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.0.get().map(|(_, admin)| *admin)
    }
}

/// The parts that the mode provides.
pub struct BackEnd {
    /// Executes operations.
    pub router: Arc<dyn RequestRouter>,
    /// Reports the cluster.
    pub cluster: Arc<dyn ClusterView>,
    /// The databases of this process.
    pub replicas: Arc<dyn LocalDatabases>,
    /// The applied policy.
    pub policy: Arc<dyn PolicySource>,
    /// Changes the primary.
    pub failover: Arc<dyn FailoverControl>,
    /// For `/status` and `/upgrade/finalize`.
    pub upgrade: Arc<dyn UpgradeControl>,
    /// Shows and changes the members of the cluster.
    pub members: Arc<dyn MemberControl>,
    /// The metrics of the server, to which the mode may have added its own.
    pub metrics: Arc<ServerMetrics>,
    /// The watch over the disk space.
    pub space: Arc<SpaceWatch>,
    /// The problems for `/status`. The mode registers those that it knows.
    pub problems: Arc<Problems>,
    /// The signs of life for `/health/live`.
    pub liveness: Arc<Liveness>,
    /// Set by the front end, for the cluster view to show.
    pub addresses: Arc<ListenAddresses>,
    /// The replicas of this process that use TLS, and the state of their certificates.
    pub peer_certificates: Vec<(u32, Arc<RenewalStatus>)>,
}

/// A running front end.
pub struct FrontEnd {
    thrift_addr: SocketAddr,
    admin_addr: SocketAddr,
    core: Arc<KvServiceCore>,
    metrics: Arc<ServerMetrics>,
    problems: Arc<Problems>,
    stop_thrift: CancellationToken,
    stop_admin: CancellationToken,
    thrift: JoinHandle<()>,
    admin: JoinHandle<()>,
    /// The task that advances replicated time. It holds a database open.
    time: Option<JoinHandle<()>>,
    stopping: AtomicBool,
    shutdown_timeout: Duration,
}

/// Time for the tasks to notice the shutdown, in addition to their own timeouts.
const STOP_MARGIN: Duration = Duration::from_secs(1);

impl FrontEnd {
    /// Binds both addresses and serves.
    ///
    /// # Errors
    /// [`ServerError::Listen`], naming the address, its key and the reason.
    pub async fn start(config: &Config, budget: Budget, back_end: BackEnd) -> Result<FrontEnd, ServerError> {
        let peers = back_end.peer_certificates;
        let BackEnd {
            router,
            cluster,
            replicas,
            policy,
            failover,
            upgrade,
            members,
            metrics,
            space,
            problems,
            liveness,
            addresses,
            ..
        } = back_end;
        let (time_router, probe_router, local) = (router.clone(), router.clone(), replicas.replicas());
        let faults = Arc::new(FaultInjector::new(config.server.allow_fault_injection));
        let router: Arc<dyn RequestRouter> = match config.server.allow_fault_injection {
            true => Arc::new(FaultyRouter::new(router, faults.clone())),
            false => router,
        };
        let (thrift_key, admin_key) = ("server.thrift_addr", "server.admin_addr");
        let thrift_addr = resolve(thrift_key, &config.server.thrift_addr).await?;
        let admin_addr = resolve(admin_key, &config.server.admin_addr).await?;
        let audit = AuditLog::start(&config.audit).map_err(ServerError::Access)?;
        if let Some(audit) = &audit {
            metrics.registry().register(Box::new(audit.dropped().clone())).expect("registered once for each server");
        }
        let jwt = config.auth.jwt().map(JwtKeys::load).transpose().map_err(ServerError::Access)?;
        let is_in_network = [thrift_addr, admin_addr].iter().any(|address| !address.ip().is_loopback());
        let closed_until_enabled = is_in_network && !config.server.allow_insecure;
        let gate = Arc::new(Gate::new(policy, jwt, closed_until_enabled).with_audit(audit));
        let watch = Arc::new(RequestWatch::new(config.log.slow_ms));
        let core = Arc::new(KvServiceCore::new(CoreParts {
            router,
            cluster,
            replicas: replicas.clone(),
            metrics: metrics.clone(),
            faults: faults.clone(),
            limits: config.limits.clone(),
            column_families: config.storage.column_families.clone(),
            max_pin: Duration::from_secs(config.server.max_pin_seconds),
            gate,
            watch: watch.clone(),
        }));
        let handler = Arc::new(UnifiedThriftHandler::new(core.clone(), metrics.clone()));
        let (most, most_admin) = (config.server.max_connections, config.server.max_admin_connections);
        let for_clients = Arc::new(certificates::open(&config.server.tls, "server.tls", CLIENT, most)?);
        let for_operators = Arc::new(certificates::open(config.admin_tls(), "admin.tls", admin::OPERATOR, most_admin)?);
        let thrift = ThriftServer::bind(thrift_addr, config.server.thrift_options(&config.limits), handler)
            .await
            .map_err(ServerError::listen(thrift_key, thrift_addr))?
            .with_tls(for_clients.clone());
        let listener = admin::bind(admin_addr).await.map_err(ServerError::listen(admin_key, admin_addr))?;
        let thrift_addr = thrift.local_addr();
        let admin_addr = listener.local_addr().map_err(ServerError::listen(admin_key, admin_addr))?;
        addresses.0.set((thrift_addr, admin_addr)).expect("a front end starts once");
        let collector = Box::new(ChangesCollector::new(replicas.clone()));
        metrics.registry().register(collector).expect("registered once for each server");
        let journals = replicas.clone();
        problems.watch(move || ChangesCollector::problems(&*journals));
        let collector = Box::new(StageCollector::new(replicas.clone()));
        metrics.registry().register(collector).expect("registered once for each server");
        let limits = LimitWatch::new(replicas.clone(), metrics.clone(), space.clone());
        metrics.watch(thrift.counters(), replicas);
        let collector = Box::new(SpaceCollector::new(space.clone()));
        metrics.registry().register(collector).expect("registered once for each server");
        let collector = Box::new(ProcessCollector::new(watch, &problems));
        metrics.registry().register(collector).expect("registered once for each server");

        let listeners = [("thrift", &for_clients), ("admin", &for_operators)];
        let watched = listeners.into_iter().filter_map(|(listener, doorway)| Watched::listener(listener, doorway));
        let peers = peers.into_iter().map(|(id, status)| Watched::peer(id, status));
        certificates::watch(watched.chain(peers).collect::<Vec<_>>(), &metrics, &problems);
        let (stop_thrift, stop_admin) = (CancellationToken::new(), CancellationToken::new());
        let time = local.into_iter().next().map(|local| {
            let window = Duration::from_millis(config.storage.readable_window_ms);
            tokio::spawn(clock_tick::run(time_router, local.reader, window, stop_thrift.clone()))
        });
        let (found, limit) = (budget.problems(), budget.memory.limit.clone());
        problems.watch(move || found.iter().cloned().chain(budget::memory_short(&limit)).collect());
        problems.watch(move || faults.problem().into_iter().collect());
        let interface = AdminInterface {
            core: core.clone(),
            metrics: metrics.clone(),
            space,
            problems: problems.clone(),
            liveness,
            writes: WriteProbe::new(probe_router),
            failover,
            upgrade,
            members,
            budget,
            settings: config.shared_settings(),
            pools: thrift.pools(),
            limits,
            console: Console::new(config),
        };
        Ok(FrontEnd {
            thrift_addr,
            admin_addr,
            core,
            metrics,
            problems,
            thrift: tokio::spawn(thrift.serve(stop_thrift.clone())),
            admin: tokio::spawn(admin::serve(listener, for_operators, interface, most_admin, stop_admin.clone())),
            time,
            stop_thrift,
            stop_admin,
            stopping: AtomicBool::new(false),
            shutdown_timeout: Duration::from_millis(config.server.shutdown_timeout_ms),
        })
    }

    /// Stops accepting, gives running requests `shutdown_timeout_ms` to end, and closes. The admin
    /// interface stops last, so that an operator can watch. The back end must still be running.
    pub async fn shutdown(mut self) {
        self.stopping.store(true, Ordering::Release);
        self.stop_thrift.cancel();
        end("thrift server", &mut self.thrift, self.shutdown_timeout + STOP_MARGIN).await;
        if let Some(time) = &mut self.time {
            end("clock of the log", time, STOP_MARGIN).await;
        }
        self.stop_admin.cancel();
        end("admin interface", &mut self.admin, STOP_MARGIN).await;
    }

    /// Whether both listeners serve.
    pub fn is_serving(&self) -> bool {
        !self.stopping.load(Ordering::Acquire) && !self.thrift.is_finished() && !self.admin.is_finished()
    }

    /// The Thrift address.
    pub fn thrift_addr(&self) -> SocketAddr {
        self.thrift_addr
    }

    /// The admin address.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Lets the program register its own metrics and problems, and see the cluster.
    pub fn extend(&self, extension: &Extension) {
        extension(&self.problems, &self.metrics, self.core.cluster());
    }

    /// The service, for callers in this process.
    pub fn core(&self) -> &Arc<KvServiceCore> {
        &self.core
    }
}

async fn end(name: &str, task: &mut JoinHandle<()>, patience: Duration) {
    match tokio::time::timeout(patience, &mut *task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the {name} failed"),
        Err(_) => {
            tracing::warn!("the {name} did not stop in time and is aborted");
            task.abort();
        }
    }
}

async fn resolve(key: &'static str, address: &Address) -> Result<SocketAddr, ServerError> {
    address.resolve_to_listen().await.map_err(ServerError::listen(key, address))
}
