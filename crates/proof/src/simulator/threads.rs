//! The work of the driver's threads in a process: writing the log, applying entries, reading and
//! writing snapshots.

use rsml::core::Input;
use rsml::{ReplicaId, Sequence};

use super::cluster::Cluster;
use super::events::Event;
use super::log_disk::{Done, SPACE_INTERVAL_US};
use super::node::{ApplyWork, Node, SnapshotWork};

impl Cluster {
    /// True when something was applied and reported to the core.
    pub(super) fn apply_or_plan(&mut self, node: usize) -> bool {
        let process = self.nodes[node].process();
        let Some(running) = &mut self.nodes[node].running else { return false };
        if running.unapplied.is_empty() {
            self.serve_read_points(node);
            return false;
        }
        if self.faults.apply_us == 0 {
            self.apply(node);
            return true;
        }
        if !std::mem::replace(&mut running.apply_planned, true) {
            let after = self.random.below(self.faults.apply_us);
            self.schedule(after, Event::Apply(process));
        }
        self.serve_read_points(node);
        false
    }

    /// Applies all waiting entries, in one batch between two switches of the database, as the
    /// driver's thread does.
    pub(super) fn apply(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it applies");
        running.apply_planned = false;
        let mut entries = Vec::new();
        for work in std::mem::take(&mut running.unapplied) {
            match work {
                ApplyWork::Entry(sequence, entry) => entries.push((sequence, entry)),
                ApplyWork::Switch(generation) => {
                    self.apply_entries(node, std::mem::take(&mut entries));
                    self.switch_database(node, generation);
                }
            }
        }
        self.apply_entries(node, entries);
        self.serve_read_points(node);
    }

    fn apply_entries(&mut self, node: usize, entries: Vec<(Sequence, bytes::Bytes)>) {
        let is_witness = self.nodes[node].is_witness;
        let Some(running) = self.nodes[node].running.as_mut().filter(|_| !entries.is_empty()) else { return };
        let sender = running.core.sender();
        let applied = running.applier.apply(entries).expect("the executor never fails");
        let own = (sender.disk_id, sender.boot);
        let mut answers = Vec::new();
        for (disk, boot, number, outcome) in applied.outcomes {
            if (disk, boot) == own {
                answers.push((running.numbered.remove(&number).expect("executed once"), outcome));
            }
        }
        let own_voids = applied.voided.into_iter().filter(|(disk, boot, _)| (*disk, *boot) == own);
        let voided: Vec<_> = own_voids.filter_map(|(_, _, number)| running.numbered.remove(&number)).collect();
        if !is_witness {
            running.database.check();
        }
        if self.faults.eager_databases {
            running.database.flush();
        }
        if self.random.one_in(self.faults.collect) {
            self.collect_garbage(node);
        }
        self.tell_applied(node);
        if !applied.digests.is_empty() {
            let running = self.nodes[node].running.as_mut().expect("it applies");
            running.core.step(running.clock.read(self.now), Input::Digests(applied.digests));
        }
        for (op, outcome) in answers {
            self.answered(op, &outcome);
        }
        for op in voided {
            self.figures.count("request voided");
            self.refused(op);
        }
    }

    /// A database restored from a peer's snapshot replaces the present one. The outcomes of the
    /// requests that it has executed are not known here.
    fn switch_database(&mut self, node: usize, generation: u64) {
        let Some(running) = &mut self.nodes[node].running else { return };
        running.applier.switch_to(generation).expect("it was installed");
        let sender = running.core.sender();
        let state = running.applier.state();
        let own = state.sessions.get(&sender.disk_id).filter(|session| session.boot == sender.boot);
        let last = own.map_or(0, |session| session.last);
        let open = running.numbered.split_off(&(last + 1));
        let lost = std::mem::replace(&mut running.numbered, open);
        let sequence = state.sequence;
        running.is_tainted = self.watch.is_tainted(sequence, state.digest);
        self.note("snapshot installed", || format!("by {node}: {sequence}"));
        self.tell_applied(node);
        for op in lost.into_values() {
            self.lost(op);
        }
    }

    fn tell_applied(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it applies");
        let state = running.applier.state();
        let (sequence, digest, level) = (state.sequence, state.digest, state.feature_level);
        running.is_tainted |= running.applier.executor().has_slipped();
        if running.is_tainted {
            self.watch.taint(sequence, digest);
        }
        if !self.nodes[node].is_witness {
            self.watch.applied(ReplicaId(node as u8), sequence, digest);
        }
        self.watch.level(ReplicaId(node as u8), sequence, level, self.nodes[node].program);
        let running = self.nodes[node].running.as_mut().expect("it applies");
        running.core.step(running.clock.read(self.now), Input::applied(running.applier.state()));
    }

