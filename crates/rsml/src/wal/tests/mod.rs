//! Tests of the log on simulated and real disks, against a model that is as simple as possible.

mod crash;
mod damage;
mod descriptors;
mod faults;
mod files;
mod golden;
mod interrupted;
mod limits;
mod odd_files;
mod property;
mod space;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{SimulatedDisk, WalOptions, WalStorage};
use crate::{
    Boot, ClusterId, DiskId, Epoch, HardState, Persist, Recovered, Sequence, Storage, StorageError, View, WriteId,
};

fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, background_preparation: false, direct_writes: false, segment_id_seed: 7 }
}

fn wal_over(disk: &SimulatedDisk, segment_bytes: u64) -> WalStorage {
    WalStorage::over(Arc::new(disk.clone()), options(segment_bytes))
}

/// The contents of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    hard_state: Option<HardState>,
    first: Sequence,
    last: Sequence,
    entries: Vec<Option<Bytes>>,
}

fn recover(disk: &SimulatedDisk, segment_bytes: u64) -> Result<Found, StorageError> {
    open(&mut wal_over(disk, segment_bytes))
}

/// Opens a log and loads all of it.
fn open(storage: &mut impl Storage) -> Result<Found, StorageError> {
    let Recovered { hard_state, first, last, lost } = storage.recover()?;
    let entries = storage.load(Sequence::BIRTH)?;
    // Entries reported as lost are not there. More may be damaged: entries are verified only when
    // they are read.
    assert!(
        lost.iter().all(|(from, to)| (from.0..=to.0).all(|n| entries[(n - first.0) as usize].is_none())),
        "{lost:?}"
    );
    Ok(Found { hard_state, first, last, entries })
}

impl Found {
    /// The sequences of the entries that are damaged.
    fn damaged(&self) -> Vec<u64> {
        (self.first.0..).zip(&self.entries).filter(|(_, entry)| entry.is_none()).map(|(n, _)| n).collect()
    }
}

fn intact(entries: &[Bytes]) -> Vec<Option<Bytes>> {
    entries.iter().cloned().map(Some).collect()
}

fn hard_state(number: u64) -> HardState {
    HardState {
        cluster_id: ClusterId(0x1111_2222_3333_4444),
        epoch: Epoch(1),
        disk_id: DiskId(0xaaaa_bbbb_cccc_dddd_eeee),
        boot: Boot(3),
        promised: View(number),
        accepted_view: View(number / 2),
        generation: number / 3,
        lease_us: number % 7,
        ended_view: View::BIRTH,
    }
}

fn append(number: u64, from: u64, entries: &[Bytes]) -> Persist {
    Persist {
        write_id: WriteId(number),
        hard_state: hard_state(number),
        base: None,
        from: Sequence(from),
        truncate: false,
        entries: entries.to_vec(),
    }
}

fn replace(number: u64, from: u64, entries: &[Bytes]) -> Persist {
    Persist { truncate: true, ..append(number, from, entries) }
}

/// A write that first discards everything through `through`.
fn base(number: u64, through: u64, write: Persist) -> Persist {
    Persist { write_id: WriteId(number), hard_state: hard_state(number), base: Some(Sequence(through)), ..write }
}

/// Bytes without any zero, which depend on `tag`.
fn entry(tag: u64, length: usize) -> Bytes {
    (0..length).map(|position| ((tag.wrapping_mul(31) as usize + position * 7) % 255 + 1) as u8).collect()
}

fn entries(first_tag: u64, count: u64, length: usize) -> Vec<Bytes> {
    (first_tag..first_tag + count).map(|tag| entry(tag, length)).collect()
}

/// The log as its writes define it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    hard_state: Option<HardState>,
    entries: BTreeMap<u64, Bytes>,
    last: u64,
}

impl Model {
    fn apply(&mut self, write: &Persist) {
        self.hard_state = Some(write.hard_state);
        if let Some(base) = write.base {
            self.entries.retain(|&sequence, _| sequence > base.0);
            self.last = self.last.max(base.0);
        }
        if write.truncate {
            if write.from.0 > self.last + 1 {
                self.entries.clear();
            }
            self.entries.retain(|&sequence, _| sequence < write.from.0);
            self.last = write.from.0 - 1;
        }
        for entry in &write.entries {
            self.last += 1;
            self.entries.insert(self.last, entry.clone());
        }
    }

    /// Whether nothing in `found` contradicts this state. Entries may be damaged.
    fn agrees(&self, found: &Found, trimmed_below: u64) -> bool {
        let mut repaired = found.clone();
        for (sequence, entry) in (found.first.0..).zip(&mut repaired.entries).filter(|(_, entry)| entry.is_none()) {
            *entry = self.entries.get(&sequence).cloned();
        }
        self.matches(&repaired, trimmed_below)
    }

    /// Whether `found` is this state. Entries below `trimmed_below` may be missing.
    fn matches(&self, found: &Found, trimmed_below: u64) -> bool {
        let stored = self.entries.range(found.first.0..).map(|(_, entry)| Some(entry.clone()));
        let must_have = self.entries.range(trimmed_below..).next();
        found.hard_state == self.hard_state
            && found.last.0 == self.last
            && must_have.is_none_or(|(&sequence, _)| found.first.0 <= sequence)
            && found.entries.len() as u64 == found.last.0 + 1 - found.first.0
            && stored.eq(found.entries.iter().cloned())
    }
}
