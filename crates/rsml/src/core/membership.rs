//! The members of the cluster, the voters among them, and how many votes are a majority.
//!
//! Every part of the core that counts votes or addresses peers asks the one [`Membership`] of its
//! replica, and that always knows one configuration: the one of the epoch in which the replica
//! acts. A seal in the log replaces it (see the module `epochs`).
//!
//! Before the configuration is known, the members are those that the settings name. In the first
//! epoch, a replica that the settings name is a member too, though the cluster began without it: it
//! follows as an observer. From the second epoch on the configuration alone decides, and the
//! settings are only a hint for addresses.
//!
//! A member is not always a voter: when a disk is lost and replaced, the id stays a voter's, and
//! the new disk is an *observer*, which follows the log under that id without a vote.

use std::collections::BTreeMap;

use crate::configuration::{Addresses, Configuration, Member, from_stored};
use crate::value::BirthRecord;
use crate::{ClusterId, DiskId, Epoch, PeerAddress, ReplicaId, Sequence};

/// The members of a cluster, as one of them knows them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    me: ReplicaId,
    /// The members that the settings name, and where they are reached as the settings say.
    named: BTreeMap<ReplicaId, Addresses>,
    /// Where replicas are reached as they say themselves.
    announced: BTreeMap<ReplicaId, Addresses>,
    /// The configuration; its epoch is 0 before it is known.
    configuration: Configuration,
    /// The voters with which the cluster began; empty before they are known.
    first_voters: BTreeMap<ReplicaId, DiskId>,
    /// Replicas of the configuration before, and of later ones that this replica does not act
    /// under yet, and where they are reached.
    others: BTreeMap<ReplicaId, Option<PeerAddress>>,
    /// Counts the changes of all that.
    revision: u64,

    // Both follow from what is above.
    /// Every member, and where its peers reach it, as far as that is known here.
    members: BTreeMap<ReplicaId, Option<PeerAddress>>,
    /// The members that vote, each with the one disk whose answers count.
    voters: BTreeMap<ReplicaId, DiskId>,
}

impl Membership {
    /// The members that the settings of replica `me` name, `me` included: 1 to 7. None is known as
    /// a voter yet.
    pub fn new(me: ReplicaId, members: impl IntoIterator<Item = ReplicaId>) -> Membership {
        let named: BTreeMap<_, _> = members.into_iter().map(|member| (member, Addresses::default())).collect();
        Membership {
            me,
            members: named.keys().map(|member| (*member, None)).collect(),
            named,
            announced: BTreeMap::new(),
            configuration: Configuration::default(),
            first_voters: BTreeMap::new(),
            others: BTreeMap::new(),
            revision: 0,
            voters: BTreeMap::new(),
        }
    }

    /// Notes where `member` is reached, as the settings say. A replica that they do not name is not
    /// added.
    pub fn set_addresses(&mut self, member: ReplicaId, addresses: Addresses) {
        if let Some(known) = self.named.get_mut(&member) {
            *known = addresses;
        }
        self.refresh();
    }

    /// Notes where `replica` is reached, as it says itself. One that this replica does not talk to
    /// is not added.
    pub(super) fn announce(&mut self, replica: ReplicaId, addresses: &Addresses) {
        if self.announced.get(&replica) != Some(addresses) && self.contacts().contains_key(&replica) {
            self.announced.insert(replica, addresses.clone());
            self.revision += 1;
            self.refresh();
        }
    }

    /// Notes where this replica is reached, as it tells the others.
    pub(super) fn announce_me(&mut self, addresses: &Addresses) {
        if !addresses.is_empty() {
            self.announced.insert(self.me, addresses.clone());
            self.refresh();
        }
    }

    /// Where `replica` is reached as it says itself, if the configuration says something else.
    pub(super) fn moved_to(&self, replica: ReplicaId) -> Option<&Addresses> {
        let configured = self.configured(replica)?;
        self.announced.get(&replica).filter(|announced| *announced != configured)
    }

    /// Where `replica` is reached, as far as that is known here. Once the configuration has its
    /// addresses, they are data, and what the replica says itself comes first. Until then the
    /// settings decide: they may name addresses that are good for this replica alone.
    pub fn addresses(&self, replica: ReplicaId) -> Addresses {
        let announced = || self.announced.get(&replica);
        let named = || self.named.get(&replica).filter(|named| !named.is_empty());
        let known = match self.configured(replica) {
            Some(configured) => announced().or(Some(configured)),
            None => named().or_else(announced),
        };
        known.cloned().unwrap_or_default()
    }

    /// The addresses in the configuration.
    fn configured(&self, replica: ReplicaId) -> Option<&Addresses> {
        let member = self.configuration.members.get(&replica)?;
        Some(member.addresses()).filter(|addresses| !addresses.is_empty())
    }

