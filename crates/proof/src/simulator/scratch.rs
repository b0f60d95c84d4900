//! Scratch keys for random commits that exercise every operation, and reads of the past. Only the
//! [`super::oracle`] knows the required results.

use bytes::Bytes;
use kv_api::{KeyRange, KeyRef, KeySelector, Mutation, MutationKind, RangeQuery};

use super::operations::StateView;
use super::random::Random;
use super::records::{Observation, Seen};
use super::rows::{self, Change, SCRATCH, SCRATCH_KEYS, all_with, cleared, mutation, range_of};
use super::workload::WorkloadProfile;

const KINDS: [MutationKind; 16] = [
    MutationKind::Set,
    MutationKind::Delete,
    MutationKind::SetVersionstampedKey,
    MutationKind::SetVersionstampedValue,
    MutationKind::ClearRange,
    MutationKind::ClearRange,
    MutationKind::Add,
    MutationKind::Min,
    MutationKind::Max,
    MutationKind::ByteMin,
    MutationKind::ByteMax,
    MutationKind::BitAnd,
    MutationKind::BitOr,
    MutationKind::BitXor,
    MutationKind::AppendIfFits,
    MutationKind::CompareAndClear,
];

fn family(random: &mut Random) -> &'static str {
    if random.one_in(4) { SCRATCH } else { "" }
}

fn key(random: &mut Random, profile: &WorkloadProfile, family: &str) -> KeyRef {
    let key = format!("{}/{:02}", SCRATCH_KEYS as char, random.below(profile.scratch_keys));
    KeyRef { key: key.into(), column_family: family.into() }
}

/// Some of them, or all, or none at all.
fn range(random: &mut Random, profile: &WorkloadProfile, family: &str) -> KeyRange {
    if random.one_in(4) {
        return range_of(&all_with(SCRATCH_KEYS, family));
    }
    let (a, b) = (key(random, profile, family).key, key(random, profile, family).key);
    KeyRange { begin: a.clone().min(b.clone()), end: a.max(b), column_family: family.into() }
}

/// Few different ones, of few lengths.
fn operand(random: &mut Random) -> Bytes {
    let length = random.pick(&[0, 1, 1, 1, 2, 8]);
    (0..length).map(|_| random.pick(&[0, 1, 2, 0xff])).collect::<Vec<u8>>().into()
}

fn any_mutation(random: &mut Random, profile: &WorkloadProfile) -> Mutation {
    let kind = random.pick(&KINDS);
    let family = family(random);
    let key = key(random, profile, family);
    let placeholder = [0; 10];
    match kind {
        MutationKind::ClearRange => cleared(range(random, profile, family)),
        MutationKind::SetVersionstampedKey => {
            let (suffix, offset) = if random.one_in(2) { ("", None) } else { ("/end", Some(key.key.len() as u32)) };
            let stamped = [&key.key[..], &placeholder, suffix.as_bytes()].concat();
            let key = KeyRef { key: stamped.into(), ..key };
            Mutation { stamp_offset: offset, ..mutation(kind, &key, operand(random)) }
        }
        MutationKind::SetVersionstampedValue => {
            let (before, after) = (operand(random), operand(random));
            let offset = if after.is_empty() && random.one_in(2) { None } else { Some(before.len() as u32) };
            let value = [&before[..], &placeholder, &after].concat();
            Mutation { stamp_offset: offset, ..mutation(kind, &key, value) }
        }
        _ => mutation(kind, &key, operand(random)),
    }
}

/// A commit of anything, which may depend on what is there, or is not.
pub fn change(look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
    let mut change = Change { read_version: look.version, ..Change::default() };
    for _ in 0..random.below(3) {
        let family = family(random);
        if random.one_in(2) {
            let key = key(random, profile, family);
            // A family that is not there is as good a thing to depend on as any: the verdict is
            // known.
            let _ = look.database.get(&key, look.version);
            change.reads.push(key);
        } else {
            let range = range(random, profile, family);
            let _ = look.database.range(&rows::query(range.begin.clone(), range.end.clone(), family), look.version);
            change.ranges.push(range);
        }
    }
    // Dependence on a version before that of the read: whatever was written since conflicts.
    if random.one_in(4) {
        change.read_version -= random.below(look.version.min(8));
    }
    for _ in 0..random.between(1, 6) {
        change = change.with(any_mutation(random, profile));
    }
    Seen::of(change, [])
}

/// Often none; else one that is likely to end among the keys there are, or right after them.
fn selector(random: &mut Random, profile: &WorkloadProfile, family: &str) -> Option<KeySelector> {
    let key = key(random, profile, family).key;
    let (or_equal, offset) = (random.one_in(2), random.pick(&[-9, -2, -1, 0, 1, 2, 3, 9]));
    random.one_in(3).then_some(KeySelector { key, or_equal, offset })
}

fn any_query(random: &mut Random, profile: &WorkloadProfile) -> RangeQuery {
    let family = family(random);
    let range = range(random, profile, family);
    RangeQuery {
        begin_selector: selector(random, profile, family),
        end_selector: selector(random, profile, family),
        skip: random.pick(&[0, 0, 1, 3]),
        limit: random.pick(&[None, None, Some(0), Some(1), Some(4)]),
        reverse: random.one_in(2),
        target_bytes: random.pick(&[None, None, Some(0), Some(20)]),
        max_bytes: random.pick(&[1 << 30, 1 << 30, 60]),
        ..rows::query(range.begin, range.end, family)
    }
}

/// Reads at a version that may just still be readable, or just not any more.
pub fn look_back(look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
    let oldest_readable = look.database.moment().oldest_readable.max(1);
    let pinned = look.database.pinned();
    let version = match random.below(6) {
        0 => oldest_readable,
        1 => oldest_readable.saturating_sub(random.between(1, 3)),
        2 => oldest_readable + random.below(3),
        3 if !pinned.is_empty() => random.pick(&pinned),
        4 => look.version + random.below(2),
        _ => random.between(oldest_readable, look.version.max(oldest_readable)),
    };
    // The database compares each result with the required one.
    let _ = look.database.range(&any_query(random, profile), version);
    let family = family(random);
    let _ = look.database.get(&key(random, profile, family), version);
    let _ = look.database.get(&rows::register(random.below(profile.registers)), version);
    let is_readable = look.database.range(&all_with(rows::QUEUE, ""), version).is_ok();
    let at_version = StateView { version, ..look };
    let ledger = is_readable.then(|| Observation::Ledger(at_version.amounts(profile)));
    Seen::only(ledger)
}
