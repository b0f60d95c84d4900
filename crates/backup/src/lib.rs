//! Backups of SynodKV: their format, and the stores that hold them.
//!
//! A *target* is a folder of a file system or of an S3-compatible store:
//!
//! ```text
//! <target>/synodkv-backup.json                       whose backups these are
//! <target>/full/<version>-<id>/manifest.json         written last: without it there is no backup
//! <target>/full/<version>-<id>/<n>.chunk             rows of one family, in key order
//! <target>/log/<first>-<last>-<previous>-<hash>.seg  changes of consecutive versions: the archive
//! ```
//!
//! Invariants:
//! - a backup is the rows of all its families at one version, whatever was written meanwhile;
//! - no object is ever overwritten: folders carry a random id, and a manifest is put only where
//!   none is. So two backups at once do not touch each other;
//! - the manifest is written after everything that it names is stored. It holds the size and the
//!   BLAKE3 hash of each object, so a lost, cut or changed object is found without reading rows;
//! - each chunk has the number of its rows and the hash of them that a server reports for the same
//!   rows (`/rows/hash`), so the rows of a restored database can be compared, too;
//! - with encryption, every frame is bound to its backup, object and place, and the manifest is
//!   bound to the key: nothing can be exchanged or left out unnoticed.
//!
//! Rows and nothing else: no engine files, so a backup is restored into a cluster of any size. This
//! crate knows neither servers nor clients.

#![warn(missing_docs)]

mod archive;
mod check;
mod credentials;
mod error;
mod frames;
mod manifest;
mod prune;
mod reader;
mod seal;
mod target;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use archive::{
    Archive, ArchiveVerified, Archiver, Chain, Flushed, Point, PointInTime, Segment, SegmentInfo, Window, choose,
    verify_archive, windows,
};
pub use check::{Checked, check};
pub use credentials::Credentials;
pub use error::BackupError;
pub use frames::{MAX_FRAME_BYTES, MAX_OBJECT_BYTES};
pub use manifest::{ChunkInfo, Content, Encryption, FORMAT, FORMAT_WITH_USERS, FamilyInfo, ObjectInfo, Summary};
pub use prune::{Kept, PrunePlan, Pruned, plan_prune, prune};
pub use reader::{Backup, Entry, list, open, open_newest};
pub use seal::{KeyFile, Keys, Sealing};
pub use target::Target;
pub use time::OffsetDateTime;
pub use verify::{Depth, Finding, TestRows, Verified, verify};
pub use writer::{BackupWriter, Description, Written};

/// The bytes `count` as people read them.
pub fn shown_bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