    /// Takes over the members of `configuration`.
    pub fn adopt(&mut self, configuration: &Configuration) {
        if configuration.epoch > Epoch::FIRST {
            self.others = std::mem::take(&mut self.members);
        }
        let before = std::mem::replace(&mut self.configuration, configuration.clone());
        // What a replica said before its address was changed is outdated, unless it says so again.
        let is_changed = |id: &ReplicaId| match (before.members.get(id), configuration.members.get(id)) {
            (Some(old), Some(new)) => !old.addresses().is_empty() && old.addresses() != new.addresses(),
            _ => false,
        };
        self.announced.retain(|id, _| *id == self.me || !is_changed(id));
        self.revision += 1;
        if configuration.epoch == Epoch::FIRST {
            self.first_voters = configuration.voters().collect();
        }
        self.refresh();
    }

    /// Notes members of a later configuration: one that lags finds nobody else, if all members of
    /// its own are gone.
    pub(super) fn hear_of(&mut self, members: &[Member]) {
        for (id, member) in from_stored(members) {
            let peer = member.addresses().peer_address();
            if self.others.get(&id) != Some(&peer) {
                self.others.insert(id, peer);
                self.revision += 1;
            }
        }
    }

    /// Differs whenever [`Membership::contacts`] may differ.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Every replica that this one talks to: the members, those of the configuration before, those
    /// that it heard of and those that the settings name; without this one. Each with its address,
    /// as far as that is known here.
    pub fn contacts(&self) -> BTreeMap<ReplicaId, Option<PeerAddress>> {
        let named = self.named.keys().map(|id| (*id, None));
        let mut contacts: BTreeMap<_, _> = named.chain(self.others.clone()).collect();
        contacts.extend(self.members.keys().map(|id| (*id, None)));
        for (id, address) in &mut contacts {
            if let Some(known) = self.addresses(*id).peer_address() {
                *address = Some(known);
            }
        }
        for (id, address) in &self.others {
            let contact = contacts.entry(*id).or_default();
            *contact = contact.take().or_else(|| address.clone());
        }
        contacts.remove(&self.me);
        contacts
    }

    /// Notes the voters with which the cluster began.
    pub fn set_first_voters(&mut self, voters: &BTreeMap<ReplicaId, DiskId>) {
        self.first_voters.clone_from(voters);
    }

    fn refresh(&mut self) {
        self.voters = self.configuration.voters().collect();
        let is_decided_by_settings = self.configuration.epoch <= Epoch::FIRST;
        let named = self.named.keys().filter(|_| is_decided_by_settings);
        let members = self.configuration.members.keys().chain(named);
        self.members = members.map(|id| (*id, self.addresses(*id).peer_address())).collect();
    }

    /// This replica.
    pub fn me(&self) -> ReplicaId {
        self.me
    }

    /// The configuration; its epoch is 0 before it is known.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The number of the configuration; 0 before it is known.
    pub fn epoch(&self) -> Epoch {
        self.configuration.epoch
    }

    /// The entry that began the epoch of the configuration.
    pub fn since(&self) -> Sequence {
        self.configuration.since
    }

