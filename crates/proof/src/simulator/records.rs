//! What clients saw and what they tried, for the checkers.

use std::collections::BTreeSet;

use bytes::Bytes;
use kv_api::{KeyRange, KeyRef};

use super::database::Database;
use super::random::Random;
use super::workload::{
    self, BANK, Change, Habits, Kind, OpId, QUEUE, account, all_with, balance_of, list, list_of, number, register,
};
use crate::checkers::bank::{self, Balances};
use crate::checkers::linearizability::{self, Judgement};
use crate::checkers::queue::{self, QueueKind};
use crate::checkers::serializability;
use crate::checkers::versions::{self, VersionKind};
use crate::checkers::{Verdict, Violation};
use crate::history::{ClientId, ListStep, ListTransaction, Operation, Outcome, RegisterKind};

/// Tried per register before a search is given up.
const CONFIGURATIONS: usize = 20_000;

/// One try of a commit.
pub struct Attempt {
    /// Who waits, in which of its steps; `None`: nobody does.
    pub client: Option<(usize, u64)>,
    pub change: Change,
}

struct Tried {
    attempt: Attempt,
    ended: bool,
}

/// What an operation read, and what it wants to change in consequence.
#[derive(Default)]
pub struct Seen {
    pub change: Option<Change>,
    sight: Sight,
}

#[derive(Default)]
enum Sight {
    #[default]
    Nothing,
    Register(RegisterKind),
    Lists(Vec<ListStep>),
    Balances(Balances),
    Queue(QueueKind),
}

/// A read of one key at one version: must be what the journal says, whatever became of the operation.
pub struct KeyRead {
    pub version: u64,
    pub key: KeyRef,
    pub value: Option<Bytes>,
}

/// A read of the whole queue at one version.
pub struct QueueRead {
    pub version: u64,
    pub seen: Vec<(u128, u64)>,
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
    queue: Vec<Operation<QueueKind>>,
    versions: Vec<Operation<VersionKind>>,
    pub key_reads: Vec<KeyRead>,
    pub queue_reads: Vec<QueueRead>,
}

impl Records {
    pub fn new_client(&mut self) -> ClientId {
        self.next_client += 1;
        ClientId(self.next_client)
    }

    fn new_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// An operation that reads nothing.
    pub fn blind(&mut self, kind: Kind, random: &mut Random, habits: &Habits) -> Seen {
        let value = self.new_value();
        let padding = random.below(habits.padding + 1) as usize;
        let change = Change { padding, ..Change::default() };
        if kind == Kind::Note {
            return Seen { change: Some(change), sight: Sight::Nothing };
        }
        if kind == Kind::Push {
            let sight = Sight::Queue(QueueKind::Push { element: value, stamp: 0 });
            return Seen { change: Some(Change { pushes: Some(value), ..change }), sight };
        }
        let key = random.below(habits.registers);
        let sight = Sight::Register(RegisterKind::Write { key, value });
        Seen { change: Some(change.write(register(key), value)), sight }
    }

    /// Reads what an operation of this kind needs, at `version`, and decides what it changes.
    pub fn read(
        &mut self,
        kind: Kind,
        database: &Database,
        version: u64,
        random: &mut Random,
        habits: &Habits,
    ) -> Seen {
        let mut change = Change { read_version: version, ..Change::default() };
        match kind {
            Kind::Write | Kind::Push | Kind::Note => unreachable!("it reads nothing"),
            Kind::Read | Kind::Snapshot => {
                let key = random.below(habits.registers);
                let value = self.get(database, &register(key), version).as_ref().map_or(0, number);
                let sight = Sight::Register(RegisterKind::Read { key, value });
                Seen { change: None, sight: if kind == Kind::Read { sight } else { Sight::Nothing } }
            }
            Kind::CompareAndSet => {
                let key = random.below(habits.registers);
                let expected = self.get(database, &register(key), version).as_ref().map_or(0, number);
                let new = self.new_value();
                change.reads.push(register(key));
                let sight = Sight::Register(RegisterKind::CompareAndSet { key, expected, new });
                Seen { change: Some(change.write(register(key), new)), sight }
            }
            Kind::Lists => self.append_to_lists(database, change, random, habits),
            Kind::ReadLists => {
                let read = |records: &mut Records, key| {
                    let found = records.get(database, &list(key), version);
                    ListStep::Read { key, list: list_of(found.as_ref()) }
                };
                let steps = (0..habits.lists).map(|key| read(self, key)).collect();
                Seen { change: None, sight: Sight::Lists(steps) }
            }
            Kind::Transfer => self.transfer(database, change, random, habits),
            Kind::Audit => {
                let balances = self.audit(database, version, random, habits);
                Seen { change: None, sight: Sight::Balances(balances) }
            }
            Kind::Scan => {
                let rows = database.range(&all_with(QUEUE, ""), version).expect("the version was applied");
                let seen: Vec<(u128, u64)> = rows.rows.iter().map(workload::stamped).collect();
                self.queue_reads.push(QueueRead { version, seen: seen.clone() });
                Seen { change: None, sight: Sight::Queue(QueueKind::Scan { seen }) }
            }
            Kind::Pop => self.pop(database, change),
        }
    }

