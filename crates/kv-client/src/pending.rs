//! A request on its way through one connection, and why it may get no reply.

use std::sync::Arc;

use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A request that waits for its reply.
pub(crate) struct PendingCall {
    pub call: Arc<ThriftCall>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    pub answer: oneshot::Sender<Result<ThriftReply, Failure>>,
}

impl PendingCall {
    /// Ends the call without a reply. A caller that has given up is ignored.
    pub fn fail(self, failure: Failure) {
        let _ = self.answer.send(Err(failure));
    }
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not one byte of the request left this process.
    NotSent(String),
    /// At least a part of the request was sent before the connection broke.
    Lost(String),
    /// The server sent something that is not a valid reply.
    Malformed(String),
}
