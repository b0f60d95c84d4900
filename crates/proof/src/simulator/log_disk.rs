//! A node's log: the shipped write-ahead log over a simulated disk, and the writes on their way to
//! it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rsml::core::{LogRead, ReadPurpose};
use rsml::wal::{Fault, SimulatedDisk, WalOptions, WalStorage};
use rsml::{Persist, Recovered, Sequence, Storage, StorageError, WriteId};

use super::expected_log::ExpectedLog;
use super::random::Random;

/// When writes that found no space are tried again; as the driver does.
pub const SPACE_INTERVAL_US: u64 = 500_000;

const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;

/// The durable contents, and the write in progress.
pub struct LogDisk {
    disk: SimulatedDisk,
    wal: Option<Box<WalStorage>>,
    segment_bytes: u64,
    seed: u64,
    /// Every write that was reported as done: what recovery must at least find.
    pub ledger: ExpectedLog,
    queue: VecDeque<Persist>,
    reads: Vec<LogRead>,
    /// Entries below may be removed once the writes through that id are done.
    trim: Option<(Sequence, WriteId)>,
    busy: Vec<Persist>,
    is_busy: bool,
    /// Writes that were being written at the crash: any first ones of them may be found afterwards.
    in_doubt: Vec<Persist>,
    /// Sectors have rotted, once.
    is_damaged: bool,
    /// Entries that were there and cannot be read any more, whether the replica knows or not.
    damaged: BTreeSet<Sequence>,
    /// No space was found: not before this is it looked for again.
    full_until: u64,
    pub hangs_until: u64,
}

/// Work that ended: what became durable, and what was read.
pub struct Done {
    pub durable: Option<WriteId>,
    pub entries: Vec<(LogRead, Vec<Bytes>)>,
}

impl LogDisk {
    pub fn new(random: &mut Random) -> LogDisk {
        let seed = random.draw();
        LogDisk {
            disk: SimulatedDisk::new(seed),
            wal: None,
            segment_bytes: 4096 * random.between(2, 24),
            seed,
            ledger: ExpectedLog::new(),
            queue: VecDeque::new(),
            reads: Vec::new(),
            trim: None,
            busy: Vec::new(),
            is_busy: false,
            in_doubt: Vec::new(),
            is_damaged: false,
            damaged: BTreeSet::new(),
            full_until: 0,
            hangs_until: 0,
        }
    }

    pub fn take_writes(&mut self, writes: Vec<Persist>, reads: Vec<LogRead>) {
        self.queue.extend(writes);
        self.reads.extend(reads);
    }

    /// Whether there is work and none is under way; begins it.
    pub fn begin(&mut self, now: u64) -> bool {
        let may_write = !self.queue.is_empty() && now >= self.full_until;
        if self.is_busy || (!may_write && self.reads.is_empty() && self.trim.is_none()) {
            return false;
        }
        self.is_busy = true;
        if may_write {
            self.busy = self.queue.drain(..).collect();
        }
        true
    }

    /// The work under way is done, or has failed: then the replica must stop.
    pub fn end(&mut self, now: u64) -> Result<Done, StorageError> {
        self.is_busy = false;
        let reads = std::mem::take(&mut self.reads);
        let storage = self.wal.as_deref_mut().expect("the log is open");
        let done = if self.busy.is_empty() { 0 } else { storage.persist(&self.busy)? };
        let mut writes = std::mem::take(&mut self.busy);
        // Without space for the rest, it is brought again, before all that came since.
        for write in writes.drain(done..).rev() {
            self.full_until = now + SPACE_INTERVAL_US;
            self.queue.push_front(write);
        }
        for write in &writes {
            self.ledger.apply(write);
            if let Some(base) = write.base {
                self.damaged = self.damaged.split_off(&base.next());
            }
            if write.truncate {
                self.damaged.split_off(&write.from);
            }
        }
        let mut entries = Vec::new();
        for read in reads {
            let found = storage.read(read.from, read.to, read.max_bytes)?;
            if read.purpose == ReadPurpose::Tail {
                let known = read.from.0 + found.len() as u64;
                self.ledger.tail_lost((known..=read.to.0).map(Sequence).collect());
            }
            entries.push((read, found));
        }
        let next = self.queue.front().map(|write| write.write_id);
        let may_trim = |after: WriteId| next.is_none_or(|next| next > after) || self.full_until > now;
        if let Some((below, _)) = self.trim.filter(|(_, after)| may_trim(*after)) {
            self.trim = None;
            storage.trim(below)?;
            self.ledger.trim(below);
            self.damaged = self.damaged.split_off(&below);
            // That may have made space.
            self.full_until = 0;
        }
        Ok(Done { durable: writes.last().map(|write| write.write_id), entries })
    }

    /// Whether writes find space, and more would.
    pub fn has_space(&self, now: u64) -> bool {
        !self.waits_for_space(now) && self.wal.as_ref().is_none_or(|wal| wal.has_space())
    }

