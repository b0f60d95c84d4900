//! Changes of rows: single polls, feeds, and consumers that handle each version exactly once.

mod convert;
mod feed;
mod run;

use std::time::Duration;

use bytes::Bytes;
use kv_api::{Change, ChangeRange, KeyRef, Version};

pub use feed::ChangeFeed;
pub use run::{ChangeConsumer, Start};

use crate::client::Client;
use crate::{ClientError, Options, prefix_end};
use feed::Poller;

/// The changes that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesRequest {
    /// The changes after this version.
    pub after: Version,
    /// The keys; empty: every key of every column family.
    pub ranges: Vec<ChangeRange>,
    /// How long the server waits for a change; at most 30 seconds.
    pub max_wait: Duration,
    /// The reply ends before the version that would exceed this, but holds at least one; at most
    /// 16 MiB.
    pub max_bytes: u32,
    /// Maximum number of versions of one reply; `None`: no limit.
    pub max_versions: Option<u32>,
    /// Whether values are sent; otherwise they are empty.
    pub with_values: bool,
    /// The cluster to which the version belongs, from an earlier batch.
    pub cluster_id: Option<String>,
}

impl ChangesRequest {
    /// All changes of the ranges after a version, in replies of about a MiB.
    pub fn after(after: Version, ranges: Vec<ChangeRange>) -> Self {
        ChangesRequest {
            after,
            ranges,
            max_wait: Duration::from_secs(20),
            max_bytes: 1 << 20,
            max_versions: None,
            with_values: true,
            cluster_id: None,
        }
    }
}

/// Every key of a column family that begins with `prefix`.
pub fn prefix_range(column_family: impl Into<String>, prefix: &[u8]) -> ChangeRange {
    let end = (!prefix.iter().all(|byte| *byte == 0xff)).then(|| prefix_end(prefix));
    ChangeRange { column_family: column_family.into(), begin: Bytes::copy_from_slice(prefix), end }
}

/// Whole versions, in order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesBatch {
    /// The versions that changed something in the ranges.
    pub changes: Vec<Change>,
    /// Every version up to this one that touches the ranges is in `changes`, or was before.
    pub through: Version,
    /// Whether later versions exist already.
    pub has_more: bool,
    /// The lowest version that the server can continue from.
    pub oldest: Version,
    /// The cluster; `None` if the server is standalone.
    pub cluster_id: Option<String>,
}

/// The keys that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKeys {
    /// Each once; empty: none changed in time.
    pub changed: Vec<KeyRef>,
    /// No other one changed up to this version: the next one to watch from.
    pub through: Version,
}

impl Client {
    /// Asks for the changes after a version, and waits for some as long as the request says. Polls
    /// of one client wait one after the other; a [`ChangeFeed`] has a connection of its own.
    ///
    /// # Errors
    /// [`ClientError::ChangesTooOld`] if no server that answers reaches back to the version,
    /// [`crate::ErrorCode::ClusterChanged`]; otherwise any [`ClientError`] of a read.
    pub async fn poll_changes(&self, request: &ChangesRequest) -> Result<ChangesBatch, ClientError> {
        let mut poller = Poller::sharing(self.shared_endpoints(), self.options().clone());
        poller.poll(request).await.map_err(|error| error.error)
    }

    /// Waits until one of `keys` is written after version `at`, at most for `max_wait`.
    ///
    /// # Errors
    /// As [`Self::poll_changes`].
    pub async fn watch_keys(
        &self,
        keys: Vec<KeyRef>,
        at: Version,
        max_wait: Duration,
    ) -> Result<ChangedKeys, ClientError> {
        let mut poller = Poller::sharing(self.shared_endpoints(), self.options().clone());
        poller.watch(convert::watch(keys, at, max_wait), at, max_wait).await.map_err(|error| error.error)
    }

    /// The changes that a request asks for, and all that follow, over connections of its own.
    pub fn change_feed(&self, request: ChangesRequest) -> ChangeFeed {
        let addresses = self.endpoints().map(str::to_owned).collect();
        ChangeFeed::new(addresses, self.options().clone(), request)
    }
}

impl crate::Database {
    /// The changes that a request asks for, and all that follow, over connections of its own.
    pub fn change_feed(&self, request: ChangesRequest) -> ChangeFeed {
        ChangeFeed::new(self.addresses(), self.options().clone(), request)
    }

    fn options(&self) -> &Options {
        &self.shared.options
    }
}
