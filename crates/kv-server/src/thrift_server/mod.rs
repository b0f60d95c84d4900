//! The Thrift server: sockets in, typed calls to a [`ThriftService`], replies out.
//!
//! One task per connection does all its work: it reads from the socket, starts every complete call,
//! and writes the replies that are ready. Guarantees:
//! - calls of a connection start in the order of their arrival and run concurrently, and their
//!   replies leave in that order;
//! - each call that came whole is answered, also when its client has closed its sending side after
//!   it;
//! - a ready reply leaves as soon as those before it, together with other ready ones, in one write;
//! - nothing is decoded before a message is complete, and no declared size makes the server
//!   allocate;
//! - invalid input costs its sender an exception or the connection, and affects nobody else;
//! - a handler that panics costs one reply;
//! - the server stops reading from a client that sends faster than it reads;
//! - memory beyond a few KiB per connection is reserved before it is used (`memory_budget.rs`).
//!
//! This module does not interpret calls and aborts none; both are up to the service.

mod connection;
mod counters;
mod listener;
mod memory_budget;
mod options;
mod pipeline;
mod plain;
mod shared;
mod stranger;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

pub use counters::ThriftServerCounters;
pub use kv_api::thrift::{ApplicationErrorKind, Method, MethodKind, ThriftCall, ThriftException, ThriftReply};
pub(crate) use listener::CLIENT;
pub use listener::ThriftServer;
pub(crate) use memory_budget::POLL_BYTES;
pub use memory_budget::Pools;
pub use options::ThriftServerOptions;

use crate::access::Session;
use crate::changes::Hurry;

/// The connection that a call came from.
#[derive(Clone, Debug)]
pub struct ConnectionContext {
    /// Counted from 1 for each server; never reused.
    pub connection_id: u64,
    /// Its identity.
    pub session: Arc<Session>,
    /// Signalled when a request arrives behind others that still run, and when the connection ends.
    pub hurry: Arc<Hurry>,
}

impl ConnectionContext {
    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.session.facts().address
    }
}

/// The limits that the answer to a call must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTerms {
    /// The deadline, `request_timeout_ms` after arrival. The service must keep it; the server does
    /// not enforce it.
    pub deadline: Instant,
    /// The longest reply to this call, in bytes of the whole message; it depends on the encoding. A
    /// longer one becomes an exception.
    pub max_reply_bytes: usize,
    /// The memory reserved for this reply. If the reply would be longer, the service does not make
    /// it and answers [`Served::NeedsRoom`]. Never more than `max_reply_bytes`.
    pub room_bytes: usize,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are replies, and a box would cost each of them")]
pub enum Served {
    Reply(ThriftReply),
    /// The reply is longer than `room_bytes`. The call had no effect, and is made again when more
    /// memory is available.
    NeedsRoom,
}

impl<R: Into<ThriftReply>> From<R> for Served {
    fn from(reply: R) -> Self {
        Served::Reply(reply.into())
    }
}

/// Answers calls. Failures of an operation stand inside its reply; [`ThriftReply::Exception`] is
/// for failures that have no place in a reply.
///
/// The future of each call is polled once before the next call of its connection is made, so
/// everything that `call` does before its first wait happens in the order of arrival. The first
/// poll should be short, because replies that are ready wait for it. A client that closes only its
/// sending side still gets its replies. If the connection breaks, the futures of its calls are
/// dropped.
#[async_trait]
pub trait ThriftService: Send + Sync + 'static {
    /// Whether the client has shown who it is, or need not. Until then it has little room and time.
    fn knows(&self, _connection: &ConnectionContext) -> bool {
        true
    }

    async fn call(&self, connection: &ConnectionContext, call: ThriftCall, terms: CallTerms) -> Served;
}
