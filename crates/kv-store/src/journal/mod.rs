//! The change journal: the effects of each version, in order.
//!
//! The apply path hands over the effects of a batch as one block, just before the batch is written
//! to the engine. The blocks are appended to files in a folder inside that of the database
//! (`changes/`), so that the two are renamed, set aside and removed together. They do not go
//! through the engine: no write buffer, no compaction.
//!
//! Effects follow from the log alone: the same versions have the same effects on every replica, and
//! after every replay.
//!
//! Invariants:
//! - **No hole.** Of the files that are kept, each begins with the version after the last one of the
//!   file before, and within a file each block with the version after the block before. So the
//!   journal holds every version after [`Journal::oldest`] up to its end, each once.
//! - **Never ahead of readers.** A block is written before its batch, so that a process that is
//!   killed in between leaves a journal that is ahead of the database and never behind. A read is
//!   bounded by the applied version.
//! - **Cut at the database.** When the database is opened, the journal is cut at the database's
//!   version, durably and before anything is appended. On a replica the replay of the log makes the
//!   rest again. If the journal ends before that version, because it is not synchronised and the
//!   machine lost power, or because the database came as a copy, it begins again there. Nothing is
//!   ever answered across such a place.
//! - **Harmless.** No failure of the journal fails or delays a write. After a failed write the
//!   journal is gone, and every read says why, until it can begin again.
//!
//! Not in this module: waiting for changes, and who may see which.

mod block;
mod files;
mod filter;
mod reading;
mod segment;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use block::{Block, Effects};
pub use files::{JournalFile, JournalFolder, JournalPlace, MemoryJournal};
pub use filter::ChangeFilter;
pub use reading::{ReadLimits, ReadSize, Touched};
use segment::{Found, Segment};

/// How long a journal that cannot be written stays away before it tries to begin again.
const RETRY: Duration = Duration::from_secs(10);

/// A file is closed when it has this part of the journal's bytes, or spans this part of its time.
const FILES: u64 = 16;
const MAX_FILE_BYTES: u64 = 64 << 20;
const MIN_FILE_BYTES: u64 = 4 << 10;

/// How much the journal keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Versions are kept at least this long, by replicated time, unless `max_bytes` is too little.
    pub retention: Duration,
    /// Upper limit for all files together; they are removed one by one, the oldest first.
    pub max_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions { retention: Duration::from_secs(600), max_bytes: 1 << 30 }
    }
}

/// Figures of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStatistics {
    /// Bytes of all files.
    pub bytes: u64,
    /// Changes after this version, or a later one, can be read; `None` while the journal cannot be
    /// written.
    pub oldest: Option<u64>,
    /// Why the journal cannot be written.
    pub failure: Option<String>,
}

/// Two locks, so that figures and the choice of what to read never wait for a disk: `writing` is held
/// while files are written, created and removed, and `state`, which is taken after it, only for
/// work in memory.
pub(crate) struct Journal {
    place: Arc<dyn JournalPlace>,
    options: JournalOptions,
    writing: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// Oldest first; the last one is written to. Empty after a failure.
    segments: VecDeque<Segment>,
    bytes: u64,
    failure: Option<Failure>,
}

#[derive(Clone)]
struct Failure {
    text: String,
    is_full: bool,
    at: Instant,
}

impl Journal {
    /// Opens the journal of a database whose newest version is `version`.
    pub fn open(place: Arc<dyn JournalPlace>, options: JournalOptions, version: u64) -> Journal {
        let recovered = recover(&*place, version);
        let state = State { segments: VecDeque::new(), bytes: 0, failure: None };
        let journal = Journal { place, options, writing: Mutex::new(()), state: Mutex::new(state) };
        match recovered {
            Ok(segments) => {
                let mut state = journal.state();
                state.bytes = segments.iter().map(|segment| segment.length).sum();
                state.segments = segments;
            }
            Err(error) => journal.fail(&journal.writing(), &error),
        }
        journal
    }

