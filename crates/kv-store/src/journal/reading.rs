//! Reads of the journal. They hold its lock only while they choose what to read.

use std::sync::Arc;

use kv_api::{Change, Changes, KvError, Version};

use super::block::{RawEffect, ReadBlock};
use super::files::JournalFile;
use super::filter::ChangeFilter;
use super::{Failure, Journal};

/// A read looks at most at about this many bytes of the files, and says how far it came.
const MAX_READ_BYTES: u64 = 4 << 20;

/// How much one read returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// The read ends before the version that would exceed this. The first version is returned
    /// whatever its size: versions are never divided.
    pub max_bytes: u64,
    /// Maximum number of versions.
    pub max_versions: usize,
    /// Whether values are returned; otherwise they are empty.
    pub with_values: bool,
}

impl Default for ReadLimits {
    fn default() -> Self {
        ReadLimits { max_bytes: 1 << 20, max_versions: usize::MAX, with_values: true }
    }
}

/// How much a read would look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSize(pub u64);

/// An encoded key, or a range of them, that a version touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched<'k> {
    /// A key.
    Key(&'k [u8]),
    /// The keys `begin <= key < end`.
    Range(&'k [u8], &'k [u8]),
}

/// A part of a file to look at.
struct Part {
    file: Arc<dyn JournalFile>,
    name: u64,
    offset: u64,
    length: usize,
}

/// The parts that may hold what was asked for, and the last version that they answer for.
struct Plan {
    parts: Vec<Part>,
    upto: u64,
    oldest: u64,
}

impl Journal {
    /// The versions after `after`, up to `applied`, that touch what `filter` asks for.
    ///
    /// # Errors
    /// [`KvError::TransactionTooOld`] if the journal does not reach back to `after`; those of a
    /// journal that cannot be written.
    pub fn read(
        &self,
        after: u64,
        applied: u64,
        limits: ReadLimits,
        filter: &ChangeFilter,
    ) -> Result<Changes, KvError> {
        let plan = self.plan(after, applied, filter)?;
        let mut reading = Reading { changes: Vec::new(), bytes: 0, through: after, limits, filter };
        for part in &plan.parts {
            let read = part.file.read(part.offset, part.length).map_err(|error| error.to_string());
            let goes_on =
                read.and_then(|bytes| reading.take_blocks(&bytes, plan.upto).map_err(|error| error.to_string()));
            match goes_on {
                Ok(true) => {}
                Ok(false) => {
                    let through = Version(reading.through);
                    return Ok(Changes {
                        changes: reading.changes,
                        through,
                        has_more: true,
                        oldest: Version(plan.oldest),
                    });
                }
                Err(reason) => return Err(self.give_up_through(part.name, after, &reason)),
            }
        }
        let through = Version(after.max(plan.upto));
        let has_more = plan.upto < applied && after < applied;
        assert!(reading.through <= through.0, "{} was read, beyond {through}", reading.through);
        Ok(Changes { changes: reading.changes, through, has_more, oldest: Version(plan.oldest) })
    }

    fn plan(&self, after: u64, applied: u64, filter: &ChangeFilter) -> Result<Plan, KvError> {
        let state = self.state();
        if let Some(failure) = &state.failure {
            return Err(unavailable(failure));
        }
        let oldest = state.segments.front().expect("a journal without failure has a file").after;
        if after < oldest {
            return Err(KvError::TransactionTooOld { read_version: after, oldest });
        }
        let mut plan = Plan { parts: Vec::new(), upto: after, oldest };
        let mut bytes = 0;
        let first = state.segments.partition_point(|segment| segment.last <= after);
        for segment in state.segments.range(first..) {
            let begin = segment.chunks.partition_point(|chunk| chunk.last <= after);
            for chunk in &segment.chunks[begin..] {
                if plan.upto >= applied || bytes >= MAX_READ_BYTES {
                    return Ok(plan);
                }
                plan.upto = chunk.last.min(applied);
                if filter.may_match(&chunk.summary) {
                    let length = chunk.end - chunk.offset;
                    bytes += length;
                    plan.parts.push(Part {
                        file: segment.file.clone(),
                        name: segment.after,
                        offset: chunk.offset,
                        length: usize::try_from(length).expect("it was written from memory"),
                    });
                }
            }
        }
        Ok(plan)
    }