    /// Whether writes wait for space.
    pub fn waits_for_space(&self, now: u64) -> bool {
        self.full_until > now && !self.queue.is_empty()
    }

    /// The next write, or the next synchronisation, fails.
    pub fn fail_next(&mut self, fault: Fault) {
        self.disk.inject(fault);
    }

    /// From now on files cannot grow, or can again.
    pub fn set_full(&mut self, is_full: bool) {
        self.disk.set_capacity_bytes(is_full.then_some(0));
    }

    /// Sectors rot: not those of the last group that was acknowledged, whose loss looks like a torn
    /// write that was never reported, and not those after it, where up to two may have been begun.
    /// False when there is nothing else.
    pub fn rot(&mut self, sectors: u64, random: &mut Random) -> bool {
        let mut headers: Vec<(u64, String, usize)> = Vec::new();
        let mut written: Vec<(String, usize)> = Vec::new();
        for name in self.disk.names() {
            let content = self.disk.contents(&name);
            for (position, block) in content.chunks(BLOCK_BYTES).enumerate() {
                if block.starts_with(b"RSML-WAL") {
                    let number = u64::from_le_bytes(block[32..40].try_into().expect("eight bytes"));
                    headers.push((number, name.clone(), position * BLOCK_BYTES));
                }
            }
            let filled = content.chunks(SECTOR_BYTES).enumerate().filter(|(_, sector)| sector.iter().any(|b| *b != 0));
            written.extend(filled.map(|(position, _)| (name.clone(), position * SECTOR_BYTES)));
        }
        headers.sort_unstable();
        let newest = &headers[headers.len().saturating_sub(3)..];
        let is_old = |name: &str, offset: usize| newest.iter().all(|(_, file, from)| file != name || offset < *from);
        written.retain(|(name, offset)| is_old(name, *offset));
        if written.is_empty() {
            return false;
        }
        for _ in 0..sectors {
            let (name, offset) = &written[random.below(written.len() as u64) as usize];
            let sector = *offset as u64..(*offset + SECTOR_BYTES) as u64;
            // A sector that reads as zeros looks like one that was never written.
            match random.one_in(3) {
                true => self.disk.blank(name, sector),
                false => self.disk.rot(name, sector),
            }
        }
        self.is_damaged = true;
        self.damaged.extend(self.find_damage());
        true
    }

    /// The entries that the next start would find to be lost.
    fn find_damage(&self) -> BTreeSet<Sequence> {
        let disk = self.disk.duplicate();
        // Failures that are planned are for the disk itself.
        disk.kill();
        let mut copy = WalStorage::over(Arc::new(disk), self.options());
        let found = copy.recover().expect("the log is sound, but for what is inside");
        let entries = copy.load(Sequence::ZERO).expect("the log is readable");
        let is_lost = |(_, entry): &(u64, &Option<Bytes>)| entry.is_none();
        (found.first.0..).zip(&entries).filter(is_lost).map(|(sequence, _)| Sequence(sequence)).collect()
    }

    fn options(&self) -> WalOptions {
        let (segment_bytes, segment_id_seed) = (self.segment_bytes, self.seed);
        WalOptions { segment_bytes, background_preparation: false, direct_writes: false, segment_id_seed }
    }