    /// Whether `replica` is a member, with or without a vote.
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.members.contains_key(&replica)
    }

    /// Every member in ascending order; this replica is one of them unless it was removed.
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

    /// Whether the member votes without a database.
    pub fn is_witness(&self, replica: ReplicaId) -> bool {
        self.configuration.members.get(&replica).is_some_and(|member| member.is_witness())
    }

    /// How many databases there are whose digests are compared: those of the voters without the
    /// witnesses, or of all members while the voters are not known.
    pub fn databases(&self) -> usize {
        if self.knows_voters() { self.configuration.full_voters().count() } else { self.members.len() }
    }

    /// How many of the [`databases`](Membership::databases) are a majority.
    pub fn database_majority(&self) -> usize {
        self.databases() / 2 + 1
    }

    /// The record with which this cluster began.
    pub fn birth_record(&self, cluster_id: ClusterId) -> BirthRecord {
        BirthRecord::new(cluster_id, &self.first_voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::ConfiguredMember;

    const ME: ReplicaId = ReplicaId(1);

    fn of_three() -> Membership {
        Membership::new(ME, [2, 0, 1].map(ReplicaId))
    }

    fn configuration(voters: &[u8]) -> Configuration {
        let voter = |id: &u8| (ReplicaId(*id), ConfiguredMember::voter(DiskId(u128::from(*id) + 100)));
        Configuration { epoch: Epoch::FIRST, since: Sequence::BIRTH, members: voters.iter().map(voter).collect() }
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
        assert_eq!(membership.members().collect::<Vec<_>>(), [ME], "settings add nobody any more");
    }

    #[test]
    fn addresses_of_the_configuration_come_before_those_of_the_settings() {
        let mut membership = of_three();
        for id in 0..3 {
            membership.set_addresses(ReplicaId(id), Addresses::of_peer("settings:1"));
        }
        let mut later = Configuration { epoch: Epoch(2), ..configuration(&[0, 1]) };
        let addresses = Addresses { peer: "configured:1".into(), clients: Vec::new() };
        later.members.insert(ReplicaId(5), ConfiguredMember::Observer { addresses });
        membership.adopt(&later);
        let address = |id| membership.address(ReplicaId(id)).map(PeerAddress::as_str);
        assert_eq!([address(0), address(2), address(5)], [Some("settings:1"), None, Some("configured:1")]);
        assert!(membership.contains(ReplicaId(5)) && !membership.has_voter(ReplicaId(5)));
        assert!(!membership.contains(ReplicaId(2)), "it was removed");
    }

    #[test]
    fn settings_decide_until_addresses_are_data_and_then_each_replica_for_itself() {
        let mut membership = of_three();
        membership.set_addresses(ReplicaId(2), Addresses::of_peer("settings:1"));
        membership.adopt(&configuration(&[0, 1, 2]));
        let (old, new) = (Addresses::of_peer("old:1"), Addresses::of_peer("new:1"));
        membership.announce(ReplicaId(2), &new);
        membership.announce(ReplicaId(0), &new);
        membership.announce(ReplicaId(9), &new);
        assert_eq!(membership.moved_to(ReplicaId(2)), None, "the settings may be good for this replica alone");
        assert_eq!(membership.contacts()[&ReplicaId(2)], Some("settings:1".into()));
        assert_eq!(membership.contacts()[&ReplicaId(0)], Some("new:1".into()), "they say nothing of it");
        assert_eq!(membership.contacts().len(), 2, "a stranger is not added");
        let with_address = |epoch, addresses: &Addresses| {
            let mut settled = Configuration { epoch: Epoch(epoch), ..configuration(&[0, 1, 2]) };
            let member = settled.members[&ReplicaId(2)].clone().at(addresses.clone());
            settled.members.insert(ReplicaId(2), member);
            settled
        };
        let before = membership.revision();
        membership.adopt(&with_address(2, &old));
        assert!(membership.revision() > before);
        assert_eq!(membership.moved_to(ReplicaId(2)), Some(&new), "now the addresses are data");
        assert_eq!(membership.contacts()[&ReplicaId(2)], Some("new:1".into()));
        membership.adopt(&with_address(3, &new));
        assert_eq!(membership.moved_to(ReplicaId(2)), None);
        assert_eq!(membership.addresses(ReplicaId(2)), new);
        let recorded = Addresses::of_peer("recorded:1");
        membership.adopt(&with_address(4, &recorded));
        assert_eq!(membership.addresses(ReplicaId(2)), recorded, "what it said before is outdated");
        membership.announce(ReplicaId(2), &new);
        assert_eq!(membership.moved_to(ReplicaId(2)), Some(&new), "it says it again");
    }

    #[test]
    fn a_replica_that_has_moved_itself_knows_that_the_configuration_is_outdated() {
        let mut membership = of_three();
        let (old, new) = (Addresses::of_peer("old:1"), Addresses::of_peer("new:1"));
        membership.announce_me(&new);
        assert_eq!(membership.moved_to(ME), None, "addresses are no data yet");
        for (epoch, recorded, moved) in [(2, &old, Some(&new)), (3, &new, None), (4, &old, Some(&new))] {
            let mut settled = Configuration { epoch: Epoch(epoch), ..configuration(&[0, 1, 2]) };
            let member = settled.members[&ME].clone().at(recorded.clone());
            settled.members.insert(ME, member);
            membership.adopt(&settled);
            assert_eq!(membership.moved_to(ME), moved, "epoch {epoch}");
            assert!(!membership.contacts().contains_key(&ME));
        }
    }

    #[test]
    fn a_replica_that_was_removed_has_all_members_as_peers() {
        let mut membership = of_three();
        membership.adopt(&Configuration { epoch: Epoch(2), ..configuration(&[0, 2]) });
        assert_eq!(membership.peers().collect::<Vec<_>>(), [ReplicaId(0), ReplicaId(2)]);
        assert!(!membership.contains(ME));
    }

    #[test]
    fn addresses_belong_to_members_only() {
        let mut membership = of_three();
        membership.set_addresses(ReplicaId(2), Addresses::of_peer("host:1"));
        membership.set_addresses(ReplicaId(9), Addresses::of_peer("host:2"));
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
        membership.adopt(&Configuration { epoch: Epoch(2), ..configuration(&[0, 6]) });
        assert_eq!(membership.birth_record(ClusterId(5)), birth, "a later configuration does not change it");
    }
}
