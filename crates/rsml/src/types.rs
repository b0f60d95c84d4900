//! The small types of every part: numbers that must not be confused.

use std::fmt;

/// The id of a replica in its cluster. Ids start at 0, and no other replica gets the same id while
/// the cluster exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u8);

/// A ballot of Paxos (Raft: a term): the higher one wins. Each view has exactly one replica that
/// may lead it, its [`View::owner`], and belongs to one [`View::epoch`]: every view of a later epoch
/// is higher than all of an earlier one. View 0 is the view of the bootstrap record, and has no
/// owner.
///
/// The number is made of three: epoch − 1 (24 bits), round (32 bits), owner (8 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View(pub u64);

impl View {
    const OWNERS: u64 = 256;
    const EPOCH_SHIFT: u32 = 40;
    /// The view of the bootstrap record, older than every view that can be led.
    pub const BIRTH: View = View(0);

    /// Below all views that can be led in `epoch`, and above those of earlier epochs. It has no
    /// owner.
    pub fn floor_of(epoch: Epoch) -> View {
        View(epoch.0.saturating_sub(1) << Self::EPOCH_SHIFT)
    }

    /// The epoch whose voters promise this view.
    pub fn epoch(self) -> Epoch {
        Epoch((self.0 >> Self::EPOCH_SHIFT) + 1)
    }

    /// The lowest view above `self` that `owner` may lead, in the same epoch.
    ///
    /// # Panics
    /// After the last of the 2^32 rounds of an epoch.
    pub fn next_owned_by(self, owner: ReplicaId) -> View {
        let round = self.0 / Self::OWNERS + 1;
        let next = View(round * Self::OWNERS + u64::from(owner.0));
        assert_eq!(next.epoch(), self.epoch(), "the views of an epoch are used up");
        next
    }

    /// The replica that may lead this view.
    pub fn owner(self) -> Option<ReplicaId> {
        (self != View::floor_of(self.epoch())).then_some(ReplicaId((self.0 % Self::OWNERS) as u8))
    }
}

/// The index of an entry in the log, counted from 1 (the bootstrap record). 0 means "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Before the first entry.
    pub const ZERO: Sequence = Sequence(0);
    /// The sequence of the bootstrap record.
    pub const BIRTH: Sequence = Sequence(1);

    /// The sequence after this one.
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }

    /// The sequence before this one; [`Sequence::ZERO`] for [`Sequence::ZERO`].
    pub fn previous(self) -> Sequence {
        Sequence(self.0.saturating_sub(1))
    }
}

/// The number of a configuration; each change of members raises it by one. That of the bootstrap
/// record is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the members with which a cluster begins.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch that follows.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// A feature level: which kinds of entries a log may hold, and what they mean. A cluster has one,
/// which is part of its replicated state and never goes down. A program executes a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeatureLevel(pub u32);

impl FeatureLevel {
    /// The level of every cluster whose log raises none, and of programs that know of no levels.
    pub const FIRST: FeatureLevel = FeatureLevel(1);

    /// As a field of a stored record or a message, in which the first level takes no bytes.
    pub(crate) fn to_field(self) -> u32 {
        if self == FeatureLevel::FIRST { 0 } else { self.0 }
    }

    /// Reads what [`FeatureLevel::to_field`] made.
    pub(crate) fn from_field(field: u32) -> FeatureLevel {
        FeatureLevel(field.max(FeatureLevel::FIRST.0))
    }
}

impl Default for FeatureLevel {
    fn default() -> Self {
        FeatureLevel::FIRST
    }
}

/// The feature levels that a program executes, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LevelRange {
    /// The lowest.
    pub lowest: FeatureLevel,
    /// The highest.
    pub highest: FeatureLevel,
}

impl LevelRange {
    /// The levels from `lowest` to `highest`.
    ///
    /// # Panics
    /// If there are none, or one below the first.
    pub const fn new(lowest: u32, highest: u32) -> LevelRange {
        assert!(FeatureLevel::FIRST.0 <= lowest && lowest <= highest, "a range of levels begins at 1 or above");
        LevelRange { lowest: FeatureLevel(lowest), highest: FeatureLevel(highest) }
    }

    /// Whether `level` is one of them.
    pub fn contains(self, level: FeatureLevel) -> bool {
        self.lowest <= level && level <= self.highest
    }
}

impl fmt::Display for LevelRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lowest == self.highest {
            true => write!(f, "level {}", self.lowest),
            false => write!(f, "levels {} to {}", self.lowest, self.highest),
        }
    }
}

/// The random name of one replica's disk, written before the replica sends its first message. A
/// replica whose disk was replaced has another one, and so cannot vote against what it promised
/// before.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u128);

/// The random name of a cluster, minted when it is bootstrapped. 0 means "none yet".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// No cluster.
    pub const NONE: ClusterId = ClusterId(0);
}

/// The incarnation of a replica: how often its disk has been started. Together with the [`DiskId`]
/// it names a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u64);

/// Microseconds on a monotonic clock with an arbitrary start. The core never reads a clock itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The moment `us` microseconds later.
    pub fn plus_us(self, us: u64) -> Instant {
        Instant(self.0.saturating_add(us))
    }

    /// Microseconds since `earlier`; 0 if `earlier` is later.
    pub fn since_us(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(ReplicaId, View, Sequence, Epoch, Boot, FeatureLevel);

macro_rules! display_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:08x}…)", stringify!($name), (self.0 >> 96) as u32)
            }
        }
    )*};
}
display_hex!(DiskId, ClusterId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_a_later_epoch_are_higher_whatever_their_rounds() {
        let mut view = View::BIRTH;
        for owner in [3, 0, 255] {
            view = view.next_owned_by(ReplicaId(owner));
            assert_eq!((view.epoch(), view.owner()), (Epoch::FIRST, Some(ReplicaId(owner))));
        }
        let floor = View::floor_of(Epoch(2));
        assert!(floor > view && floor.owner().is_none());
        let first = floor.next_owned_by(ReplicaId(0));
        assert_eq!((first.epoch(), first.owner()), (Epoch(2), Some(ReplicaId(0))));
        assert!(first > floor && first < View::floor_of(Epoch(3)));
        assert_eq!(View::floor_of(Epoch::FIRST), View::BIRTH);
    }

    #[test]
    fn views_written_before_there_were_epochs_are_of_the_first_one() {
        assert_eq!(View::BIRTH.next_owned_by(ReplicaId(1)), View(257));
        assert_eq!((View(257).epoch(), View(257).owner()), (Epoch::FIRST, Some(ReplicaId(1))));
    }
}
