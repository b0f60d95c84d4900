//! What clients do: operations as commits and reads of the key-value database, and what their rows mean.
//!
//! Every commit, whatever it is for, also pushes its own number into a *journal* under a versionstamped key. So the
//! database itself tells, at any time, which commits took effect, how often, and in which order.

use bytes::Bytes;
use kv_api::{AtomicCommit, KeyRange, KeyRef, Mutation, MutationKind, RangeQuery, Row};

use super::random::Random;

/// Names one try of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Write,
    Read,
    CompareAndSet,
    /// Reads and appends to lists in one transaction.
    Lists,
    ReadLists,
    Transfer,
    /// All balances, by ranges, at one version.
    Audit,
    Push,
    Scan,
    Pop,
    /// A register as it was at a version seen before.
    Snapshot,
    /// Nothing but its row in the journal.
    Note,
}

impl Kind {
    /// What clients choose from.
    pub const ALL: [Kind; 11] = [
        Kind::Write,
        Kind::Read,
        Kind::CompareAndSet,
        Kind::Lists,
        Kind::ReadLists,
        Kind::Transfer,
        Kind::Audit,
        Kind::Push,
        Kind::Scan,
        Kind::Pop,
        Kind::Snapshot,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Read => "read",
            Kind::CompareAndSet => "compare-and-set",
            Kind::Lists => "list transaction",
            Kind::ReadLists => "list read",
            Kind::Transfer => "transfer",
            Kind::Audit => "audit",
            Kind::Push => "push",
            Kind::Scan => "scan",
            Kind::Pop => "pop",
            Kind::Snapshot => "snapshot read",
            Kind::Note => "note",
        }
    }

    pub fn is_read_only(self) -> bool {
        matches!(self, Kind::Read | Kind::ReadLists | Kind::Audit | Kind::Scan | Kind::Snapshot)
    }

    /// Begins with a commit: reads nothing first.
    pub fn is_blind(self) -> bool {
        matches!(self, Kind::Write | Kind::Push | Kind::Note)
    }
}

/// How clients behave in one run.
#[derive(Clone, Debug)]
pub struct Habits {
    pub clients: usize,
    /// The longest pause between two operations.
    pub pause_us: u64,
    /// The longest that a client waits for a step.
    pub patience_us: u64,
    pub registers: u64,
    pub lists: u64,
    pub accounts: u64,
    /// How often each kind is chosen.
    weights: Vec<(Kind, u64)>,
    /// One in so many steps goes to another node than the one before.
    pub wander: u64,
    /// Extra bytes in a commit, at most.
    pub padding: u64,
}

impl Habits {
    pub fn any(random: &mut Random) -> Habits {
        let mut weights: Vec<(Kind, u64)> = Kind::ALL.iter().map(|kind| (*kind, random.pick(&[0, 1, 1, 3]))).collect();
        // Something must be written and something read, or nothing can be wrong.
        weights.extend([(Kind::Write, 1), (Kind::Read, 1)]);
        Habits {
            clients: random.between(2, 6) as usize,
            pause_us: random.pick(&[50_000, 400_000, 800_000, 1_500_000, 2_000_000, 2_000_000]),
            patience_us: random.pick(&[20_000, 300_000, 2_000_000, 6_000_000]),
            registers: random.between(1, 4),
            lists: random.between(1, 3),
            accounts: random.between(2, 5),
            weights,
            wander: random.pick(&[0, 2, 10]),
            padding: random.pick(&[0, 0, 60, 400]),
        }
    }

    /// Few and patient clients that do a little of everything.
    pub fn calm() -> Habits {
        Habits {
            clients: 3,
            pause_us: 60_000,
            patience_us: 6_000_000,
            registers: 3,
            lists: 2,
            accounts: 3,
            weights: Kind::ALL.iter().map(|kind| (*kind, 1)).collect(),
            wander: 5,
            padding: 50,
        }
    }

