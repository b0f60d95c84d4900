//! Failover at an operator's request, as a trait, so that the admin interface can offer it without
//! knowing the mode.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

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

/// Why the primary has not changed, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailoverError {
    /// Only the primary can transfer leadership; `admin` is its admin address.
    #[error("replica {primary} is the primary: ask it, at http://{admin}")]
    AskPrimary { primary: u32, admin: String },
    #[error(
        "no primary is known that could transfer leadership: one is elected as soon as a majority of the replicas runs"
    )]
    NoPrimary,
    /// The request is invalid.
    #[error("{0}")]
    Impossible(String),
    /// The failover is not possible now.
    #[error("{0}")]
    NotNow(String),
    /// The new primary did not take over before the deadline; it may still do so.
    #[error("{0}")]
    TimedOut(String),
}

/// Lets another replica lead.
#[async_trait]
pub trait FailoverControl: Send + Sync + 'static {
    /// Makes `to` the primary, or by default the most up-to-date replica. Writes wait meanwhile,
    /// and none is refused.
    async fn fail_over(&self, to: Option<u32>, deadline: Instant) -> Result<Failover, FailoverError>;
}
