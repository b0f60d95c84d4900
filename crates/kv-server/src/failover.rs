//! Letting another replica lead because an operator wants it, as a trait: the admin interface offers it without knowing the
//! mode.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

/// What became of a failover that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    pub old_primary: u32,
    /// The same, where it was asked to lead and did already.
    pub new_primary: u32,
    pub view: u64,
    /// From the request to the moment at which the new primary was known to lead: no write waited longer than that.
    pub took: Duration,
}

/// Why the primary is the same as before, or may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailoverError {
    /// Only the primary can hand over; `admin` is its admin address.
    #[error("replica {primary} leads and has to be asked, at http://{admin}")]
    AskPrimary { primary: u32, admin: String },
    #[error(
        "no primary is known, so that none can hand over: one is elected as soon as a majority of the replicas runs"
    )]
    NoPrimary,
    /// It makes no sense as asked.
    #[error("{0}")]
    Impossible(String),
    /// It cannot be done now.
    #[error("{0}")]
    NotNow(String),
    #[error("{0}")]
    TimedOut(String),
}

/// Lets another replica lead.
#[async_trait]
pub trait FailoverControl: Send + Sync + 'static {
    /// `to`, or the replica that is furthest along. Writes wait meanwhile, and none is refused.
    async fn fail_over(&self, to: Option<u32>, deadline: Instant) -> Result<Failover, FailoverError>;
}
