//! The reads of each kind of operation, and the resulting changes.

use bytes::Bytes;
use kv_api::{FamilyChange, KeyRange, KeyRef, MutationKind, Rows};

use super::access::any_change;
use super::database::Database;
use super::random::Random;
use super::records::{Observation, Records, Seen};
use super::rows::{
    self, ACCOUNTS, BANK, CLAIMS, Change, LEDGER, LISTS, QUEUE, REGISTERS, SCRATCH, account, all_with, amount_of,
    balance_of, claim, cleared, encoded, encoded_list, ledger, list, list_of, mutation, number, pushed, range_of,
    register,
};
use super::workload::{Kind, WorkloadProfile};
use crate::checkers::bank::Balances;
use crate::checkers::queue::QueueKind;
use crate::history::{ListStep, RegisterKind};

/// The source of an operation's reads, at one version.
#[derive(Clone, Copy)]
pub struct StateView<'d> {
    pub database: &'d Database,
    pub version: u64,
}

impl StateView<'_> {
    /// At a version that can be read, in a family that exists.
    fn get(self, key: &KeyRef) -> Option<Bytes> {
        self.database.get(key, self.version).expect("it can be read")
    }

    fn all(self, prefix: u8) -> Rows {
        self.database.range(&all_with(prefix, ""), self.version).expect("it can be read")
    }

    fn change(self) -> Change {
        Change { read_version: self.version, ..Change::default() }
    }

    /// Every amount of the ledger.
    pub fn amounts(self, profile: &WorkloadProfile) -> Balances {
        let mut found: Balances = (0..profile.accounts).map(|key| (key, 0)).collect();
        let rows = self.all(LEDGER).rows;
        found.extend(rows.iter().map(|row| (rows::key_number(&row.key), amount_of(Some(&row.value)))));
        found
    }
}

/// Two different accounts.
fn two(random: &mut Random, profile: &WorkloadProfile) -> (u64, u64) {
    let from = random.below(profile.accounts);
    (from, (from + random.between(1, profile.accounts - 1)) % profile.accounts)
}

impl Records {
    /// An operation that reads nothing.
    pub fn blind(&mut self, kind: Kind, random: &mut Random, profile: &WorkloadProfile) -> Seen {
        let value = self.new_value();
        let change = Change { padding: random.below(profile.padding + 1) as usize, ..Change::default() };
        match kind {
            Kind::Push => {
                let observation = Observation::Queue(QueueKind::Push { element: value, stamp: 0 });
                Seen::of(change.with(pushed(QUEUE, value, 0)), [observation])
            }
            Kind::Write => {
                let key = random.below(profile.registers);
                let observation = Observation::Register(RegisterKind::Write { key, value });
                Seen::of(change.write(register(key), value), [observation])
            }
            Kind::Forget => {
                let change = change.with(cleared(range_of(&all_with(REGISTERS, ""))));
                let kept = random.below(2 * profile.registers);
                // One may be written again, after the clear.
                let change = if kept < profile.registers { change.write(register(kept), value) } else { change };
                let after = |key| if key == kept { value } else { 0 };
                let write = |key| Observation::Register(RegisterKind::Write { key, value: after(key) });
                Seen::of(change, (0..profile.registers).map(write))
            }
            Kind::Give => Seen::of(give(change, random, profile), []),
            Kind::Families => {
                let name = if random.one_in(4) { BANK } else { SCRATCH };
                let drop = random.one_in(2);
                Seen::of(Change { family: Some(FamilyChange { name: name.into(), drop }), ..change }, [])
            }
            Kind::Access => Seen::of(Change { access: Some(any_change(random)), ..change }, []),
            _ => Seen::of(Change { passes_time: random.one_in(5), ..change }, []),
        }
    }

