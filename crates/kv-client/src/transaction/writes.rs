//! What a transaction wants to write: the mutations for its commit, and what they make of the keys that it reads.
//!
//! Mutations keep the order in which they were asked for. One that a later set, delete or clear of the same key made
//! pointless is dropped, so that a transaction is no larger than what it changes.
//!
//! Invariants: every entry of `KeyWrites::log` is in `Writes::log`; a key whose base is the database lies in no cleared
//! range; a cleared range hides everything that the database holds in it, and `keys` has what was written there since.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};

use bytes::Bytes;
use kv_api::{Mutation, MutationKind, Version, atomic};

use crate::keys::key_after;
use crate::stamped::{Stamped, VERSIONSTAMP_BYTES, first_stamp_after};
use crate::transaction::range_set::RangeSet;

/// What local writes say about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// All of it; `None`: the key does not exist.
    Known(Option<Bytes>),
    /// It gets a versionstamp that only the commit will know.
    Unreadable,
    /// These operations, in order, on what the database holds; often none.
    OnDatabase(Vec<(MutationKind, Bytes)>),
}

#[derive(Clone, Debug)]
pub(crate) struct KeyWrites {
    local: Local,
    /// The mutations of this key in the log.
    log: Vec<u64>,
}

impl KeyWrites {
    /// Whether the database has no part in the key's value.
    pub fn is_independent(&self) -> bool {
        !matches!(self.local, Local::OnDatabase(_))
    }

    /// The key's value, given what the database holds.
    pub fn value(&self, database: Option<Bytes>) -> Result<Option<Bytes>, Unreadable> {
        match &self.local {
            Local::Known(value) => Ok(value.clone()),
            Local::Unreadable => Err(Unreadable),
            Local::OnDatabase(operations) => Ok(atomic::apply_all(operations, database)),
        }
    }
}

/// The writes to one column family.
#[derive(Clone, Debug)]
pub(crate) struct FamilyWrites {
    keys: BTreeMap<Bytes, KeyWrites>,
    cleared: RangeSet,
    /// Clears that are in the log: begin and place there, end.
    clears: BTreeMap<(Bytes, u64), Bytes>,
    stamped: BTreeSet<Stamped>,
    /// Where the keys of `stamped` may come to lie.
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

    /// Whether a key that only the commit will know may lie in `begin <= key < end`.
    pub fn is_unreadable(&self, begin: &[u8], end: &[u8]) -> bool {
        self.unreadable.intersects(begin, end)
    }

    fn note_unreadable(&mut self, key: &Stamped, read_version: Version) {
        let lowest = key.with_stamp(&first_stamp_after(read_version));
        let highest = key.with_stamp(&[0xFF; VERSIONSTAMP_BYTES]);
        self.unreadable.insert(lowest, key_after(&highest));
    }

    /// A stamped key that comes to lie in this range, wherever that is, was cleared.
    fn forget_stamped(&mut self, begin: &[u8], end: &[u8], read_version: Version) {
        let is_within = |key: &Stamped| {
            let lowest = key.with_stamp(&first_stamp_after(read_version));
            begin <= &lowest[..] && &key.with_stamp(&[0xFF; VERSIONSTAMP_BYTES])[..] < end
        };
        self.stamped.retain(|key| !is_within(key));
        self.find_unreadable(read_version);
    }

