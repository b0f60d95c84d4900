//! A whole server of either mode, as the program sees it: started from a configuration, watched, and shut down.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use kv_store::SharedResources;

use crate::budget::{Budget, Host};
use crate::config::Config;
use crate::error::ServerError;
use crate::metrics::ServerMetrics;
use crate::problems::Problems;

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
