//! A disk in memory that fails like a real one: it loses, tears and damages writes that were not
//! synced, and on request fails writes, or writes to the wrong place. All randomness comes from a
//! seed, so each seed gives one history.
//!
//! Readers see a write at once, and it survives [`SimulatedDisk::kill`] (the process dies). It is
//! certain to survive [`SimulatedDisk::crash`] (a loss of power) only once it is synced; otherwise
//! chance decides, for each sector of 512 bytes. A failed sync marks writes as clean although not
//! all of them were written, as on Linux (Rebello et al., *Can Applications Recover from fsync
//! Failures?*, ATC 2020). Files are held in memory twice, so use small segments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};
use super::format::{SECTOR_BYTES, is_blank};

/// A fault of the next operation of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write fails after part of it was done.
    FailWrite,
    /// A sync fails. Some of the writes that it was to cover are lost, although they can still be
    /// read.
    FailSync,
    /// A write fails for lack of space.
    DiskFull,
    /// A write is acknowledged but never done.
    LoseWrite,
    /// A write goes to another offset.
    MisdirectWrite {
        /// How many bytes further.
        by: u64,
    },
    /// A read fails; the next one may not.
    FailRead,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
}

impl Fault {
    fn kind(self) -> Kind {
        match self {
            Fault::FailSync => Kind::Sync,
            Fault::FailRead => Kind::Read,
            Fault::FailWrite | Fault::DiskFull | Fault::LoseWrite | Fault::MisdirectWrite { .. } => Kind::Write,
        }
    }
}

/// A handle of the disk; clones share it.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
    /// Sectors that a failed sync did not write.
    lost: BTreeSet<usize>,
    /// Sectors that can't be read until they are written.
    unreadable: BTreeSet<usize>,
}

#[derive(Clone)]
enum DirectoryChange {
    Create(String, usize),
    Remove(String),
}

#[derive(Clone)]
struct State {
    random: u64,
    /// Increased when the process dies: files opened before that can't be used any more.
    generation: u64,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    directory_changes: Vec<DirectoryChange>,
    files: Vec<Content>,
    faults: VecDeque<Fault>,
    operations: u64,
    stop_at: Option<u64>,
    capacity_bytes: Option<u64>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            generation: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            directory_changes: Vec::new(),
            files: Vec::new(),
            faults: VecDeque::new(),
            operations: 0,
            stop_at: None,
            capacity_bytes: None,
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Another disk with the same content, history and future.
    pub fn duplicate(&self) -> Self {
        SimulatedDisk { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// Makes the future of the disk depend on another seed.
    pub fn reseed(&self, seed: u64) {
        self.state().random = seed;
    }

    /// Power is lost: a random part of the writes that were not synced survives.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// The process dies; everything that it wrote is still there.
    pub fn kill(&self) {
        self.state().restart();
    }

    /// How many writes, syncs, creations and removals there have been so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// After `operations` more operations, every further one fails until a crash or kill. If the
    /// first one that fails is a write, part of it is done.
    pub fn stop_after(&self, operations: u64) {
        let mut state = self.state();
        state.stop_at = Some(state.operations + operations);
    }

    /// Adds a fault. Several faults of the same kind occur one after the other.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Sets the most bytes of all files together. Writes that would exceed them fail.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// The contents of a file, as readers see it.
    ///
    /// # Panics
    /// If there is no such file. All methods that take a name do, except [`SimulatedDisk::put`].
    pub fn contents(&self, name: &str) -> Vec<u8> {
        self.state().content(name).current.clone()
    }

    /// Adds a durable file, or replaces the one of that name.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let file = state.files.len();
        state.files.push(Content { durable: bytes.clone(), current: bytes, ..Content::default() });
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    /// Damages one bit on the device.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let content = state.content(name);
        content.current[offset as usize] ^= 1 << bit;
        if let Some(byte) = content.durable.get_mut(offset as usize) {
            *byte ^= 1 << bit;
        }
    }

    /// Bit rot: replaces every byte of this range by another, random one.
    pub fn rot(&self, name: &str, range: Range<u64>) {
        let mut state = self.state();
        for offset in range {
            let change = (state.next_random() % 255 + 1) as u8;
            let content = state.content(name);
            content.current[offset as usize] ^= change;
            if let Some(byte) = content.durable.get_mut(offset as usize) {
                *byte ^= change;
            }
        }
    }

    /// The device forgets what was written to this range, which then reads as zeros.
    pub fn blank(&self, name: &str, range: Range<u64>) {
        let zeros = vec![0; (range.end - range.start) as usize];
        self.overwrite(name, range.start, &zeros);
    }

    /// Bit rot in a random sector that is durable and not blank. Returns its file and range; `None`
    /// if there is no such sector.
    pub fn rot_somewhere(&self) -> Option<(String, Range<u64>)> {
        let (name, range) = {
            let mut state = self.state();
            let written = state.written_sectors();
            let chosen = state.next_random().checked_rem(written.len() as u64)?;
            let (name, sector) = written[chosen as usize].clone();
            (name, sector * SECTOR_BYTES as u64..(sector + 1) * SECTOR_BYTES as u64)
        };
        self.rot(&name, range.clone());
        Some((name, range))
    }

    /// The sectors of this range can't be read until they are written again.
    pub fn make_unreadable(&self, name: &str, range: Range<u64>) {
        let sectors = sectors_of(&(range.start as usize..range.end as usize));
        self.state().content(name).unreadable.extend(sectors);
    }

    /// Replaces bytes on the device, within the file.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let content = state.content(name);
        let range = offset as usize..offset as usize + bytes.len();
        content.current[range.clone()].copy_from_slice(bytes);
        content.durable[range].copy_from_slice(bytes);
    }

