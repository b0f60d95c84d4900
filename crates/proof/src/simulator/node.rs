//! A simulated node: its process while it runs, and what outlives it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rsml::core::{
    CoreOptions, InstallStep, RaiseId, ReadId, ReconfigureId, Replica, RequestId, SnapshotRead, Start, TransferId,
};
use rsml::{
    Applier, Boot, DiskId, Epoch, ExecutionNotifier, LevelRange, Sequence, SnapshotInstaller, SnapshotServer, View,
};

use super::clock::Clock;
use super::database::{Database, DatabaseFiles, Executor};
use super::events::Process;
use super::expected_log::ExpectedLog;
use super::log_disk::LogDisk;
use super::oracle::Oracle;
use super::random::Random;
use super::workload::OpId;

/// A read point that somebody waits for.
pub struct Barrier {
    /// The client, and the step in which it asked.
    pub client: usize,
    pub step: u64,
    /// The sequence that the point must cover.
    pub floor: Sequence,
}

pub enum ApplyWork {
    Entry(Sequence, Bytes),
    /// Switches to the database of this generation.
    Switch(u64),
}

pub enum SnapshotWork {
    Read(SnapshotRead),
    Install(InstallStep),
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
    /// Transfers that it was asked for.
    pub transfers: BTreeSet<TransferId>,
    /// Raises of the feature level that it was asked for.
    pub raises: BTreeSet<RaiseId>,
    /// Changes of members that it was asked for.
    pub changes: BTreeSet<ReconfigureId>,
    /// The last report to the core about the size of its log, and how much of it to keep for
    /// replicas that lag.
    pub log_bytes: u64,
    pub log_keep_bytes: u64,
    /// The last report to the core about space.
    pub had_space: bool,
    /// Its database is not what the log says.
    pub is_tainted: bool,
    /// Read points known, whose entries are not applied yet.
    pub points: Vec<(Sequence, Barrier)>,
    /// Work that waits for the apply thread.
    pub unapplied: VecDeque<ApplyWork>,
    pub server: SnapshotServer,
    pub installer: SnapshotInstaller,
    /// Work that waits for the snapshot thread.
    pub snapshot_work: VecDeque<SnapshotWork>,
    pub snapshot_planned: bool,
    pub apply_planned: bool,
    pub settle_planned: bool,
    /// The view that it was last seen promising, in memory.
    pub promised: View,
    /// The view that it was last seen leading.
    pub led: View,
    /// The epoch in which it was last seen acting.
    pub epoch: Epoch,
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
    /// Each of its disks is that of a witness.
    pub is_witness: bool,
    pub incarnation: u64,
    pub running: Option<Running>,
    pub files: Arc<DatabaseFiles>,
    pub log: LogDisk,
    /// Its database has reported this sequence as persisted.
    pub persisted: Sequence,
    /// The highest that a database in this place had persisted before it was lost, or went with its
    /// disk: others may not have heard of that.
    once_persisted: Sequence,
    pub paused_until: u64,
    /// The feature levels that its program executes.
    pub program: LevelRange,
    /// For good: by its own word, its database is not what the log says.
    pub stopped: bool,
    /// It is down, and its database is gone.
    pub has_losses: bool,
    /// Its databases were lost since it ran last.
    lost_database: bool,
    /// The disk in its place is not the one that it had at first.
    is_replaced: bool,
    /// The first disk while another one is in its place, and that other one while the first is
    /// back.
    spare: Option<Box<Spare>>,
}

/// A disk that is in no place: the log, and the databases.
struct Spare {
    log: LogDisk,
    files: Arc<DatabaseFiles>,
    persisted: Sequence,
    lost_database: bool,
}

