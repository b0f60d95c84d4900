//! Random histories with crashes, bit rot, lost and misplaced writes, and a disk that fills up. The
//! log returns the right entries or none, and refuses to continue only if its newest header may be
//! gone.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::property::{WritePlan, write, write_plan};
use super::*;
use crate::wal::Fault;

const SEGMENT_BYTES: u64 = 32768;

#[derive(Clone, Debug)]
enum Step {
    Persist(Vec<WritePlan>),
    /// Power is lost after this number of operations while these writes are performed.
    CrashIn(Vec<WritePlan>, u64),
    Trim(u64),
    Reopen,
    Read(u64, u64),
    /// Sectors rot or become unreadable.
    Damage {
        sectors: usize,
        reads_fail: bool,
    },
    Misplace(Fault),
    SetFull(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let damage = (1..4usize, any::<bool>()).prop_map(|(sectors, reads_fail)| Step::Damage { sectors, reads_fail });
    let misplaced = (1..9u64).prop_map(|blocks| Fault::MisdirectWrite { by: blocks * 4096 });
    prop_oneof![
        10 => vec(write_plan(), 1..4).prop_map(Step::Persist),
        2 => (vec(write_plan(), 1..4), 0..6u64).prop_map(|(plans, operations)| Step::CrashIn(plans, operations)),
        1 => (0..15u64).prop_map(Step::Trim),
        3 => Just(Step::Reopen),
        3 => (0..20u64, 1..10u64).prop_map(|(back, count)| Step::Read(back, count)),
        2 => damage,
        1 => prop_oneof![Just(Fault::LoseWrite), misplaced].prop_map(Step::Misplace),
        1 => any::<bool>().prop_map(Step::SetFull),
    ]
}

struct Run {
    disk: SimulatedDisk,
    storage: WalStorage,
    /// The durable state.
    model: Model,
    /// The durable state once all writes that wait for space are performed.
    queued: Model,
    waiting: Vec<Persist>,
    writes: u64,
    trimmed_below: u64,
    /// The newest header was damaged, or its write was lost: the log may refuse to open, or regard
    /// the last group as torn.
    newest_in_doubt: bool,
    /// A misplaced write may lie beyond the end of the log.
    has_remains: bool,
    is_full: bool,
}

impl Run {
    fn new() -> Self {
        let disk = SimulatedDisk::new(1);
        let mut storage = wal_over(&disk, SEGMENT_BYTES);
        storage.recover().expect("the disk is healthy");
        Run {
            disk,
            storage,
            model: Model::default(),
            queued: Model::default(),
            waiting: Vec::new(),
            writes: 0,
            trimmed_below: 0,
            newest_in_doubt: false,
            has_remains: false,
            is_full: false,
        }
    }

    fn queue(&mut self, plans: &[WritePlan]) {
        for plan in plans {
            self.writes += 1;
            self.waiting.push(write(plan, &mut self.queued, self.writes));
        }
    }

    fn persist(&mut self) {
        let durable = self.storage.persist(&self.waiting).expect("no write fails");
        for write in self.waiting.drain(..durable) {
            self.model.apply(&write);
            // The header in doubt is no longer the newest.
            self.newest_in_doubt = false;
        }
        assert!(self.waiting.is_empty() || !self.storage.has_space());
    }

    /// The next write goes wrong unnoticed.
    fn misplace(&mut self, fault: Fault) {
        if !self.waiting.is_empty() || self.is_full {
            return;
        }
        self.disk.inject(fault);
        self.writes += 1;
        self.waiting.push(append(self.writes, self.model.last + 1, &entries(self.writes * 10, 2, 600)));
        self.queued.apply(&self.waiting[0]);
        self.persist();
        self.newest_in_doubt = true;
        self.has_remains |= fault != Fault::LoseWrite;
    }

    /// Returns false if the log refuses to continue, in a case where it may.
    fn reopen(&mut self) -> bool {
        self.disk.crash();
        self.open(Vec::new())
    }

