//! How patient a client is, and how much it may use.

use std::time::Duration;

/// Settings of a [`crate::Client`] and of a [`crate::Database`]. The defaults suit a server with its own defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long a request of a [`crate::Client`] may take in all, connecting and trying other endpoints included. A little
    /// more than the server's own deadline, so that the server's answer, which knows more, comes first.
    pub request_timeout: Duration,
    /// How long a [`crate::Client`] waits for one address before it asks the next one, too; the first answer counts. Only of
    /// what may happen twice, which writes may not.
    pub hedge_after: Duration,
    /// The pause before a second attempt; it doubles with each failure.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// Requests under way on one connection; more wait their turn.
    pub max_in_flight: usize,
    /// A connection whose oldest request is overdue by so long is taken for dead.
    pub stall_timeout: Duration,
    /// Largest reply that is accepted, in bytes.
    pub max_reply_bytes: usize,

    /// Connections of a [`crate::Database`] to each replica for reads, and as many for commits: replies on a connection
    /// come in order, so a read should not wait behind a commit.
    pub connections_per_endpoint: usize,
    /// How long a [`crate::Database`] waits for one replica before it tries another one; it doubles with each silence.
    pub attempt_timeout: Duration,
    /// How often a [`crate::Database`] asks which replicas there are and which one leads. It also asks after failures.
    pub refresh_interval: Duration,
    /// Whether a [`crate::Database`] uses replicas that the cluster names beside the given addresses.
    pub discovery: bool,
    /// Which replicas serve the reads of transactions.
    pub read_from: ReadFrom,
    /// Memory of a [`crate::Database`] for requests under way and the replies that they ask for, in bytes; more wait their
    /// turn. Values read one by one are not counted in advance.
    pub max_in_flight_bytes: usize,
    /// Most bytes of one page of a range; pages begin small and grow.
    pub range_page_bytes: u32,
    /// Largest transaction, in bytes of keys and values; `None`: what the server says that it takes.
    pub max_transaction_bytes: Option<usize>,
    /// What transactions do that are not told otherwise.
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

/// Which replicas serve the reads of transactions. Either way they see exactly their read version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// All of them share the work.
    AnyReplica,
    /// The primary, as long as it answers: it never has to catch up with a version.
    Primary,
}

/// Settings of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionOptions {
    /// How long it may take in all, every repetition included.
    pub timeout: Duration,
    /// How often [`crate::Database::run`] repeats it at most; `None`: until the timeout.
    pub max_retries: Option<u32>,
    /// Commits under an idempotency id, so that a commit whose answer was lost is sent again and still happens once.
    /// Without, such a commit fails with an error whose [`crate::ClientError::maybe_committed`] is true.
    pub idempotent: bool,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        TransactionOptions { timeout: Duration::from_secs(30), max_retries: None, idempotent: true }
    }
}
