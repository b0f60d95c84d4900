//! The error type of the client. Every error says whether another attempt makes sense, and whether
//! the write may have happened.

use bytes::Bytes;
use kv_api::{KeyRef, Version};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// No endpoint could be reached; nothing was sent.
    #[error("cannot reach {}", join(attempts))]
    Unreachable {
        /// Each endpoint that was tried, with the reason.
        attempts: Vec<(String, String)>,
    },
    /// The connection broke while the request was in flight.
    #[error("the connection to {endpoint} was lost while the request was in flight: {reason}")]
    ConnectionLost {
        /// The address at the other end of the connection.
        endpoint: String,
        /// How the connection ended.
        reason: String,
        /// See [`ClientError::maybe_committed`].
        maybe_committed: bool,
    },
    /// No answer came in time.
    #[error("no answer from {endpoint} within {timeout_ms} ms")]
    DeadlineExceeded {
        /// The address that was asked last, or "the cluster".
        endpoint: String,
        /// How long the client waited, in milliseconds.
        timeout_ms: u64,
        /// See [`ClientError::maybe_committed`].
        maybe_committed: bool,
    },
    /// The server answered with an error.
    #[error("{message}")]
    Refused {
        /// The server's error code.
        code: ErrorCode,
        /// The server's explanation for people.
        message: String,
        /// See [`ClientError::is_retryable`].
        retryable: bool,
        /// See [`ClientError::maybe_committed`].
        maybe_committed: bool,
        /// With [`ErrorCode::Conflict`]: the keys written in the meantime, as far as the server
        /// reported them.
        conflicting_keys: Vec<KeyRef>,
        /// With [`ErrorCode::NoPrimary`]: the `HOST:PORT` of the primary, if the server knows it
        /// but could not reach it.
        leader_endpoint: Option<String>,
    },
    /// The server could not understand the request, or failed while executing it.
    #[error("{endpoint} answered with an exception: {message}")]
    Exception {
        /// The address that answered.
        endpoint: String,
        /// The server's explanation for people.
        message: String,
        /// See [`ClientError::maybe_committed`].
        maybe_committed: bool,
    },
    /// The peer does not speak this protocol.
    #[error("{endpoint} does not speak the expected protocol: {reason}")]
    Malformed {
        /// The address that answered.
        endpoint: String,
        /// What is wrong with the bytes it sent.
        reason: String,
        /// See [`ClientError::maybe_committed`].
        maybe_committed: bool,
    },
    /// The request is invalid; nothing was sent.
    #[error("{0}")]
    InvalidArgument(String),
    /// The commit was sent one or more times under the same idempotency id, and no answer said
    /// whether it happened.
    #[error("it is unknown whether the commit happened, after {attempts} attempts; the last one: {last}")]
    CommitUnknown {
        /// How often the commit was tried.
        attempts: u32,
        /// The error of the last attempt.
        last: Box<ClientError>,
    },
    /// The transaction reads a key or value that will contain a versionstamp, which is unknown
    /// until the commit; nothing was sent.
    #[error(
        "cannot read at or after key '{}' of column family '{family}': it will contain a versionstamp, which is unknown \
         until the commit",
        key.escape_ascii()
    )]
    Unreadable {
        /// The column family; an empty name stands for the default one.
        family: String,
        /// The key itself, or the beginning of the range in which a versionstamped key may end up.
        key: Bytes,
    },
    /// The transaction is larger than the server's limit or
    /// [`crate::Options::max_transaction_bytes`]; nothing was sent.
    #[error("transaction of {size_bytes} bytes is larger than the limit of {limit_bytes} bytes")]
    TransactionTooLarge {
        /// Size of the transaction's keys and values, in bytes.
        size_bytes: usize,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// No server keeps changes from so long ago. Read the rows, and go on from the version of that.
    #[error("the changes after version {after} are not kept any more: they reach back to version {oldest}")]
    ChangesTooOld {
        /// The version that was asked for.
        after: Version,
        /// The lowest version that a server can continue from.
        oldest: Version,
    },
    /// The transaction was used after its commit began or after it was given up; nothing was sent.
    #[error("the transaction has ended: {0}")]
    TransactionEnded(&'static str),
}

fn join(attempts: &[(String, String)]) -> String {
    let each: Vec<String> = attempts.iter().map(|(endpoint, reason)| format!("{endpoint}: {reason}")).collect();
    each.join("; ")
}

impl ClientError {
    pub(crate) fn refused(code: Option<&str>, message: String, leader_endpoint: Option<String>) -> Self {
        let code = ErrorCode::of(code.unwrap_or_default());
        let (retryable, maybe_committed) = (code.is_retryable(), code.maybe_committed());
        let conflicting_keys = Vec::new();
        ClientError::Refused { code, message, retryable, maybe_committed, conflicting_keys, leader_endpoint }
    }

    /// Whether the same request may succeed later. A transaction has to be run again from its
    /// reads. If [`ClientError::maybe_committed`] is true as well, repeating a write can make it
    /// happen twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::ConnectionLost { .. }
            | ClientError::DeadlineExceeded { .. } => true,
            ClientError::Refused { retryable, .. } => *retryable,
            ClientError::CommitUnknown { .. } => true,
            ClientError::Exception { .. }
            | ClientError::Malformed { .. }
            | ClientError::InvalidArgument(_)
            | ClientError::Unreadable { .. }
            | ClientError::TransactionTooLarge { .. }
            | ClientError::ChangesTooOld { .. }
            | ClientError::TransactionEnded(_) => false,
        }
    }

    /// Whether the write may have happened despite this error. Always false for a read.
    pub fn maybe_committed(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::InvalidArgument(_)
            | ClientError::Unreadable { .. }
            | ClientError::TransactionTooLarge { .. }
            | ClientError::ChangesTooOld { .. }
            | ClientError::TransactionEnded(_) => false,
            ClientError::CommitUnknown { .. } => true,
            ClientError::ConnectionLost { maybe_committed, .. }
            | ClientError::DeadlineExceeded { maybe_committed, .. }
            | ClientError::Refused { maybe_committed, .. }
            | ClientError::Exception { maybe_committed, .. }
            | ClientError::Malformed { maybe_committed, .. } => *maybe_committed,
        }
    }

    /// The server's error code, if the server refused the request.
    pub fn code(&self) -> Option<&ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// With [`ErrorCode::Conflict`]: the keys written in the meantime, as far as the server
    /// reported them. Empty for every other error.
    pub fn conflicting_keys(&self) -> &[KeyRef] {
        match self {
            ClientError::Refused { conflicting_keys, .. } => conflicting_keys,
            _ => &[],
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $text:literal,)*) => {
        /// The `error_code` of a reply. The interface file, `kvstore.thrift`, defines the codes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
            /// A code that this client does not know; empty if the server sent none.
            Other(String),
        }

        impl ErrorCode {
            /// The code with this text.
            pub fn of(text: &str) -> Self {
                match text {
                    $($text => ErrorCode::$variant,)*
                    other => ErrorCode::Other(other.to_string()),
                }
            }

            /// The code's text on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(ErrorCode::$variant => $text,)*
                    ErrorCode::Other(text) => text,
                }
            }
        }
    };
}

