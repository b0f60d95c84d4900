//! Extracts the response to a request from a server's reply.

use kv_api::thrift::{ApplicationErrorKind, ThriftReply, ThriftRequest};

use crate::ClientError;
use crate::request::Access;

/// The response that belongs to request `R`, or the error that the reply stands for.
pub(crate) fn response_of<R: ThriftRequest>(
    reply: ThriftReply,
    endpoint: String,
    access: Access,
) -> Result<R::Response, ClientError> {
    R::response_of(reply).map_err(|other| match other {
        ThriftReply::Exception(exception) => {
            // The server raises all other kinds before it starts to execute the request.
            let during_execution =
                matches!(exception.kind, ApplicationErrorKind::InternalError | ApplicationErrorKind::Unknown);
            let maybe_committed = access == Access::Write && during_execution;
            ClientError::Exception { endpoint, message: exception.message, maybe_committed }
        }
        other => {
            let reason = format!("a reply to {:?} instead of one to {}", other.method(), R::METHOD.name());
            ClientError::Malformed { endpoint, reason, maybe_committed: access == Access::Write }
        }
    })
}
