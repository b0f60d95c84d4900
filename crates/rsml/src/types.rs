//! The small types that every part speaks: newtypes for what must not be mixed.

use std::fmt;

/// Names a replica of a cluster. Ids start at 0 and are never given to another replica while the cluster lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u8);

/// A ballot of Paxos: the higher one wins. Each view has exactly one replica that may lead it, its [`View::owner`];
/// view 0 is the one in which a cluster is born and has no owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View(pub u64);

impl View {
    const OWNERS: u64 = 256;
    /// The view of the birth record, older than every view that can be led.
    pub const BIRTH: View = View(0);

    /// The lowest view above `self` that `owner` may lead.
    pub fn next_owned_by(self, owner: ReplicaId) -> View {
        let round = self.0 / Self::OWNERS + 1;
        View(round * Self::OWNERS + u64::from(owner.0))
    }

    /// The replica that may lead this view.
    pub fn owner(self) -> Option<ReplicaId> {
        (self != View::BIRTH).then_some(ReplicaId((self.0 % Self::OWNERS) as u8))
    }
}

/// A place in the log, counted from 1 (the birth record). 0 means "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    pub const ZERO: Sequence = Sequence(0);
    /// The birth record's place.
    pub const BIRTH: Sequence = Sequence(1);

    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }

    /// The place before this one; that of [`Sequence::ZERO`] is itself.
    pub fn previous(self) -> Sequence {
        Sequence(self.0.saturating_sub(1))
    }
}

/// A configuration's number; raised by each membership change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// Random name of one replica's disk, written before the replica sends its first message. A replica that lost its disk
/// comes back with another one, and so cannot vote against what it promised under the old.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u128);

/// Random name of a cluster, minted once at its birth. 0 means "not born yet".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl ClusterId {
    pub const NONE: ClusterId = ClusterId(0);
}

/// How often a disk has been started; together with the [`DiskId`] it names a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u64);

/// Microseconds on a monotonic clock that starts anywhere; the core never reads a clock itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    pub fn plus_us(self, us: u64) -> Instant {
        Instant(self.0.saturating_add(us))
    }

    /// Microseconds since `earlier`; 0 when `earlier` lies ahead.
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
display_number!(ReplicaId, View, Sequence, Epoch, Boot);

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
