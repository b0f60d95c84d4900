//! Finding out which replicas there are, which one leads, and whether those that failed are back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use kv_api::thrift::generated::{ClusterHealth, GetClusterHealthRequest, PingRequest};
use kv_api::thrift::{ThriftReply, ThriftRequest};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Members, Replica, Shared, Target};
use crate::backoff::Backoff;
use crate::endpoint::Lane;

/// Keeps what is known up to date, until it is stopped.
pub(super) async fn look_after(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(&shared.options);
    loop {
        if shared.options.discovery {
            shared.refresh().await;
        }
        shared.probe().await;
        // The pause even where there is doubt: many requests may fail for one reason.
        sleep(backoff.pause()).await;
        let is_settled = shared.members().replicas.iter().all(|replica| !replica.is_suspected());
        if is_settled {
            backoff.reset();
            let interval = shared.options.refresh_interval.mul_f64(rand::random_range(0.75..=1.25));
            let _ = timeout(interval, shared.doubt.notified()).await;
        }
    }
}

impl Shared {
    /// Asks one replica about all. No answer changes nothing: requests find their way without.
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
        response.limits.iter().for_each(|told| self.limits.learn(told));
        if let Some(health) = response.cluster_health {
            self.members().adopt(&health, |address| Replica::named(address, &self.options));
        }
    }

    /// Asks all suspects for a sign of life.
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

impl Members {
    /// Takes over what a replica says about all of them, and who leads unless something newer is known.
    pub(super) fn adopt(&mut self, health: &ClusterHealth, new: impl Fn(&str) -> Arc<Replica>) {
        let named = health.nodes.iter().map(|node| &node.endpoint[..]);
        let listed: Vec<&str> = named.filter(|address| is_place(address)).collect();
        self.replicas.retain(|replica| replica.is_given || listed.contains(&&**replica.address()));
        for address in &listed {
            if !self.replicas.iter().any(|replica| &**replica.address() == *address) {
                self.replicas.push(new(address));
            }
        }
        for replica in &self.replicas {
            replica.is_listed.store(listed.contains(&&**replica.address()), Ordering::Relaxed);
        }
        let leader = health.leader.as_ref().filter(|leader| is_place(&leader.endpoint));
        if let Some(leader) = leader
            && health.current_term >= self.view
        {
            self.view = health.current_term;
            self.primary = Some(leader.endpoint.as_str().into());
        }
    }
}

/// Whether an address can be one to connect to: a server that listens everywhere names no place.
fn is_place(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_everywhere = matches!(host, "" | "0.0.0.0" | "[::]" | "::");
        !is_everywhere && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use kv_api::thrift::generated::NodeStatus;

    use super::*;
    use crate::Options;
    use crate::endpoint::Endpoint;

    fn node(id: i32, endpoint: &str) -> NodeStatus {
        NodeStatus {
            node_id: id,
            endpoint: endpoint.to_string(),
            status: "healthy".to_string(),
            is_leader: false,
            last_seen_timestamp: 0,
            term: 1,
            uptime_seconds: None,
        }
    }

    fn health(nodes: &[&str], leader: &str, view: i64) -> ClusterHealth {
        ClusterHealth {
            nodes: nodes.iter().zip(0..).map(|(endpoint, id)| node(id, endpoint)).collect(),
            healthy_nodes_count: 0,
            total_nodes_count: 0,
            leader: Some(node(0, leader)),
            cluster_status: "healthy".to_string(),
            current_term: view,
        }
    }

    fn members(given: &[&str]) -> Members {
        let replica = |address: &&str| Replica::given(Endpoint::start(address.to_string(), &Options::default()));
        Members { replicas: given.iter().map(replica).collect(), primary: None, view: 0 }
    }

    fn addresses(members: &Members) -> Vec<&str> {
        members.replicas.iter().map(|replica| &**replica.address()).collect()
    }

    fn adopt(members: &mut Members, health: &ClusterHealth) {
        members.adopt(health, |address| Replica::named(address, &Options::default()));
    }

    #[tokio::test]
    async fn replicas_come_and_go_and_given_addresses_stay() {
        let mut members = members(&["given:1"]);
        adopt(&mut members, &health(&["a:1", "b:1", "0.0.0.0:9090", "", "c"], "b:1", 5));
        assert_eq!(addresses(&members), ["given:1", "a:1", "b:1"]);
        assert_eq!(members.primary.as_deref(), Some("b:1"));
        adopt(&mut members, &health(&["b:1", "c:1"], "c:1", 6));
        assert_eq!(addresses(&members), ["given:1", "b:1", "c:1"]);
        assert_eq!(members.primary.as_deref(), Some("c:1"));
    }

    #[tokio::test]
    async fn what_a_replica_of_an_older_view_says_about_the_primary_is_not_believed() {
        let mut members = members(&[]);
        adopt(&mut members, &health(&["a:1", "b:1"], "b:1", 5));
        adopt(&mut members, &health(&["a:1", "b:1"], "a:1", 4));
        assert_eq!(members.primary.as_deref(), Some("b:1"));
    }

    #[tokio::test]
    async fn a_replica_is_used_once_it_was_reached_and_given_addresses_only_until_then() {
        let mut members = members(&["given:1"]);
        adopt(&mut members, &health(&["a:1"], "a:1", 5));
        members.primary = None;
        let choose = |members: &Members, tried: &[Arc<str>]| {
            members.choose(Target::Any, tried).map(|replica| replica.address().to_string())
        };
        assert_eq!(choose(&members, &[]).as_deref(), Some("given:1"));
        members.replicas[1].is_suspected.store(false, Ordering::Relaxed);
        assert_eq!(choose(&members, &[]).as_deref(), Some("a:1"));
        assert_eq!(choose(&members, &["a:1".into()]).as_deref(), Some("given:1"));
        assert_eq!(choose(&members, &["a:1".into(), "given:1".into()]), None);
    }

    #[tokio::test]
    async fn the_primary_is_asked_first_and_others_in_its_absence() {
        let mut members = members(&["a:1", "b:1"]);
        members.primary = Some("b:1".into());
        let choose = |tried: &[Arc<str>]| members.choose(Target::Primary, tried).map(|r| r.address().to_string());
        assert_eq!(choose(&[]).as_deref(), Some("b:1"));
        assert_eq!(choose(&["b:1".into()]).as_deref(), Some("a:1"));
        members.replicas[1].is_suspected.store(true, Ordering::Relaxed);
        assert_eq!(choose(&[]).as_deref(), Some("a:1"));
    }
}
