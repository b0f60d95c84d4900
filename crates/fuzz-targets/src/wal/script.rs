//! A log written by orders that an input chooses.

use std::collections::BTreeMap;

use bytes::Bytes;
use rsml::wal::{SimulatedDisk, WalStorage};
use rsml::{Boot, ClusterId, DiskId, Epoch, HardState, Persist, Sequence, Storage, Ticket, View};

use super::{Found, damage::BLOCK_BYTES, recover};
use crate::Input;

const MAX_STEPS: usize = 24;

/// A log, and all that was ever written to it.
pub struct Script {
    pub disk: SimulatedDisk,
    pub segment_bytes: usize,
    hard_states: Vec<HardState>,
    entries: BTreeMap<u64, Vec<Bytes>>,
    last: u64,
}

impl Script {
    /// Steps until one that ends it; the log is closed afterwards, nothing is lost.
    pub fn play(input: &mut Input) -> Script {
        let segment_bytes = BLOCK_BYTES << (1 + input.below(3));
        let disk = SimulatedDisk::new(1);
        let mut script = Script { disk, segment_bytes, hard_states: Vec::new(), entries: BTreeMap::new(), last: 0 };
        let mut log = script.open();
        for _ in 0..MAX_STEPS {
            match input.byte() % 8 {
                0 => break,
                1 => log.trim(Sequence(script.last.saturating_sub(u64::from(input.byte())))).expect("healthy"),
                2 => {
                    drop(log);
                    log = script.open();
                }
                orders => {
                    let orders: Vec<Persist> = (2..orders).map(|_| script.order(input)).collect();
                    log.persist(&orders).expect("the disk is healthy");
                }
            }
        }
        drop(log);
        script.disk.crash();
        script
    }

    fn open(&self) -> WalStorage {
        self.disk.kill();
        recover(&self.disk, self.segment_bytes).expect("the disk is healthy").0
    }

    fn order(&mut self, input: &mut Input) -> Persist {
        let number = self.hard_states.len() as u64 + 1;
        let hard_state = HardState {
            cluster_id: ClusterId(5),
            epoch: Epoch(1),
            disk_id: DiskId(6),
            boot: Boot(2),
            promised: View(number),
            accepted_view: View(number / 2),
            ..HardState::default()
        };
        self.hard_states.push(hard_state);
        let place = input.byte();
        let (from, truncate) = match place % 8 {
            0 => ((self.last + 1).saturating_sub(u64::from(place / 8)).max(1), true),
            1 => (self.last + 2 + u64::from(place / 8), true),
            _ => (self.last + 1, false),
        };
        self.last = from - 1;
        let entries = (0..input.below(4)).map(|_| self.entry(number, input)).collect();
        Persist { ticket: Ticket(number), hard_state, from: Sequence(from), truncate, entries }
    }

    /// Mostly bytes that name the entry; now and then zeros, which look like a disk that was never written.
    fn entry(&mut self, number: u64, input: &mut Input) -> Bytes {
        self.last += 1;
        let shape = input.u16();
        let length = if shape % 5 == 0 { usize::from(shape) % 9000 } else { usize::from(shape) % 100 };
        let tag = if shape % 7 == 0 { 0 } else { self.last ^ number << 8 | 0x40 };
        let entry: Bytes = tag.to_le_bytes().into_iter().cycle().take(length).collect();
        self.entries.entry(self.last).or_default().push(entry.clone());
        entry
    }

    /// Whatever a device has done to the log, nothing was made up.
    pub fn check(&self, found: &Found) {
        assert!(
            found.hard_state.is_none_or(|state| self.hard_states.contains(&state)),
            "{:?} was never written",
            found.hard_state
        );
        for (sequence, entry) in (found.first.0..).zip(&found.entries) {
            let written = self.entries.get(&sequence);
            let is_known = entry.as_ref().is_none_or(|entry| written.is_some_and(|written| written.contains(entry)));
            assert!(is_known, "entry {sequence} was never written: {entry:?}");
        }
    }
}

pub fn sample_scripts() -> Vec<Vec<u8>> {
    let entry = |length: u8| [length, 0];
    let append = |count: u8| [&[3, 7, count, 0][..], &entry(61).repeat(usize::from(count))].concat();
    let long = [3, 7, 1, 0, 0x88, 0x13].to_vec();
    let replace = [3, 16, 1, 0, 33, 0].to_vec();
    let anew = [3, 9, 1, 0, 34, 0].to_vec();
    let trim = [1, 1].to_vec();
    let scripts = [
        vec![],
        vec![append(1)],
        vec![append(3), append(2), replace.clone(), append(3)],
        vec![append(1), long.clone(), long.clone(), trim, long.clone(), vec![2], append(2)],
        vec![append(2), anew, append(1), long, replace],
    ];
    let encoded = scripts.into_iter().zip(0u8..).map(|(steps, size)| {
        let mut script = vec![size % 3, 0];
        script.extend(steps.concat());
        script.push(0);
        script
    });
    encoded.collect()
}