    fn crash_in(&mut self, operations: u64) -> bool {
        let in_doubt = std::mem::take(&mut self.waiting);
        self.disk.stop_after(operations);
        let durable = self.storage.persist(&in_doubt).unwrap_or(0);
        let mut in_doubt = in_doubt.into_iter();
        in_doubt.by_ref().take(durable).for_each(|write| self.model.apply(&write));
        self.disk.crash();
        self.open(in_doubt.collect())
    }

    fn open(&mut self, in_doubt: Vec<Persist>) -> bool {
        self.storage = wal_over(&self.disk, SEGMENT_BYTES);
        let found = match open(&mut self.storage) {
            Ok(found) => found,
            Err(StorageError::Damaged { .. }) if self.newest_in_doubt || self.has_remains => return false,
            // There must be room for a recovery marker.
            Err(StorageError::Full { .. }) if self.is_full => return false,
            Err(error) => panic!("{error}"),
        };
        let mut model = self.model.clone();
        let mut in_doubt = in_doubt.iter();
        while !model.agrees(&found, self.trimmed_below) {
            let Some(write) = in_doubt.next() else {
                let stored: Vec<u64> = self.model.entries.keys().copied().collect();
                assert!(
                    self.newest_in_doubt,
                    "found {} to {}, damaged {:?}, {:?}\nexpected to {}, stored {stored:?}, trimmed below {}, {:?}",
                    found.first,
                    found.last,
                    found.damaged(),
                    found.hard_state,
                    self.model.last,
                    self.trimmed_below,
                    self.model.hard_state
                );
                return false;
            };
            model.apply(write);
        }
        // Recovery clears everything beyond the end.
        self.has_remains = false;
        self.model = model.clone();
        self.queued = model;
        self.waiting.clear();
        true
    }

    fn read(&mut self, back: u64, count: u64) {
        let from = self.model.last.saturating_sub(back).max(1);
        let read = self.storage.read(Sequence(from), Sequence(from + count - 1), 2000).expect("the log is usable");
        for (sequence, entry) in (from..).zip(&read) {
            assert_eq!(self.model.entries.get(&sequence), Some(entry), "entry {sequence}");
        }
    }

    fn damage(&mut self, reads_fail: bool) {
        let newest = newest_header(&self.disk);
        let Some((name, range)) = self.disk.rot_somewhere() else { return };
        if reads_fail {
            self.disk.make_unreadable(&name, range.clone());
        }
        self.newest_in_doubt |= newest == Some((name, range));
    }

    /// Returns false if the log refuses to continue.
    fn take(&mut self, step: &Step) -> bool {
        match step {
            Step::Persist(plans) => {
                self.queue(plans);
                self.persist();
            }
            Step::CrashIn(plans, operations) => {
                self.queue(plans);
                return self.crash_in(*operations);
            }
            Step::Trim(back) => {
                let below = self.model.last.saturating_sub(*back);
                self.trimmed_below = self.trimmed_below.max(below);
                self.storage.trim(Sequence(below)).expect("no write fails");
            }
            Step::Reopen => return self.reopen(),
            Step::Read(back, count) => self.read(*back, *count),
            Step::Damage { sectors, reads_fail } => (0..*sectors).for_each(|_| self.damage(*reads_fail)),
            Step::Misplace(fault) => self.misplace(*fault),
            Step::SetFull(is_full) => {
                self.is_full = *is_full;
                self.disk.set_capacity_bytes(is_full.then_some(0));
            }
        }
        true
    }
}

/// The file and range of the newest header.
fn newest_header(disk: &SimulatedDisk) -> Option<(String, Range<u64>)> {
    let mut newest = None;
    for name in disk.names() {
        let content = disk.contents(&name);
        for (position, block) in content.chunks(4096).enumerate().filter(|(_, block)| block.starts_with(b"RSML-WAL")) {
            let number = u64::from_le_bytes(block[32..40].try_into().expect("eight bytes"));
            let offset = position as u64 * 4096;
            newest = newest.max(Some((number, name.clone(), offset)));
        }
    }
    newest.map(|(_, name, offset)| (name, offset..offset + 512))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_log_returns_the_right_entries_or_none(steps in vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in steps {
            if !run.take(&step) {
                break;
            }
        }
    }
}
