//! The client: which endpoint, how long, and what may be tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kv_api::thrift::generated::{
    GetClusterHealthRequest, GetReadVersionRequest, PinSnapshotRequest, PingRequest, UnpinSnapshotRequest,
};
use kv_api::thrift::{ApplicationErrorKind, ThriftReply, ThriftRequest};
use kv_api::{AtomicCommit, KeyRef, Rows, Version};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::database::Database;
use crate::endpoint::{Endpoint, Failure, Lane};
use crate::error::ClientError;
use crate::{ClusterHealth, Options, convert};

/// The answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Who answered, as given to [`Client::connect`].
    pub endpoint: String,
    /// From the call to the answer.
    pub round_trip: Duration,
    /// The server's clock, in microseconds since 1970.
    pub server_time_us: i64,
}

/// A range to read: `begin` is inclusive, `end` exclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRead {
    pub begin: Bytes,
    pub end: Bytes,
    /// Empty: the default family.
    pub column_family: String,
    /// Most rows; `None`: no limit.
    pub limit: Option<u32>,
    /// Last row first.
    pub reverse: bool,
    /// Allows the server to end the reply at about so many bytes; [`Rows::has_more`] then tells.
    pub target_bytes: Option<u32>,
}

/// What a successful commit tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub version: Version,
    /// The 10 bytes of the commit's first stamp, if the server gave it.
    pub versionstamp: Option<Bytes>,
    /// Keys and values made by stamped mutations, in the order of the mutations.
    pub generated_keys: Vec<Bytes>,
    pub generated_values: Vec<Bytes>,
}

/// Whether a request may be sent a second time after its connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// A handle to a cluster; clones share its connections. See the crate's documentation.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    /// The endpoint that is tried first: the last one that answered.
    preferred: AtomicUsize,
    options: Options,
}

