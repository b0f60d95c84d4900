//! A whole server, by mode: started from a configuration, and shut down. The program picks one and knows no more.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use kv_api::KvError;
use kv_store::{Durability, SharedResources, StoreOptions, TransactionalKvDatabase, open_engine};

use crate::budget::{Budget, Host, TooSmall};
use crate::cluster::{ClusterSnapshot, ClusterView, LocalReplica, LocalReplicas, ReplicaStatus, Role};
use crate::config::{Config, EngineKind, Mode, OnWriteFailure};
use crate::data_dir::{DataDir, DataDirError, make_directory};
use crate::failover::{Failover, FailoverControl, FailoverError};
use crate::front_end::{BackEnd, FrontEnd, ListenAddresses};
use crate::health::{self, Liveness};
use crate::metrics::ServerMetrics;
use crate::ports;
use crate::problems::{Problem, Problems};
use crate::router::{DirectRouter, LocalReader, ReadSlots, WriteSettings};
use crate::space::SpaceWatch;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot open the database in {path}: {source}")]
    Database { path: String, source: KvError },
    #[error(
        "{reason}; restore {path} from a backup (or repair the disk), and start again: a standalone server has no other \
         copy of its data, and begins no empty database by itself"
    )]
    Damaged { path: String, reason: String },
    #[error("cannot listen on {address} ({key}): {source}; choose another address, or stop who uses it")]
    Listen { key: String, address: String, source: std::io::Error },
    #[error("cannot start replication: {0}")]
    Replication(String),
    /// Before anything was opened.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
}

impl ServerError {
    pub(crate) fn listen<A: ToString>(key: &str, address: A) -> impl FnOnce(std::io::Error) -> ServerError + use<A> {
        let (key, address) = (key.to_string(), address.to_string());
        move |source| ServerError::Listen { key, address, source }
    }
}

/// Registers what a program shows of its own in a server's `/metrics` and `/status`.
pub type Extension = Arc<dyn Fn(&Problems, &ServerMetrics) + Send + Sync>;

/// A running server of either mode.
#[async_trait]
pub trait ServerManager: Send + Sync {
    /// Opens the data, serves, and returns once clients can connect.
    async fn start(config: Config) -> Result<Self, ServerError>
    where
        Self: Sized;

    /// Stops accepting, finishes the requests in hand (bounded by `shutdown_timeout_ms`) and closes the data.
    async fn shutdown(self: Box<Self>);

    /// Why the server can do its work no longer; `None` while it does. Asked about once a second.
    fn failure(&self) -> Option<String>;

    /// Why the server has to be started again, where that gets over what happened; for [`crate::restarting`].
    fn wants_restart(&self) -> Option<String> {
        None
    }

    /// Whether the cluster has yet to be founded, for which other processes have to start, too.
    fn awaits_founding(&self) -> bool {
        false
    }

    /// Lets the program show figures and problems of its own, beside the server's.
    fn extend(&self, extension: Extension);

    fn thrift_addr(&self) -> SocketAddr;

    fn admin_addr(&self) -> SocketAddr;
}

/// Opens the database of a standalone server as the configuration says. `path` is made if need be.
fn open_database(
    config: &Config,
    path: &Path,
    resources: &SharedResources,
) -> Result<Arc<TransactionalKvDatabase>, ServerError> {
    let failed = |source: KvError| match source {
        KvError::Corruption(reason) => ServerError::Damaged { path: path.display().to_string(), reason },
        source => ServerError::Database { path: path.display().to_string(), source },
    };
    if config.storage.engine == EngineKind::Memory {
        tracing::warn!("storage.engine = \"memory\" is for tests: the data is lost when this process ends");
    } else {
        make_directory(path)?;
    }
    let engine = open_engine(config.storage.engine.into(), path, Durability::EveryWrite, resources).map_err(failed)?;
    TransactionalKvDatabase::open(engine, StoreOptions::standalone()).map_err(failed)
}

/// Brings the settings down to what this process may take, and says so.
pub(crate) fn plan_budget(config: &mut Config) -> Result<Budget, ServerError> {
    let budget = Budget::plan(config, &Host::of_process())?;
    for problem in budget.problems() {
        tracing::warn!("{problem}");
    }
    Ok(budget)
}

