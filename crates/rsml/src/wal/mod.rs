//! The write-ahead log: makes a replica's promises and accepted entries durable before any peer
//! learns of them.
//!
//! # Files
//! The log consists of *segments*: files named by increasing numbers. A segment is zero-filled and
//! synced before it is used. So writing to it changes no metadata (a durable write is then one
//! write to the device, not two), and parts that were never written read as zeros.
//!
//! The unit of writing is the *group* (see `format`), which one call makes durable: a direct write
//! past the page cache (`O_DIRECT` with `O_DSYNC`, see `log_file`), or a write and an `fdatasync`
//! where the file system has no direct writes. A group starts at a 4 KiB boundary with a header of
//! one sector. A table of its writes and entries follows, then the entries.
//!
//! # Glossary
//! - *entry*: one value of the replicated log, opaque here
//! - *write*: one [`Persist`](crate::Persist): the hard state, and a change of the log; performed
//!   completely or not at all
//! - *record*: the description of a write in a group's table
//! - *group*: a batch of writes with one sync; groups are numbered without gaps through all
//!   segments
//! - *block*: 4 KiB; groups begin and end at block boundaries
//! - *sector*: 512 bytes; a device writes a sector completely or not at all
//! - *hard state*: everything durable about a replica besides its log; every group header holds it
//! - *segment header*: the first group of a segment. It holds no writes and repeats the hard state,
//!   so that older segments may be removed at any time after
//! - *position (of a group)*: segment number, segment id and group number: a group is read only
//!   where all three match
//! - *misplaced group*: a group that the device wrote to another position
//! - *torn group*: the last group, if only some of its sectors were written before a crash
//! - *blank*: all zeros: never written
//! - *truncation*: the removal of entries at the end of the log by a group that replaces them
//! - *base*: the removal of entries at the beginning of the log; the log continues after the base
//!   even if it ended before
//! - *lost entry*: an entry that is known to have been in the log and can't be read
//! - *run*: consecutive entries in one group
//! - *recovery marker*: a group without writes that repeats the state after a misplaced group was
//!   found
//!
//! # Invariants
//! - A group is written only after the one before it is durable: at most the last group can be
//!   torn.
//! - After the last group there are only zeros, also after a restart. A torn write leaves each
//!   512-byte sector old (zeros) or new. Any other damage was done by the device.
//! - A group is read only at its position: segment number, random segment id and group number must
//!   match.
//! - Segments are removed oldest first, and each removal is durable before the next. The newest
//!   segment always stays.
//! - After a failed write or sync nothing more is written, and nothing is reported as durable.
//! - A read of a sequence returns the entry written there last, or reports it as lost.
//!
//! # Damage
//! Damage inside the log costs entries, but not the log (see `recovery`): entries that it may have
//! hit are lost. Lost entries count in the log's length. They stay lost, also over restarts, until
//! they are replaced or trimmed; a log with lost entries is written like any other. Entries are
//! verified when they are read, and a damaged one is lost from then on. Recovery fails only if the
//! newest group header may be gone, and with it a promise.
//!
//! # Space
//! A segment is used only once it is prepared to its full size, so that a full disk is noticed
//! before anything is written: writes without space are left out, and the caller passes them again
//! later. A partly prepared segment is removed. The thread that prepares segments looks for space
//! every second; without such a thread, every call does. If a disk turns out to be full within a
//! prepared segment, it has broken its promise: that is a failure.
//!
//! A shortage of file descriptors is handled like a shortage of space: only a new segment needs a
//! descriptor. All other operations use files that are already open, including the directory.
//!
//! # Left out on purpose
//! Fetching lost entries from peers (the user of the log does that, and replaces them), encryption,
//! and compression. If the device loses a write that it acknowledged, and it was the last group,
//! the loss can't be distinguished from a torn group.

mod disk;
mod file_disk;
mod format;
mod index;
mod log_file;
mod memory;
mod overlay;
mod reading;
mod recovery;
mod scan;
mod segment;
mod simulated_disk;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod torn;
mod window;

pub use disk::{Disk, DiskFile};
pub use file_disk::FileDisk;
pub use memory::InMemoryStorage;
pub use overlay::OverlayDisk;
pub use simulated_disk::{Fault, SimulatedDisk};
pub use storage::{WalOptions, WalStorage};
