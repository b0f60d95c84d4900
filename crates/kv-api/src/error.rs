//! The one error type of the program. Each variant tells the caller what to do next.

use crate::families::family_name_fault;
use crate::keys::KeyRef;

/// Why an operation failed. `retryable`: the same request may succeed later. `maybe committed`: it
/// may have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A key that the transaction read was written after its read version. Retryable with a new
    /// read version; not committed.
    #[error("conflict: a key read by this transaction was written after its read version")]
    Conflict { keys: Vec<KeyRef> },
    /// The request makes no sense as it stands. Not retryable; not committed.
    #[error("{0}")]
    InvalidOperation(String),
    #[error("key cannot be empty")]
    KeyEmpty,
    #[error("key of {length} bytes is longer than the limit of {limit} bytes")]
    KeyTooLarge { length: usize, limit: usize },
    #[error("value of {length} bytes is longer than the limit of {limit} bytes")]
    ValueTooLarge { length: usize, limit: usize },
    #[error("transaction of {size} bytes is larger than the limit of {limit} bytes")]
    TransactionTooLarge { size: usize, limit: usize },
    /// Only the server that receives the request reports it; replicas never agree on it.
    #[error(
        "{count} conflict keys and ranges are more than the limit of {limit} of one transaction (a key without a column family counts once for each that exists)"
    )]
    TooManyConflicts { count: usize, limit: usize },
    /// `existing`: the families that requests may name.
    #[error("Column family '{name}' not found{}", what_to_do_instead(.name, .existing))]
    UnknownColumnFamily { name: String, existing: Vec<String> },
    /// Retryable with a new read version; not committed.
    #[error("read version {read_version} is older than the oldest readable version {oldest}")]
    TransactionTooOld { read_version: u64, oldest: u64 },
    /// Retryable; not committed.
    #[error("read version {read_version} is newer than the current version {current}")]
    FutureVersion { read_version: u64, current: u64 },
    #[error("the reply would be larger than the limit of {limit} bytes: ask for fewer rows, or set target_bytes")]
    ResultTooLarge { limit: u64 },
    /// The versions in the request are those of another cluster. Not retryable.
    #[error("the versions are those of cluster {expected}, and this server belongs to {}: start again from a version of this one", cluster_or_none(.found))]
    ClusterChanged { expected: String, found: Option<String> },
    /// The deadline passed before the request was passed on to the database or the log. Retryable;
    /// not committed.
    #[error("timed out: {0}")]
    Timeout(String),
    /// No replica leads. Retryable; not committed.
    #[error("no primary: {0}")]
    NoPrimary(String),
    /// A primary is known but could not be reached. Retryable; not committed.
    #[error("Not leader, try leader at: {endpoint} (node {node})")]
    NotPrimary { endpoint: String, node: u32 },
    /// The commit may or may not have happened. A read, or a retry with the same idempotency id,
    /// shows which.
    #[error("commit result unknown: {0}")]
    CommitUnknown(String),
    /// Too many requests are waiting. Retryable after a pause; not committed.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// Retryable once there is space; not committed.
    #[error("storage is full: {0}")]
    StorageFull(String),
    /// The storage failed. Not retryable here; not acknowledged.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The storage returned data that was never written to it, so none of it can be trusted. Not
    /// acknowledged.
    #[error("the database is damaged: {0}")]
    Corruption(String),
    #[error("{0} is not supported yet")]
    NotSupported(String),
    /// Injected by a test: `code` is the one that the tester asked for.
    #[error("injected fault: {code}")]
    Injected { code: String },
    #[error("authentication required: {0}")]
    Unauthenticated(String),
    #[error("forbidden: {0}")]
    Forbidden(String),
}

/// The rest of the message; existing clients look for the words before it.
fn what_to_do_instead(name: &str, existing: &[String]) -> String {
    let existing = match existing {
        [] => return String::new(),
        [only] => format!("there is only {only}"),
        several => format!("there are {}", several.join(", ")),
    };
    match family_name_fault(name) {
        None => format!("; {existing}; `synodkv family create {name}` creates it"),
        Some(fault) => format!("; {existing}; {fault}"),
    }
}

