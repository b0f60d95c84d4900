//! Changes of the members that nobody has to ask for.
//!
//! - A voter lost its disk, and came back with an empty one. It follows as an observer. When it has
//!   caught up, the primary seals a configuration with the new disk under the same number. The
//!   former disk counts until then, so that takes a majority of the others; should it turn up
//!   later, it is no member any more.
//! - A member says that it is reached elsewhere. Its peers use that at once, and the primary seals
//!   a configuration that says so, for those that start later.
//!
//! Both are changes like any other: rules M6, M11 and M12 hold for them.

use std::collections::BTreeMap;

use super::MemberChange;
use super::replica::Replica;
use crate::configuration::{Addresses, ConfiguredMember, Members};
use crate::message::MessageHeader;
use crate::{DiskId, Instant, ReplicaId};

/// A primary attempts such changes no more often than this.
const ATTEMPT_INTERVAL_US: u64 = 1_000_000;
/// The disk that votes must have been silent for this long, while another one was heard from in its
/// place: two processes that run under one number by mistake must not take turns as voters.
const SILENT_US: u64 = 5_000_000;

/// Facts that such changes need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Upkeep {
    /// Since when this primary has heard only from this disk under that number, which is not the
    /// one that votes.
    replaced: BTreeMap<ReplicaId, (DiskId, Instant)>,
    /// Which disk of each replica announced its addresses, and when it did last.
    announcers: BTreeMap<ReplicaId, (DiskId, Instant)>,
    /// The next attempt.
    next: Instant,
}

impl Replica {
    /// A peer says where it is reached.
    pub(super) fn on_announcement(&mut self, sender: &MessageHeader, addresses: Option<&Addresses>) {
        let (Some(addresses), disk) = (addresses.filter(|addresses| !addresses.is_empty()), sender.disk_id) else {
            return;
        };
        // Of two processes under one number, the one counts whose disk votes.
        let is_voter = self.membership.is_voter(sender.replica, disk);
        let former = self.upkeep.announcers.get(&sender.replica);
        let gives_way = |(former, at): &(DiskId, Instant)| *former == disk || self.now.since_us(*at) >= SILENT_US;
        if !is_voter && !former.is_none_or(gives_way) {
            coverage!("upkeep.announced_by_another_disk");
            return;
        }
        self.upkeep.announcers.insert(sender.replica, (disk, self.now));
        self.membership.announce(sender.replica, addresses);
    }

    /// Each tick: notes which disks were replaced, and proposes what has to be changed.
    pub(super) fn tick_upkeep(&mut self) {
        self.note_replaced_disks();
        if self.proposer.is_none() || self.now < self.upkeep.next {
            return;
        }
        let present = &self.membership.configuration().members;
        let members = self.members_after_upkeep();
        if members == *present {
            return;
        }
        self.upkeep.next = self.now.plus_us(ATTEMPT_INTERVAL_US);
        let change = MemberChange { expected: self.epoch(), members, force: false };
        if self.check_change(&change).is_ok() {
            coverage!("upkeep.sealed");
            self.seal(&change.members);
        }
    }

    fn note_replaced_disks(&mut self) {
        let Some(proposer) = self.proposer.as_ref().filter(|_| self.options.readmit_replaced_disk) else {
            self.upkeep.replaced.clear();
            return;
        };
        let former = std::mem::take(&mut self.upkeep.replaced);
        let voters = self.membership.configuration().voters();
        self.upkeep.replaced = voters
            .filter_map(|(id, voting)| {
                let disk = proposer.peers.get(&id).map(|progress| progress.disk).filter(|disk| *disk != voting)?;
                let since = former.get(&id).filter(|(noted, _)| *noted == disk).map_or(self.now, |(_, since)| *since);
                Some((id, (disk, since)))
            })
            .collect();
    }

    /// The present members, with the disks and addresses that some of them have by now.
    fn members_after_upkeep(&self) -> Members {
        let with_disk = |id: ReplicaId, member: ConfiguredMember| {
            let replaced = self.upkeep.replaced.get(&id).filter(|(_, since)| self.now.since_us(*since) >= SILENT_US);
            let ready = replaced.filter(|(disk, _)| self.unready(id, *disk).is_none());
            match ready {
                Some((disk, _)) => {
                    coverage!("upkeep.disk_replaced");
                    member.with_disk(*disk)
                }
                None => member,
            }
        };
        let with_addresses = |id: ReplicaId, member: &ConfiguredMember| match self.membership.moved_to(id) {
            Some(addresses) => {
                coverage!("upkeep.moved");
                member.clone().at(addresses.clone())
            }
            None => member.clone(),
        };
        let members = self.membership.configuration().members.iter();
        members.map(|(id, member)| (*id, with_disk(*id, with_addresses(*id, member)))).collect()
    }
}
