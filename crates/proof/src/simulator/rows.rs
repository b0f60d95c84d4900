//! The meaning of rows: keys, encoding of values, and the commits that clients make of them.

use bytes::Bytes;
use kv_api::access::{AccessChange, WriteAuthority};
use kv_api::{AtomicCommit, FamilyChange, KeyRange, KeyRef, LoggedWrite, Mutation, MutationKind, RangeQuery, Row};

use super::workload::OpId;

pub const BANK: &str = "bank";
/// A family that comes and goes.
pub const SCRATCH: &str = "scratch";

/// The balance of an account before the first write to it.
pub const INITIAL_BALANCE: i64 = 100;

/// The last of all keys, so that everything else is one range before it.
pub const JOURNAL: u8 = b'z';
pub const QUEUE: u8 = b'q';
pub const ACCOUNTS: u8 = b'a';
/// Whose sum is always zero.
pub const LEDGER: u8 = b'b';
pub const LISTS: u8 = b'l';
/// Of which there is never more than one.
pub const CLAIMS: u8 = b'p';
pub const REGISTERS: u8 = b'r';
/// Scratch keys.
pub const SCRATCH_KEYS: u8 = b'x';

fn keyed(prefix: u8, key: u64) -> KeyRef {
    KeyRef::new(format!("{}/{key}", prefix as char))
}

pub fn register(key: u64) -> KeyRef {
    keyed(REGISTERS, key)
}

pub fn list(key: u64) -> KeyRef {
    keyed(LISTS, key)
}

pub fn claim(key: u64) -> KeyRef {
    keyed(CLAIMS, key)
}

pub fn account(key: u64) -> KeyRef {
    KeyRef { column_family: BANK.into(), ..keyed(ACCOUNTS, key) }
}

pub fn ledger(key: u64) -> KeyRef {
    keyed(LEDGER, key)
}

/// The key that a commit without reads names as read, so that it fails when it is too old.
pub fn guard() -> KeyRef {
    KeyRef::new("g")
}

/// The number of a key that [`account`] or [`ledger`] made.
pub fn key_number(key: &[u8]) -> u64 {
    std::str::from_utf8(&key[2..]).ok().and_then(|text| text.parse().ok()).expect("a key with a number")
}

pub fn query(begin: impl Into<Bytes>, end: impl Into<Bytes>, family: &str) -> RangeQuery {
    let between = RangeQuery::between(begin.into(), end.into());
    RangeQuery { column_family: family.into(), max_bytes: 1 << 30, ..between }
}

/// All rows whose keys begin with `prefix`.
pub fn all_with(prefix: u8, family: &str) -> RangeQuery {
    query(vec![prefix], vec![prefix + 1], family)
}

pub fn range_of(query: &RangeQuery) -> KeyRange {
    KeyRange { begin: query.begin.clone(), end: query.end.clone(), column_family: query.column_family.clone() }
}

pub fn number(value: &Bytes) -> u64 {
    u64::from_be_bytes(value.as_ref().try_into().expect("the value is a number"))
}

pub fn encoded(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

pub fn encoded_list(items: &[u64]) -> Bytes {
    items.iter().flat_map(|item| item.to_be_bytes()).collect::<Vec<u8>>().into()
}

pub fn list_of(value: Option<&Bytes>) -> Vec<u64> {
    let bytes = value.map_or(&[][..], |value| value.as_ref());
    assert!(bytes.len().is_multiple_of(8), "a list of {} bytes was never written", bytes.len());
    bytes.chunks(8).map(|item| u64::from_be_bytes(item.try_into().expect("eight bytes"))).collect()
}

pub fn balance_of(value: Option<&Bytes>) -> i64 {
    value.map_or(INITIAL_BALANCE, |value| number(value) as i64)
}

/// Of the ledger, whose numbers are those of atomic additions.
pub fn amount_of(value: Option<&Bytes>) -> i64 {
    value.map_or(0, |value| i64::from_le_bytes(value.as_ref().try_into().expect("the value is an amount")))
}

/// Number and stamp of a row of the queue or the journal.
pub fn stamped(row: &Row) -> (u128, u64) {
    let stamp = row.key[1..].iter().fold(0, |sum: u128, byte| sum << 8 | u128::from(*byte));
    (stamp, number(&row.value.slice(..8)))
}

/// The version in a stamp.
pub fn version_of(stamp: u128) -> u64 {
    (stamp >> 16) as u64
}

pub fn mutation(kind: MutationKind, key: &KeyRef, value: impl Into<Bytes>) -> Mutation {
    Mutation {
        kind: kind as i32,
        key: key.key.clone(),
        value: value.into(),
        column_family: key.column_family.clone(),
        stamp_offset: None,
    }
}

pub fn cleared(range: KeyRange) -> Mutation {
    let KeyRange { begin, end, column_family } = range;
    mutation(MutationKind::ClearRange, &KeyRef { key: begin, column_family }, end)
}

/// A row under a versionstamped key.
pub fn pushed(prefix: u8, element: u64, padding: usize) -> Mutation {
    let mut key = vec![prefix];
    key.resize(11, 0);
    let mut value = element.to_be_bytes().to_vec();
    value.resize(8 + padding, b'.');
    mutation(MutationKind::SetVersionstampedKey, &KeyRef::new(key), value)
}

/// The changes and conflicts of a commit.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub read_version: u64,
    /// Read at that version; the commit must fail if one of them has changed.
    pub reads: Vec<KeyRef>,
    pub ranges: Vec<KeyRange>,
    pub mutations: Vec<Mutation>,
    pub padding: usize,
    /// In the place of a commit: that alone.
    pub family: Option<FamilyChange>,
    /// The same: a change of users and roles.
    pub access: Option<AccessChange>,
    /// The same: nothing but time.
    pub passes_time: bool,
}

impl Change {
    pub fn with(mut self, mutation: Mutation) -> Change {
        self.mutations.push(mutation);
        self
    }

    pub fn write(self, key: KeyRef, value: u64) -> Change {
        self.with(mutation(MutationKind::Set, &key, encoded(value)))
    }

    /// With the journal's row as the first stamped one.
    pub fn commit(&self, op: OpId) -> AtomicCommit {
        let journal = pushed(JOURNAL, op.0, self.padding);
        // Half of the keys of the default family go by the older field, which names no family.
        let is_plain = |key: &&KeyRef| key.column_family.is_empty() && op.0.is_multiple_of(2);
        let (plain, named): (Vec<&KeyRef>, Vec<&KeyRef>) = self.reads.iter().partition(is_plain);
        AtomicCommit {
            read_version: self.read_version,
            mutations: std::iter::once(journal).chain(self.mutations.iter().cloned()).collect(),
            read_conflict_keys: plain.into_iter().map(|key| key.key.clone()).collect(),
            read_conflicts: named.into_iter().cloned().collect(),
            read_conflict_ranges: self.ranges.clone(),
            ..AtomicCommit::default()
        }
    }
}

/// A write as a server with this readable window puts it into the log, on this authority; its configuration lists
/// [`BANK`].
pub fn logged(write: &LoggedWrite, window_ms: u64, authority: Option<WriteAuthority>) -> Bytes {
    let creates = if write.commit.is_some() { vec![BANK.into()] } else { Vec::new() };
    LoggedWrite { creates, authority, ..write.clone() }.within(window_ms).to_bytes()
}
