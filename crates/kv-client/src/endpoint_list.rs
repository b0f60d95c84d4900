//! The fixed list of endpoints of a [`crate::Client`]: which one is asked first, and how one round of
//! attempts over all of them ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_api::thrift::generated::PingRequest;
use kv_api::thrift::{ThriftCall, ThriftReply};
use tokio::time::{Instant, timeout_at};

use crate::Options;
use crate::endpoint::{Endpoint, Lane};
use crate::error::{ClientError, ErrorCode};
use crate::hedge::first_answer;
use crate::pending::Failure;

pub(crate) struct EndpointList {
    endpoints: Vec<Endpoint>,
    preferred: Mutex<Preferred>,
    options: Options,
}

/// The endpoint that is tried first: the one that answered last, and when it did.
#[derive(Clone, Copy)]
struct Preferred {
    index: usize,
    answered_at: Option<Instant>,
}

/// Why another endpoint should be asked.
enum NoAnswer {
    TooOld(Box<ThriftReply>),
    Failure(Failure),
}

impl EndpointList {
    pub fn new(endpoints: Vec<Endpoint>, options: Options) -> Self {
        assert!(!endpoints.is_empty(), "a list of endpoints has at least one");
        let preferred = Mutex::new(Preferred { index: 0, answered_at: None });
        EndpointList { endpoints, preferred, options }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }

    /// The address of the endpoint at `index`.
    pub fn address(&self, index: usize) -> &str {
        &self.endpoints[index].address
    }

    /// Prefers the first endpoint that answers a ping. Makes one round over all endpoints and no
    /// second one: a program that has just started wants an error at once.
    pub async fn find(&self) -> Result<(), ClientError> {
        let patience = self.options.connect_timeout;
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
        let order = self.order();
        let questions: Vec<_> = order.iter().map(|index| ask(self.endpoints[*index].clone())).collect();
        match first_answer(questions, self.options.hedge_after).await {
            Ok((place, ())) => {
                self.prefer(order[place]);
                Ok(())
            }
            Err(failures) => {
                let failures = failures.into_iter().map(|(place, failure)| (order[place], failure));
                Err(self.failure_of_all(failures.collect(), false))
            }
        }
    }

    /// Asks every endpoint once; one that hangs delays the next one only by
    /// [`Options::hedge_after`]. Also returns the index of the endpoint that answered.
    pub async fn read_round(
        &self,
        call: &Arc<ThriftCall>,
        deadline: Instant,
    ) -> Result<(ThriftReply, usize), ClientError> {
        let order = self.order();
        let ask = |endpoint: Endpoint| {
            let call = call.clone();
            async move {
                match endpoint.call(Lane::Main, call, deadline).await {
                    // The version may be pinned at another server.
                    Ok(reply) if is_too_old(&reply) => Err(NoAnswer::TooOld(Box::new(reply))),
                    Ok(reply) => Ok(reply),
                    Err(failure) => Err(NoAnswer::Failure(failure)),
                }
            }
        };
        let questions: Vec<_> = order.iter().map(|index| ask(self.endpoints[*index].clone())).collect();
        let asking = first_answer(questions, self.options.hedge_after);
        match timeout_at(deadline, asking).await {
            Ok(Ok((place, reply))) => {
                self.prefer(order[place]);
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
                Err(self.failure_of_all(rest, false))
            }
            Err(_) => Err(self.silence(order[0], false)),
        }
    }

    /// Gives a write to one endpoint after the other, until it may have left this process. Also
    /// returns the index of the endpoint that answered.
    pub async fn write_round(
        &self,
        call: &Arc<ThriftCall>,
        deadline: Instant,
    ) -> Result<(ThriftReply, usize), ClientError> {
        if self.endpoints.len() > 1 && !self.has_answered_lately() {
            // A write cannot be taken back from an endpoint that hangs, so if none has answered for
            // a while, look for one that does. If this fails, the attempts below fail as well.
            let _ = timeout_at(deadline, self.find()).await;
        }
        let mut failures = Vec::new();
        for index in self.order() {
            let endpoint = &self.endpoints[index];
            match timeout_at(deadline, endpoint.call(Lane::Main, call.clone(), deadline)).await {
                Ok(Ok(reply)) => {
                    self.prefer(index);
                    return Ok((reply, index));
                }
                Ok(Err(failure @ Failure::NotSent(_))) => failures.push((index, failure)),
                Ok(Err(Failure::Lost(reason))) => {
                    let endpoint = endpoint.address.to_string();
                    return Err(ClientError::ConnectionLost { endpoint, reason, maybe_committed: true });
                }
                Ok(Err(failure @ Failure::Malformed(_))) => {
                    return Err(self.failure_of_all(vec![(index, failure)], true));
                }
                Err(_) => return Err(self.silence(index, true)),
            }
        }
        Err(self.failure_of_all(failures, true))
    }

    fn preferred(&self) -> MutexGuard<'_, Preferred> {
        // A panic while this was locked cannot have left it inconsistent.
        self.preferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefer(&self, index: usize) {
        *self.preferred() = Preferred { index, answered_at: Some(Instant::now()) };
    }

    fn has_answered_lately(&self) -> bool {
        self.preferred().answered_at.is_some_and(|at| at.elapsed() < self.options.hedge_after)
    }

    /// The indexes of all endpoints, the preferred one first.
    fn order(&self) -> Vec<usize> {
        let (first, count) = (self.preferred().index, self.endpoints.len());
        (0..count).map(|step| (first + step) % count).collect()
    }

    /// The error after the endpoint at `index` did not answer in time. The next request prefers
    /// another one, so that it does not run into the same silence.
    fn silence(&self, index: usize, maybe_committed: bool) -> ClientError {
        *self.preferred() = Preferred { index: (index + 1) % self.endpoints.len(), answered_at: None };
        let timeout_ms = self.options.request_timeout.as_millis() as u64;
        let endpoint = self.address(index).to_string();
        ClientError::DeadlineExceeded { endpoint, timeout_ms, maybe_committed }
    }

    /// The error after every endpoint failed. An endpoint that speaks another protocol explains
    /// more than those that cannot be reached.
    fn failure_of_all(&self, failures: Vec<(usize, Failure)>, maybe_committed: bool) -> ClientError {
        let malformed = failures.iter().find_map(|(index, failure)| match failure {
            Failure::Malformed(reason) => Some((self.address(*index).to_string(), reason.clone())),
            Failure::NotSent(_) | Failure::Lost(_) => None,
        });
        if let Some((endpoint, reason)) = malformed {
            return ClientError::Malformed { endpoint, reason, maybe_committed };
        }
        let attempts = failures.into_iter().map(|(index, failure)| match failure {
            Failure::NotSent(reason) | Failure::Lost(reason) | Failure::Malformed(reason) => {
                (self.address(index).to_string(), reason)
            }
        });
        ClientError::Unreachable { attempts: attempts.collect() }
    }
}

fn is_too_old(reply: &ThriftReply) -> bool {
    let code = match reply {
        ThriftReply::SnapshotGet(response) => &response.error_code,
        ThriftReply::SnapshotGetRange(response) => &response.error_code,
        _ => return false,
    };
    code.as_deref() == Some(ErrorCode::TransactionTooOld.as_str())
}
