//! Keys and ranges of keys, each within a column family. Like commits, they are part of the bytes
//! that replicas agree on.

use bytes::Bytes;
use prost::Message;

/// A key of one column family.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Message)]
pub struct KeyRef {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Empty: the default family.
    #[prost(string, tag = "2")]
    pub column_family: String,
}

impl KeyRef {
    /// A key of the default family.
    pub fn new(key: impl Into<Bytes>) -> Self {
        KeyRef { key: key.into(), column_family: String::new() }
    }
}

/// The keys `begin <= key < end` of one column family.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyRange {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub begin: Bytes,
    /// End of the range, exclusive.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Empty: the default family.
    #[prost(string, tag = "3")]
    pub column_family: String,
}
