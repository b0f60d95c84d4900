//! From a validated operation to its outcome, whatever the mode.
//!
//! [`RequestRouter`] is the seam: [`DirectRouter`] runs operations on the one local database, the replicated mode has a
//! router of its own that gives writes to consensus and takes a read point first. Both read through [`LocalReader`].
//!
//! Order of writes: the future of [`RequestRouter::route`] takes a write's place in the order when it is polled for the
//! first time, before it waits for anything. Whoever starts the futures of one client in order gets its writes in order.
//! Nothing on the way from the socket to here may wait before a write has been routed.

mod direct;
mod local_reader;
mod write_settings;

use async_trait::async_trait;
pub use direct::DirectRouter;
use kv_api::{KvError, KvOperation, KvOutcome};
pub use local_reader::{LocalReader, ReadSlots};
use tokio::time::Instant;
pub use write_settings::WriteSettings;

/// What an operation needs to know about the request that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// When the caller stops waiting. The router answers by then.
    pub deadline: Instant,
    /// Which connection asks; 0: none, an inner caller.
    pub connection_id: u64,
}

impl RequestContext {
    /// For callers inside the server.
    pub fn internal(deadline: Instant) -> Self {
        RequestContext { deadline, connection_id: 0 }
    }
}

/// Takes operations to where they are decided or read.
#[async_trait]
pub trait RequestRouter: Send + Sync + 'static {
    /// The outcome is of the same name as the operation.
    ///
    /// # Errors
    /// [`KvError::Timeout`] when the deadline passed and surely nothing was written, [`KvError::CommitUnknown`] when it
    /// passed and something may have been; otherwise whatever the database or consensus says.
    async fn route(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError>;
}
