//! Single requests to a fixed list of addresses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_api::thrift::ThriftRequest;
use kv_api::thrift::generated::{
    GetClusterHealthRequest, GetReadVersionRequest, PinSnapshotRequest, PingRequest, UnpinSnapshotRequest,
};
use kv_api::{AtomicCommit, KeyRef, Limits, MutationKind, Rows, Version};
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::endpoint::Endpoint;
use crate::endpoint_list::EndpointList;
use crate::limits::KnownLimits;
use crate::reply::response_of;
use crate::request::{Access, RangeRead};
use crate::results::{Committed, Pong};
use crate::{ClientError, ClusterHealth, Options, convert};

/// Sends single requests to the addresses it was given. Clones share its connections. The crate's
/// documentation says which requests are sent again after a failure.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.endpoints().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

struct Shared {
    endpoints: EndpointList,
    limits: KnownLimits,
    options: Options,
}

impl Client {
    /// Connects to the first of `addresses` that answers. Each is `HOST:PORT`, and all belong to
    /// one cluster.
    ///
    /// # Errors
    /// - [`ClientError::Unreachable`] if no address answers.
    /// - [`ClientError::Malformed`] if one answers in another protocol and no other one answers.
    /// - [`ClientError::InvalidArgument`] if no address is given.
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        options: Options,
    ) -> Result<Client, ClientError> {
        let endpoints: Vec<Endpoint> =
            addresses.into_iter().map(|address| Endpoint::start(address.into(), &options)).collect();
        if endpoints.is_empty() {
            return Err(ClientError::InvalidArgument("no address given".to_string()));
        }
        let endpoints = EndpointList::new(endpoints, options.clone());
        endpoints.find().await?;
        Ok(Client { shared: Arc::new(Shared { endpoints, limits: KnownLimits::default(), options }) })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn known_limits(&self) -> &KnownLimits {
        &self.shared.limits
    }

    /// Handles to the endpoints, which share their connections.
    pub(crate) fn shared_endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.shared.endpoints.iter().cloned()
    }

    /// The limits of the server that answers. A server that is too old to report them leaves the
    /// defaults of the interface in the result.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn limits(&self) -> Result<Limits, ClientError> {
        let (response, _) = self.call(GetClusterHealthRequest { auth_token: None }, Access::Read).await?;
        convert::success(response.success, response.error, response.error_code, None)?;
        response.limits.iter().for_each(|reported| self.shared.limits.learn(reported));
        Ok(self.shared.limits.get())
    }

    /// The addresses given to [`Client::connect`].
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.shared.endpoints.iter().map(|endpoint| &*endpoint.address)
    }

    /// Asks for a sign of life, and measures how long it takes.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn ping(&self) -> Result<Pong, ClientError> {
        let begun = Instant::now();
        let (response, endpoint) = self.call(PingRequest { message: None, timestamp: None }, Access::Read).await?;
        let server_time_us = response.server_timestamp;
        Ok(Pong { endpoint: endpoint.to_string(), round_trip: begun.elapsed(), server_time_us })
    }

    /// The value of a key, or `None` if the key does not exist. The read sees everything that was
    /// acknowledged before the call.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn get(&self, key: KeyRef) -> Result<Option<Bytes>, ClientError> {
        let (response, _) = self.call(convert::get(key), Access::Read).await?;
        convert::value(response.found, response.value, response.error, response.error_code, response.leader_endpoint)
    }

    /// Sets a key to a value.
    ///
    /// # Errors
    /// Any [`ClientError`] of a write; [`ClientError::maybe_committed`] says whether it may have
    /// happened all the same.
    pub async fn set(&self, key: KeyRef, value: impl Into<Bytes>) -> Result<(), ClientError> {
        let (response, _) = self.call(convert::set(key, value.into()), Access::Write).await?;
        convert::success(response.success, response.error, response.error_code, response.leader_endpoint)
    }

    /// Deletes a key. Deleting a key that does not exist succeeds.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn delete(&self, key: KeyRef) -> Result<(), ClientError> {
        let (response, _) = self.call(convert::delete(key), Access::Write).await?;
        convert::success(response.success, response.error, response.error_code, response.leader_endpoint)
    }

    /// A version that covers everything acknowledged before the call.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn read_version(&self) -> Result<Version, ClientError> {
        let (response, _) = self.call(GetReadVersionRequest { auth_token: None }, Access::Read).await?;
        convert::success(response.success, response.error, response.error_code, response.leader_endpoint)?;
        Ok(convert::version(response.read_version))
    }

    /// The value that a key had at `version`; `None` if the key did not exist then.
    ///
    /// # Errors
    /// [`crate::ErrorCode::TransactionTooOld`] if no server can read that version any more, or any
    /// other [`ClientError`] of a read.
    pub async fn snapshot_get(&self, key: KeyRef, version: Version) -> Result<Option<Bytes>, ClientError> {
        let (response, _) = self.call(convert::snapshot_get(key, version), Access::Read).await?;
        convert::value(response.found, response.value, response.error, response.error_code, response.leader_endpoint)
    }

    /// The rows of a range. The read sees everything that was acknowledged before the call.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn get_range(&self, mut range: RangeRead) -> Result<Rows, ClientError> {
        range.end = self.shared.limits.bound(range.end);
        let (response, _) = self.call(convert::get_range(range), Access::Read).await?;
        convert::success(response.success, response.error, response.error_code, response.leader_endpoint)?;
        Ok(convert::rows(response.key_values, response.has_more))
    }

    /// The rows of a range as they were at `version`.
    ///
    /// # Errors
    /// As [`Client::snapshot_get`].
    pub async fn snapshot_get_range(&self, mut range: RangeRead, version: Version) -> Result<Rows, ClientError> {
        range.end = self.shared.limits.bound(range.end);
        let (response, _) = self.call(convert::snapshot_get_range(range, version), Access::Read).await?;
        convert::success(response.success, response.error, response.error_code, response.leader_endpoint)?;
        Ok(convert::rows(response.key_values, response.has_more))
    }

    /// Commits a transaction: all of it or nothing.
    ///
    /// # Errors
    /// [`crate::ErrorCode::Conflict`] if a key or range that the commit depends on was written
    /// after its read version; [`ClientError::InvalidArgument`] for an unknown kind of mutation;
    /// otherwise as [`Client::set`].
    pub async fn commit(&self, mut commit: AtomicCommit) -> Result<Committed, ClientError> {
        let limits = &self.shared.limits;
        let clears = commit.mutations.iter_mut().filter(|mutation| mutation.kind == MutationKind::ClearRange as i32);
        clears.for_each(|clear| clear.value = limits.bound(std::mem::take(&mut clear.value)));
        let ranges = commit.read_conflict_ranges.iter_mut();
        ranges.for_each(|range| range.end = limits.bound(std::mem::take(&mut range.end)));
        let request = convert::commit(commit, self.shared.options.request_timeout)?;
        let (response, _) = self.call(request, Access::Write).await?;
        convert::committed(response)
    }

    /// Keeps a version readable for the time `ttl` at the replicas of the server that answers. Give
    /// [`Client::connect`] a single address to choose that server. Pins are counted: a version that
    /// was pinned twice stays readable until it was unpinned twice or both pins have expired.
    ///
    /// # Errors
    /// [`crate::ErrorCode::TransactionTooOld`] if the version can no longer be read; otherwise as
    /// [`Client::set`].
    pub async fn pin_snapshot(&self, version: Version, ttl: Duration) -> Result<(), ClientError> {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        let request = PinSnapshotRequest {
            read_version: convert::version_field(version.0),
            ttl_ms: Some(ttl_ms),
            auth_token: None,
        };
        let (response, _) = self.call(request, Access::Write).await?;
        convert::success(response.success, response.error, response.error_code, response.leader_endpoint)
    }

    /// Removes one pin that [`Client::pin_snapshot`] has set on a version. Does nothing if there is
    /// none.
    ///
    /// # Errors
    /// As [`Client::set`].
    pub async fn unpin_snapshot(&self, version: Version) -> Result<(), ClientError> {
        let request = UnpinSnapshotRequest { read_version: convert::version_field(version.0), auth_token: None };
        let (response, _) = self.call(request, Access::Write).await?;
        convert::success(response.success, response.error, response.error_code, None)
    }

    /// The state of the cluster as the server that answers sees it.
    ///
    /// # Errors
    /// Any [`ClientError`] of a read.
    pub async fn cluster_health(&self) -> Result<ClusterHealth, ClientError> {
        let (response, endpoint) = self.call(GetClusterHealthRequest { auth_token: None }, Access::Read).await?;
        convert::success(response.success, response.error, response.error_code, None)?;
        response.cluster_health.ok_or_else(|| ClientError::Malformed {
            endpoint: endpoint.to_string(),
            reason: "a successful answer without the cluster's health".to_string(),
            maybe_committed: false,
        })
    }

    /// Sends one request until it is answered, must not be sent again, or the deadline has passed.
    /// Also returns the address that answered.
    async fn call<R: ThriftRequest>(&self, request: R, access: Access) -> Result<(R::Response, &str), ClientError> {
        let Shared { endpoints, options, .. } = &*self.shared;
        let deadline = Instant::now() + options.request_timeout;
        let mut backoff = Backoff::new(options);
        let call = Arc::new(request.into());
        loop {
            let round = match access {
                Access::Read => endpoints.read_round(&call, deadline).await,
                Access::Write => endpoints.write_round(&call, deadline).await,
            };
            let error = match round {
                Ok((reply, index)) => {
                    let address = endpoints.address(index);
                    return Ok((response_of::<R>(reply, address.to_string(), access)?, address));
                }
                Err(error @ ClientError::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            let resume_at = Instant::now() + backoff.pause();
            if resume_at >= deadline {
                return Err(error);
            }
            sleep_until(resume_at).await;
        }
    }
}