    pub fn choose(&self, random: &mut Random) -> Kind {
        let sum: u64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut left = random.below(sum);
        for (kind, weight) in &self.weights {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        Kind::Write
    }
}

pub const BANK: &str = "bank";
/// All families in use.
pub const FAMILIES: [&str; 2] = ["", BANK];
/// What an account holds before anything was written to it.
pub const INITIAL_BALANCE: i64 = 100;

pub fn register(key: u64) -> KeyRef {
    KeyRef::new(format!("r/{key}"))
}

pub fn list(key: u64) -> KeyRef {
    KeyRef::new(format!("l/{key}"))
}

pub fn account(key: u64) -> KeyRef {
    KeyRef { key: format!("a/{key}").into(), column_family: BANK.into() }
}

/// All rows whose keys begin with `prefix`, which is one byte.
pub fn all_with(prefix: u8, family: &str) -> RangeQuery {
    let (begin, end) = (Bytes::copy_from_slice(&[prefix]), Bytes::copy_from_slice(&[prefix + 1]));
    RangeQuery { column_family: family.into(), max_bytes: 1 << 30, ..RangeQuery::between(begin, end) }
}

pub const JOURNAL: u8 = b'j';
pub const QUEUE: u8 = b'q';

pub fn number(value: &Bytes) -> u64 {
    u64::from_be_bytes(value.as_ref().try_into().expect("the value is a number"))
}

pub fn list_of(value: Option<&Bytes>) -> Vec<u64> {
    let bytes = value.map_or(&[][..], |value| value.as_ref());
    assert!(bytes.len().is_multiple_of(8), "a list of {} bytes was never written", bytes.len());
    bytes.chunks(8).map(|item| u64::from_be_bytes(item.try_into().expect("eight bytes"))).collect()
}

pub fn balance_of(value: Option<&Bytes>) -> i64 {
    value.map_or(INITIAL_BALANCE, |value| number(value) as i64)
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

fn stamped_push(prefix: u8, element: u64, padding: usize) -> Mutation {
    let mut key = vec![prefix];
    key.resize(11, 0);
    let mut value = element.to_be_bytes().to_vec();
    value.resize(8 + padding, b'.');
    Mutation {
        kind: MutationKind::SetVersionstampedKey as i32,
        key: key.into(),
        value: value.into(),
        ..Mutation::default()
    }
}

/// What one try of a commit changes and depends on.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub read_version: u64,
    /// Read at that version; the commit must fail if one of them has changed.
    pub reads: Vec<KeyRef>,
    pub ranges: Vec<KeyRange>,
    pub writes: Vec<(KeyRef, Option<Bytes>)>,
    /// A new element of the queue.
    pub pushes: Option<u64>,
    pub padding: usize,
}

impl Change {
    pub fn write(mut self, key: KeyRef, value: u64) -> Change {
        self.writes.push((key, Some(Bytes::copy_from_slice(&value.to_be_bytes()))));
        self
    }

    /// With the journal's row as the first stamped one, the queue's as the second.
    pub fn commit(&self, op: OpId) -> AtomicCommit {
        let mut mutations = vec![stamped_push(JOURNAL, op.0, self.padding)];
        mutations.extend(self.pushes.map(|element| stamped_push(QUEUE, element, 0)));
        for (key, value) in &self.writes {
            let mutation = match value {
                Some(value) => Mutation::set(key.key.clone(), value.clone()),
                None => Mutation::delete(key.key.clone()),
            };
            mutations.push(Mutation { column_family: key.column_family.clone(), ..mutation });
        }
        // Keys of the default family go by the older field, which names no family.
        let (plain, named): (Vec<&KeyRef>, Vec<&KeyRef>) =
            self.reads.iter().partition(|key| key.column_family.is_empty());
        AtomicCommit {
            read_version: self.read_version,
            mutations,
            read_conflict_keys: plain.into_iter().map(|key| key.key.clone()).collect(),
            read_conflicts: named.into_iter().cloned().collect(),
            read_conflict_ranges: self.ranges.clone(),
            ..AtomicCommit::default()
        }
    }
}