    fn find_unreadable(&mut self, read_version: Version) {
        self.unreadable = RangeSet::new();
        for key in std::mem::take(&mut self.stamped) {
            self.note_unreadable(&key, read_version);
            self.stamped.insert(key);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Writes {
    families: BTreeMap<String, FamilyWrites>,
    log: BTreeMap<u64, Mutation>,
    next: u64,
    size_bytes: usize,
    /// The commit comes after this version: what is known of the stamps that it will give.
    read_version: Version,
}

impl Writes {
    pub fn new() -> Self {
        Writes { families: BTreeMap::new(), log: BTreeMap::new(), next: 0, size_bytes: 0, read_version: Version(0) }
    }

    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Keys and values: what the server's limit counts.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The mutations in their order.
    pub fn mutations(&self) -> Vec<Mutation> {
        self.log.values().cloned().collect()
    }

    pub fn family(&self, name: &str) -> &FamilyWrites {
        self.families.get(name).unwrap_or(FamilyWrites::NONE)
    }

    /// What the writes say about one key.
    pub fn local(&self, family: &str, key: &[u8]) -> Local {
        let writes = self.family(family);
        let is_in_doubt = writes.is_unreadable(key, &key_after(key))
            && writes.stamped.iter().any(|stamped| stamped.may_become(key, self.read_version));
        match writes.keys.get(key) {
            _ if is_in_doubt => Local::Unreadable,
            Some(found) => found.local.clone(),
            None if writes.cleared.holding(key).is_some() => Local::Known(None),
            None => Local::OnDatabase(Vec::new()),
        }
    }

    pub fn set_read_version(&mut self, version: Version) {
        self.read_version = version;
        self.families.values_mut().for_each(|family| family.find_unreadable(version));
    }

    pub fn set(&mut self, family: &str, key: Bytes, value: Bytes) {
        let mutation = Mutation::set(key, value.clone());
        self.replace(family, mutation, Local::Known(Some(value)));
    }

    pub fn delete(&mut self, family: &str, key: Bytes) {
        self.replace(family, Mutation::delete(key), Local::Known(None));
    }

    pub fn set_stamped_value(&mut self, family: &str, key: Bytes, value: Stamped) {
        let mutation = Mutation {
            kind: MutationKind::SetVersionstampedValue as i32,
            key,
            value: value.bytes,
            stamp_offset: Some(value.offset as u32),
            ..Mutation::default()
        };
        self.replace(family, mutation, Local::Unreadable);
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
        writes.note_unreadable(&key, read_version);
        writes.stamped.insert(key);
    }

    pub fn atomic(&mut self, family: &str, kind: MutationKind, key: Bytes, operand: Bytes) {
        let (value, column_family) = (operand.clone(), family.to_string());
        let place =
            self.append(Mutation { kind: kind as i32, key: key.clone(), value, column_family, ..Mutation::default() });
        let writes = self.family_mut(family);
        let is_cleared = writes.cleared.holding(&key).is_some();
        let found = writes.keys.entry(key).or_insert_with(|| {
            let local = if is_cleared { Local::Known(None) } else { Local::OnDatabase(Vec::new()) };
            KeyWrites { local, log: Vec::new() }
        });
        found.log.push(place);
        match &mut found.local {
            Local::Known(value) => *value = atomic::apply(kind, value.take(), &operand),
            Local::OnDatabase(operations) => operations.push((kind, operand)),
            Local::Unreadable => {}
        }
    }

    pub fn clear_range(&mut self, family: &str, begin: Bytes, end: Bytes) {
        if begin >= end {
            return;
        }
        let read_version = self.read_version;
        let writes = self.family_mut(family);
        let mut pointless = Vec::new();
        while let Some(key) = writes.first_key(&begin, &end).map(|(key, _)| key.clone()) {
            pointless.extend(writes.keys.remove(&key).into_iter().flat_map(|found| found.log));
        }
        let inner =
            writes.clears.range((begin.clone(), 0)..(end.clone(), 0)).filter(|(_, inner_end)| **inner_end <= end);
        let inner: Vec<(Bytes, u64)> = inner.map(|(place, _)| place.clone()).collect();
        for place in inner {
            writes.clears.remove(&place);
            pointless.push(place.1);
        }
        writes.cleared.insert(begin.clone(), end.clone());
        writes.forget_stamped(&begin, &end, read_version);
        pointless.into_iter().for_each(|place| self.drop_from_log(place));
        let place = self.append(Mutation {
            kind: MutationKind::ClearRange as i32,
            key: begin.clone(),
            value: end.clone(),
            column_family: family.to_string(),
            ..Mutation::default()
        });
        self.family_mut(family).clears.insert((begin, place), end);
    }

    /// A mutation after which it does not matter what the key held before.
    fn replace(&mut self, family: &str, mutation: Mutation, local: Local) {
        let key = mutation.key.clone();
        let place = self.append(Mutation { column_family: family.to_string(), ..mutation });
        let written = KeyWrites { local, log: vec![place] };
        if let Some(before) = self.family_mut(family).keys.insert(key, written) {
            before.log.into_iter().for_each(|place| self.drop_from_log(place));
        }
    }

    fn append(&mut self, mutation: Mutation) -> u64 {
        let place = self.next;
        self.next += 1;
        self.size_bytes += size_of(&mutation);
        self.log.insert(place, mutation);
        place
    }

    fn drop_from_log(&mut self, place: u64) {
        let dropped = self.log.remove(&place).expect("what a key names is in the log");
        self.size_bytes -= size_of(&dropped);
    }

    fn family_mut(&mut self, name: &str) -> &mut FamilyWrites {
        if !self.families.contains_key(name) {
            self.families.insert(name.to_string(), FamilyWrites::NONE.clone());
        }
        self.families.get_mut(name).expect("inserted where it was missing")
    }
}

/// The key gets a versionstamp that only the commit will know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

fn size_of(mutation: &Mutation) -> usize {
    mutation.key.len() + mutation.value.len()
}
