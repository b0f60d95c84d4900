//! What the consensus core asks of durable storage, and what storage gives back at start.
//!
//! The core hands out log writes ([`Persist`]), each with a [`WriteId`]; storage performs them strictly in the order of their
//! write ids, and the completion of an id means that everything up to and including it would survive a crash now.
//! One synchronisation may complete many of them. An id is never used twice, so that the completion of something
//! since replaced cannot be mistaken for that of its replacement.

use bytes::Bytes;

use crate::{Boot, ClusterId, DiskId, Epoch, Sequence, View};

/// Everything durable about a replica besides its log; small, and written whole with every group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    pub cluster_id: ClusterId,
    pub epoch: Epoch,
    pub disk_id: DiskId,
    pub boot: Boot,
    /// No message of a lower view is answered with a vote.
    pub promised: View,
    /// The view whose log this is: the log holds that view's entries through at least the length it was adopted with.
    pub accepted_view: View,
    /// Which database belongs to this log: the one in the directory `db-<generation>`.
    pub generation: u64,
    /// No lease that this replica has granted and that may still run is longer, in microseconds. 0: none, or a log of a
    /// version that did not write it.
    pub lease_us: u64,
}

/// Identifies a log write. Log writes complete in the order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// One atomic change of durable state: after a crash either all of it is there or none of it (and nothing later).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Persist {
    pub write_id: WriteId,
    /// The hard state from this write on.
    pub hard_state: HardState,
    /// First of all the log lets go for good of what it holds through this sequence; where it ended before, it goes on
    /// after it. What lies above stays. The rest of the write is relative to the log after that.
    pub base: Option<Sequence>,
    /// The sequence of `entries[0]`. Whatever the log holds at or above it is removed first. When `entries` is empty
    /// and `truncate` is false, the log is left as it is.
    pub from: Sequence,
    /// True when entries at or above `from` may exist and must go. When false, `from` is exactly the end of the log.
    pub truncate: bool,
    pub entries: Vec<Bytes>,
}

/// What storage found at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// `None`: the disk is empty.
    pub hard_state: Option<HardState>,
    /// The sequence of the first entry that is still stored; entries below it have been trimmed.
    pub first: Sequence,
    /// The last entry stored; `first.previous()` when there is none.
    pub last: Sequence,
    /// Ranges of `first..=last`, ends included, ascending and apart, that are known to be damaged: there were entries,
    /// and they can't be read any more. Entries are checked only when they are read, so there may be more.
    pub lost: Vec<(Sequence, Sequence)>,
}

/// Storage failed. The replica stops; nothing is retried, since a failed write leaves unknown what is on the disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{what} failed on {path}: {error}")]
    Io { what: &'static str, path: String, error: String },
    #[error("no space left while writing {path}")]
    Full { path: String },
    /// As passing as a disk that is full.
    #[error(
        "no file descriptor is free for {path}: raise the limit of this process (`ulimit -n`, LimitNOFILE= of systemd) or of \
         the system (fs.file-max)"
    )]
    NoDescriptors { path: String },
    /// The newest part of the log is damaged, or contradicts itself. What this replica promised may be gone.
    #[error(
        "the log in {path} is damaged: {reason}. What this replica promised last may be gone, so it must not vote. Remove \
         all that it stores, log and database, and start it with empty directories: it comes back as an observer, which \
         fetches everything from the others"
    )]
    Damaged { path: String, reason: String },
    #[error("the log in {path} has format version {found}; this program reads versions up to {known}")]
    Version { path: String, found: u32, known: u32 },
}

/// Counters of a storage since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStatistics {
    pub fsyncs: u64,
    pub bytes_written: u64,
    pub bytes_on_disk: u64,
    /// Open files, each of which takes a descriptor.
    pub files: u64,
    pub entries_written: u64,
}

/// A write-ahead log. Used from one thread, which blocks in [`Storage::persist`].
pub trait Storage: Send + 'static {
    /// Finds out what is there. Called once, first.
    fn recover(&mut self) -> Result<Recovered, StorageError>;

    /// The entries from the later one of `from` and the first one stored until the last; `None` for a damaged one.
    /// Called once, after [`Storage::recover`].
    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError>;

    /// Performs `writes` in sequence and makes them durable; all or a prefix survives a crash. Returns how many of them are
    /// durable now. Fewer than all: there is no space for the rest, of which nothing was written; they are to be brought
    /// again later. After an error storage has failed for good.
    fn persist(&mut self, writes: &[Persist]) -> Result<usize, StorageError>;

    /// Reads stored entries `from..`, until `to` (inclusive), `max_bytes`, or a damaged one is reached; at least one,
    /// but none when `from` itself is damaged or not stored.
    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError>;

    /// Lets go of entries below `below`; storage may keep some longer.
    fn trim(&mut self, below: Sequence) -> Result<(), StorageError>;

    /// False when the log can't grow for want of space, though what was given so far may have found some.
    fn has_space(&self) -> bool;

    /// Whether it is descriptors that are wanting, rather than bytes, where it has no space.
    fn lacks_descriptors(&self) -> bool {
        false
    }

    fn statistics(&self) -> StorageStatistics;
}