    /// Passes what each version after `after`, up to `applied`, touches to `visit`, as far as one read
    /// goes. Returns the last version that was visited.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn visit(&self, after: u64, applied: u64, visit: &mut dyn FnMut(u64, Touched<'_>)) -> Result<u64, KvError> {
        let plan = self.plan(after, applied, &ChangeFilter::everything())?;
        for part in &plan.parts {
            let read = part.file.read(part.offset, part.length).map_err(|error| error.to_string());
            let visited = read.and_then(|bytes| {
                let visited = visit_blocks(&bytes, after, plan.upto, visit);
                visited.map_err(|error| error.to_string())
            });
            visited.map_err(|reason| self.give_up_through(part.name, after, &reason))?;
        }
        Ok(plan.upto.max(after))
    }

    /// About how much a read would look at.
    pub fn size_of_read(&self, after: u64, applied: u64, filter: &ChangeFilter) -> Result<ReadSize, KvError> {
        let plan = self.plan(after, applied, filter)?;
        Ok(ReadSize(plan.parts.iter().map(|part| part.length as u64).sum()))
    }

    /// A file cannot be read. It is given up with all before it; if it is the newest one, the whole
    /// journal is.
    fn give_up_through(&self, name: u64, after: u64, reason: &str) -> KvError {
        let writing = self.writing();
        let (lost, answer) = {
            let mut state = self.state();
            let Some(place) = state.segments.iter().position(|segment| segment.after == name) else {
                // Retention was faster.
                let oldest = state.segments.front().map_or(after + 1, |segment| segment.after);
                return KvError::TransactionTooOld { read_version: after, oldest };
            };
            tracing::error!("the change journal is damaged, and forgets the versions up to there: {reason}");
            let mut lost = Vec::new();
            for _ in 0..=place {
                lost.extend(state.forget_oldest(|_, _| true));
            }
            (lost, state.segments.front().filter(|oldest| oldest.after != name).map(|segment| segment.after))
        };
        for name in lost {
            let _ = self.place.remove(name);
        }
        let Some(oldest) = answer else {
            let error = std::io::Error::other(format!("it is damaged: {reason}"));
            self.fail(&writing, &error);
            return self.state().failure.as_ref().map(unavailable).expect("it has just failed");
        };
        KvError::TransactionTooOld { read_version: after, oldest }
    }
}

fn visit_blocks(
    mut bytes: &[u8],
    after: u64,
    upto: u64,
    visit: &mut dyn FnMut(u64, Touched<'_>),
) -> Result<(), KvError> {
    while !bytes.is_empty() {
        let block = ReadBlock::at_start_of(bytes).ok_or_else(wrong_checksum)?;
        bytes = &bytes[block.length..];
        if block.last <= after {
            continue;
        }
        for version in block.versions() {
            let version = version?;
            if version.version > after && version.version <= upto {
                for effect in version.effects() {
                    let touched = match effect? {
                        RawEffect::Key { prefix, .. } => Touched::Key(prefix),
                        RawEffect::Range { begin, end, .. } => Touched::Range(begin, end),
                    };
                    visit(version.version, touched);
                }
            }
        }
    }
    Ok(())
}

fn wrong_checksum() -> KvError {
    KvError::Corruption("the change journal: a block has a wrong checksum".into())
}

fn unavailable(failure: &Failure) -> KvError {
    let text = format!("the change journal of this server cannot be written ({})", failure.text);
    if failure.is_full { KvError::StorageFull(text) } else { KvError::Storage(text) }
}

struct Reading<'f> {
    changes: Vec<Change>,
    bytes: u64,
    /// The last version that was looked at.
    through: u64,
    limits: ReadLimits,
    filter: &'f ChangeFilter,
}

impl Reading<'_> {
    /// Takes the versions up to `upto` that are not taken yet. Returns whether there is room for
    /// more.
    fn take_blocks(&mut self, mut bytes: &[u8], upto: u64) -> Result<bool, KvError> {
        while !bytes.is_empty() {
            let block = ReadBlock::at_start_of(bytes).ok_or_else(wrong_checksum)?;
            bytes = &bytes[block.length..];
            if block.last <= self.through {
                continue;
            }
            for version in block.versions() {
                let version = version?;
                if version.version <= self.through {
                    continue;
                }
                if version.version > upto {
                    return Ok(true);
                }
                let mut change =
                    Change { version: Version(version.version), time_us: version.time_us, effects: Vec::new() };
                let mut size = 0;
                for effect in version.effects() {
                    self.filter.cut(effect?, |part| {
                        size += part.size_bytes();
                        change.effects.push(part.decode(self.limits.with_values)?);
                        Ok(())
                    })?;
                }
                if !change.effects.is_empty() {
                    let is_full = self.bytes + size > self.limits.max_bytes && !self.changes.is_empty();
                    if is_full || self.changes.len() >= self.limits.max_versions {
                        return Ok(false);
                    }
                    self.bytes += size;
                    self.changes.push(change);
                }
                self.through = version.version;
            }
        }
        Ok(true)
    }
}
