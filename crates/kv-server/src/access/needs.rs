//! The one translation of operations to needs, the terms of the policy.
//!
//! No `match` here has a catch-all arm, and every struct is taken apart field by field. So a new
//! operation, kind of mutation or field does not compile until somebody has decided what it needs.

use kv_api::access::{AccessChange, Keys, Need, Verb};
use kv_api::{
    AtomicCommit, ChangeRange, ChangesQuery, FamilyChange, KeyRange, KeyRef, KeySelector, KvError, KvOperation,
    Mutation, MutationKind, RangeQuery,
};
use kv_store::STAMP_BYTES;

/// Passes every need of the operation to `check`, until that refuses one. An operation without
/// needs is for everybody who has an identity.
pub fn check_needs(
    operation: &KvOperation,
    check: &mut dyn FnMut(&Need<'_>) -> Result<(), KvError>,
) -> Result<(), KvError> {
    match operation {
        KvOperation::ReadVersion => Ok(()),
        // Every way of reading shows the same rows.
        KvOperation::Get { key: KeyRef { key, column_family }, at: _ } => {
            check(&Need::of(Verb::Read, column_family, Keys::One(key)))
        }
        KvOperation::GetRange { query, at: _ } => range_needs(query, check),
        KvOperation::AtomicCommit(commit) => commit_needs(commit, check),
        KvOperation::ChangeFamily(FamilyChange { name, drop: _ }) => {
            check(&Need::of(Verb::AdminFamily, name, Keys::All))
        }
        KvOperation::ChangeAccess(AccessChange { command: _ }) => check(&Need::cluster(Verb::AdminAuth)),
        KvOperation::ReadChanges(query) => changes_needs(query, check),
        // Only the server itself makes it.
        KvOperation::ClockTick => check(&Need::cluster(Verb::AdminMember)),
    }
}

/// A commit writes what it changes, and reads what it lets itself depend on: a conflict tells that
/// somebody wrote there.
fn commit_needs(commit: &AtomicCommit, check: &mut dyn FnMut(&Need<'_>) -> Result<(), KvError>) -> Result<(), KvError> {
    let AtomicCommit {
        read_version: _,
        mutations,
        read_conflict_keys,
        read_conflicts,
        read_conflict_ranges,
        // The ids are chosen at random by their clients, and a repeat must be the same commit.
        idempotency_id: _,
        finished_ids: _,
    } = commit;
    mutations.iter().try_for_each(|mutation| mutation_need(mutation, check))?;
    for key in read_conflict_keys {
        check(&Need { verb: Verb::Read, family: None, keys: Keys::One(key) })?;
    }
    for KeyRef { key, column_family } in read_conflicts {
        check(&Need::of(Verb::Read, column_family, Keys::One(key)))?;
    }
    for KeyRange { begin, end, column_family } in read_conflict_ranges {
        check(&Need::of(Verb::Read, column_family, Keys::Range { begin, end }))?;
    }
    Ok(())
}

/// Changes show what a read would show, and that it changed.
fn changes_needs(query: &ChangesQuery, check: &mut dyn FnMut(&Need<'_>) -> Result<(), KvError>) -> Result<(), KvError> {
    let ChangesQuery {
        after: _,
        ranges,
        // These show fewer of the same changes, or later.
        max_wait: _,
        max_bytes: _,
        max_versions: _,
        with_values: _,
    } = query;
    for verb in [Verb::Watch, Verb::Read] {
        if ranges.is_empty() {
            check(&Need { verb, family: None, keys: Keys::All })?;
        }
        for ChangeRange { column_family, begin, end } in ranges {
            let keys = match end {
                Some(end) => Keys::Range { begin, end },
                None if begin.is_empty() => Keys::All,
                None => Keys::From(begin),
            };
            check(&Need::of(verb, column_family, keys))?;
        }
    }
    Ok(())
}

fn mutation_need(mutation: &Mutation, check: &mut dyn FnMut(&Need<'_>) -> Result<(), KvError>) -> Result<(), KvError> {
    let Mutation { kind, key, value, column_family, stamp_offset } = mutation;
    let kind = MutationKind::try_from(*kind)
        .map_err(|_| KvError::InvalidOperation(format!("{kind} is no kind of mutation that this server knows")))?;
    let keys = match kind {
        MutationKind::ClearRange => Keys::Range { begin: key, end: value },
        // The stamp may be anything, so may the key behind its place.
        MutationKind::SetVersionstampedKey => Keys::Prefix(&key[..stamp_place(key, *stamp_offset)]),
        MutationKind::Set
        | MutationKind::Delete
        | MutationKind::SetVersionstampedValue
        // Their results depend on the stored value, and tell the caller nothing about it.
        | MutationKind::Add
        | MutationKind::Min
        | MutationKind::Max
        | MutationKind::ByteMin
        | MutationKind::ByteMax
        | MutationKind::BitAnd
        | MutationKind::BitOr
        | MutationKind::BitXor
        | MutationKind::AppendIfFits
        | MutationKind::CompareAndClear => Keys::One(key),
    };
    check(&Need::of(Verb::Write, column_family, keys))
}

fn stamp_place(key: &[u8], offset: Option<u32>) -> usize {
    let last = key.len().saturating_sub(STAMP_BYTES);
    offset.map_or(last, |offset| (offset as usize).min(last))
}

/// One end of a range, as far as it is known before the rows are read.
enum End<'a> {
    /// The keys before this one.
    Before(&'a [u8]),
    /// The keys through this one.
    Through(&'a [u8]),
    /// The selector walks towards greater keys from this one.
    Forward(&'a [u8]),
    /// The selector walks towards lesser keys from this one.
    Backward(&'a [u8]),
}

/// Rows between two ends that are known, or all that a selector may look at on its way.
fn range_needs(query: &RangeQuery, check: &mut dyn FnMut(&Need<'_>) -> Result<(), KvError>) -> Result<(), KvError> {
    let RangeQuery {
        begin,
        end,
        begin_selector,
        end_selector,
        column_family,
        // These show fewer of the same rows, or in another order.
        skip: _,
        limit: _,
        reverse: _,
        target_bytes: _,
        max_bytes: _,
    } = query;
    let begin = begin_selector.as_ref().map_or(End::Before(begin), end_of_selector);
    let end = end_selector.as_ref().map_or(End::Before(end), end_of_selector);
    let mut read = |keys| check(&Need::of(Verb::Read, column_family, keys));
    for end in [&begin, &end] {
        match end {
            End::Before(_) | End::Through(_) => {}
            End::Forward(key) => read(Keys::From(key))?,
            End::Backward(key) => read(Keys::Through { begin: b"", last: key })?,
        }
    }
    let first: &[u8] = match begin {
        End::Before(key) | End::Through(key) | End::Forward(key) => key,
        End::Backward(_) => b"",
    };
    read(match end {
        End::Before(end) => Keys::Range { begin: first, end },
        End::Through(last) | End::Backward(last) => Keys::Through { begin: first, last },
        End::Forward(_) => Keys::From(first),
    })
}

/// A selector that goes one key forward ends at the first key from a known one on. As an end of a
/// range it is like that known key: no row lies between them.
fn end_of_selector(selector: &KeySelector) -> End<'_> {
    let KeySelector { key, or_equal, offset } = selector;
    match (*offset, *or_equal) {
        (1, false) => End::Before(key),
        (1, true) => End::Through(key),
        (..=0, _) => End::Backward(key),
        (2.., _) => End::Forward(key),
    }
}
