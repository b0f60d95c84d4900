//! The Thrift server: sockets in, typed calls to a [`ThriftService`], replies out.
//!
//! One task per connection does everything for it: it reads what the socket holds, starts every complete call, writes the
//! replies that are ready. What it promises:
//! - calls of a connection start in the order of their arrival and run concurrently; their replies leave in that order;
//! - each call that came whole is answered, also when its client has closed its sending side behind it;
//! - a reply that is ready leaves as soon as those before it have, together with others that are ready, in one write;
//! - nothing is decoded before a message is complete, and no declared size makes the server allocate;
//! - input that cannot be understood costs its sender an exception or the connection, and nobody else anything;
//! - a handler that panics costs one reply;
//! - a client that sends faster than it reads is no longer read from;
//! - memory beyond a few KiB for each connection is reserved before it is used (`room.rs`).
//!
//! No meaning is attached to calls here, and no call is cut short: that is the service's.

mod connection;
mod counters;
mod listener;
mod options;
mod pipeline;
mod room;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::time::Instant;

pub use counters::ThriftServerCounters;
pub use kv_api::thrift::{ApplicationErrorKind, Method, ThriftCall, ThriftException, ThriftReply};
pub use listener::ThriftServer;
pub use options::ThriftServerOptions;
pub use room::Pools;

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionContext {
    /// Counted from 1 for each server; never reused.
    pub connection_id: u64,
    pub peer: SocketAddr,
}

/// What a call's answer has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTerms {
    /// When the client's patience ends (`request_timeout_ms` after arrival). The service keeps to it; the server doesn't
    /// cut.
    pub deadline: Instant,
    /// The longest reply that can be sent the way this call came, in bytes of the whole message; a longer one becomes an
    /// exception.
    pub max_reply_bytes: usize,
    /// What was set aside for this reply. One that turns out longer is not made: the answer is [`Served::NeedsRoom`]. Never
    /// more than `max_reply_bytes`.
    pub room_bytes: usize,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are replies, and a box would cost each of them")]
pub enum Served {
    Reply(ThriftReply),
    /// The reply is longer than `room_bytes`. Nothing was done; the call is made again when there is room for the longest
    /// reply that is allowed.
    NeedsRoom,
}

impl<R: Into<ThriftReply>> From<R> for Served {
    fn from(reply: R) -> Self {
        Served::Reply(reply.into())
    }
}

/// Answers calls. Failures of an operation stand inside its reply; [`ThriftReply::Exception`] is for what the interface
/// has no place for.
///
/// The future of each call is polled once before the next call of its connection is made, so that whatever `call` does
/// before its first wait happens in the order of arrival. A first poll should be short: replies that are already ready wait
/// for it. A client that only closes its sending side still gets its replies; when the connection breaks, the futures of
/// its calls are dropped where they stand.
#[async_trait]
pub trait ThriftService: Send + Sync + 'static {
    async fn call(&self, connection: &ConnectionContext, call: ThriftCall, terms: CallTerms) -> Served;
}
