//! The one error type of the client. It always tells two things: whether trying again makes sense, and whether the write
//! may have happened.

use bytes::Bytes;
use kv_api::KeyRef;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// No endpoint could be reached; nothing was sent.
    #[error("cannot reach {}", join(attempts))]
    Unreachable {
        /// Each endpoint that was tried, with the reason.
        attempts: Vec<(String, String)>,
    },
    /// The connection broke while the request was under way.
    #[error("the connection to {endpoint} was lost while the request was under way: {reason}")]
    ConnectionLost { endpoint: String, reason: String, maybe_committed: bool },
    /// No answer came in time.
    #[error("no answer from {endpoint} within {timeout_ms} ms")]
    DeadlineExceeded { endpoint: String, timeout_ms: u64, maybe_committed: bool },
    /// The server answered with an error.
    #[error("{message}")]
    Refused {
        code: ErrorCode,
        message: String,
        retryable: bool,
        maybe_committed: bool,
        /// With [`ErrorCode::Conflict`]: the keys written meanwhile, as far as the server told.
        conflicting_keys: Vec<KeyRef>,
    },
    /// The server could not understand the request, or broke while it worked on it.
    #[error("{endpoint} answered with an exception: {message}")]
    Exception { endpoint: String, message: String, maybe_committed: bool },
    /// The peer does not speak this protocol.
    #[error("{endpoint} does not speak the expected protocol: {reason}")]
    Malformed { endpoint: String, reason: String, maybe_committed: bool },
    /// The request makes no sense as it stands; nothing was sent.
    #[error("{0}")]
    InvalidArgument(String),
    /// The commit was sent, again and again under the same idempotency id, and no answer said whether it happened.
    #[error("it is unknown whether the commit happened, after {attempts} attempts; the last one: {last}")]
    CommitUnknown { attempts: u32, last: Box<ClientError> },
    /// The transaction reads what it has given a versionstamp, which only the commit will know; nothing was sent.
    #[error(
        "what comes at or behind key '{}' of column family '{family}' gets a versionstamp that only the commit will know",
        key.escape_ascii()
    )]
    Unreadable {
        /// Empty: the default family.
        family: String,
        /// That key, or where the range begins in which one may come to lie.
        key: Bytes,
    },
    /// The transaction holds more than the server takes, or [`crate::Options::max_transaction_bytes`] allows; nothing was sent.
    #[error("transaction of {size_bytes} bytes is larger than the limit of {limit_bytes} bytes")]
    TransactionTooLarge { size_bytes: usize, limit_bytes: usize },
    /// The transaction is used after its commit began, or after it was given up; nothing was sent.
    #[error("the transaction has ended: {0}")]
    TransactionEnded(&'static str),
}

fn join(attempts: &[(String, String)]) -> String {
    let each: Vec<String> = attempts.iter().map(|(endpoint, reason)| format!("{endpoint}: {reason}")).collect();
    each.join("; ")
}

impl ClientError {
    pub(crate) fn refused(code: Option<&str>, message: String) -> Self {
        let code = ErrorCode::of(code.unwrap_or_default());
        let (retryable, maybe_committed) = (code.is_retryable(), code.maybe_committed());
        ClientError::Refused { code, message, retryable, maybe_committed, conflicting_keys: Vec::new() }
    }

    /// Whether the same request (a transaction: run again from its reads) may succeed later. With
    /// [`ClientError::maybe_committed`] a repeated write can happen twice.
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
            | ClientError::TransactionEnded(_) => false,
        }
    }

    /// Whether the write may have happened all the same. False for every read.
    pub fn maybe_committed(&self) -> bool {
        match self {
            ClientError::Unreachable { .. }
            | ClientError::InvalidArgument(_)
            | ClientError::Unreadable { .. }
            | ClientError::TransactionTooLarge { .. }
            | ClientError::TransactionEnded(_) => false,
            ClientError::CommitUnknown { .. } => true,
            ClientError::ConnectionLost { maybe_committed, .. }
            | ClientError::DeadlineExceeded { maybe_committed, .. }
            | ClientError::Refused { maybe_committed, .. }
            | ClientError::Exception { maybe_committed, .. }
            | ClientError::Malformed { maybe_committed, .. } => *maybe_committed,
        }
    }

    /// The server's code, if it was the server that refused.
    pub fn code(&self) -> Option<&ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// With [`ErrorCode::Conflict`]: the keys written meanwhile, as far as the server told.
    pub fn conflicting_keys(&self) -> &[KeyRef] {
        match self {
            ClientError::Refused { conflicting_keys, .. } => conflicting_keys,
            _ => &[],
        }
    }
}

macro_rules! codes {
    ($($variant:ident $text:literal,)*) => {
        /// The `error_code` of a reply. What each one means stands in the interface file, `kvstore.thrift`.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($variant,)*
            /// A code that this client does not know; empty when the server gave none.
            Other(String),
        }

        impl ErrorCode {
            pub fn of(text: &str) -> Self {
                match text {
                    $($text => ErrorCode::$variant,)*
                    other => ErrorCode::Other(other.to_string()),
                }
            }

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
    Conflict "CONFLICT",
    TransactionTooOld "TRANSACTION_TOO_OLD",
    FutureVersion "FUTURE_VERSION",
    Timeout "TIMEOUT",
    NoPrimary "NO_PRIMARY",
    Overloaded "OVERLOADED",
    StorageFull "STORAGE_FULL",
    CommitUnknownResult "COMMIT_UNKNOWN_RESULT",
    InvalidOperation "INVALID_OPERATION",
    KeyEmpty "KEY_EMPTY",
    KeyTooLarge "KEY_TOO_LARGE",
    ValueTooLarge "VALUE_TOO_LARGE",
    TransactionTooLarge "TRANSACTION_TOO_LARGE",
    UnknownColumnFamily "UNKNOWN_COLUMN_FAMILY",
    ResultTooLarge "RESULT_TOO_LARGE",
    Unauthenticated "UNAUTHENTICATED",
    Forbidden "FORBIDDEN",
    NotSupported "NOT_SUPPORTED",
    OperationFailed "OPERATION_FAILED",
    CommitFailed "COMMIT_FAILED",
    PutFailed "PUT_FAILED",
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
    fn codes_tell_the_same_as_the_errors_of_the_server() {
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
            KvError::Unauthenticated(String::new()),
            KvError::Forbidden(String::new()),
        ];
        for error in errors {
            let received = ClientError::refused(Some(error.code()), error.to_string());
            assert_eq!(received.is_retryable(), error.is_retryable(), "{error:?}");
            assert_eq!(received.maybe_committed(), error.maybe_committed(), "{error:?}");
            assert!(!matches!(received.code(), Some(ErrorCode::Other(_))), "{error:?}");
        }
    }

    #[test]
    fn an_unreachable_cluster_is_named_with_every_reason() {
        let attempts = vec![("a:1".to_string(), "refused".to_string()), ("b:2".to_string(), "timed out".to_string())];
        let error = ClientError::Unreachable { attempts };
        assert_eq!(error.to_string(), "cannot reach a:1: refused; b:2: timed out");
    }
}
