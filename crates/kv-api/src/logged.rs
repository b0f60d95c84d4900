//! The encoding of a write in the log. New fields get new numbers, so that a later version can read
//! the log of an earlier one.

use bytes::Bytes;
use prost::Message;

use crate::AtomicCommit;

/// The readable window of a write that names none, in milliseconds of replicated time.
pub const DEFAULT_READABLE_WINDOW_MS: u64 = 60_000;

/// The feature levels that this program executes. A database has one of them, which says what kinds
/// of writes its log may hold:
///
/// | level | adds |
/// |---|---|
/// | 1 | commits, changes of column families, the passing of time |
/// | 2 | changes of users, roles and tokens; writes that name who asked for them |
pub const LOWEST_LEVEL: u32 = 1;
/// The highest of them.
pub const HIGHEST_LEVEL: u32 = 2;

/// Creates a column family, or drops one with all its rows. Creating one that exists changes
/// nothing.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FamilyChange {
    /// The family.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whether it is dropped; otherwise it is created.
    #[prost(bool, tag = "2")]
    pub drop: bool,
}

/// One write as replicas agree on it. It holds exactly one of three things: a commit, a change of
/// column families, or only the passing of time.
#[derive(Clone, PartialEq, Message)]
pub struct LoggedWrite {
    /// Set if this is a commit.
    #[prost(message, optional, tag = "1")]
    pub commit: Option<AtomicCommit>,
    /// Set if this is a change of column families.
    #[prost(message, optional, tag = "2")]
    pub family: Option<FamilyChange>,
    /// How long versions stay readable, in milliseconds of replicated time; 0 means
    /// [`DEFAULT_READABLE_WINDOW_MS`].
    ///
    /// The server that received the write takes it from its settings. It is logged so that replicas
    /// with different settings still decide alike.
    #[prost(uint64, tag = "3")]
    pub window_ms: u64,
    /// Column families to create first if they do not exist: those that this write uses and that
    /// the configuration of the server that received it lists.
    #[prost(string, repeated, tag = "4")]
    pub creates: Vec<String>,
    /// A write that changes no rows. It advances replicated time, and with it the readable window.
    #[prost(bool, tag = "5")]
    pub passes_time: bool,
}

/// A write with the replicated time of its log entry.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedWrite {
    /// Replicated time in microseconds; it never decreases from one write to the next.
    pub time_us: u64,
    /// The write.
    pub write: LoggedWrite,
}

/// Bytes in the log that do not decode to a write that this version knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableWrite {
    #[error("a write in the log is damaged: {0}")]
    Damaged(String),
    /// Skipping it would let replicas diverge.
    #[error("the log holds a write of a newer version of this program")]
    Unknown,
}

impl LoggedWrite {
    /// A commit with the default settings.
    pub fn commit(commit: AtomicCommit) -> Self {
        LoggedWrite { commit: Some(commit), ..LoggedWrite::default() }
    }

    /// A change of column families with the default settings.
    pub fn family(change: FamilyChange) -> Self {
        LoggedWrite { family: Some(change), ..LoggedWrite::default() }
    }

    /// A clock tick: a write that only advances replicated time.
    pub fn clock_tick() -> Self {
        LoggedWrite { passes_time: true, ..LoggedWrite::default() }
    }

    /// Sets the readable window, in milliseconds.
    pub fn within(self, window_ms: u64) -> Self {
        let window_ms = if window_ms == DEFAULT_READABLE_WINDOW_MS { 0 } else { window_ms };
        LoggedWrite { window_ms, ..self }
    }

    /// The readable window in microseconds; at least 1.
    pub fn window_us(&self) -> u64 {
        let window_ms = if self.window_ms == 0 { DEFAULT_READABLE_WINDOW_MS } else { self.window_ms };
        window_ms.saturating_mul(1000)
    }

    /// The lowest feature level at which the log may hold this write.
    pub fn level(&self) -> u32 {
        LOWEST_LEVEL
    }

