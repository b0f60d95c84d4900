//! What a request asks for, and how it is to be sent.

use bytes::Bytes;
use tokio::time::Instant;

/// A range to read: `begin` is inclusive, `end` exclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRead {
    /// The first key that can be returned.
    pub begin: Bytes,
    /// The range ends before this key.
    pub end: Bytes,
    /// The column family; an empty name stands for the default one.
    pub column_family: String,
    /// Maximum number of rows; `None` means no limit.
    pub limit: Option<u32>,
    /// Whether rows are returned in descending order of their keys.
    pub reverse: bool,
    /// Allows the server to end the reply after about this many bytes.
    /// [`Rows::has_more`](crate::Rows::has_more) then says that rows are missing.
    pub target_bytes: Option<u32>,
}

/// Whether a request only reads. A read may be sent again after its connection broke; a write may
/// already have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Which replica is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any other replica would have to ask the primary, so asking it directly is fastest.
    Primary,
    Any,
}

/// How one request to a cluster is treated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOptions {
    pub target: Target,
    pub access: Access,
    /// Whether a write carries an idempotency id, so that it may be sent again although an earlier
    /// copy may have happened.
    pub has_id: bool,
    pub deadline: Instant,
    /// Estimated memory for the request and its reply.
    pub cost_bytes: usize,
}
