//! The write-ahead log: what a replica has promised and accepted, on disk before anyone hears of it.
//!
//! # Files
//! The log is a row of *segments*, files named by a number that only grows. A segment is zero-filled and synchronised
//! before it is used, so that writing into it changes no metadata (an `fdatasync` is then one write to the device, not
//! two), and so that what was never written reads as zeros.
//!
//! What one `fdatasync` covers is a *group* (see `format`): it starts on a 4 KiB boundary with a header of one sector,
//! then a table of the orders and entries in it, then the entries. Groups are numbered without gaps through all
//! segments. The first group of a segment, its *opening*, holds no orders; it repeats the hard state, so that older
//! segments may go at any time after.
//!
//! # Invariants
//! - A group is written only after the one before it is durable: at most the last group can be torn.
//! - Behind the last group there are only zeros, also after a restart. A torn write leaves each 512-byte sector old
//!   (zeros) or new. Damage of any other shape was made by the device and is reported, not cut off.
//! - A group belongs where it lies only if segment number, the segment's random id and group number say so.
//! - Segments are removed oldest first, each removal durable before the next; the newest one always stays.
//! - After a failed write or synchronisation nothing more is written, and nothing is reported as durable.
//!
//! # Left out on purpose
//! Repair of damaged entries (whoever reads one gets an error; nobody fetches them from peers yet), encryption and
//! compression; entries are opaque.
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
mod storage;
#[cfg(test)]
mod tests;
mod window;

pub use disk::{Disk, DiskFile, FileDisk};
pub use memory::InMemoryStorage;
pub use simulated_disk::{Fault, SimulatedDisk};
pub use storage::{WalOptions, WalStorage};
