//! Sends a request until it is answered, must not be sent again, or its deadline has passed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kv_api::thrift::{ThriftCall, ThriftRequest};
use tokio::time::{Instant, timeout_at};

use super::attempts::{Attempts, leader_hint};
use super::handle::Cluster;
use super::members::Replica;
use super::state::ClusterState;
use crate::ClientError;
use crate::endpoint::Lane;
use crate::pending::Failure;
use crate::reply::response_of;
use crate::request::{Access, CallOptions, Target};

pub(crate) struct Answer<T> {
    pub value: T,
    /// Whether another copy of the request may still be in flight.
    pub has_duplicates_in_flight: bool,
}

impl Cluster {
    /// Sends a request. `decode` turns a response into a value, or into the server's refusal.
    pub async fn call<R: ThriftRequest, T>(
        &self,
        request: R,
        options: CallOptions,
        decode: impl Fn(R::Response) -> Result<T, ClientError>,
    ) -> Result<Answer<T>, ClientError> {
        let state = &*self.state;
        let mut attempts = Attempts::new(options, &state.options);
        let Ok(_memory) = timeout_at(options.deadline, state.reserve_memory(options.cost_bytes)).await else {
            let reason = "this client has too many requests in flight";
            return Err(ClientError::refused(Some("OVERLOADED"), reason.to_string(), None));
        };
        let call = Arc::new(request.into());
        loop {
            attempts.check_deadline()?;
            let Some(replica) = state.choose(attempts.call.target, &attempts.tried) else {
                attempts.pause().await?;
                continue;
            };
            let answer = state.attempt::<R>(&replica, &call, &attempts).await;
            let error = match answer.and_then(&decode) {
                Ok(value) => return Ok(Answer { value, has_duplicates_in_flight: attempts.is_in_doubt }),
                Err(error) => error,
            };
            tracing::debug!(endpoint = %replica.address(), method = R::METHOD.name(), %error, "an attempt failed");
            if let Some(address) = leader_hint(&error) {
                state.follow_hint(address);
                attempts.call.target = Target::Primary;
            }
            if attempts.call.target == Target::Any && state.is_primary(&replica) {
                // No other replica knows more than the primary.
                attempts.call.target = Target::Primary;
            }
            attempts.record(replica.address(), error).await?;
        }
    }
}

impl ClusterState {
    async fn attempt<R: ThriftRequest>(
        &self,
        replica: &Replica,
        call: &Arc<ThriftCall>,
        attempts: &Attempts,
    ) -> Result<R::Response, ClientError> {
        let access = attempts.call.access;
        let lane = if access == Access::Write { Lane::Commit } else { Lane::Main };
        let (begun, deadline) = (Instant::now(), attempts.attempt_deadline());
        let maybe_committed = access == Access::Write;
        let endpoint = replica.address().to_string();
        match timeout_at(deadline, replica.endpoint.call(lane, call.clone(), deadline)).await {
            Ok(Ok(reply)) => {
                replica.is_suspected.store(false, Ordering::Relaxed);
                response_of::<R>(reply, endpoint, access)
            }
            Ok(Err(failure)) => {
                self.suspect(replica);
                Err(match failure {
                    Failure::NotSent(reason) => ClientError::Unreachable { attempts: vec![(endpoint, reason)] },
                    Failure::Lost(reason) => ClientError::ConnectionLost { endpoint, reason, maybe_committed },
                    Failure::Malformed(reason) => ClientError::Malformed { endpoint, reason, maybe_committed },
                })
            }
            Err(_) => {
                self.suspect(replica);
                let timeout_ms = begun.elapsed().as_millis() as u64;
                Err(ClientError::DeadlineExceeded { endpoint, timeout_ms, maybe_committed })
            }
        }
    }
}
