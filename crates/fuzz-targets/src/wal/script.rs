//! A log made by writes that an input chooses.

use std::collections::BTreeMap;

use bytes::Bytes;
use rsml::wal::{SimulatedDisk, WalStorage};
use rsml::{Boot, ClusterId, DiskId, Epoch, HardState, Persist, Sequence, Storage, View, WriteId};

use super::{Found, damage::BLOCK_BYTES, recover};
use crate::Input;

const MAX_STEPS: usize = 24;
/// The steps that end a script are multiples of 8; one in four of them in the middle of a write.
const ENDS: u8 = 8;
const ENDS_TORN: u8 = 3;

/// A log, and all that was ever written to it.
pub struct Script {
    pub disk: SimulatedDisk,
    pub segment_bytes: usize,
    hard_states: Vec<HardState>,
    /// All that was ever written at a sequence.
    written: BTreeMap<u64, Vec<Bytes>>,
    /// The log as its writes say.
    current: BTreeMap<u64, Bytes>,
    last: u64,
    /// Whether an entry is all zeros: such a sector looks like one that was never written.
    has_blank_entries: bool,
    /// Whether the last write was being written when power was lost.
    is_torn: bool,
}

impl Script {
    /// Steps until one that ends it. Nothing is lost then, or the last write is torn.
    pub fn play(input: &mut Input) -> Script {
        let segment_bytes = BLOCK_BYTES << (1 + input.below(3));
        let disk = SimulatedDisk::new(1);
        let mut script = Script {
            disk,
            segment_bytes,
            hard_states: Vec::new(),
            written: BTreeMap::new(),
            current: BTreeMap::new(),
            last: 0,
            has_blank_entries: false,
            is_torn: false,
        };
        let mut log = script.open();
        for _ in 0..MAX_STEPS {
            let step = input.byte();
            match step % ENDS {
                0 => {
                    script.is_torn = step / ENDS % 4 == ENDS_TORN;
                    break;
                }
                1 => log.trim(Sequence(script.last.saturating_sub(u64::from(input.byte())))).expect("healthy"),
                2 => {
                    drop(log);
                    log = script.open();
                }
                writes => {
                    let writes: Vec<Persist> = (2..writes).map(|_| script.write(input)).collect();
                    assert_eq!(log.persist(&writes).expect("the disk is healthy"), writes.len());
                }
            }
        }
        if script.is_torn {
            script.tear(&mut log, input);
        }
        drop(log);
        script.disk.crash();
        script
    }

    /// Power is lost while one more write is written.
    fn tear(&mut self, log: &mut WalStorage, input: &mut Input) {
        let write = self.write(input);
        self.disk.reseed(u64::from(input.byte()));
        self.disk.stop_after(input.below(3) as u64);
        let _interrupted = log.persist(&[write]);
    }

    fn open(&self) -> WalStorage {
        self.disk.kill();
        recover(&self.disk, self.segment_bytes).expect("the disk is healthy").0
    }

    fn write(&mut self, input: &mut Input) -> Persist {
        let number = self.hard_states.len() as u64 + 1;
        let hard_state = HardState {
            cluster_id: ClusterId(5),
            epoch: Epoch(1),
            disk_id: DiskId(6),
            boot: Boot(2),
            promised: View(number),
            accepted_view: View(number / 2),
            lease_us: number % 7,
            ..HardState::default()
        };
        self.hard_states.push(hard_state);
        let (place, far) = (input.byte(), u64::from(input.byte() % 32));
        let base = match place % 16 {
            2 => Some(self.last.saturating_sub(far)),
            3 => Some(self.last + far),
            _ => None,
        };
        if let Some(base) = base {
            self.current.retain(|&sequence, _| sequence > base);
            self.last = self.last.max(base);
        }
        let (from, truncate) = match place % 8 {
            0 => ((self.last + 1).saturating_sub(far).max(1), true),
            1 => (self.last + 2 + far, true),
            _ => (self.last + 1, false),
        };
        if from > self.last + 1 {
            self.current.clear();
        }
        self.current.retain(|&sequence, _| sequence < from);
        self.last = from - 1;
        let entries = (0..input.below(4)).map(|_| self.entry(number, input)).collect();
        let base = base.map(Sequence);
        Persist { write_id: WriteId(number), hard_state, base, from: Sequence(from), truncate, entries }
    }

    /// Mostly bytes that name the entry; now and then zeros, which look like a disk that was never written.
    fn entry(&mut self, number: u64, input: &mut Input) -> Bytes {
        self.last += 1;
        let shape = input.u16();
        let length = if shape.is_multiple_of(5) { usize::from(shape) % 9000 } else { usize::from(shape) % 100 };
        let is_blank = shape.is_multiple_of(7);
        self.has_blank_entries |= is_blank;
        let tag = if is_blank { 0 } else { self.last ^ number << 8 | 0x40 };
        let entry: Bytes = tag.to_le_bytes().into_iter().cycle().take(length).collect();
        self.written.entry(self.last).or_default().push(entry.clone());
        self.current.insert(self.last, entry.clone());
        entry
    }

    pub fn check_nothing_made_up(&self, found: &Found) {
        assert!(
            found.hard_state.is_none_or(|state| self.hard_states.contains(&state)),
            "{:?} was never written",
            found.hard_state
        );
        for (sequence, entry) in (found.first.0..).zip(&found.entries) {
            let written = self.written.get(&sequence);
            let is_known = entry.as_ref().is_none_or(|entry| written.is_some_and(|written| written.contains(entry)));
            assert!(is_known, "entry {sequence} was never written: {entry:?}");
        }
    }

    pub fn check_nothing_forgotten(&self, found: &Found) {
        if self.has_blank_entries || self.is_torn {
            return;
        }
        assert_eq!((found.last.0, found.hard_state.as_ref()), (self.last, self.hard_states.last()));
        for (sequence, entry) in (found.first.0..).zip(&found.entries) {
            assert!(entry.is_none() || entry.as_ref() == self.current.get(&sequence), "entry {sequence}: {entry:?}");
        }
    }
}

pub fn sample_scripts() -> Vec<Vec<u8>> {
    let entry = |length: u8| [length, 0];
    let append = |count: u8| [&[3, 7, 0, count, 0][..], &entry(61).repeat(usize::from(count))].concat();
    let long = [3, 7, 0, 1, 0, 0x88, 0x13].to_vec();
    let replace = [3, 8, 2, 1, 0, 33, 0].to_vec();
    let again = [3, 9, 1, 1, 0, 34, 0].to_vec();
    let base = [3, 2, 1, 1, 0, 36, 0].to_vec();
    let base_beyond = [3, 3, 5, 1, 0, 37, 0].to_vec();
    let trim = [1, 1].to_vec();
    let scripts = [
        vec![],
        vec![append(1)],
        vec![append(3), append(2), replace.clone(), append(3)],
        vec![append(1), long.clone(), long.clone(), trim, long.clone(), vec![2], append(2)],
        vec![append(2), again, append(1), long, replace],
        vec![append(3), base, append(2), base_beyond, append(1)],
    ];
    let mut encoded = Vec::new();
    for (steps, size) in scripts.into_iter().zip(0u8..) {
        let script = |end: &[u8]| [&[size % 3, 0][..], &steps.concat(), end].concat();
        encoded.push(script(&[0]));
        // One more entry of 4,000 bytes, of which some sectors are there.
        encoded.push(script(&[ENDS * ENDS_TORN, 7, 0, 1, 0, 0xa0, 0x0f, size, 0, 0]));
    }
    encoded
}
