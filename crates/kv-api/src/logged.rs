//! The encoding of a write in the log. New fields get new numbers, so that a later version can read
//! the log of an earlier one.

use bytes::Bytes;
use prost::Message;

use crate::AtomicCommit;
use crate::access::{AccessChange, WriteAuthority};

/// The readable window of a write that names none, in milliseconds of replicated time.
pub const DEFAULT_READABLE_WINDOW_MS: u64 = 60_000;

/// The feature levels that this program executes. A database has one of them, which says what kinds
/// of writes its log may hold:
///
/// | level | adds |
/// |---|---|
/// | 1 | commits, changes of column families, the passing of time |
/// | 2 | changes of users, roles and tokens; writes that name who asked for them |
/// | 3 | no other writes; members that are witnesses |
pub const LOWEST_LEVEL: u32 = 1;
/// The highest of them.
pub const HIGHEST_LEVEL: u32 = 3;
/// The lowest with users, roles and tokens.
pub const ACCESS_LEVEL: u32 = 2;

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

/// One write as replicas agree on it. It holds exactly one of four things: a commit, a change of
/// column families, a change of users and roles, or only the passing of time.
///
/// A write above the first feature level (see [`LoggedWrite::level`]) is encoded as a field of
/// another message. A program that knows of no levels finds nothing there that it knows, and stops;
/// otherwise it would carry the write out without checking on whose authority it is made.
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
    /// Set if this is a change of users, roles or tokens.
    #[prost(message, optional, tag = "6")]
    pub access: Option<AccessChange>,
    /// On whose behalf the write was accepted. `None`: nothing was checked, because authentication
    /// was not enabled.
    #[prost(message, optional, tag = "7")]
    pub authority: Option<WriteAuthority>,
    /// For a change of users, roles or tokens: when the server that received it did so by its own
    /// clock, in microseconds since 1970. It is logged so that replicas with different clocks still
    /// decide alike.
    #[prost(uint64, tag = "8")]
    pub wall_us: u64,
}

/// The field of a message without other fields that holds a write above the first level.
const LEVELLED_FIELD: u32 = 15;
/// Its first byte: the number, and that a length follows.
const LEVELLED_KEY: u8 = (LEVELLED_FIELD << 3 | 2) as u8;

#[derive(Clone, PartialEq, Message)]
struct LevelledWrite {
    #[prost(message, optional, tag = "15")]
    write: Option<LoggedWrite>,
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

    /// A change of users, roles or tokens with the default settings.
    pub fn access(change: AccessChange, wall_us: u64) -> Self {
        LoggedWrite { access: Some(change), wall_us, ..LoggedWrite::default() }
    }

    /// Names on whose behalf the write is made.
    pub fn on_behalf_of(self, authority: Option<WriteAuthority>) -> Self {
        LoggedWrite { authority, ..self }
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
        let is_of_second = self.access.is_some() || self.authority.is_some();
        if is_of_second { ACCESS_LEVEL } else { LOWEST_LEVEL }
    }