    /// Replaces the disk by an empty one.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.names.clear();
        state.durable_names.clear();
        state.files.clear();
        state.restart();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators* (SplitMix64).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn content(&mut self, name: &str) -> &mut Content {
        let file = *self.names.get(name).unwrap_or_else(|| panic!("there is no file {name}"));
        &mut self.files[file]
    }

    /// The file and number of every whole durable sector that is not blank.
    fn written_sectors(&self) -> Vec<(String, u64)> {
        let mut written = Vec::new();
        for (name, &file) in &self.names {
            let sectors = self.files[file].durable.chunks_exact(SECTOR_BYTES).enumerate();
            let sectors = sectors.filter(|(_, sector)| !is_blank(sector));
            written.extend(sectors.map(|(number, _)| (name.clone(), number as u64)));
        }
        written
    }

    /// Decides which of `count` consecutive changes survive: none, all, only the first ones, or
    /// any.
    fn survivors(&mut self, count: usize) -> Vec<bool> {
        match self.next_random() % 4 {
            0 => vec![false; count],
            1 => vec![true; count],
            2 => {
                let first = (self.next_random() % (count as u64 + 1)) as usize;
                (0..count).map(|position| position < first).collect()
            }
            _ => (0..count).map(|_| self.next_random() & 1 == 1).collect(),
        }
    }

    fn crash(&mut self) {
        for file in 0..self.files.len() {
            let dirty = std::mem::take(&mut self.files[file].dirty);
            let survives = self.survivors(dirty.len());
            let content = &mut self.files[file];
            for (&sector, _) in dirty.iter().zip(&survives).filter(|(_, survives)| **survives) {
                content.make_durable(sector);
            }
            let lost = std::mem::take(&mut content.lost);
            content.current.resize(content.durable.len(), 0);
            for &sector in lost.iter().chain(&dirty) {
                content.forget(sector);
            }
        }
        let changes = std::mem::take(&mut self.directory_changes);
        let survives = self.survivors(changes.len());
        for (change, _) in changes.into_iter().zip(survives).filter(|(_, survives)| *survives) {
            self.make_change_durable(change);
        }
        self.names = self.durable_names.clone();
        self.forget_removed_files();
        self.restart();
    }

    fn restart(&mut self) {
        self.generation += 1;
        self.stop_at = None;
        self.faults.clear();
    }

