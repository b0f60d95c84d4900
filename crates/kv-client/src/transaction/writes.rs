//! The writes of a transaction: the mutations for its commit, and their effect on the keys that the
//! transaction reads.
//!
//! Mutations keep the order of the calls. A mutation that a later set, delete or clear of the same
//! key made redundant is dropped, so that a transaction is no larger than its effect.
//!
//! Invariants:
//! - Every entry of `KeyWrites::log` is in `Writes::log`.
//! - A key whose value depends on the database lies in no cleared range.
//! - A cleared range hides everything that the database has in it, and `keys` contains everything
//!   that was written there since.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;
use kv_api::{Mutation, MutationKind, Version, atomic};

use super::range_set::RangeSet;
use crate::keys::key_after;
use crate::stamped::{Stamped, VERSIONSTAMP_BYTES, first_stamp_after};

/// What local writes determine about the value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LocalValue {
    /// The whole value; `None` if the key does not exist.
    Known(Option<Bytes>),
    /// The key or its value will contain a versionstamp, which is unknown until the commit.
    Unreadable,
    /// The result of these operations, in this order, on the value in the database. Often there are
    /// none.
    Operations(Vec<(MutationKind, Bytes)>),
}

/// The writes to one key.
#[derive(Clone, Debug)]
pub(crate) struct KeyWrites {
    local: LocalValue,
    /// The positions of this key's mutations in `Writes::log`.
    log: Vec<u64>,
}

impl KeyWrites {
    /// Whether the key's value does not depend on the database.
    pub fn is_independent(&self) -> bool {
        !matches!(self.local, LocalValue::Operations(_))
    }

    /// The key's value, given the value in the database.
    pub fn value(&self, database: Option<Bytes>) -> Result<Option<Bytes>, Unreadable> {
        match &self.local {
            LocalValue::Known(value) => Ok(value.clone()),
            LocalValue::Unreadable => Err(Unreadable),
            LocalValue::Operations(operations) => Ok(atomic::apply_all(operations, database)),
        }
    }
}

/// The writes to one column family.
#[derive(Clone, Debug)]
pub(crate) struct FamilyWrites {
    keys: BTreeMap<Bytes, KeyWrites>,
    cleared: RangeSet,
    /// The clears in `Writes::log`: from their begin and position in the log to their end.
    clears: BTreeMap<(Bytes, u64), Bytes>,
    /// Keys that will contain a versionstamp.
    stamped: BTreeSet<Stamped>,
    /// The ranges in which the keys of `stamped` may end up.
    unreadable: RangeSet,
}

impl FamilyWrites {
    pub const NONE: &FamilyWrites = &FamilyWrites {
        keys: BTreeMap::new(),
        cleared: RangeSet::new(),
        clears: BTreeMap::new(),
        stamped: BTreeSet::new(),
        unreadable: RangeSet::new(),
    };

    pub fn key(&self, key: &[u8]) -> Option<&KeyWrites> {
        self.keys.get(key)
    }

    /// The first key in `begin <= key < end` that was written to.
    pub fn first_key(&self, begin: &[u8], end: &[u8]) -> Option<(&Bytes, &KeyWrites)> {
        if begin >= end {
            return None;
        }
        self.keys.range::<[u8], _>((Included(begin), Excluded(end))).next()
    }

    /// The last key in `begin <= key < end` that was written to.
    pub fn last_key(&self, begin: &[u8], end: &[u8]) -> Option<(&Bytes, &KeyWrites)> {
        if begin >= end {
            return None;
        }
        self.keys.range::<[u8], _>((Included(begin), Excluded(end))).next_back()
    }

    pub fn cleared(&self) -> &RangeSet {
        &self.cleared
    }

    /// Whether a versionstamped key may end up in `begin <= key < end`.
    pub fn is_unreadable(&self, begin: &[u8], end: &[u8]) -> bool {
        self.unreadable.intersects(begin, end)
    }

    fn add_unreadable(&mut self, key: &Stamped, read_version: Version) {
        let lowest = key.with_stamp(&first_stamp_after(read_version));
        let highest = key.with_stamp(&[0xFF; VERSIONSTAMP_BYTES]);
        self.unreadable.insert(lowest, key_after(&highest));
    }

    /// Drops the stamped keys that end up in this cleared range no matter which stamp they get.
    fn forget_stamped(&mut self, begin: &[u8], end: &[u8], read_version: Version) {
        let is_within = |key: &Stamped| {
            let lowest = key.with_stamp(&first_stamp_after(read_version));
            begin <= &lowest[..] && &key.with_stamp(&[0xFF; VERSIONSTAMP_BYTES])[..] < end
        };
        self.stamped.retain(|key| !is_within(key));
        self.rebuild_unreadable(read_version);
    }

