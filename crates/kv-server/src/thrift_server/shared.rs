//! The parts of a server that all its connections share.

use std::sync::Arc;

use super::memory_budget::Pools;
use super::{ThriftServerCounters, ThriftServerOptions, ThriftService};

/// The parts that all connections of a server share.
pub(super) struct Shared {
    pub options: ThriftServerOptions,
    pub service: Arc<dyn ThriftService>,
    pub counters: Arc<ThriftServerCounters>,
    pub pools: Pools,
}
