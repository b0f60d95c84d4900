//! Changes of the members: operators who let the cluster grow, shrink and move to other nodes.
//!
//! Some nodes are founders; the others are spare, and know the founders by their settings. What the
//! cluster is made of at any moment is the newest configuration that anybody acts under.

use std::collections::BTreeSet;

use rsml::core::{Input, MemberChange, ReconfigureId};
use rsml::{Addresses, Configuration, ConfiguredMember, DiskId, Epoch, Members, ReplicaId, Sequence};

use super::cluster::Cluster;
use super::node::Node;

impl Cluster {
    /// The members that the settings of a node name: founders know each other only.
    pub(super) fn named_by(&self, node: usize) -> Vec<ReplicaId> {
        let mut named: BTreeSet<usize> = (0..self.founders).collect();
        named.insert(node);
        named.into_iter().map(|place| ReplicaId(place as u8)).collect()
    }

    /// The nodes whose disks vote in the newest configuration; all founders before there is one.
    pub(super) fn voting_nodes(&self) -> Vec<usize> {
        match self.watch.configurations.newest() {
            Some(newest) => newest.voters().map(|(id, _)| id.0 as usize).collect(),
            None => (0..self.founders).collect(),
        }
    }

    /// The nodes that belong to the newest configuration.
    pub(super) fn member_nodes(&self) -> Vec<usize> {
        match self.watch.configurations.newest() {
            Some(newest) => newest.members.keys().map(|id| id.0 as usize).collect(),
            None => (0..self.founders).collect(),
        }
    }

    /// Whether the newest epoch has begun. Until then the voters of the one before are needed as well.
    pub(super) fn has_newest_epoch_begun(&self) -> bool {
        let newest = self.watch.configurations.newest();
        newest.is_none_or(|newest| newest.epoch == Epoch::FIRST || self.watch.agreement.highest() > newest.since)
    }

    /// The replaced disk of a node is missed no more: another one votes in its place, or none.
    pub(super) fn forget_what_was_replaced(&mut self) {
        let Some(wiped) = self.wiped.filter(|_| self.has_newest_epoch_begun()) else { return };
        if self.newest_epoch() > self.missed_in && self.has_its_voting_disk(wiped) {
            self.wiped = None;
        }
    }

    /// The newest epoch in which anybody acts; 0 before there is one.
    pub(super) fn newest_epoch(&self) -> Epoch {
        self.watch.configurations.newest().map_or(Epoch(0), |newest| newest.epoch)
    }

    /// Whether the disk that votes under the number of a node is in its place, or none votes.
    pub(super) fn has_its_voting_disk(&self, node: usize) -> bool {
        let Some(newest) = self.watch.configurations.newest() else { return !self.nodes[node].is_replaced() };
        let present = self.nodes[node].log.ledger.promised().disk_id;
        newest.voters().all(|(voter, disk)| usize::from(voter.0) != node || disk == present)
    }

    /// An operator asks a node, mostly the primary, for other members.
    pub(super) fn disturb_members(&mut self, node: usize) {
        if !self.random.one_in(self.faults.reconfigure) {
            return;
        }
        let primary = self.nodes.iter().position(|n| n.is_primary());
        let asked = if self.random.one_in(8) { node } else { primary.unwrap_or(node) };
        let Some(running) = &self.nodes[asked].running else { return };
        let present = running.core.status().configuration;
        if present.epoch == Epoch(0) {
            return;
        }
        let members = self.any_members(&present);
        // Where disks lose something, the others must be able to make up for it: then operators
        // keep three voters, and do not force anything.
        let is_careful = self.faults.has_losses() || self.nodes.iter().any(Node::is_replaced);
        if is_careful && members.values().filter(|member| member.voting_disk().is_some()).count() < 3 {
            return;
        }
        let expected = if self.random.one_in(20) { present.epoch.next() } else { present.epoch };
        let force = self.random.one_in(3) && !is_careful;
        self.reconfigure(asked, MemberChange { expected, members, force });
    }

    /// A witness drops no entry that fewer databases of voters than a majority have persisted, in the
    /// epoch in which it acts, or in the one before, which it may just have left. A database that was
    /// lost since it said so counts: losses have a budget of their own.
    pub(super) fn check_trim_of_witness(&mut self, node: usize, below: Sequence) {
        let Some(running) = self.nodes[node].running.as_ref().filter(|_| self.nodes[node].is_witness) else { return };
        let acting = running.core.membership().configuration();
        let before = self.watch.configurations.get(Epoch(acting.epoch.0.saturating_sub(1)));
        let has_it = |id: &ReplicaId| {
            let voter = &self.nodes[usize::from(id.0)];
            !voter.is_witness && voter.has_told().next() >= below
        };
        let is_kept_by = |configuration: &Configuration| {
            let quorum = configuration.voters().count() / 2 + 1;
            configuration.full_voters().filter(has_it).count() >= quorum
        };
        let is_kept = is_kept_by(acting) || before.is_some_and(is_kept_by);
        assert!(is_kept, "witness {node} drops what is below {below}, and too few databases have it: {acting:?}");
        self.figures.count("witness trimmed its log");
    }

    /// Asks `node` for other members.
    pub fn reconfigure(&mut self, node: usize, change: MemberChange) {
        let id = ReconfigureId(self.next_id());
        let within_us = self.random.below(4_000_000);
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return };
        running.changes.insert(id);
        let deadline = running.clock.read(now).plus_us(within_us);
        self.note("change of members asked for", || format!("of {node}: {change:?}"));
        self.input(node, Input::Reconfigure { id, change, deadline });
    }

    /// Near the present members, or others altogether.
    fn any_members(&mut self, present: &Configuration) -> Members {
        let mut members = present.members.clone();
        if self.random.one_in(3) {
            members.clear();
        }
        let changes = self.random.between(1, self.nodes.len() as u64);
        for _ in 0..changes {
            let place = self.any_node();
            let id = ReplicaId(place as u8);
            let disk = self.nodes[place].log.ledger.promised().disk_id;
            // Replicas announce others, so the primary corrects them.
            let addresses =
                |known| if known { Addresses::of_peer(format!("replica-{place}")) } else { Addresses::default() };
            match self.random.below(4) {
                0 => _ = members.remove(&id),
                1 => _ = members.insert(id, ConfiguredMember::Observer { addresses: addresses(self.faults.moves) }),
                _ if disk == DiskId::default() => {}
                _ => {
                    // Now and then by mistake.
                    let as_witness = self.nodes[place].is_witness != self.random.one_in(16);
                    let addresses = addresses(self.faults.moves);
                    let member = match as_witness {
                        true => ConfiguredMember::Witness { disk, addresses },
                        false => ConfiguredMember::Voter { disk, addresses },
                    };
                    members.insert(id, member);
                }
            }
        }
        members
    }
}
