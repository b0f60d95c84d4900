//! Attempts and observations of clients, for the checkers.

use std::collections::BTreeSet;

use bytes::Bytes;
use kv_api::{CommitResult, KeyRef, LoggedWrite};

use super::rows::{Change, INITIAL_BALANCE};
use super::workload::{OpId, WorkloadProfile};
use crate::checkers::bank::{self, Balances};
use crate::checkers::linearizability::{self, Judgement};
use crate::checkers::queue::{self, QueueKind};
use crate::checkers::serializability;
use crate::checkers::versions::{self, VersionKind};
use crate::checkers::{Verdict, Violation};
use crate::history::{ClientId, ListStep, ListTransaction, Operation, Outcome, RegisterKind};

/// Tried per register before a search is given up.
const CONFIGURATIONS: usize = 20_000;

/// A write that was sent at least once.
struct Tried {
    write: LoggedWrite,
    /// The client that waits, and in which of its steps; `None`: none does.
    client: Option<(usize, u64)>,
    /// How often it was sent, and how many of these will never be executed.
    sent: u64,
    refused: u64,
    ended: bool,
    result: Option<CommitResult>,
}

/// The reads of an operation, and its resulting changes.
#[derive(Default)]
pub struct Seen {
    pub change: Option<Change>,
    pub sights: Vec<Observation>,
}

impl Seen {
    pub fn of(change: Change, sights: impl IntoIterator<Item = Observation>) -> Seen {
        Seen { change: Some(change), sights: sights.into_iter().collect() }
    }

    /// Nothing is to be changed.
    pub fn only(sights: impl IntoIterator<Item = Observation>) -> Seen {
        Seen { change: None, sights: sights.into_iter().collect() }
    }
}

pub enum Observation {
    Register(RegisterKind),
    Lists(Vec<ListStep>),
    Balances(Balances),
    Ledger(Balances),
    Queue(QueueKind),
    /// The number of claims.
    Claims(usize),
}

#[derive(Default)]
pub struct Records {
    tried: Vec<Tried>,
    next_client: u64,
    next_value: u64,
    /// With the commit that each one made.
    registers: Vec<(Operation<RegisterKind>, Option<OpId>)>,
    lists: Vec<Operation<ListTransaction>>,
    balances: Vec<Operation<Balances>>,
    ledger: Vec<Operation<Balances>>,
    queue: Vec<Operation<QueueKind>>,
    versions: Vec<Operation<VersionKind>>,
}

impl Records {
    pub fn new_client(&mut self) -> ClientId {
        self.next_client += 1;
        ClientId(self.next_client)
    }

    pub(super) fn new_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// The number of the next write.
    pub fn next_op(&self) -> OpId {
        OpId(self.tried.len() as u64)
    }

    /// The write with the number [`Self::next_op`].
    pub fn attempt(&mut self, write: LoggedWrite) {
        let tried = Tried { write, client: None, sent: 0, refused: 0, ended: false, result: None };
        self.tried.push(tried);
    }

    fn tried(&mut self, op: OpId) -> &mut Tried {
        &mut self.tried[op.0 as usize]
    }

    pub fn write(&self, op: OpId) -> &LoggedWrite {
        &self.tried[op.0 as usize].write
    }

    /// Changes of families leave no row in the journal.
    pub fn is_in_journal(&self, op: OpId) -> bool {
        self.write(op).commit.is_some()
    }

    pub fn idempotency_id(&self, op: OpId) -> Option<&Bytes> {
        let commit = self.write(op).commit.as_ref()?;
        (!commit.idempotency_id.is_empty()).then_some(&commit.idempotency_id)
    }

    /// From now on the client waits for it in this step.
    pub fn waits(&mut self, op: OpId, client: usize, step: u64) {
        self.tried(op).client = Some((client, step));
    }

    pub fn client(&self, op: OpId) -> Option<(usize, u64)> {
        self.tried[op.0 as usize].client
    }

    pub fn sent(&mut self, op: OpId) {
        self.tried(op).sent += 1;
    }

    pub fn was_sent_once(&self, op: OpId) -> bool {
        self.tried[op.0 as usize].sent == 1
    }

    pub fn times_sent(&self, op: OpId) -> u64 {
        self.tried[op.0 as usize].sent
    }

    /// One try of it will never be executed. True when that holds for all.
    pub fn refused(&mut self, op: OpId) -> bool {
        let tried = self.tried(op);
        tried.refused += 1;
        tried.refused == tried.sent
    }

    /// Every try that succeeds has the same result.
    pub fn succeeded(&mut self, op: OpId, result: &CommitResult) {
        let first = self.tried(op).result.get_or_insert_with(|| result.clone());
        assert_eq!(first, result, "{op:?} has two results");
    }

