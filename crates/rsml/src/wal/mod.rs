//! The write-ahead log: what a replica has promised and accepted, on disk before anyone hears of it.
//!
//! # Files
//! The log is a row of *segments*, files named by a number that only grows. A segment is zero-filled and synchronised
//! before it is used, so that writing into it changes no metadata (an `fdatasync` is then one write to the device, not
//! two), and so that what was never written reads as zeros.
//!
//! What one `fdatasync` covers is a *group* (see `format`): it starts on a 4 KiB boundary with a header of one sector,
//! then a table of the writes and entries in it, then the entries. Groups are numbered without gaps through all
//! segments. The first group of a segment, its *opening*, holds no writes; it repeats the hard state, so that older
//! segments may go at any time after.
//!
//! # Invariants
//! - A group is written only after the one before it is durable: at most the last group can be torn.
//! - Behind the last group there are only zeros, also after a restart. A torn write leaves each 512-byte sector old
//!   (zeros) or new. Damage of any other shape was made by the device.
//! - A group belongs where it lies only if segment number, the segment's random id and group number say so.
//! - Segments are removed oldest first, each removal durable before the next; the newest one always stays.
//! - After a failed write or synchronisation nothing more is written, and nothing is reported as durable.
//! - What is given out is what was written last at that sequence, or it is told to be lost.
//!
//! # Damage
//! Damage inside the log costs entries, not the log (see `recovery`): what it may have hit is *lost*, known to have been
//! there and not readable. Lost entries count in the log's length; they stay lost, over restarts too, until they are
//! replaced or trimmed, and a log with lost entries is written on like any other. Entries are checked when they are
//! read; a damaged one is lost from then on. Only where the newest header may be gone, and with it a promise, the log
//! refuses to open.
//!
//! # Space
//! A segment is begun only when it is prepared to its full size, so that a full disk is noticed before anything is
//! written: writes without space are left out, to be brought again. What was prepared in part is removed. Space is
//! looked for again once a second by the thread that prepares, or with every call where there is no such thread. A
//! disk that is full within a prepared segment has broken its word: that is a failure.
//!
//! File descriptors are handled in the same way: only a new segment needs one. Everything else uses files that are open,
//! the directory among them.
//!
//! # Left out on purpose
//! Fetching lost entries from others (whoever uses the log does that, and replaces them), encryption and compression;
//! entries are opaque.
//! A last group that was acknowledged and then reads as if it had never been written (a write that the device lost)
//! can't be told from a torn one.

mod disk;
mod format;
mod index;
mod memory;
mod reading;
mod recovery;
mod scan;
mod segment;
mod simulated_disk;
mod state;
mod storage;
#[cfg(test)]
mod tests;
mod window;

pub use disk::{Disk, DiskFile, FileDisk};
pub use memory::InMemoryStorage;
pub use simulated_disk::{Fault, SimulatedDisk};
pub use storage::{WalOptions, WalStorage};
