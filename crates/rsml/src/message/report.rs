//! The state of a replica, as it reports it to its peers.

use crate::configuration::Addresses;
use crate::value::DigestAt;
use crate::{FeatureLevel, LevelRange};

/// The feature levels that the sender's program executes. Programs that know of no levels send
/// none of these, and execute the first only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Levels {
    /// The lowest; 0: the first.
    #[prost(uint32, tag = "1")]
    pub lowest: u32,
    /// The highest; 0: the first.
    #[prost(uint32, tag = "2")]
    pub highest: u32,
}

impl Levels {
    /// As a field: absent for a program that executes the first level only.
    pub(crate) fn field(range: LevelRange) -> Option<Levels> {
        let levels = Levels { lowest: range.lowest.to_field(), highest: range.highest.to_field() };
        (range != LevelRange::default()).then_some(levels)
    }

    /// Reads a field; a sender may claim anything.
    pub(crate) fn range(field: Option<Levels>) -> LevelRange {
        let levels = field.unwrap_or_default();
        let [lowest, highest] = [levels.lowest, levels.highest].map(FeatureLevel::from_field);
        LevelRange { lowest, highest }
    }
}

/// See [`Message::Report`](super::Message::Report).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Report {
    /// The view that the sender has promised.
    #[prost(uint64, tag = "1")]
    pub view: u64,
    /// The last entry of the sender's log, which may not be durable yet.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// The commit point that the sender knows.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
    /// The last entry that the sender's database has applied.
    #[prost(uint64, tag = "4")]
    pub applied: u64,
    /// The running digest at `applied`.
    #[prost(fixed64, tag = "5")]
    pub digest: u64,
    /// The sender leads.
    #[prost(bool, tag = "6")]
    pub is_primary: bool,
    /// The sender stands for election.
    #[prost(bool, tag = "7")]
    pub is_candidate: bool,
    /// The sender's database survives a crash through here: the sender will never ask for entries
    /// up to it.
    #[prost(uint64, tag = "8")]
    pub persisted: u64,
    /// The first entry that the sender can still supply.
    #[prost(uint64, tag = "9")]
    pub first: u64,
    /// The sender's disk is not one of the cluster's: it follows and does not vote.
    #[prost(bool, tag = "10")]
    pub is_observer: bool,
    /// The sender's storage lacks space.
    #[prost(bool, tag = "11")]
    pub storage_full: bool,
    /// The sender's digests at multiples of the digest interval: the new ones, and some that were
    /// sent before.
    #[prost(message, repeated, tag = "12")]
    pub digests: Vec<DigestAt>,
    /// The sender is installing a snapshot that holds everything through here, and will need the
    /// entries after it; 0: it is installing none.
    #[prost(uint64, tag = "13")]
    pub installing: u64,
    /// The sender may not lead.
    #[prost(bool, tag = "14")]
    pub is_ineligible: bool,
    /// The sender's database was restored from a snapshot of a peer through here; 0: it has applied
    /// everything itself.
    #[prost(uint64, tag = "15")]
    pub inherited: u64,
    /// The sender needs a snapshot of a peer's database.
    #[prost(bool, tag = "16")]
    pub is_copying: bool,
    /// The bytes of that snapshot that the sender has received.
    #[prost(uint64, tag = "17")]
    pub copy_bytes: u64,
    /// The bytes of the whole snapshot; 0: not known yet.
    #[prost(uint64, tag = "18")]
    pub copy_total: u64,
    /// The id of the replica that sends the snapshot, plus one; 0: none yet.
    #[prost(uint32, tag = "19")]
    pub copy_source: u32,
    /// Bytes of the entries that were written to the sender's log since the sender's start.
    #[prost(uint64, tag = "20")]
    pub log_grown: u64,
    /// What the sender's program executes.
    #[prost(message, optional, tag = "21")]
    pub levels: Option<Levels>,
    /// The feature level at `applied`; 0: the first.
    #[prost(uint32, tag = "22")]
    pub feature_level: u32,
    /// Where the sender is reached, as its own settings say; absent if they do not.
    #[prost(message, optional, tag = "23")]
    pub addresses: Option<Addresses>,
    /// The sender has a log and no database: it can be a witness, and nothing else.
    #[prost(bool, tag = "24")]
    pub is_witness: bool,
}

impl Report {
    /// The feature levels that the sender's program executes.
    pub fn level_range(&self) -> LevelRange {
        Levels::range(self.levels)
    }

    /// The feature level of the sender's database.
    pub fn level(&self) -> FeatureLevel {
        FeatureLevel::from_field(self.feature_level)
    }
}
