//! A bank: transfers between accounts, and readings of all balances at once.

use std::sync::Arc;

use kv_client::{AtomicCommit, Client, ClientError, KeyRef, Mutation, Rows};

use super::{Actor, Begun, numbered, range, text};
use crate::chaos::records::Recorder;
use crate::checkers::bank::{Balances, Rules};
use crate::history::Outcome;

const PREFIX: &str = "account/";
const ACCOUNTS: u64 = 12;
const OPENING_BALANCE: i64 = 100;

pub const RULES: Rules = Rules { accounts: ACCOUNTS, total: ACCOUNTS as i64 * OPENING_BALANCE, may_overdraw: false };

fn key_ref(account: u64) -> KeyRef {
    KeyRef::new(format!("{PREFIX}{account}"))
}

fn balances(rows: &Rows) -> Balances {
    let number = |text: String| text.parse().expect("clients write numbers");
    numbered(rows, PREFIX).into_iter().map(|(account, balance)| (account, number(balance))).collect()
}

pub(super) async fn open_accounts(actor: &mut Actor) -> Result<(), String> {
    let accounts = (0..ACCOUNTS).map(|account| Mutation::set(key_ref(account).key, OPENING_BALANCE.to_string()));
    let opened = actor.commit(AtomicCommit::of(accounts.collect())).await;
    opened.map(|_| ()).map_err(|error| format!("the accounts cannot be opened: {error}"))
}

pub(super) async fn transfer(mut actor: Actor) {
    while !actor.is_stopped() {
        let from = actor.random.between(0, ACCOUNTS);
        let to = (from + actor.random.between(1, ACCOUNTS)) % ACCOUNTS;
        let amount = actor.random.between(1, 30) as i64;
        let result = move_money(&actor, from, to, amount).await;
        actor.end("transfer", &result);
        actor.think().await;
    }
}

/// False: the account does not hold so much.
async fn move_money(actor: &Actor, from: u64, to: u64, amount: i64) -> Result<bool, ClientError> {
    let version = actor.read_version().await?;
    let mut found = [0; 2];
    for (balance, account) in found.iter_mut().zip([from, to]) {
        let value = actor.client.snapshot_get(key_ref(account), version).await?;
        *balance = value.map_or(0, |value| text(&value).parse().expect("clients write numbers"));
    }
    let [of_giver, of_taker] = found;
    if of_giver < amount {
        return Ok(false);
    }
    let set = |account: u64, balance: i64| Mutation::set(key_ref(account).key, balance.to_string());
    let commit = AtomicCommit {
        read_version: version.0,
        read_conflicts: vec![key_ref(from), key_ref(to)],
        ..AtomicCommit::of(vec![set(from, of_giver - amount), set(to, of_taker + amount)])
    };
    actor.commit(commit).await.map(|_| true)
}

/// Reads all balances, now as they are and now as of a version.
pub(super) async fn read(mut actor: Actor) {
    while !actor.is_stopped() {
        let begun = actor.begin();
        let result = match actor.random.chance(50) {
            true => actor.client.get_range(range(PREFIX)).await,
            false => match actor.read_version().await {
                Ok(version) => actor.client.snapshot_get_range(range(PREFIX), version).await,
                Err(error) => Err(error),
            },
        };
        actor.end("reading of all balances", &result);
        if let Ok(rows) = result {
            let recorder = &actor.shared.recorder;
            recorder.reading(begun.operation(recorder, balances(&rows), Outcome::Ok));
        }
        actor.think().await;
    }
}

pub async fn read_all(client: &Client, recorder: &Arc<Recorder>) -> Result<(), ClientError> {
    let begun = Begun { client: recorder.new_client(), called_us: recorder.now_us() };
    let rows = client.get_range(range(PREFIX)).await?;
    recorder.reading(begun.operation(recorder, balances(&rows), Outcome::Ok));
    Ok(())
}
