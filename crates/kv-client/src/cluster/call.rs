//! Sending a request until it is answered, must not be sent again, or time is up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kv_api::thrift::{ThriftCall, ThriftRequest};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::attempts::{Attempts, Errand, Target, leader_hint};
use super::{Cluster, ROOM_UNIT_BYTES, Replica, Shared};
use crate::ClientError;
use crate::client::{Kind, response_of};
use crate::endpoint::{Failure, Lane};

/// An answer, and what else is known when it comes.
pub(crate) struct Answer<T> {
    pub value: T,
    /// Whether another copy of the request may still be under way.
    pub has_strays: bool,
}

impl Cluster {
    /// `decode` makes a value, or the server's refusal, of a response.
    pub async fn call<R: ThriftRequest, T>(
        &self,
        request: R,
        errand: Errand,
        decode: impl Fn(R::Response) -> Result<T, ClientError>,
    ) -> Result<Answer<T>, ClientError> {
        let mut attempts = Attempts::new(errand, &self.shared.options);
        let Ok(_room) = timeout_at(errand.deadline, self.shared.room(errand.cost_bytes)).await else {
            return Err(ClientError::refused(Some("OVERLOADED"), "too much is under way in this client".to_string()));
        };
        let call = Arc::new(request.into());
        loop {
            attempts.check_deadline()?;
            let Some(replica) = self.shared.choose(attempts.errand.target, &attempts.tried) else {
                attempts.pause().await?;
                continue;
            };
            let answer = self.shared.attempt::<R>(&replica, &call, &attempts).await;
            let error = match answer.and_then(&decode) {
                Ok(value) => return Ok(Answer { value, has_strays: attempts.is_unknown }),
                Err(error) => error,
            };
            tracing::debug!(endpoint = %replica.address(), method = R::METHOD.name(), %error, "an attempt failed");
            if let Some(address) = leader_hint(&error) {
                self.shared.follow_hint(address);
                attempts.errand.target = Target::Primary;
            }
            if attempts.errand.target == Target::Any && self.shared.is_primary(&replica) {
                // Nobody else knows more.
                attempts.errand.target = Target::Primary;
            }
            attempts.note(replica.address(), error).await?;
        }
    }
}

impl Shared {
    async fn room(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let all = (self.options.max_in_flight_bytes / ROOM_UNIT_BYTES).max(1);
        // A request that is larger than all there is has it for itself.
        let units = bytes.div_ceil(ROOM_UNIT_BYTES).clamp(1, all);
        // It is never closed.
        self.room.acquire_many(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
    }

    async fn attempt<R: ThriftRequest>(
        &self,
        replica: &Replica,
        call: &Arc<ThriftCall>,
        attempts: &Attempts,
    ) -> Result<R::Response, ClientError> {
        let kind = attempts.errand.kind;
        let lane = if kind == Kind::Write { Lane::Commit } else { Lane::Main };
        let (begun, deadline) = (Instant::now(), attempts.attempt_deadline());
        let maybe_committed = kind == Kind::Write;
        let endpoint = replica.address().to_string();
        match timeout_at(deadline, replica.endpoint.call(lane, call.clone(), deadline)).await {
            Ok(Ok(reply)) => {
                replica.is_suspected.store(false, Ordering::Relaxed);
                response_of::<R>(reply, endpoint, kind)
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
