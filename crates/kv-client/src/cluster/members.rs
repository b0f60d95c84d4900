//! What the client knows about the replicas, and how it chooses one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_api::thrift::generated::ClusterHealth;

use crate::Options;
use crate::endpoint::Endpoint;
use crate::request::Target;

pub(super) struct Members {
    pub replicas: Vec<Arc<Replica>>,
    /// The primary's address.
    pub primary: Option<Arc<str>>,
    /// The view in which it is the primary.
    pub view: i64,
}

pub(super) struct Replica {
    pub endpoint: Endpoint,
    /// Whether the program gave this address to `connect`. If so, it stays in use no matter which
    /// addresses the cluster reports.
    is_given: bool,
    /// Whether the cluster's last report contains this address.
    is_listed: AtomicBool,
    pub is_suspected: AtomicBool,
}

impl Replica {
    /// A replica at an address that the program gave.
    pub fn given(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Replica { endpoint, is_given: true, is_listed: false.into(), is_suspected: false.into() })
    }

    /// A replica at an address that the cluster reported.
    pub fn reported(address: &str, options: &Options) -> Arc<Self> {
        let endpoint = Endpoint::start(address.to_string(), options);
        Arc::new(Replica { endpoint, is_given: false, is_listed: true.into(), is_suspected: true.into() })
    }

    pub fn address(&self) -> &Arc<str> {
        &self.endpoint.address
    }

    pub fn is_suspected(&self) -> bool {
        self.is_suspected.load(Ordering::Relaxed)
    }

    fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }
}

impl Members {
    /// The replica to ask next, among those that were not tried; `None` if all were.
    pub fn choose(&self, target: Target, tried: &[Arc<str>]) -> Option<Arc<Replica>> {
        let untried: Vec<&Arc<Replica>> =
            self.replicas.iter().filter(|replica| !tried.contains(replica.address())).collect();
        if target == Target::Primary
            && let Some(primary) = &self.primary
            && let Some(replica) = untried.iter().find(|replica| replica.address() == primary)
            && !replica.is_suspected()
        {
            return Some((*replica).clone());
        }
        // A given address may be another name of a listed one, so it is used only if no listed one
        // is available.
        let listed = untried.iter().filter(|replica| replica.is_listed() && !replica.is_suspected());
        let given = untried.iter().filter(|replica| !replica.is_listed() && !replica.is_suspected());
        let suspected = untried.iter().filter(|replica| replica.is_suspected());
        idler_of_two(listed).or_else(|| idler_of_two(given)).or_else(|| idler_of_two(suspected))
    }

    /// Takes over a replica's report of all members. One of an older view than the known one only
    /// adds addresses: it may come from a replica that belongs to no cluster yet, or that was left
    /// behind by its cluster. `new` makes a replica for an address that was not known before.
    pub fn adopt(&mut self, health: &ClusterHealth, new: impl Fn(&str) -> Arc<Replica>) {
        let reported = health.nodes.iter().map(|node| &node.endpoint[..]);
        let listed: Vec<&str> = reported.filter(|address| is_connectable(address)).collect();
        let is_outdated = health.current_term < self.view;
        let is_listed = |replica: &Replica| listed.contains(&&**replica.address());
        self.replicas.retain(|replica| replica.is_given || is_outdated || is_listed(replica));
        for address in &listed {
            if !self.replicas.iter().any(|replica| &**replica.address() == *address) {
                self.replicas.push(new(address));
            }
        }
        if is_outdated {
            return;
        }
        for replica in &self.replicas {
            replica.is_listed.store(is_listed(replica), Ordering::Relaxed);
        }
        let leader = health.leader.as_ref().filter(|leader| is_connectable(&leader.endpoint));
        if let Some(leader) = leader {
            self.view = health.current_term;
            self.primary = Some(leader.endpoint.as_str().into());
        }
    }
}

/// Whether one can connect to an address. A server that listens on all interfaces reports one that
/// identifies no host.
fn is_connectable(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        let is_wildcard = matches!(host, "" | "0.0.0.0" | "[::]" | "::");
        !is_wildcard && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Draws two replicas at random and returns the one with fewer requests in flight. This spreads the
/// load nearly as evenly as comparing all of them, and does not send every client to the same one.
fn idler_of_two<'r>(replicas: impl Iterator<Item = &'r &'r Arc<Replica>>) -> Option<Arc<Replica>> {
    let replicas: Vec<&Arc<Replica>> = replicas.copied().collect();
    let draw = || replicas[rand::random_range(0..replicas.len())];
    match replicas.len() {
        0 => None,
        1 => Some(replicas[0].clone()),
        _ => {
            let (one, other) = (draw(), draw());
            Some(if one.endpoint.in_flight() <= other.endpoint.in_flight() { one } else { other }.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use kv_api::thrift::generated::NodeStatus;

    use super::*;

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
        members.adopt(health, |address| Replica::reported(address, &Options::default()));
    }

    #[tokio::test]
    async fn reported_replicas_come_and_go_while_given_addresses_stay() {
        let mut members = members(&["given:1"]);
        adopt(&mut members, &health(&["a:1", "b:1", "0.0.0.0:9090", "", "c"], "b:1", 5));
        assert_eq!(addresses(&members), ["given:1", "a:1", "b:1"]);
        assert_eq!(members.primary.as_deref(), Some("b:1"));
        adopt(&mut members, &health(&["b:1", "c:1"], "c:1", 6));
        assert_eq!(addresses(&members), ["given:1", "b:1", "c:1"]);
        assert_eq!(members.primary.as_deref(), Some("c:1"));
    }

    #[tokio::test]
    async fn the_primary_of_an_older_view_is_not_adopted() {
        let mut members = members(&[]);
        adopt(&mut members, &health(&["a:1", "b:1"], "b:1", 5));
        adopt(&mut members, &health(&["a:1", "b:1"], "a:1", 4));
        assert_eq!(members.primary.as_deref(), Some("b:1"));
    }

    #[tokio::test]
    async fn the_members_of_an_older_view_replace_none() {
        let mut members = members(&["given:1"]);
        adopt(&mut members, &health(&["a:1", "b:1"], "b:1", 5));
        let nobody = ClusterHealth { leader: None, ..health(&["old:1", "a:1"], "", 0) };
        adopt(&mut members, &nobody);
        assert_eq!(addresses(&members), ["given:1", "a:1", "b:1", "old:1"]);
        assert!(members.replicas[2].is_listed(), "the newer report counts");
        assert_eq!(members.primary.as_deref(), Some("b:1"));
        adopt(&mut members, &health(&["a:1", "c:1"], "c:1", 6));
        assert_eq!(addresses(&members), ["given:1", "a:1", "c:1"]);
    }

    #[tokio::test]
    async fn given_addresses_are_used_only_until_a_reported_replica_was_reached() {
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
    async fn the_primary_is_asked_first_and_other_replicas_only_without_it() {
        let mut members = members(&["a:1", "b:1"]);
        members.primary = Some("b:1".into());
        let choose = |tried: &[Arc<str>]| members.choose(Target::Primary, tried).map(|r| r.address().to_string());
        assert_eq!(choose(&[]).as_deref(), Some("b:1"));
        assert_eq!(choose(&["b:1".into()]).as_deref(), Some("a:1"));
        members.replicas[1].is_suspected.store(true, Ordering::Relaxed);
        assert_eq!(choose(&[]).as_deref(), Some("a:1"));
    }
}
