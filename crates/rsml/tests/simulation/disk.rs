//! A node's log: the shipped write-ahead log over a simulated disk, or plain memory; with the orders on their way to it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rsml::core::LogRead;
use rsml::wal::{InMemoryStorage, SimulatedDisk, WalOptions, WalStorage};
use rsml::{HardState, Persist, Recovered, Sequence, Storage, Ticket};

use crate::random::Random;

enum Store {
    Memory(InMemoryStorage),
    Wal { disk: SimulatedDisk, wal: Option<Box<WalStorage>>, segment_bytes: u64, seed: u64 },
}

/// What survives a crash, and what is being written.
pub struct NodeDisk {
    store: Store,
    /// Every order that was reported as done: what recovery must at least find.
    reported: InMemoryStorage,
    queue: VecDeque<Persist>,
    reads: Vec<LogRead>,
    busy: Vec<Persist>,
    /// Orders that were being written at the crash: any first ones of them may be found afterwards.
    in_doubt: Vec<Persist>,
    pub hangs_until: u64,
}

/// Work that ended: what became durable, and what was read.
pub struct Done {
    pub durable: Option<(Ticket, HardState)>,
    pub entries: Vec<(LogRead, Vec<Bytes>)>,
}

impl NodeDisk {
    pub fn new(random: &mut Random) -> NodeDisk {
        let store = if random.one_in(3) {
            Store::Memory(InMemoryStorage::default())
        } else {
            let seed = random.next();
            let segment_bytes = 4096 * random.between(2, 24);
            Store::Wal { disk: SimulatedDisk::new(seed), wal: None, segment_bytes, seed }
        };
        NodeDisk {
            store,
            reported: InMemoryStorage::default(),
            queue: VecDeque::new(),
            reads: Vec::new(),
            busy: Vec::new(),
            in_doubt: Vec::new(),
            hangs_until: 0,
        }
    }

    pub fn take_orders(&mut self, orders: Vec<Persist>, reads: Vec<LogRead>) {
        self.queue.extend(orders);
        self.reads.extend(reads);
    }

    /// Whether there is work and none is under way; begins it.
    pub fn begin(&mut self) -> bool {
        if !self.busy.is_empty() || (self.queue.is_empty() && self.reads.is_empty()) {
            return false;
        }
        self.busy = self.queue.drain(..).collect();
        true
    }

    pub fn end(&mut self) -> Done {
        let orders = std::mem::take(&mut self.busy);
        let reads = std::mem::take(&mut self.reads);
        let storage = self.store.storage();
        if !orders.is_empty() {
            storage.persist(&orders).expect("the disk works");
            self.reported.persist(&orders).expect("memory never fails");
        }
        let storage = self.store.storage();
        let read = |r: LogRead| {
            let entries = storage.read(r.from, r.to, r.max_bytes).expect("the disk works");
            (r, entries)
        };
        let entries = reads.into_iter().map(read).collect();
        Done { durable: orders.last().map(|order| (order.ticket, order.hard_state)), entries }
    }

    /// The process dies, or the machine: of what was being written some may have reached the disk.
    pub fn crash(&mut self, random: &mut Random, power_loss: bool) {
        let busy = std::mem::take(&mut self.busy);
        match &mut self.store {
            Store::Memory(storage) => {
                let survives = random.below(busy.len() as u64 + 1) as usize;
                if survives > 0 {
                    storage.persist(&busy[..survives]).expect("memory never fails");
                }
            }
            Store::Wal { disk, wal, .. } => {
                if let Some(mut wal) = wal.take().filter(|_| !busy.is_empty()) {
                    disk.stop_after(random.below(4));
                    // Fails or not, nobody hears of it.
                    let _ = wal.persist(&busy);
                }
                if power_loss { disk.crash() } else { disk.kill() }
            }
        }
        self.in_doubt = busy;
        self.queue.clear();
        self.reads.clear();
        self.hangs_until = 0;
    }

    /// What was reported as durable: the hard state and the end of the log.
    pub fn reported(&mut self) -> (HardState, Sequence) {
        let known = self.reported.recover().expect("memory never fails");
        (known.hard_state.unwrap_or_default(), known.last)
    }

    /// Opens the log again, and checks that it holds what was reported, and nothing but a part of what was in doubt.
    pub fn start(&mut self, from: Sequence) -> (Recovered, Vec<Bytes>) {
        if let Store::Wal { disk, wal, segment_bytes, seed } = &mut self.store {
            let options =
                WalOptions { segment_bytes: *segment_bytes, background_preparation: false, segment_id_seed: *seed };
            *wal = Some(Box::new(WalStorage::over(Arc::new(disk.clone()), options)));
        }
        let (found, entries) = open(self.store.storage(), from);
        let mut in_doubt = std::mem::take(&mut self.in_doubt).into_iter();
        loop {
            let (known, known_entries) = open(&mut self.reported, from);
            if (known.hard_state, known.last, &known_entries) == (found.hard_state, found.last, &entries) {
                return (found, entries);
            }
            let Some(order) = in_doubt.next() else {
                panic!(
                    "the log holds {:?} to {}, reported was {:?} to {}",
                    found.hard_state, found.last, known.hard_state, known.last
                )
            };
            self.reported.persist(&[order]).expect("memory never fails");
        }
    }

    pub fn trim(&mut self, below: Sequence) {
        self.reported.trim(below).expect("memory never fails");
        self.store.storage().trim(below).expect("the disk works");
    }
}

fn open(storage: &mut dyn Storage, from: Sequence) -> (Recovered, Vec<Bytes>) {
    let recovered = storage.recover().expect("the log is sound");
    let entries = storage.load(from).expect("the log is sound");
    (recovered, entries.into_iter().map(|entry| entry.expect("nothing is damaged")).collect())
}

impl Store {
    fn storage(&mut self) -> &mut dyn Storage {
        match self {
            Store::Memory(storage) => storage,
            Store::Wal { wal, .. } => wal.as_deref_mut().expect("the log is open"),
        }
    }
}
