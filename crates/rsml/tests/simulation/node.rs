//! A simulated node: its process while it runs, and what outlives it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use rsml::core::{CoreOptions, ReadId, Replica, RequestId, Start, TransferId};
use rsml::{Applier, Boot, DiskId, ExecutionNotifier, Instant, Sequence, SnapshotInstaller, SnapshotServer, View};

use crate::disk::NodeDisk;
use crate::executor::ListExecutor;
use crate::random::Random;

pub struct Running {
    pub core: Replica,
    pub applier: Applier<ListExecutor>,
    /// Requests of this start, by id until they have a number, then by number.
    pub waiting: HashMap<RequestId, Bytes>,
    pub numbered: BTreeMap<u64, Bytes>,
    /// Those among them that were answered already: they were given up before they were ever sent.
    pub withdrawn: BTreeSet<u64>,
    pub reads: HashMap<ReadId, Sequence>,
    /// Transfers that it was asked for.
    pub transfers: BTreeSet<TransferId>,
    /// The view that it was last seen leading.
    pub led: View,
    pub server: SnapshotServer,
    pub installer: SnapshotInstaller,
}

/// A node's monotonic clock: starts anywhere, and runs at a pace of its own.
pub struct NodeClock {
    shown: u64,
    /// When it showed that.
    at: u64,
    /// In millionths of the true pace.
    pace: u64,
}

impl NodeClock {
    pub fn new(random: &mut Random, drift_ppm: u64) -> NodeClock {
        let pace = 1_000_000 - drift_ppm + random.below(2 * drift_ppm + 1);
        // As far off as may be, in half of the cases.
        let pace = match random.below(4) {
            0 => 1_000_000 - drift_ppm,
            1 => 1_000_000 + drift_ppm,
            _ => pace,
        };
        NodeClock { shown: random.below(1 << 40), at: 0, pace }
    }

    pub fn show(&self, now: u64) -> Instant {
        Instant(self.shown + (now - self.at) * self.pace / 1_000_000)
    }

    pub fn leap(&mut self, us: u64) {
        self.shown += us;
    }
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
    pub incarnation: u64,
    pub running: Option<Running>,
    pub database: ListExecutor,
    pub disk: NodeDisk,
    pub paused_until: u64,
    pub clock: NodeClock,
    /// It is down, and its disk has lost something that it could not get back before.
    pub has_losses: bool,
    pub was_voter: bool,
    /// It stopped for good.
    pub stopped: bool,
}

impl Node {
    pub fn new(random: &mut Random, drift_ppm: u64) -> Node {
        Node {
            clock: NodeClock::new(random, drift_ppm),
            incarnation: 0,
            running: None,
            database: ListExecutor::default(),
            disk: NodeDisk::new(random),
            paused_until: 0,
            has_losses: false,
            was_voter: false,
            stopped: false,
        }
    }

    /// `losses`: how many runs of entries the disk has lost meanwhile.
    pub fn start(&mut self, options: CoreOptions, losses: u64, random: &mut Random, now: Instant) {
        self.incarnation += 1;
        let recovered = self.disk.open();
        let mut database = std::mem::take(&mut self.database);
        database.open(recovered.hard_state.map_or(0, |hard| hard.generation));
        let applier = Applier::new(database).expect("the database is sound");
        let applier = applier.recording_every(options.digest_interval);
        let state = applier.state().clone();
        let needs_database = recovered.first > state.sequence.next();
        let entries = match needs_database {
            true => Vec::new(),
            false => self.disk.load(state.sequence.next(), losses, random),
        };
        let boot = recovered.hard_state.map_or(0, |hard| hard.boot.0) + 1;
        let snapshots = applier.executor().snapshots();
        let (disk_id, cluster_id) = (random.next(), random.next());
        let start = Start {
            recovered,
            entries,
            state,
            new_disk_id: DiskId(u128::from(disk_id)),
            new_cluster_id: u128::from(cluster_id) | 1,
        };
        self.running = Some(Running {
            core: Replica::new(options, start, now),
            applier,
            waiting: HashMap::new(),
            numbered: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            reads: HashMap::new(),
            transfers: BTreeSet::new(),
            led: View::BIRTH,
            server: SnapshotServer::new(snapshots.clone(), Boot(boot)),
            installer: SnapshotInstaller::new(snapshots),
        });
    }

    /// Everything on this node's disk is gone.
    pub fn wipe(&mut self, random: &mut Random) {
        self.disk.wipe(random);
        self.database = ListExecutor::default();
    }

    /// False when it was not running.
    pub fn crash(&mut self, random: &mut Random, power_loss: bool) -> bool {
        let Some(mut running) = self.running.take() else { return false };
        let status = running.core.status();
        self.has_losses = !status.lost.is_empty() || (status.is_catching_up && !status.is_voter);
        self.was_voter |= status.is_voter;
        self.database = std::mem::take(running.applier.executor_mut());
        self.database.crash();
        self.disk.crash(random, power_loss);
        true
    }

    pub fn is_primary(&self) -> bool {
        self.running.as_ref().is_some_and(Running::is_primary)
    }
}
