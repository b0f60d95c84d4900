//! Polls, repeated over the servers of a cluster: any of them can continue, because a version is the
//! same everywhere.

use std::sync::Arc;
use std::time::Duration;

use kv_api::Version;
use kv_api::thrift::generated::{PollChangesResponse, WatchKeysRequest, WatchKeysResponse};
use kv_api::thrift::{ThriftCall, ThriftReply, ThriftRequest};
use tokio::time::{Instant, timeout_at};

use super::{ChangedKeys, ChangesBatch, ChangesRequest, convert};
use crate::backoff::{Backoff, deadline_after};
use crate::convert::{success, version};
use crate::endpoint::{Endpoint, Lane};
use crate::pending::Failure;
use crate::reply::response_of;
use crate::request::Access;
use crate::{ClientError, ErrorCode, Options};

/// Asks one server after the other, beginning with the one that answered last.
pub(super) struct Poller {
    endpoints: Vec<Endpoint>,
    lane: Lane,
    options: Options,
    preferred: usize,
}

/// The end of a round over all servers without an answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub error: ClientError,
    /// Whether another round may have an answer.
    pub may_repeat: bool,
}

/// How a server refused.
enum Refusal {
    /// Its journal begins later; that of another one may not.
    TooOld(Version),
    /// Another server may answer.
    Here(ClientError),
    /// No server will answer.
    Everywhere(ClientError),
}

/// A response to a request for changes.
trait Response: Sized {
    fn into_refusal(self) -> Result<Self, (ClientError, Option<i64>)>;
}

macro_rules! responses {
    ($($response:ident),*) => {$(
        impl Response for $response {
            fn into_refusal(mut self) -> Result<Self, (ClientError, Option<i64>)> {
                let (error, code) = (self.error.take(), self.error_code.take());
                let refused = success(self.success, error, code, self.leader_endpoint.take());
                refused.map_err(|error| (error, self.oldest_version)).map(|()| self)
            }
        }
    )*};
}

responses!(PollChangesResponse, WatchKeysResponse);

impl Poller {
    /// Over connections that the client's other waiting calls use, too.
    pub fn sharing(endpoints: impl Iterator<Item = Endpoint>, options: Options) -> Self {
        Poller { endpoints: endpoints.collect(), lane: Lane::Waiting, options, preferred: 0 }
    }

    /// Over connections of its own.
    fn to(addresses: Vec<String>, options: Options) -> Self {
        let options = Options { connections_per_endpoint: 1, ..options };
        let endpoints = addresses.into_iter().map(|address| Endpoint::start(address, &options)).collect();
        Poller { endpoints, lane: Lane::Waiting, options, preferred: 0 }
    }

    /// One round.
    pub async fn poll(&mut self, request: &ChangesRequest) -> Result<ChangesBatch, Unanswered> {
        let convert = |response| convert::batch(response);
        self.ask(convert::poll(request), request.after, request.max_wait, convert).await
    }

    /// One round.
    pub async fn watch(
        &mut self,
        request: WatchKeysRequest,
        at: Version,
        max_wait: Duration,
    ) -> Result<ChangedKeys, Unanswered> {
        self.ask(request, at, max_wait, |response| Ok(convert::changed_keys(response))).await
    }

