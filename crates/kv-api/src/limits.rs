//! Sizes that a request may have.

use serde::{Deserialize, Serialize};

/// Limits that the server checks before it routes a request. All are settings; the defaults are
/// those of the Thrift interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest key, in bytes.
    pub max_key_bytes: usize,
    /// Longest value, in bytes.
    pub max_value_bytes: usize,
    /// Largest transaction: keys, values and conflict ranges together, in bytes.
    pub max_transaction_bytes: usize,
    /// Maximum number of conflict keys and ranges of one commit. A key without a column family
    /// counts once for each that exists.
    pub max_conflicts: usize,
    /// Largest reply, in bytes; a range that would exceed it fails with `RESULT_TOO_LARGE`.
    pub max_reply_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_key_bytes: 10_000,
            max_value_bytes: 100_000,
            max_transaction_bytes: 10_000_000,
            max_conflicts: 100_000,
            max_reply_bytes: 64 << 20,
        }
    }
}
