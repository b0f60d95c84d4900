//! Properties that must hold at every moment, under all faults, checked with a view of all replicas
//! at once.

use std::collections::BTreeSet;

use bytes::Bytes;
use rsml::{
    Configuration, DiskId, Divergence, DivergenceKind, Epoch, FeatureLevel, HardState, LevelRange, Message, ReplicaId,
    Sequence, Value, View,
};

use super::claims::{Claims, Origin, hash_of};
use super::expected_log::ExpectedLog;
use super::workload::OpId;
use crate::checkers::agreement::Agreement;
use crate::checkers::chosen::Chosen;
use crate::checkers::configurations::Configurations;
use crate::checkers::digests::Digests;
use crate::checkers::exactly_once::ExactlyOnce;
use crate::checkers::levels::Levels;
use crate::checkers::promises::Promises;
use crate::checkers::{Verdict, Violation};

/// A violation ends the run; whoever runs it catches the panic and knows the seed.
pub fn hold(verdict: Verdict) {
    if let Err(violation) = verdict {
        panic!("{violation}");
    }
}

#[derive(Default)]
pub struct Watch {
    pub agreement: Agreement,
    promises: Promises,
    chosen: Chosen,
    claims: Claims,
    digests: Digests,
    levels: Levels,
    exactly_once: ExactlyOnce<u64>,
    pub configurations: Configurations,
    pub acknowledged: u64,
    /// Digests of databases that differ from the log, and of copies of them.
    tainted: BTreeSet<(Sequence, u64)>,
}

impl Watch {
    /// A process starts over what its disks hold.
    /// Without a digest: it is a witness.
    pub fn started(&mut self, replica: ReplicaId, hard: &HardState, applied: Sequence, digest: Option<u64>) {
        self.agreement.started(replica, applied);
        hold(self.promises.durable(hard.disk_id, hard.promised));
        hold(self.configurations.durable(hard.disk_id, hard.epoch));
        if let Some(digest) = digest.filter(|_| applied > Sequence::ZERO) {
            self.applied(replica, applied, digest);
        }
    }

    /// A snapshot took the place of the database.
    pub fn installed(&mut self, replica: ReplicaId, sequence: Sequence) {
        hold(self.agreement.installed(replica, sequence));
    }

    /// A disk reported writes as done, or was found so at a start. `logs`: what all disks of the
    /// cluster reported.
    pub fn durable(&mut self, ledger: &ExpectedLog, logs: &[(DiskId, &ExpectedLog)]) {
        let hard = ledger.promised();
        hold(self.promises.durable(hard.disk_id, hard.promised));
        hold(self.configurations.durable(hard.disk_id, hard.epoch));
        let epoch = hard.accepted_view.epoch();
        let voters = self.configurations.voters(epoch);
        let voters = voters.unwrap_or_else(|| logs.iter().map(|(disk, _)| *disk).collect());
        hold(self.chosen.durable(hard.disk_id, logs, &voters));
        if let Some(next) = self.configurations.get(epoch.next()) {
            hold(self.chosen.ends(hard.accepted_view, next.since));
        }
    }

    /// `log`: what the replica's own disk reported.
    pub fn delivered(&mut self, replica: ReplicaId, sequence: Sequence, entry: &Bytes, log: &ExpectedLog) {
        hold(self.chosen.delivered(sequence, hash_of(entry), log));
        hold(self.agreement.delivered(replica, sequence, entry));
        hold(self.configurations.delivered(sequence, &Value::from_bytes(entry.clone())));
    }

    /// A replica acts under this configuration from now on: what comes before is chosen.
    pub fn acts(&mut self, replica: ReplicaId, configuration: &Configuration) {
        hold(self.configurations.acts(replica, configuration));
        if configuration.epoch > Epoch::FIRST {
            hold(self.chosen.claims(configuration.since, View::floor_of(configuration.epoch)));
        }
    }

    pub fn applied(&mut self, replica: ReplicaId, sequence: Sequence, digest: u64) {
        if !self.is_tainted(sequence, digest) {
            hold(self.digests.applied(replica, sequence, digest));
        }
    }

    /// A database stands at this level; the replica's program executes `program`.
    pub fn level(&mut self, replica: ReplicaId, sequence: Sequence, level: FeatureLevel, program: LevelRange) {
        hold(self.levels.applied(replica, sequence, level, program));
    }

    /// An entry is chosen, while the replicas run these programs.
    pub fn raised(&self, sequence: Sequence, entry: &Bytes, programs: &[LevelRange]) {
        let to = Value::from_bytes(entry.clone()).raise_feature_level;
        if to > 0 {
            hold(self.levels.raised(sequence, FeatureLevel(to), programs));
        }
    }

    /// The database that says so is not what the log says.
    pub fn taint(&mut self, sequence: Sequence, digest: u64) {
        self.tainted.insert((sequence, digest));
    }

    pub fn is_tainted(&self, sequence: Sequence, digest: u64) -> bool {
        self.tainted.contains(&(sequence, digest))
    }

    pub fn has_taint(&self) -> bool {
        !self.tainted.is_empty()
    }

    /// A replica stopped because digests differ: never without reason, and a sound one only where
    /// nobody can know better.
    pub fn diverged(&self, replica: ReplicaId, is_tainted: bool, divergence: &Divergence) {
        assert!(!self.tainted.is_empty(), "false alarm: replica {replica} says {divergence}");
        assert!(
            is_tainted || divergence.kind == DivergenceKind::NoMajority,
            "replica {replica} is sound and in the minority: {divergence}"
        );
    }

    /// A message is about to leave.
    pub fn claims(&mut self, message: &Message, payload: &[Bytes], origin: &Origin) {
        self.claims.check(message, payload, origin, &self.promises, &self.chosen, &self.configurations);
    }

    /// A replica begins to lead: nobody else ever led that view, and a quorum has promised it for
    /// good.
    pub fn leads(&mut self, replica: ReplicaId, view: View, present: &[DiskId]) {
        let voters = self.configurations.voters(view.epoch());
        hold(self.promises.leads(replica, view, voters.as_deref().unwrap_or(present)));
    }

    pub fn views_led(&self) -> usize {
        self.promises.views_led()
    }

    pub fn is_born(&self) -> bool {
        self.configurations.is_known()
    }

    pub fn ask(&mut self, op: OpId) {
        self.exactly_once.ask(op.0);
    }

    pub fn acknowledge(&mut self, op: OpId, version: u64) {
        self.acknowledged += 1;
        hold(self.exactly_once.acknowledge_once(op.0, version));
    }

    /// One of several tries of the same commit was answered.
    pub fn acknowledge_again(&mut self, op: OpId, version: u64) {
        self.acknowledged += 1;
        hold(self.exactly_once.acknowledge(op.0, version));
    }

    pub fn refuse(&mut self, op: OpId) {
        hold(self.exactly_once.refuse(op.0));
    }

    /// The contents of the journal of a database at the end.
    pub fn journal(&self, who: &str, effects: &[(u64, u64)]) {
        hold(self.exactly_once.effects(who, effects));
    }

    /// The sequence that a read which begins now must cover: not only acknowledged entries, but all
    /// that any replica delivered.
    pub fn read_floor(&self) -> Sequence {
        self.agreement.highest()
    }

    /// A read that began when everything up to `floor` was known as chosen somewhere got `point`.
    pub fn read(&self, replica: ReplicaId, floor: Sequence, point: Sequence) {
        if point < floor {
            let story = format!("replica {replica} reads at {point}, but {floor} was delivered before");
            hold(Err(Violation { checker: "read points", anomaly: "stale read", story }));
        }
    }
}