    fn get(&mut self, database: &Database, key: &KeyRef, version: u64) -> Option<Bytes> {
        let value = database.get(key, version).expect("the version was applied");
        self.key_reads.push(KeyRead { version, key: key.clone(), value: value.clone() });
        value
    }

    fn append_to_lists(
        &mut self,
        database: &Database,
        mut change: Change,
        random: &mut Random,
        habits: &Habits,
    ) -> Seen {
        let mut found: Vec<(u64, Vec<u64>, bool)> = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..random.between(1, 4) {
            let key = random.below(habits.lists);
            let place = found.iter().position(|(known, ..)| *known == key).unwrap_or_else(|| {
                let items = list_of(self.get(database, &list(key), change.read_version).as_ref());
                change.reads.push(list(key));
                found.push((key, items, false));
                found.len() - 1
            });
            let (_, items, changed) = &mut found[place];
            if random.one_in(2) {
                let element = self.new_value();
                items.push(element);
                *changed = true;
                steps.push(ListStep::Append { key, element });
            } else {
                steps.push(ListStep::Read { key, list: items.clone() });
            }
        }
        for (key, items, _) in found.into_iter().filter(|(.., changed)| *changed) {
            let bytes: Vec<u8> = items.iter().flat_map(|item| item.to_be_bytes()).collect();
            change.writes.push((list(key), Some(bytes.into())));
        }
        let change = (!change.writes.is_empty()).then_some(change);
        Seen { change, sight: Sight::Lists(steps) }
    }

    fn transfer(&mut self, database: &Database, mut change: Change, random: &mut Random, habits: &Habits) -> Seen {
        let from = random.below(habits.accounts);
        let to = (from + random.between(1, habits.accounts - 1)) % habits.accounts;
        let amount = random.between(1, 60) as i64;
        let balance =
            |records: &mut Records, key| balance_of(records.get(database, &account(key), change.read_version).as_ref());
        let (rich, poor) = (balance(self, from), balance(self, to));
        if rich < amount {
            return Seen::default();
        }
        if random.one_in(3) {
            let all = all_with(b'a', BANK);
            change.ranges.push(KeyRange { begin: all.begin, end: all.end, column_family: BANK.into() });
        } else {
            change.reads.extend([account(from), account(to)]);
        }
        let change = change.write(account(from), (rich - amount) as u64).write(account(to), (poor + amount) as u64);
        Seen { change: Some(change), sight: Sight::Nothing }
    }

    /// All balances in pages of a few rows, forwards or backwards.
    fn audit(&mut self, database: &Database, version: u64, random: &mut Random, habits: &Habits) -> Balances {
        let mut query = all_with(b'a', BANK);
        query.reverse = random.one_in(2);
        query.limit = Some(random.between(1, 3));
        let mut found: Balances = (0..habits.accounts).map(|key| (key, workload::INITIAL_BALANCE)).collect();
        let key_of = |key: &Bytes| -> u64 {
            std::str::from_utf8(&key[2..]).ok().and_then(|text| text.parse().ok()).expect("an account's key")
        };
        loop {
            let page = database.range(&query, version).expect("the version was applied");
            for row in &page.rows {
                found.insert(key_of(&row.key), balance_of(Some(&row.value)));
            }
            let Some(last) = page.rows.last().filter(|_| page.has_more) else { break };
            if query.reverse {
                query.end = last.key.clone();
            } else {
                query.begin = [&last.key[..], b"\0"].concat().into();
            }
        }
        found
    }

