//! The results that requests return.

use std::time::Duration;

use bytes::Bytes;
use kv_api::Version;

/// The answer to [`crate::Client::ping`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The address that answered, as given to [`crate::Client::connect`].
    pub endpoint: String,
    /// Time from the call to the answer.
    pub round_trip: Duration,
    /// The server's clock, in microseconds since 1970.
    pub server_time_us: i64,
}

/// What a successful commit reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The commit's version: the first one at which its writes can be read. A transaction that
    /// wrote nothing has its read version here.
    pub version: Version,
    /// The 10 bytes of the commit's first versionstamp, if the server sent it.
    pub versionstamp: Option<Bytes>,
    /// The keys that versionstamped mutations generated, in the order of the mutations.
    pub generated_keys: Vec<Bytes>,
    /// The values that versionstamped mutations generated, in the order of the mutations.
    pub generated_values: Vec<Bytes>,
}
