//! Timeouts, limits and other settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Tls;

/// Settings of a [`crate::Client`] and of a [`crate::Database`]. The defaults suit a server with
/// default settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Maximum time of one attempt to connect.
    pub connect_timeout: Duration,
    /// Maximum time of a request of a [`crate::Client`], including the time for connecting and for
    /// trying other addresses. It should be a little longer than the server's own deadline, so that
    /// the server's answer, which says more than a timeout, comes first.
    pub request_timeout: Duration,
    /// How long a [`crate::Client`] waits for one address before it asks the next one as well; the
    /// first answer counts. Applies to reads only, because a write must not happen twice.
    pub hedge_after: Duration,
    /// The pause before the second attempt. It doubles with each failure.
    pub backoff_min: Duration,
    /// Maximum pause between attempts.
    pub backoff_max: Duration,
    /// Maximum number of requests in flight on one connection. Further requests wait.
    pub max_in_flight: usize,
    /// A connection counts as dead once its oldest request is overdue by this long.
    pub stall_timeout: Duration,
    /// Maximum size of a reply, in bytes.
    pub max_reply_bytes: usize,
    /// Encrypts all connections; `None` for servers without TLS.
    pub tls: Option<Tls>,
    /// Says who asks: each connection begins with it. `None` for servers that ask for no token, or
    /// know the client by its certificate.
    pub token: Option<Token>,

    /// Number of connections of a [`crate::Database`] to each replica for reads, and the same
    /// number for commits. Replies on one connection come in order, so a read should not wait
    /// behind a commit.
    pub connections_per_endpoint: usize,
    /// How long a [`crate::Database`] waits for one replica before it tries another one. Doubles
    /// after each attempt that got no answer in time.
    pub attempt_timeout: Duration,
    /// How often a [`crate::Database`] asks for the list of replicas and the primary. It also asks
    /// after failures.
    pub refresh_interval: Duration,
    /// Whether a [`crate::Database`] uses replicas that the cluster reports in addition to the
    /// given addresses.
    pub discovery: bool,
    /// Which replicas serve the reads of transactions.
    pub read_from: ReadFrom,
    /// Memory budget of a [`crate::Database`] for requests in flight and their replies, in bytes.
    /// Further requests wait. The size of a single value is not known in advance and not counted.
    pub max_in_flight_bytes: usize,
    /// Maximum size of one page of a range, in bytes. Pages start small and grow.
    pub range_page_bytes: u32,
    /// Maximum size of a transaction, in bytes of keys and values; `None` means the limit that the
    /// server reports.
    pub max_transaction_bytes: Option<usize>,
    /// Default settings of transactions.
    pub transaction: TransactionOptions,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(12),
            hedge_after: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            max_in_flight: 1024,
            stall_timeout: Duration::from_secs(10),
            max_reply_bytes: 128 << 20,
            tls: None,
            token: None,
            connections_per_endpoint: 1,
            attempt_timeout: Duration::from_secs(3),
            refresh_interval: Duration::from_secs(10),
            discovery: true,
            read_from: ReadFrom::AnyReplica,
            max_in_flight_bytes: 64 << 20,
            range_page_bytes: 1 << 20,
            max_transaction_bytes: None,
            transaction: TransactionOptions::default(),
        }
    }
}

/// A secret that identifies a user: a token of `synodkv auth token create`, or a JWT. It never shows
/// itself in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// A token with this text, without the white space around it.
    pub fn new(text: &str) -> Self {
        Token(text.trim().into())
    }

    /// The text. Never put it into a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Which replicas serve the reads of transactions. With either value, a read sees exactly its read
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// All replicas share the work.
    AnyReplica,
    /// The primary, as long as it answers. It never has to catch up with a version.
    Primary,
}

/// Settings of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOptions {
    /// Maximum time of the transaction, including all repetitions.
    pub timeout: Duration,
    /// How often [`crate::Database::run`] repeats it at most; `None` means until the timeout.
    pub max_retries: Option<u32>,
    /// Whether commits carry an idempotency id. With one, a commit whose answer was lost is sent
    /// again and still happens once. Without one, such a commit fails with an error for which
    /// [`crate::ClientError::maybe_committed`] is true.
    pub idempotent: bool,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        TransactionOptions { timeout: Duration::from_secs(30), max_retries: None, idempotent: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_show_itself() {
        let options = Options { token: Some(Token::new(" secret\n")), ..Options::default() };
        assert!(!format!("{options:?}").contains("secret"));
        assert_eq!(options.token.expect("a token").reveal(), "secret");
    }
}
