//! Standalone mode: one database, no consensus.

mod cluster;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cluster::StandaloneCluster;
use kv_api::KvError;
use kv_store::{Durability, EngineKind, SharedResources, StoreOptions, TransactionalKvDatabase, open_engine};

use crate::config::{Config, OnWriteFailure};
use crate::data_dir::{DataDir, make_directory};
use crate::error::ServerError;
use crate::front_end::{BackEnd, FrontEnd, ListenAddresses};
use crate::health::Liveness;
use crate::manager::{Extension, ServerManager, plan_budget, shared_resources};
use crate::metrics::ServerMetrics;
use crate::mode::Mode;
use crate::ports;
use crate::problems::Problems;
use crate::router::{DirectRouter, LocalReader, ReadSlots, WriteSettings};
use crate::space::SpaceWatch;
use crate::upgrade::HIGHEST_LEVEL;

/// One database, no consensus.
pub struct StandaloneServerManager {
    front_end: FrontEnd,
    database: Arc<TransactionalKvDatabase>,
    space: Arc<SpaceWatch>,
    /// Whether a failed write leads to a restart, so that it is not a failure of the server.
    restarts: bool,
    /// The last field, so that the lock is released only after the database is closed.
    data_dir: DataDir,
}

impl StandaloneServerManager {
    /// The front end.
    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    /// The database.
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
        reader.hub().set_max_polls(config.changes.max_polls);
        let addresses = Arc::new(ListenAddresses::default());
        let space = Arc::new(SpaceWatch::new(data_dir.root(), config.storage.min_free_bytes()));
        let standalone = Arc::new(StandaloneCluster::new(reader.clone(), addresses.clone(), space.clone()));
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
            policy: standalone.clone(),
            failover: standalone.clone(),
            upgrade: standalone.clone(),
            members: standalone,
            metrics: ServerMetrics::new(),
            space: space.clone(),
            problems,
            liveness,
            addresses,
            peer_certificates: Vec::new(),
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

    /// A restart does not help while the disk is full, or if the database is damaged.
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

/// Opens the database of a standalone server as configured. Creates `path` if necessary.
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
    let engine = open_engine(config.storage.engine, path, Durability::EveryWrite, resources).map_err(failed)?;
    let journal = config.changes.journal(config.storage.engine);
    let options = StoreOptions { journal, ..StoreOptions::standalone().with_share(resources) };
    let database = TransactionalKvDatabase::open(engine, options).map_err(failed)?;
    if database.is_unwritten() {
        // No earlier release has written here, so there is none to go back to.
        database.raise_level(HIGHEST_LEVEL).map_err(failed)?;
    }
    Ok(database)
}
