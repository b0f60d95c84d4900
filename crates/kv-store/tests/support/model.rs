//! A naive model of the database: every version of every key in a map, and every question answered
//! by looking at all of them. Also random logs and queries to compare it with the real one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kv_api::{
    AtomicCommit, CommitResult, CommitVerdict, KeyRange, KeyRef, KeySelector, KvError, Mutation, MutationKind,
    RangeQuery, Row, Rows,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub const FAMILIES: [&str; 3] = ["", "f", "fg"];

/// The versions of one key, oldest first; `None` is a tombstone.
type Versions = Vec<(u64, Option<Bytes>)>;

#[derive(Default)]
pub struct Model {
    /// By family and key.
    rows: BTreeMap<(String, Bytes), Versions>,
    commits: u64,
}

impl Model {
    pub fn version(&self) -> u64 {
        1 + self.commits
    }

    pub fn get(&self, key: &KeyRef, version: u64) -> Option<Bytes> {
        let versions = self.rows.get(&(key.column_family.clone(), key.key.clone()))?;
        versions.iter().rev().find(|(written, _)| *written <= version)?.1.clone()
    }

    pub fn visible(&self, family: &str, version: u64) -> Vec<Row> {
        let keys = self.rows.keys().filter(|(of, _)| of == family).map(|(_, key)| key);
        keys.filter_map(|key| {
            let value = self.get(&KeyRef { key: key.clone(), column_family: family.into() }, version)?;
            Some(Row { key: key.clone(), value })
        })
        .collect()
    }

    pub fn total_rows(&self) -> u64 {
        FAMILIES.iter().map(|family| self.visible(family, self.version()).len() as u64).sum()
    }

    pub fn keys(&self) -> impl Iterator<Item = KeyRef> {
        self.rows.keys().map(|(family, key)| KeyRef { key: key.clone(), column_family: family.clone() })
    }

    pub fn range(&self, query: &RangeQuery, version: u64) -> Result<Rows, KvError> {
        answer(&self.visible(&query.column_family, version), query)
    }

    /// Decides a commit. Supports only what the random logs contain.
    pub fn commit(&mut self, commit: &AtomicCommit) -> CommitVerdict {
        if commit.mutations.is_empty() {
            return Ok(CommitResult { version: commit.read_version, ..CommitResult::default() });
        }
        if commit.has_read_conflicts() {
            self.check_conflicts(commit)?;
        }
        self.commits += 1;
        let mut result = CommitResult { version: self.version(), ..CommitResult::default() };
        let mut writes = BTreeMap::new();
        for mutation in &commit.mutations {
            let number = (result.generated_keys.len() + result.generated_values.len()) as u16;
            let stamp = [&result.version.to_be_bytes()[..], &number.to_be_bytes()].concat();
            let stamped = |buffer: &Bytes| Bytes::from([&buffer[..buffer.len() - 10], &stamp].concat());
            let (key, value) = match mutation.kind() {
                MutationKind::Set => (mutation.key.clone(), Some(mutation.value.clone())),
                MutationKind::Delete => (mutation.key.clone(), None),
                MutationKind::SetVersionstampedKey => {
                    result.generated_keys.push(stamped(&mutation.key));
                    (stamped(&mutation.key), Some(mutation.value.clone()))
                }
                MutationKind::SetVersionstampedValue => {
                    result.generated_values.push(stamped(&mutation.value));
                    (mutation.key.clone(), Some(stamped(&mutation.value)))
                }
                other => panic!("the random logs hold no {other:?}"),
            };
            writes.insert((mutation.column_family.clone(), key), value);
        }
        for (key, value) in writes {
            self.rows.entry(key).or_default().push((result.version, value));
        }
        Ok(result)
    }

    fn check_conflicts(&self, commit: &AtomicCommit) -> Result<(), KvError> {
        let (read_version, current) = (commit.read_version, self.version());
        if read_version > current {
            return Err(KvError::FutureVersion { read_version, current });
        }
        let was_read = |family: &str, key: &Bytes| {
            commit.read_conflict_keys.contains(key)
                || commit.read_conflicts.iter().any(|read| read.column_family == family && read.key == *key)
                || commit
                    .read_conflict_ranges
                    .iter()
                    .any(|range| range.column_family == family && range.begin <= *key && *key < range.end)
        };
        let keys: BTreeSet<KeyRef> = self
            .rows
            .iter()
            .filter(|((family, key), _)| was_read(family, key))
            .filter(|(_, versions)| versions.last().is_some_and(|(newest, _)| *newest > read_version))
            .map(|((family, key), _)| KeyRef { key: key.clone(), column_family: family.clone() })
            .collect();
        if keys.is_empty() { Ok(()) } else { Err(KvError::Conflict { keys: keys.into_iter().collect() }) }
    }
}

/// The answer to a query, from all rows of its family.
pub fn answer(family: &[Row], query: &RangeQuery) -> Result<Rows, KvError> {
    let begin = place(family, &query.begin, query.begin_selector.as_ref());
    let end = place(family, &query.end, query.end_selector.as_ref());
    let mut all = family[begin.min(end)..end].to_vec();
    if query.reverse {
        all.reverse();
    }
    let all = all.split_off((query.skip as usize).min(all.len()));
    let size = |rows: &[Row]| rows.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>() as u64;
    let mut taken = 0;
    while taken < all.len() {
        let full = query.target_bytes.is_some_and(|target| size(&all[..taken]) >= target) && taken > 0;
        if query.limit.is_some_and(|limit| taken as u64 >= limit) || full {
            break;
        }
        if size(&all[..=taken]) + 16 * (taken as u64 + 1) > query.max_bytes {
            if query.target_bytes.is_some() && taken > 0 {
                break;
            }
            return Err(KvError::ResultTooLarge { limit: query.max_bytes });
        }
        taken += 1;
    }
    Ok(Rows { has_more: taken < all.len(), rows: all[..taken].to_vec() })
}

