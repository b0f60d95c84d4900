//! Transactions over lists: reads and appends of several keys at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kv_client::{AtomicCommit, Bytes, Client, ClientError, KeyRef, Mutation, Version};

use super::{Actor, Begun, numbered, range, text};
use crate::chaos::records::Recorder;
use crate::history::{ListStep, ListTransaction, Outcome};

const PREFIX: &str = "list/";
/// Keys in use at a time, and transactions before the next ones take their place: a list has some
/// dozens of elements.
const KEYS: u64 = 6;
const TRANSACTIONS: u64 = 200;
const MAX_STEPS: u64 = 4;

type Lists = BTreeMap<u64, Vec<u64>>;

/// The plan of a transaction.
#[derive(Clone, Copy)]
enum Plan {
    Append { key: u64, element: u64 },
    Read { key: u64 },
}

impl Plan {
    fn key(self) -> u64 {
        match self {
            Plan::Append { key, .. } | Plan::Read { key } => key,
        }
    }
}

fn key_ref(key: u64) -> KeyRef {
    KeyRef::new(format!("{PREFIX}{key}"))
}

fn parse(value: &str) -> Vec<u64> {
    value.split_whitespace().map(|element| element.parse().expect("clients write numbers")).collect()
}

fn list(value: Option<Bytes>) -> Vec<u64> {
    value.map_or(Vec::new(), |value| parse(text(&value)))
}

pub async fn run(mut actor: Actor) {
    while !actor.is_stopped() {
        let done = actor.shared.list_operations.fetch_add(1, Ordering::Relaxed);
        let first_key = done / TRANSACTIONS * KEYS;
        let writes = actor.random.chance(60);
        let plan: Vec<Plan> = (0..actor.random.between(1, MAX_STEPS + 1))
            .map(|_| {
                let key = first_key + actor.random.between(0, KEYS);
                match writes && actor.random.chance(60) {
                    true => Plan::Append { key, element: actor.new_value() },
                    false => Plan::Read { key },
                }
            })
            .collect();
        transaction(&mut actor, &plan).await;
        actor.think().await;
    }
}

async fn transaction(actor: &mut Actor, plan: &[Plan]) {
    let begun = actor.begin();
    let mut steps = None;
    let result = async {
        let version = actor.read_version().await?;
        let mut lists = read_lists(&actor.client, plan, version).await?;
        let before = lists.clone();
        steps = Some(execute(plan, &mut lists));
        let changed: BTreeMap<&u64, &Vec<u64>> = lists.iter().filter(|(key, list)| before[key] != **list).collect();
        if changed.is_empty() {
            return Ok(None);
        }
        let value = |list: &[u64]| list.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        let mutations = changed.iter().map(|(key, list)| Mutation::set(key_ref(**key).key, value(list)));
        let commit = AtomicCommit {
            read_version: version.0,
            read_conflicts: before.keys().map(|key| key_ref(*key)).collect(),
            ..AtomicCommit::of(mutations.collect())
        };
        actor.commit(commit).await.map(|committed| Some(committed.version.0))
    };
    let result = result.await;
    let appends = plan.iter().any(|plan| matches!(plan, Plan::Append { .. }));
    let outcome = actor.end(if appends { "list transaction" } else { "list reading" }, &result);
    if let Some(steps) = steps {
        let recorder = &actor.shared.recorder;
        let kind = ListTransaction { steps, version: result.ok().flatten() };
        recorder.list(begun.operation(recorder, kind, outcome));
    }
}

/// Every list that the plan touches, as of `version`.
async fn read_lists(client: &Client, plan: &[Plan], version: Version) -> Result<Lists, ClientError> {
    let keys: BTreeSet<u64> = plan.iter().map(|plan| plan.key()).collect();
    let mut lists = Lists::new();
    for key in keys {
        lists.insert(key, list(client.snapshot_get(key_ref(key), version).await?));
    }
    Ok(lists)
}

fn execute(plan: &[Plan], lists: &mut Lists) -> Vec<ListStep> {
    let steps = plan.iter().map(|plan| match *plan {
        Plan::Append { key, element } => {
            lists.entry(key).or_default().push(element);
            ListStep::Append { key, element }
        }
        Plan::Read { key } => ListStep::Read { key, list: lists[&key].clone() },
    });
    steps.collect()
}

/// Reads all lists in one transaction.
pub async fn read_all(client: &Client, recorder: &Arc<Recorder>) -> Result<(), ClientError> {
    let begun = Begun { client: recorder.new_client(), called_us: recorder.now_us() };
    let rows = client.get_range(range(PREFIX)).await?;
    let mut found: Lists = numbered(&rows, PREFIX).into_iter().map(|(key, value)| (key, parse(&value))).collect();
    let step = |key| ListStep::Read { key, list: found.remove(&key).unwrap_or_default() };
    let steps = recorder.list_keys().into_iter().map(step).collect();
    recorder.list(begun.operation(recorder, ListTransaction { steps, version: None }, Outcome::Ok));
    Ok(())
}
