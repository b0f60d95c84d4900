//! The counters of the server, for the metrics page. The service counts calls and their durations.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the server was bound, except `connections_open`.
#[derive(Debug, Default)]
pub struct ThriftServerCounters {
    /// Connections open now.
    pub connections_open: AtomicU64,
    /// Connections accepted.
    pub connections_total: AtomicU64,
    /// Connections closed at once, because `max_connections` were open.
    pub connections_refused: AtomicU64,
    /// Idle connections closed for new ones, because `max_connections` were open.
    pub connections_displaced: AtomicU64,
    /// Connections closed by the server because the client was idle, stopped in the middle of a
    /// message, or read no replies.
    pub connections_timed_out: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Invalid messages, which were answered with an exception or closed their connection.
    pub protocol_errors: AtomicU64,
    /// Calls answered with an exception because their handler panicked.
    pub handler_panics: AtomicU64,
    /// Replies that were longer than `max_reply_bytes`.
    pub oversized_replies: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Counts an open connection until it is dropped.
pub(super) struct OpenConnection<'a>(&'a ThriftServerCounters);

impl<'a> OpenConnection<'a> {
    /// Counts a new connection.
    pub fn new(counters: &'a ThriftServerCounters) -> Self {
        add(&counters.connections_open, 1);
        add(&counters.connections_total, 1);
        OpenConnection(counters)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
