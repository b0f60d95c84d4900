//! Failover at an operator's request, as a trait, so that the admin interface can offer it without
//! knowing the mode.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::order::OrderError;

/// The result of a requested failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// The primary before it.
    pub old_primary: u32,
    /// The primary after it. Equal to `old_primary` if the requested replica led already.
    pub new_primary: u32,
    /// The view of the new primary.
    pub view: u64,
    /// The time from the request until the new primary was known to lead. No write waited longer
    /// than this.
    pub took: Duration,
}

/// Lets another replica lead.
#[async_trait]
pub trait FailoverControl: Send + Sync + 'static {
    /// Makes `to` the primary, or by default the most up-to-date replica. Writes wait meanwhile,
    /// and none is refused.
    async fn fail_over(&self, to: Option<u32>, deadline: Instant) -> Result<Failover, OrderError>;
}
