//! A server in this process, in a runtime of its own, so that it can end abruptly like a process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kv_client::Version;
use kv_server::replication::Network;
use kv_server::{Config, Environment, Overrides, ReplicatedServerManager, ServerManager, StandaloneServerManager};
use kv_store::TransactionalKvDatabase;
use tokio::runtime::Runtime;

use crate::cluster::RowsHash;
use crate::waiting::eventually;

enum Manager {
    Standalone(Box<StandaloneServerManager>),
    Replicated(ReplicatedServerManager),
}

pub struct InProcessServer {
    config: Config,
    /// The network that replicas use instead of TCP.
    network: Option<Network>,
    name: String,
    running: Option<(Runtime, Manager)>,
}

impl InProcessServer {
    /// A server that is not started yet. `node` is the one replica that it will run; `None` means
    /// all.
    pub fn new(file: &Path, node: Option<usize>, network: Option<Network>) -> InProcessServer {
        let node_id = node.map(|node| u32::try_from(node).expect("few replicas"));
        let overrides = Overrides { node_id, ..Overrides::default() };
        let config = Config::load(Some(file), &Environment::empty(), &overrides).expect("a good configuration");
        let name = format!("server {} at {}", node.unwrap_or(0), config.server.thrift_addr);
        InProcessServer { config, network, name, running: None }
    }

    pub fn thrift(&self) -> String {
        self.config.server.thrift_addr.to_string()
    }

    pub fn admin(&self) -> String {
        self.config.server.admin_addr.to_string()
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns once it listens.
    pub async fn start(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).thread_name(&self.name).enable_all().build().expect("a runtime");
        let (config, network) = (self.config.clone(), self.network.clone());
        let starting = runtime.spawn(async move {
            match (config.mode, network) {
                (kv_server::Mode::Standalone, _) => {
                    StandaloneServerManager::start(config).await.map(Box::new).map(Manager::Standalone)
                }
                (_, None) => ReplicatedServerManager::start(config).await.map(Manager::Replicated),
                (_, Some(network)) => ReplicatedServerManager::start_on(config, network).await.map(Manager::Replicated),
            }
        });
        let manager = starting.await.expect("starting does not panic");
        let manager = manager.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        self.running = Some((runtime, manager));
    }

    pub async fn stop(&mut self) {
        let (runtime, manager) = self.running.take().expect("a running server");
        let stopping = runtime.spawn(async {
            match manager {
                Manager::Standalone(manager) => manager.shutdown().await,
                Manager::Replicated(manager) => Box::new(manager).shutdown().await,
            }
        });
        stopping.await.expect("a shutdown does not panic");
        end(runtime, ()).await;
    }

    /// Stops every task where it is, without an orderly end.
    pub async fn kill(&mut self) {
        let (runtime, manager) = self.running.take().expect("a running server");
        end(runtime, manager).await;
    }

    fn database(&self, place: usize) -> Arc<TransactionalKvDatabase> {
        match &self.running.as_ref().expect("a running server").1 {
            Manager::Standalone(manager) => manager.database().clone(),
            Manager::Replicated(manager) => manager.local_replicas().replicas()[place].reader.database(),
        }
    }

    /// Hashes the database at this index among those of the server.
    pub async fn rows_hash(&self, place: usize, version: Version) -> RowsHash {
        let database = self.database(place);
        eventually(&format!("database {place} of {} has applied version {version}", self.name), async || {
            let applied = database.applied_version();
            if applied >= version { Ok(()) } else { Err(format!("it is at {applied}")) }
        })
        .await;
        let page = database.hash_rows("", &[], version, u64::MAX).expect("a hash of all rows");
        assert_eq!(page.next, None, "no limit was given");
        RowsHash { count: page.count, hashes: vec![format!("{:016x}", page.hash)] }
    }
}

async fn end(runtime: Runtime, manager: impl Send + 'static) {
    let ended = tokio::task::spawn_blocking(move || {
        runtime.shutdown_timeout(Duration::from_secs(30));
        drop(manager);
    });
    ended.await.expect("the end of a server does not panic");
}

impl Drop for InProcessServer {
    fn drop(&mut self) {
        if let Some((runtime, manager)) = self.running.take() {
            runtime.shutdown_background();
            drop(manager);
        }
    }
}
