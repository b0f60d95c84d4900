//! Many clients at once, and replicas that lose, delay, duplicate and cut requests and replies at
//! random.
//!
//! Each seed determines the number of replicas, the client's settings, what the programs do, and
//! how often each kind of trouble happens. Some kinds never happen, so that runs differ in
//! character. The replicas share one small database, which is also the judge: it keeps every
//! version and every commit that took effect. A client draws its own random numbers for choosing
//! replicas and for pauses, so a seed repeats the troubles but not every detail of the run.

mod history;
mod programs;
mod trouble;

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use kv_client::{Client, Database, Options, ReadFrom, TransactionOptions};
use tokio::time::advance;

use crate::clock::{STEP, passing, settle, without_time_passing};
use crate::store::Store;
use history::History;
use programs::Program;
use trouble::{Draw, Troubles};

/// Environment variable that selects a single seed.
const SEED: &str = "CLIENT_SEED";
/// Environment variable with the number of seeds to run.
const SEEDS: &str = "CLIENT_SEEDS";
const USUAL_SEEDS: u64 = 60;
const TIMEOUT: Duration = Duration::from_millis(250);

#[test]
fn whatever_goes_wrong_every_result_is_true_and_comes_in_time() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = number(SEED).map_or(0..number(SEEDS).unwrap_or(USUAL_SEEDS), |seed| seed..seed + 1);
    for seed in seeds {
        let replay = Replay(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(run(seed));
        std::mem::forget(replay);
    }
}

/// Prints how to run a failed seed again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        eprintln!("again: {SEED}={} cargo test --release -p kv-client --test client storm", self.0);
    }
}

fn options(draw: &mut Draw) -> Options {
    let ms = Duration::from_millis;
    Options {
        connect_timeout: ms(40),
        request_timeout: TIMEOUT,
        hedge_after: ms(draw.below(20)),
        backoff_min: ms(1),
        backoff_max: ms(8),
        stall_timeout: ms(5 + draw.below(60)),
        connections_per_endpoint: 1 + draw.below(3) as usize,
        attempt_timeout: ms(5 + draw.below(60)),
        refresh_interval: ms(30),
        discovery: draw.below(2) == 0,
        read_from: if draw.below(2) == 0 { ReadFrom::AnyReplica } else { ReadFrom::Primary },
        range_page_bytes: 1 + draw.below(60) as u32,
        transaction: TransactionOptions { timeout: TIMEOUT, ..TransactionOptions::default() },
        ..Options::default()
    }
}

async fn run(seed: u64) {
    let mut draw = Draw::of(seed);
    let store = Store::default();
    let troubles = Troubles::drawn(&mut draw);
    let mut peers = Vec::new();
    for _ in 0..1 + draw.below(3) {
        let (troubles, mut own) = (troubles.clone(), draw.fork());
        peers.push(store.replica(move |call, store| troubles.disturb(call, store, &mut own)).await);
    }
    let addresses: Vec<String> = peers.iter().map(|peer| peer.address()).collect();
    let history = History::default();
    // Two sets of clients that share nothing, as in two processes.
    let mut programs = Vec::new();
    for _ in 0..2 {
        let options = options(&mut draw);
        let db = passing(Database::connect(addresses.clone(), options.clone())).await.expect("they are there");
        let client = passing(Client::connect(addresses.clone(), options)).await.expect("they are there");
        for _ in 0..2 + draw.below(14) {
            let (db, client) = (db.clone(), client.clone());
            programs.push(Program::new(db, client, store.clone(), history.clone(), draw.fork()));
        }
    }
    troubles.begin();
    let mut running: FuturesUnordered<_> = programs.iter().map(Program::run).collect();
    let mut all = Box::pin(async { while running.next().await.is_some() {} });
    while without_time_passing(all.as_mut()).await.is_none() {
        history.check_deadlines();
        troubles.open_some_gates(&mut draw);
        advance(STEP).await;
    }
    drop(all);
    drop(running);
    troubles.end();
    for program in &programs {
        passing(program.check_recovery()).await;
    }
    // Requests that are still in flight arrive after their results have been forgotten.
    store.expire_everything();
    troubles.open_all_gates();
    settle().await;
    history.check(&store);
}