    /// Frees the memory of files that no crash can bring back.
    fn forget_removed_files(&mut self) {
        let named: BTreeSet<usize> = self.durable_names.values().copied().collect();
        for (_, content) in self.files.iter_mut().enumerate().filter(|(file, _)| !named.contains(file)) {
            *content = Content::default();
        }
    }

    /// Returns the file that no name leads to any more.
    fn make_change_durable(&mut self, change: DirectoryChange) -> Option<usize> {
        match change {
            DirectoryChange::Create(name, file) => self.durable_names.insert(name, file),
            DirectoryChange::Remove(name) => self.durable_names.remove(&name),
        }
    }

    /// Counts an operation, or fails if the machine has stopped.
    fn begin(&mut self) -> io::Result<()> {
        if self.stop_at.is_some_and(|stop_at| self.operations >= stop_at) {
            return Err(io::Error::other("simulated: the machine stopped"));
        }
        self.operations += 1;
        Ok(())
    }

    fn next_fault(&mut self, kind: Kind) -> Option<Fault> {
        let position = self.faults.iter().position(|fault| fault.kind() == kind)?;
        self.faults.remove(position)
    }

    fn write(&mut self, file: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let stopped = self.stop_at.is_some_and(|stop_at| self.operations == stop_at);
        if let Err(error) = self.begin() {
            if stopped {
                self.operations += 1;
                self.write_partly(file, bytes, offset);
            }
            return Err(error);
        }
        let new_end = offset + bytes.len() as u64;
        let growth = new_end.saturating_sub(self.files[file].current.len() as u64);
        let used: u64 = self.names.values().map(|&file| self.files[file].current.len() as u64).sum();
        if self.capacity_bytes.is_some_and(|capacity| growth > 0 && used + growth > capacity) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "simulated: no space left"));
        }
        match self.next_fault(Kind::Write) {
            None | Some(Fault::FailSync | Fault::FailRead) => self.files[file].write(bytes, offset),
            Some(Fault::FailWrite) => {
                self.write_partly(file, bytes, offset);
                return Err(io::Error::other("simulated: the write failed"));
            }
            Some(Fault::DiskFull) => {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "simulated: no space left"));
            }
            Some(Fault::LoseWrite) => self.files[file].grow(new_end),
            Some(Fault::MisdirectWrite { by }) => {
                self.files[file].grow(new_end);
                self.files[file].write(bytes, offset + by);
            }
        }
        Ok(())
    }

    fn write_durably(&mut self, file: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_safe = self.stop_at.is_none() && self.faults.is_empty() && self.capacity_bytes.is_none();
        if is_safe && self.files[file].dirty.is_empty() {
            // The same as below, without a note of what is not durable in between.
            self.operations += 2;
            self.files[file].write_durably(bytes, offset);
            return Ok(());
        }
        self.write(file, bytes, offset)?;
        self.sync(file, sectors_of(&(offset as usize..offset as usize + bytes.len())))
    }

    fn write_partly(&mut self, file: usize, bytes: &[u8], offset: u64) {
        let sectors = bytes.len().div_ceil(SECTOR_BYTES);
        let survives = self.survivors(sectors);
        for (position, sector) in bytes.chunks(SECTOR_BYTES).enumerate().filter(|(position, _)| survives[*position]) {
            self.files[file].write(sector, offset + (position * SECTOR_BYTES) as u64);
        }
    }

    /// Makes those of these sectors durable that were written.
    fn sync(&mut self, file: usize, sectors: Range<usize>) -> io::Result<()> {
        self.begin()?;
        let dirty = std::mem::take(&mut self.files[file].dirty);
        let (dirty, others) = dirty.into_iter().partition(|sector| sectors.contains(sector));
        self.files[file].dirty = others;
        if self.next_fault(Kind::Sync).is_none() {
            self.files[file].make_all_durable(&dirty);
            return Ok(());
        }
        let survives = self.survivors(dirty.len());
        let content = &mut self.files[file];
        for (&sector, &survives) in dirty.iter().zip(&survives) {
            if survives {
                content.make_durable(sector);
            } else {
                content.lost.insert(sector);
            }
        }
        Err(io::Error::other("simulated: the sync failed"))
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let range = self.change(bytes, offset);
        self.dirty.extend(sectors_of(&range));
    }

    fn write_durably(&mut self, bytes: &[u8], offset: u64) {
        let sectors = sectors_of(&self.change(bytes, offset));
        self.make_run_durable(sectors);
    }

    fn change(&mut self, bytes: &[u8], offset: u64) -> Range<usize> {
        let range = offset as usize..offset as usize + bytes.len();
        if self.current.len() < range.end {
            self.current.resize(range.end, 0);
        }
        self.current[range.clone()].copy_from_slice(bytes);
        if !self.lost.is_empty() || !self.unreadable.is_empty() {
            for sector in sectors_of(&range) {
                self.lost.remove(&sector);
                self.unreadable.remove(&sector);
            }
        }
        range
    }

    /// Extends the file, as the file system does even if the written bytes are lost.
    fn grow(&mut self, bytes: u64) {
        let held = self.current.len();
        if held < bytes as usize {
            self.current.resize(bytes as usize, 0);
            self.dirty.extend(sectors_of(&(held..bytes as usize)));
        }
    }

    fn make_durable(&mut self, sector: usize) {
        self.make_run_durable(sector..sector + 1);
    }

    fn make_all_durable(&mut self, sectors: &BTreeSet<usize>) {
        let mut sectors = sectors.iter().copied().peekable();
        while let Some(first) = sectors.next() {
            let mut run = first..first + 1;
            while sectors.next_if_eq(&run.end).is_some() {
                run.end += 1;
            }
            self.make_run_durable(run);
        }
    }

    /// The sectors of a range that follow each other.
    fn make_run_durable(&mut self, sectors: Range<usize>) {
        let end = (sectors.end * SECTOR_BYTES).min(self.current.len());
        let range = sectors.start * SECTOR_BYTES..end;
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[range.clone()].copy_from_slice(&self.current[range]);
    }

    /// Drops changes to a sector that did not reach the device.
    fn forget(&mut self, sector: usize) {
        let end = ((sector + 1) * SECTOR_BYTES).min(self.durable.len());
        if let Some(durable) = self.durable.get(sector * SECTOR_BYTES..end) {
            self.current[sector * SECTOR_BYTES..end].copy_from_slice(durable);
        }
    }
}

