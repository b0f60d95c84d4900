//! Registers: keys that are written, read, and compared and set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kv_client::{AtomicCommit, Bytes, Client, ClientError, KeyRef, Mutation};

use super::{Actor, Begun, numbered, range, text};
use crate::chaos::records::Recorder;
use crate::history::{Outcome, RegisterKind};

const PREFIX: &str = "register/";
/// Keys in use at a time, and operations on each before the next ones take their place.
const KEYS: u64 = 8;
const OPERATIONS: u64 = 300;

fn key_ref(key: u64) -> KeyRef {
    KeyRef::new(format!("{PREFIX}{key}"))
}

/// 0 for an absent key: clients never write it.
fn number(value: Option<&Bytes>) -> u64 {
    value.map_or(0, |value| text(value).parse().expect("clients write numbers"))
}

pub async fn run(mut actor: Actor) {
    while !actor.is_stopped() {
        let done = actor.shared.register_operations.fetch_add(1, Ordering::Relaxed);
        let key = done / (KEYS * OPERATIONS) * KEYS + actor.random.between(0, KEYS);
        match actor.random.between(0, 10) {
            0..4 => write(&mut actor, key).await,
            4..6 => compare_and_set(&mut actor, key).await,
            _ => read(&mut actor, key).await,
        }
        actor.think().await;
    }
}

async fn read(actor: &mut Actor, key: u64) {
    let begun = actor.begin();
    let result = actor.client.get(key_ref(key)).await;
    if actor.end("register read", &result) == Outcome::Ok {
        let value = number(result.ok().flatten().as_ref());
        let recorder = &actor.shared.recorder;
        recorder.register(begun.operation(recorder, RegisterKind::Read { key, value }, Outcome::Ok));
    }
}

async fn write(actor: &mut Actor, key: u64) {
    let (begun, value) = (actor.begin(), actor.new_value());
    let result = actor.client.set(key_ref(key), value.to_string()).await;
    let outcome = actor.end("register write", &result);
    let recorder = &actor.shared.recorder;
    if outcome == Outcome::Ok {
        recorder.acknowledged();
    }
    recorder.register(begun.operation(recorder, RegisterKind::Write { key, value }, outcome));
}

async fn compare_and_set(actor: &mut Actor, key: u64) {
    let (begun, new) = (actor.begin(), actor.new_value());
    let mut expected = None;
    let result = async {
        let version = actor.read_version().await?;
        let found = actor.client.snapshot_get(key_ref(key), version).await?;
        expected = Some(number(found.as_ref()));
        let name = key_ref(key);
        let commit = AtomicCommit {
            read_version: version.0,
            read_conflicts: vec![name.clone()],
            ..AtomicCommit::of(vec![Mutation::set(name.key, new.to_string())])
        };
        actor.commit(commit).await
    };
    let result = result.await;
    let outcome = actor.end("register compare and set", &result);
    // Without the value found, nothing was sent that could have changed anything.
    if let Some(expected) = expected {
        let recorder = &actor.shared.recorder;
        let kind = RegisterKind::CompareAndSet { key, expected, new };
        recorder.register(begun.operation(recorder, kind, outcome));
    }
}

/// Reads all registers at once, as one read of each.
pub async fn read_all(client: &Client, recorder: &Arc<Recorder>) -> Result<(), ClientError> {
    let called_us = recorder.now_us();
    let rows = client.get_range(range(PREFIX)).await?;
    let found: BTreeMap<u64, String> = numbered(&rows, PREFIX).into_iter().collect();
    for key in recorder.register_keys() {
        let value = found.get(&key).map_or(0, |value| value.parse().expect("clients write numbers"));
        let begun = Begun { client: recorder.new_client(), called_us };
        recorder.register(begun.operation(recorder, RegisterKind::Read { key, value }, Outcome::Ok));
    }
    Ok(())
}
