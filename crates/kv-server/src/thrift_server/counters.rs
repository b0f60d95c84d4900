//! What the server counts, for the metrics page. Calls and their durations are counted by the service.

use std::sync::atomic::{AtomicU64, Ordering};

/// Since the server was bound, but for `connections_open`.
#[derive(Debug, Default)]
pub struct ThriftServerCounters {
    pub connections_open: AtomicU64,
    pub connections_total: AtomicU64,
    /// Closed at once, because `max_connections` were open.
    pub connections_refused: AtomicU64,
    /// Idle ones that were closed for new ones, because `max_connections` were open.
    pub connections_displaced: AtomicU64,
    /// Closed by the server, because the client was idle, stuck in the middle of a message, or took no replies.
    pub connections_timed_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    /// Messages that were answered by an exception, or closed their connection, because they could not be understood.
    pub protocol_errors: AtomicU64,
    /// Calls that were answered by an exception because their handler panicked.
    pub handler_panics: AtomicU64,
    /// Replies that were longer than `max_reply_bytes`.
    pub oversized_replies: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// Counts a connection for as long as it lives, however it ends.
pub(super) struct OpenConnection<'a>(&'a ThriftServerCounters);

impl<'a> OpenConnection<'a> {
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
