//! The parts of a server that all its connections share.

use std::sync::Arc;

use rsml::transport::Strangers;

use super::memory_budget::Pools;
use super::{ThriftServerCounters, ThriftServerOptions, ThriftService};

/// The parts that all connections of a server share.
pub(super) struct Shared {
    /// The options of the server.
    pub options: ThriftServerOptions,
    /// Answers calls.
    pub service: Arc<dyn ThriftService>,
    /// The counters of the server.
    pub counters: Arc<ThriftServerCounters>,
    /// The memory budgets.
    pub pools: Pools,
    /// The connections of clients that nobody knows yet.
    pub strangers: Arc<Strangers>,
}
