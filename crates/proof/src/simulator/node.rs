//! A simulated node: its process while it runs, and what outlives it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rsml::core::{CoreOptions, ReadId, Replica, RequestId, Start};
use rsml::{Applier, DiskId, Sequence, View};

use super::clock::Clock;
use super::database::{Database, DatabaseFiles, Executor};
use super::events::Process;
use super::log_disk::LogDisk;
use super::random::Random;
use super::workload::OpId;

/// A read point that somebody waits for.
pub struct Barrier {
    /// The client, and the step in which it asked.
    pub client: usize,
    pub step: u64,
    /// What the point must cover.
    pub floor: Sequence,
}

pub struct Running {
    pub core: Replica,
    pub applier: Applier<Executor>,
    pub database: Database,
    pub clock: Clock,
    /// Requests of this start, by id until they have a number, then by number.
    pub waiting: BTreeMap<RequestId, OpId>,
    pub numbered: BTreeMap<u64, OpId>,
    pub reads: BTreeMap<ReadId, Barrier>,
    /// Read points known, whose entries are not applied yet.
    pub points: Vec<(Sequence, Barrier)>,
    /// Entries that wait to be applied.
    pub unapplied: VecDeque<(Sequence, Bytes)>,
    pub apply_planned: bool,
    pub settle_planned: bool,
    /// The view that it was last seen leading.
    pub led: View,
}

impl Running {
    pub fn is_primary(&self) -> bool {
        self.core.primary() == Some(self.core.id())
    }

    pub fn applied(&self) -> Sequence {
        self.applier.state().sequence
    }
}

pub struct Node {
    pub place: usize,
    pub incarnation: u64,
    pub running: Option<Running>,
    pub files: Arc<DatabaseFiles>,
    pub log: LogDisk,
    pub paused_until: u64,
    /// For good: by its own word, its database is not what the log says.
    pub stopped: bool,
}

impl Node {
    pub fn new(place: usize, random: &mut Random) -> Node {
        Node {
            place,
            incarnation: 0,
            running: None,
            files: DatabaseFiles::new(),
            log: LogDisk::new(random),
            paused_until: 0,
            stopped: false,
        }
    }

    /// The present process, or the last one.
    pub fn process(&self) -> Process {
        Process { node: self.place, incarnation: self.incarnation }
    }

    pub fn start(&mut self, options: CoreOptions, random: &mut Random, clock: Clock, now: u64) {
        self.incarnation += 1;
        let recovered = self.log.recover();
        let generation = recovered.hard_state.map_or(0, |hard| hard.generation);
        let (database, executor) = self.files.open(generation, random);
        let applier = Applier::new(executor).expect("the database is sound").recording_every(options.digest_interval);
        let state = applier.state().clone();
        let entries = self.log.load(&recovered, state.sequence.next());
        let (disk_id, cluster_id) = (random.next(), random.next());
        let start = Start {
            recovered,
            entries,
            state,
            new_disk_id: DiskId(u128::from(disk_id)),
            new_cluster_id: u128::from(cluster_id) | 1,
        };
        self.running = Some(Running {
            core: Replica::new(options, start, clock.read(now)),
            applier,
            database,
            clock,
            waiting: BTreeMap::new(),
            numbered: BTreeMap::new(),
            reads: BTreeMap::new(),
            points: Vec::new(),
            unapplied: VecDeque::new(),
            apply_planned: false,
            settle_planned: false,
            led: View::BIRTH,
        });
    }

    /// Takes the process away; what it had is returned, so that whoever waited for it can be told.
    pub fn crash(&mut self, random: &mut Random, power_loss: bool) -> Option<Running> {
        let mut running = self.running.take()?;
        self.log.crash(random, power_loss);
        // The engine is not to be open when it loses what it lost: the process goes first.
        running.unapplied.clear();
        self.files.crash();
        Some(running)
    }

    pub fn is_primary(&self) -> bool {
        self.running.as_ref().is_some_and(Running::is_primary)
    }
}
