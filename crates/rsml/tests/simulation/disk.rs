//! A node's log: the shipped write-ahead log over a simulated disk, or plain memory; with the orders on their way to it.

use std::collections::{BTreeSet, VecDeque};
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
    /// Entries that were said to be lost, and have not been replaced since.
    lost: BTreeSet<Sequence>,
    /// What recovery found: the first entry, and all.
    found: (Sequence, Vec<Option<Bytes>>),
    unread: bool,
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
            lost: BTreeSet::new(),
            found: Default::default(),
            unread: false,
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
            for order in &orders {
                if let Some(base) = order.base {
                    self.unread = false;
                    self.lost = self.lost.split_off(&base.next());
                }
                if order.truncate {
                    self.lost.split_off(&order.from);
                }
            }
        }
        let (storage, lost) = (self.store.storage(), &self.lost);
        let read = |r: LogRead| {
            let mut entries = storage.read(r.from, r.to, r.max_bytes).expect("the disk works");
            if let Some(lost) = lost.range(r.from..).next() {
                entries.truncate((lost.0 - r.from.0) as usize);
            }
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

    /// What the log takes.
    pub fn bytes(&mut self) -> u64 {
        self.store.storage().statistics().bytes_on_disk
    }

    /// The log is gone, the disk empty.
    pub fn wipe(&mut self, random: &mut Random) {
        *self = NodeDisk::new(random);
    }

    /// Opens the log again, and checks that it holds what was reported, and nothing but a part of what was in doubt.
    pub fn open(&mut self) -> Recovered {
        self.lost.clear();
        self.unread = true;
        if let Store::Wal { disk, wal, segment_bytes, seed } = &mut self.store {
            let options =
                WalOptions { segment_bytes: *segment_bytes, background_preparation: false, segment_id_seed: *seed };
            *wal = Some(Box::new(WalStorage::over(Arc::new(disk.clone()), options)));
        }
        let found = self.store.storage().recover().expect("the log is sound");
        let entries = self.store.storage().load(Sequence::ZERO).expect("the log is sound");
        let mut in_doubt = std::mem::take(&mut self.in_doubt).into_iter();
        loop {
            let known = self.reported.recover().expect("memory never fails");
            let known_entries = self.reported.load(found.first).expect("memory never fails");
            let is_same = known_entries.len() <= entries.len() && entries.ends_with(&known_entries);
            if (known.hard_state, known.last) == (found.hard_state, found.last) && is_same {
                self.found = (found.first, entries);
                return found;
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

    /// The entries from `from` on; of some runs of them it is said that they are lost.
    pub fn load(&mut self, from: Sequence, losses: u64, random: &mut Random) -> Vec<Option<Bytes>> {
        self.unread = false;
        let (first, mut entries) = std::mem::take(&mut self.found);
        let from = from.max(first);
        entries.drain(..((from.0 - first.0) as usize).min(entries.len()));
        for _ in 0..losses {
            let at = random.below(entries.len() as u64) as usize;
            let run = random.between(1, 6) as usize;
            entries.iter_mut().skip(at).take(run).for_each(|entry| *entry = None);
        }
        let sequences = (from.0..).map(Sequence);
        self.lost = sequences.zip(&entries).filter(|(_, entry)| entry.is_none()).map(|(s, _)| s).collect();
        entries
    }

    /// The last entry before the first that is lost.
    /// Of a log that was not read at start nothing is vouched for.
    pub fn sound_last(&self) -> Option<Sequence> {
        match self.unread {
            true => Some(self.found.0.previous()),
            false => self.lost.first().map(|lost| lost.previous()),
        }
    }

    pub fn trim(&mut self, below: Sequence) {
        self.reported.trim(below).expect("memory never fails");
        self.store.storage().trim(below).expect("the disk works");
    }
}

impl Store {
    fn storage(&mut self) -> &mut dyn Storage {
        match self {
            Store::Memory(storage) => storage,
            Store::Wal { wal, .. } => wal.as_deref_mut().expect("the log is open"),
        }
    }
}
