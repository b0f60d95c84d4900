//! A node's log: the shipped write-ahead log over a simulated disk, and the orders on their way to it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rsml::core::LogRead;
use rsml::wal::{Fault, SimulatedDisk, WalOptions, WalStorage};
use rsml::{HardState, Persist, Recovered, Sequence, Storage, StorageError, Ticket};
use xxhash_rust::xxh3::xxh3_64;

use super::ledger::Ledger;
use super::random::Random;

/// What survives a crash, and what is being written.
pub struct LogDisk {
    disk: SimulatedDisk,
    wal: Option<Box<WalStorage>>,
    segment_bytes: u64,
    seed: u64,
    /// Every order that was reported as done: what recovery must at least find.
    pub ledger: Ledger,
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

impl LogDisk {
    pub fn new(random: &mut Random) -> LogDisk {
        let seed = random.next();
        LogDisk {
            disk: SimulatedDisk::new(seed),
            wal: None,
            segment_bytes: 4096 * random.between(2, 24),
            seed,
            ledger: Ledger::new(),
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

    /// The work under way is done, or has failed: then the replica must stop.
    pub fn end(&mut self) -> Result<Done, StorageError> {
        let reads = std::mem::take(&mut self.reads);
        let storage = self.wal.as_deref_mut().expect("the log is open");
        let done = if self.busy.is_empty() { 0 } else { storage.persist(&self.busy)? };
        let mut orders = std::mem::take(&mut self.busy);
        // Without space for the rest, it is brought again, before all that came since.
        for order in orders.drain(done..).rev() {
            self.queue.push_front(order);
        }
        for order in &orders {
            self.ledger.apply(order);
        }
        let mut entries = Vec::new();
        for read in reads {
            let found = storage.read(read.from, read.to, read.max_bytes)?;
            entries.push((read, found));
        }
        Ok(Done { durable: orders.last().map(|order| (order.ticket, order.hard_state)), entries })
    }

    /// The next write, or the next synchronisation, fails.
    pub fn fail_next(&mut self, fault: Fault) {
        self.disk.inject(fault);
    }

    /// The process dies, or the machine: of what was being written some may have reached the disk.
    pub fn crash(&mut self, random: &mut Random, power_loss: bool) {
        let busy = std::mem::take(&mut self.busy);
        if let Some(mut wal) = self.wal.take().filter(|_| !busy.is_empty()) {
            self.disk.stop_after(random.below(4));
            // Fails or not, nobody hears of it.
            let _ = wal.persist(&busy);
        }
        if power_loss {
            self.disk.crash()
        } else {
            self.disk.kill()
        }
        self.in_doubt.extend(busy);
        self.queue.clear();
        self.reads.clear();
        self.hangs_until = 0;
    }

    /// What was reported as durable: the hard state and the end of the log.
    pub fn reported(&self) -> (HardState, Sequence) {
        (self.ledger.promised(), self.ledger.last())
    }

    /// Opens the log again.
    pub fn recover(&mut self) -> Recovered {
        let options =
            WalOptions { segment_bytes: self.segment_bytes, background_preparation: false, segment_id_seed: self.seed };
        let wal = self.wal.insert(Box::new(WalStorage::over(Arc::new(self.disk.clone()), options)));
        wal.recover().expect("the log is sound")
    }

    /// The entries from `from` on. Checks that the log holds what was reported, and nothing but a part of what was in
    /// doubt.
    pub fn load(&mut self, found: &Recovered, from: Sequence) -> Vec<Bytes> {
        let wal = self.wal.as_deref_mut().expect("the log is open");
        let entries = wal.load(from).expect("the log is sound");
        let entries: Vec<Bytes> = entries.into_iter().map(|entry| entry.expect("nothing is damaged")).collect();
        let first = from.max(found.first);
        let mut in_doubt = std::mem::take(&mut self.in_doubt).into_iter();
        while !is_as_expected(found, first, &entries, &self.ledger) {
            let Some(order) = in_doubt.next() else {
                panic!(
                    "the log holds {:?} to {}, reported was {:?} to {}",
                    found.hard_state,
                    found.last,
                    self.ledger.hard_state,
                    self.ledger.last()
                )
            };
            self.ledger.apply(&order);
        }
        entries
    }

    pub fn trim(&mut self, below: Sequence) -> Result<(), StorageError> {
        self.ledger.trim(below);
        self.wal.as_deref_mut().expect("the log is open").trim(below)
    }

    /// Bytes of all files: what a log that is never trimmed would let grow.
    pub fn bytes(&self) -> u64 {
        self.wal.as_ref().map_or(0, |wal| wal.statistics().bytes_on_disk)
    }
}

fn is_as_expected(found: &Recovered, first: Sequence, entries: &[Bytes], expected: &Ledger) -> bool {
    let same_entry = |(place, entry): (u64, &Bytes)| {
        let hash = expected.hash_at(Sequence(first.0 + place));
        hash.is_none_or(|hash| hash == xxh3_64(entry))
    };
    (found.hard_state, found.last) == (expected.hard_state, expected.last()) && (0..).zip(entries).all(same_entry)
}