    async fn ask<R, T>(
        &mut self,
        request: R,
        after: Version,
        max_wait: Duration,
        convert: impl Fn(R::Response) -> Result<T, String>,
    ) -> Result<T, Unanswered>
    where
        R: ThriftRequest,
        R::Response: Response,
    {
        let call: Arc<ThriftCall> = Arc::new(request.into());
        let (mut oldest, mut last, mut attempts) = (None, None, Vec::new());
        for round in 0..self.endpoints.len() {
            let place = (self.preferred + round) % self.endpoints.len();
            let endpoint = &self.endpoints[place];
            let deadline = deadline_after(max_wait.saturating_add(self.options.request_timeout));
            let answer = timeout_at(deadline, endpoint.call(self.lane, call.clone(), deadline)).await;
            let address = endpoint.address.to_string();
            let refusal = match answer {
                Ok(Ok(reply)) => match response::<R>(reply, &address) {
                    Ok(response) => {
                        self.preferred = place;
                        let malformed =
                            |reason| ClientError::Malformed { endpoint: address, reason, maybe_committed: false };
                        let end = |error| Unanswered { error, may_repeat: false };
                        return convert(response).map_err(malformed).map_err(end);
                    }
                    Err(refusal) => refusal,
                },
                Ok(Err(Failure::NotSent(reason))) => {
                    attempts.push((address, reason));
                    continue;
                }
                Ok(Err(Failure::Lost(reason))) => {
                    Refusal::Here(ClientError::ConnectionLost { endpoint: address, reason, maybe_committed: false })
                }
                Ok(Err(Failure::Malformed(reason))) => {
                    Refusal::Here(ClientError::Malformed { endpoint: address, reason, maybe_committed: false })
                }
                Err(_) => {
                    let timeout_ms = u64::try_from((max_wait + self.options.request_timeout).as_millis());
                    let timeout_ms = timeout_ms.unwrap_or(u64::MAX);
                    Refusal::Here(ClientError::DeadlineExceeded {
                        endpoint: address,
                        timeout_ms,
                        maybe_committed: false,
                    })
                }
            };
            match refusal {
                Refusal::TooOld(here) => oldest = Some(oldest.map_or(here, |other: Version| other.min(here))),
                Refusal::Here(error) => last = Some(error),
                Refusal::Everywhere(error) => return Err(Unanswered { error, may_repeat: false }),
            }
        }
        let all_said_so = last.is_none() && attempts.is_empty();
        Err(match oldest {
            Some(oldest) => {
                Unanswered { error: ClientError::ChangesTooOld { after, oldest }, may_repeat: !all_said_so }
            }
            None => Unanswered { error: last.unwrap_or(ClientError::Unreachable { attempts }), may_repeat: true },
        })
    }
}

fn response<R>(reply: ThriftReply, address: &str) -> Result<R::Response, Refusal>
where
    R: ThriftRequest,
    R::Response: Response,
{
    let response = response_of::<R>(reply, address.to_owned(), Access::Read).map_err(Refusal::Everywhere)?;
    response.into_refusal().map_err(|(error, oldest)| match error.code() {
        Some(ErrorCode::TransactionTooOld) => Refusal::TooOld(version(oldest.unwrap_or(0))),
        Some(ErrorCode::OperationFailed) => Refusal::Here(error),
        _ if error.is_retryable() => Refusal::Here(error),
        _ => Refusal::Everywhere(error),
    })
}

/// The changes after a version and all that follow: each version once, in order, from whichever
/// server answers. Made by [`crate::Database::change_feed`].
pub struct ChangeFeed {
    poller: Poller,
    request: ChangesRequest,
}

impl ChangeFeed {
    pub(super) fn new(addresses: Vec<String>, options: Options, request: ChangesRequest) -> Self {
        ChangeFeed { poller: Poller::to(addresses, options), request }
    }

    /// The version after which the next batch begins.
    pub fn position(&self) -> Version {
        self.request.after
    }

    /// Continues after another version.
    pub fn seek(&mut self, after: Version) {
        self.request.after = after;
    }

    /// The next batch. It may be empty after the time that the request says to wait; its `through`
    /// has still advanced. A feed whose servers do not answer tries again until they do.
    ///
    /// A call that is dropped has no effect: the next one returns what it would have returned.
    ///
    /// # Errors
    /// [`ClientError::ChangesTooOld`] if the servers do not reach back so far,
    /// [`ErrorCode::ClusterChanged`], and refusals for good such as [`ErrorCode::Forbidden`].
    pub async fn next(&mut self) -> Result<ChangesBatch, ClientError> {
        let mut backoff = Backoff::new(&self.poller.options);
        let began = Instant::now();
        loop {
            match self.poller.poll(&self.request).await {
                Ok(batch) => {
                    self.request.after = batch.through;
                    self.request.cluster_id.clone_from(&batch.cluster_id);
                    return Ok(batch);
                }
                Err(Unanswered { error, may_repeat: false }) => return Err(error),
                // Servers that are silent now may reach back further than the others.
                Err(Unanswered { error: error @ ClientError::ChangesTooOld { .. }, .. })
                    if began.elapsed() >= self.poller.options.request_timeout =>
                {
                    return Err(error);
                }
                Err(Unanswered { error, .. }) => {
                    tracing::debug!(%error, "no server answers with changes; the next attempt follows");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }
}

impl std::fmt::Debug for ChangeFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeFeed").field("request", &self.request).finish_non_exhaustive()
    }
}