fn cluster_or_none(found: &Option<String>) -> String {
    found.as_ref().map_or("none, because it is standalone".into(), |id| format!("cluster {id}"))
}

impl KvError {
    /// The wire's `error_code`.
    pub fn code(&self) -> &str {
        match self {
            KvError::Conflict { .. } => "CONFLICT",
            KvError::InvalidOperation(_) => "INVALID_OPERATION",
            KvError::KeyEmpty => "KEY_EMPTY",
            KvError::KeyTooLarge { .. } => "KEY_TOO_LARGE",
            KvError::ValueTooLarge { .. } => "VALUE_TOO_LARGE",
            KvError::TransactionTooLarge { .. } | KvError::TooManyConflicts { .. } => "TRANSACTION_TOO_LARGE",
            KvError::UnknownColumnFamily { .. } => "UNKNOWN_COLUMN_FAMILY",
            KvError::TransactionTooOld { .. } => "TRANSACTION_TOO_OLD",
            KvError::FutureVersion { .. } => "FUTURE_VERSION",
            KvError::ResultTooLarge { .. } => "RESULT_TOO_LARGE",
            KvError::ClusterChanged { .. } => "CLUSTER_CHANGED",
            KvError::Timeout(_) => "TIMEOUT",
            KvError::NoPrimary(_) | KvError::NotPrimary { .. } => "NO_PRIMARY",
            KvError::CommitUnknown(_) => UNKNOWN_RESULT_CODE,
            KvError::Overloaded(_) => "OVERLOADED",
            KvError::StorageFull(_) => "STORAGE_FULL",
            KvError::Storage(_) | KvError::Corruption(_) => "OPERATION_FAILED",
            KvError::NotSupported(_) => "NOT_SUPPORTED",
            KvError::Injected { code } => code,
            KvError::Unauthenticated(_) => "UNAUTHENTICATED",
            KvError::Forbidden(_) => "FORBIDDEN",
        }
    }

    /// Whether the same request (a transaction: run again from its reads) may succeed later.
    pub fn is_retryable(&self) -> bool {
        // Decided by the code, so that clients treat an injected error as they would the real one.
        RETRYABLE_CODES.contains(&self.code())
    }

    /// Whether the commit may have happened despite the error.
    pub fn maybe_committed(&self) -> bool {
        self.code() == UNKNOWN_RESULT_CODE
    }
}

const UNKNOWN_RESULT_CODE: &str = "COMMIT_UNKNOWN_RESULT";

const RETRYABLE_CODES: [&str; 8] = [
    "CONFLICT",
    "TRANSACTION_TOO_OLD",
    "FUTURE_VERSION",
    "TIMEOUT",
    "NO_PRIMARY",
    UNKNOWN_RESULT_CODE,
    "OVERLOADED",
    "STORAGE_FULL",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injected_error_is_as_retryable_as_the_real_one() {
        let injected = |code: &str| KvError::Injected { code: code.to_string() };
        let real = [
            KvError::Conflict { keys: Vec::new() },
            KvError::NotPrimary { endpoint: "127.0.0.1:9090".into(), node: 1 },
            KvError::CommitUnknown("lost".into()),
            KvError::StorageFull("full".into()),
            KvError::KeyEmpty,
            KvError::Storage("broken".into()),
        ];
        for error in real {
            let injected = injected(error.code());
            assert_eq!(injected.is_retryable(), error.is_retryable(), "{error}");
            assert_eq!(injected.maybe_committed(), error.maybe_committed(), "{error}");
        }
        assert!(!injected("MY_OWN").is_retryable() && !injected("MY_OWN").maybe_committed());
    }

    #[test]
    fn an_unknown_family_is_refused_with_the_existing_ones_and_how_to_create_one() {
        let error = |name: &str, existing: &[&str]| {
            let existing = existing.iter().map(ToString::to_string).collect();
            KvError::UnknownColumnFamily { name: name.into(), existing }.to_string()
        };
        assert_eq!(error("x", &[]), "Column family 'x' not found");
        let expected = "Column family 'x' not found; there is only default; `synodkv family create x` creates it";
        assert_eq!(error("x", &["default"]), expected);
        assert!(error("a b", &["default", "users"]).contains("there are default, users; a name has 1 to 64 letters"));
    }
}
