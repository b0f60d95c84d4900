//! Checks whether a commit is well formed, and fills in its versionstamps. Depends only on the
//! commit, its version, and which families exist.

use bytes::Bytes;
use kv_api::{AtomicCommit, CommitResult, KvError, MAX_IDEMPOTENCY_ID_BYTES, Mutation, MutationKind};

use super::families::Families;

/// Bytes of a versionstamp: the commit version (u64), then the number of the stamped mutation
/// within the commit (u16), both big-endian.
pub const STAMP_BYTES: usize = 10;

/// Maximum number of versionstamped mutations of one commit: their numbers have two bytes.
const MAX_STAMPS: usize = 1 << 16;

/// Refuses a commit that can never be executed. Returns the number of its range clears.
pub(crate) fn check(commit: &AtomicCommit, families: &Families) -> Result<usize, KvError> {
    let length = commit.idempotency_id.len();
    if length > MAX_IDEMPOTENCY_ID_BYTES {
        return Err(KvError::InvalidOperation(format!(
            "an idempotency id of {length} bytes: at most {MAX_IDEMPOTENCY_ID_BYTES} are allowed"
        )));
    }
    check_conflict_families(commit, families)?;
    let (mut stamps, mut clears) = (0, 0);
    for mutation in &commit.mutations {
        check_family(&mutation.column_family, families)?;
        match kind(mutation)? {
            MutationKind::SetVersionstampedKey => {
                check_stamp("key", &mutation.key, mutation.stamp_offset)?;
                stamps += 1;
            }
            MutationKind::SetVersionstampedValue => {
                check_stamp("value", &mutation.value, mutation.stamp_offset)?;
                stamps += 1;
            }
            MutationKind::ClearRange if mutation.key > mutation.value => {
                return Err(KvError::InvalidOperation("a range to clear ends before it begins".into()));
            }
            MutationKind::ClearRange => clears += 1,
            _ => {}
        }
    }
    if stamps > MAX_STAMPS {
        return Err(KvError::InvalidOperation(format!(
            "more than {MAX_STAMPS} versionstamped operations in one transaction"
        )));
    }
    Ok(clears)
}

fn kind(mutation: &Mutation) -> Result<MutationKind, KvError> {
    MutationKind::try_from(mutation.kind)
        .map_err(|_| KvError::InvalidOperation(format!("unknown mutation kind {}", mutation.kind)))
}

fn check_conflict_families(commit: &AtomicCommit, families: &Families) -> Result<(), KvError> {
    let keys = commit.read_conflicts.iter().map(|key| &key.column_family);
    let ranges = commit.read_conflict_ranges.iter().map(|range| &range.column_family);
    keys.chain(ranges).try_for_each(|family| check_family(family, families))
}

fn check_family(family: &str, families: &Families) -> Result<(), KvError> {
    match families.exists(family) {
        true => Ok(()),
        false => Err(KvError::UnknownColumnFamily { name: family.into(), existing: Vec::new() }),
    }
}

fn check_stamp(what: &str, buffer: &[u8], offset: Option<u32>) -> Result<(), KvError> {
    if stamp_place(buffer, offset).is_some() {
        return Ok(());
    }
    let at = offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
    Err(KvError::InvalidOperation(format!(
        "a versionstamped {what} of {} bytes has no room for the {STAMP_BYTES} bytes of the stamp{at}",
        buffer.len()
    )))
}

/// Where the stamp begins: at `offset`, or by default such that it ends the buffer.
fn stamp_place(buffer: &[u8], offset: Option<u32>) -> Option<usize> {
    let place = match offset {
        Some(offset) => usize::try_from(offset).ok()?,
        None => buffer.len().checked_sub(STAMP_BYTES)?,
    };
    (place.checked_add(STAMP_BYTES)? <= buffer.len()).then_some(place)
}

/// Makes the versionstamps of one commit.
pub(crate) struct Stamps {
    version: u64,
    given: usize,
}

impl Stamps {
    pub fn new(version: u64) -> Self {
        Stamps { version, given: 0 }
    }

    /// `buffer` with the next stamp in its place. The commit was checked, so there is room.
    pub fn fill(&mut self, buffer: &[u8], offset: Option<u32>) -> Bytes {
        let place = stamp_place(buffer, offset).expect("the commit was checked");
        let number = u16::try_from(self.given).expect("bounded by MAX_STAMPS");
        let mut stamped = buffer.to_vec();
        stamped[place..place + 8].copy_from_slice(&self.version.to_be_bytes());
        stamped[place + 8..place + STAMP_BYTES].copy_from_slice(&number.to_be_bytes());
        self.given += 1;
        stamped.into()
    }
}

/// One key set to a value, or deleted (`None`).
pub(crate) struct Write<'c> {
    pub family: &'c str,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// The effect of a commit's only mutation, and the commit's result.
pub(crate) struct Single<'c> {
    pub write: Write<'c>,
    pub result: CommitResult,
}

/// The fast path for most commits: a single mutation that needs no read. The commit was checked.
pub(crate) fn single_write(commit: &AtomicCommit, version: u64) -> Option<Single<'_>> {
    let [mutation] = commit.mutations.as_slice() else {
        return None;
    };
    let mut result = CommitResult { version, ..CommitResult::default() };
    let stamped = |buffer: &Bytes| Stamps::new(version).fill(buffer, mutation.stamp_offset);
    let (key, value) = match mutation.kind() {
        MutationKind::Set => (mutation.key.clone(), Some(mutation.value.clone())),
        MutationKind::Delete => (mutation.key.clone(), None),
        MutationKind::SetVersionstampedKey => {
            let key = stamped(&mutation.key);
            result.generated_keys.push(key.clone());
            (key, Some(mutation.value.clone()))
        }
        MutationKind::SetVersionstampedValue => {
            let value = stamped(&mutation.value);
            result.generated_values.push(value.clone());
            (mutation.key.clone(), Some(value))
        }
        _ => return None,
    };
    Some(Single { write: Write { family: &mutation.column_family, key, value }, result })
}