/// The resources that all databases of this process share.
pub(crate) fn shared_resources(config: &Config, budget: &Budget) -> Result<SharedResources, ServerError> {
    let path = config.storage.data_dir.display().to_string();
    let max_open_files = u32::try_from(budget.descriptors.database_files).unwrap_or(u32::MAX);
    SharedResources::new(config.storage.resources(max_open_files))
        .map_err(|source| ServerError::Database { path, source })
}

/// One database, no consensus.
pub struct StandaloneServerManager {
    front_end: FrontEnd,
    database: Arc<TransactionalKvDatabase>,
    space: Arc<SpaceWatch>,
    /// Whoever runs this server starts it again after a failed write.
    restarts: bool,
    /// Last, so that the directory is free only when its database is closed.
    data_dir: DataDir,
}

/// The id under which a standalone server shows itself.
const STANDALONE_ID: u32 = 0;

impl StandaloneServerManager {
    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    pub fn database(&self) -> &Arc<TransactionalKvDatabase> {
        &self.database
    }
}

#[async_trait]
impl ServerManager for StandaloneServerManager {
    async fn start(mut config: Config) -> Result<Self, ServerError> {
        let budget = plan_budget(&mut config)?;
        config.log_warnings();
        let data_dir = DataDir::open_expecting(&config, Mode::Standalone, &[])?;
        ports::check_free(vec![
            ("server.thrift_addr".to_string(), &config.server.thrift_addr),
            ("server.admin_addr".to_string(), &config.server.admin_addr),
        ])
        .await?;
        data_dir.claim()?;
        let resources = shared_resources(&config, &budget)?;
        let path = data_dir.database();
        let opening = {
            let config = config.clone();
            // Recovering a database may take long, and blocks.
            tokio::task::spawn_blocking(move || open_database(&config, &path, &resources))
        };
        let database = opening.await.expect("opening a database does not panic")?;
        let reader = LocalReader::new(database.clone(), ReadSlots::per_processor());
        let addresses = Arc::new(ListenAddresses::default());
        let space = Arc::new(SpaceWatch::new(data_dir.root(), config.storage.min_free_bytes()));
        let standalone = Arc::new(Standalone {
            reader: reader.clone(),
            addresses: addresses.clone(),
            space: space.clone(),
            started: Instant::now(),
        });
        database.on_damage(|reason| {
            tracing::error!(
                "the database is damaged, and this server stops: {reason}. Restore it from a backup, then start the \
                 server again"
            );
        });
        let (problems, liveness) = (Arc::<Problems>::default(), Arc::<Liveness>::default());
        let (problem, reading) = (standalone.clone(), standalone.clone());
        problems.watch(move || problem.problem().into_iter().collect());
        liveness.watch(move || reading.failure());
        let back_end = BackEnd {
            router: Arc::new(DirectRouter::new(database.clone(), reader, WriteSettings::new(&config), space.clone())),
            cluster: standalone.clone(),
            replicas: standalone.clone(),
            failover: standalone,
            metrics: ServerMetrics::new(),
            space: space.clone(),
            problems,
            liveness,
            addresses,
        };
        let front_end = FrontEnd::start(&config, budget, back_end).await?;
        tracing::info!(
            thrift = %front_end.thrift_addr(),
            admin = %front_end.admin_addr(),
            data_dir = %config.storage.data_dir.display(),
            version = database.applied_version().0,
            "standalone server started"
        );
        let restarts = config.storage.on_write_failure == OnWriteFailure::Restart;
        Ok(StandaloneServerManager { front_end, database, space, restarts, data_dir })
    }