/// The number of rows before a bound of a range.
fn place(rows: &[Row], key: &Bytes, selector: Option<&KeySelector>) -> usize {
    let Some(KeySelector { key, or_equal, offset }) = selector else {
        return rows.iter().filter(|row| row.key < *key).count();
    };
    let before = rows.iter().filter(|row| row.key < *key || (*or_equal && row.key == *key)).count();
    (before as i64 - 1 + i64::from(*offset)).clamp(0, rows.len() as i64) as usize
}

/// Few short keys, rich in special bytes and in prefixes of each other, so that random operations
/// collide.
pub fn key() -> impl Strategy<Value = Bytes> {
    vec(prop_oneof![Just(0x00), Just(0xff), Just(b'a')], 1..4).prop_map(Bytes::from)
}

fn family() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(FAMILIES[0]), 1 => Just(FAMILIES[1]), 1 => Just(FAMILIES[2])].prop_map(str::to_owned)
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let kind = prop_oneof![
        40 => Just(MutationKind::Set),
        20 => Just(MutationKind::Delete),
        4 => Just(MutationKind::SetVersionstampedKey),
        4 => Just(MutationKind::SetVersionstampedValue),
    ];
    (kind, key(), vec(any::<u8>(), 0..6), family()).prop_map(|(kind, key, value, column_family)| {
        let with_room = |bytes: &[u8]| Bytes::from([bytes, &[0; 10]].concat());
        let (key, value) = match kind {
            MutationKind::SetVersionstampedKey => (with_room(&key), value.into()),
            MutationKind::SetVersionstampedValue => (key, with_room(&value)),
            _ => (key, value.into()),
        };
        Mutation { kind: kind as i32, key, value, column_family, stamp_offset: None }
    })
}

/// A commit, and how many versions its read version is before the newest one when it is decided.
fn commit_and_age() -> impl Strategy<Value = (AtomicCommit, u64)> {
    let key_ref = (key(), family()).prop_map(|(key, column_family)| KeyRef { key, column_family });
    let range = (key(), key(), family()).prop_map(|(begin, end, column_family)| KeyRange { begin, end, column_family });
    let age = prop_oneof![3 => 0..4_u64, 1 => 0..60_u64];
    (vec(mutation(), 0..4), vec(key(), 0..2), vec(key_ref, 0..2), vec(range, 0..2), age).prop_map(
        |(mutations, read_conflict_keys, read_conflicts, read_conflict_ranges, age)| {
            let commit = AtomicCommit {
                read_conflict_keys,
                read_conflicts,
                read_conflict_ranges,
                ..AtomicCommit::of(mutations)
            };
            (commit, age)
        },
    )
}

/// A log of commits, the verdicts of the model, and the model after it.
pub struct Log {
    pub commits: Vec<AtomicCommit>,
    pub verdicts: Vec<CommitVerdict>,
    pub model: Model,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.commits.iter().zip(&self.verdicts)).finish()
    }
}

pub fn log(most_commits: usize) -> impl Strategy<Value = Log> {
    vec(commit_and_age(), 1..most_commits).prop_map(|commits| {
        let mut log = Log { commits: vec![], verdicts: vec![], model: Model::default() };
        for (mut commit, age) in commits {
            // An age of 0 is a version that does not exist yet.
            commit.read_version = (log.model.version() + 1).saturating_sub(age).max(1);
            log.verdicts.push(log.model.commit(&commit));
            log.commits.push(commit);
        }
        log
    })
}

fn selector() -> impl Strategy<Value = KeySelector> {
    let key = prop_oneof![4 => key(), 1 => Just(Bytes::new()), 1 => Just(Bytes::from_static(&[0xff; 20]))];
    let offset = prop_oneof![6 => -3..5_i32, 1 => prop_oneof![Just(-100_000), Just(100_000)]];
    (key, any::<bool>(), offset).prop_map(|(key, or_equal, offset)| KeySelector { key, or_equal, offset })
}

pub fn range_query() -> impl Strategy<Value = RangeQuery> {
    let selectors = (option::weighted(0.4, selector()), option::weighted(0.4, selector()));
    let end = prop_oneof![key(), Just(Bytes::from_static(&[0xff; 20]))];
    let begin = prop_oneof![key(), Just(Bytes::new())];
    let max_bytes = prop_oneof![5 => Just(1 << 20), 1 => 0..200_u64];
    let terms = (0..4_u64, option::of(0..6_u64), any::<bool>(), option::of(0..40_u64), max_bytes);
    ((begin, end), selectors, family(), terms).prop_map(
        |(
            (begin, end),
            (begin_selector, end_selector),
            column_family,
            (skip, limit, reverse, target_bytes, max_bytes),
        )| RangeQuery {
            begin,
            end,
            begin_selector,
            end_selector,
            column_family,
            skip,
            limit,
            reverse,
            target_bytes,
            max_bytes,
        },
    )
}