    /// Approximate size in the log and in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        let commit = self.commit.as_ref().map_or(0, |commit| commit.size_bytes() + commit.ids_bytes());
        let names = self.family.iter().map(|change| &change.name).chain(&self.creates);
        commit + names.map(String::len).sum::<usize>()
    }

    /// The encoded write.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, UnreadableWrite> {
        let write = LoggedWrite::decode(bytes).map_err(|error| UnreadableWrite::Damaged(error.to_string()))?;
        match (&write.commit, &write.family, write.passes_time) {
            (Some(_), None, false) | (None, Some(_), false) | (None, None, true) => Ok(write),
            (None, None, false) => Err(UnreadableWrite::Unknown),
            _ => Err(UnreadableWrite::Damaged("it is several writes in one".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyRange, KeyRef, Mutation, MutationKind};

    /// This file never changes once its version is released. A later version adds a file of its
    /// own, and a test that reads it.
    const VERSION_1: &str = include_str!("fixtures/write_version_1.txt");
    const FAMILIES_1: &str = include_str!("fixtures/family_change_version_1.txt");

    /// A write with every kind of mutation and every field of the first release of version 1.
    fn write_1() -> LoggedWrite {
        let kinds = (0..).map_while(|kind| MutationKind::try_from(kind).ok());
        let mutation = |kind| Mutation { kind: kind as i32, ..Mutation::set("key", "value") };
        let mut mutations: Vec<Mutation> = kinds.map(mutation).collect();
        mutations.push(Mutation {
            kind: MutationKind::SetVersionstampedKey as i32,
            key: "key with place".into(),
            value: "value".into(),
            column_family: "family".into(),
            stamp_offset: Some(4),
        });
        LoggedWrite::commit(AtomicCommit {
            read_version: 300,
            mutations,
            read_conflict_keys: vec!["read".into(), "".into()],
            read_conflicts: vec![KeyRef { key: "read".into(), column_family: "family".into() }],
            read_conflict_ranges: vec![KeyRange { begin: "a".into(), end: "b".into(), column_family: "family".into() }],
            idempotency_id: "once".into(),
            finished_ids: Vec::new(),
        })
    }

    fn family_changes_1() -> Vec<LoggedWrite> {
        let change = |name: &str, drop| LoggedWrite::family(FamilyChange { name: name.into(), drop });
        let mut finishing = AtomicCommit::of(vec![Mutation::set("k", "v")]);
        finishing.finished_ids = vec!["one".into(), "two".into()];
        let creating = LoggedWrite { creates: vec!["listed".into()], ..LoggedWrite::commit(AtomicCommit::default()) };
        let finishing = LoggedWrite::commit(finishing).within(90_000);
        vec![change("made", false), change("gone", true), finishing, creating, LoggedWrite::clock_tick()]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn lines(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    fn check(line: &str, write: LoggedWrite) {
        let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal digits");
        let bytes: Bytes = (0..line.len()).step_by(2).map(byte).collect();
        assert_eq!(hex(&write.to_bytes()), line, "it is written differently");
        assert_eq!(LoggedWrite::from_bytes(bytes), Ok(write), "it is read differently");
    }

    #[test]
    fn a_write_of_version_1_is_read_and_written_as_it_was() {
        check(&lines(VERSION_1).concat(), write_1());
        let lines = lines(FAMILIES_1);
        let writes = family_changes_1();
        let written: Vec<String> = writes.iter().map(|write| hex(&write.to_bytes())).collect();
        assert_eq!(lines, written, "they are written differently");
        lines.into_iter().zip(writes).for_each(|(line, write)| check(line, write));
    }

    #[test]
    fn a_write_of_a_later_version_is_refused_and_not_passed_over() {
        // Field 15, empty.
        let unknown = LoggedWrite::from_bytes(Bytes::from_static(&[0x7a, 0]));
        assert_eq!(unknown, Err(UnreadableWrite::Unknown));
    }

    #[test]
    fn the_default_window_takes_no_bytes() {
        let write = LoggedWrite::commit(AtomicCommit::of(vec![Mutation::delete("k")]));
        let usual = write.clone().within(DEFAULT_READABLE_WINDOW_MS);
        assert_eq!(usual, write);
        assert_eq!(usual.window_us(), 60_000_000);
        assert_eq!(write.within(5).window_us(), 5_000);
    }
}