    fn pop(&mut self, database: &Database, mut change: Change) -> Seen {
        let mut query = all_with(QUEUE, "");
        query.limit = Some(1);
        let page = database.range(&query, change.read_version).expect("the version was applied");
        let Some(row) = page.rows.first() else { return Seen::default() };
        let (_, element) = workload::stamped(row);
        let key = KeyRef::new(row.key.clone());
        change.reads.push(key.clone());
        change.writes.push((key, None));
        Seen { change: Some(change), sight: Sight::Queue(QueueKind::Pop { element }) }
    }

    pub fn attempt(&mut self, attempt: Attempt) -> OpId {
        self.tried.push(Tried { attempt, ended: false });
        OpId(self.tried.len() as u64 - 1)
    }

    /// `None` for an operation that nobody tried.
    pub fn change(&self, op: OpId) -> Option<&Change> {
        self.tried.get(op.0 as usize).map(|tried| &tried.attempt.change)
    }

    /// The try has its outcome. Returns who waits for it, in which step, unless it had one before.
    pub fn end(&mut self, op: OpId) -> Option<(usize, u64)> {
        let tried = &mut self.tried[op.0 as usize];
        if std::mem::replace(&mut tried.ended, true) {
            return None;
        }
        tried.attempt.client
    }

    /// A conflict names keys that the commit depended on.
    pub fn conflict(&self, op: OpId, keys: &[KeyRef]) {
        let change = self.change(op).expect("it was tried");
        let in_range = |key: &KeyRef| {
            change
                .ranges
                .iter()
                .any(|range| range.column_family == key.column_family && (&range.begin..&range.end).contains(&&key.key))
        };
        let is_one = |key: &KeyRef| change.reads.contains(key) || in_range(key);
        assert!(!keys.is_empty() && keys.iter().all(is_one), "{op:?} conflicts on {keys:?}, which it did not read");
    }

    pub fn read_version(&mut self, client: ClientId, called_us: u64, returned_us: u64, version: u64) {
        let kind = VersionKind::Read(version);
        self.versions.push(Operation { client, called_us, returned_us, kind, outcome: Outcome::Ok });
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one history entry")]
    pub fn finish(
        &mut self,
        client: ClientId,
        _kind: Kind,
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
        match seen.sight {
            Sight::Nothing => {}
            Sight::Register(kind) => {
                let operation = Operation { client, called_us, returned_us, kind, outcome };
                self.registers.push((operation, commit.map(|(op, _)| op)));
            }
            Sight::Lists(steps) => note!(lists, ListTransaction { steps, version }),
            Sight::Balances(balances) => note!(balances, balances),
            Sight::Queue(QueueKind::Push { element, .. }) => {
                // The journal's row has the first stamp of the commit, the queue's the second.
                let stamp = version.map_or(0, |version| u128::from(version) << 16 | 1);
                note!(queue, QueueKind::Push { element, stamp })
            }
            Sight::Queue(kind) => note!(queue, kind),
        }
    }

    /// The history of the registers, in which a commit of unknown outcome that the journal does not have counts as
    /// failed: whoever saw something of it saw what never was.
    fn registers(&self, took_effect: &BTreeSet<OpId>) -> Vec<Operation<RegisterKind>> {
        let known = |(operation, op): &(Operation<RegisterKind>, Option<OpId>)| {
            let is_void = operation.outcome == Outcome::Unknown && op.is_some_and(|op| !took_effect.contains(&op));
            let outcome = if is_void { Outcome::Fail } else { operation.outcome };
            Operation { outcome, ..operation.clone() }
        };
        self.registers.iter().map(known).collect()
    }

    /// Whether the order in which registers took their values could be found; where it could not, the search for one was
    /// given up, and the journal's word stands alone.
    pub fn check_registers(&self, took_effect: &BTreeSet<OpId>) -> Result<bool, Violation> {
        match linearizability::check(&self.registers(took_effect), CONFIGURATIONS) {
            Judgement::Linearizable => Ok(true),
            Judgement::NotLinearizable(violation) => Err(violation),
            Judgement::Undecided { .. } => Ok(false),
        }
    }

    /// Everything else that can be judged from what clients saw alone.
    pub fn check(&self, habits: &Habits) -> Verdict {
        serializability::check(&self.lists)?;
        let total = habits.accounts as i64 * workload::INITIAL_BALANCE;
        bank::check(&self.balances, bank::Rules { accounts: habits.accounts, total, may_overdraw: false })?;
        queue::check(&self.queue)?;
        versions::check(&self.versions)
    }
}
