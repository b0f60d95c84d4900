//! The members of the cluster, the voters among them, and how many votes are a majority.
//!
//! Every part of the core that counts votes or addresses peers asks the one [`Membership`] of its
//! replica. Today the members come from the settings and never change; the voters come from the
//! replicated [`Configuration`]. A change of members (a configuration of a later epoch, taken from
//! the log) will only have to replace both in [`Membership::adopt`].
//!
//! A member is not always a voter: when a disk is lost and replaced, the id stays a voter's, and
//! the new disk is an *observer*, which follows the log under that id without a vote.

use std::collections::BTreeMap;

use crate::value::{BirthRecord, Configuration};
use crate::{ClusterId, DiskId, Epoch, PeerAddress, ReplicaId};

/// The members of a cluster, as one of them knows them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    me: ReplicaId,
    /// The number of the configuration that names the voters; 0 before it is known.
    epoch: Epoch,
    /// Every member, this replica included, and where its peers reach it, as far as that is known
    /// here.
    members: BTreeMap<ReplicaId, Option<PeerAddress>>,
    /// The members that vote, each with the one disk whose answers count. Empty until the
    /// configuration is known.
    voters: BTreeMap<ReplicaId, DiskId>,
}

impl Membership {
    /// The members that the settings of replica `me` name, `me` included: 1 to 7. None is known as
    /// a voter yet.
    pub fn new(me: ReplicaId, members: impl IntoIterator<Item = ReplicaId>) -> Membership {
        let members = members.into_iter().map(|member| (member, None)).collect();
        Membership { me, epoch: Epoch(0), members, voters: BTreeMap::new() }
    }

    /// Notes where the peers of `member` reach it. A replica that is no member is not added.
    pub fn set_address(&mut self, member: ReplicaId, address: PeerAddress) {
        if let Some(known) = self.members.get_mut(&member) {
            *known = Some(address);
        }
    }

    /// Takes over the voters of `configuration`.
    pub fn adopt(&mut self, configuration: &Configuration) {
        self.epoch = configuration.epoch;
        self.voters.clone_from(&configuration.disks);
    }

    /// This replica.
    pub fn me(&self) -> ReplicaId {
        self.me
    }