    /// The write has its outcome. Returns who waits for it, in which step, unless it had one
    /// before.
    pub fn end(&mut self, op: OpId) -> Option<(usize, u64)> {
        let tried = self.tried(op);
        if std::mem::replace(&mut tried.ended, true) {
            return None;
        }
        tried.client
    }

    /// A conflict names keys that the commit depended on.
    pub fn conflict(&self, op: OpId, keys: &[KeyRef]) {
        let commit = self.write(op).commit.as_ref().expect("only commits conflict");
        let in_range = |key: &KeyRef| {
            commit
                .read_conflict_ranges
                .iter()
                .any(|range| range.column_family == key.column_family && (&range.begin..&range.end).contains(&&key.key))
        };
        let is_one = |key: &KeyRef| {
            commit.read_conflicts.contains(key) || commit.read_conflict_keys.contains(&key.key) || in_range(key)
        };
        assert!(!keys.is_empty() && keys.iter().all(is_one), "{op:?} conflicts on {keys:?}, which it did not read");
    }

    pub fn read_version(&mut self, client: ClientId, called_us: u64, returned_us: u64, version: u64) {
        let kind = VersionKind::Read(version);
        self.versions.push(Operation { client, called_us, returned_us, kind, outcome: Outcome::Ok });
    }

    pub fn finish(
        &mut self,
        client: ClientId,
        called_us: u64,
        returned_us: u64,
        seen: Seen,
        outcome: Outcome,
        commit: Option<(OpId, Option<u64>)>,
    ) {
        let version = commit.and_then(|(_, version)| version);
        if let Some(version) = version {
            let kind = VersionKind::Commit(version);
            self.versions.push(Operation { client, called_us, returned_us, kind, outcome });
        }
        macro_rules! note {
            ($list:ident, $kind:expr) => {
                self.$list.push(Operation { client, called_us, returned_us, kind: $kind, outcome })
            };
        }
        for observation in seen.sights {
            match observation {
                Observation::Register(kind) => {
                    let operation = Operation { client, called_us, returned_us, kind, outcome };
                    self.registers.push((operation, commit.map(|(op, _)| op)));
                }
                Observation::Lists(steps) => note!(lists, ListTransaction { steps, version }),
                Observation::Balances(balances) => note!(balances, balances),
                Observation::Ledger(amounts) => note!(ledger, amounts),
                Observation::Claims(count) => assert!(count <= 1, "{count} claims at a time"),
                Observation::Queue(QueueKind::Push { element, .. }) => {
                    // The journal's row has the first stamp of the commit, the queue's the second.
                    let stamp = version.map_or(0, |version| u128::from(version) << 16 | 1);
                    note!(queue, QueueKind::Push { element, stamp })
                }
                Observation::Queue(kind) => note!(queue, kind),
            }
        }
    }

    /// The history of the registers, in which a commit of unknown outcome that the journal does not
    /// have counts as failed: whoever saw something of it saw what never was.
    fn registers(&self, took_effect: &BTreeSet<OpId>) -> Vec<Operation<RegisterKind>> {
        let known = |(operation, op): &(Operation<RegisterKind>, Option<OpId>)| {
            let is_void = operation.outcome == Outcome::Unknown && op.is_some_and(|op| !took_effect.contains(&op));
            let outcome = if is_void { Outcome::Fail } else { operation.outcome };
            Operation { outcome, ..operation.clone() }
        };
        self.registers.iter().map(known).collect()
    }

    /// Whether the order in which registers took their values could be found; where it could not,
    /// the search for one was given up, and the journal's word stands alone.
    pub fn check_registers(&self, took_effect: &BTreeSet<OpId>) -> Result<bool, Violation> {
        match linearizability::check(&self.registers(took_effect), CONFIGURATIONS) {
            Judgement::Linearizable => Ok(true),
            Judgement::NotLinearizable(violation) => Err(violation),
            Judgement::Undecided { .. } => Ok(false),
        }
    }

    /// Everything else that can be judged from what clients saw alone.
    pub fn check(&self, profile: &WorkloadProfile) -> Verdict {
        serializability::check(&self.lists)?;
        let accounts = profile.accounts;
        let total = accounts as i64 * INITIAL_BALANCE;
        bank::check(&self.balances, bank::Rules { accounts, total, may_overdraw: false })?;
        bank::check(&self.ledger, bank::Rules { accounts, total: 0, may_overdraw: true })?;
        queue::check(&self.queue)?;
        versions::check(&self.versions)
    }
}
