//! The members of the cluster with the addresses of their listeners, as a replica of this process
//! knows them.
//!
//! This is the only list of members in the server: the router and the status of the cluster ask it.
//! Who votes, and how many votes decide, is known to consensus alone
//! ([`rsml::core::Membership`]). Addresses come from consensus, and from the settings where it knows
//! none.

use std::collections::BTreeMap;

use rsml::core::Membership;
use rsml::{Addresses, ReplicaId};

use crate::config::{ReplicaConfig, ReplicationConfig};

/// A member, and where it is reached. An address is empty if it is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u32,
    /// Whether a disk votes under this id.
    pub votes: bool,
    /// Where its peers reach it.
    pub peer: String,
    /// Where Thrift clients reach it.
    pub thrift: String,
    /// Where its admin interface is.
    pub admin: String,
}

/// The members by ascending id.
pub struct Members {
    members: BTreeMap<u32, Member>,
    majority: usize,
}

impl Members {
    /// The members that consensus knows, at these addresses.
    pub fn of(membership: &Membership, addresses: impl Fn(ReplicaId) -> Addresses) -> Members {
        let member = |id: ReplicaId| {
            let addresses = addresses(id);
            let client = |place: usize| addresses.clients.get(place).cloned().unwrap_or_default();
            let votes = membership.has_voter(id) || !membership.knows_voters();
            Member { id: u32::from(id.0), votes, thrift: client(0), admin: client(1), peer: addresses.peer }
        };
        Members {
            members: membership.members().map(member).map(|member| (member.id, member)).collect(),
            majority: membership.quorum(),
        }
    }

    /// The member with this id.
    pub fn get(&self, id: u32) -> Option<&Member> {
        self.members.get(&id)
    }

    /// All members.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// The number of members.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// A majority of those that vote.
    pub fn majority(&self) -> usize {
        self.majority
    }

    /// The ids, for messages.
    pub fn ids(&self) -> String {
        self.members.keys().map(u32::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// The membership with which replica `me` starts: the ids that the settings name, and where each is
/// reached.
pub fn named_by(replication: &ReplicationConfig, me: u32) -> Membership {
    let replicas = &replication.replicas;
    let mut membership = Membership::new(replica_id(me), replicas.iter().map(|replica| replica_id(replica.id)));
    for replica in replicas {
        membership.set_addresses(replica_id(replica.id), addresses(replica));
    }
    membership
}

/// The addresses of a replica, as consensus stores them.
pub fn addresses(replica: &ReplicaConfig) -> Addresses {
    let clients = vec![replica.thrift.to_string(), replica.admin.to_string()];
    Addresses { peer: replica.peer.to_string(), clients }
}

/// The id of a member in consensus.
pub fn replica_id(id: u32) -> ReplicaId {
    ReplicaId(u8::try_from(id).expect("the configuration bounds replica ids"))
}
