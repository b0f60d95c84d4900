//! The one error type of the program. A variant says what the caller should do next.

use crate::{KeyRef, family_name_fault};

/// Why an operation failed. `retryable`: the same request may succeed later. `maybe committed`: it may have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A key that the transaction read was written meanwhile. Retryable with a new read version; not committed.
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
    /// The deadline passed before the request was handed on. Retryable; not committed.
    #[error("timed out: {0}")]
    Timeout(String),
    /// No replica leads. Retryable; not committed.
    #[error("no primary: {0}")]
    NoPrimary(String),
    /// A primary is known but could not be reached. Retryable; not committed.
    #[error("Not leader, try leader at: {endpoint} (node {node})")]
    NotPrimary { endpoint: String, node: u32 },
    /// The commit may or may not have happened; a read, or the same idempotency id, tells.
    #[error("commit result unknown: {0}")]
    CommitUnknown(String),
    /// Too much is waiting. Retryable after a pause; not committed.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// Retryable once there is space; not committed.
    #[error("storage is full: {0}")]
    StorageFull(String),
    /// The storage failed. Not retryable here; not acknowledged.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The storage holds what was never written to it. Nothing of it can be trusted; not acknowledged.
    #[error("the database is damaged: {0}")]
    Corruption(String),
    #[error("{0} is not supported yet")]
    NotSupported(String),
    /// Made by fault injection: `code` is what the tester asked for.
    #[error("injected fault: {code}")]
    Injected { code: String },
    #[error("authentication required: {0}")]
    Unauthenticated(String),
    #[error("forbidden: {0}")]
    Forbidden(String),
}

/// What follows the words that existing clients look for.
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

impl KvError {
    /// The wire's `error_code`.
    pub fn code(&self) -> &str {
        match self {
            KvError::Conflict { .. } => "CONFLICT",
            KvError::InvalidOperation(_) => "INVALID_OPERATION",
            KvError::KeyEmpty => "KEY_EMPTY",
            KvError::KeyTooLarge { .. } => "KEY_TOO_LARGE",
            KvError::ValueTooLarge { .. } => "VALUE_TOO_LARGE",
            KvError::TransactionTooLarge { .. } => "TRANSACTION_TOO_LARGE",
            KvError::UnknownColumnFamily { .. } => "UNKNOWN_COLUMN_FAMILY",
            KvError::TransactionTooOld { .. } => "TRANSACTION_TOO_OLD",
            KvError::FutureVersion { .. } => "FUTURE_VERSION",
            KvError::ResultTooLarge { .. } => "RESULT_TOO_LARGE",
            KvError::Timeout(_) => "TIMEOUT",
            KvError::NoPrimary(_) | KvError::NotPrimary { .. } => "NO_PRIMARY",
            KvError::CommitUnknown(_) => "COMMIT_UNKNOWN_RESULT",
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
        matches!(
            self,
            KvError::Conflict { .. }
                | KvError::TransactionTooOld { .. }
                | KvError::FutureVersion { .. }
                | KvError::Timeout(_)
                | KvError::NoPrimary(_)
                | KvError::NotPrimary { .. }
                | KvError::CommitUnknown(_)
                | KvError::Overloaded(_)
                | KvError::StorageFull(_)
        )
    }

    /// Whether the commit may have happened all the same.
    pub fn maybe_committed(&self) -> bool {
        matches!(self, KvError::CommitUnknown(_))
    }
}