    /// Serves the reads whose points are applied by now.
    fn serve_read_points(&mut self, node: usize) {
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.points.is_empty() {
            return;
        }
        let applied = running.applied();
        let points = std::mem::take(&mut running.points);
        let (ready, rest): (Vec<_>, Vec<_>) = points.into_iter().partition(|(point, _)| *point <= applied);
        running.points = rest;
        for (_, barrier) in ready {
            self.read_point_reached(node, barrier);
        }
    }

    /// True when something was reported to the core.
    pub(super) fn serve_or_plan(&mut self, node: usize) -> bool {
        let process = self.nodes[node].process();
        let Some(running) = &mut self.nodes[node].running else { return false };
        if running.snapshot_work.is_empty() {
            return false;
        }
        if self.faults.apply_us == 0 {
            self.serve_snapshots(node);
            return true;
        }
        if !std::mem::replace(&mut running.snapshot_planned, true) {
            let after = self.random.below(self.faults.apply_us);
            self.schedule(after, Event::Snapshot(process));
        }
        false
    }

    pub(super) fn serve_snapshots(&mut self, node: usize) {
        let running = self.nodes[node].running.as_mut().expect("it serves");
        running.snapshot_planned = false;
        for work in std::mem::take(&mut running.snapshot_work) {
            match work {
                SnapshotWork::Read(read) => {
                    let piece = running.server.read(&read);
                    running.core.step(running.clock.read(self.now), Input::SnapshotRead(piece));
                }
                SnapshotWork::Install(step) => {
                    if let Some(event) = running.installer.perform(step) {
                        running.core.step(running.clock.read(self.now), Input::Installed(event));
                    }
                }
            }
        }
    }

    pub(super) fn start_log(&mut self, node: usize) {
        if self.nodes[node].running.is_none() || !self.nodes[node].log.begin(self.now) {
            return;
        }
        let hangs = self.nodes[node].log.hangs_until.saturating_sub(self.now);
        let latency = self.random.between(100, self.faults.disk_us(node)) + hangs;
        let process = self.nodes[node].process();
        self.schedule(latency, Event::Disk(process));
    }

    pub(super) fn log_done(&mut self, node: usize) {
        let Ok(Done { durable, entries }) = self.nodes[node].log.end(self.now) else {
            return self.stop_after_failure(node);
        };
        let process = self.nodes[node].process();
        if let Some(write_id) = durable {
            self.disk_reported(node);
            self.input(node, Input::Durable(write_id));
        }
        for (read, entries) in entries {
            self.input(node, Input::LogRead { read, entries });
        }
        if !self.is_alive(process) {
            return;
        }
        if self.nodes[node].log.waits_for_space(self.now) {
            self.figures.count("writes waited for space");
            self.schedule(SPACE_INTERVAL_US, Event::Space(process));
        }
        self.look_for_space(node);
        self.start_log(node);
    }

    /// The durable state of a node has changed.
    pub(super) fn disk_reported(&mut self, node: usize) {
        let Node { log, persisted, .. } = &mut self.nodes[node];
        *persisted = log.ledger.take_installed().map_or(*persisted, |base| base.max(*persisted));
        let ledgers = self.nodes.iter().flat_map(Node::ledgers);
        let logs: Vec<_> = ledgers.map(|ledger| (ledger.promised().disk_id, ledger)).collect();
        self.watch.durable(&self.nodes[node].log.ledger, &logs);
    }

    /// Tells the core when space runs out, and when there is some again.
    pub(super) fn look_for_space(&mut self, node: usize) {
        let has_space = self.nodes[node].log.has_space(self.now);
        let Some(running) = &mut self.nodes[node].running else { return };
        if std::mem::replace(&mut running.had_space, has_space) != has_space {
            self.note("space ran out or returned", || format!("{node}: {has_space}"));
            self.input(node, Input::Space(has_space));
        }
    }

    /// The log has failed: the replica stops at once. The machine may or may not go down with it.
    pub(super) fn stop_after_failure(&mut self, node: usize) {
        self.note("replica stopped by its log", || format!("{node}"));
        self.crash(node);
    }
}
