//! Routes a validated operation to its outcome, in either mode.
//!
//! [`RequestRouter`] is the seam: [`DirectRouter`] runs operations on the one local database.
//! Replicated mode has a router that passes writes to consensus and obtains a read point before
//! each read. Both read through [`LocalReader`].
//!
//! Order of writes: a write gets its place in the order when the future of [`RequestRouter::route`]
//! is first polled, before that waits for anything. So a caller that first polls the futures of one
//! client in order gets its writes in order. No code between the socket and the router may wait
//! before a write has been routed.

mod direct;
mod local_reader;
mod polls;
mod write_settings;

use std::sync::Arc;

use async_trait::async_trait;
pub use direct::DirectRouter;
use kv_api::{KvError, KvOperation, KvOutcome};
pub use local_reader::{LocalReader, ReadSlots};
use tokio::time::Instant;
pub use write_settings::WriteSettings;
pub(crate) use write_settings::authorized;

use crate::access::Caller;
use crate::changes::Hurry;

/// The facts about a request that its operation needs.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// When the caller stops waiting. The router answers before this.
    pub deadline: Instant,
    /// The connection of the request; 0 for internal callers.
    pub connection_id: u64,
    /// On whose behalf the request is made. It was checked before the operation got here.
    pub caller: Caller,
    /// Tells a request that waits for changes that another one is behind it. `None`: nothing ever is.
    pub hurry: Option<Arc<Hurry>>,
}

impl RequestContext {
    /// For callers inside the server, on its own behalf.
    pub fn internal(deadline: Instant) -> Self {
        RequestContext::of(Caller::server(), deadline)
    }

    /// For requests without a Thrift connection.
    pub fn of(caller: Caller, deadline: Instant) -> Self {
        RequestContext { deadline, connection_id: 0, caller, hurry: None }
    }
}

/// Passes operations to the database or to consensus.
#[async_trait]
pub trait RequestRouter: Send + Sync + 'static {
    /// Executes an operation. The outcome is the variant with the operation's name.
    ///
    /// # Errors
    /// [`KvError::Timeout`] if the deadline passed and nothing was written,
    /// [`KvError::CommitUnknown`] if it passed and something may have been written; otherwise any
    /// error of the database or of consensus.
    async fn route(&self, operation: KvOperation, context: &RequestContext) -> Result<KvOutcome, KvError>;
}
