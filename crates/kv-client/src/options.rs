//! How patient a client is.

use std::time::Duration;

/// Settings of a [`crate::Client`]. The defaults suit a server with its own defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long a request may take in all, connecting and trying other endpoints included. A little more than the
    /// server's own deadline, so that the server's answer, which knows more, comes first.
    pub request_timeout: Duration,
    /// The pause before a second attempt to connect; it doubles with each failure.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// Requests under way on one connection; more wait their turn.
    pub max_in_flight: usize,
    /// A connection whose oldest request is overdue by so long is taken for dead.
    pub stall_timeout: Duration,
    /// Largest reply that is accepted, in bytes.
    pub max_reply_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(12),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            max_in_flight: 1024,
            stall_timeout: Duration::from_secs(10),
            max_reply_bytes: 128 << 20,
        }
    }
}