    fn rebuild_unreadable(&mut self, read_version: Version) {
        self.unreadable = RangeSet::new();
        for key in std::mem::take(&mut self.stamped) {
            self.add_unreadable(&key, read_version);
            self.stamped.insert(key);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Writes {
    families: BTreeMap<String, FamilyWrites>,
    /// All mutations of the commit, by position.
    log: BTreeMap<u64, Mutation>,
    /// The position of the next mutation.
    next: u64,
    size_bytes: usize,
    /// The commit comes after this version, which is a lower bound for the stamps that it assigns.
    read_version: Version,
}

impl Writes {
    pub fn new() -> Self {
        Writes { families: BTreeMap::new(), log: BTreeMap::new(), next: 0, size_bytes: 0, read_version: Version(0) }
    }

    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Size of keys and values, which is what the server's limit counts.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The mutations in the order of the calls.
    pub fn mutations(&self) -> Vec<Mutation> {
        self.log.values().cloned().collect()
    }

    pub fn family(&self, name: &str) -> &FamilyWrites {
        self.families.get(name).unwrap_or(FamilyWrites::NONE)
    }

    /// What the writes determine about one key.
    pub fn local(&self, family: &str, key: &[u8]) -> LocalValue {
        let writes = self.family(family);
        let may_be_stamped = writes.is_unreadable(key, &key_after(key))
            && writes.stamped.iter().any(|stamped| stamped.may_become(key, self.read_version));
        match writes.keys.get(key) {
            _ if may_be_stamped => LocalValue::Unreadable,
            Some(found) => found.local.clone(),
            None if writes.cleared.containing(key).is_some() => LocalValue::Known(None),
            None => LocalValue::Operations(Vec::new()),
        }
    }

    pub fn set_read_version(&mut self, version: Version) {
        self.read_version = version;
        self.families.values_mut().for_each(|family| family.rebuild_unreadable(version));
    }

    pub fn set(&mut self, family: &str, key: Bytes, value: Bytes) {
        let mutation = Mutation::set(key, value.clone());
        self.replace(family, mutation, LocalValue::Known(Some(value)));
    }

    pub fn delete(&mut self, family: &str, key: Bytes) {
        self.replace(family, Mutation::delete(key), LocalValue::Known(None));
    }

    pub fn set_stamped_value(&mut self, family: &str, key: Bytes, value: Stamped) {
        let mutation = Mutation {
            kind: MutationKind::SetVersionstampedValue as i32,
            key,
            value: value.bytes,
            stamp_offset: Some(value.offset as u32),
            ..Mutation::default()
        };
        self.replace(family, mutation, LocalValue::Unreadable);
    }

    pub fn set_stamped_key(&mut self, family: &str, key: Stamped, value: Bytes) {
        self.append(Mutation {
            kind: MutationKind::SetVersionstampedKey as i32,
            key: key.bytes.clone(),
            value,
            column_family: family.to_string(),
            stamp_offset: Some(key.offset as u32),
        });
        let read_version = self.read_version;
        let writes = self.family_mut(family);
        writes.add_unreadable(&key, read_version);
        writes.stamped.insert(key);
    }

    pub fn atomic(&mut self, family: &str, kind: MutationKind, key: Bytes, operand: Bytes) {
        let (value, column_family) = (operand.clone(), family.to_string());
        let position =
            self.append(Mutation { kind: kind as i32, key: key.clone(), value, column_family, ..Mutation::default() });
        let writes = self.family_mut(family);
        let is_cleared = writes.cleared.containing(&key).is_some();
        let found = writes.keys.entry(key).or_insert_with(|| {
            let local = if is_cleared { LocalValue::Known(None) } else { LocalValue::Operations(Vec::new()) };
            KeyWrites { local, log: Vec::new() }
        });
        found.log.push(position);
        match &mut found.local {
            LocalValue::Known(value) => *value = atomic::apply(kind, value.take(), &operand),
            LocalValue::Operations(operations) => operations.push((kind, operand)),
            LocalValue::Unreadable => {}
        }
    }

    pub fn clear_range(&mut self, family: &str, begin: Bytes, end: Bytes) {
        if begin >= end {
            return;
        }
        let read_version = self.read_version;
        let writes = self.family_mut(family);
        let mut redundant = Vec::new();
        while let Some(key) = writes.first_key(&begin, &end).map(|(key, _)| key.clone()) {
            redundant.extend(writes.keys.remove(&key).into_iter().flat_map(|found| found.log));
        }
        let inner =
            writes.clears.range((begin.clone(), 0)..(end.clone(), 0)).filter(|(_, inner_end)| **inner_end <= end);
        let inner: Vec<(Bytes, u64)> = inner.map(|(begin_and_position, _)| begin_and_position.clone()).collect();
        for clear in inner {
            writes.clears.remove(&clear);
            redundant.push(clear.1);
        }
        writes.cleared.insert(begin.clone(), end.clone());
        writes.forget_stamped(&begin, &end, read_version);
        redundant.into_iter().for_each(|position| self.drop_from_log(position));
        let position = self.append(Mutation {
            kind: MutationKind::ClearRange as i32,
            key: begin.clone(),
            value: end.clone(),
            column_family: family.to_string(),
            ..Mutation::default()
        });
        self.family_mut(family).clears.insert((begin, position), end);
    }

    /// Adds a mutation whose result does not depend on the key's previous value.
    fn replace(&mut self, family: &str, mutation: Mutation, local: LocalValue) {
        let key = mutation.key.clone();
        let position = self.append(Mutation { column_family: family.to_string(), ..mutation });
        let written = KeyWrites { local, log: vec![position] };
        if let Some(before) = self.family_mut(family).keys.insert(key, written) {
            before.log.into_iter().for_each(|position| self.drop_from_log(position));
        }
    }

    fn append(&mut self, mutation: Mutation) -> u64 {
        let position = self.next;
        self.next += 1;
        self.size_bytes += size_of(&mutation);
        self.log.insert(position, mutation);
        position
    }

    fn drop_from_log(&mut self, position: u64) {
        let dropped = self.log.remove(&position).expect("the log contains the mutations of every key");
        self.size_bytes -= size_of(&dropped);
    }

    fn family_mut(&mut self, name: &str) -> &mut FamilyWrites {
        if !self.families.contains_key(name) {
            self.families.insert(name.to_string(), FamilyWrites::NONE.clone());
        }
        self.families.get_mut(name).expect("inserted if it was missing")
    }
}

/// The key or its value will contain a versionstamp, which is unknown until the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

fn size_of(mutation: &Mutation) -> usize {
    mutation.key.len() + mutation.value.len()
}
