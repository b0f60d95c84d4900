//! The program's interface to a whole server of either mode: started from a configuration, watched,
//! and shut down.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use kv_store::SharedResources;

use crate::budget::{Budget, Host};
use crate::cluster::ClusterView;
use crate::config::Config;
use crate::error::ServerError;
use crate::metrics::ServerMetrics;
use crate::problems::Problems;

/// Registers the program's own metrics and problems with a server, and gets a view of the cluster
/// from it. Keep that view as a [`std::sync::Weak`], because it holds the databases open.
pub type Extension = Arc<dyn Fn(&Problems, &ServerMetrics, &Arc<dyn ClusterView>) + Send + Sync>;

/// A running server of either mode.
#[async_trait]
pub trait ServerManager: Send + Sync {
    /// Opens the data, serves, and returns once clients can connect.
    async fn start(config: Config) -> Result<Self, ServerError>
    where
        Self: Sized;

    /// Stops accepting, finishes running requests (within `shutdown_timeout_ms`) and closes the
    /// data.
    async fn shutdown(self: Box<Self>);

    /// Why the server cannot do its work any more; `None` while it can. Called about once a second.
    fn failure(&self) -> Option<String>;

    /// The failure that a restart of the server would cure, for [`crate::restarting`]; `None` if
    /// there is none.
    fn wants_restart(&self) -> Option<String> {
        None
    }

    /// Whether the cluster is not bootstrapped yet, for which other processes must start, too.
    fn awaits_bootstrap(&self) -> bool {
        false
    }

    /// Lets the program register its own metrics and problems with those of the server, and see the
    /// cluster.
    fn extend(&self, extension: Extension);

    fn thrift_addr(&self) -> SocketAddr;

    fn admin_addr(&self) -> SocketAddr;
}

/// Plans the resource budget, lowers the settings to it, and logs what was lowered.
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
    SharedResources::new(config.storage.resources(config.local_replica_ids().len(), max_open_files))
        .map_err(|source| ServerError::Database { path, source })
}