    /// Whether every entry that the log holds can be read.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty()
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
        self.trim = None;
        self.is_busy = false;
        self.full_until = 0;
        self.hangs_until = 0;
    }

    /// Opens the log again.
    pub fn recover(&mut self) -> Recovered {
        // A log begins only where there is space for its first segment: the process is started once there is.
        if self.disk.names().is_empty() {
            self.set_full(false);
        }
        let options = self.options();
        let wal = self.wal.insert(Box::new(WalStorage::over(Arc::new(self.disk.clone()), options)));
        let found = wal.recover().expect("the log is sound, but for what is inside");
        self.settle_doubt(&found);
        assert!(found.lost.is_empty() || self.is_damaged, "{:?} are lost of a sound log", found.lost);
        let is_shorter = self.ledger.first() < found.first;
        assert!(
            !is_shorter || self.is_damaged,
            "a sound log begins at {}, not at {}",
            found.first,
            self.ledger.first()
        );
        self.ledger.recovered(found.first);
        found
    }

    /// Finds out how many of the writes that were being written at the crash are there: the first
    /// ones, as many as explain what was found.
    fn settle_doubt(&mut self, found: &Recovered) {
        let is_found = |ledger: &ExpectedLog| (found.hard_state, found.last) == (ledger.hard_state, ledger.last());
        let mut candidates: Vec<ExpectedLog> = Vec::new();
        let mut ledger = self.ledger.clone();
        for write in std::mem::take(&mut self.in_doubt) {
            candidates.extend(is_found(&ledger).then(|| ledger.clone()));
            ledger.apply(&write);
        }
        candidates.extend(is_found(&ledger).then_some(ledger));
        assert!(
            !candidates.is_empty(),
            "the log holds {:?} to {}, reported was {:?} to {}",
            found.hard_state,
            found.last,
            self.ledger.hard_state,
            self.ledger.last()
        );
        // A write that writes committed entries below a log's length replaces entries, and changes
        // neither hard state nor length: then only the entries tell.
        if candidates.len() > 1 {
            let entries = self.entries_on_disk(found.first);
            let explains =
                |ledger: &ExpectedLog| entries.iter().all(|(sequence, entry)| ledger.allows(*sequence, entry));
            candidates.retain(explains);
        }
        let settled = candidates.into_iter().next();
        self.ledger = settled.expect("the log holds entries that no write accounts for");
    }

    /// All that can be read.
    fn entries_on_disk(&mut self, first: Sequence) -> Vec<(Sequence, Bytes)> {
        let wal = self.wal.as_deref_mut().expect("the log is open");
        let entries = wal.load(Sequence::ZERO).expect("the log is readable");
        (first.0..).map(Sequence).zip(entries).filter_map(|(sequence, entry)| Some((sequence, entry?))).collect()
    }

    /// The entries from `from` on, `None` for a lost one. Checks that the log holds what was
    /// reported.
    pub fn load(&mut self, found: &Recovered, from: Sequence) -> Vec<Option<Bytes>> {
        let wal = self.wal.as_deref_mut().expect("the log is open");
        let entries = wal.load(from).expect("the log is readable");
        let first = from.max(found.first);
        let mut lost = BTreeSet::new();
        for (place, entry) in (first.0..).zip(&entries) {
            let sequence = Sequence(place);
            match entry {
                Some(entry) => {
                    assert!(self.ledger.allows(sequence, entry), "entry {sequence} is another one");
                }
                None => {
                    assert!(self.is_damaged, "entry {sequence} is lost of a sound log");
                    lost.insert(sequence);
                }
            }
        }
        self.ledger.loaded(lost);
        entries
    }

    pub fn trim(&mut self, below: Sequence) {
        let last = self.queue.back().or(self.busy.last()).map_or(WriteId(0), |write| write.write_id);
        self.trim = Some((below, last));
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.wal.as_ref().map_or(0, |wal| wal.statistics().bytes_on_disk)
    }
}

#[cfg(test)]
mod tests {
    use rsml::{Boot, ClusterId, DiskId, HardState, View};

    use super::*;

    fn persist(write_id: u64, from: u64, entries: &[&'static str]) -> Persist {
        let hard_state = HardState {
            cluster_id: ClusterId(1),
            disk_id: DiskId(2),
            boot: Boot(1),
            promised: View(512),
            accepted_view: View(256),
            ..HardState::default()
        };
        let entries: Vec<Bytes> = entries.iter().map(|entry| Bytes::from_static(entry.as_bytes())).collect();
        let truncate = write_id > 1;
        Persist { write_id: WriteId(write_id), hard_state, base: None, from: Sequence(from), truncate, entries }
    }

    fn open() -> LogDisk {
        let mut log = LogDisk::new(&mut Random::new(7));
        let found = log.recover();
        log.load(&found, Sequence(1));
        log
    }

    fn write(log: &mut LogDisk, writes: Vec<Persist>) {
        log.take_writes(writes, Vec::new());
        assert!(log.begin(0), "there is something to write");
    }

    /// A crash while `second` is being written, as often as it takes to see both outcomes. Returns
    /// what was found.
    fn found_after_crash(second: &Persist) -> BTreeSet<Vec<Bytes>> {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut log = open();
            write(&mut log, vec![persist(1, 1, &["birth", "own", "tail"])]);
            log.end(0).expect("the disk is sound");
            write(&mut log, vec![second.clone()]);
            log.crash(&mut Random::new(seed), true);
            let found = log.recover();
            let entries = log.load(&found, Sequence(1));
            seen.insert(entries.into_iter().map(|entry| entry.expect("nothing was damaged")).collect());
        }
        seen
    }

    #[test]
    fn a_replacement_that_changes_neither_hard_state_nor_length_may_be_found_or_not() {
        let seen = found_after_crash(&persist(2, 2, &["chosen", "tail"]));
        assert_eq!(seen.len(), 2, "{seen:?}");
    }

    #[test]
    #[should_panic(expected = "is another one")]
    fn an_entry_that_nobody_ordered_is_seen() {
        let mut log = open();
        write(&mut log, vec![persist(1, 1, &["birth", "own", "tail"])]);
        log.end(0).expect("the disk is sound");
        let wal = log.wal.as_deref_mut().expect("it is open");
        wal.persist(&[persist(2, 2, &["made up", "tail"])]).expect("the disk is sound");
        log.crash(&mut Random::new(1), false);
        let found = log.recover();
        log.load(&found, Sequence(1));
    }
}
