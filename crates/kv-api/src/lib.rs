//! The vocabulary of SynodKV: what can be asked of a database ([`KvOperation`]), what comes back ([`KvOutcome`],
//! [`KvError`]), the limits that hold ([`Limits`]) and the trait that every database implements ([`KvDatabase`]).
//!
//! Each idea is defined once, here. The Thrift structs (`thrift` module) are the wire's own; they are converted to and
//! from this vocabulary at the Thrift edge and nowhere else.

pub mod atomic;
mod commit;
mod database;
mod error;
mod families;
#[cfg(test)]
mod fixtures;
mod keys;
mod limits;
mod logged;
mod operation;
pub mod thrift;
mod verdict;

pub use commit::{
    AtomicCommit, CommitResult, CommitVerdict, IDEMPOTENCY_SECONDS, MAX_IDEMPOTENCY_ID_BYTES, Mutation, MutationKind,
};
pub use database::{DatabaseStatistics, KvDatabase};
pub use error::KvError;
pub use families::{MAX_FAMILY_NAME_BYTES, family_name_fault};
pub use keys::{KeyRange, KeyRef};
pub use limits::Limits;
pub use logged::{DEFAULT_READABLE_WINDOW_MS, FamilyChange, LoggedWrite, TimedWrite, UnreadableWrite};
pub use operation::{KeySelector, KvOperation, KvOutcome, MAX_SELECTOR_OFFSET, RangeQuery, ReadAt, Row, Rows};
pub use verdict::{decode_verdict, encode_verdict};

/// A commit version or read version: counted by the state machine, one per committed transaction, never reset.
/// The first commit of a database has version 2; 1 is the version of the empty database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The version of a database that has committed nothing yet.
    pub const EMPTY: Version = Version(1);
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The column family that requests mean when they name none. On the inside it is the empty string.
pub const DEFAULT_COLUMN_FAMILY: &str = "default";