impl Disk for SimulatedDisk {
    fn describe(&self, name: &str) -> String {
        format!("simulated disk/{name}")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin()?;
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(name.to_owned(), file);
        state.directory_changes.push(DirectoryChange::Create(name.to_owned(), file));
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, generation: state.generation }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, generation: state.generation }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.directory_changes.push(DirectoryChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        for change in std::mem::take(&mut state.directory_changes) {
            if let Some(file) = state.make_change_durable(change) {
                state.files[file] = Content::default();
            }
        }
        Ok(())
    }
}

fn sectors_of(range: &Range<usize>) -> Range<usize> {
    range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES)
}

struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
    generation: u64,
}

impl SimulatedFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.generation == self.generation {
            Ok(state)
        } else {
            Err(io::Error::other("simulated: the process that opened this file is dead"))
        }
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let fails = state.next_fault(Kind::Read).is_some();
        let content = &state.files[self.file];
        let range = offset as usize..offset as usize + bytes.len();
        if fails || content.unreadable.range(sectors_of(&range)).next().is_some() {
            return Err(io::Error::other("simulated: the device can't read this"));
        }
        bytes.copy_from_slice(content.current.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state()?.write(self.file, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state()?.sync(self.file, 0..usize::MAX)
    }

    fn write_durably(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state()?.write_durably(self.file, bytes, offset)
    }

    fn end_writing(&self) {}

    fn size(&self) -> io::Result<u64> {
        Ok(self.state()?.files[self.file].current.len() as u64)
    }
}