    /// Reads what an operation of this kind needs, and decides what it changes.
    pub fn read(&mut self, kind: Kind, look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
        match kind {
            Kind::Read => {
                let key = random.below(profile.registers);
                let value = look.get(&register(key)).as_ref().map_or(0, number);
                Seen::only([Observation::Register(RegisterKind::Read { key, value })])
            }
            Kind::CompareAndSet => self.compare_and_set(look, random, profile),
            Kind::Lists if random.one_in(6) => self.rebuild_lists(look, random, profile),
            Kind::Lists => self.append_to_lists(look, random, profile),
            Kind::ReadLists => {
                let read = |key| ListStep::Read { key, list: list_of(look.get(&list(key)).as_ref()) };
                Seen::only([Observation::Lists((0..profile.lists).map(read).collect())])
            }
            Kind::Transfer => transfer(look, random, profile),
            Kind::Audit => Seen::only([
                Observation::Balances(audit(look, random, profile)),
                Observation::Ledger(look.amounts(profile)),
            ]),
            Kind::Scan => {
                let seen = look.all(QUEUE).rows.iter().map(rows::stamped).collect();
                Seen::only([Observation::Queue(QueueKind::Scan { seen })])
            }
            Kind::Pop => pop(look),
            Kind::TakeMany => take_many(look, random),
            Kind::Claim => self.claim(look, random),
            Kind::ScratchKeys => super::scratch::change(look, random, profile),
            Kind::Snapshot => super::scratch::look_back(look, random, profile),
            Kind::Write | Kind::Forget | Kind::Give | Kind::Push | Kind::Families | Kind::Access | Kind::Note => {
                unreachable!("it reads nothing")
            }
        }
    }

    fn compare_and_set(&mut self, look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
        let key = random.below(profile.registers);
        let expected = look.get(&register(key)).as_ref().map_or(0, number);
        let new = self.new_value();
        let mut change = look.change();
        change.reads.push(register(key));
        let observation = Observation::Register(RegisterKind::CompareAndSet { key, expected, new });
        Seen::of(change.write(register(key), new), [observation])
    }

