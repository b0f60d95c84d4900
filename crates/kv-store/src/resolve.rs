//! From the mutations of a commit to plain writes: versionstamps are filled in, and what makes no sense or is not there yet
//! is refused. Depends on nothing but the commit and its version.

use bytes::Bytes;
use kv_api::{AtomicCommit, KvError, Mutation, MutationKind};

use crate::key_codec;

/// Bytes of a versionstamp: the commit version and the number of the stamped operation within the commit, big-endian.
pub const STAMP_BYTES: usize = 10;

/// Most versionstamped operations of one commit: their numbers have two bytes.
const MAX_STAMPS: usize = 1 << 16;

/// One key set to a value, or deleted (`None`).
pub(crate) struct Write<'c> {
    pub family: &'c str,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

pub(crate) struct Resolved<'c> {
    /// In the order of the mutations; a key may come more than once.
    pub writes: Vec<Write<'c>>,
    pub generated_keys: Vec<Bytes>,
    pub generated_values: Vec<Bytes>,
}

/// The writes of `commit` if it gets `version`, or why it can never be committed.
pub(crate) fn resolve(commit: &AtomicCommit, version: u64) -> Result<Resolved<'_>, KvError> {
    if !commit.idempotency_id.is_empty() {
        return Err(KvError::NotSupported("an idempotency id".into()));
    }
    check_conflict_families(commit)?;
    let mut resolving = Resolving {
        resolved: Resolved {
            writes: Vec::with_capacity(commit.mutations.len()),
            generated_keys: Vec::new(),
            generated_values: Vec::new(),
        },
        version,
        stamps: 0,
    };
    commit.mutations.iter().try_for_each(|mutation| resolving.add(mutation))?;
    Ok(resolving.resolved)
}

fn check_conflict_families(commit: &AtomicCommit) -> Result<(), KvError> {
    let keys = commit.read_conflicts.iter().map(|key| &key.column_family);
    let ranges = commit.read_conflict_ranges.iter().map(|range| &range.column_family);
    keys.chain(ranges).try_for_each(|family| key_codec::check_family(family))
}

struct Resolving<'c> {
    resolved: Resolved<'c>,
    version: u64,
    stamps: usize,
}

impl<'c> Resolving<'c> {
    fn add(&mut self, mutation: &'c Mutation) -> Result<(), KvError> {
        key_codec::check_family(&mutation.column_family)?;
        let (key, value) = match MutationKind::try_from(mutation.kind) {
            Ok(MutationKind::Set) => (mutation.key.clone(), Some(mutation.value.clone())),
            Ok(MutationKind::Delete) => (mutation.key.clone(), None),
            Ok(MutationKind::SetVersionstampedKey) => {
                let key = self.stamped("key", &mutation.key, mutation.stamp_offset)?;
                self.resolved.generated_keys.push(key.clone());
                (key, Some(mutation.value.clone()))
            }
            Ok(MutationKind::SetVersionstampedValue) => {
                let value = self.stamped("value", &mutation.value, mutation.stamp_offset)?;
                self.resolved.generated_values.push(value.clone());
                (mutation.key.clone(), Some(value))
            }
            Ok(other) => return Err(KvError::NotSupported(format!("the mutation kind {other:?}"))),
            Err(_) => return Err(KvError::InvalidOperation(format!("unknown mutation kind {}", mutation.kind))),
        };
        self.resolved.writes.push(Write { family: &mutation.column_family, key, value });
        Ok(())
    }

    /// `buffer` with the next versionstamp at `offset`, by default at its end.
    fn stamped(&mut self, what: &str, buffer: &Bytes, offset: Option<u32>) -> Result<Bytes, KvError> {
        if self.stamps == MAX_STAMPS {
            return Err(KvError::InvalidOperation(format!(
                "more than {MAX_STAMPS} versionstamped operations in one transaction"
            )));
        }
        let place = match offset {
            Some(offset) => usize::try_from(offset).ok(),
            None => buffer.len().checked_sub(STAMP_BYTES),
        };
        let mut stamped = buffer.to_vec();
        let slot = place.and_then(|place| stamped.get_mut(place..)?.first_chunk_mut::<STAMP_BYTES>());
        let Some(slot) = slot else {
            let at = offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
            return Err(KvError::InvalidOperation(format!(
                "a versionstamped {what} of {} bytes has no room for the {STAMP_BYTES} bytes of the stamp{at}",
                buffer.len()
            )));
        };
        let number = u16::try_from(self.stamps).expect("bounded by MAX_STAMPS");
        let (version_slot, number_slot) = slot.split_at_mut(8);
        version_slot.copy_from_slice(&self.version.to_be_bytes());
        number_slot.copy_from_slice(&number.to_be_bytes());
        self.stamps += 1;
        Ok(stamped.into())
    }
}
