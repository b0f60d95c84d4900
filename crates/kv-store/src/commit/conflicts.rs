//! Whether a key or range that a commit has read was written since. Exact for every read version
//! from the oldest readable one on, however far garbage collection is: it never removes what is
//! newer than the oldest readable version.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use kv_api::{AtomicCommit, KeyRef, KvError};

use super::deciding::Deciding;
use crate::key_codec;
use crate::read::scan::{self, Bounds};

/// Maximum number of keys that a conflict names: the first ones in order of key and family.
pub const MAX_REPORTED_CONFLICTS: usize = 100;

/// The outer error is the storage's, the inner one is the refusal.
pub(crate) fn check(deciding: &mut Deciding<'_, '_>, commit: &AtomicCommit) -> Result<Result<(), KvError>, KvError> {
    let (read_version, current) = (commit.read_version, deciding.state.counters.version);
    if read_version > current {
        return Ok(Err(KvError::FutureVersion { read_version, current }));
    }
    let oldest = deciding.state.window.oldest_readable();
    if read_version < oldest {
        return Ok(Err(KvError::TransactionTooOld { read_version, oldest }));
    }
    let mut conflicts = BTreeSet::new();
    if read_version < current {
        collect_keys(deciding, commit, &mut conflicts)?;
        collect_ranges(deciding, commit, &mut conflicts)?;
    }
    match conflicts.is_empty() {
        true => Ok(Ok(())),
        false => {
            let keys = conflicts.into_iter().take(MAX_REPORTED_CONFLICTS).collect();
            Ok(Err(KvError::Conflict { keys }))
        }
    }
}

fn collect_keys(
    deciding: &mut Deciding<'_, '_>,
    commit: &AtomicCommit,
    found: &mut BTreeSet<KeyRef>,
) -> Result<(), KvError> {
    for read in &commit.read_conflicts {
        if written_after(deciding, &read.column_family, &read.key, commit.read_version)? {
            found.insert(read.clone());
        }
    }
    if commit.read_conflict_keys.is_empty() {
        return Ok(());
    }
    let families: Vec<String> = deciding.state.families.readable().map(str::to_owned).collect();
    for key in &commit.read_conflict_keys {
        for family in &families {
            if written_after(deciding, family, key, commit.read_version)? {
                found.insert(KeyRef { key: key.clone(), column_family: family.clone() });
            }
        }
    }
    Ok(())
}

/// Whether a write of the key, or a range clear over it, is newer than `read_version`.
fn written_after(
    deciding: &mut Deciding<'_, '_>,
    family: &str,
    key: &Bytes,
    read_version: u64,
) -> Result<bool, KvError> {
    let mut prefix = std::mem::take(&mut deciding.prefix);
    key_codec::set_prefix(&mut prefix, family, key);
    let cleared = deciding.state.clears.hide(&prefix, read_version, u64::MAX);
    let written =
        cleared || deciding.newest_version(&prefix, read_version)?.is_some_and(|newest| newest > read_version);
    deciding.prefix = prefix;
    Ok(written)
}

fn collect_ranges(
    deciding: &mut Deciding<'_, '_>,
    commit: &AtomicCommit,
    found: &mut BTreeSet<KeyRef>,
) -> Result<(), KvError> {
    let (read_version, most) = (commit.read_version, MAX_REPORTED_CONFLICTS);
    for range in commit.read_conflict_ranges.iter().filter(|range| range.begin < range.end) {
        let bounds = Bounds::range(&range.column_family, &range.begin, &range.end);
        let index = &mut deciding.state.index;
        let mut written = index.written_in(&bounds.begin, &bounds.end, read_version, most);
        if read_version < index.complete_after() {
            let older = scan::written_after(deciding.lookup.engine, &bounds, read_version, most)?;
            written.extend(older.into_iter().map(Arc::from));
        }
        let cleared = deciding.state.clears.cleared_in(&bounds.begin, &bounds.end, read_version, most);
        written.extend(cleared.iter().map(|place| Arc::from(place.as_ref())));
        for prefix in written.into_iter().take(most) {
            let key = key_codec::user_key(&prefix)?;
            found.insert(KeyRef { key, column_family: range.column_family.clone() });
        }
    }
    Ok(())
}
