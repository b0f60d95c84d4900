//! The handle to a cluster.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::discovery::maintain;
use super::members::Replica;
use super::state::ClusterState;
use crate::Options;
use crate::endpoint::Endpoint;
use crate::limits::KnownLimits;

/// A handle to a cluster. Dropping it ends its background task.
pub(crate) struct Cluster {
    pub(super) state: Arc<ClusterState>,
    maintenance: JoinHandle<()>,
}

impl Cluster {
    pub fn start(endpoints: impl IntoIterator<Item = Endpoint>, options: &Options, limits: KnownLimits) -> Self {
        let replicas = endpoints.into_iter().map(Replica::given).collect();
        let state = Arc::new(ClusterState::new(replicas, options.clone(), limits));
        let maintenance = tokio::spawn(maintain(state.clone()));
        Cluster { state, maintenance }
    }

    pub fn limits(&self) -> &KnownLimits {
        &self.state.limits
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<String> {
        self.state.members().replicas.iter().map(|replica| replica.address().to_string()).collect()
    }

    /// The address of the primary, if it is known.
    pub fn primary(&self) -> Option<String> {
        self.state.members().primary.as_ref().map(|address| address.to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.maintenance.abort();
    }
}