    fn writing(&self) -> Writing<'_> {
        Writing { _lock: self.writing.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the block of the next batch. Called only by the holder of the writer's lock.
    pub fn append(&self, block: &Block<'_>) {
        let writing = self.writing();
        let failed_at = self.state().failure.as_ref().map(|failure| failure.at);
        if let Some(at) = failed_at {
            if at.elapsed() < RETRY {
                return;
            }
            if let Err(error) = self.empty(&writing, block.first - 1) {
                return self.fail(&writing, &error);
            }
            tracing::info!(after = block.first - 1, "the change journal begins again");
        }
        let appended = self.make_room(&writing, block).and_then(|()| self.write(&writing, block));
        if let Err(error) = appended {
            self.fail(&writing, &error);
        }
    }

    /// Begins the next file if it is time, and removes old ones.
    fn make_room(&self, _: &Writing<'_>, block: &Block<'_>) -> io::Result<()> {
        let JournalOptions { retention, max_bytes } = self.options;
        let retention_us = u64::try_from(retention.as_micros()).unwrap_or(u64::MAX);
        let ended_at = {
            let state = self.state();
            let active = state.active();
            let is_full = active.length >= (max_bytes / FILES).clamp(MIN_FILE_BYTES, MAX_FILE_BYTES);
            let is_old = block.time_us.saturating_sub(active.first_us) > retention_us / FILES;
            (active.last > active.after && (is_full || is_old)).then_some(active.last)
        };
        if let Some(after) = ended_at {
            let next = Segment::create(&*self.place, after)?;
            self.state().push(next);
        }
        let most = max_bytes.saturating_sub(block.bytes.len() as u64);
        let is_outdated = |state: &State, oldest: &Segment| {
            state.bytes > most || block.time_us.saturating_sub(oldest.last_us) > retention_us
        };
        loop {
            // A statement of its own: the lock ends with it.
            let outdated = self.state().forget_oldest(is_outdated);
            let Some(name) = outdated else { return Ok(()) };
            self.place.remove(name)?;
        }
    }

    /// Writes the block at the end. After an error, what follows the end is unknown.
    fn write(&self, _: &Writing<'_>, block: &Block<'_>) -> io::Result<()> {
        let (file, end) = {
            let state = self.state();
            let active = state.active();
            assert_eq!(block.first, active.last + 1, "the journal has a hole");
            (active.file.clone(), active.length)
        };
        file.append(end, block.bytes)?;
        self.state().note(block);
        Ok(())
    }

    /// The database continues at `version` without the versions before it: what is known of them
    /// does not belong to what follows.
    pub fn begin_again(&self, version: u64) {
        let writing = self.writing();
        if let Err(error) = self.empty(&writing, version) {
            self.fail(&writing, &error);
        }
    }

    /// Removes everything, and begins an empty journal after `version`.
    fn empty(&self, _: &Writing<'_>, version: u64) -> io::Result<()> {
        {
            let mut state = self.state();
            state.clear();
            let failure = || Failure { text: "it is being emptied".into(), is_full: false, at: Instant::now() };
            state.failure.get_or_insert_with(failure);
        }
        remove_all(&*self.place)?;
        let segment = Segment::create(&*self.place, version)?;
        self.place.sync()?;
        let mut state = self.state();
        state.push(segment);
        state.failure = None;
        Ok(())
    }

    /// The journal is gone until it can begin again.
    fn fail(&self, _: &Writing<'_>, error: &io::Error) {
        {
            let mut state = self.state();
            if state.failure.is_none() {
                tracing::error!(%error, "the change journal cannot be written: it is dropped, and begins again later");
            }
            state.clear();
            let is_full = error.kind() == io::ErrorKind::StorageFull;
            state.failure = Some(Failure { text: error.to_string(), is_full, at: Instant::now() });
        }
        // The rest is removed when the journal begins again.
        let _ = remove_all(&*self.place);
    }

    /// Makes the journal survive a crash of the machine, as far as it is written.
    pub fn sync(&self) {
        let files: Vec<_> = self.state().segments.iter().rev().take(2).map(|segment| segment.file.clone()).collect();
        let synced = files.iter().try_for_each(|file| file.sync()).and_then(|()| self.place.sync());
        if let Err(error) = synced {
            tracing::warn!(%error, "cannot synchronise the change journal; it begins again if the machine crashes now");
        }
    }

    /// The figures at this moment.
    pub fn statistics(&self) -> JournalStatistics {
        let state = self.state();
        JournalStatistics {
            bytes: state.bytes,
            oldest: state.segments.front().map(|segment| segment.after),
            failure: state.failure.as_ref().map(|failure| failure.text.clone()),
        }
    }
}

/// Shows that files may be written, created and removed.
struct Writing<'j> {
    _lock: MutexGuard<'j, ()>,
}

impl State {
    /// The file that is written to.
    fn active(&self) -> &Segment {
        self.segments.back().expect("a journal without failure has a file")
    }

    fn push(&mut self, segment: Segment) {
        self.bytes += segment.length;
        self.segments.push_back(segment);
    }

    /// Forgets the oldest file if it `is_outdated`, but never the one that is written to. Returns
    /// its name.
    fn forget_oldest(&mut self, is_outdated: impl Fn(&State, &Segment) -> bool) -> Option<u64> {
        let oldest = self.segments.front().filter(|oldest| self.segments.len() > 1 && is_outdated(self, oldest))?;
        let (name, length) = (oldest.after, oldest.length);
        self.segments.pop_front();
        self.bytes -= length;
        Some(name)
    }

    /// A block was written at the end.
    fn note(&mut self, block: &Block<'_>) {
        let bytes = block.bytes.len() as u64;
        self.bytes += bytes;
        let active = self.segments.back_mut().expect("it was written to");
        active.note(bytes, block.last, block.time_us, block.summary);
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.bytes = 0;
    }
}

fn remove_all(place: &dyn JournalPlace) -> io::Result<()> {
    let names = place.list()?;
    names.iter().try_for_each(|name| place.remove(*name))?;
    if names.is_empty() { Ok(()) } else { place.sync() }
}

/// The files that hold every version of a stretch that ends with `version`; a new one if there is
/// none. All others are removed.
fn recover(place: &dyn JournalPlace, version: u64) -> io::Result<VecDeque<Segment>> {
    let mut kept: VecDeque<Segment> = VecDeque::new();
    let mut removed = Vec::new();
    for name in place.list()? {
        let found = if name > version { Found::Nothing } else { Segment::recover(place, name, version)? };
        let Found::Segment(segment) = found else {
            removed.push(name);
            continue;
        };
        if kept.back().is_some_and(|before| before.last != segment.after) {
            removed.extend(kept.drain(..).map(|before| before.after));
        }
        kept.push_back(segment);
    }
    if kept.back().is_some_and(|newest| newest.last != version) {
        removed.extend(kept.drain(..).map(|before| before.after));
    }
    removed.iter().try_for_each(|name| place.remove(*name))?;
    if kept.is_empty() {
        kept.push_back(Segment::create(place, version)?);
        if !removed.is_empty() {
            tracing::info!(version, "the change journal did not reach the database's version, and begins again there");
        }
    }
    // A removed file that came back could continue another history.
    place.sync()?;
    Ok(kept)
}
