//! The members of a cluster, in the form in which they are replicated, stored and sent.

use std::collections::BTreeMap;

use prost::Message;

use crate::{DiskId, Epoch, PeerAddress, ReplicaId, Sequence};

/// A 128-bit id on the wire and on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Id128 {
    /// The upper 64 bits.
    #[prost(fixed64, tag = "1")]
    pub high: u64,
    /// The lower 64 bits.
    #[prost(fixed64, tag = "2")]
    pub low: u64,
}

impl From<u128> for Id128 {
    fn from(id: u128) -> Self {
        Id128 { high: (id >> 64) as u64, low: id as u64 }
    }
}

impl From<Id128> for u128 {
    fn from(id: Id128) -> Self {
        u128::from(id.high) << 64 | u128::from(id.low)
    }
}

/// The part that a member plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum MemberRole {
    /// Its disk votes, and it has a database.
    Voter = 0,
    /// It follows the log without a vote.
    Observer = 1,
    /// Its disk votes and keeps the log, and it has no database: it never leads.
    Witness = 2,
}

/// Where a member is reached. Empty: not known here, or as the settings say.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Addresses {
    /// By its peers: `host:port`.
    #[prost(string, tag = "1")]
    pub peer: String,
    /// By clients: opaque to RSML.
    #[prost(string, repeated, tag = "2")]
    pub clients: Vec<String>,
}

impl Addresses {
    /// Those of a replica that its peers reach at `peer`, and of which nothing else is known.
    pub fn of_peer(peer: impl Into<String>) -> Addresses {
        Addresses { peer: peer.into(), clients: Vec::new() }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.peer.is_empty() && self.clients.is_empty()
    }

    /// Where peers connect, if that is known.
    pub(crate) fn peer_address(&self) -> Option<PeerAddress> {
        (!self.peer.is_empty()).then(|| self.peer.as_str().into())
    }

    /// As a field of a message: absent if nothing is known.
    pub(crate) fn field(&self) -> Option<Addresses> {
        (!self.is_empty()).then(|| self.clone())
    }
}

/// A member of a configuration, as it is stored and sent.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Member {
    /// The id of the replica.
    #[prost(uint32, tag = "1")]
    pub replica: u32,
    /// The disk whose answers are votes; 0 for an observer, which may have any.
    #[prost(message, required, tag = "2")]
    pub disk_id: Id128,
    /// The part that it plays.
    #[prost(enumeration = "MemberRole", tag = "3")]
    pub role: i32,
    /// Where it is reached.
    #[prost(message, optional, tag = "4")]
    pub addresses: Option<Addresses>,
}

/// One member of a [`Configuration`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfiguredMember {
    /// It votes, and has a database.
    Voter {
        /// The disk whose answers are votes.
        disk: DiskId,
        /// Where it is reached.
        addresses: Addresses,
    },
    /// It votes with its log alone: it has no database, and never leads.
    Witness {
        /// The disk whose answers are votes.
        disk: DiskId,
        /// Where it is reached.
        addresses: Addresses,
    },
    /// It follows the log without a vote, with whatever disk.
    Observer {
        /// Where it is reached.
        addresses: Addresses,
    },
}

impl ConfiguredMember {
    /// A voter, which is reached as the settings say.
    pub fn voter(disk: DiskId) -> ConfiguredMember {
        ConfiguredMember::Voter { disk, addresses: Addresses::default() }
    }

    /// The disk that votes.
    pub fn voting_disk(&self) -> Option<DiskId> {
        match self {
            ConfiguredMember::Voter { disk, .. } | ConfiguredMember::Witness { disk, .. } => Some(*disk),
            ConfiguredMember::Observer { .. } => None,
        }
    }

    /// The part that it plays.
    pub fn role(&self) -> MemberRole {
        match self {
            ConfiguredMember::Voter { .. } => MemberRole::Voter,
            ConfiguredMember::Witness { .. } => MemberRole::Witness,
            ConfiguredMember::Observer { .. } => MemberRole::Observer,
        }
    }

    /// Whether it votes without a database.
    pub fn is_witness(&self) -> bool {
        self.role() == MemberRole::Witness
    }