    /// Approximate size in the log and in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        let commit = self.commit.as_ref().map_or(0, |commit| commit.size_bytes() + commit.ids_bytes());
        let names = self.family.iter().map(|change| &change.name).chain(&self.creates);
        let authority = self.authority.as_ref().map_or(0, Message::encoded_len);
        let access = self.access.as_ref().map_or(0, AccessChange::size_bytes);
        commit + names.map(String::len).sum::<usize>() + authority + access
    }

    /// The encoded write.
    pub fn to_bytes(&self) -> Bytes {
        if self.level() == LOWEST_LEVEL {
            return self.encode_to_vec().into();
        }
        let length = prost::encoding::message::encoded_len(LEVELLED_FIELD, self);
        let mut bytes = Vec::with_capacity(length);
        prost::encoding::message::encode(LEVELLED_FIELD, self, &mut bytes);
        bytes.into()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, UnreadableWrite> {
        let damaged = |error: prost::DecodeError| UnreadableWrite::Damaged(error.to_string());
        let is_levelled = bytes.first() == Some(&LEVELLED_KEY);
        let write = match is_levelled {
            true => LevelledWrite::decode(bytes).map_err(damaged)?.write.unwrap_or_default(),
            false => LoggedWrite::decode(bytes).map_err(damaged)?,
        };
        let LoggedWrite { commit, family, passes_time, access, .. } = &write;
        let kinds = [commit.is_some(), family.is_some(), *passes_time, access.is_some()];
        match kinds.into_iter().filter(|is_there| *is_there).count() {
            0 => Err(UnreadableWrite::Unknown),
            // A command that a later version knows.
            1 if access.as_ref().is_some_and(|change| change.command.is_none()) => Err(UnreadableWrite::Unknown),
            1 if is_levelled == (write.level() > LOWEST_LEVEL) => Ok(write),
            1 => Err(UnreadableWrite::Damaged("it has the form of another feature level".into())),
            _ => Err(UnreadableWrite::Damaged("it is several writes in one".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessCommand;
    use crate::{KeyRange, KeyRef, Mutation, MutationKind};

    /// This file never changes once its version is released. A later version adds a file of its
    /// own, and a test that reads it.
    const VERSION_1: &str = include_str!("fixtures/write_version_1.txt");
    /// The writes of feature level 2.
    const LEVEL_2: &str = include_str!("fixtures/write_level_2.txt");
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
        // Field 14, empty, and the same where a write above the first level stands.
        for unknown in [&[0x72, 0][..], &[0x7a, 2, 0x72, 0], &[0x7a, 0]] {
            assert_eq!(LoggedWrite::from_bytes(Bytes::copy_from_slice(unknown)), Err(UnreadableWrite::Unknown));
        }
        let later = LoggedWrite::access(AccessChange { command: None }, 5);
        assert_eq!(LoggedWrite::from_bytes(later.to_bytes()), Err(UnreadableWrite::Unknown), "an unknown command");
    }

    fn authority() -> WriteAuthority {
        WriteAuthority { user: "ann".into(), revision: 7, token: 0x0123_4567_89ab_cdef, roles: vec!["eu".into()] }
    }

    fn writes_2() -> Vec<LoggedWrite> {
        let commit = LoggedWrite::commit(AtomicCommit::of(vec![Mutation::set("k", "v")])).within(90_000);
        let family = LoggedWrite::family(FamilyChange { name: "made".into(), drop: false });
        let access = LoggedWrite::access(AccessCommand::RevokeToken(9).into(), 1_700_000_000_000_000);
        let all = [commit, family, access.clone(), LoggedWrite::clock_tick()];
        all.into_iter().map(|write| write.on_behalf_of(Some(authority()))).chain([access]).collect()
    }

    #[test]
    fn a_write_of_level_2_is_read_and_written_as_it_was() {
        let written: Vec<String> = writes_2().iter().map(|write| hex(&write.to_bytes())).collect();
        assert_eq!(lines(LEVEL_2), written, "they are written differently");
        lines(LEVEL_2).into_iter().zip(writes_2()).for_each(|(line, write)| check(line, write));
    }

    /// The part of a write that a program without levels reads.
    #[derive(Clone, PartialEq, Message)]
    struct FirstLevel {
        #[prost(message, optional, tag = "1")]
        commit: Option<AtomicCommit>,
        #[prost(message, optional, tag = "2")]
        family: Option<FamilyChange>,
        #[prost(bool, tag = "5")]
        passes_time: bool,
    }

    #[test]
    fn programs_without_levels_find_nothing_in_a_write_of_level_2() {
        for write in writes_2() {
            assert_eq!(write.level(), 2);
            assert_eq!(FirstLevel::decode(write.to_bytes()), Ok(FirstLevel::default()));
        }
    }

    #[test]
    fn a_write_has_the_form_of_its_level() {
        let plain = LoggedWrite::commit(AtomicCommit::default());
        assert_eq!(plain.level(), 1);
        let wrapped = LevelledWrite { write: Some(plain) }.encode_to_vec();
        assert!(matches!(LoggedWrite::from_bytes(wrapped.into()), Err(UnreadableWrite::Damaged(_))));
        let bare = writes_2().remove(0).encode_to_vec();
        assert!(matches!(LoggedWrite::from_bytes(bare.into()), Err(UnreadableWrite::Damaged(_))));
        let two = LoggedWrite { passes_time: true, ..writes_2().remove(2) };
        assert!(matches!(LoggedWrite::from_bytes(two.to_bytes()), Err(UnreadableWrite::Damaged(_))));
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