impl Node {
    pub fn new(place: usize, is_witness: bool, oracle: Oracle, random: &mut Random) -> Node {
        Node {
            place,
            is_witness,
            incarnation: 0,
            running: None,
            files: DatabaseFiles::new(oracle, is_witness),
            log: LogDisk::new(random),
            persisted: Sequence::ZERO,
            once_persisted: Sequence::ZERO,
            paused_until: 0,
            program: LevelRange::default(),
            stopped: false,
            has_losses: false,
            lost_database: false,
            is_replaced: false,
            spare: None,
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
        let (database, executor) = self.files.open(generation, options.levels.highest.0, random);
        let applier = Applier::new(executor, options.levels).expect("the database is sound");
        let applier = applier.recording_every(options.digest_interval);
        let state = applier.state().clone();
        // That a copy became the live database may turn out only now, by the last write that the
        // log holds; where the databases were lost meanwhile, that one was, too.
        let installed = self.log.ledger.take_installed().filter(|_| !self.lost_database);
        self.lost_database = false;
        let (found, persisted) = (state.sequence, self.persisted.max(installed.unwrap_or(Sequence::ZERO)));
        assert!(found >= persisted, "the database holds everything through {found}, and had persisted {persisted}");
        self.persisted = found;
        let needs_database = recovered.first > state.sequence.next();
        let entries = if needs_database { Vec::new() } else { self.log.load(&recovered, state.sequence.next()) };
        let recovered_promise = recovered.hard_state.map_or(View::BIRTH, |hard| hard.promised);
        let recovered_epoch = recovered.hard_state.map_or(Epoch(0), |hard| hard.epoch);
        let log_keep_bytes = options.log_keep_bytes;
        let boot = Boot(recovered.hard_state.map_or(0, |hard| hard.boot.0) + 1);
        let snapshots = applier.executor().snapshots();
        let (disk_id, cluster_id) = (random.draw(), random.draw());
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
            transfers: BTreeSet::new(),
            raises: BTreeSet::new(),
            changes: BTreeSet::new(),
            log_bytes: 0,
            log_keep_bytes,
            had_space: true,
            is_tainted: false,
            points: Vec::new(),
            unapplied: VecDeque::new(),
            server: SnapshotServer::new(snapshots.clone(), boot),
            installer: SnapshotInstaller::new(snapshots),
            snapshot_work: VecDeque::new(),
            snapshot_planned: false,
            apply_planned: false,
            settle_planned: false,
            promised: recovered_promise,
            led: View::BIRTH,
            epoch: recovered_epoch,
        });
    }

    /// Takes the process away, and returns its state, so that waiting clients can be notified.
    pub fn crash(&mut self, random: &mut Random, power_loss: bool) -> Option<Running> {
        self.has_losses = !self.is_sound();
        let running = self.running.take()?;
        self.log.crash(random, power_loss);
        self.files.crash(power_loss);
        Some(running)
    }

    /// An empty disk takes the place of this node's. The first one is kept if `keeps`; any other
    /// one is gone for good.
    pub fn wipe(&mut self, keeps: bool, random: &mut Random) {
        let (log, files) = (LogDisk::new(random), self.files.another());
        let empty = Spare { log, files, persisted: Sequence::ZERO, lost_database: true };
        let former = self.mount(empty);
        if !self.is_replaced {
            self.spare = keeps.then(|| Box::new(former));
        }
        self.is_replaced = true;
    }

    /// The first disk comes back to its place as it was, or leaves it again to the one that had
    /// been there.
    pub fn exchange(&mut self) {
        let mut spare = self.spare.take().expect("there is another disk");
        // Space returns to the disk that is in the place by then, so no disk may be full while it is elsewhere.
        spare.log.set_full(false);
        self.spare = Some(Box::new(self.mount(*spare)));
        self.is_replaced = !self.is_replaced;
    }

    fn mount(&mut self, disk: Spare) -> Spare {
        assert!(self.running.is_none(), "disks are exchanged while the process is down");
        self.once_persisted = self.has_told();
        Spare {
            log: std::mem::replace(&mut self.log, disk.log),
            files: std::mem::replace(&mut self.files, disk.files),
            persisted: std::mem::replace(&mut self.persisted, disk.persisted),
            lost_database: std::mem::replace(&mut self.lost_database, disk.lost_database),
        }
    }

    /// Whether its first disk is elsewhere.
    pub fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    pub fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// The expected log of each of its disks, in its place or not.
    pub fn ledgers(&self) -> impl Iterator<Item = &ExpectedLog> {
        [Some(&self.log.ledger), self.spare.as_ref().map(|spare| &spare.log.ledger)].into_iter().flatten()
    }

    /// Through here it may have told others that its database is durable.
    pub fn has_told(&self) -> Sequence {
        self.persisted.max(self.once_persisted)
    }

    pub fn lose_database(&mut self) {
        self.once_persisted = self.has_told();
        self.files.wipe();
        self.persisted = Sequence::ZERO;
        self.lost_database = true;
    }

    /// Whether everything that this node ever held is still there.
    pub fn is_sound(&self) -> bool {
        let is_whole = |running: &Running| {
            let status = running.core.status();
            // A copy counts once a crash can't undo that it is the live database.
            status.lost.is_empty() && !status.is_switching && (status.is_voter || !status.is_catching_up)
        };
        self.log.is_whole() && !self.has_losses && self.running.as_ref().is_none_or(is_whole)
    }

    pub fn is_primary(&self) -> bool {
        self.running.as_ref().is_some_and(Running::is_primary)
    }
}
