//! Sets of voters.

use rsml::{Configuration, ConfiguredMember, DiskId, Members, ReplicaId};

/// A set of voters: bit N stands for replica N.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Voters(pub u8);

impl Voters {
    pub fn contains(self, replica: u8) -> bool {
        self.0 & 1 << replica != 0
    }

    pub fn quorum(self) -> usize {
        self.0.count_ones() as usize / 2 + 1
    }

    pub fn ids(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |replica| self.contains(*replica))
    }

    pub fn members(self) -> Members {
        self.ids().map(|id| (ReplicaId(id), ConfiguredMember::voter(disk_id(id)))).collect()
    }
}

impl From<&Configuration> for Voters {
    fn from(configuration: &Configuration) -> Voters {
        Voters(configuration.voters().fold(0, |voters, (id, _)| voters | 1 << id.0))
    }
}

/// The one disk of a replica.
pub fn disk_id(replica: u8) -> DiskId {
    DiskId(u128::from(replica) + 100)
}