    /// The number of the configuration that names the voters; 0 before it is known.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether `replica` is a member, with or without a vote.
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.members.contains_key(&replica)
    }

    /// Every member, this replica included, in ascending order.
    pub fn members(&self) -> impl ExactSizeIterator<Item = ReplicaId> {
        self.members.keys().copied()
    }

    /// Every member but this replica, in ascending order.
    pub fn peers(&self) -> impl Iterator<Item = ReplicaId> {
        let me = self.me;
        self.members().filter(move |member| *member != me)
    }

    /// Where the peers of `member` reach it; `None` if that is not known here.
    pub fn address(&self, member: ReplicaId) -> Option<&PeerAddress> {
        self.members.get(&member)?.as_ref()
    }

    /// Whether the voters are known. A replica without a database does not know them, nor does one
    /// that belongs to no cluster yet.
    pub fn knows_voters(&self) -> bool {
        !self.voters.is_empty()
    }

    /// The numbers under which a disk votes, in ascending order.
    pub fn voters(&self) -> impl ExactSizeIterator<Item = ReplicaId> {
        self.voters.keys().copied()
    }

    /// Whether some disk votes under this number.
    pub fn has_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains_key(&replica)
    }

    /// The disk that votes under this number.
    pub fn voting_disk(&self, replica: ReplicaId) -> Option<DiskId> {
        self.voters.get(&replica).copied()
    }

    /// Whether answers from this disk of `replica` are votes.
    pub fn is_voter(&self, replica: ReplicaId, disk: DiskId) -> bool {
        self.voting_disk(replica) == Some(disk)
    }

    /// How many replicas the majority is counted of: the voters, or all members while the voters
    /// are not known.
    pub fn electorate(&self) -> usize {
        if self.knows_voters() { self.voters.len() } else { self.members.len() }
    }

    /// How many of the [`electorate`](Membership::electorate) are a majority.
    pub fn quorum(&self) -> usize {
        self.electorate() / 2 + 1
    }

    /// The record with which this cluster began: correct only as long as no change of members has
    /// taken place.
    pub fn birth_record(&self, cluster_id: ClusterId) -> BirthRecord {
        BirthRecord::new(cluster_id, &self.voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ReplicaId = ReplicaId(1);

    fn of_three() -> Membership {
        Membership::new(ME, [2, 0, 1].map(ReplicaId))
    }

    fn configuration(voters: &[u8]) -> Configuration {
        let disks = voters.iter().map(|id| (ReplicaId(*id), DiskId(u128::from(*id) + 100))).collect();
        Configuration { epoch: Epoch(1), disks }
    }

    #[test]
    fn peers_are_all_members_but_this_replica() {
        let membership = of_three();
        assert_eq!(membership.members().collect::<Vec<_>>(), [ReplicaId(0), ME, ReplicaId(2)]);
        assert_eq!(membership.peers().collect::<Vec<_>>(), [ReplicaId(0), ReplicaId(2)]);
        assert!(membership.contains(ME) && !membership.contains(ReplicaId(3)));
    }

    #[test]
    fn members_are_the_electorate_until_the_voters_are_known() {
        let mut membership = Membership::new(ME, (0..5).map(ReplicaId));
        assert!(!membership.knows_voters());
        assert_eq!((membership.electorate(), membership.quorum()), (5, 3));
        assert_eq!(membership.voters().len(), 0);
        membership.adopt(&configuration(&[0, 1, 2]));
        assert!(membership.knows_voters());
        assert_eq!((membership.electorate(), membership.quorum()), (3, 2));
        assert_eq!(membership.members().len(), 5, "the others are observers");
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for (voters, quorum) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)] {
            let mut membership = Membership::new(ReplicaId(0), (0..voters).map(ReplicaId));
            assert_eq!(membership.quorum(), quorum, "of {voters} members");
            membership.adopt(&configuration(&(0..voters).collect::<Vec<_>>()));
            assert_eq!(membership.quorum(), quorum, "of {voters} voters");
        }
    }

    #[test]
    fn only_the_disk_of_the_configuration_votes_under_a_number() {
        let mut membership = of_three();
        assert!(!membership.is_voter(ME, DiskId(101)), "no disk votes before the configuration is known");
        membership.adopt(&configuration(&[0, 1, 2]));
        assert_eq!(membership.epoch(), Epoch(1));
        assert!(membership.is_voter(ME, DiskId(101)));
        assert!(!membership.is_voter(ME, DiskId(7)), "a replaced disk");
        assert!(membership.has_voter(ME) && !membership.has_voter(ReplicaId(3)));
    }

    #[test]
    fn a_later_configuration_replaces_the_voters() {
        let mut membership = of_three();
        membership.adopt(&configuration(&[0, 1, 2]));
        let later = Configuration { epoch: Epoch(2), ..configuration(&[1]) };
        membership.adopt(&later);
        assert_eq!((membership.epoch(), membership.quorum()), (Epoch(2), 1));
        assert_eq!(membership.voting_disk(ReplicaId(0)), None);
    }

    #[test]
    fn addresses_belong_to_members_only() {
        let mut membership = of_three();
        membership.set_address(ReplicaId(2), "host:1".into());
        membership.set_address(ReplicaId(9), "host:2".into());
        assert_eq!(membership.address(ReplicaId(2)), Some(&PeerAddress::from("host:1")));
        assert_eq!(membership.address(ReplicaId(0)), None);
        assert!(!membership.contains(ReplicaId(9)));
    }

    #[test]
    fn the_birth_record_names_the_voters_and_gives_the_configuration_back() {
        let mut membership = of_three();
        membership.adopt(&configuration(&[0, 1, 2]));
        let birth = membership.birth_record(ClusterId(5));
        assert_eq!((birth.cluster_id(), birth.configuration()), (ClusterId(5), configuration(&[0, 1, 2])));
    }
}