codes! {
    /// A key or range that the transaction read has been written since.
    Conflict "CONFLICT",
    /// The read version is no longer readable.
    TransactionTooOld "TRANSACTION_TOO_OLD",
    /// The read version does not exist yet at the server.
    FutureVersion "FUTURE_VERSION",
    /// The server's deadline passed. A write was not committed.
    Timeout "TIMEOUT",
    /// There is no primary, or it cannot be reached.
    NoPrimary "NO_PRIMARY",
    /// The server has too many requests waiting.
    Overloaded "OVERLOADED",
    /// The server's disk is full.
    StorageFull "STORAGE_FULL",
    /// The server does not know whether the commit happened.
    CommitUnknownResult "COMMIT_UNKNOWN_RESULT",
    /// The request is invalid, for example because a value is missing.
    InvalidOperation "INVALID_OPERATION",
    /// A key is empty.
    KeyEmpty "KEY_EMPTY",
    /// A key is longer than the server allows.
    KeyTooLarge "KEY_TOO_LARGE",
    /// A value is longer than the server allows.
    ValueTooLarge "VALUE_TOO_LARGE",
    /// The transaction has more bytes, or more conflict keys and ranges, than the server allows.
    TransactionTooLarge "TRANSACTION_TOO_LARGE",
    /// The column family does not exist.
    UnknownColumnFamily "UNKNOWN_COLUMN_FAMILY",
    /// The rows do not fit in a reply.
    ResultTooLarge "RESULT_TOO_LARGE",
    /// The versions in the request are those of another cluster.
    ClusterChanged "CLUSTER_CHANGED",
    /// The client has not proved its identity.
    Unauthenticated "UNAUTHENTICATED",
    /// The client is not allowed to do this.
    Forbidden "FORBIDDEN",
    /// The server does not implement this.
    NotSupported "NOT_SUPPORTED",
    /// The server's storage failed.
    OperationFailed "OPERATION_FAILED",
    /// The server's storage failed during a commit.
    CommitFailed "COMMIT_FAILED",
    /// The server's storage failed while setting a key.
    PutFailed "PUT_FAILED",
    /// The server's storage failed while deleting a key.
    DeleteFailed "DELETE_FAILED",
}

