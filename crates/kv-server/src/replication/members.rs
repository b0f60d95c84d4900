//! The members of the cluster with the addresses of their listeners, as this process knows them.
//!
//! This is the only list of members in the server: the router, the status of the cluster and the
//! options of the replicas ask it. Who votes, and how many votes decide, is known to consensus
//! alone ([`rsml::core::Membership`]).

use rsml::ReplicaId;
use rsml::core::Membership;

use crate::config::{ReplicaConfig, ReplicationConfig};

/// The members by ascending id.
pub struct Members(Vec<ReplicaConfig>);

impl Members {
    /// The members of a configuration.
    pub fn of(replication: &ReplicationConfig) -> Members {
        Members(replication.replicas.clone())
    }

    /// The member with this id.
    pub fn get(&self, id: u32) -> Option<&ReplicaConfig> {
        self.0.iter().find(|member| member.id == id)
    }

    /// All members.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ReplicaConfig> {
        self.0.iter()
    }

    /// The number of members.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// A majority of the members.
    pub fn majority(&self) -> usize {
        self.0.len() / 2 + 1
    }

    /// The ids, for messages.
    pub fn ids(&self) -> String {
        self.0.iter().map(|member| member.id.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// What consensus starts with: the ids, and the addresses of the peers.
    pub fn membership(&self, me: u32) -> Membership {
        let mut membership = Membership::new(replica_id(me), self.0.iter().map(|member| replica_id(member.id)));
        for member in &self.0 {
            membership.set_address(replica_id(member.id), member.peer.as_str().into());
        }
        membership
    }
}

/// The id of a member in consensus.
pub fn replica_id(id: u32) -> ReplicaId {
    ReplicaId(u8::try_from(id).expect("the configuration bounds replica ids"))
}
