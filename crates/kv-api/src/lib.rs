//! The vocabulary of SynodKV: operations on a database ([`KvOperation`]), their results
//! ([`KvOutcome`], [`KvError`]), size limits ([`Limits`]), and the trait that every database
//! implements ([`KvDatabase`]).
//!
//! Each idea is defined once, here. The structs of the `thrift` module exist only on the wire:
//! server and client convert them to and from this vocabulary where they read and write messages,
//! and nowhere else.

pub mod access;
pub mod atomic;
mod changes;
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

pub use changes::{Change, ChangeRange, Changes, ClearCause, Effect, FamilyEffect};
pub use commit::{
    AtomicCommit, CommitResult, CommitVerdict, IDEMPOTENCY_SECONDS, MAX_IDEMPOTENCY_ID_BYTES, Mutation, MutationKind,
};
pub use database::{DatabaseStatistics, KvDatabase};
pub use error::KvError;
pub use families::{MAX_FAMILY_NAME_BYTES, family_name_fault};
pub use keys::{KeyRange, KeyRef};
pub use limits::Limits;
pub use logged::{
    ACCESS_LEVEL, DEFAULT_READABLE_WINDOW_MS, FamilyChange, HIGHEST_LEVEL, LOWEST_LEVEL, LoggedWrite, TimedWrite,
    UnreadableWrite,
};
pub use operation::{
    ChangesQuery, KeySelector, KvOperation, KvOutcome, MAX_SELECTOR_OFFSET, RangeQuery, ReadAt, Row, Rows,
};
pub use verdict::{decode_verdict, encode_verdict};

/// A commit version or read version. The state machine counts one per committed transaction and
/// never resets the count. The empty database has version 1, and its first commit version 2.
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

/// The name of the default column family, which a request means if it names none. Internally its
/// name is the empty string.
pub const DEFAULT_COLUMN_FAMILY: &str = "default";