impl Client {
    /// Connects to the first of `addresses` (each `HOST:PORT`, all of one cluster) that answers.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when none does, [`ClientError::Malformed`] when one answers in another protocol and no
    /// other does, [`ClientError::InvalidArgument`] when none is given.
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        options: Options,
    ) -> Result<Client, ClientError> {
        let endpoints: Vec<Endpoint> =
            addresses.into_iter().map(|address| Endpoint::start(address.into(), &options)).collect();
        if endpoints.is_empty() {
            return Err(ClientError::InvalidArgument("no address given".to_string()));
        }
        let client = Client { shared: Arc::new(Shared { endpoints, preferred: AtomicUsize::new(0), options }) };
        client.find_endpoint().await?;
        Ok(client)
    }

    /// One round over all endpoints, and no second: a program that has just started wants to know at once.
    async fn find_endpoint(&self) -> Result<(), ClientError> {
        let mut attempts = Vec::new();
        let mut malformed = None;
        for (index, endpoint) in self.shared.endpoints.iter().enumerate() {
            let patience = self.shared.options.connect_timeout;
            let deadline = Instant::now() + patience;
            let request = PingRequest { message: None, timestamp: None };
            let ping = endpoint.call(Lane::Main, Arc::new(request.into()), deadline);
            let reason = match timeout_at(deadline, ping).await {
                Ok(Ok(_)) => {
                    self.shared.preferred.store(index, Ordering::Relaxed);
                    return Ok(());
                }
                Ok(Err(Failure::NotSent(reason) | Failure::Lost(reason))) => reason,
                Ok(Err(Failure::Malformed(reason))) => {
                    let endpoint = endpoint.address.to_string();
                    malformed =
                        Some(ClientError::Malformed { endpoint, reason: reason.clone(), maybe_committed: false });
                    reason
                }
                Err(_) => format!("no answer within {} ms", patience.as_millis()),
            };
            attempts.push((endpoint.address.to_string(), reason));
        }
        // Somebody who is there and speaks something else is more telling than somebody who is not there.
        Err(malformed.unwrap_or(ClientError::Unreachable { attempts }))
    }

    /// A handle for transactions over the whole cluster, which shares the connections of this client. Each call makes a new
    /// one, with background work of its own; clone it instead of asking again.
    pub fn database(&self) -> Database {
        let cluster = Cluster::start(self.shared.endpoints.iter().cloned(), &self.shared.options);
        Database::new(cluster, self.shared.options.clone())
    }

    /// The addresses given to [`Client::connect`].
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.shared.endpoints.iter().map(|endpoint| &*endpoint.address)
    }

    pub async fn ping(&self) -> Result<Pong, ClientError> {
        let begun = Instant::now();
        let (response, endpoint) = self.call(PingRequest { message: None, timestamp: None }, Kind::Read).await?;
        let server_time_us = response.server_timestamp;
        Ok(Pong { endpoint: endpoint.to_string(), round_trip: begun.elapsed(), server_time_us })
    }

    /// The value of a key; sees everything acknowledged before the call. `None`: the key does not exist.
    pub async fn get(&self, key: KeyRef) -> Result<Option<Bytes>, ClientError> {
        let (response, _) = self.call(convert::get(key), Kind::Read).await?;
        convert::value(response.found, response.value, response.error, response.error_code)
    }

    pub async fn set(&self, key: KeyRef, value: impl Into<Bytes>) -> Result<(), ClientError> {
        let (response, _) = self.call(convert::set(key, value.into()), Kind::Write).await?;
        convert::success(response.success, response.error, response.error_code)
    }

    /// Deletes a key; one that does not exist is no error.
    pub async fn delete(&self, key: KeyRef) -> Result<(), ClientError> {
        let (response, _) = self.call(convert::delete(key), Kind::Write).await?;
        convert::success(response.success, response.error, response.error_code)
    }

    /// A version that covers everything acknowledged before the call.
    pub async fn read_version(&self) -> Result<Version, ClientError> {
        let (response, _) = self.call(GetReadVersionRequest {}, Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        Ok(convert::version(response.read_version))
    }

    /// The value that a key had at `version`.
    pub async fn snapshot_get(&self, key: KeyRef, version: Version) -> Result<Option<Bytes>, ClientError> {
        let (response, _) = self.call(convert::snapshot_get(key, version), Kind::Read).await?;
        convert::value(response.found, response.value, response.error, response.error_code)
    }

    pub async fn get_range(&self, range: RangeRead) -> Result<Rows, ClientError> {
        let (response, _) = self.call(convert::get_range(range), Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        Ok(convert::rows(response.key_values, response.has_more))
    }

    /// The rows of a range as they were at `version`.
    pub async fn snapshot_get_range(&self, range: RangeRead, version: Version) -> Result<Rows, ClientError> {
        let (response, _) = self.call(convert::snapshot_get_range(range, version), Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        Ok(convert::rows(response.key_values, response.has_more))
    }

    /// Commits a transaction: all or nothing.
    pub async fn commit(&self, commit: AtomicCommit) -> Result<Committed, ClientError> {
        let request = convert::commit(commit, self.shared.options.request_timeout)?;
        let (response, _) = self.call(request, Kind::Write).await?;
        convert::committed(response)
    }

    /// Keeps a version readable for a while at the replicas of the server that answers: give one address to say which. Each
    /// pin is counted; a version that was pinned twice needs two unpins, or time.
    pub async fn pin_snapshot(&self, version: Version, ttl: Duration) -> Result<(), ClientError> {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        let request = PinSnapshotRequest { read_version: convert::version_field(version.0), ttl_ms: Some(ttl_ms) };
        let (response, _) = self.call(request, Kind::Write).await?;
        convert::success(response.success, response.error, response.error_code)
    }

    /// Takes one pin of a version away, as [`Client::pin_snapshot`] made it; without one it does nothing.
    pub async fn unpin_snapshot(&self, version: Version) -> Result<(), ClientError> {
        let request = UnpinSnapshotRequest { read_version: convert::version_field(version.0) };
        let (response, _) = self.call(request, Kind::Write).await?;
        convert::success(response.success, response.error, response.error_code)
    }

    pub async fn cluster_health(&self) -> Result<ClusterHealth, ClientError> {
        let (response, endpoint) = self.call(GetClusterHealthRequest { auth_token: None }, Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        response.cluster_health.ok_or_else(|| ClientError::Malformed {
            endpoint: endpoint.to_string(),
            reason: "a successful answer without the cluster's health".to_string(),
            maybe_committed: false,
        })
    }

    /// Sends one request until it is answered, must not be sent again, or time is up.
    async fn call<R: ThriftRequest>(&self, request: R, kind: Kind) -> Result<(R::Response, &str), ClientError> {
        let Shared { endpoints, preferred, options } = &*self.shared;
        let deadline = Instant::now() + options.request_timeout;
        let mut backoff = Backoff::new(options);
        let call = Arc::new(request.into());
        loop {
            let mut attempts = Vec::new();
            let first = preferred.load(Ordering::Relaxed);
            for index in (0..endpoints.len()).map(|step| (first + step) % endpoints.len()) {
                let endpoint = &endpoints[index];
                let address = endpoint.address.to_string();
                let failure = match timeout_at(deadline, endpoint.call(Lane::Main, call.clone(), deadline)).await {
                    Ok(Ok(reply)) => {
                        preferred.store(index, Ordering::Relaxed);
                        return Ok((response_of::<R>(reply, address, kind)?, &endpoint.address));
                    }
                    Ok(Err(failure)) => failure,
                    Err(_) => {
                        // Others should not run into the same silence first.
                        preferred.store((index + 1) % endpoints.len(), Ordering::Relaxed);
                        let timeout_ms = options.request_timeout.as_millis() as u64;
                        let maybe_committed = kind == Kind::Write;
                        return Err(ClientError::DeadlineExceeded { endpoint: address, timeout_ms, maybe_committed });
                    }
                };
                match (failure, kind) {
                    (Failure::NotSent(reason), _) | (Failure::Lost(reason), Kind::Read) => {
                        attempts.push((address, reason));
                    }
                    (Failure::Lost(reason), Kind::Write) => {
                        return Err(ClientError::ConnectionLost { endpoint: address, reason, maybe_committed: true });
                    }
                    (Failure::Malformed(reason), _) => {
                        let maybe_committed = kind == Kind::Write;
                        return Err(ClientError::Malformed { endpoint: address, reason, maybe_committed });
                    }
                }
            }
            let resume_at = Instant::now() + backoff.pause();
            if resume_at >= deadline {
                return Err(ClientError::Unreachable { attempts });
            }
            sleep_until(resume_at).await;
        }
    }
}

/// The reply that belongs to the request.
pub(crate) fn response_of<R: ThriftRequest>(
    reply: ThriftReply,
    endpoint: String,
    kind: Kind,
) -> Result<R::Response, ClientError> {
    R::response_of(reply).map_err(|other| match other {
        ThriftReply::Exception(exception) => {
            // All other kinds are raised before the request is worked on.
            let while_working =
                matches!(exception.kind, ApplicationErrorKind::InternalError | ApplicationErrorKind::Unknown);
            let maybe_committed = kind == Kind::Write && while_working;
            ClientError::Exception { endpoint, message: exception.message, maybe_committed }
        }
        other => {
            let reason = format!("a reply to {:?} where one to {} was expected", other.method(), R::METHOD.name());
            ClientError::Malformed { endpoint, reason, maybe_committed: kind == Kind::Write }
        }
    })
}
