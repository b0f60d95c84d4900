//! The client: which endpoint, how long, and what may be tried again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kv_api::thrift::generated::{
    GetClusterHealthRequest, GetReadVersionRequest, PinSnapshotRequest, PingRequest, UnpinSnapshotRequest,
};
use kv_api::thrift::{ApplicationErrorKind, ThriftCall, ThriftReply, ThriftRequest};
use kv_api::{AtomicCommit, KeyRef, Limits, MutationKind, Rows, Version};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::database::Database;
use crate::endpoint::{Endpoint, Failure, Lane};
use crate::error::{ClientError, ErrorCode};
use crate::hedge::first_answer;
use crate::hold::Hold;
use crate::limits::KnownLimits;
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

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.endpoints().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

struct Shared {
    endpoints: Vec<Endpoint>,
    preferred: Mutex<Preferred>,
    limits: KnownLimits,
    options: Options,
}

/// The endpoint that is tried first: the last one that answered, and when it did.
#[derive(Clone, Copy)]
struct Preferred {
    index: usize,
    answered_at: Option<Instant>,
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
        let preferred = Mutex::new(Preferred { index: 0, answered_at: None });
        let shared = Shared { endpoints, preferred, limits: KnownLimits::default(), options };
        let client = Client { shared: Arc::new(shared) };
        client.find_endpoint().await?;
        Ok(client)
    }

    /// Prefers the first endpoint that gives a sign of life. One round over all, and no second: a program that has just
    /// started wants to know at once.
    async fn find_endpoint(&self) -> Result<(), ClientError> {
        let patience = self.shared.options.connect_timeout;
        let call: Arc<ThriftCall> = Arc::new(PingRequest { message: None, timestamp: None }.into());
        let ask = |endpoint: Endpoint| {
            let call = call.clone();
            async move {
                let deadline = Instant::now() + patience;
                match timeout_at(deadline, endpoint.call(Lane::Main, call, deadline)).await {
                    Ok(answer) => answer.map(|_| ()),
                    Err(_) => Err(Failure::NotSent(format!("no answer within {} ms", patience.as_millis()))),
                }
            }
        };
        let order = self.shared.order();
        let questions: Vec<_> = order.iter().map(|index| ask(self.shared.endpoints[*index].clone())).collect();
        match first_answer(questions, self.shared.options.hedge_after).await {
            Ok((place, ())) => {
                self.shared.prefer(order[place]);
                Ok(())
            }
            Err(failures) => {
                let failures = failures.into_iter().map(|(place, failure)| (order[place], failure));
                Err(self.shared.failure_of_all(failures.collect(), false))
            }
        }
    }

    /// A handle for transactions over the whole cluster, which shares the connections of this client. Each call makes a new
    /// one, with background work of its own; clone it instead of asking again.
    pub fn database(&self) -> Database {
        let Shared { endpoints, limits, options, .. } = &*self.shared;
        let cluster = Cluster::start(endpoints.iter().cloned(), options, limits.clone());
        Database::new(cluster, self.shared.options.clone())
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// What the server that answers takes and gives at most. A server that is older than the question tells nothing: then
    /// these are the defaults of the interface.
    ///
    /// # Errors
    /// Those of the client.
    pub async fn limits(&self) -> Result<Limits, ClientError> {
        let (response, _) = self.call(GetClusterHealthRequest { auth_token: None }, Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        response.limits.iter().for_each(|told| self.shared.limits.learn(told));
        Ok(self.shared.limits.get())
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

    pub async fn get_range(&self, mut range: RangeRead) -> Result<Rows, ClientError> {
        range.end = self.shared.limits.bound(range.end);
        let (response, _) = self.call(convert::get_range(range), Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        Ok(convert::rows(response.key_values, response.has_more))
    }

    /// The rows of a range as they were at `version`.
    pub async fn snapshot_get_range(&self, mut range: RangeRead, version: Version) -> Result<Rows, ClientError> {
        range.end = self.shared.limits.bound(range.end);
        let (response, _) = self.call(convert::snapshot_get_range(range, version), Kind::Read).await?;
        convert::success(response.success, response.error, response.error_code)?;
        Ok(convert::rows(response.key_values, response.has_more))
    }

    /// Commits a transaction: all or nothing.
    pub async fn commit(&self, mut commit: AtomicCommit) -> Result<Committed, ClientError> {
        let limits = &self.shared.limits;
        let clears = commit.mutations.iter_mut().filter(|mutation| mutation.kind == MutationKind::ClearRange as i32);
        clears.for_each(|clear| clear.value = limits.bound(std::mem::take(&mut clear.value)));
        let ranges = commit.read_conflict_ranges.iter_mut();
        ranges.for_each(|range| range.end = limits.bound(std::mem::take(&mut range.end)));
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

    /// Keeps a version readable at the server that answers until the hold ends: the pin lasts for `lifetime`, and is renewed
    /// by a timer long before that is over. Every server allows a
    /// minute; the most is its setting `server.max_pin_seconds`.
    ///
    /// # Errors
    /// Those of [`Client::pin_snapshot`].
    pub async fn hold_snapshot(&self, version: Version, lifetime: Duration) -> Result<Hold, ClientError> {
        Hold::begin(self.clone(), version, lifetime).await
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
        let options = &self.shared.options;
        let deadline = Instant::now() + options.request_timeout;
        let mut backoff = Backoff::new(options);
        let call = Arc::new(request.into());
        loop {
            let round = match kind {
                Kind::Read => self.read_round(&call, deadline).await,
                Kind::Write => self.write_round(&call, deadline).await,
            };
            let error = match round {
                Ok((reply, index)) => {
                    let endpoint = &self.shared.endpoints[index];
                    return Ok((response_of::<R>(reply, endpoint.address.to_string(), kind)?, &endpoint.address));
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

    /// Asks everybody once, and does not wait long for one that hangs.
    async fn read_round(&self, call: &Arc<ThriftCall>, deadline: Instant) -> Result<(ThriftReply, usize), ClientError> {
        let shared = &self.shared;
        let order = shared.order();
        let ask = |endpoint: Endpoint| {
            let call = call.clone();
            async move {
                match endpoint.call(Lane::Main, call, deadline).await {
                    // Another server may have it pinned.
                    Ok(reply) if is_too_old(&reply) => Err(NoAnswer::TooOld(Box::new(reply))),
                    Ok(reply) => Ok(reply),
                    Err(failure) => Err(NoAnswer::Failure(failure)),
                }
            }
        };
        let questions: Vec<_> = order.iter().map(|index| ask(shared.endpoints[*index].clone())).collect();
        let asking = first_answer(questions, shared.options.hedge_after);
        match timeout_at(deadline, asking).await {
            Ok(Ok((place, reply))) => {
                shared.prefer(order[place]);
                Ok((reply, order[place]))
            }
            Ok(Err(failures)) => {
                let mut rest = Vec::new();
                for (place, no_answer) in failures {
                    match no_answer {
                        NoAnswer::TooOld(reply) => return Ok((*reply, order[place])),
                        NoAnswer::Failure(failure) => rest.push((order[place], failure)),
                    }
                }
                Err(shared.failure_of_all(rest, false))
            }
            Err(_) => Err(shared.silence(order[0], false)),
        }
    }

    /// Gives the write to one endpoint after the other, until it may have left this process.
    async fn write_round(
        &self,
        call: &Arc<ThriftCall>,
        deadline: Instant,
    ) -> Result<(ThriftReply, usize), ClientError> {
        let shared = &self.shared;
        if shared.endpoints.len() > 1 && !shared.has_answered_lately() {
            // It cannot be taken back from one that hangs: where nobody has answered for a while, look first. A failure
            // shows again below.
            let _ = timeout_at(deadline, self.find_endpoint()).await;
        }
        let mut failures = Vec::new();
        for index in shared.order() {
            let endpoint = &shared.endpoints[index];
            match timeout_at(deadline, endpoint.call(Lane::Main, call.clone(), deadline)).await {
                Ok(Ok(reply)) => {
                    shared.prefer(index);
                    return Ok((reply, index));
                }
                Ok(Err(failure @ Failure::NotSent(_))) => failures.push((index, failure)),
                Ok(Err(Failure::Lost(reason))) => {
                    let endpoint = endpoint.address.to_string();
                    return Err(ClientError::ConnectionLost { endpoint, reason, maybe_committed: true });
                }
                Ok(Err(failure @ Failure::Malformed(_))) => {
                    return Err(shared.failure_of_all(vec![(index, failure)], true));
                }
                Err(_) => return Err(shared.silence(index, true)),
            }
        }
        Err(shared.failure_of_all(failures, true))
    }
}

impl Shared {
    fn preferred(&self) -> MutexGuard<'_, Preferred> {
        // What it guards is right after every step.
        self.preferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefer(&self, index: usize) {
        *self.preferred() = Preferred { index, answered_at: Some(Instant::now()) };
    }

    fn has_answered_lately(&self) -> bool {
        self.preferred().answered_at.is_some_and(|at| at.elapsed() < self.options.hedge_after)
    }

    /// All endpoints, the preferred one first.
    fn order(&self) -> Vec<usize> {
        let (first, count) = (self.preferred().index, self.endpoints.len());
        (0..count).map(|step| (first + step) % count).collect()
    }

    /// Nobody has answered in time; others should not run into the same silence first.
    fn silence(&self, index: usize, maybe_committed: bool) -> ClientError {
        *self.preferred() = Preferred { index: (index + 1) % self.endpoints.len(), answered_at: None };
        let timeout_ms = self.options.request_timeout.as_millis() as u64;
        let endpoint = self.endpoints[index].address.to_string();
        ClientError::DeadlineExceeded { endpoint, timeout_ms, maybe_committed }
    }

    /// Somebody who is there and speaks something else is more telling than somebody who is not there.
    fn failure_of_all(&self, failures: Vec<(usize, Failure)>, maybe_committed: bool) -> ClientError {
        let address = |index: usize| self.endpoints[index].address.to_string();
        let malformed = failures.iter().find_map(|(index, failure)| match failure {
            Failure::Malformed(reason) => Some((address(*index), reason.clone())),
            Failure::NotSent(_) | Failure::Lost(_) => None,
        });
        if let Some((endpoint, reason)) = malformed {
            return ClientError::Malformed { endpoint, reason, maybe_committed };
        }
        let attempts = failures.into_iter().map(|(index, failure)| match failure {
            Failure::NotSent(reason) | Failure::Lost(reason) | Failure::Malformed(reason) => (address(index), reason),
        });
        ClientError::Unreachable { attempts: attempts.collect() }
    }
}

/// Why somebody else should be asked.
enum NoAnswer {
    TooOld(Box<ThriftReply>),
    Failure(Failure),
}

fn is_too_old(reply: &ThriftReply) -> bool {
    let code = match reply {
        ThriftReply::SnapshotGet(response) => &response.error_code,
        ThriftReply::SnapshotGetRange(response) => &response.error_code,
        _ => return false,
    };
    code.as_deref() == Some(ErrorCode::TransactionTooOld.as_str())
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
