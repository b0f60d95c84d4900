//! The interface between the consensus core and durable storage.
//!
//! The core passes log writes ([`Persist`]) to storage, each with a [`WriteId`]. Storage performs
//! them strictly in the order of their ids. The completion of an id means that all writes up to and
//! including it are durable; one sync may complete many of them. An id is never used twice, so the
//! completion of a write that was replaced since cannot be mistaken for that of its replacement.

use bytes::Bytes;

use crate::{Boot, ClusterId, DiskId, Epoch, Sequence, View};

/// Everything durable about a replica besides its log. It is small, and written completely with
/// every write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The cluster that the replica belongs to; [`ClusterId::NONE`] before it is bootstrapped.
    pub cluster_id: ClusterId,
    /// The epoch in which this replica acts: under its configuration, and no other.
    pub epoch: Epoch,
    /// The name of this disk.
    pub disk_id: DiskId,
    /// How often this disk has been started.
    pub boot: Boot,
    /// The replica does not vote in lower views.
    pub promised: View,
    /// The view that the log belongs to: the log holds that view's entries, at least up to the
    /// length that it had when the replica adopted it.
    pub accepted_view: View,
    /// The database that belongs to this log: the one in the directory `db-<generation>`.
    pub generation: u64,
    /// An upper bound, in microseconds, of the leases that this replica has granted and that may
    /// still run. 0: there are none, or the log was written by a version that did not record them.
    pub lease_us: u64,
    /// The view in which this replica learned that the epoch before is over: everything through its
    /// seal was chosen in that view or a lower one. [`View::BIRTH`]: not known.
    pub ended_view: View,
}

/// Identifies a log write. Log writes complete in the order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// A log write: one atomic change of durable state. After a crash it is there completely or not at
/// all; if it is not there, neither are later writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Persist {
    /// The id of this write.
    pub write_id: WriteId,
    /// The hard state after this write.
    pub hard_state: HardState,
    /// If set, the log first discards all entries through this sequence, and keeps the entries
    /// above. If the log ended before it, the log continues after it. The other fields refer to the
    /// log after that.
    pub base: Option<Sequence>,
    /// The sequence of `entries[0]`. All stored entries at or above it are removed first. If
    /// `entries` is empty and `truncate` is false, the log is left as it is.
    pub from: Sequence,
    /// Whether entries at or above `from` may exist and must be removed. If false, `from` is
    /// exactly the end of the log.
    pub truncate: bool,
    /// The entries to append.
    pub entries: Vec<Bytes>,
}

/// The state of storage at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// `None` if the disk is empty.
    pub hard_state: Option<HardState>,
    /// The first stored sequence; entries below it were trimmed.
    pub first: Sequence,
    /// The last stored sequence; `first.previous()` if the log is empty.
    pub last: Sequence,
    /// Ranges of `first..=last`, ends included, ascending and not adjacent, that are known to be
    /// damaged: these entries existed, and can no longer be read. Entries are verified only when
    /// they are read, so more of them may be damaged.
    pub lost: Vec<(Sequence, Sequence)>,
}

/// Storage failed. The replica stops. Nothing is retried, since after a failed write the contents
/// of the disk are unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// An operation on a file failed.
    #[error("{what} failed on {path}: {error}")]
    Io {
        /// The operation, as a gerund.
        what: &'static str,
        /// The file or directory.
        path: String,
        /// The system's error.
        error: String,
    },
    /// The disk is full.
    #[error("no space left while writing {path}")]
    Full {
        /// The file or directory.
        path: String,
    },
    /// No file descriptor is free. As temporary as a full disk.
    #[error(
        "no file descriptor is free for {path}: raise the limit of this process (`ulimit -n`, LimitNOFILE= of systemd) or of \
         the system (fs.file-max)"
    )]
    NoDescriptors {
        /// The file or directory.
        path: String,
    },
    /// The newest part of the log is damaged, or contradicts itself. A promise of this replica may
    /// be lost.
    #[error(
        "the log in {path} is damaged: {reason}. This replica's last promise may be lost, so it must not vote. Remove all \
         its data, log and database, and start it with empty directories: it comes back as an observer, which fetches \
         everything from the other replicas"
    )]
    Damaged {
        /// The file or directory.
        path: String,
        /// The damage.
        reason: String,
    },
    /// A write would need a number beyond 2^62, which no reader of the log accepts. No log comes
    /// that far by itself: its numbers were altered.
    #[error(
        "the log in {path} has no numbers left: those of its entries, groups and files end at 2^62. Its numbers were \
         altered. Remove all data of this replica, log and database, and start it with empty directories: it comes back \
         as an observer, which fetches everything from the other replicas"
    )]
    Exhausted {
        /// The newest file.
        path: String,
    },
    /// The log was written by a newer program.
    #[error("the log in {path} has format version {found}; this program reads versions up to {known}")]
    Version {
        /// The file.
        path: String,
        /// The version of the file.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
}

/// Counters of a storage since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStatistics {
    /// Syncs of the log.
    pub fsyncs: u64,
    /// Bytes written to the log.
    pub bytes_written: u64,
    /// The present length of all files.
    pub bytes_on_disk: u64,
    /// Open files. Each takes a file descriptor.
    pub files: u64,
    /// Entries written to the log.
    pub entries_written: u64,
}

/// A write-ahead log. It is used by one thread, which blocks in [`Storage::persist`].
pub trait Storage: Send + 'static {
    /// Recovers the log. Called once, before any other method.
    ///
    /// # Errors
    /// The replica does not start.
    fn recover(&mut self) -> Result<Recovered, StorageError>;

    /// All stored entries from `from` on; `None` for damaged ones. If `from` is no longer stored,
    /// they begin with the first stored entry. Called once, after [`Storage::recover`].
    ///
    /// # Errors
    /// The replica does not start.
    fn load(&mut self, from: Sequence) -> Result<Vec<Option<Bytes>>, StorageError>;

    /// Performs `writes` in sequence and makes them durable. After a crash, all or the first ones
    /// are there. Returns how many of them are durable now. If that is fewer than all, there is no
    /// space for the others; nothing of them was written, and the caller must pass them again
    /// later.
    ///
    /// # Errors
    /// The storage has failed for good.
    fn persist(&mut self, writes: &[Persist]) -> Result<usize, StorageError>;

    /// Reads stored entries from `from` on, up to `to` (inclusive), `max_bytes`, or a damaged
    /// entry. At least one entry is returned, unless `from` itself is damaged or not stored.
    ///
    /// # Errors
    /// The storage has failed for good.
    fn read(&mut self, from: Sequence, to: Sequence, max_bytes: usize) -> Result<Vec<Bytes>, StorageError>;

    /// Discards entries below `below`. Storage may keep some of them longer.
    ///
    /// # Errors
    /// The storage has failed for good.
    fn trim(&mut self, below: Sequence) -> Result<(), StorageError>;

    /// Whether the log can grow. False for lack of space or file descriptors, even if all writes so
    /// far have found space.
    fn has_space(&self) -> bool;

    /// Whether the log cannot grow for lack of file descriptors rather than bytes.
    fn lacks_descriptors(&self) -> bool {
        false
    }

    /// Counters since the storage was opened.
    fn statistics(&self) -> StorageStatistics;
}
