//! The background task of a cluster. It finds out which replicas there are, which one is the
//! primary, and whether suspected replicas are back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use kv_api::thrift::generated::{GetClusterHealthRequest, PingRequest};
use kv_api::thrift::{ThriftReply, ThriftRequest};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::members::Replica;
use super::state::ClusterState;
use crate::backoff::Backoff;
use crate::endpoint::Lane;
use crate::request::Target;

/// Keeps the list of members up to date until the task is aborted.
pub(super) async fn maintain(state: Arc<ClusterState>) {
    let mut backoff = Backoff::new(&state.options);
    loop {
        if state.options.discovery {
            state.refresh().await;
        }
        state.probe().await;
        // Pause even if a refresh was asked for: many requests may fail for one reason.
        sleep(backoff.pause()).await;
        let is_settled = state.members().replicas.iter().all(|replica| !replica.is_suspected());
        if is_settled {
            backoff.reset();
            let interval = state.options.refresh_interval.mul_f64(rand::random_range(0.75..=1.25));
            let _ = timeout(interval, state.refresh_soon.notified()).await;
        }
    }
}

impl ClusterState {
    /// Asks one replica about all of them. Without an answer nothing changes, and requests still find
    /// a replica.
    async fn refresh(&self) {
        let Some(replica) = self.choose(Target::Any, &[]) else { return };
        let request = GetClusterHealthRequest { auth_token: None };
        let deadline = Instant::now() + self.options.attempt_timeout;
        let answer = timeout_at(deadline, replica.endpoint.call(Lane::Main, Arc::new(request.into()), deadline)).await;
        let reply = match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(endpoint = %replica.address(), "no answer to a question about the cluster");
                self.suspect(&replica);
                return;
            }
        };
        let Ok(response) = GetClusterHealthRequest::response_of(reply) else { return };
        response.limits.iter().for_each(|reported| self.limits.learn(reported));
        if let Some(health) = response.cluster_health {
            self.members().adopt(&health, |address| Replica::reported(address, &self.options));
        }
    }

    /// Pings all suspected replicas.
    async fn probe(&self) {
        let replicas = self.members().replicas.clone();
        let suspects = replicas.iter().filter(|replica| replica.is_suspected());
        let patience = self.options.connect_timeout;
        join_all(suspects.map(async |replica| {
            if replica.answers(patience).await {
                replica.is_suspected.store(false, Ordering::Relaxed);
            }
        }))
        .await;
    }
}

impl Replica {
    async fn answers(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let ping = Arc::new(PingRequest { message: None, timestamp: None }.into());
        matches!(
            timeout_at(deadline, self.endpoint.call(Lane::Main, ping, deadline)).await,
            Ok(Ok(ThriftReply::Ping(_)))
        )
    }
}