    /// Where it is reached.
    pub fn addresses(&self) -> &Addresses {
        match self {
            ConfiguredMember::Voter { addresses, .. }
            | ConfiguredMember::Witness { addresses, .. }
            | ConfiguredMember::Observer { addresses } => addresses,
        }
    }

    /// The same member, reached elsewhere.
    pub fn at(mut self, elsewhere: Addresses) -> ConfiguredMember {
        match &mut self {
            ConfiguredMember::Voter { addresses, .. }
            | ConfiguredMember::Witness { addresses, .. }
            | ConfiguredMember::Observer { addresses } => *addresses = elsewhere,
        }
        self
    }

    /// The same member, with another disk that votes in place of the present one.
    pub(crate) fn with_disk(mut self, other: DiskId) -> ConfiguredMember {
        match &mut self {
            ConfiguredMember::Voter { disk, .. } | ConfiguredMember::Witness { disk, .. } => *disk = other,
            ConfiguredMember::Observer { .. } => {}
        }
        self
    }

    pub(crate) fn to_stored(&self, id: ReplicaId) -> Member {
        let disk_id = self.voting_disk().unwrap_or_default().0.into();
        Member { replica: u32::from(id.0), disk_id, role: self.role().into(), addresses: self.addresses().field() }
    }

    fn from_stored(member: &Member) -> ConfiguredMember {
        let addresses = member.addresses.clone().unwrap_or_default();
        match member.role() {
            MemberRole::Voter => ConfiguredMember::Voter { disk: DiskId(member.disk_id.into()), addresses },
            MemberRole::Witness => ConfiguredMember::Witness { disk: DiskId(member.disk_id.into()), addresses },
            MemberRole::Observer => ConfiguredMember::Observer { addresses },
        }
    }
}

/// The members of a configuration.
pub type Members = BTreeMap<ReplicaId, ConfiguredMember>;

pub(crate) fn from_stored(members: &[Member]) -> Members {
    members.iter().map(|member| (ReplicaId(member.replica as u8), ConfiguredMember::from_stored(member))).collect()
}

pub(crate) fn to_stored(members: &Members) -> Vec<Member> {
    members.iter().map(|(id, member)| member.to_stored(*id)).collect()
}

/// The replicated part of a [`crate::Membership`]: the members, and which of them vote.
///
/// Entries `since + 1` to the next seal (see [`Reconfigure`]) are chosen by majorities of its
/// voters, and by nobody else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Its number.
    pub epoch: Epoch,
    /// The entry that began it: the seal of the epoch before, or the bootstrap record.
    pub since: Sequence,
    /// The members.
    pub members: Members,
}

impl Configuration {
    /// The voters that have a database: all but the witnesses.
    pub fn full_voters(&self) -> impl Iterator<Item = ReplicaId> {
        self.members.iter().filter(|(_, member)| member.role() == MemberRole::Voter).map(|(id, _)| *id)
    }

    /// The voters, witnesses among them, each with the disk whose answers are votes.
    pub fn voters(&self) -> impl Iterator<Item = (ReplicaId, DiskId)> {
        self.members.iter().filter_map(|(id, member)| Some((*id, member.voting_disk()?)))
    }

    /// Whether that disk of a replica may belong to a member: an observer may use any.
    pub fn may_use(&self, replica: ReplicaId, disk: DiskId) -> bool {
        self.members.get(&replica).is_some_and(|member| member.voting_disk().is_none_or(|voting| voting == disk))
    }

    /// The configuration that a seal at `sequence` names, if it ends this one.
    pub fn after(&self, seal: &Reconfigure, sequence: Sequence) -> Option<Configuration> {
        (self.epoch > Epoch(0) && seal.epoch == self.epoch.next().0).then(|| Configuration {
            epoch: Epoch(seal.epoch),
            since: sequence,
            members: from_stored(&seal.members),
        })
    }
}

/// A *seal*: the entry that ends an epoch and names the members of the next one. It counts only
/// where the log is in the epoch before; elsewhere it is a no-op.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Reconfigure {
    /// The epoch that begins after this entry.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its members.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

impl Reconfigure {
    /// The seal that lets `epoch` begin with these members.
    pub fn new(epoch: Epoch, members: &Members) -> Reconfigure {
        Reconfigure { epoch: epoch.0, members: to_stored(members) }
    }
}
