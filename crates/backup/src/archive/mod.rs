//! The continuous archive: the changes after a full backup, so that every version since can be
//! restored.
//!
//! A *segment* is one object with the changes of consecutive versions. Its name says which, and which
//! segment it follows:
//!
//! ```text
//! log/<first>-<last>-<hash of the one before>-<hash>.seg     hashes: the first 16 digits of BLAKE3
//! log/claims/<epoch>-<archiver>.json                         which archiver goes on
//! ```
//! A *chain* is segments of which each follows the one before. Invariants:
//! - a segment holds whole versions: all that changed anything from `first` to `last`;
//! - a segment follows exactly one segment, or begins a chain. The archiver looks whether the one
//!   before is there before it stores the next, so a hole is found when it would be made;
//! - no object is overwritten. The name contains the hash of the bytes, so a repeated put is harmless,
//!   and an object that was changed is found without any other;
//! - only one archiver writes: each looks at the claims before it stores a segment, and ends unless
//!   its own is the greatest. Should two have stored a segment after the same one, because neither had
//!   seen the claim of the other, both segments are right, since a version changes the same everywhere:
//!   the chain continues with one of them, and readers pass over the other;
//! - the time of a version never lies before that of the version before, whatever the clock does.

mod chain;
mod choice;
mod read;
mod segment;
#[cfg(test)]
mod tests;
mod write;

pub use chain::{Archive, Chain, Segment};
pub use choice::{Point, PointInTime, Window, choose, windows};
pub use read::{ArchiveVerified, verify_archive};
pub use segment::SegmentInfo;
pub use write::{Archiver, Flushed};

/// The folder of the archive.
pub(crate) const LOG: &str = "log";
/// Where archivers say that they are there.
pub(crate) const CLAIMS: &str = "log/claims";