    async fn shutdown(self: Box<Self>) {
        let StandaloneServerManager { front_end, database, data_dir: _data_dir, .. } = *self;
        front_end.shutdown().await;
        // The last owner ends the commit thread, which may block.
        let closing = tokio::task::spawn_blocking(move || Arc::into_inner(database).is_some());
        match closing.await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("an aborted request still holds the database open; it is closed when the process ends")
            }
            Err(error) => tracing::error!(%error, "closing the database failed; the next start recovers it"),
        }
        tracing::info!("standalone server stopped");
    }

    fn failure(&self) -> Option<String> {
        if !self.front_end.is_serving() {
            return Some("a listener has stopped; the log says why".to_string());
        }
        let damage = || self.database.damage().map(|reason| format!("the database is damaged: {reason}"));
        let gone = || self.data_dir.check_presence().err().map(|error| error.to_string());
        let stopped = || self.database.write_failure().filter(|_| !self.restarts);
        damage().or_else(gone).or_else(stopped)
    }

    /// Not while the disk is full, when a start would be in vain, and not a database that is damaged.
    fn wants_restart(&self) -> Option<String> {
        let helps = self.restarts && self.database.damage().is_none() && self.space.has_space();
        self.database.write_failure().filter(|_| helps)
    }

    fn extend(&self, extension: Extension) {
        self.front_end.extend(&extension);
    }

    fn thrift_addr(&self) -> SocketAddr {
        self.front_end.thrift_addr()
    }

    fn admin_addr(&self) -> SocketAddr {
        self.front_end.admin_addr()
    }
}

/// The cluster of one.
struct Standalone {
    reader: LocalReader,
    addresses: Arc<ListenAddresses>,
    space: Arc<SpaceWatch>,
    started: Instant,
}

impl Standalone {
    /// The first thing that is wrong, the worst before the others.
    fn problem(&self) -> Option<Problem> {
        let database = self.reader.database();
        let problem = if let Some(reason) = database.damage() {
            Problem::new("damaged", format!("the database is damaged: {reason}"), "restore it from a backup")
        } else if let Some(reason) = database.write_failure() {
            let text = format!("writes are refused, and reads go on: a write failed ({reason})");
            let remedy = "remove the cause (space, file descriptors, the disk); the server opens its database again by \
                          itself, or ends, as storage.on_write_failure says";
            Problem::new("writes_failed", text, remedy)
        } else if !self.space.has_space() {
            let remedy = "make space, or lower storage.min_free_mb; writes go on by themselves then";
            Problem::new("disk_full", format!("writes are refused: {}", self.space.refusal()), remedy)
        } else {
            return None;
        };
        Some(problem.of_replica(STANDALONE_ID))
    }

    /// Why this process can do its work no more.
    fn failure(&self) -> Option<String> {
        let database = self.reader.database();
        match database.can_commit() {
            true => health::stalled("group-commit", database.committing_for()).or_else(|| database.damage()),
            false => Some("the thread group-commit has ended".to_string()),
        }
    }
}

#[async_trait]
impl ClusterView for Standalone {
    async fn snapshot(&self) -> ClusterSnapshot {
        let shown = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let kept = self.reader.database().retention();
        ClusterSnapshot {
            mode: Mode::Standalone,
            cluster_id: None,
            node_id: STANDALONE_ID,
            primary: Some(STANDALONE_ID),
            view: 0,
            replicas: vec![ReplicaStatus {
                id: STANDALONE_ID,
                role: Role::Primary,
                reachable: true,
                last_seen: Some(SystemTime::now()),
                view: 0,
                // There is no log.
                last_sequence: None,
                committed: None,
                applied: None,
                digest: None,
                oldest_readable: Some(kept.oldest_readable),
                pending_clears: Some(kept.pending_clears),
                uptime: Some(self.started.elapsed()),
                problem: self.problem(),
                copy: None,
                sends_copies: Vec::new(),
                peer: None,
                thrift: shown(self.addresses.thrift()),
                admin: shown(self.addresses.admin()),
            }],
        }
    }
}

#[async_trait]
impl FailoverControl for Standalone {
    async fn fail_over(&self, _: Option<u32>, _: tokio::time::Instant) -> Result<Failover, FailoverError> {
        Err(FailoverError::Impossible("this server is standalone: there is no other replica that could lead".into()))
    }
}

impl LocalReplicas for Standalone {
    fn replicas(&self) -> Vec<LocalReplica> {
        vec![LocalReplica { id: STANDALONE_ID, reader: self.reader.clone() }]
    }
}