impl ErrorCode {
    fn is_retryable(&self) -> bool {
        matches!(
            self,
            ErrorCode::Conflict
                | ErrorCode::TransactionTooOld
                | ErrorCode::FutureVersion
                | ErrorCode::Timeout
                | ErrorCode::NoPrimary
                | ErrorCode::Overloaded
                | ErrorCode::StorageFull
                | ErrorCode::CommitUnknownResult
        )
    }

    fn maybe_committed(&self) -> bool {
        matches!(self, ErrorCode::CommitUnknownResult)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use kv_api::KvError;

    use super::*;

    #[test]
    fn codes_are_judged_as_the_server_judges_its_errors() {
        let errors = [
            KvError::Conflict { keys: Vec::new() },
            KvError::InvalidOperation(String::new()),
            KvError::KeyEmpty,
            KvError::UnknownColumnFamily { name: String::new(), existing: Vec::new() },
            KvError::TransactionTooOld { read_version: 1, oldest: 2 },
            KvError::FutureVersion { read_version: 2, current: 1 },
            KvError::ResultTooLarge { limit: 1 },
            KvError::Timeout(String::new()),
            KvError::NoPrimary(String::new()),
            KvError::CommitUnknown(String::new()),
            KvError::Overloaded(String::new()),
            KvError::StorageFull(String::new()),
            KvError::Storage(String::new()),
            KvError::Corruption(String::new()),
            KvError::NotSupported(String::new()),
            KvError::ClusterChanged { expected: String::new(), found: None },
            KvError::Unauthenticated(String::new()),
            KvError::Forbidden(String::new()),
        ];
        for error in errors {
            let received = ClientError::refused(Some(error.code()), error.to_string(), None);
            assert_eq!(received.is_retryable(), error.is_retryable(), "{error:?}");
            assert_eq!(received.maybe_committed(), error.maybe_committed(), "{error:?}");
            assert!(!matches!(received.code(), Some(ErrorCode::Other(_))), "{error:?}");
        }
    }

    #[test]
    fn the_error_of_an_unreachable_cluster_names_every_address_and_reason() {
        let attempts = vec![("a:1".to_string(), "refused".to_string()), ("b:2".to_string(), "timed out".to_string())];
        let error = ClientError::Unreachable { attempts };
        assert_eq!(error.to_string(), "cannot reach a:1: refused; b:2: timed out");
    }
}