    /// Lists that were read are written as a whole, others are appended to unseen.
    fn append_to_lists(&mut self, look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
        let mut change = look.change();
        let mut found: Vec<(u64, Vec<u64>, bool)> = Vec::new();
        let mut unseen = Vec::new();
        let mut steps = Vec::new();
        for _ in 0..random.between(1, 4) {
            let key = random.below(profile.lists);
            let is_found = found.iter().any(|(known, ..)| *known == key);
            if unseen.contains(&key) || (!is_found && random.one_in(3)) {
                let element = self.new_value();
                change = change.with(mutation(MutationKind::AppendIfFits, &list(key), encoded(element)));
                unseen.push(key);
                steps.push(ListStep::Append { key, element });
                continue;
            }
            let place = found.iter().position(|(known, ..)| *known == key).unwrap_or_else(|| {
                change.reads.push(list(key));
                found.push((key, list_of(look.get(&list(key)).as_ref()), false));
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
            change = change.with(mutation(MutationKind::Set, &list(key), encoded_list(&items)));
        }
        let change = (!change.mutations.is_empty()).then_some(change);
        Seen { change, sights: vec![Observation::Lists(steps)] }
    }

    /// Reads all lists, clears them as one range and rebuilds them, one of them with one more
    /// element.
    fn rebuild_lists(&mut self, look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
        let mut change = look.change();
        let range = range_of(&all_with(LISTS, ""));
        change.ranges.push(range.clone());
        change = change.with(cleared(range));
        let (longer, element) = (random.below(profile.lists), self.new_value());
        let mut steps = Vec::new();
        for key in 0..profile.lists {
            let mut items = list_of(look.get(&list(key)).as_ref());
            steps.push(ListStep::Read { key, list: items.clone() });
            if key == longer {
                items.push(element);
                steps.push(ListStep::Append { key, element });
            }
            let (first, rest) = items.split_at(items.len() / 2);
            for part in [first, rest].into_iter().filter(|part| !part.is_empty()) {
                change = change.with(mutation(MutationKind::AppendIfFits, &list(key), encoded_list(part)));
            }
        }
        Seen::of(change, [Observation::Lists(steps)])
    }

    /// The range of all claims is read; a claim is made only where it is empty.
    fn claim(&mut self, look: StateView<'_>, random: &mut Random) -> Seen {
        let mut change = look.change();
        let all = all_with(CLAIMS, "");
        change.ranges.push(range_of(&all));
        let rows = look.all(CLAIMS).rows;
        let change = match rows.first() {
            None => change.write(claim(random.below(8)), self.new_value()),
            Some(_) if random.one_in(2) => change.with(cleared(range_of(&all))),
            Some(row) => change.with(mutation(MutationKind::Delete, &KeyRef::new(row.key.clone()), "")),
        };
        Seen::of(change, [Observation::Claims(rows.len())])
    }
}

/// Nothing of it was read, so that nothing can conflict.
fn give(mut change: Change, random: &mut Random, profile: &WorkloadProfile) -> Change {
    if random.one_in(8) {
        change = change.with(cleared(range_of(&all_with(LEDGER, ""))));
    }
    let (from, to) = two(random, profile);
    let amount = random.between(1, 1_000) as i64;
    for (key, amount) in [(from, -amount), (to, amount)] {
        change = change.with(mutation(MutationKind::Add, &ledger(key), amount.to_le_bytes().to_vec()));
    }
    change
}

fn transfer(look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Seen {
    let mut change = look.change();
    let (from, to) = two(random, profile);
    let amount = random.between(1, 60) as i64;
    if random.one_in(3) {
        return Seen::of(
            transfer_in_ledger(look, change, (from, to), amount),
            [Observation::Ledger(look.amounts(profile))],
        );
    }
    let balance = |key| balance_of(look.get(&account(key)).as_ref());
    let (rich, poor) = (balance(from), balance(to));
    if rich < amount {
        return Seen::default();
    }
    if random.one_in(3) {
        change.ranges.push(range_of(&all_with(ACCOUNTS, BANK)));
    } else {
        change.reads.extend([account(from), account(to)]);
    }
    let change = change.write(account(from), (rich - amount) as u64).write(account(to), (poor + amount) as u64);
    Seen::of(change, [])
}

/// Concurrent additions must conflict.
fn transfer_in_ledger(look: StateView<'_>, mut change: Change, (from, to): (u64, u64), amount: i64) -> Change {
    for (key, amount) in [(from, -amount), (to, amount)] {
        change.reads.push(ledger(key));
        let after = amount_of(look.get(&ledger(key)).as_ref()).wrapping_add(amount);
        change = change.with(mutation(MutationKind::Set, &ledger(key), after.to_le_bytes().to_vec()));
    }
    change
}

/// All balances in pages of a few rows, forwards or backwards.
fn audit(look: StateView<'_>, random: &mut Random, profile: &WorkloadProfile) -> Balances {
    let mut query = all_with(ACCOUNTS, BANK);
    query.reverse = random.one_in(2);
    query.limit = Some(random.between(1, 3));
    let mut found: Balances = (0..profile.accounts).map(|key| (key, rows::INITIAL_BALANCE)).collect();
    loop {
        let page = look.database.range(&query, look.version).expect("it can be read");
        for row in &page.rows {
            found.insert(rows::key_number(&row.key), balance_of(Some(&row.value)));
        }
        let Some(last) = page.rows.last().filter(|_| page.has_more) else { return found };
        if query.reverse {
            query.end = last.key.clone();
        } else {
            query.begin = [&last.key[..], b"\0"].concat().into();
        }
    }
}

fn pop(look: StateView<'_>) -> Seen {
    let mut query = all_with(QUEUE, "");
    query.limit = Some(1);
    let page = look.database.range(&query, look.version).expect("it can be read");
    let Some(row) = page.rows.first() else { return Seen::default() };
    let (_, element) = rows::stamped(row);
    let key = KeyRef::new(row.key.clone());
    let mut change = look.change();
    change.reads.push(key.clone());
    Seen::of(change.with(mutation(MutationKind::Delete, &key, "")), [Observation::Queue(QueueKind::Pop { element })])
}

/// The consumed part of the queue is cleared as a range, and must not have changed.
fn take_many(look: StateView<'_>, random: &mut Random) -> Seen {
    let mut query = all_with(QUEUE, "");
    query.limit = Some(random.between(1, 10));
    let page = look.database.range(&query, look.version).expect("it can be read");
    let Some(last) = page.rows.last() else { return Seen::default() };
    let consumed = KeyRange { end: [&last.key[..], b"\0"].concat().into(), ..range_of(&query) };
    let mut change = look.change();
    change.ranges.push(consumed.clone());
    let pops = page.rows.iter().map(|row| Observation::Queue(QueueKind::Pop { element: rows::stamped(row).1 }));
    Seen::of(change.with(cleared(consumed)), pops)
}
